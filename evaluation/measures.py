"""`Measures`: the measures of a ranking, computed by ir_measures."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..engine.errors import BackendError, OptionError


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """Measures in the order in which they were given, named as in ir_measures: nDCG@10, RR@10, AP, R@100, RR(rel=2)@10."""

    names: tuple[str, ...]
    _parsed: tuple[Any, ...]

    @classmethod
    def parse(cls, text: str) -> "Measures":
        """Parse names separated by spaces or commas.

        Raises OptionError for a name that ir_measures does not know or cannot compute, and BackendError without ir_measures.
        """
        try:
            import ir_measures
        except ImportError:
            raise BackendError('measures need ir_measures: pip install "crossrt[report]"') from None
        parsed = {}
        for name in re.findall(r"[^\s,(]+(?:\([^)]*\)?[^\s,(]*)?", text):
            try:
                measure = ir_measures.parse_measure(name)
                if measure.params.get("cutoff", 1) < 1:
                    raise ValueError("the cutoff is below 1")  # trec_eval would end the process
                # Some names parse but have no provider here, or need a parameter. Find these before scoring starts.
                list(ir_measures.iter_calc([measure], {"1": {"1": 1}}, {"1": {"1": 1.0}}))
            except (
                Exception
            ) as error:  # ValueError, NameError, KeyError, AssertionError or anything that a provider raises
                raise OptionError(
                    f"--measures: {name!r} cannot be computed ({error}); ir_measures' names are allowed, as in "
                    "--measures 'nDCG@10 RR@10 AP R@100 RR(rel=2)@10'"
                ) from error
            parsed[str(measure)] = measure
        if not parsed:
            raise OptionError("--measures is empty; give names as in --measures 'nDCG@10 RR@10 AP R@100'")
        return cls(names=tuple(parsed), _parsed=tuple(parsed.values()))

    def of(self, relevance: Mapping[str, int], ranking: Sequence[str]) -> list[float]:
        """Return the measures of one query.

        `ranking` has passage ids, best first; `relevance` the judged passages with their grades.
        """
        import ir_measures

        # Ranks replace the scores, since the order is fixed here, and trec_eval and the RR@k of ir_measures break ties in
        # opposite directions.
        run = {passage: float(-place) for place, passage in enumerate(ranking)}
        found = {
            str(metric.measure): float(metric.value)
            for metric in ir_measures.iter_calc(self._parsed, {"1": relevance}, {"1": run} if run else {})
        }
        return [found[name] for name in self.names]
