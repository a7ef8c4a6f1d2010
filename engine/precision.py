"""`Precision`: the number formats that a model can compute in."""

from enum import Enum

from .errors import OptionError


class Precision(str, Enum):
    """A precision of a bundle. Each has an ONNX file, except BF16, which uses the FP32 file or native weights."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    INT8 = "int8"

    @classmethod
    def parse(cls, name: "str | Precision") -> "Precision":
        """Return the precision with this name. Raises OptionError, listing the names, for an unknown one."""
        try:
            return cls(name)
        except ValueError:
            raise OptionError(
                f"unknown precision {name!r}; one of {', '.join(p.value for p in cls)}, or auto"
            ) from None
