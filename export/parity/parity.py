"""The parity check: compares a bundle's scores, computed from raw text, with the checkpoint's scores in PyTorch."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from ...calibration.judge import Judge
from ...calibration.judging_set import JudgingSet
from ...calibration.ranking import kendall_tau, top_overlap
from ...engine.activation import Floats
from ...engine.batching.plan import plan_single_batch
from ...engine.cross_encoder import CrossEncoder
from ...engine.errors import InputError
from ...engine.labels import need_label
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.reference import Expected, Reference
from ..checkpoint.reference_settings import activation_of
from ..precision.tolerance import TOLERANCE
from .pairs import groups_of
from .report import LIST_LENGTH, ParityReport, WorstPair

SIZES = ("layers", "hidden_size", "attention_heads", "intermediate_size", "vocab_size")
"""Entries of `architecture` that must be equal in a bundle and its checkpoint."""
ROWS = 16
"""Number of pairs in a mixed batch."""


def judge_of(
    checkpoint: Checkpoint,
    judging: JudgingSet,
    *,
    max_length: int | None = None,
    reference: Reference | None = None,
    progress: bool = False,
) -> Judge:
    """Return the judging set with the reference's scores, with which every precision is compared.

    `reference` is the checkpoint in PyTorch, if it is already loaded. Raises OptionError for more than two labels if none of them
    was chosen to rank by.
    """
    need_label(checkpoint.relevant_label, checkpoint.label_names, checkpoint.labels)
    reference = reference or Reference(checkpoint)
    logits = reference.logits(judging.pairs, max_length=max_length or checkpoint.max_length, progress=progress)
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
    """Compare an opened bundle with its checkpoint on these pairs, each scored alone and in mixed batches.

    `expected` has PyTorch's token ids and logits of the pairs, if they are already known. With a `judge`, its lists are ranked
    too; INT8 does not pass without one. Read `checkpoint` with the activation that the bundle should have, and with the relevant
    label if one was chosen. Raises InputError if there are no pairs or the bundle is of another model. Raises OptionError, with
    a judge, for more than two labels if none of them was chosen to rank by.
    """
    if not pairs:
        raise InputError("parity needs at least one pair")
    pairs = list(pairs)
    _check_same_model(model, checkpoint)
    if expected is None:
        expected = Reference(checkpoint).expected(pairs, max_length=model.max_length, progress=progress)
    mismatches = _token_mismatches(model, pairs, expected)
    alone = np.concatenate(
        [model.logits([pair]) for pair in tqdm(pairs, desc="Alone", unit="pair", disable=not progress)]
    )
    batched = _in_mixed_batches(model, pairs)
    activated = _activated(checkpoint, expected.logits)
    # `predict` raises for NaN; the report says how many there are.
    finite = bool(np.isfinite(alone).all() and np.isfinite(batched).all())
    scores = np.asarray(model.predict(pairs)).reshape(len(pairs), -1) if finite else np.full_like(activated, np.nan)
    report = _report(
        model, checkpoint, pairs, expected.logits, {"alone": alone, "batched": batched}, mismatches, scores - activated
    )
    if model.relevant_label != checkpoint.relevant_label:
        failure = (
            f"the bundle ranks by label {model.relevant_label}, the checkpoint by label {checkpoint.relevant_label}"
        )
        report = replace(report, other_failures=(failure,))
    if judge is None:
        return report
    ranked = tqdm(judge.judging.pairs, desc="Judging", unit="pair", disable=not progress)
    return replace(report, ranking=judge.report(checkpoint.relevance(model.logits(ranked))))


def _check_same_model(model: CrossEncoder, checkpoint: Checkpoint) -> None:
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


def _token_mismatches(model: CrossEncoder, pairs: Sequence[tuple[str, str]], expected: Expected) -> int:
    """Return the number of pairs whose token ids differ from the reference's."""
    encoded = model.encode(pairs)
    return sum(
        list(encoded.ids[start:stop]) != ids
        for ids, start, stop in zip(expected.ids, encoded.offsets[:-1], encoded.offsets[1:], strict=True)
    )


def _in_mixed_batches(model: CrossEncoder, pairs: Sequence[tuple[str, str]]) -> Floats:
    """Score the pairs in batches of 16 with very different lengths, so that nearly every row has padding."""
    order = list(range(len(pairs)))
    random.Random(0).shuffle(order)
    logits = np.empty((len(pairs), model.num_labels), dtype=np.float32)
    for start in range(0, len(order), ROWS):
        rows = order[start : start + ROWS]
        logits[rows] = _in_one_batch(model, [pairs[row] for row in rows])
    return logits


def _in_one_batch(model: CrossEncoder, pairs: Sequence[tuple[str, str]]) -> Floats:
    encoded = model.encode(pairs)
    plan = plan_single_batch(encoded.lengths, bucket_up_to=model.bundle.manifest.max_positions)
    logits = np.empty((len(pairs), model.num_labels), dtype=np.float32)
    for batch in plan.batches(encoded, pad_id=model.bundle.manifest.pad_token_id):
        logits[batch.rows] = model.run(batch)
    return logits


def _activated(checkpoint: Checkpoint, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Apply the reference's activation. It is found and computed by other code than the code under test."""
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
    # NaN becomes infinity, so that `max` and `argsort` treat it as the largest difference.
    differences = {
        scored: np.nan_to_num(np.abs(logits - expected), nan=np.inf, posinf=np.inf)
        for scored, logits in candidates.items()
    }
    every = np.stack(list(differences.values()))
    worst_rows = np.argsort(-every.max(axis=(0, 2)), kind="stable")[:5].tolist()
    worst = tuple(_worst(row, pairs, expected, candidates, differences) for row in worst_rows)
    groups = groups_of(pairs)
    # A model with several labels cannot rank unless one of them was chosen.
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


def _mean(values: Iterable[float]) -> float | None:
    numbers = list(values)
    return float(np.mean(numbers)) if numbers else None
