"""Keywords of sentence-transformers' `CrossEncoder` that crossrt's `CrossEncoder` does not have under the same name.

Each keyword is renamed, or translated into an option of crossrt, or ignored because it has no effect on scores, or raises
`UnsupportedOptionError` with the alternative. docs/compatibility.md has the same table for users. One test checks every keyword
in the signatures of sentence-transformers, another makes the calls of its known clients.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np

from .errors import OptionError, UnsupportedOptionError
from .log import warn_once

RENAMED = {
    "model_name": "model_name_or_path",
    "cache_dir": "cache_folder",
    "default_activation_function": "activation_fn",
    "automodel_args": "model_kwargs",
    "tokenizer_args": "processor_kwargs",
    "tokenizer_kwargs": "processor_kwargs",
    "config_args": "config_kwargs",
    "use_auth_token": "token",
    "sentences": "inputs",
    "activation_fct": "activation_fn",
}
"""Deprecated keyword -> current keyword, as in sentence-transformers 6; `use_auth_token` comes from transformers."""

ALTERNATIVES = {
    "modules": "crossrt runs exported checkpoints: save the model and pass its directory",
    "prompts": "give the text to predict and rank, as prompt=; the prompts that a model saved are there by prompt_name=",
    "default_prompt_name": "give prompt_name= to predict and rank; the default prompt that a model saved is applied by itself",
    "keep_in_fp32_modules": "choose the precision of the whole model with precision='fp32'",
    "pool": "one process uses all processors; open one CrossEncoder per process for more",
}
"""Keyword -> what to do instead. None, False and empty collections are accepted, since they request nothing."""

WITHOUT_EFFECT = frozenset({"num_workers", "chunk_size", "trust_remote_code", "classifier_dropout"})
"""Keywords that are ignored because no score depends on them. crossrt never runs remote code, dropout is for training, and the
others only divide the work."""

KEYWORDS = frozenset({*RENAMED, *RENAMED.values(), *ALTERNATIVES, *WITHOUT_EFFECT})
"""Keywords of sentence-transformers that this module understands."""

SHARED = {
    "revision": "revision",
    "token": "token",
    "use_auth_token": "token",
    "local_files_only": "local_files_only",
    "cache_dir": "cache_folder",
}
"""Key of `model_kwargs`, `processor_kwargs` or `config_kwargs` about the source of files -> option of crossrt."""

WITHOUT_EFFECT_IN = {
    "model_kwargs": frozenset(
        {"attn_implementation", "export", "low_cpu_mem_usage", "trust_remote_code", "use_safetensors"}
    ),
    "processor_kwargs": frozenset({"clean_up_tokenization_spaces", "trust_remote_code", "use_fast"}),
    "config_kwargs": frozenset(
        {"attention_probs_dropout_prob", "classifier_dropout", "hidden_dropout_prob", "trust_remote_code"}
    ),
}
"""Keys of the nested dictionaries that are ignored: they change how PyTorch loads or computes, but no score."""

FP32_FILES = frozenset({"model.onnx", "onnx/model.onnx", "openvino_model.xml", "openvino/openvino_model.xml"})
"""Values of `model_kwargs["file_name"]` that are accepted: they name the unquantized model."""

PROVIDERS = {"CPUExecutionProvider": "cpu", "CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "cuda"}
"""ONNX Runtime's execution provider -> device."""

DTYPES = {"float32": "fp32", "float": "fp32", "float16": "fp16", "half": "fp16", "bfloat16": "bf16"}
"""Name of a floating-point type of torch -> precision."""


def renamed(others: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return `others` under the current names. If a keyword is given under both names, the current name's value is used.

    `given` has the values of the current keywords that are parameters of the caller.
    """
    options: dict[str, Any] = {}
    for name, value in others.items():
        current = RENAMED.get(name, name)
        if current != name and (given.get(current) is not None or current in others):
            continue
        options[current] = value
    return options


def constructor_options(others: Mapping[str, Any], constructor: Callable[..., Any]) -> dict[str, Any]:
    """Translate `model_kwargs`, `processor_kwargs` and `config_kwargs` into crossrt's options.

    `others` are the keywords that `constructor` does not name.

    Returns any of `dtype` (the precision that a dtype asks for), `device`, `max_length`, `num_labels`, `revision`,
    `token`, `cache_folder` and `local_files_only`. Raises UnsupportedOptionError for a key that crossrt has no option for, and
    OptionError for a value that is not allowed.
    """
    options: dict[str, Any] = {}
    rest = dict(others)
    for kind, translate in _TRANSLATIONS.items():
        nested = rest.pop(kind, None) or {}
        if not isinstance(nested, Mapping):
            raise OptionError(f"{kind} is a dictionary of options, not {type(nested).__name__}")
        for name, value in nested.items():
            if name in SHARED:
                options.setdefault(SHARED[name], value)
            elif name not in WITHOUT_EFFECT_IN[kind]:
                options.update(translate(name, value))
    refuse(rest, constructor, _TRANSLATIONS)
    return options


def _model_option(name: str, value: Any) -> dict[str, Any]:
    if name in ("dtype", "torch_dtype"):
        return {"dtype": _precision(value)}
    if name == "device_map":
        return {"device": _mapped_device(value)}
    if name == "provider" and value is not None:
        if value not in PROVIDERS:
            raise OptionError(f"unknown provider {value!r}; one of {', '.join(PROVIDERS)}, or use device=")
        return {"device": PROVIDERS[value]}
    if name == "file_name" and value not in (None, *FP32_FILES):
        raise UnsupportedOptionError(
            f"model_kwargs['file_name']={value!r} has no counterpart: a bundle holds one model per precision, chosen with "
            "precision='int8', say. To run a repository's own ONNX file, export it with: crossrt export --exporter existing"
        )
    if name in ("provider", "file_name") or _requests_nothing(value):
        return {}
    raise UnsupportedOptionError(f"model_kwargs[{name!r}] has no counterpart: use precision=, backend= or device=")


def _processor_option(name: str, value: Any) -> dict[str, Any]:
    if name == "model_max_length":
        return {"max_length": value}
    if _requests_nothing(value):
        return {}
    raise UnsupportedOptionError(f"processor_kwargs[{name!r}] has no counterpart: the tokenizer is the bundle's")


def _config_option(name: str, value: Any) -> dict[str, Any]:
    if name == "num_labels":
        return {"num_labels": value}
    if _requests_nothing(value):
        return {}
    raise UnsupportedOptionError(f"config_kwargs[{name!r}] has no counterpart: the configuration is the bundle's")


_TRANSLATIONS = {
    "model_kwargs": _model_option,
    "processor_kwargs": _processor_option,
    "config_kwargs": _config_option,
}


def refuse(others: Mapping[str, Any], function: Callable[..., Any], further: Iterable[str] = ()) -> None:
    """Raise UnsupportedOptionError for the first keyword that requests something that crossrt does not do.

    `others` are the keywords that `function` does not name. The message for an unknown one suggests the most similar parameter
    of `function` or name in `further`.
    """
    for name, value in others.items():
        if name in WITHOUT_EFFECT:
            continue
        if name not in ALTERNATIVES:
            known = {*inspect.signature(function).parameters, *further} - {"self", "others"}
            nearest = get_close_matches(name, known, n=1)
            suggestion = f" did you mean {nearest[0]!r}?" if nearest else ""
            raise UnsupportedOptionError(
                f"unknown keyword {name!r};{suggestion} docs/compatibility.md lists every keyword"
            )
        if _requests_nothing(value):
            continue
        raise UnsupportedOptionError(f"{name}={value!r} is not supported: {ALTERNATIVES[name]}")


def check_prompt_name(name: Any) -> None:
    """Raise OptionError unless `name` is a string. A number means that the caller passed `batch_size` by position.

    `batch_size` had this position in older versions of sentence-transformers.
    """
    if not isinstance(name, str):
        raise OptionError(
            f"prompt_name={name!r} is no name: in the order of sentence-transformers 6 a prompt comes where older versions had "
            "batch_size; write batch_size= by name"
        )


def per_call_max_length(processing_kwargs: Mapping[str, Any] | None) -> int | None:
    """Return `max_length` from `processing_kwargs={"text": {"max_length": 256}}`, or None if it is not there.

    `truncation=True` and `padding` are accepted, since pairs are always truncated and padding changes no score. Raises
    UnsupportedOptionError for anything else.
    """
    max_length = None
    kinds = processing_kwargs or {}
    if not isinstance(kinds, Mapping) or not all(isinstance(each, (Mapping, type(None))) for each in kinds.values()):
        raise UnsupportedOptionError(
            f"processing_kwargs={kinds!r} has no counterpart; only max_length may change per call, as in "
            "{'text': {'max_length': 256}}"
        )
    for kind, options in kinds.items():
        for name, value in (options or {}).items():
            if kind == "text" and name == "max_length":
                max_length = value
            elif _requests_nothing(value) and name != "truncation":
                continue
            elif kind != "text" or not (
                name == "padding" or (name == "truncation" and value in (True, "longest_first"))
            ):
                raise UnsupportedOptionError(
                    f"processing_kwargs[{kind!r}][{name!r}]={value!r} has no counterpart; only max_length may change per call"
                )
    return max_length


def backend_named(backend: str) -> str:
    """Return crossrt's name for a backend of sentence-transformers.

    `torch`, which clients pass by default, means `auto`, with one warning.
    """
    if backend == "torch":
        warn_once(
            "backend='torch' is taken as backend='auto': crossrt does not run PyTorch models but their exports, with the same "
            "scores. Leave backend out to silence this"
        )
        return "auto"
    return "onnxruntime" if backend == "onnx" else backend


def device_names(device: Any) -> str | list[str] | None:
    """Return the name of a device, or the names of a list of devices, from what a user passes.

    A torch.device becomes its name, the number 1 becomes `cuda:1`, and `cpu:0` becomes `cpu`.
    """
    if device is None:
        return None
    if isinstance(device, (list, tuple)):
        return [_device_name(each) for each in device]
    return _device_name(device)


def _device_name(device: Any) -> str:
    if isinstance(device, (int, np.integer)) and not isinstance(device, bool):
        return f"cuda:{device}"
    return "cpu" if str(device) == "cpu:0" else str(device)


def is_dtype(value: Any) -> bool:
    """Tell whether `value` is a torch.dtype, without importing torch."""
    return type(value).__name__ == "dtype" and str(value).startswith("torch.")


def _mapped_device(device_map: Any) -> Any:
    if device_map in ("auto", "balanced", "balanced_low_0", "sequential"):
        return None
    if not isinstance(device_map, Mapping):
        return device_map
    devices: Sequence[Any] = list(dict.fromkeys(device_map.values()))
    if len(devices) > 1:
        raise UnsupportedOptionError(
            f"device_map={device_map!r} has no counterpart: a model is not split over devices; devices=[...] opens it on "
            "several GPUs, which share the requests"
        )
    return devices[0] if devices else None


def _precision(dtype: Any) -> str | None:
    if dtype is None or dtype == "auto":
        return None
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise UnsupportedOptionError(
            f"dtype {name} has no counterpart; one of {', '.join(DTYPES)}, or precision='int8'"
        )
    return DTYPES[name]


def _requests_nothing(value: Any) -> bool:
    return value is None or value is False or (isinstance(value, (dict, list)) and not value)
