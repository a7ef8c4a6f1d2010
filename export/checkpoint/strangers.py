"""Checkpoints that are no cross-encoder, in words."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .files import EXPECTED, shown


def not_a_cross_encoder(path: Path, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> str:
    """Say in words what a checkpoint without a known head is instead."""
    architectures = config.get("architectures")
    architecture = str(architectures[0]) if isinstance(architectures, list) and architectures else "?"
    found = f"{architecture} (model_type {shown(config.get('model_type', '?'))}, {len(tensors)} tensors)"
    modules = _modules(path)
    if "score.weight" in tensors:
        kind = (
            "has a head named score (score.weight), as decoders that rerank have it, such as those of Qwen, Llama and "
            "Gemma; crossrt exports encoders"
        )
    elif architecture.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")):
        kind = "is a generative model"
    elif "Dense" in modules:
        kind = (
            f"is made of sentence-transformers' modules {', '.join(modules)} (modules.json): a bi-encoder, or a cross-encoder "
            "whose head is a Dense module. crossrt reads a head that is part of the transformers model"
        )
    elif any(name.startswith(("module.", "_orig_mod.")) for name in tensors):
        kind = "has some names that begin with the module. of DataParallel and others that do not; save model.module.state_dict()"
    elif modules or architecture.endswith("Model"):
        kind = "is a bi-encoder or a bare trunk: it has no classification head, and a random one gives plausible scores"
    elif not any("classif" in name for name in tensors):
        kind = "has no classification head, and a random one gives plausible scores"
    else:
        kind = "is of an architecture that crossrt does not know"
    sample = ", ".join(list(tensors)[:3]) or "none at all"
    return f"{path} {kind}\n  found     {found}, such as {sample}\n  {EXPECTED}"


def _modules(path: Path) -> list[str]:
    """Return the kinds of a checkpoint's sentence-transformers modules, such as Transformer, Pooling, Dense."""
    try:
        modules = json.loads((path / "modules.json").read_text(encoding="utf-8"))
        return [str(module["type"]).rpartition(".")[2] for module in modules]
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        return []
