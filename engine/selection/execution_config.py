"""`CpuConfig` and `GpuConfig`: the backend, precision and device that a bundle is run with."""

from dataclasses import dataclass
from typing import TypeAlias

from ..backends.base import Session
from ..backends.registry import BACKENDS, backend_version
from ..bundle.bundle import Bundle
from ..errors import BackendError
from ..hardware.cpus import usable_cpus
from ..precision import Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuConfig:
    """How a bundle is run on a CPU: backend, precision and number of processors.

    `threads` is the total number of threads. They compute `streams` batches in parallel, each of at most `batch_size` rows.
    `reason` says why this backend was chosen.
    """

    backend: str
    precision: Precision
    reason: str
    threads: int
    streams: int
    batch_size: int

    @property
    def device(self) -> str:
        """The device's name, as `CrossEncoder` takes it."""
        return "cpu"

    @property
    def native(self) -> bool:
        """Whether the native kernels run the bundle. They compute no padding and need no preparation for a new shape."""
        return self.backend == "native"

    def open(self, bundle: Bundle, *, threads: int, streams: int) -> Session:
        """Open a session that computes `streams` batches at once, each with `threads` threads.

        Raises BackendError if the backend is unknown or cannot run here, and BundleError for files that it cannot use.
        """
        if self.backend == "openvino":
            from ..backends.openvino import OpenVinoSession

            return OpenVinoSession(bundle, precision=self.precision, threads=threads, streams=streams)
        if self.native:
            from ..backends.native_cpu import NativeSession

            return NativeSession(bundle, precision=self.precision, streams=streams, threads=threads)
        if self.backend == "onnxruntime":
            from ..backends.onnxruntime_cpu import OnnxRuntimeSession

            return OnnxRuntimeSession(bundle, precision=self.precision, threads=threads)
        raise BackendError(f"no backend {self.backend!r} scores on a CPU; use one of {', '.join(BACKENDS)}")

    def __str__(self) -> str:
        return (
            f"{self.precision.value} on {self.backend} {backend_version(self.backend)} ({self.reason}), {self.device}, "
            f"{self.threads} of {usable_cpus()} usable processors, {self.streams} "
            f"{'stream' if self.streams == 1 else 'streams'}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuConfig:
    """How a bundle is run on GPUs: backend, precision and the GPUs' `ordinals`.

    `reason` says why this backend was chosen. `engine` names the TensorRT engine of the bundle to use; None takes one that fits
    the GPU. `trust_engines` allows engines that came with the bundle, which are machine code.
    """

    backend: str
    precision: Precision
    reason: str
    ordinals: tuple[int, ...]
    engine: str | None = None
    trust_engines: bool = False

    @property
    def threads(self) -> int:
        """Number of CPU threads that hand batches to the GPUs."""
        return 1

    @property
    def device(self) -> str:
        """The devices' names, such as `cuda:0`, separated by commas."""
        return ", ".join(f"cuda:{ordinal}" for ordinal in self.ordinals)

    def __str__(self) -> str:
        return (
            f"{self.precision.value} on {self.backend} {backend_version(self.backend)} ({self.reason}), {self.device}"
        )


ExecutionConfig: TypeAlias = CpuConfig | GpuConfig
