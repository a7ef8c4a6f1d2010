"""`Reference`: the reference of the parity check.

It is the checkpoint in PyTorch, in FP32 and evaluation mode, with its own tokenizer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from ...engine.errors import CheckpointError
from .checkpoint import Checkpoint
from .pretrained import config_of, errors_in_words, tokenizer_of
from .reference_model import reference_model
from .reference_settings import default_prompt

ROWS = 16
"""Maximum number of pairs of one length in a batch."""


@dataclass(frozen=True, slots=True)
class Expected:
    """The reference's results for n pairs: the token `ids` of each, and the raw `logits`, float32 [n, labels]."""

    ids: tuple[list[int], ...]
    logits: npt.NDArray[np.float32]


class Reference:
    """PyTorch's logits for pairs of texts. Each pair is tokenized alone and computed in a batch of pairs of the same length,
    without padding.

    The model gets everything that its tokenizer returns, except what its `forward` does not accept. The checkpoint's default
    prompt is put before each query, as in sentence-transformers.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.config = config_of(checkpoint)
        self.tokenizer = tokenizer_of(checkpoint, self.config)
        with errors_in_words(checkpoint, "transformers cannot load this model"):
            self.model = reference_model(checkpoint, self.config)
        self.prompt = default_prompt(checkpoint.path)

    def logits(
        self, pairs: Sequence[tuple[str, str]], *, max_length: int, progress: bool = False
    ) -> npt.NDArray[np.float32]:
        """Return raw logits, float32 [n, labels]."""
        return self.expected(pairs, max_length=max_length, progress=progress).logits

    def expected(self, pairs: Sequence[tuple[str, str]], *, max_length: int, progress: bool = False) -> Expected:
        """Return raw logits and token ids. Pairs are truncated as in transformers."""
        with errors_in_words(self.checkpoint, "the tokenizer cannot be used"):
            encoded = [self._encoded(pair, max_length) for pair in pairs]
        by_length: dict[int, list[int]] = {}
        for row, each in enumerate(encoded):
            by_length.setdefault(len(each["input_ids"]), []).append(row)
        logits: list[npt.NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(pairs)
        with (
            errors_in_words(self.checkpoint, "transformers cannot compute this model"),
            torch.inference_mode(),
            tqdm(total=len(pairs), desc="PyTorch reference", unit="pair", disable=not progress) as bar,
        ):
            for same in by_length.values():
                for start in range(0, len(same), ROWS):
                    rows = same[start : start + ROWS]
                    batch = {
                        name: torch.tensor([encoded[row][name] for row in rows])
                        for name in encoded[rows[0]]
                        if name in self.model.input_names
                    }
                    for row, each in zip(rows, self._computed(batch), strict=True):
                        logits[row] = each
                    bar.update(len(rows))
        stacked = np.stack(logits) if pairs else np.zeros((0, self.checkpoint.labels), dtype=np.float32)
        return Expected(tuple(each["input_ids"] for each in encoded), stacked)

    def batch_of(self, pair: tuple[str, str], max_length: int) -> dict[str, Any]:
        """Return the inputs of the model for one pair."""
        encoded = self._encoded(pair, max_length)
        return {name: torch.tensor([ids]) for name, ids in encoded.items() if name in self.model.input_names}

    def _computed(self, batch: dict[str, Any]) -> npt.NDArray[np.float32]:
        try:
            return np.asarray(self.model(batch).float().numpy())
        except IndexError as error:  # raised by an embedding table
            largest = ", ".join(f"{name} up to {int(values.max())}" for name, values in batch.items())
            raise CheckpointError(
                f"{self.checkpoint.path}: the tokenizer gives {largest}, for some of which the model has no embedding; "
                "transformers cannot compute it either. Where the token types are too many, set model_input_names in "
                'tokenizer_config.json to ["input_ids", "attention_mask"]'
            ) from error

    def _encoded(self, pair: tuple[str, str], max_length: int) -> dict[str, list[int]]:
        # Lists of one text each: given two plain strings, transformers treats an empty passage like a missing one.
        encoded = self.tokenizer([self.prompt + pair[0]], [pair[1]], truncation="longest_first", max_length=max_length)
        return {name: list(ids[0]) for name, ids in encoded.items()}
