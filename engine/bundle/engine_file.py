"""`EngineFile`: the entry of a TensorRT engine in a manifest."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import OptionError
from .profiles import Profile

LIBRARIES = ("tensorrt", "tensorrt_rtx")
"""Modules of the backend `tensorrt`. The first one that is installed builds engines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFile:
    """An engine, and the library, version and GPU that it was built for and can run with.

    `library` is `tensorrt` or `tensorrt_rtx`. `onnx_sha256` is the hash of the model file it was built from. `options` are the
    build options. With `hardware_compatible` the engine also runs on other GPUs, and with `version_compatible` also with later
    TensorRT versions. `build_seconds` and `attention`, the share of attention in fused kernels, are information for people.
    """

    file: str
    precision: str
    library: str
    version: str
    gpu: str
    capability: str
    profiles: tuple[Profile, ...]
    onnx_sha256: str
    build_seconds: float
    options: Mapping[str, Any]
    attention: str = "unmeasured"

    def __post_init__(self) -> None:
        if self.library not in LIBRARIES:  # the name of a module that will be imported
            raise OptionError(f"the engine {self.file} is of {self.library!r}, which is none of {', '.join(LIBRARIES)}")

    def mismatch(self, *, library: str, version: str, gpu: str, capability: str) -> str:
        """Return why the engine cannot run with this library and GPU, or an empty string if it can."""
        same_gpu = (gpu, capability) == (self.gpu, self.capability)
        if self.options.get("hardware_compatible"):
            same_gpu = same_gpu or min(numbers(capability), numbers(self.capability)) >= (8,)
        same_version = version == self.version
        if self.options.get("version_compatible"):
            ours, theirs = numbers(self.version), numbers(version)
            same_version = same_version or (ours[:1] == theirs[:1] and ours <= theirs)
        if library == self.library and same_gpu and same_version:
            return ""
        return (
            f"{self.file} was built by {self.library} {self.version} for {self.gpu} (compute capability {self.capability}), "
            f"and this is {library} {version} on {gpu} ({capability})"
        )


def numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a dotted version, such as (10, 13, 0)."""
    parts = itertools.takewhile(lambda part: part.isdecimal() and len(part) < 10, version.split("."))
    return tuple(int(part) for part in parts)
