"""`ParityReport`: how far a bundle's scores lie from the reference."""

import json
import textwrap
from dataclasses import asdict, dataclass
from typing import Any

from ...calibration.judging_set import MIN_CANDIDATES, MIN_QUERIES
from ...calibration.ranking_report import RankingReport
from ..precision.tolerance import Tolerance

LIST_LENGTH = 20
"""Minimum number of candidates of a query for its Kendall's tau to count toward the limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstPair:
    """A pair with the reference's logit and the candidate's, and how it was `scored`: `alone` or `batched`."""

    query: str
    passage: str
    scored: str
    reference: float
    candidate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """How far a bundle's scores lie from the reference. True if they are within the tolerance.

    Differences are absolute, over all pairs, scored alone and in mixed batches. `activation_max_abs_diff` compares the scores
    after each side has applied its own activation. `kendall_tau` and `top10_overlap` are means over the queries with at least two
    candidates. `list_kendall_tau`, which has a limit, is the mean over the queries with at least 20 candidates, where one near
    tie changes little. All three are None if there are no such queries, a logit is not finite, or no label was chosen to rank by.
    `ranking` is over the lists of a judging set, if one was given. `other_failures` are reasons for failing that these numbers
    do not show. `notes` are further lines to print.
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
        """Return each violated limit in words; empty if the check passed."""
        limit = self.tolerance.max_abs
        failures = list(self.other_failures)
        if self.not_finite:
            failures.append(f"{self.not_finite} logits are NaN or Inf")
        if not self.max_abs_diff <= limit:
            failures.append(f"logits differ by up to {self.max_abs_diff:.2e}, allowed is {limit:.0e}")
        if not self.activation_max_abs_diff <= limit:
            failures.append(
                f"scores differ by up to {self.activation_max_abs_diff:.2e} after the activation, allowed is {limit:.0e}"
            )
        if self.token_mismatches:
            failures.append(f"{self.token_mismatches} pairs are tokenized differently")
        tau = self.list_kendall_tau
        if tau is not None and tau < self.tolerance.kendall_tau:
            failures.append(
                f"Kendall tau is {tau:.4f} over lists of at least {LIST_LENGTH}, {self.tolerance.kendall_tau} is needed"
            )
        if self.ranking is not None:
            failures += self.tolerance.ranking_failures(self.ranking)
        elif self.tolerance.ranked:
            failures.append(
                f"{self.precision} is judged by its ranking; give at least {MIN_QUERIES} queries of {MIN_CANDIDATES} candidates"
            )
        return failures

    def __bool__(self) -> bool:
        return not self.failures

    def summary(self) -> dict[str, Any]:
        """Return the part that the manifest keeps."""
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
            f"  token mismatches     {self.token_mismatches}",
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
