"""The small JSON files of a checkpoint."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..engine.activation import name_from_config
from ..engine.errors import CheckpointError

SENTENCE_TRANSFORMERS = "config_sentence_transformers.json"
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
    return name_from_config(config, saved_by_sentence_transformers(path)[0], default)


def label_names(config: Mapping[str, Any], labels: int) -> tuple[str, ...]:
    """Return the names that config.json gives to the labels; empty where it does not give one to each.

    `label2id` is read where there is no `id2label`. A name that is no text is written as one.
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
    """Return the fields of config_sentence_transformers.json, where sentence-transformers reads it, and warnings.

    It reads that file only beside a modules.json, and only where the file says that the model is a CrossEncoder; any other
    directory it opens as plain transformers does. Raises CheckpointError for modules other than one Transformer.
    """
    fields = read_json(path / SENTENCE_TRANSFORMERS, missing={})
    modules = path / "modules.json"
    if not modules.is_file() or fields.get("model_type") != "CrossEncoder":
        left = [name for name in ("activation_fn", "prompts", "default_prompt_name") if fields.get(name)]
        if not left:
            return {}, []
        why = "its model_type is not CrossEncoder" if modules.is_file() else "there is no modules.json beside it"
        return {}, [f"{SENTENCE_TRANSFORMERS}: {', '.join(left)} not applied, as sentence-transformers: {why}"]
    try:
        listed = json.loads(modules.read_text(encoding="utf-8"))
        kinds = [(str(module["type"]).rpartition(".")[2], module.get("path") or "") for module in listed]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{modules} is not a list of modules ({type(error).__name__}: {error})") from error
    if kinds != [("Transformer", "")]:
        raise CheckpointError(
            f"{modules} has the modules {', '.join(f'{kind} in {place!r}' for kind, place in kinds) or '(none)'}; crossrt "
            "knows cross-encoders of one Transformer, whose files lie in the directory itself"
        )
    return fields, []
