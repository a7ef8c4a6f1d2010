"""The interval of a change is a paired bootstrap's, in bounded memory."""

import numpy as np
import pytest

from crossrt.calibration import paired_difference as module
from crossrt.calibration.paired_difference import RESAMPLES, PairedDifference


def test_queries_drawn_in_pieces_are_those_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = np.random.default_rng(1).random((2, 30))
    drawn = np.random.default_rng(0).integers(0, 30, (RESAMPLES, 30))
    low, high = np.quantile((after - before)[drawn].mean(axis=1), (0.025, 0.975))
    for draws in (1, 30 * 999, 10**9):  # a row a piece, a rest of ten rows, all at once
        monkeypatch.setattr(module, "DRAWS", draws)
        found = PairedDifference.of(before, after)
        assert (found.low, found.high) == (low, high)
    assert found.difference == pytest.approx(after.mean() - before.mean())


def test_a_change_that_every_query_shares_is_certain() -> None:
    found = PairedDifference.of(np.arange(50.0), np.arange(50.0) + 0.25)
    assert (found.low, found.high) == pytest.approx((0.25, 0.25))
