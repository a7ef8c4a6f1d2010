"""The ONNX graph as Hugging Face's Optimum exports it (`--exporter optimum`, extra `optimum`)."""

import shutil
import tempfile
import warnings
from pathlib import Path

from ...engine.errors import BackendError, CheckpointError
from ...engine.process.telemetry import telemetry_off
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.heads import Head


def onnx_by_optimum(checkpoint: Checkpoint, path: Path) -> None:
    """Write the FP32 ONNX model of a checkpoint with `optimum.exporters.onnx`.

    Raises BackendError when optimum-onnx is not installed. Raises CheckpointError for heads that Optimum would load as another
    model, whose scores look plausible but are wrong, and when the export fails.
    """
    if checkpoint.dense_modules:
        raise CheckpointError("Optimum would leave out the head, which lies in Dense modules; leave out --exporter")
    if checkpoint.head in (Head.ELECTRA_PLAIN, Head.BERT_CAT):
        raise CheckpointError(
            f"Optimum has no class for the {checkpoint.head.value} head and would export another model; leave out --exporter"
        )
    try:
        with telemetry_off():
            from optimum.exporters.onnx import main_export
    except ImportError as error:
        raise BackendError(
            "Optimum's exporter is not installed; it pins an old transformers, so give it an environment of its own "
            f'(scripts/optimum_env DIR): pip install "crossrt[optimum]" ({error})'
        ) from error
    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from torch's ONNX exporter and from tracing
        try:
            main_export(
                str(checkpoint.path),
                output=Path(directory),
                task="text-classification",
                library_name="transformers",
                do_validation=False,
                local_files_only=True,
            )
        except Exception as error:
            raise CheckpointError(
                f"Optimum could not export {checkpoint.path}: {type(error).__name__}: {error}"
            ) from error
        path.parent.mkdir(exist_ok=True)
        # Weights that protobuf cannot hold are in a file beside the model, under the name that the model has for them.
        for file in (path.name, f"{path.name}_data"):
            if (Path(directory) / file).is_file():
                shutil.move(Path(directory) / file, path.parent / file)
