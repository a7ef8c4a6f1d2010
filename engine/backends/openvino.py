"""OpenVINO sessions."""

import io
import logging
import os
import queue
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..batching.batch import Batch
from ..bundle.bundle import Bundle
from ..bundle.compiled import CompiledModels
from ..errors import BackendError, BundleError
from ..hardware.cpus import processor
from ..precision import Precision
from ..process.telemetry import telemetry_off
from .base import Padding, check_length

with telemetry_off():
    import openvino

logger = logging.getLogger("crossrt")

PROCESS = os.getpid()
"""The one that OpenVINO was loaded in. A fork of it cannot use OpenVINO: of 200 forks beside threads that opened models and
computed, one hung in TBB, OpenVINO's threading library, at a lock that a thread of the parent's had held."""

KERNELS = 1500
"""Compiled kernels of a kind that each stream keeps: all that the shapes of `plan` want, so that memory comes to rest once every
shape was met. Where kernels must go and come back, it does not, and speed is lost: see docs/decisions/0009."""


class OpenVinoSession(Padding):
    """The bundle's ONNX file on OpenVINO's CPU plugin. Up to `streams` threads compute at once; more of them wait."""

    backend = "openvino"
    device = "cpu"

    def __init__(self, bundle: Bundle, *, precision: Precision, threads: int, streams: int) -> None:
        """Compile the model, or open what was compiled of it before.

        Raises BundleError for a file that OpenVINO cannot open, and BackendError for a precision that the processor does not
        compute in, and in a process that was forked after OpenVINO was loaded.
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
            # Pinned, two models of one process would both sit on the first processors.
            "ENABLE_CPU_PINNING": False,
            "CPU_RUNTIME_CACHE_CAPACITY": KERNELS,
        }
        compiled, memory = _compiled(core, bundle, path, properties)
        self._inputs = tuple(field.any_name for field in compiled.inputs)
        unknown = set(self._inputs) - {"input_ids", "attention_mask", "token_type_ids"}
        if unknown:
            raise BundleError(f"{path} wants the inputs {sorted(unknown)}, which a cross-encoder does not have")
        self._requests: queue.SimpleQueue[openvino.InferRequest] = queue.SimpleQueue()
        for _ in range(streams):
            self._requests.put(compiled.create_infer_request())
        self._memory = memory  # last, so that it is freed after the requests
        self._closed = False

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """See `Session.run`."""
        if self._closed:
            raise BackendError("this session is closed; open the bundle again")
        check_length(batch, self._bundle, self.precision)
        request = self._requests.get()
        try:
            # The batch's arrays outlive the call, so they need no copy; the output does, the next batch overwrites it.
            outputs = request.infer({name: getattr(batch, name) for name in self._inputs}, share_inputs=True)
            return np.array(outputs["logits"], dtype=np.float32)
        except (RuntimeError, KeyError) as error:
            raise BackendError(f"OpenVINO cannot compute this batch with {self._bundle.path} ({error})") from error
        finally:
            self._requests.put(request)

    def close(self) -> None:
        """See `Session.close`."""
        self._closed = True
        self._requests = queue.SimpleQueue()


def floating_point(core: openvino.Core, precision: Precision) -> str:
    """Return what this processor computes in where a model is not in 8 bits, `f32` or `bf16`, as OpenVINO calls it.

    It is always set, because OpenVINO would choose BF16 by itself wherever the processor has it. INT8's rest is in BF16 there:
    it costs more time than the 8-bit products do, and errs by less. Raises BackendError for BF16 on a processor without.
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
    """Open what an earlier process has compiled of this file with these properties, or compile it and keep that.

    Returns the memory too that the model computes from, and must outlive it: OpenVINO holds no reference. Bytes that it
    did not write make it crash, so what was kept is checked before.
    """
    kept = CompiledModels.of_user()
    key: dict[str, object] = {}
    found = None
    if kept is not None:
        model = bundle.model_sha256(bundle.name_of(path))
        key = {"model": model, "openvino": openvino.get_version(), "processor": processor(), **properties}
        found = kept.load(key)
    if found is not None:
        try:
            memory = openvino.Tensor(np.frombuffer(found, dtype=np.uint8), shared_memory=True)
            return core.import_model(memory, "CPU", properties), memory
        except RuntimeError as error:
            logger.warning("OpenVINO cannot open what it compiled of %s (%s), and compiles it again", path, error)
    try:
        compiled = core.compile_model(core.read_model(path), "CPU", properties)
    except Exception as error:  # OpenVINO raises bare RuntimeError, for files and for properties
        raise BundleError(
            f"{path} cannot be opened by OpenVINO {openvino.__version__} ({error}); "
            "check the bundle with: crossrt info --verify"
        ) from error
    if kept is not None:
        content = io.BytesIO()
        compiled.export_model(content)
        kept.store(key, content.getbuffer())
    return compiled, None
