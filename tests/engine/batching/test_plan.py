"""How a request is cut into batches for a CPU."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrt.engine.batching.plan import BATCH_TOKENS, MIN_TOKENS, plan_batches, plan_single_batch, plan_unpadded
from crossrt.engine.errors import OptionError
from tests.engine.samples import pairs_of


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 512), max_size=200),
    batch_size=st.integers(1, 64),
    max_tokens=st.integers(1, 8192),
)
def test_a_plan_holds_every_row_once_within_its_limits(lengths: list[int], batch_size: int, max_tokens: int) -> None:
    array = np.array(lengths, dtype=np.int64)
    plan = plan_batches(array, batch_size=batch_size, max_tokens=max_tokens)
    rows = [row for part in plan.row_groups for row in part.tolist()]
    assert sorted(rows) == list(range(len(lengths)))
    for part in plan.row_groups:
        assert 1 <= len(part) <= batch_size
        assert len(part) == 1 or len(part) * array[part].max() <= max_tokens
    longest = [int(array[part].max()) for part in plan.row_groups]
    assert longest == sorted(longest, reverse=True)
    assert 0 <= plan.padding_waste < 1


@settings(max_examples=300, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=9),
    batch_size=st.integers(1, 9),
    max_tokens=st.integers(1, 200),
    batch_cost=st.integers(0, 60),
)
def test_no_other_cut_of_the_sorted_pairs_costs_less(
    lengths: list[int], batch_size: int, max_tokens: int, batch_cost: int
) -> None:
    array = np.array(lengths, dtype=np.int64)
    plan = plan_batches(array, batch_size=batch_size, max_tokens=max_tokens, batch_cost=batch_cost)
    ordered = sorted(lengths, reverse=True)

    def costs(parts: list[list[int]]) -> int:
        return sum(batch_cost + len(part) * part[0] for part in parts)

    cuts = []
    for places in itertools.product((False, True), repeat=len(ordered) - 1):
        borders = [0, *(place + 1 for place, cut in enumerate(places) if cut), len(ordered)]
        parts = [ordered[start:stop] for start, stop in itertools.pairwise(borders)]
        if all(len(part) == 1 or (len(part) <= batch_size and len(part) * part[0] <= max_tokens) for part in parts):
            cuts.append(costs(parts))
    assert costs([array[part].tolist() for part in plan.row_groups]) == min(cuts)


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(1, 511), max_size=200), batch_size=st.integers(1, 64))
def test_a_plan_of_few_shapes_holds_every_row_and_fits_the_model(lengths: list[int], batch_size: int) -> None:
    array = np.array(lengths, dtype=np.int64)
    plan = plan_batches(array, batch_size=batch_size, bucket_up_to=511)
    assert sorted(row for part in plan.row_groups for row in part.tolist()) == list(range(len(lengths)))
    for part, width in zip(plan.row_groups, plan.widths, strict=True):
        assert len(part) in {1, 4, 16}
        assert len(part) <= batch_size
        assert array[part].max() <= width <= 511


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(1, 511), min_size=1, max_size=20))
def test_one_batch_holds_every_row_and_is_little_wider_than_the_longest(lengths: list[int]) -> None:
    array = np.array(lengths, dtype=np.int64)
    plan = plan_single_batch(array, bucket_up_to=511)
    assert sorted(plan.row_groups[0].tolist()) == list(range(len(lengths)))
    longest = max(lengths)
    assert longest <= plan.widths[0] <= min(511, longest + max(7, longest // 10))


@pytest.mark.parametrize("length", range(2, 161))  # for longer rows, single rows need less padding
def test_a_streams_share_holds_the_padding_too(length: int) -> None:
    plan = plan_batches(np.full(16, length), batch_size=32, streams=4, bucket_up_to=512)
    assert [len(part) for part in plan.row_groups] == [4] * 4


def test_few_shapes_are_few_and_their_padding_little() -> None:
    generator = np.random.default_rng(0)
    shapes, real, computed = set(), 0, 0
    for _ in range(50):  # requests of 100 passages, as long as MS MARCO's
        lengths = np.clip(generator.gamma(9, 10.5, 100), 20, 512).astype(np.int64)
        plan = plan_batches(lengths, batch_size=32, streams=2, bucket_up_to=512)
        shapes |= {(len(part), width) for part, width in zip(plan.row_groups, plan.widths, strict=True)}
        real += int(lengths.sum())
        computed += sum(len(part) * width for part, width in zip(plan.row_groups, plan.widths, strict=True))
    assert len(shapes) < 150
    assert 1 - real / computed < 0.03


def test_pairs_of_one_length_stay_together_and_of_very_different_ones_do_not() -> None:
    assert [len(part) for part in plan_batches(np.full(32, 90), batch_size=32).row_groups] == [32]
    assert [len(part) for part in plan_batches(np.array([500, 20, 500, 20]), batch_size=32).row_groups] == [2, 2]
    assert [len(part) for part in plan_batches(np.array([50, 49, 48, 47]), batch_size=32).row_groups] == [4]


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=20), batch_size=st.integers(1, 8))
def test_batches_hold_each_pairs_tokens_and_padding_after_them(lengths: list[int], batch_size: int) -> None:
    pairs = pairs_of(lengths)
    seen = set()
    for batch in plan_batches(pairs.lengths, batch_size=batch_size).batches(pairs, pad_id=7):
        for place, row in enumerate(batch.rows.tolist()):
            seen.add(row)
            start, stop = pairs.offsets[row], pairs.offsets[row + 1]
            length = stop - start
            np.testing.assert_array_equal(batch.input_ids[place, :length], pairs.ids[start:stop])
            np.testing.assert_array_equal(batch.token_type_ids[place, :length], pairs.type_ids[start:stop])
            assert (batch.input_ids[place, length:] == 7).all()
            assert batch.attention_mask[place].tolist() == [1] * length + [0] * (batch.shape[1] - length)
    assert seen == set(range(len(lengths)))


@given(lengths=st.lists(st.integers(1, 512), max_size=150), batch_size=st.integers(1, 40), streams=st.integers(1, 4))
def test_a_plan_without_padding_holds_every_row_and_leaves_the_streams_little_to_wait_for(
    lengths: list[int], batch_size: int, streams: int
) -> None:
    plan = plan_unpadded(np.array(lengths, dtype=np.int64), batch_size=batch_size, streams=streams)
    assert sorted(row for part in plan.row_groups for row in part.tolist()) == list(range(len(lengths)))
    tokens = [[lengths[row] for row in part] for part in plan.row_groups]
    assert [max(part) for part in tokens] == list(plan.widths) == sorted(plan.widths, reverse=True)
    for number, part in enumerate(tokens):
        assert len(part) <= batch_size
        # A row joins a batch if at least half of it fits.
        assert len(part) == 1 or sum(part) <= BATCH_TOKENS + part[-1] / 2
        rest = sum(map(sum, tokens[number:]))
        assert len(part) == 1 or streams == 1 or sum(part) <= max(MIN_TOKENS, rest // streams) + part[-1] / 2


def test_a_plan_refuses_an_empty_batch() -> None:
    with pytest.raises(OptionError, match="positive integer"):
        plan_batches(np.array([3]), batch_size=0)
