"""The shapes that batches on a GPU are rounded to."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossrt.engine.batching.shape_buckets import ShapeBuckets

BUCKETS = ShapeBuckets([(128, 64), (64, 128), (32, 256), (16, 512)])
lengths_lists = st.lists(st.integers(1, 512), max_size=300).map(lambda found: np.array(found, dtype=np.int64))


@given(st.integers(1, 512), st.integers(1, 128))
def test_a_rounded_shape_holds_the_shape_and_fits_the_engine(sequence: int, rows: int) -> None:
    rows = min(rows, BUCKETS.rows(sequence))
    max_rows, longest = BUCKETS.rounded((rows, sequence))
    assert max_rows >= rows
    assert longest >= sequence
    assert max_rows <= BUCKETS.rows(longest)
    assert BUCKETS.rounded((max_rows, longest)) == (max_rows, longest), "rounding twice changes nothing"


@given(lengths_lists, st.sampled_from([0, 64, 512, 10**6]), st.integers(1, 3))
def test_every_pair_is_in_one_batch_that_fits(lengths: np.ndarray, batch_cost: int, shares: int) -> None:
    parts = BUCKETS.split(lengths, batch_cost=batch_cost, shares=shares)
    assert sorted(np.concatenate([np.empty(0, int), *parts]).tolist()) == list(range(len(lengths)))
    for part in parts:
        longest = int(lengths[part].max())
        assert lengths[part[0]] == longest
        assert len(part) <= BUCKETS.rows(longest)


@given(lengths_lists)
def test_a_dearer_batch_makes_fewer_of_them(lengths: np.ndarray) -> None:
    counts = [len(BUCKETS.split(lengths, batch_cost=cost)) for cost in (0, 512, 10**7)]
    assert counts == sorted(counts, reverse=True)


def test_shares_give_each_device_something_to_do() -> None:
    lengths = np.full(40, 100)
    assert len(BUCKETS.split(lengths, batch_cost=512)) == 1
    assert len(BUCKETS.split(lengths, batch_cost=512, shares=2)) == 2


def test_the_waste_on_lengths_as_ms_marcos_is_small() -> None:
    lengths = np.random.default_rng(0).gamma(7.0, 13.6, 100).astype(int).clip(10, 512)
    parts = BUCKETS.split(lengths, batch_cost=0)
    computed = sum(np.prod(BUCKETS.rounded((len(part), int(lengths[part].max())))) for part in parts)
    assert lengths.sum() / computed > 0.85


def test_no_pairs_make_no_batch() -> None:
    assert BUCKETS.split(np.empty(0, dtype=np.int64), batch_cost=1) == []


def test_a_row_longer_than_the_engine_takes_is_an_error() -> None:
    with pytest.raises(StopIteration):
        BUCKETS.rows(513)
