"""Keywords of sentence-transformers' `CrossEncoder` that crossrt's does not have under that name.

Each is renamed, or has no effect at the value that asks for nothing, or raises `UnsupportedOptionError` that names the
alternative. docs/compatibility.md is the same table for people; a test walks sentence-transformers' signatures.
"""

from collections.abc import Mapping
from typing import Any

from .errors import OptionError, UnsupportedOptionError

RENAMED = {
    "model_name": "model_name_or_path",
    "cache_dir": "cache_folder",
    "default_activation_function": "activation_fn",
    "automodel_args": "model_kwargs",
    "tokenizer_args": "processor_kwargs",
    "tokenizer_kwargs": "processor_kwargs",
    "config_args": "config_kwargs",
    "sentences": "inputs",
    "activation_fct": "activation_fn",
}
"""Deprecated keyword -> today's keyword, as sentence-transformers 6 renames them."""

ALTERNATIVES = {
    "modules": "crossrt runs exported checkpoints: save the model and pass its directory",
    "prompts": "give the text to predict and rank, as prompt=; the prompts that a model saved are there by prompt_name=",
    "default_prompt_name": "give prompt_name= to predict and rank; the default prompt that a model saved is applied by itself",
    "trust_remote_code": "remote code is never run; architectures that crossrt knows are read without it",
    "model_card_data": "model cards are written by the library that trains the model",
    "keep_in_fp32_modules": "choose the precision of the whole model with precision='fp32'",
    "classifier_dropout": "dropout plays no part in scoring; leave it out",
    "device": "choose the device when the model is opened: CrossEncoder(..., device=...)",
    "pool": "one process uses all processors; open one CrossEncoder per process for more",
    "chunk_size": "requests are cut into chunks by themselves; leave it out",
}
"""Keyword -> what to do instead. A value of None, False, or an empty collection asks for nothing and is accepted."""

WITHOUT_EFFECT = frozenset({"num_workers"})
"""Accepted and ignored in sentence-transformers 6 as well."""


def renamed(others: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return `others` under today's names; a keyword given under both names keeps today's value."""
    options: dict[str, Any] = {}
    for name, value in others.items():
        today = RENAMED.get(name, name)
        if today != name and (given.get(today) is not None or today in others):
            continue
        options[today] = value
    return options


def constructor_options(others: Mapping[str, Any]) -> dict[str, Any]:
    """Translate `model_kwargs`, `processor_kwargs` and `config_kwargs` into crossrt's options.

    Returns any of `precision`, `max_length`, `num_labels`. Raises UnsupportedOptionError for what has no counterpart.
    """
    options: dict[str, Any] = {}
    rest = dict(others)
    for name, value in (rest.pop("model_kwargs", None) or {}).items():
        if name in ("dtype", "torch_dtype"):
            options["precision"] = _precision(value)
        else:
            raise UnsupportedOptionError(
                f"model_kwargs[{name!r}] has no counterpart: use precision=, backend= or device="
            )
    for name, value in (rest.pop("processor_kwargs", None) or {}).items():
        if name != "model_max_length":
            raise UnsupportedOptionError(
                f"processor_kwargs[{name!r}] has no counterpart: the tokenizer is the bundle's"
            )
        options["max_length"] = value
    for name, value in (rest.pop("config_kwargs", None) or {}).items():
        if name == "classifier_dropout":
            continue
        if name != "num_labels":
            raise UnsupportedOptionError(
                f"config_kwargs[{name!r}] has no counterpart: the configuration is the bundle's"
            )
        options["num_labels"] = value
    rest.pop("classifier_dropout", None)
    refuse(rest)
    return options


def refuse(others: Mapping[str, Any]) -> None:
    """Raise UnsupportedOptionError for the first keyword that asks for something crossrt does not do."""
    for name, value in others.items():
        if name in WITHOUT_EFFECT:
            continue
        if name not in ALTERNATIVES:
            raise UnsupportedOptionError(f"unknown keyword {name!r}; docs/compatibility.md lists every keyword")
        if value is None or value is False or (isinstance(value, (dict, list)) and not value):
            continue
        raise UnsupportedOptionError(f"{name}={value!r} is not supported: {ALTERNATIVES[name]}")


def backend_named(backend: str) -> str:
    """Return crossrt's name for a backend of sentence-transformers. Raises OptionError for torch."""
    if backend == "torch":
        raise OptionError("backend='torch' is what crossrt replaces; leave it out, or give backend='onnxruntime'")
    return "onnxruntime" if backend == "onnx" else backend


def _precision(dtype: Any) -> str | None:
    if dtype is None or dtype == "auto":
        return None
    name = str(dtype).removeprefix("torch.")
    known = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
    if name not in known:
        raise UnsupportedOptionError(f"dtype {name} has no counterpart; one of {', '.join(known)}")
    return known[name]
