"""Chunks hold every item once, and no more text than fits."""

from hypothesis import given
from hypothesis import strategies as st

from crossrt.engine.runtime import chunks as module
from crossrt.engine.runtime.chunks import CHUNK, MAX_CHARACTERS, chunks


@given(sizes=st.lists(st.integers(0, MAX_CHARACTERS * 2), max_size=60), first=st.integers(1, 20))
def test_every_item_is_in_one_chunk_and_only_the_last_is_last(sizes: list[int], first: int) -> None:
    found = list(chunks(sizes, first, lambda size: size))
    assert [size for chunk, _ in found for size in chunk] == sizes
    assert [last for _, last in found] == [False] * (len(found) - 1) + [True] * bool(sizes)
    for chunk, _ in found:
        assert len(chunk) == 1 or sum(chunk) <= MAX_CHARACTERS, "passages of a megabyte come a few at a time"


def test_chunks_grow_to_the_largest_and_no_further() -> None:
    lengths = [len(chunk) for chunk, _ in chunks(range(4 * CHUNK), 1024, lambda item: 400)]
    assert lengths[:3] == [1024, 1024 * module.GROWTH, CHUNK]
    assert max(lengths) == CHUNK
