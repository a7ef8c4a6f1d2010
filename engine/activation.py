"""Activations: functions that turn raw logits into scores, always in float32.

In 16 bits a sigmoid saturates, and scores that become equal lose their order. So an activation never runs in the model's
precision.
"""

import functools
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .errors import OptionError

Floats: TypeAlias = npt.NDArray[np.float32]
Activation: TypeAlias = str | Callable[..., Any]


def identity(logits: Floats) -> Floats:
    """Return the logits as they are."""
    return logits


def sigmoid(logits: Floats) -> Floats:
    """Return 1 / (1 + exp(-x)), without overflow for any x (float32 in, float32 out)."""
    scores: Floats = np.exp(np.minimum(logits, 0)) / (1 + np.exp(-np.abs(logits)))
    return scores.astype(np.float32, copy=False)


def softmax(logits: Floats) -> Floats:
    """Return the softmax over the last axis (float32 in, float32 out)."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    scores: Floats = (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)
    return scores


def tanh(logits: Floats) -> Floats:
    """Return the hyperbolic tangent (float32 in, float32 out)."""
    return np.tanh(logits).astype(np.float32)


NAMED: dict[str, Callable[[Floats], Floats]] = {
    "identity": identity,
    "sigmoid": sigmoid,
    "softmax": softmax,
    "tanh": tanh,
}


def name_from_config(
    config: Mapping[str, Any], sentence_transformers_config: Mapping[str, Any] | None, default: str
) -> str:
    """Return the name of the activation that a checkpoint asks for. It is looked up as in sentence-transformers 6.

    The first of these values that is the dotted path of a torch class decides:
    `config_sentence_transformers.json["activation_fn"]`; `config["sentence_transformers"]["activation_fn"]` or, if that key is
    missing, `config["sbert_ce_default_activation_function"]`; otherwise `default`. A dotted path outside torch is remote code,
    so it is skipped, as in sentence-transformers. Raises OptionError for an activation of torch that crossrt does not have.
    """
    saved = config.get("sentence_transformers") or {}
    places = (
        (sentence_transformers_config or {}).get("activation_fn"),
        saved["activation_fn"] if "activation_fn" in saved else config.get("sbert_ce_default_activation_function"),
    )
    path = next((place for place in places if isinstance(place, str) and place.startswith("torch.")), None)
    if path is None:
        return default
    try:
        return named(path)
    except OptionError:
        raise OptionError(
            f"the checkpoint asks for the activation {path}, which crossrt does not have; it has {', '.join(NAMED)}. "
            "Export with --activation NAME, and pass activation_fn=... when scoring."
        ) from None


def named(activation: str) -> str:
    """Return the key of `NAMED` for a name or the dotted path of a torch class. Raises OptionError for an unknown one."""
    name = activation.rsplit(".", 1)[-1].lower()
    if name not in NAMED:
        raise OptionError(f"unknown activation {activation!r}; one of {', '.join(NAMED)}")
    return name


def apply(activation: Activation, logits: Floats) -> Floats:
    """Apply `activation` to float32 logits [n, labels] or [n] and return float32 of the shape it gives.

    `activation` is a key of `NAMED`, a function of NumPy arrays, or a torch module or function. torch is used only when the
    program has already imported it: a function that fails for an array is then called with a tensor, as in
    sentence-transformers. Raises OptionError for anything else, and any error of the function.
    """
    check_activation(activation)
    if isinstance(activation, str):
        return NAMED[activation](logits)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(activation, torch.nn.Module):
        return _through_torch(activation, logits)
    try:
        # A copy, here and for torch, since a function may compute in place, and fail after that.
        return np.asarray(activation(logits.copy()), dtype=np.float32)
    except (TypeError, AttributeError, ValueError) as error:
        if torch is None:
            raise
        fault = error
    with suppress(Exception):  # a function that fails for both is at fault itself, and its first error says how
        return _through_torch(activation, logits)
    raise fault


def check_activation(activation: Any) -> None:
    """Raise OptionError for what is neither a key of `NAMED` nor a function."""
    if isinstance(activation, str):
        if activation not in NAMED:
            raise OptionError(f"unknown activation {activation!r}; known by name: {', '.join(NAMED)}")
    elif not callable(activation):
        raise OptionError(f"activation_fn is a name or a callable, not {type(activation).__name__}")


def is_softmax(activation: Activation) -> bool:
    """Tell whether an activation is a softmax or log-softmax: by name, or a class or function of torch or SciPy.

    A softmax needs all labels of a pair; `rank` applies other activations to the relevance score only.
    """
    if isinstance(activation, functools.partial):
        activation = activation.func
    name = activation if isinstance(activation, str) else getattr(activation, "__name__", type(activation).__name__)
    return name.lower().replace("_", "") in ("softmax", "logsoftmax")


def is_monotonic(activation: Activation) -> bool:
    """Tell whether an activation is known to keep the order of scores.

    This holds for sigmoid, tanh and identity, given by name or as crossrt's or torch's own. Another function of the same name
    may do anything.
    """
    return _is_one_of(activation, ("identity", "sigmoid", "tanh"))


def is_identity(activation: Activation) -> bool:
    """Tell whether an activation is known to leave scores as they are: identity, given by name or as crossrt's or torch's own."""
    return _is_one_of(activation, ("identity",))


def _is_one_of(activation: Activation, names: tuple[str, ...]) -> bool:
    if isinstance(activation, str):
        return activation.lower() in names
    known: list[Any] = [NAMED[name] for name in names]
    torch = sys.modules.get("torch")
    if torch is not None:
        # A subclass of a module may compute something else.
        modules = {"identity": torch.nn.Identity, "sigmoid": torch.nn.Sigmoid, "tanh": torch.nn.Tanh}
        if type(activation) in [modules[name] for name in names]:
            return True
        functions = {
            "sigmoid": (torch.sigmoid, torch.special.expit, torch.nn.functional.sigmoid),
            "tanh": (torch.tanh, torch.nn.functional.tanh),
        }
        known += [function for name in names for function in functions.get(name, ())]
    return any(activation is each for each in known)


def _through_torch(activation: Callable[..., Any], logits: Floats) -> Floats:
    torch = sys.modules["torch"]
    with torch.inference_mode():
        scores = torch.as_tensor(activation(torch.from_numpy(logits.copy())))
    return np.asarray(scores.float().cpu().numpy(), dtype=np.float32)
