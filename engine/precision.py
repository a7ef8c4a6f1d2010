"""Precision: how a model computes, never how it is hoped to."""

from enum import Enum

from .errors import OptionError


class Precision(str, Enum):
    """The precisions a bundle can hold a model in. BF16 is the FP32 file computed otherwise, or
    weights for the backend `native`."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    INT8 = "int8"

    @classmethod
    def parse(cls, name: "str | Precision") -> "Precision":
        """Return the precision of that name. Raises OptionError, listing the names, for another."""
        try:
            return cls(name)
        except ValueError:
            raise OptionError(
                f"unknown precision {name!r}; one of {', '.join(p.value for p in cls)}, or auto"
            ) from None
