"""`Setup`: how a bundle is run: by which backend, in which precision, on which devices."""

from dataclasses import dataclass

from ..backends.base import Session
from ..backends.registry import backend_version
from ..bundle.bundle import Bundle
from ..hardware.cpus import usable_cpus
from ..precision import Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """How a bundle is run: by which backend, in which precision, on how many processors.

    `threads` compute in all, in `streams` batches side by side of at most `batch_size` rows. `reason` says in words why
    this backend.
    """

    backend: str
    precision: Precision
    threads: int
    streams: int
    batch_size: int
    reason: str
    devices: tuple[str, ...] = ("cpu",)
    engine: str | None = None
    """The file of the TensorRT engine that was asked for."""
    trust_engines: bool = False
    """Whether engines that came with the bundle may be loaded."""

    @property
    def native(self) -> bool:
        """Whether crossrt's own kernels run it: without padding, with nothing to prepare for a shape."""
        return self.backend == "native"

    @property
    def device(self) -> str:
        """Where it runs: `cpu`, `cuda:0`, or several, with commas."""
        return ", ".join(self.devices)

    def open(self, bundle: Bundle, *, threads: int, streams: int) -> Session:
        """Open a session that computes `streams` batches at once, each by `threads`."""
        if self.backend == "openvino":
            from ..backends.openvino import OpenVinoSession

            return OpenVinoSession(bundle, precision=self.precision, threads=threads, streams=streams)
        if self.native:
            from ..backends.native_cpu import NativeSession

            return NativeSession(bundle, precision=self.precision, streams=streams, threads=threads)
        from ..backends.onnxruntime_cpu import OnnxRuntimeSession

        return OnnxRuntimeSession(bundle, precision=self.precision, threads=threads)

    def __str__(self) -> str:
        version = backend_version(self.backend)
        if self.devices != ("cpu",):
            return f"{self.precision.value} on {self.backend} {version} ({self.reason}), {self.device}"
        return (
            f"{self.precision.value} on {self.backend} {version} ({self.reason}), {self.device}, {self.threads} of "
            f"{usable_cpus()} usable processors, {self.streams} {'stream' if self.streams == 1 else 'streams'}"
        )
