"""The order of service: requests share the processors by tokens, small ones go first, and none waits for ever."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from crossrt.engine.runtime.fair_queue import TURN_TOKENS, FairQueue, WaitingBatch

Work = Callable[[], int]
FULL = 448
"""Tokens of a usual batch."""


def request(name: str, tokens: Sequence[int], served: list[str]) -> list[WaitingBatch[Work]]:
    """Return batches of so many tokens. Each appends `name` to `served` when it is computed."""
    futures: list[Future[int]] = [Future() for _ in tokens]
    return [
        WaitingBatch(work=lambda: served.append(name) or 1, tokens=size, future=future, request=futures)
        for size, future in zip(tokens, futures, strict=True)
    ]


def compute(queue: FairQueue[Work], count: int = 10_000) -> None:
    """Compute the next `count` batches, or all."""
    for _ in range(count):
        batch = queue.next()
        if batch is None:
            return
        batch.future.set_result(batch.work())


def test_a_small_request_is_served_before_the_rest_of_any_number_of_large_ones() -> None:
    queue, served = FairQueue[Work](), list[str]()
    for number in range(5):
        queue.add(request(f"large {number}", [FULL] * 20, served))
    compute(queue, 33)
    queue.add(request("small", [190, 185], served))
    compute(queue)
    assert served[33:35] == ["small", "small"]
    assert len(served) == 102
    assert queue.empty


def test_large_requests_share_by_tokens_however_their_batches_are_cut() -> None:
    queue, served = FairQueue[Work](), list[str]()
    queue.add(request("wide", [400] * 300, served))
    queue.add(request("narrow", [50] * 300, served))
    for _ in range(200):
        compute(queue, 1)
        tokens = 400 * served.count("wide"), 50 * served.count("narrow")
        assert abs(tokens[0] - tokens[1]) <= TURN_TOKENS + 400, tokens


def test_a_request_that_comes_late_does_not_catch_up_on_what_was_served_before() -> None:
    queue, served = FairQueue[Work](), list[str]()
    queue.add(request("early", [FULL] * 100, served))
    compute(queue, 40)
    queue.add(request("late", [FULL] * 100, served))
    served.clear()
    compute(queue, 20)
    assert 9 <= served.count("late") <= 11


def test_small_requests_are_served_whole_in_the_order_of_arrival() -> None:
    queue, served = FairQueue[Work](), list[str]()
    for name in "abc":
        queue.add(request(name, [190, 185], served))
    compute(queue)
    assert "".join(served) == "aabbcc"


def test_a_request_of_several_batches_is_served_whole_if_it_is_small() -> None:
    queue, served = FairQueue[Work](), list[str]()
    queue.add(request("large", [FULL] * 50, served))
    compute(queue, 10)
    queue.add(request("small", [418, 224, 65, 59, 56], served))
    queue.add(request("new large", [FULL] * 50, served))
    queue.add(request("next small", [418, 224, 65, 59, 56], served))
    compute(queue, 12)
    assert served[10:] == ["small"] * 5 + ["next small"] * 5 + ["new large"] + ["large"]


def test_a_small_client_that_always_comes_again_never_waits_for_a_large_requests_turn() -> None:
    """Two large batches begin in its absence, and it is served as much. So it never has more than its equal share."""
    queue, served = FairQueue[Work](), list[str]()
    queue.add(request("large", [FULL] * 300, served))
    for number in range(100):
        compute(queue, 2)
        queue.add(request("small", [418, 224, 65, 59, 56], served))
        compute(queue, 5)
        assert served[-5:] == ["small"] * 5, number


def test_small_clients_that_take_more_than_their_share_leave_a_large_request_its_own() -> None:
    queue, served = FairQueue[Work](), list[str]()
    queue.add(request("large", [400] * 300, served))
    for _ in range(300):
        queue.add(request("small", [400], served))
        queue.add(request("small", [400], served))
        compute(queue, 1)
    assert served.count("large") == 0
    compute(queue, 600)
    assert served.count("large") >= 2, "three share at first, and hundreds later"


def test_what_was_cancelled_counts_no_more() -> None:
    queue, served = FairQueue[Work](), list[str]()
    queue.add(request("large", [FULL] * 300, served))
    gone = request("gone", [FULL] * 300, served)
    queue.add(gone)
    compute(queue, 10)
    for batch in gone:
        batch.future.cancel()
    for number in range(50):
        compute(queue, 2)
        queue.add(request("small", [418, 224, 65, 59, 56], served))
        compute(queue, 5)
        assert served[-5:] == ["small"] * 5, number


def test_a_large_request_is_served_though_small_ones_never_cease() -> None:
    queue, served = FairQueue[Work](), list[str]()
    queue.add(request("large", [FULL] * 50, served))
    for _ in range(8):
        queue.add(request("small", [375], served))
    for _ in range(300):  # eight small requests always wait: one comes for each that is served
        before = served.count("small")
        compute(queue, 1)
        if served.count("small") > before:
            queue.add(request("small", [375], served))
    places = [place for place, name in enumerate(served) if name == "large"]
    gaps = [after - before for before, after in pairwise(places)]
    assert gaps[0] < 80, "the small ones go first until the large request is SMALL_TOKENS behind its equal share"
    assert max(gaps[1:]) < 40, "its share is less than a ninth, as small ones are served before their share comes up"


def test_lower_priorities_are_served_first_and_equal_ones_take_turns() -> None:
    queue, served = FairQueue[Work](), list[str]()
    queue.add(request("batch job", [FULL] * 3, served), priority=5)
    compute(queue, 1)
    queue.add(request("b", [FULL] * 5, served))
    queue.add(request("c", [FULL] * 5, served))
    queue.add(request("urgent", [FULL] * 2, served), priority=-1)
    compute(queue)
    assert served == ["batch job", "urgent", "urgent", *"bcbcbcbcbc", "batch job", "batch job"]


def test_what_urgent_requests_were_served_does_not_count_among_the_others() -> None:
    queue, served = FairQueue[Work](), list[str]()
    queue.add(request("large", [FULL] * 20, served))
    compute(queue, 2)
    queue.add(request("urgent", [FULL] * 100, served), priority=-1)
    compute(queue, 50)
    queue.add(request("small", [375], served))
    compute(queue)
    assert served[102] == "small", "before the large request, which has no claim to what the urgent one was served"


def test_cancelled_batches_are_never_taken() -> None:
    queue, served = FairQueue[Work](), list[str]()
    large = request("large", [FULL] * 10, served)
    queue.add(large)
    compute(queue, 2)
    for batch in large:
        batch.future.cancel()
    queue.add(request("other", [FULL] * 2, served))
    compute(queue)
    assert served == ["large", "large", "other", "other"]
    waiting = request("waiting", [FULL] * 3, served)
    queue.add(waiting)
    queue.cancel()
    assert queue.empty
    assert queue.next() is None
    assert all(batch.future.cancelled() for batch in waiting)


sizes = st.lists(st.integers(1, 600), max_size=8)


@given(st.lists(st.tuples(sizes, st.integers(-1, 1), st.integers(0, 4)), max_size=12))
def test_each_batch_is_taken_once_and_those_of_a_request_in_their_order(
    requests: list[tuple[list[int], int, int]],
) -> None:
    queue, served = FairQueue[Work](), list[str]()
    batches: list[list[WaitingBatch[Work]]] = []
    taken: list[WaitingBatch[Work]] = []

    def take(count: int) -> None:
        taken.extend(batch for _ in range(count) if (batch := queue.next()) is not None)

    for tokens, priority, count in requests:
        batches.append(request("", tokens, served))
        queue.add(batches[-1], priority=priority)
        take(count)
    take(sum(len(tokens) for tokens, _, _ in requests))
    places = {batch: place for place, batch in enumerate(taken)}
    assert len(places) == len(taken) == sum(map(len, batches))
    for each in batches:
        assert [places[batch] for batch in each] == sorted(places[batch] for batch in each)
