"""The small JSON files of a checkpoint."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..engine.activation import name_from_config
from ..engine.errors import CheckpointError

EXPECTED = (
    "expected a cross-encoder with a classification head: BERT, ELECTRA, RoBERTa/XLM-R or DistilBERT "
    "(...ForSequenceClassification), Capreolus' ELECTRA, or BERT_Cat"
)


def read_json(path: Path, *, missing: dict[str, Any] | None = None) -> dict[str, Any]:
    """Read a JSON object. Raises CheckpointError when it is not one, or not there and no `missing` is given."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if missing is not None:
            return missing
        raise CheckpointError(f"{path.parent} has no {path.name}; {EXPECTED}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from error
    if text.startswith("version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the file itself; fetch it with: git lfs pull")
    try:
        fields = json.loads(text)
    except (
        ValueError,
        RecursionError,
    ) as error:  # of numbers of more than 4,300 digits, and of what is nested too deeply
        raise CheckpointError(f"{path} is not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path} holds a {type(fields).__name__}, not an object")
    return fields


def default_activation(path: Path, config: Mapping[str, Any], labels: int, *, own_class: bool = False) -> str:
    """Return the activation that the checkpoint's files ask for; see `activation.name_from_config`.

    A checkpoint that asks for none gets sigmoid for one label and identity for more, as in sentence-transformers; one
    of a class of its own, which sentence-transformers cannot load, gets identity: what its own class returns.
    """
    default = "sigmoid" if labels == 1 and not own_class else "identity"
    return name_from_config(config, read_json(path / "config_sentence_transformers.json", missing={}), default)
