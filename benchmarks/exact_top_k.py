#!/usr/bin/env python3
"""How often does an exact ranking from a cheaper precision equal FP32's, and how fast is it?

    benchmarks/exact_top_k.py quality BUNDLE --queries Q.tsv --passages P.tsv --run R.trec --out exact_top_k.json
    benchmarks/exact_top_k.py speed BUNDLE --queries Q.tsv --passages P.tsv --run R.trec --out exact_top_k_speed.json

Quality: the candidates of each query are scored once in every precision. Some queries are also scored with further passages of
the collection. From these scores, thousands of lists of several lengths are drawn, and the best k of each are found as `rank(...,
exact=True)` finds them. A list fails when its k best passages, or their order, differ from FP32's. For each length and k, the
result gives the upper 95 % confidence limit of the failure rate (one-sided, exact binomial). This limit assumes independent
lists. The lists of one query are not independent, so the result also gives the limit for the share of queries with any failing
list. Near ties are counted separately.

Speed: `rank` of the same lists in FP32, in the cheaper precision, exactly, and exactly with BF16 instead of FP32 as the second
pass. These alternate request by request, after a warm-up that is not counted. A ratio compares two times of the same request; the
result has the median and the 5th and 95th percentile. The quality part takes no times.
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from result import write_result

from crossrt import CrossEncoder
from crossrt.engine.bundle.score_error import ScoreErrorStats
from crossrt.engine.errors import CrossrtError
from crossrt.engine.files.trec import read_collection
from crossrt.engine.runtime.top_k import TopK, exact_top_k

Floats = npt.NDArray[np.float32]
Lists = list[tuple[str, list[str]]]
LENGTHS = (10, 20, 50, 100, 200, 500, 1000)
KS = (1, 3, 5, 10, 20, 50, 100)
NEAR = 0.01
"""A list is a near tie if the FP32 scores of its k-th and (k + 1)-th passage differ by less than this."""
CONFIDENCE = 0.95
SMALL = ((10, 1), (10, 3), (14, 1), (20, 2), (20, 5), (30, 5), (50, 10))
"""Length and k of the short lists that are timed, around the limit of `precision="auto"`: 4 k + 10 passages."""
FEW_WORDS = 8
"""Number of words in a short passage."""


def main() -> None:
    """Measure, print, and write JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("quality", "speed"))
    parser.add_argument("bundle", type=Path)
    for name in ("queries", "passages", "run"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--long", type=int, default=12, help="quality: queries that are scored with 1,000 passages")
    parser.add_argument("--draws", type=int, default=20, help="quality: lists drawn of each query and length")
    parser.add_argument("--requests", type=int, default=40, help="speed: lists of 100, and of each short length")
    parser.add_argument("--long-requests", type=int, default=6, help="speed: lists of 1,000")
    parser.add_argument("--quick", action="store_true", help="a glance: fewer of everything")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.long, arguments.draws, arguments.requests, arguments.long_requests = 1, 2, 4, 1
    queries, passages, candidates = read_collection(arguments.queries, arguments.passages, arguments.run)
    lists = [(queries[query], [passages[name] for name in scores]) for query, scores in candidates.items()]
    options: dict[str, Any] = {"device": "cpu", "backend": arguments.backend}
    with (
        CrossEncoder(arguments.bundle, precision="fp32", **options) as precise,
        CrossEncoder(arguments.bundle, precision=arguments.precision, **options) as cheap,
        Half(arguments.bundle, options) as half,
    ):
        error = cheap.bundle.manifest.models[arguments.precision].score_errors[cheap.backend]
        result: dict[str, Any] = {
            "model": cheap.bundle.manifest.source["id"],
            "run": arguments.run.name,
            "precision": f"{arguments.precision} on {cheap.backend}",
            "second pass in BF16": half.about,
            "error": asdict(error),
        }
        models = [precise, cheap, *([half.model] if half.model else [])]
        if arguments.part == "quality":
            lists = lists[:6] if arguments.quick else lists
            long = lengthened(lists[: arguments.long], list(passages.values()), 1000)
            own, longer = (
                [[model.logits([(query, text) for text in texts])[:, 0] for model in models] for query, texts in each]
                for each in (lists, long)
            )
            of_query = [[scores, *longer[number : number + 1]] for number, scores in enumerate(own)]
            result |= quality(of_query, error, arguments.draws)
            print_quality(result, arguments.precision)
        else:
            result["speed"] = speed(models, error, lists, list(passages.values()), arguments)
    if arguments.out is not None:
        write_result(arguments.out, result)


class Half:
    """The bundle's model in BF16. If it cannot be opened, `model` is None and `about` gives the reason."""

    def __init__(self, bundle: Path, options: dict[str, Any]) -> None:
        self.model: CrossEncoder | None = None
        try:
            self.model = CrossEncoder(bundle, precision="bf16", **options)
            self.about = f"bf16 on {self.model.backend}"
        except CrossrtError as error:
            self.about = f"not measured: {error}"

    def __enter__(self) -> "Half":
        return self

    def __exit__(self, *exception: object) -> None:
        if self.model is not None:
            self.model.close()


def lengthened(lists: Lists, everything: Sequence[str], length: int) -> Lists:
    """Return the lists, extended with random passages of the collection and cut to `length` passages."""
    chance = np.random.default_rng(0)
    longer = []
    for query, own in lists:
        others = [everything[row] for row in chance.permutation(len(everything))[:length].tolist()]
        longer.append((query, list(dict.fromkeys([*own, *others]))[:length]))
    return longer


# -- quality


@dataclass(kw_only=True)
class Way:
    """How often one ranking method fails, over lists of one kind."""

    other_set: int = 0
    other_list: int = 0
    """Lists whose k best differ from FP32's in set or in order."""
    near_ties_other_list: int = 0
    failed_queries: set[int] = field(default_factory=set)
    rescored: list[int] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)

    def add(self, query: int, rows: list[int], best: list[int], *, near: bool, found: TopK | None = None) -> None:
        """Count one list. `best` are its best rows in FP32."""
        self.other_set += set(rows) != set(best)
        if rows != best:
            self.other_list += 1
            self.near_ties_other_list += near
            self.failed_queries.add(query)
        if found is not None:
            self.rescored.append(found.rescored)
            self.rounds.append(found.rounds)

    def merge(self, other: "Way") -> None:
        """Count the lists of another kind too."""
        self.other_set += other.other_set
        self.other_list += other.other_list
        self.near_ties_other_list += other.near_ties_other_list
        self.failed_queries |= other.failed_queries

    def row(self, lists: int, near_ties: int, queries: int) -> dict[str, Any]:
        """Return the counts, with the upper confidence limits of their rates."""
        row: dict[str, Any] = {
            "other_set": self.other_set,
            "other_list": self.other_list,
            "upper_95": upper_limit(self.other_list, lists),
            "queries_with_another_list": len(self.failed_queries),
            "upper_95_of_queries": upper_limit(len(self.failed_queries), queries),
            "near_ties_other_list": self.near_ties_other_list,
            "upper_95_of_near_ties": upper_limit(self.near_ties_other_list, near_ties),
        }
        if self.rescored:
            row |= {
                "rescored": round(float(np.mean(self.rescored)), 1),
                "rescored_most": max(self.rescored),
                "rounds": round(float(np.mean(self.rounds)), 2),
            }
        return row


def quality(scored: Sequence[Sequence[Sequence[Floats]]], error: ScoreErrorStats, draws: int) -> dict[str, Any]:
    """Draw lists of each length, and count those whose k best differ from FP32's.

    `scored` has a sequence of lists for each query. Each list has the scores in FP32, in the cheaper precision and, if measured,
    in BF16.
    """
    chance = np.random.default_rng(1)
    rows, totals = [], Kind()
    for length in LENGTHS:
        for k in (k for k in KS if k <= length):
            kind = Kind()
            for query, lists in enumerate(scored):
                for scores in (each for each in lists if len(each[0]) >= length):
                    for _ in range(1 if length == len(scores[0]) else draws):
                        drawn = chance.permutation(len(scores[0]))[:length]
                        kind.add(query, [each[drawn] for each in scores], k, error)
            if kind.lists:
                rows.append({"length": length, "k": k, **kind.row()})
                totals.merge(kind)
    return {"all": totals.row(), "quality": rows}


@dataclass(kw_only=True)
class Kind:
    """Lists of one kind, and how often each ranking method fails on them."""

    lists: int = 0
    near_ties: int = 0
    queries: set[int] = field(default_factory=set)
    ways: dict[str, Way] = field(default_factory=dict)

    def add(self, query: int, scores: Sequence[Floats], k: int, error: ScoreErrorStats) -> None:
        """Rank one list by each method. `scores` are the scores of one list, as in `quality`."""
        precise, cheap, *others = scores
        order = np.argsort(-precise, kind="stable")
        best = order[:k].tolist()
        near = bool(k < len(precise) and precise[order[k - 1]] - precise[order[k]] < NEAR)
        self.lists += 1
        self.near_ties += near
        self.queries.add(query)
        self._way("alone").add(query, np.argsort(-cheap, kind="stable")[:k].tolist(), best, near=near)
        for name, second in zip(("exact", "second pass in BF16"), (precise, *others), strict=False):
            found = exact_top_k(cheap, k, lambda rows, second=second: second[rows], error)  # type: ignore[misc]
            self._way(name).add(query, found.rows.tolist(), best, near=near, found=found)

    def merge(self, other: "Kind") -> None:
        """Count the lists of another kind too."""
        self.lists += other.lists
        self.near_ties += other.near_ties
        self.queries |= other.queries
        for name, way in other.ways.items():
            self._way(name).merge(way)

    def row(self) -> dict[str, Any]:
        """Return the counts as JSON."""
        ways = {name: way.row(self.lists, self.near_ties, len(self.queries)) for name, way in self.ways.items()}
        return {"lists": self.lists, "queries": len(self.queries), "near_ties": self.near_ties, **ways}

    def _way(self, name: str) -> Way:
        return self.ways.setdefault(name, Way())


def upper_limit(failures: int, trials: int) -> float | None:
    """Return the one-sided upper limit of the failure rate at `CONFIDENCE` (Clopper and Pearson), or None without trials.

    At this rate, `failures` or fewer have the probability 1 - `CONFIDENCE`. Without failures the limit is about 3 / `trials`.
    """
    if not trials:
        return None
    low, high = failures / trials, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(failures, trials, middle) > 1 - CONFIDENCE else (low, middle)
    return float(f"{high:.3g}")


def _at_most(failures: int, trials: int, rate: float) -> float:
    """Return the probability of at most `failures` failures in independent trials with the given failure rate."""
    if rate >= 1:
        return float(failures >= trials)
    if rate <= 0:
        return 1.0
    ways = (math.lgamma(trials + 1) - math.lgamma(n + 1) - math.lgamma(trials - n + 1) for n in range(failures + 1))
    return math.fsum(
        math.exp(each + n * math.log(rate) + (trials - n) * math.log1p(-rate)) for n, each in enumerate(ways)
    )


def print_quality(result: dict[str, Any], precision: str) -> None:
    """Print a line for each kind of list and ranking method."""
    for row in [*result["quality"], {"length": "all", "k": "all", **result["all"]}]:
        print(
            f"list {row['length']}, k {row['k']}: {row['lists']:,} lists of {row['queries']} queries, "
            f"{row['near_ties']} near ties"
        )
        for name, way in row.items():
            if isinstance(way, dict):
                again = f", {way['rescored']} scored again" if "rescored" in way else ""
                near = way["upper_95_of_near_ties"]
                print(
                    f"    {precision if name == 'alone' else ''} {name}: {way['other_list']} other lists (rate at most "
                    f"{way['upper_95']:.2%}), in {way['queries_with_another_list']} queries (at most "
                    f"{way['upper_95_of_queries']:.1%}), {way['near_ties_other_list']} of near ties"
                    f"{'' if near is None else f' (at most {near:.1%})'}{again}"
                )


# -- speed


def speed(
    models: Sequence[CrossEncoder], error: ScoreErrorStats, lists: Lists, everything: Sequence[str], arguments: Any
) -> dict[str, Any]:
    """Time lists of 100 and 1,000 passages with k = 10, and short lists of whole passages and of passages cut to a few words."""
    kinds: list[tuple[int, int, int | None, int]] = [
        (100, 10, None, arguments.requests),
        (1000, 10, None, arguments.long_requests),
        *((length, k, words, arguments.requests) for words in (None, FEW_WORDS) for length, k in SMALL),
    ]
    rows = {}
    for length, k, words, count in kinds:
        texts = [(query, texts[:length]) for query, texts in lengthened(lists[:count], everything, length)]
        if words is not None:
            texts = [(query, [" ".join(text.split()[:words]) for text in each]) for query, each in texts]
        name = f"1 x {length:,}, k = {k}" + ("" if words is None else f", {words} words a passage")
        rows[name] = timed(models, error, texts, k)
        print(name, rows[name], flush=True)
    return rows


def timed(models: Sequence[CrossEncoder], error: ScoreErrorStats, lists: Lists, k: int) -> dict[str, Any]:
    """Time each ranking method on each list, and count the results that equal FP32's."""
    precise, cheap, *others = models
    ways: dict[str, Callable[[str, list[str]], list[int]]] = {
        "fp32": lambda query, texts: ids(precise.rank(query, texts, top_k=k)),
        "cheap": lambda query, texts: ids(cheap.rank(query, texts, top_k=k, exact=False)),
        "exact": lambda query, texts: ids(cheap.rank(query, texts, top_k=k, exact=True)),
    }
    if others:
        ways["second pass in BF16"] = lambda query, texts: refined(cheap, others[0], error, query, texts, k)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    equal = dict.fromkeys(ways, 0)
    for number, (query, texts) in enumerate([*lists[:1], *lists]):
        found = {}
        order = list(ways)
        for name in order if number % 2 else reversed(order):
            begin = time.perf_counter()
            found[name] = ways[name](query, texts)
            if number:
                seconds[name].append(time.perf_counter() - begin)
        if number:
            for name in ways:
                equal[name] += found[name] == found["fp32"]
    row: dict[str, Any] = {
        "lists": len(lists),
        "equal to fp32": equal,
        "ms": {name: round(1e3 * float(np.median(values)), 2) for name, values in seconds.items()},
    }
    for name in list(ways)[2:]:
        for other in ("fp32", "cheap", *(["exact"] if name != "exact" else [])):
            ratios = np.array(seconds[other]) / np.array(seconds[name])
            row[f"{name} over {other}"] = [
                round(float(value), 3) for value in (np.median(ratios), *np.percentile(ratios, (5, 95)))
            ]
    return row


def ids(found: list[dict[str, Any]]) -> list[int]:
    """Return the indexes of the passages that `rank` returned."""
    return [each["corpus_id"] for each in found]


def refined(
    cheap: CrossEncoder, second: CrossEncoder, error: ScoreErrorStats, query: str, texts: list[str], k: int
) -> list[int]:
    """Rank exactly, with the second pass on another open model."""
    pairs = [(query, text) for text in texts]
    found = exact_top_k(
        cheap.logits(pairs)[:, 0], k, lambda rows: second.logits([pairs[row] for row in rows])[:, 0], error
    )
    return [int(row) for row in found.rows]


if __name__ == "__main__":
    main()
