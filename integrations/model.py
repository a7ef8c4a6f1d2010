"""Functions that the adapters share: open a model, serialize it, and score many pairs at once."""

from collections.abc import Iterable, Mapping
from os import PathLike, fspath
from typing import Any

from ..engine.activation import Activation
from ..engine.cross_encoder import CrossEncoder

TOKENS = ("token", "use_auth_token")
"""Options of `CrossEncoder` that hold a secret."""


def opened(model: str | PathLike[str] | CrossEncoder, model_kwargs: Mapping[str, Any] | None = None) -> CrossEncoder:
    """Return `model` if it is a `CrossEncoder`; open a bundle, checkpoint or hub id with `model_kwargs`.

    Raises the errors of `CrossEncoder`.
    """
    return model if isinstance(model, CrossEncoder) else CrossEncoder(model, **(model_kwargs or {}))


def described(
    model: str | PathLike[str] | CrossEncoder, model_kwargs: Mapping[str, Any] | None = None
) -> tuple[str, dict[str, Any]]:
    """Return the path or hub id of a model, and the options that open it again with the same scores, both as JSON values.

    An opened model becomes the absolute path of its bundle without symbolic links, with the options that change scores. The
    device and the backend are not stored, since the copy may be opened on another machine. An activation function is lost
    unless it is given by name. Tokens for the hub are left out, since what is stored may be read by others.
    """
    if not isinstance(model, CrossEncoder):
        return fspath(model), _without_tokens(model_kwargs or {})
    options = {
        "precision": model.precision.value,
        "max_length": model.max_length,
        "relevant_label": model.relevant_label,
        "activation_fn": model.activation_fn if isinstance(model.activation_fn, str) else None,
    }
    return str(model.bundle.folder), {name: value for name, value in options.items() if value is not None}


def _without_tokens(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options without tokens, also those of options that are mappings, such as `model_kwargs`."""
    return {
        name: _without_tokens(value) if isinstance(value, Mapping) else value
        for name, value in options.items()
        if name not in TOKENS
    }


def relevance(
    model: CrossEncoder, pairs: Iterable[tuple[str, str]], activation_fn: Activation | None = None
) -> list[float]:
    """Return the scores that `CrossEncoder.rank` sorts by. Pairs of several queries are batched together."""
    return [float(score) for score in model.relevance(model.logits(pairs), activation_fn)]
