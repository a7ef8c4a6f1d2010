"""`Passages`: the passages of a collection, looked up by id."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from ..engine.cross_encoder import CrossEncoder
from ..measurement.provenance import Provenance


class Passages(Protocol):
    """The passages of a collection, by id. Only one thread at a time may use them."""

    where: str
    """Where the passages are from, for messages: a path or a data set."""
    source: Provenance

    def missing(self, ids: Sequence[str]) -> list[str]:
        """Return the ids that no passage has."""

    def check(self, model: CrossEncoder) -> None:
        """Raise StoreError if this model cannot score these passages."""

    def rank_arguments(self, ids: Sequence[str]) -> dict[str, Any]:
        """Return the arguments of `rank` for these passages, all of which must exist."""


class TextPassages(ABC):
    """Passages whose texts can be looked up."""

    where: str
    source: Provenance

    @abstractmethod
    def missing(self, ids: Sequence[str]) -> list[str]:
        """Return the ids that no passage has."""

    @abstractmethod
    def texts(self, ids: Sequence[str]) -> list[str]:
        """Return the texts of these ids, all of which must exist."""

    @abstractmethod
    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Yield every id with its text, in the collection's order."""

    def check(self, model: CrossEncoder) -> None:  # noqa: B027  there is nothing to check
        """Do nothing, since every model reads texts."""

    def rank_arguments(self, ids: Sequence[str]) -> dict[str, Any]:
        """See `Passages.rank_arguments`."""
        return {"documents": self.texts(ids)}
