"""`TokenModel`: an opened model that is called with token ids instead of texts."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .activation import Floats
from .attributes import ModelAttributes
from .batching.batch import Batch
from .bundle.bundle import Bundle
from .errors import InputError, UnsupportedOptionError
from .runtime.scorer import Scorer

ALTERNATIVES = {
    "position_ids": "the model counts positions itself; leave it out",
    "inputs_embeds": "the exported model begins with token ids; pass input_ids",
    "head_mask": "all heads are computed; leave it out",
    "labels": "there is no loss; train with PyTorch, then export the checkpoint",
    "output_attentions": "the exported model only gives logits; run the checkpoint with PyTorch",
    "output_hidden_states": "the exported model only gives logits; run the checkpoint with PyTorch",
}
"""Input of transformers' models -> what to do instead. None and False are accepted, since they request nothing."""


class BatchModel(Protocol):
    """The part of `CrossEncoder` that `TokenModel` needs."""

    bundle: Bundle
    _scorer: Scorer

    def run(self, batch: Batch) -> Floats:
        """Score one padded batch."""

    def check_finite(self, logits: Floats) -> None:
        """Raise BackendError for logits that are NaN or Inf."""

    def close(self) -> None:
        """Free the model."""


@dataclass(frozen=True, slots=True)
class SequenceClassifierOutput:
    """The model's `logits`, float32 [batch, labels]: a torch tensor for tensors, a NumPy array for arrays."""

    logits: Any
    loss: None = None
    hidden_states: None = None
    attentions: None = None

    def to_tuple(self) -> tuple[Any]:
        """Return the tuple that a call with `return_dict=False` returns."""
        return (self.logits,)

    def keys(self) -> tuple[str]:
        """Return the names of the fields that are not None."""
        return ("logits",)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __getitem__(self, key: str | int) -> Any:
        if key in ("logits", 0):
            return self.logits
        raise KeyError(key)


class TokenModel(ModelAttributes):
    """A cross-encoder that is called with the arrays of a tokenizer. Several threads may call it at once.

    It shares the opened model of a `CrossEncoder`: closing either closes both.
    """

    def __init__(self, model: BatchModel) -> None:
        self._model = model
        self.bundle = model.bundle
        self._scorer = model._scorer

    def __call__(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        *,
        return_dict: bool | None = None,
        **others: Any,
    ) -> Any:
        """Score one padded batch of token ids [batch, seq], torch tensors or NumPy arrays.

        `attention_mask` defaults to ones, `token_type_ids` to zeros. Returns a `SequenceClassifierOutput` with raw logits, or
        with `return_dict=False` a tuple of them. They are a torch tensor on the device of `input_ids` if that is a tensor,
        otherwise a NumPy array. Raises InputError for arrays of another rank, dtype or size and for token ids or types that
        the model does not have, even in padding; UnsupportedOptionError for other inputs of transformers' models; BackendError
        for a closed model and for logits that are NaN or Inf.
        """
        _refuse(others)
        if input_ids is None:
            raise InputError("input_ids is missing: pass what a tokenizer returns, model(**inputs)")
        ids = _integers(input_ids, "input_ids", None)
        mask = np.ones_like(ids) if attention_mask is None else _integers(attention_mask, "attention_mask", ids.shape)
        types = np.zeros_like(ids) if token_type_ids is None else _integers(token_type_ids, "token_type_ids", ids.shape)
        batch = Batch(input_ids=ids, attention_mask=mask, token_type_ids=types, rows=np.arange(len(ids)))
        manifest = self._model.bundle.manifest
        _check_within(ids, manifest.vocab_size, "input_ids")
        _check_within(types, manifest.token_types or None, "token_type_ids")  # a model with 0 types ignores them
        logits: Any = self._model.run(batch)
        self._model.check_finite(logits)
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(input_ids, torch.Tensor):
            logits = torch.from_numpy(logits).to(input_ids.device)
        output = SequenceClassifierOutput(logits)
        return output.to_tuple() if return_dict is False else output

    def close(self) -> None:
        """Free the model and its `CrossEncoder`. May be called again; scoring afterwards raises BackendError."""
        self._model.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._model,)


def _refuse(inputs: Mapping[str, Any]) -> None:
    for name, value in inputs.items():
        if name not in ALTERNATIVES:
            raise UnsupportedOptionError(
                f"unknown input {name!r}; the model takes input_ids, attention_mask and token_type_ids"
            )
        if value is not None and value is not False:
            raise UnsupportedOptionError(f"{name} is not supported: {ALTERNATIVES[name]}")


def _integers(values: Any, name: str, shape: tuple[int, ...] | None) -> npt.NDArray[np.int64]:
    torch = sys.modules.get("torch")
    if isinstance(values, Mapping):
        raise InputError(f"{name} is a {type(values).__name__}: pass what it holds by name, model(**inputs)")
    try:
        array = np.asarray(values.cpu() if torch is not None and isinstance(values, torch.Tensor) else values)
    except ValueError:  # NumPy's for lists of different lengths
        raise InputError(
            f"{name} has rows of different lengths; pad them: tokenizer(..., padding=True, return_tensors='np')"
        ) from None
    except TypeError as error:  # torch's for bfloat16, which NumPy lacks
        raise InputError(f"{name} cannot be read as integers [batch, seq] ({error})") from error
    if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "iub":
        raise InputError(
            f"{name} is {array.dtype} {list(array.shape)}; expected integers [batch, seq] of at least 1 x 1"
        )
    if shape is not None and array.shape != shape:
        raise InputError(f"{name} is {list(array.shape)} and input_ids {list(shape)}; they must be of one size")
    return array.astype(np.int64)


def _check_within(values: Any, count: int | None, name: str) -> None:
    """Raise InputError for negative values, and for values of `count` or more if `count` is known."""
    least, most = int(values.min()), int(values.max())
    if least < 0 or (count is not None and most >= count):
        raise InputError(
            f"{name} holds {least if least < 0 else most}, and the model has "
            + (f"0 to {count - 1}" if count is not None else "none below 0")
        )
