"""`CalibrationSet`: a random sample of real pairs, with its seed and hash."""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..engine.errors import DataFileError
from ..engine.files.digests import texts_sha256
from ..engine.files.source import Given, Source
from ..engine.files.trec import read_collection, read_pairs
from ..engine.options import whole

MIN_PAIRS = 100
"""Minimum number of calibration pairs. With fewer pairs, ranges depend on chance."""
BUILTIN = Path(__file__).resolve().parent.parent / "demo" / "calibration" / "pairs.tsv"


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSet:
    """Query-passage pairs drawn uniformly, without duplicates, from `source`.

    A uniform sample preserves the distribution of lengths and the mixture of relevant and irrelevant passages. The same source,
    size and seed give the same pairs and the same `sha256`, which the manifest records.
    """

    pairs: tuple[tuple[str, str], ...]
    source: str
    seed: int
    sha256: str

    @classmethod
    def sample(
        cls, pairs: Sequence[tuple[str, str]], *, source: str, size: int | None = None, seed: int = 0
    ) -> "CalibrationSet":
        """Draw `size` pairs, by default all. Raises OptionError for a size below one and DataFileError for too few pairs."""
        unique = list(dict.fromkeys(pairs))
        if size is not None:
            size = whole("size", size, minimum=1, hint=", or None for all pairs")
            if len(unique) < size:
                raise DataFileError(
                    f"{source} holds {len(unique)} different pairs, and {size} are wanted; give more pairs"
                )
            unique = random.Random(seed).sample(unique, size)
        if not unique:
            raise DataFileError(f"{source} holds no pairs")
        sha256 = texts_sha256(text for pair in unique for text in pair)
        return cls(pairs=tuple(unique), source=source, seed=seed, sha256=sha256)

    @classmethod
    def builtin(cls) -> "CalibrationSet":
        """Return the pairs that come with crossrt: synopses and descriptions of Debian packages."""
        return cls.from_pairs_file(BUILTIN, source="built-in pairs")

    def without_queries(self, queries: Collection[str], *, size: int) -> "CalibrationSet":
        """Return at most `size` pairs of queries that are not in `queries`, drawn with the seed.

        Raises DataFileError, saying how many are needed, when fewer than 100 pairs are left.
        """
        remaining = [pair for pair in self.pairs if pair[0] not in queries]
        if len(remaining) < MIN_PAIRS:
            raise DataFileError(
                f"{self.source}: {len(remaining)} pairs are left beside those of the judging queries, and at least {MIN_PAIRS} "
                "are needed to calibrate; give more pairs"
            )
        return self.sample(remaining, source=self.source, size=min(size, len(remaining)), seed=self.seed)

    @classmethod
    def from_pairs_file(cls, path: Path, *, size: int | None = None, source: str | None = None) -> "CalibrationSet":
        """Draw from a file of `query <tab> passage` lines."""
        return cls.sample(read_pairs(path), source=source or path.name, size=size)

    @classmethod
    def from_trec(
        cls, queries: Given, passages: Given, run: Given, *, size: int | None = None, seed: int = 0
    ) -> "CalibrationSet":
        """Draw from the candidates of a TREC run, with texts from two TSV files."""
        run = Source.of(run)
        query_texts, passage_texts, candidates = read_collection(queries, passages, run)
        pairs = [
            (query_texts[query], passage_texts[passage]) for query, scores in candidates.items() for passage in scores
        ]
        return cls.sample(pairs, source=run.short_name, size=size, seed=seed)
