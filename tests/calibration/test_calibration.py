"""Samples are reproducible, and ranking measures mean what their names say."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrt.calibration.calibration_set import CalibrationSet
from crossrt.calibration.ranking import kendall_tau, top_overlap
from crossrt.engine.errors import DataFileError, OptionError

PAIRS = [(f"query {number}", f"passage {number}") for number in range(50)]


def test_the_same_seed_draws_the_same_pairs_and_hash() -> None:
    one, same, other = (CalibrationSet.sample(PAIRS, source="s", size=10, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one.sha256 != other.sha256
    assert len(set(one.pairs)) == 10
    assert set(one.pairs) <= set(PAIRS)


def test_repeated_pairs_are_drawn_once_and_too_few_is_an_error() -> None:
    assert len(CalibrationSet.sample(PAIRS + PAIRS, source="s").pairs) == 50
    with pytest.raises(DataFileError, match="holds 50 different pairs, and 51 are wanted"):
        CalibrationSet.sample(PAIRS + PAIRS, source="s", size=51)
    with pytest.raises(DataFileError, match="holds no pairs"):
        CalibrationSet.sample([], source="s")
    with pytest.raises(OptionError, match="whole number from 1"):
        CalibrationSet.sample(PAIRS, source="s", size=0)


def test_the_hash_keeps_texts_apart() -> None:
    assert (
        CalibrationSet.sample([("ab", "c")], source="s").sha256
        != CalibrationSet.sample([("a", "bc")], source="s").sha256
    )


def test_pairs_come_from_a_file_or_from_trec_files(tmp_path: Path) -> None:
    (tmp_path / "pairs").write_text("q one\tp one\nq two\tp two\n")
    assert CalibrationSet.from_pairs_file(tmp_path / "pairs").pairs == (("q one", "p one"), ("q two", "p two"))
    (tmp_path / "q").write_text("1\tq one\n")
    (tmp_path / "p").write_text("a\tp one\nb\tp two\nc\tp three\n")
    (tmp_path / "r").write_text("1 Q0 a 1 2.0 t\n1 Q0 c 2 1.0 t\n")
    drawn = CalibrationSet.from_trec(tmp_path / "q", tmp_path / "p", tmp_path / "r")
    assert drawn.pairs == (("q one", "p one"), ("q one", "p three"))


@settings(deadline=None)  # the first call imports scipy
@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=30, unique=True))
def test_a_ranking_agrees_with_itself_and_is_opposed_by_its_reverse(scores: list[float]) -> None:
    array = np.array(scores, dtype=np.float32)
    assert kendall_tau(array, array * 2) == pytest.approx(1)
    assert kendall_tau(array, -array) == pytest.approx(-1)
    assert top_overlap(array, array) == 1


def test_one_swap_costs_what_kendall_says() -> None:
    reference = np.array([4, 3, 2, 1], dtype=np.float32)
    assert kendall_tau(reference, np.array([3, 4, 2, 1], dtype=np.float32)) == pytest.approx(1 - 2 / 6)


def test_a_constant_candidate_has_lost_the_order() -> None:
    reference, constant = np.array([2, 1], dtype=np.float32), np.zeros(2, dtype=np.float32)
    assert kendall_tau(reference, constant) == 0
    assert kendall_tau(constant, constant) == 1


def test_overlap_counts_the_shared_best() -> None:
    reference = np.arange(20, dtype=np.float32)
    candidate = reference.copy()
    candidate[[9, 10]] = candidate[[10, 9]]
    assert top_overlap(reference, candidate) == 0.9
    assert top_overlap(reference[:3], -reference[:3]) == 1, "three of three are always the same three"
