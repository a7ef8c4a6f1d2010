"""`AutoModelForSequenceClassification`: tensors of a tokenizer in, `.logits` out, as transformers' class of that name."""

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from .cross_encoder import CrossEncoder
from .errors import InputError
from .plan import Batch


@dataclass(frozen=True, slots=True)
class SequenceClassifierOutput:
    """The model's `logits`, float32 [batch, labels]: a torch tensor for tensors, a NumPy array for arrays."""

    logits: Any

    def __getitem__(self, key: str | int) -> Any:
        if key in ("logits", 0):
            return self.logits
        raise KeyError(key)


class AutoModelForSequenceClassification:
    """A cross-encoder called with token ids. Made by `from_pretrained`."""

    def __init__(self, model: CrossEncoder) -> None:
        self._model = model

    @classmethod
    def from_pretrained(cls, model_name_or_path: Any, **options: Any) -> "AutoModelForSequenceClassification":
        """Open a bundle, a checkpoint directory or a hub id, with the options of `CrossEncoder`."""
        return cls(CrossEncoder(model_name_or_path, **options))

    def eval(self) -> "AutoModelForSequenceClassification":
        """Return self: an exported model is always in evaluation mode."""
        return self

    def __call__(
        self, input_ids: Any, attention_mask: Any = None, token_type_ids: Any = None
    ) -> SequenceClassifierOutput:
        """Score one padded batch of token ids [batch, seq], torch tensors or NumPy arrays.

        Without an `attention_mask` every token counts; without `token_type_ids` every token is of type 0. Raises
        InputError for arrays of another rank, type or size, and for ids that the model does not have, of padding too.
        """
        ids = _integers(input_ids, "input_ids", None)
        mask = np.ones_like(ids) if attention_mask is None else _integers(attention_mask, "attention_mask", ids.shape)
        types = np.zeros_like(ids) if token_type_ids is None else _integers(token_type_ids, "token_type_ids", ids.shape)
        batch = Batch(input_ids=ids, attention_mask=mask, token_type_ids=types, rows=np.arange(len(ids)))
        manifest = self._model.bundle.manifest
        _check_within(ids, manifest.vocab_size, "input_ids")
        _check_within(types, manifest.token_types or None, "token_type_ids")  # a model without types does not read them
        logits = self._model._scorer.run(batch)
        self._model.check_finite(logits)
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(input_ids, torch.Tensor):
            return SequenceClassifierOutput(torch.from_numpy(logits))
        return SequenceClassifierOutput(logits)

    def close(self) -> None:
        """Free the model."""
        self._model.close()


def _integers(values: Any, name: str, shape: tuple[int, ...] | None) -> Any:
    array = np.asarray(values)
    if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "iub":
        raise InputError(
            f"{name} is {array.dtype} {list(array.shape)}; expected integers [batch, seq] of at least 1 x 1"
        )
    if shape is not None and array.shape != shape:
        raise InputError(f"{name} is {list(array.shape)} and input_ids {list(shape)}; they must be of one size")
    return array.astype(np.int64)


def _check_within(values: Any, count: int | None, name: str) -> None:
    """Raise InputError unless all are 0 to below `count`, where that is known."""
    least, most = int(values.min()), int(values.max())
    if least < 0 or (count is not None and most >= count):
        raise InputError(
            f"{name} holds {least if least < 0 else most}, and the model has "
            + (f"0 to {count - 1}" if count is not None else "none below 0")
        )
