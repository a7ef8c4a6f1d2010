"""A graph as OpenVINO will compute it in a bundle."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from ...engine.backends.openvino import floating_point
from ...engine.batching.batch import Batch
from ...engine.hardware.cpus import usable_cpus
from ...engine.precision import Precision
from ...engine.process.telemetry import telemetry_off
from ..graph.writer import save

with telemetry_off():
    import openvino


def logits_by_openvino(model: onnx.ModelProto, batches: Sequence[Batch]) -> npt.NDArray[np.float32]:
    """Return an INT8 graph's logits of all batches, one after the other, float32 [pairs, labels]."""
    core = openvino.Core()
    with tempfile.TemporaryDirectory() as directory:  # from a file, since a model above 2 GB does not fit into a string
        path = Path(directory) / "model.onnx"
        save(model, path)
        properties = {
            "INFERENCE_PRECISION_HINT": floating_point(core, Precision.INT8),
            "INFERENCE_NUM_THREADS": usable_cpus(),
        }
        compiled = core.compile_model(core.read_model(path), "CPU", properties)
        request = compiled.create_infer_request()
        names = [field.any_name for field in compiled.inputs]
        return np.concatenate(
            [
                np.array(request.infer({name: getattr(batch, name) for name in names})["logits"], dtype=np.float32)
                for batch in batches
            ]
        )
