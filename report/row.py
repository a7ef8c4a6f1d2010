"""`Row`: a model in one precision with one backend, with its measured speed and quality."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..evaluation.result import Ranking
from ..speed.result.speeds import Speed, Speeds
from .results import Results

Key = tuple[str, str, str | None]
"""What joins a speed and a ranking: the bundle's sha256, the precision and the method."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of the page. `name` is unique on the page.

    `rankings` has an item for each evaluation, or None if the row is not in that evaluation.
    """

    name: str
    model: str
    precision: str
    speed: Speed | None
    measured: Speeds | None
    rankings: Sequence[Ranking | None]

    @property
    def group(self) -> str:
        """The name without the precision. All precisions of a model with one backend have the same group."""
        return self.name.replace(f" {self.precision}", "", 1)


def short(model: str) -> str:
    """Return a model's name without its owner and the prefix `ms-marco-`."""
    return model.rstrip("/").rpartition("/")[2].removeprefix("ms-marco-")


def name_of(model: str, precision: str, method: str | None) -> str:
    """Return the name of a row. Several rows may have the same name."""
    return f"{short(model)} {precision}" + (f", {method}" if method else "")


def rows_of(results: Results) -> list[Row]:
    """Join speeds and rankings by the bundle's sha256, the precision and the method.

    A bundle that was measured in several results has a row for each. Rankings without a speed follow, candidates last.
    """
    evaluations = [evaluation for _, evaluation in results.evaluations]
    rankings: list[dict[Key, Ranking]] = [
        {
            (ranking.bundle_sha256, ranking.precision, ranking.method): ranking
            for ranking in evaluation.rankings
            if ranking.bundle_sha256 is not None and ranking.precision is not None
        }
        for evaluation in evaluations
    ]
    fast = [(speeds, speed) for _, speeds in results.speeds for speed in speeds.rows]
    names = names_of([speed for _, speed in fast])
    rows = [
        Row(
            name=name,
            model=speed.model,
            precision=speed.precision,
            speed=speed,
            measured=speeds,
            rankings=[found.get((speed.bundle_sha256, speed.precision, speed.method)) for found in rankings],
        )
        for name, (speeds, speed) in zip(names, fast, strict=True)
    ]
    known = {(speed.bundle_sha256, speed.precision, speed.method) for _, speed in fast}
    others: dict[tuple[Key, str], list[Ranking | None]] = {}
    for place, evaluation in enumerate(evaluations):
        for ranking in evaluation.rankings:
            key = (ranking.bundle_sha256 or "", ranking.precision or "", ranking.method)
            if key not in known:
                # Candidates have no bundle. Those of different collections are different rows.
                apart = f"{ranking.label} of {evaluation.collection}" if not key[0] else ranking.label
                others.setdefault((key, apart), [None] * len(evaluations))[place] = ranking
    for ((_, precision, method), label), found in sorted(others.items(), key=lambda item: not item[0][0][0]):
        model = next(ranking.model for ranking in found if ranking) or ""
        # Name the row like rows with a speed, so that a bundle has one name.
        name = name_of(model, precision, method) if model else label
        taken = any(row.name == name for row in rows)
        rows.append(
            Row(
                name=f"{name}, {label}" if taken else name,
                model=model,
                precision=precision,
                speed=None,
                measured=None,
                rankings=found,
            )
        )
    return rows


def names_of(speeds: Sequence[Speed]) -> list[str]:
    """Return a unique name for each row: model, precision and method, and as many further properties as needed."""
    names = [name_of(speed.model, speed.precision, speed.method) for speed in speeds]
    further: Sequence[Callable[[Speed], str]] = (
        lambda speed: speed.backend,
        lambda speed: f"{speed.threads} threads",
        lambda speed: speed.device,
        lambda speed: speed.label,
        lambda speed: speed.bundle_sha256[:8],
    )
    for more in further:
        shared = {
            name: {more(one) for one, other in zip(speeds, names, strict=True) if other == name} for name in names
        }
        names = [
            f"{name}, {more(one)}" if len(shared[name]) > 1 else name for one, name in zip(speeds, names, strict=True)
        ]
    return [
        f"{name} ({names[:place].count(name) + 1})" if names[:place].count(name) else name
        for place, name in enumerate(names)
    ]
