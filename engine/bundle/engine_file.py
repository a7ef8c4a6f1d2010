"""`EngineFile`: what a manifest says of a TensorRT engine."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import OptionError
from .profiles import Profile

LIBRARIES = ("tensorrt", "tensorrt_rtx")
"""Both are the backend `tensorrt`; the first that is installed builds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFile:
    """An engine and all that it is bound to: the `library` (`tensorrt` or `tensorrt_rtx`) with its version, and the GPU.

    `onnx_sha256` is of the model file it was built from, `build_seconds` and `attention`, how much of it is computed in fused
    kernels, are for people. Of `options`, `hardware_compatible` and `version_compatible` loosen what it is bound to.
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
        if self.library not in LIBRARIES:  # a name that is looked for as a module, and imported
            raise OptionError(f"the engine {self.file} is of {self.library!r}, which is none of {', '.join(LIBRARIES)}")

    def mismatch(self, *, library: str, version: str, gpu: str, capability: str) -> str:
        """Return why it cannot run there, naming both sides, or nothing when it can."""
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
    """Return a dotted version as far as it is numbers: (10, 13, 0)."""
    parts = itertools.takewhile(lambda part: part.isdecimal() and len(part) < 10, version.split("."))
    return tuple(int(part) for part in parts)
