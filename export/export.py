"""`export_bundle`: a checkpoint becomes a bundle, and nothing that fails parity is published."""

from collections.abc import Sequence
from pathlib import Path

from ..engine.bundle import TOKENIZER, Bundle, BundleModel, Manifest
from ..engine.cross_encoder import CrossEncoder
from ..engine.encoding import without_truncation_and_padding
from ..engine.errors import OptionError, ParityError
from ..engine.publish import check_target, published_directory
from .checkpoint import Checkpoint
from .manifest import tool_versions, write_manifest
from .onnx import OPSET, onnx_from_checkpoint
from .pairs import builtin_pairs
from .parity import ParityReport, parity
from .reference import tokenizer_of

EXPORTERS = ("crossrt", "optimum")


def export_bundle(
    checkpoint: Checkpoint,
    out: Path,
    *,
    source_id: str | None = None,
    revision: str | None = None,
    activation: str | None = None,
    exporter: str = "crossrt",
    pairs: Sequence[tuple[str, str]] | None = None,
    force: bool = False,
    progress: bool = False,
) -> tuple[Bundle, ParityReport]:
    """Export a checkpoint to FP32 ONNX, check it against PyTorch, and publish it as a bundle at `out`.

    `activation` names the one that the caller chose over the checkpoint's own. `pairs` are checked besides the built-in
    ones. An existing bundle is kept unless `force`, and then replaced in one step. Raises ParityError, with the report,
    when the scores differ; `out` is then as it was.
    """
    if exporter not in EXPORTERS:
        raise OptionError(f"unknown exporter {exporter!r}; one of {', '.join(EXPORTERS)}")
    check_target(out, force=force)
    with published_directory(out, force=force) as partial:
        model_file = partial / "model.fp32.onnx"
        if exporter == "optimum":
            from .optimum import onnx_by_optimum

            onnx_by_optimum(checkpoint, model_file)
        else:
            onnx_from_checkpoint(checkpoint, model_file)
        tokenizer = tokenizer_of(checkpoint)
        (partial / TOKENIZER).write_text(
            without_truncation_and_padding(tokenizer.backend_tokenizer.to_str()), encoding="utf-8"
        )
        manifest = _manifest(checkpoint, source_id or checkpoint.path.name, revision, activation, exporter)
        write_manifest(partial, manifest)
        with CrossEncoder(partial) as model:
            report = parity(model, checkpoint, [*builtin_pairs(model.max_length), *(pairs or ())], progress=progress)
        if not report:
            raise ParityError(f"{out} was not published: {'; '.join(report.failures)}", report)
        (partial / "parity.fp32.json").write_text(report.to_json(), encoding="utf-8")
        write_manifest(partial, manifest, {"fp32": BundleModel(file=model_file.name, parity=report.summary())})
    return Bundle.open(out), report


def _manifest(
    checkpoint: Checkpoint,
    source_id: str,
    revision: str | None,
    activation: str | None,
    exporter: str,
) -> Manifest:
    dimensions = checkpoint.dimensions
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if checkpoint.token_types else [])]
    return Manifest(
        source={
            "id": source_id,
            "revision": revision,
            "exporter": exporter,
            "opset": OPSET,
            "chosen_activation": activation,
            "unused_tensors": list(checkpoint.leftover),
        },
        architecture={
            "model_type": checkpoint.config.get("model_type") or checkpoint.layout.model_type,
            "head": checkpoint.head.value,
            "layers": dimensions.layers,
            "hidden_size": dimensions.hidden,
            "attention_heads": dimensions.heads,
            "intermediate_size": dimensions.intermediate,
            "vocab_size": dimensions.vocab,
        },
        labels=checkpoint.labels,
        relevant_label=checkpoint.relevant_label,
        activation=checkpoint.activation,
        max_length=checkpoint.max_length,
        max_positions=dimensions.positions,
        pad_token_id=checkpoint.pad_token_id,
        inputs=dict.fromkeys(inputs, "int64"),
        models={"fp32": BundleModel(file="model.fp32.onnx")},
        tools=tool_versions(),
    )
