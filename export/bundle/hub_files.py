"""The small JSON files that let Optimum, sentence-transformers and transformers.js open a bundle.

These libraries find the models under `onnx/`, the tokenizer in tokenizer.json, and everything else in these files. crossrt itself
does not read them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...engine.bundle.manifest import TOKENIZER, Manifest
from ..checkpoint.files import read_json
from ..checkpoint.modules import modules_of

CONFIG = "config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SENTENCE_TRANSFORMERS = "config_sentence_transformers.json"
MODULES = ("modules.json", "sentence_bert_config.json")
ONE_MODULE = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}]
WITH_HEAD = {
    "transformer_task": "sequence-classification",
    "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
    "module_output_name": "scores",
}
"""If a checkpoint has several modules, `ONE_MODULE` replaces modules.json, and this replaces sentence_bert_config.json."""
ACTIVATIONS = {
    "identity": "torch.nn.modules.linear.Identity",
    "sigmoid": "torch.nn.modules.activation.Sigmoid",
    "softmax": "torch.nn.modules.activation.Softmax",
    "tanh": "torch.nn.modules.activation.Tanh",
}


def write_hub_files(
    directory: Path,
    manifest: Manifest,
    *,
    source: Path,
    config: Mapping[str, Any],
    tokenizer_class: str,
    special_tokens: Mapping[str, str],
    token_types: bool,
) -> None:
    """Write config.json, tokenizer_config.json and, if `source` has one, config_sentence_transformers.json.

    With the last file, the module files of sentence-transformers are written too. `source` is the directory from which the model
    came. `config` is its config.json, with missing fields added. `token_types` says whether the tokenizer returns token types.
    tokenizer.json and the models must already be in `directory`.
    """
    activation = ACTIVATIONS[manifest.activation]
    labels = manifest.label_names or [f"LABEL_{number}" for number in range(manifest.labels)]
    stale = ("_name_or_path", "auto_map", "dtype", "torch_dtype", "num_labels")
    fields = {name: value for name, value in config.items() if name not in stale}
    fields |= {
        "id2label": {str(number): name for number, name in enumerate(labels)},
        "label2id": {name: number for number, name in enumerate(labels)},
        "pad_token_id": manifest.pad_token_id,
        "sentence_transformers": {**(fields.get("sentence_transformers") or {}), "activation_fn": activation},
        "sbert_ce_default_activation_function": activation,  # read by sentence-transformers before 4
    }
    if large := _external_data(directory / "onnx"):
        own = fields.get("transformers.js_config") or {}
        fields["transformers.js_config"] = {**own, "use_external_data_format": large}
    _write(directory / CONFIG, fields)
    _write(
        directory / TOKENIZER_CONFIG,
        _tokenizer_config(directory, manifest, source, tokenizer_class, special_tokens, token_types),
    )
    saved = read_json(source / SENTENCE_TRANSFORMERS, missing={})
    if saved:
        _write(directory / SENTENCE_TRANSFORMERS, saved | {"activation_fn": activation})
        # sentence-transformers reads that file, with its prompts, only if these files exist too.
        for name in MODULES:
            if (source / name).is_file():
                (directory / name).write_bytes((source / name).read_bytes())
        if len(modules_of(source) or ()) > 1:  # the ONNX model contains all of them
            _write(directory / "modules.json", ONE_MODULE)
            _write(directory / "sentence_bert_config.json", WITH_HEAD)


def _external_data(folder: Path) -> dict[str, bool | int]:
    """Return transformers.js's setting for graphs whose weights are beside them, by the graph's name.

    It is true for `model.onnx_data`, or the number of files if more than one: `model.onnx_data`, `model.onnx_data_1`, ...
    """
    large: dict[str, bool | int] = {}
    for path in sorted(folder.glob("*.onnx_data")):
        count = 1
        while (folder / f"{path.name}_{count}").is_file():
            count += 1
        large[path.name.removesuffix("_data")] = True if count == 1 else count
    return large


def _tokenizer_config(
    directory: Path,
    manifest: Manifest,
    source: Path,
    tokenizer_class: str,
    special_tokens: Mapping[str, str],
    token_types: bool,
) -> dict[str, Any]:
    """Return the source's tokenizer config with every default written out, so that all libraries and versions agree."""
    stale = (
        *("added_tokens_decoder", "auto_map", "backend", "is_local", "local_files_only"),
        *("name_or_path", "special_tokens_map_file", "tokenizer_file"),
    )
    fields = read_json(source / TOKENIZER_CONFIG, missing={})
    fields = {name: value for name, value in fields.items() if name not in stale}
    fields |= special_tokens
    fields |= {
        "tokenizer_class": {"TokenizersBackend": "PreTrainedTokenizerFast"}.get(tokenizer_class, tokenizer_class),
        "model_max_length": manifest.max_length,
        "model_input_names": ["input_ids", *(["token_type_ids"] if token_types else []), "attention_mask"],
    }
    normalizer = json.loads((directory / TOKENIZER).read_text(encoding="utf-8")).get("normalizer") or {}
    if normalizer.get("type") == "BertNormalizer":
        fields |= {
            "do_lower_case": normalizer["lowercase"],
            "strip_accents": normalizer["strip_accents"],
            "tokenize_chinese_chars": normalizer["handle_chinese_chars"],
        }
    return fields


def _write(path: Path, fields: Any) -> None:
    path.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
