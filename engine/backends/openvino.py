"""OpenVINO sessions on a CPU."""

import io
import logging
import os
import queue
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..batching.batch import Batch
from ..bundle.bundle import Bundle
from ..bundle.compiled import CompiledModels
from ..closable import CLOSED
from ..errors import BackendError, BundleError
from ..files.cache import cache_folder
from ..files.publish import link_or_copy
from ..hardware.cpus import processor
from ..precision import Precision
from ..process.openvino_bindings import PROCESS, openvino
from .base import PaddedSession, check_length

logger = logging.getLogger("crossrt")

KERNELS = 1500
"""Compiled kernels of one kind that OpenVINO caches per stream. The cache holds the kernels for all shapes that `plan_batches`
makes, so memory stops growing once each shape was computed. A smaller cache evicts kernels and compiles them again, which costs
time and memory: see docs/decisions/0009."""

LINKED = "linked"
"""The folder for hard links to models that are being opened, in the user's cache."""


class OpenVinoSession(PaddedSession):
    """The bundle's ONNX file on OpenVINO's CPU plugin. Up to `streams` threads compute at once; further threads wait."""

    backend = "openvino"
    device = "cpu"

    def __init__(self, bundle: Bundle, *, precision: Precision, threads: int, streams: int) -> None:
        """Compile the model, or load it from the cache of compiled models.

        Raises BundleError for a file that OpenVINO cannot open. Raises BackendError for a precision that the processor does not
        support, and in a process that was forked after OpenVINO was loaded.
        """
        if os.getpid() != PROCESS:
            raise BackendError(
                "OpenVINO was loaded before this process forked, and cannot be used in a fork: its threads did not come "
                "along, and a lock that one of them held would stay locked. Open the model first in the process that scores "
                "(with gunicorn: without --preload), start processes by spawn, or use another backend; see docs/processes.md"
            )
        self.precision = precision
        self.threads = threads
        self._bundle = bundle
        core = openvino.Core()
        path = bundle.model_file(Precision.FP32 if precision is Precision.BF16 else precision)
        properties = {
            "INFERENCE_PRECISION_HINT": floating_point(core, precision),
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": threads * streams,
            # With pinning, two models of one process would share the first processors and leave the others idle.
            "ENABLE_CPU_PINNING": False,
            "CPU_RUNTIME_CACHE_CAPACITY": KERNELS,
        }
        compiled, memory = _compiled(core, bundle, path, properties)
        self._inputs = tuple(field.any_name for field in compiled.inputs)
        unknown = set(self._inputs) - {"input_ids", "attention_mask", "token_type_ids"}
        if unknown:
            raise BundleError(f"{path} wants the inputs {sorted(unknown)}, which a cross-encoder does not have")
        self._requests: queue.SimpleQueue[openvino.InferRequest | None] = queue.SimpleQueue()
        """Idle inference requests. Once the session is closed, the queue holds a single None."""
        for _ in range(streams):
            self._requests.put(compiled.create_infer_request())
        self._streams = streams
        self._closing = threading.Lock()
        self._memory = memory  # the last attribute: Python then frees it after the requests, which read from it

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """See `Session.run`."""
        self.check_open()
        check_length(batch, self._bundle, self.precision)
        request = self._requests.get()
        try:
            if request is None:
                raise BackendError(CLOSED)
            # Inputs are shared: the batch's arrays outlive the call. The output is copied: the next batch overwrites it.
            outputs = request.infer({name: getattr(batch, name) for name in self._inputs}, share_inputs=True)
            return np.array(outputs["logits"], dtype=np.float32)
        except (RuntimeError, KeyError) as error:
            raise BackendError(f"OpenVINO cannot compute this batch with {self._bundle.path} ({error})") from error
        finally:
            self._requests.put(request)

    def close(self) -> None:
        """See `Session.close`. It waits for the batches that are being computed."""
        with self._closing:
            if not self._closed:
                self._closed = True
                for _ in range(self._streams):
                    self._requests.get()
                self._requests.put(None)


def computes_bf16() -> bool:
    """Tell whether OpenVINO computes in BF16 on this processor."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def floating_point(core: openvino.Core, precision: Precision) -> str:
    """Return the type of all computation outside 8-bit products, in OpenVINO's spelling: `f32` or `bf16`.

    It is always set, because OpenVINO otherwise chooses BF16 on every processor that has it. On such a processor an INT8 model
    computes its other operators in BF16. They take more time than the 8-bit products, and BF16's error is smaller than the error
    of those products. Raises BackendError for BF16 on a processor without it.
    """
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision is Precision.BF16 and "BF16" not in capabilities:
        raise BackendError(
            "bf16 is not what this processor computes in (it has no AVX512-BF16 or AMX): "
            f"OpenVINO lists {', '.join(capabilities)}; use fp32 or int8"
        )
    return "bf16" if precision is not Precision.FP32 and "BF16" in capabilities else "f32"


def _compiled(
    core: openvino.Core, bundle: Bundle, path: Path, properties: dict[str, Any]
) -> tuple[openvino.CompiledModel, openvino.Tensor | None]:
    """Load the compiled model from the cache, or compile it and store it there. The properties are part of the cache's key.

    Also returns the memory that a cached model computes from. The caller must keep it as long as the model, because OpenVINO
    holds no reference. OpenVINO crashes on bytes that it did not write, so `CompiledModels.load` verifies their sha256 first.
    """
    cache = CompiledModels.of_user()
    key: dict[str, object] = {}
    cached = None
    if cache is not None:
        model = bundle.model_sha256(bundle.name_of(path))
        key = {"model": model, "openvino": openvino.get_version(), "processor": processor(), **properties}
        cached = cache.load(key)
    if cached is not None:
        try:
            memory = openvino.Tensor(np.frombuffer(cached, dtype=np.uint8), shared_memory=True)
            return core.import_model(memory, "CPU", properties), memory
        except RuntimeError as error:
            logger.warning("OpenVINO cannot open what it compiled of %s (%s), and compiles it again", path, error)
    try:
        with _without_links(bundle, path) as file:
            compiled = core.compile_model(core.read_model(file), "CPU", properties)
    except Exception as error:  # OpenVINO raises bare RuntimeError, for files and for properties
        raise BundleError(
            f"{path} cannot be opened by OpenVINO {openvino.__version__} ({error}); "
            "check the bundle with: crossrt info --verify"
        ) from error
    if cache is not None:
        bundle.check_same()  # otherwise another model could be kept under the key of this one
        content = io.BytesIO()
        compiled.export_model(content)
        cache.store(key, content.getbuffer())
    return compiled, None


@contextmanager
def _without_links(bundle: Bundle, path: Path) -> Iterator[Path]:
    """Yield an ONNX file whose weights OpenVINO reads: `path`, or a copy of it that exists until the block ends.

    OpenVINO refuses weights beside a model that are a symbolic link to another folder, as all files in the hub's cache are.
    """
    name = bundle.name_of(path)
    files = bundle.model_files(name)
    if not any((bundle.folder / each).is_symlink() for each in files):
        yield path
        return
    cache = cache_folder(LINKED)
    if cache is not None:  # in most homes on the same disk as the hub's cache, so that hard links need no space
        with suppress(OSError):
            cache.mkdir(parents=True, exist_ok=True)
    usable = cache is not None and os.access(cache, os.W_OK)
    with tempfile.TemporaryDirectory(dir=cache if usable else None, ignore_cleanup_errors=True) as folder:
        for each in files:
            (Path(folder) / each).parent.mkdir(exist_ok=True)
            link_or_copy(bundle.folder / each, Path(folder) / each)
        yield Path(folder) / name
