"""Reads the small JSON files of a checkpoint."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...engine.activation import name_from_config
from ...engine.bundle.resolve import where_models_are
from ...engine.errors import CheckpointError, OptionError
from ...engine.files.record import SURROGATE, check_depth
from ...engine.text.encoded_pairs import TruncationSide

MAX_JSON_BYTES = 256 << 20
"""Bytes. The largest of these files, tokenizer.json, has 17 MB for the vocabulary of XLM-R."""

SENTENCE_TRANSFORMERS = "config_sentence_transformers.json"
EXPECTED = (
    "expected a cross-encoder with a classification head: BERT, ELECTRA, RoBERTa/XLM-R, DistilBERT, DeBERTa-v2/v3, MPNet, "
    "ALBERT or ModernBERT (...ForSequenceClassification), Capreolus' ELECTRA, or BERT_Cat"
)


def read_json(path: Path, *, missing: dict[str, Any] | None = None) -> dict[str, Any]:
    """Read a JSON object. If the file does not exist, return `missing`, if given.

    Raises CheckpointError otherwise, and for a file that cannot be read, is too large or is not a JSON object.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{path} has {path.stat().st_size:,} bytes, which no such file needs; fetch it again")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if missing is not None:
            return missing
        raise CheckpointError(_without_config(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from error
    check_no_pointer(path, text[:24].encode())
    try:
        fields = json.loads(text)
        check_depth(fields)
        if SURROGATE.search(text):
            json.dumps(fields, ensure_ascii=False).encode()  # a bundle cannot hold a text with a lone surrogate
    except (ValueError, RecursionError) as error:  # a number with too many digits is a ValueError
        raise CheckpointError(f"{path} is not JSON that can be read ({error})") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path} holds a {type(fields).__name__}, not an object")
    return fields


def check_no_pointer(file: Path, beginning: bytes) -> None:
    """Raise CheckpointError for a Git LFS pointer, which is in place of a file that was not fetched."""
    if beginning.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{file} is a Git LFS pointer of {file.stat().st_size} bytes, not the file itself; fetch it with: git lfs pull"
        )


def check_name(path: Path) -> None:
    """Raise CheckpointError for a path that is not valid Unicode, which the libraries for weights and graphs cannot open."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise CheckpointError(
            f"{path}: the name is not valid UTF-8, and onnx and safetensors cannot open such files; rename it"
        ) from None


def _without_config(path: Path) -> str:
    """Return the error message for a directory without the file, such as config.json."""
    directory = path.parent
    if any(directory.glob("*.gguf")):
        return f"{directory} holds GGUF files, which llama.cpp runs (llama-server --reranking); give the PyTorch checkpoint"
    return f"{directory} has no {path.name}{where_models_are(directory) or f'; {EXPECTED}'}"


def whole_number(file: Path, fields: Mapping[str, Any], key: str, *, minimum: int, default: int | None = None) -> int:
    """Return an integer from the fields of a JSON file. Null counts as missing.

    Raises CheckpointError, naming the file and the key, if it is missing and has no `default`, is not an integer, or is less than
    `minimum`.
    """
    value = fields.get(key)
    if value is None:
        if default is None:
            raise CheckpointError(f"{file} does not give {key}; it cannot be guessed from weights")
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise CheckpointError(f"{file}: {key} is {shown(value)}; a whole number from {minimum} is expected")
    return value


def max_length_of(tokenizer_config: Path, fields: Mapping[str, Any], positions: int, *, saved: int | None) -> int:
    """Return the maximum number of tokens of a pair, at most `positions`.

    It is the length that sentence-transformers `saved`, or else the tokenizer's `model_max_length`, `max_len` in old files.
    """
    if saved is not None:
        return min(saved, positions)
    key = "max_len" if "model_max_length" not in fields else "model_max_length"
    value = fields.get(key)
    if value is None:
        return positions
    # transformers writes 1e30, or 1000000000000000019884624838656, if there is no limit.
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not value >= 1:
        raise CheckpointError(f"{tokenizer_config}: {key} is {shown(value)}; a number of tokens from 1 is expected")
    return positions if value >= positions else int(value)


def truncation_side(directory: Path, tokenizer_config: Mapping[str, Any]) -> TruncationSide:
    """Return the side at which the tokenizer truncates texts, from tokenizer_config.json or else from tokenizer.json."""
    side = tokenizer_config.get("truncation_side")
    if side is None:
        truncation = read_json(directory / "tokenizer.json", missing={}).get("truncation")
        direction = truncation.get("direction") if isinstance(truncation, dict) else None
        side = direction.lower() if isinstance(direction, str) else "right"
    if side not in ("right", "left"):
        raise CheckpointError(
            f"{directory / 'tokenizer_config.json'}: truncation_side is {shown(side)}; right or left is expected"
        )
    return "left" if side == "left" else "right"


def shown(value: Any) -> str:
    """Return a value of a JSON file as text for a message, shortened to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def first_line(error: BaseException) -> str:
    """Return the type of another library's error and the first line of its message, with the second if the first announces it."""
    said = [line.strip() for line in str(error).strip().splitlines()] or ["no message"]
    shown_lines = said[:2] if said[0].endswith(":") else said[:1]
    return f"{type(error).__name__}: {' '.join(shown_lines)}"


def check_activation(chosen: str | None, labels: int) -> None:
    """Raise OptionError for an activation that the caller chose and that makes all scores equal."""
    if chosen == "softmax" and labels == 1:
        raise OptionError("softmax over one label is 1 for every pair: choose identity, sigmoid or tanh")


def default_activation(path: Path, config: Mapping[str, Any], labels: int, *, own_class: bool = False) -> str:
    """Return the activation that the checkpoint's files ask for; see `activation.name_from_config`.

    If the files name none, it is sigmoid for one label and identity for several, as in sentence-transformers. With `own_class` it
    is identity. That is for checkpoints with a class of their own, which sentence-transformers cannot load and which returns
    logits.
    """
    default = "sigmoid" if labels == 1 and not own_class else "identity"
    other, _ = saved_by_sentence_transformers(path)
    nested = config.get("sentence_transformers") or {}
    if not isinstance(nested, dict):
        raise CheckpointError(f"{path / 'config.json'}: sentence_transformers is {shown(nested)}, not an object")
    for asked in (
        other.get("activation_fn"),
        nested.get("activation_fn"),
        config.get("sbert_ce_default_activation_function"),
    ):
        if asked is not None and not isinstance(asked, str):
            raise CheckpointError(
                f"{path}: the activation {shown(asked)} is no name, such as torch.nn.modules.linear.Identity"
            )
    return name_from_config(config, other, default)


def label_names(config: Mapping[str, Any], labels: int) -> tuple[str, ...]:
    """Return the names that config.json gives to the labels; empty if it does not name each label.

    `label2id` is read if there is no `id2label`. A name that is not a string is converted to one; null becomes `LABEL_n`.
    """
    by_number, by_name = config.get("id2label"), config.get("label2id")
    if isinstance(by_number, dict) and by_number:
        named = list(by_number.items())
    elif isinstance(by_name, dict):
        named = [(number, name) for name, number in by_name.items()]
    else:
        return ()
    try:
        names = {int(number): name for number, name in named}
    except (TypeError, ValueError):
        return ()
    if len(named) != labels or set(names) != set(range(labels)):
        return ()
    return tuple(f"LABEL_{number}" if names[number] is None else str(names[number]) for number in range(labels))


def saved_by_sentence_transformers(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the fields of config_sentence_transformers.json if sentence-transformers reads it, otherwise none, and warnings.

    It reads that file only if there is a modules.json, and only if the file says that the model is a CrossEncoder. It opens any
    other directory like a plain transformers model.
    """
    fields = read_json(path / SENTENCE_TRANSFORMERS, missing={})
    modules = path / "modules.json"
    if modules.is_file() and fields.get("model_type") == "CrossEncoder":
        return fields, []
    left = [name for name in ("activation_fn", "prompts", "default_prompt_name") if fields.get(name)]
    if not left:
        return {}, []
    why = "its model_type is not CrossEncoder" if modules.is_file() else "there is no modules.json beside it"
    return {}, [f"{SENTENCE_TRANSFORMERS}: {', '.join(left)} not applied, as sentence-transformers: {why}"]


def first_five(names: list[str]) -> str:
    """Join the first five of these names, and add how many more there are."""
    return "; ".join(names[:5]) + (f"; and {len(names) - 5} more" if len(names) > 5 else "")
