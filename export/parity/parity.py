"""The parity check: a bundle's scores, from raw text, against the checkpoint in PyTorch."""

import json
import random
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from ...calibration.judging_set import CANDIDATES, QUERIES, JudgingSet
from ...calibration.ranking import Judge, RankingReport, kendall_tau, top_overlap
from ...engine.activation import Floats
from ...engine.batching.plan import plan_single_batch
from ...engine.cross_encoder import CrossEncoder
from ...engine.errors import InputError
from ...engine.labels import need_label
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.reference import Expected, Reference, activation_of
from ..precision.tolerance import TOLERANCE, Tolerance
from .pairs import groups_of

LIST_LENGTH = 20
SIZES = ("layers", "hidden_size", "attention_heads", "intermediate_size", "vocab_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstPair:
    """A pair with the reference's logit and ours, as it was scored: `alone` or `batched`."""

    query: str
    passage: str
    scored: str
    reference: float
    candidate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """How far a bundle's scores lie from the reference. True when within tolerance.

    Differences are absolute, over all pairs, scored alone and in mixed batches. `activation_max_abs_diff` compares the
    scores after each side's own activation. `kendall_tau` and `top10_overlap` are means over the queries that have at
    least two candidates, `list_kendall_tau`, which has a limit, over those with at least 20, since one near tie weighs
    little there; None when there are none. `ranking` is over the lists of a judging set, where one was given;
    `other_failures` are what the making of a precision found against it, `notes` what else it has to say, as lines.
    """

    precision: str
    backend: str
    pairs: int
    queries: int
    max_length: int
    max_abs_diff: float
    mean_abs_diff: float
    activation_max_abs_diff: float
    token_mismatches: int
    not_finite: int
    kendall_tau: float | None
    list_kendall_tau: float | None
    top10_overlap: float | None
    tolerance: Tolerance
    worst: tuple[WorstPair, ...]
    ranking: RankingReport | None = None
    other_failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def failures(self) -> list[str]:
        """Each limit that does not hold, in words; empty when the check passed."""
        limit = self.tolerance.max_abs
        found = list(self.other_failures)
        if self.not_finite:
            found.append(f"{self.not_finite} logits are NaN or Inf")
        if not self.max_abs_diff <= limit:
            found.append(f"logits differ by up to {self.max_abs_diff:.2e}, allowed is {limit:.0e}")
        if not self.activation_max_abs_diff <= limit:
            found.append(
                f"scores differ by up to {self.activation_max_abs_diff:.2e} after the activation, allowed is {limit:.0e}"
            )
        if self.token_mismatches:
            found.append(f"{self.token_mismatches} pairs are tokenized differently")
        tau = self.list_kendall_tau
        if tau is not None and tau < self.tolerance.kendall_tau:
            found.append(
                f"Kendall tau is {tau:.4f} over lists of at least {LIST_LENGTH}, {self.tolerance.kendall_tau} is needed"
            )
        if self.ranking is not None:
            found += self.tolerance.ranking_failures(self.ranking)
        elif self.tolerance.ranked:
            found.append(
                f"{self.precision} is judged by its ranking; give at least {QUERIES} queries of {CANDIDATES} candidates"
            )
        return found

    def __bool__(self) -> bool:
        return not self.failures

    def summary(self) -> dict[str, Any]:
        """Return what the manifest keeps."""
        return {
            "passed": bool(self),
            "pairs": self.pairs,
            "max_abs_diff": self.max_abs_diff,
            "mean_abs_diff": self.mean_abs_diff,
            "kendall_tau": self.kendall_tau,
            "list_kendall_tau": self.list_kendall_tau,
            "top10_overlap": self.top10_overlap,
            "ranking": None if self.ranking is None else asdict(self.ranking),
        }

    def to_json(self) -> str:
        """Return the whole report as indented JSON."""
        return (
            json.dumps(asdict(self) | {"passed": bool(self), "failures": self.failures}, indent=2, ensure_ascii=False)
            + "\n"
        )

    def __str__(self) -> str:
        def shown(value: float | None, digits: int) -> str:
            return "-" if value is None else f"{value:.{digits}f}"

        lines = [
            f"parity {'passed' if self else 'FAILED'}: {self.precision} on {self.backend}, {self.pairs} pairs alone and in "
            f"batches, max_length {self.max_length}",
            f"  max |difference|     {self.max_abs_diff:.2e}   allowed {self.tolerance.max_abs:.0e}",
            f"  mean |difference|    {self.mean_abs_diff:.2e}",
            f"  after activation     {self.activation_max_abs_diff:.2e}",
            f"  Kendall tau          {shown(self.kendall_tau, 6)}   over {self.queries} queries",
            *(
                [f"  ... of long lists    {shown(self.list_kendall_tau, 6)}   at least {self.tolerance.kendall_tau}"]
                if self.list_kendall_tau is not None and self.tolerance.kendall_tau > -1
                else []
            ),
            f"  top-10 overlap       {shown(self.top10_overlap, 4)}",
            f"  tokenized otherwise  {self.token_mismatches}",
            f"  NaN or Inf           {self.not_finite}",
            "  worst pairs          reference      candidate",
        ]
        for pair in self.worst:
            text = textwrap.shorten(f"{pair.query} | {pair.passage}".replace("\x00", ""), 60, placeholder="...")
            lines.append(f"    {pair.scored:<8} {pair.reference:>20.6f} {pair.candidate:>14.6f}  {text!r}")
        if self.ranking is not None:
            lines += [f"  {line}" for line in self.ranking.lines]
        lines += self.notes
        lines += [f"  FAILED: {failure}" for failure in self.failures]
        return "\n".join(lines)


def judge_of(
    checkpoint: Checkpoint, judging: JudgingSet, *, max_length: int | None = None, progress: bool = False
) -> Judge:
    """Return the judging set with the reference's scores, which every precision is judged beside.

    Raises OptionError for more than two labels of which none was chosen to rank by.
    """
    need_label(checkpoint.relevant_label, checkpoint.label_names, checkpoint.labels)
    logits = Reference(checkpoint).logits(
        judging.pairs, max_length=max_length or checkpoint.max_length, progress=progress
    )
    return Judge(judging=judging, expected=checkpoint.relevance(logits))


def parity(
    model: CrossEncoder,
    checkpoint: Checkpoint,
    pairs: Sequence[tuple[str, str]],
    *,
    expected: Expected | None = None,
    judge: Judge | None = None,
    progress: bool = False,
) -> ParityReport:
    """Compare an opened bundle with its checkpoint on these pairs, each scored alone and inside mixed batches.

    `expected` is what PyTorch makes of them, where that is known already. With a `judge`, its lists are ranked too; INT8 does
    not pass without one.
    `checkpoint` is read with the activation that the bundle is supposed to have, and has its relevant label where one was
    chosen. Raises InputError without pairs, and OptionError with a judge for more than two labels of which none was chosen.
    """
    if not pairs:
        raise InputError("parity needs at least one pair")
    pairs = list(pairs)
    if model.num_labels != checkpoint.labels:
        raise InputError(
            f"the bundle has {model.num_labels} labels and the checkpoint {checkpoint.labels}: not the same model"
        )
    ours, theirs = model.bundle.manifest.architecture, checkpoint.architecture
    other = [name for name in SIZES if ours.get(name) not in (None, theirs[name])]
    if other:
        raise InputError(
            "the bundle and the checkpoint are not the same model: "
            + ", ".join(f"{name} is {ours[name]} and {theirs[name]}" for name in other)
        )
    if expected is None:
        expected = Reference(checkpoint).expected(pairs, max_length=model.max_length, progress=progress)
    encoded = model.encode(pairs)
    mismatches = sum(
        list(encoded.ids[start:stop]) != ids
        for ids, start, stop in zip(expected.ids, encoded.offsets[:-1], encoded.offsets[1:], strict=True)
    )
    alone = np.concatenate(
        [model.logits([pair]) for pair in tqdm(pairs, desc="Alone", unit="pair", disable=not progress)]
    )
    # Neighbours of every length: short pairs beside long ones, so that padding is in nearly every row.
    order = list(range(len(pairs)))
    random.Random(0).shuffle(order)
    batched = np.empty_like(alone)
    for start in range(0, len(order), 16):
        rows = order[start : start + 16]
        batched[rows] = _in_one_batch(model, [pairs[row] for row in rows])
    activated = _activated(checkpoint, expected.logits)
    # `predict` refuses NaN, of which the report says how many there are.
    finite = bool(np.isfinite(alone).all() and np.isfinite(batched).all())
    scores = np.asarray(model.predict(pairs)).reshape(len(pairs), -1) if finite else np.full_like(activated, np.nan)
    report = _report(
        model, checkpoint, pairs, expected.logits, {"alone": alone, "batched": batched}, mismatches, scores - activated
    )
    if model.relevant_label != checkpoint.relevant_label:
        found = f"the bundle ranks by label {model.relevant_label}, the checkpoint by label {checkpoint.relevant_label}"
        report = replace(report, other_failures=(found,))
    if judge is None:
        return report
    ranked = tqdm(judge.judging.pairs, desc="Judging", unit="pair", disable=not progress)
    return replace(report, ranking=judge.report(checkpoint.relevance(model.logits(ranked))))


def _in_one_batch(model: CrossEncoder, pairs: list[tuple[str, str]]) -> Floats:
    encoded = model.encode(pairs)
    whole = plan_single_batch(encoded.lengths, few_shapes_to=model.bundle.manifest.max_positions)
    logits = np.empty((len(pairs), model.num_labels), dtype=np.float32)
    for batch in whole.batches(encoded, pad_id=model.bundle.manifest.pad_token_id):
        logits[batch.rows] = model.run(batch)
    return logits


def _activated(checkpoint: Checkpoint, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The reference's activation, found and computed apart from the code that is being checked."""
    import torch

    return np.asarray(activation_of(checkpoint)(torch.from_numpy(logits)).numpy())


def _report(
    model: CrossEncoder,
    checkpoint: Checkpoint,
    pairs: list[tuple[str, str]],
    expected: Floats,
    candidates: dict[str, Floats],
    mismatches: int,
    activated: Floats,
) -> ParityReport:
    not_finite = sum(int((~np.isfinite(logits)).sum()) for logits in candidates.values())
    # A NaN compares as no difference at all; as an infinite one it cannot hide.
    differences = {
        scored: np.nan_to_num(np.abs(logits - expected), nan=np.inf, posinf=np.inf)
        for scored, logits in candidates.items()
    }
    every = np.stack(list(differences.values()))
    worst_rows = np.argsort(-every.max(axis=(0, 2)), kind="stable")[:5].tolist()
    worst = tuple(_worst(row, pairs, expected, candidates, differences) for row in worst_rows)
    groups = groups_of(pairs)
    # Nothing is ranked by a model with several labels of which none was chosen.
    ranked = not_finite == 0 and checkpoint.relevant_label is not None
    reference, candidate = (
        checkpoint.relevance(logits) if ranked else logits for logits in (expected, candidates["batched"])
    )
    return ParityReport(
        precision=model.precision.value,
        backend=model.backend,
        pairs=len(pairs),
        queries=len(groups),
        max_length=model.max_length,
        max_abs_diff=float(every.max()),
        mean_abs_diff=float(every.mean()),
        activation_max_abs_diff=float(np.nan_to_num(np.abs(activated), nan=np.inf).max()),
        token_mismatches=mismatches,
        not_finite=not_finite,
        kendall_tau=_mean(kendall_tau(reference[rows], candidate[rows]) for rows in groups) if ranked else None,
        list_kendall_tau=_mean(
            kendall_tau(reference[rows], candidate[rows]) for rows in groups if len(rows) >= LIST_LENGTH
        )
        if ranked
        else None,
        top10_overlap=_mean(top_overlap(reference[rows], candidate[rows]) for rows in groups) if ranked else None,
        tolerance=TOLERANCE[model.precision],
        worst=worst,
    )


def _worst(
    row: int,
    pairs: list[tuple[str, str]],
    expected: Floats,
    candidates: dict[str, Floats],
    differences: dict[str, Floats],
) -> WorstPair:
    scored = max(differences, key=lambda name: float(differences[name][row].max()))
    label = int(differences[scored][row].argmax())
    return WorstPair(
        query=pairs[row][0],
        passage=pairs[row][1],
        scored=scored,
        reference=float(expected[row, label]),
        candidate=float(candidates[scored][row, label]),
    )


def _mean(values: Any) -> float | None:
    numbers = list(values)
    return float(np.mean(numbers)) if numbers else None
