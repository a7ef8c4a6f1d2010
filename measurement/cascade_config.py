"""`CascadeConfig`: a cascade of two bundles."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..engine.cascade import Cascade
from .model_config import ModelConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadeConfig:
    """A row of an evaluation: `first` scores a list, and `second` ranks the best `keep` of it."""

    first: ModelConfig
    second: ModelConfig
    keep: int

    @property
    def label(self) -> str:
        """The names of both, such as `tinybert-l2.fp32+minilm-l6.fp32.keep20`."""
        return f"{self.first.label}+{self.second.label}.keep{self.keep}"

    @property
    def method(self) -> str:
        """A short description of how it ranks."""
        return f"best {self.keep} of {self.first.label}"

    @property
    def rest_label(self) -> str:
        """The label of the row that ranks the passages that are not kept."""
        return self.first.label

    @property
    def models(self) -> Sequence[ModelConfig]:
        """The models that score. The last one decides the order."""
        return [self.first, self.second]

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Everything that the exact scores depend on, as JSON."""
        return {**self.second.fingerprint, "first": self.first.fingerprint, "keep": self.keep}

    @property
    def rank_options(self) -> dict[str, Any]:
        """The options of the opened cascade's `rank`."""
        return {**self.second.rank_options, "first_options": self.first.scoring_options}

    @contextmanager
    def open(self) -> Iterator[Cascade]:
        """Open both models, and close them at the end."""
        with self.first.open() as first, self.second.open() as second:
            yield Cascade(first, second, keep=self.keep)
