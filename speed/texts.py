"""`Texts`: the texts that a benchmark scores. A request is one query with its passages."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import tokenizers

from ..engine.errors import DataFileError, OptionError
from ..engine.files.source import Given, Source
from ..engine.files.trec import read_collection, read_pairs
from ..engine.text.pair_tokenizer import PairTokenizer
from ..engine.text.typical_pairs import typical_pairs
from ..measurement.provenance import Provenance
from .result.speeds import Workload

Pairs = list[tuple[str, str]]

TYPICAL = "random words as long as MS MARCO's passages with a query"
STEP = 16
"""Width of a histogram bin, in tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Queries, each with passages. Without queries, requests are random words of the model's vocabulary, as long as MS MARCO's.

    `sha256` is the hash of the texts, in hex.
    """

    source: str
    sha256: str | None
    lists: Sequence[tuple[str, Sequence[str]]]

    @classmethod
    def typical(cls) -> "Texts":
        """Return texts without queries, for random words."""
        return cls(source=TYPICAL, sha256=None, lists=())

    @classmethod
    def of_pairs(cls, path: Path) -> "Texts":
        """Read `query <tab> passage` lines. Raises DataFileError, naming the file and line."""
        lists: dict[str, list[str]] = {}
        for query, passage in read_pairs(path):
            lists.setdefault(query, []).append(passage)
        return cls._of(path.name, lists)

    @classmethod
    def of_run(cls, queries: Given, passages: Given, run: Given) -> "Texts":
        """Read the candidates of a TREC run. Raises DataFileError, naming the file."""
        run = Source.of(run)
        query_texts, passage_texts, candidates = read_collection(queries, passages, run)
        lists = {
            query_texts[query]: [passage_texts[passage] for passage in scores] for query, scores in candidates.items()
        }
        return cls._of(run.short_name, lists)

    @classmethod
    def _of(cls, source: str, lists: dict[str, list[str]]) -> "Texts":
        if not lists:
            raise DataFileError(f"{source} holds no pairs")
        return cls(source=source, sha256=Provenance.digest(list(lists.items())), lists=list(lists.items()))

    def request(self, number: int, passages: int, tokenizer: tokenizers.Tokenizer) -> Pairs:
        """Return a query with `passages` passages, which are its own and then those of other queries.

        `number` chooses the query. Passages are repeated if there are too few. `tokenizer` provides the words if there are no
        texts.
        """
        if passages < 1:
            raise OptionError(f"--counts {passages}: give whole numbers from 1")
        if not self.lists:
            drawn = typical_pairs(tokenizer, passages, seed=number)
            return [(drawn[0][0], passage) for _, passage in drawn]
        first = number % len(self.lists)
        query = self.lists[first][0]
        order = cycle([*self.lists[first:], *self.lists[:first]])
        return [(query, text) for text in islice((text for _, texts in order for text in texts), passages)]

    def workload(self, pairs: Pairs, encoder: PairTokenizer) -> Workload:
        """Return the statistics of these pairs' lengths."""
        lengths = encoder.encode(pairs).lengths
        starts, counts = np.unique(lengths // STEP * STEP, return_counts=True)
        return Workload(
            source=self.source,
            sha256=self.sha256,
            pairs=len(pairs),
            mean_tokens=float(lengths.mean()),
            p50_tokens=float(np.percentile(lengths, 50)),
            p99_tokens=float(np.percentile(lengths, 99)),
            histogram={str(start): int(count) for start, count in zip(starts, counts, strict=True)},
        )
