"""`PreparedPassages`: the passages of a store that `crossrt prepare` made."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..engine.cross_encoder import CrossEncoder
from ..engine.errors import StoreError
from ..engine.files.digests import sha256_of
from ..engine.store.passage_store import PassageStore
from ..measurement.provenance import Provenance


class PreparedPassages:
    """A store that `crossrt prepare` made."""

    def __init__(self, path: Path) -> None:
        self.store, self.where = PassageStore(path), str(path)
        digests = [sha256_of(path / name) for name in sorted(self.store.description.files)]
        self.source = Provenance(name=path.name, sha256=Provenance.digest(digests))

    def missing(self, ids: Sequence[str]) -> list[str]:
        """Return the ids that are not in the store."""
        try:
            self.store.rows(ids)
        except StoreError:
            return [name for name in ids if name not in self.store]
        return []

    def check(self, model: CrossEncoder) -> None:
        """Raise StoreError for a model whose tokenizer differs from the store's, or whose pairs may be longer."""
        self.store.check(
            model.bundle.tokenizer_sha256,
            max_length=model.max_length,
            truncation_side=model.bundle.manifest.truncation_side,
        )

    def rank_arguments(self, ids: Sequence[str]) -> dict[str, Any]:
        """See `Passages.rank_arguments`."""
        return {"passage_ids": ids, "passages": self.store}
