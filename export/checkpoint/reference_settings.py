"""Finds a checkpoint's activation and default prompt as sentence-transformers does.

The files are read here a second time, so that the reference shares no code with the exported model that it judges.
"""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from .checkpoint import Checkpoint
from .heads import Head


def activation_of(checkpoint: Checkpoint) -> Callable[[Any], Any]:
    """Return the torch function from a checkpoint's logits to its scores, found as in sentence-transformers 6.

    It is the activation that the caller chose, or else the class that the files name, or else a sigmoid for one label and the
    identity for several. A model that sentence-transformers cannot load has the identity.
    """
    if checkpoint.chosen_activation is not None:
        chosen: Callable[[Any], Any] = {
            "identity": torch.nn.Identity(),
            "sigmoid": torch.nn.Sigmoid(),
            "softmax": torch.nn.Softmax(dim=-1),
            "tanh": torch.nn.Tanh(),
        }[checkpoint.chosen_activation]
        return chosen
    config = _json(checkpoint.path / "config.json")
    in_config = (config.get("sentence_transformers") or {}).get("activation_fn", ...)
    if in_config is ...:
        in_config = config.get("sbert_ce_default_activation_function")
    for class_path in (_sentence_transformers_config(checkpoint.path).get("activation_fn"), in_config):
        if isinstance(class_path, str) and class_path.startswith("torch."):
            module, _, name = class_path.rpartition(".")
            kind = getattr(import_module(module), name)
            return kind(dim=-1) if name == "Softmax" else kind()  # type: ignore[no-any-return]
    no_class = checkpoint.head is Head.BERT_CAT
    return torch.nn.Sigmoid() if checkpoint.labels == 1 and not no_class else torch.nn.Identity()


def default_prompt(path: Path) -> str:
    """Return the prompt that sentence-transformers puts before each query; empty for none."""
    saved = _sentence_transformers_config(path)
    return (saved.get("prompts") or {}).get(saved.get("default_prompt_name")) or ""


def _sentence_transformers_config(path: Path) -> dict[str, Any]:
    """Return config_sentence_transformers.json; empty if there is no modules.json or model_type is not CrossEncoder."""
    saved = _json(path / "config_sentence_transformers.json")
    read = (path / "modules.json").is_file() and saved.get("model_type") == "CrossEncoder"
    return saved if read else {}


def _json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
