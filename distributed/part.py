"""`Part`: the scores of one block, as they are committed."""

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..engine.files.trec import ranked
from ..engine.text.truncation import Truncation
from .rows import Block
from .summary import Failure

NOTES = b"crossrt"
"""Key of the notes in the metadata of a part's schema."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The scores of a block's rows: for each row its query, and the scores of its passages in the order of the row.

    `backend` names the backend that computed them. `bundle` is the name and the digest of the bundle.
    """

    scores: tuple[tuple[str, Mapping[str, float]], ...]
    bundle: str
    backend: str
    truncation: Truncation = field(default_factory=Truncation)
    failures: tuple[Failure, ...] = ()

    def to_parquet(self) -> bytes:
        """Return a Parquet table with the columns qid, docno, rank, score and bundle.

        `rank` is the rank by score among the passages of the row, from 1. Ties are ordered by descending id, as in a run.
        Failures, backend and truncation are JSON in the schema's metadata, so that they are committed together with the scores.
        """
        import pyarrow
        from pyarrow import parquet

        columns: dict[str, list[Any]] = {"qid": [], "docno": [], "rank": [], "score": [], "bundle": []}
        for qid, scores in self.scores:
            ranks = {docno: rank for rank, docno in enumerate(ranked(scores), start=1)}
            columns["qid"] += [qid] * len(scores)
            columns["docno"] += scores
            columns["rank"] += [ranks[docno] for docno in scores]
            columns["score"] += scores.values()
            columns["bundle"] += [self.bundle] * len(scores)
        notes = {
            "backend": self.backend,
            "truncation": asdict(self.truncation),
            "failures": [asdict(failure) for failure in self.failures],
            "rows": [(qid, len(scores)) for qid, scores in self.scores],
        }
        file = io.BytesIO()
        schema = _schema().with_metadata({NOTES: json.dumps(notes)})
        parquet.write_table(pyarrow.Table.from_pydict(columns, schema=schema), file, compression="zstd")
        return file.getvalue()

    @classmethod
    def from_parquet(cls, content: bytes) -> "Part":
        """Return the part that `to_parquet` wrote."""
        from pyarrow import parquet

        table = parquet.read_table(io.BytesIO(content))
        notes = json.loads(table.schema.metadata[NOTES])
        docnos, scores = table["docno"].to_pylist(), table["score"].to_pylist()
        found, begin = [], 0
        for qid, count in notes["rows"]:
            end = begin + count
            found.append((qid, dict(zip(docnos[begin:end], scores[begin:end], strict=True))))
            begin = end
        return cls(
            scores=tuple(found),
            bundle=table["bundle"][0].as_py() if len(table) else "",
            backend=notes["backend"],
            truncation=Truncation(**notes["truncation"]),
            failures=tuple(Failure(**failure) for failure in notes["failures"]),
        )


def all_failed(block: Block, *, bundle: str, error: str) -> Part:
    """Return the part of a block in which no passage could be scored."""
    failures = (Failure(query_id=row.qid, doc_id=docno, error=error) for row in block.rows for docno in row.docnos)
    return Part(scores=(), bundle=bundle, backend="none", failures=tuple(failures))


def _schema() -> Any:
    import pyarrow

    text = pyarrow.string()
    return pyarrow.schema(
        {"qid": text, "docno": text, "rank": pyarrow.int32(), "score": pyarrow.float64(), "bundle": text}
    )
