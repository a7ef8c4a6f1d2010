"""A bundle from an ONNX model that somebody else exported, without torch.

Reads what Optimum and sentence-transformers write (`model.onnx`, or `onnx/model.onnx`, beside config.json and a
tokenizer), and what hub repositories carry.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from ..engine.bundle import TOKENIZER, Bundle, BundleModel, Manifest
from ..engine.encoding import without_truncation_and_padding
from ..engine.errors import CheckpointError
from ..engine.labels import label_number, relevant_by_name
from ..engine.publish import check_target, published_directory
from ..engine.telemetry import telemetry_off
from .files import default_activation, label_names, read_json
from .manifest import tool_versions, write_manifest
from .settings import Settings

PLACES = ("model.onnx", "onnx/model.onnx")
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def existing_onnx(directory: Path) -> Path | None:
    """Return the directory's own FP32 ONNX file, or None."""
    return next((directory / place for place in PLACES if (directory / place).is_file()), None)


def bundle_from_onnx(
    directory: Path,
    out: Path,
    *,
    source_id: str | None = None,
    revision: str | None = None,
    activation: str | None = None,
    relevant_label: int | str | None = None,
    force: bool = False,
) -> Bundle:
    """Turn a directory with an exported ONNX model into a bundle at `out`, unchecked: its parity is None.

    Raises CheckpointError when there is no ONNX model, when its inputs or output are not a cross-encoder's, or when
    there is no tokenizer.
    """
    model = existing_onnx(directory)
    if model is None:
        raise CheckpointError(f"{directory} holds no {' or '.join(PLACES)}; export it from PyTorch instead")
    check_target(out, force=force)
    config = read_json(directory / "config.json")
    inputs, labels = _signature(model)
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int):
        raise CheckpointError(f"{directory}/config.json does not give max_position_embeddings")
    if str(config.get("model_type")) in ("roberta", "xlm-roberta"):
        positions -= int(config.get("pad_token_id", 1)) + 1
    tokenizer_config = read_json(directory / "tokenizer_config.json", missing={})
    names = label_names(config, labels)
    chosen = None if relevant_label is None else label_number(relevant_label, names, labels)
    settings = Settings.read(directory)
    longest = settings.max_length or int(tokenizer_config.get("model_max_length") or positions)
    manifest = Manifest(
        source={
            "id": source_id or directory.name,
            "revision": revision,
            "exporter": "existing",
            "chosen_activation": activation,
            "chosen_relevant_label": chosen,
            "warnings": list(settings.warnings),
        },
        architecture={
            "model_type": config.get("model_type"),
            "layers": config.get("num_hidden_layers", config.get("n_layers")),
            "hidden_size": config.get("hidden_size", config.get("dim")),
            "vocab_size": config.get("vocab_size"),
            "token_types": config.get("type_vocab_size") if "token_type_ids" in inputs else 0,
        },
        labels=labels,
        label_names=names,
        relevant_label=relevant_by_name(names, labels) if chosen is None else chosen,
        prompt=settings.prompt,
        prompts=settings.prompts,
        activation=activation or default_activation(directory, config, labels),
        max_length=min(longest, positions),
        max_positions=positions,
        pad_token_id=int(config.get("pad_token_id") or 0),
        inputs=dict.fromkeys(inputs, "int64"),
        models={"fp32": BundleModel(file="model.fp32.onnx")},
        tools=tool_versions(),
    )
    with published_directory(out, force=force) as partial:
        shutil.copyfile(model, partial / "model.fp32.onnx")
        for data in (*model.parent.glob("model.onnx_data*"), *model.parent.glob("model.onnx.data")):
            shutil.copyfile(data, partial / data.name)  # the model names its weights file, so that name stays
        (partial / TOKENIZER).write_text(
            without_truncation_and_padding(_tokenizer_json(directory, tokenizer_config)), encoding="utf-8"
        )
        write_manifest(partial, manifest)
    return Bundle.open(out)


def _signature(model: Path) -> tuple[list[str], int]:
    with telemetry_off():
        import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(os.fspath(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise CheckpointError(f"{model} cannot be opened by ONNX Runtime ({error})") from error
    inputs = {field.name: field.type for field in session.get_inputs()}
    outputs = {field.name: field.shape for field in session.get_outputs()}
    odd = [f"{name} ({kind})" for name, kind in inputs.items() if name not in INPUTS or kind != "tensor(int64)"]
    if odd or "input_ids" not in inputs:
        raise CheckpointError(f"{model} has the inputs {inputs}; a cross-encoder has int64 {', '.join(INPUTS)}")
    labels = outputs.get("logits", [None])[-1]
    if not isinstance(labels, int):
        raise CheckpointError(f"{model} has the outputs {outputs}; a cross-encoder has logits [batch, labels]")
    return [name for name in INPUTS if name in inputs], labels


def _tokenizer_json(directory: Path, config: dict[str, Any]) -> str:
    if (directory / TOKENIZER).is_file():
        return (directory / TOKENIZER).read_text(encoding="utf-8")
    vocabulary = directory / "vocab.txt"
    if not vocabulary.is_file():
        raise CheckpointError(f"{directory} has neither tokenizer.json nor vocab.txt")
    unknown, separator, start = (
        str(config.get(name, default))
        for name, default in (("unk_token", "[UNK]"), ("sep_token", "[SEP]"), ("cls_token", "[CLS]"))
    )
    tokenizer = Tokenizer(WordPiece.from_file(str(vocabulary), unk_token=unknown))
    special = [
        unknown,
        separator,
        str(config.get("pad_token", "[PAD]")),
        start,
        str(config.get("mask_token", "[MASK]")),
    ]
    tokenizer.add_special_tokens(special)
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=bool(config.get("tokenize_chinese_chars", True)),
        strip_accents=config.get("strip_accents"),
        lowercase=bool(config.get("do_lower_case", True)),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    ids = [(token, tokenizer.token_to_id(token)) for token in (start, separator)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start}:0 $A:0 {separator}:0",
        pair=f"{start}:0 $A:0 {separator}:0 $B:1 {separator}:1",
        special_tokens=ids,
    )
    return str(tokenizer.to_str())
