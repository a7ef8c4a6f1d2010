"""The queue of a model is bounded in tokens, and says when to come back from how fast the model was."""

import pytest

from crossrt.server.dialects.request_error import RequestError
from crossrt.server.models.token_queue import TokenQueue


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_request_is_admitted_as_a_whole_or_not_at_all(clock: Clock) -> None:
    queue = TokenQueue(100, clock=clock)
    queue.admit(60)
    with pytest.raises(RequestError, match="60 tokens wait for this model, and 100 may"):
        queue.admit(41)
    queue.admit(40)
    assert (queue.tokens, queue.requests) == (100, 2)
    queue.release(60, scored=60)
    queue.admit(41)


def test_one_that_is_alone_is_admitted_whatever_its_size(clock: Clock) -> None:
    queue = TokenQueue(100, clock=clock)
    queue.admit(1000)
    with pytest.raises(RequestError):
        queue.admit(1)


def test_an_estimate_is_corrected(clock: Clock) -> None:
    queue = TokenQueue(100, clock=clock)
    queue.admit(50)
    queue.correct(50, 90)
    with pytest.raises(RequestError):
        queue.admit(11)
    queue.release(90, scored=0)
    assert (queue.tokens, queue.requests) == (0, 0)


def test_the_time_to_come_back_is_what_the_waiting_tokens_take(clock: Clock) -> None:
    queue = TokenQueue(1000, clock=clock)
    queue.admit(500)
    clock.now = 1.0
    queue.release(500, scored=500)
    clock.now = 100.0  # without work no time passes
    assert queue.tokens_per_second == pytest.approx(500)
    queue.admit(1000)
    with pytest.raises(RequestError) as refused:
        queue.admit(1)
    assert refused.value.retry_after == 2


def refused_for(queue: TokenQueue) -> int | None:
    """The seconds after which a client that is refused now may come back."""
    with pytest.raises(RequestError) as refused:
        queue.admit(queue.limit)
    return refused.value.retry_after


def test_the_time_to_come_back_is_a_second_before_the_speed_is_known_and_ten_minutes_at_most(clock: Clock) -> None:
    queue = TokenQueue(1000, clock=clock)
    queue.admit(1000)
    assert refused_for(queue) == 1
    clock.now = 1000.0
    queue.release(1000, scored=1000)  # a token a second
    queue.admit(900)
    assert refused_for(queue) == 600


def test_a_model_that_has_become_slow_lengthens_the_time_before_it_has_scored_anything(clock: Clock) -> None:
    queue = TokenQueue(1000, clock=clock)
    queue.admit(500)
    clock.now = 1.0
    queue.release(500, scored=500)
    queue.admit(1000)
    assert refused_for(queue) == 2
    clock.now = 10.0
    assert 20 < (refused_for(queue) or 0) < 40


def test_the_speed_follows_a_change(clock: Clock) -> None:
    queue = TokenQueue(10**9, clock=clock)
    for speed in (1000, 100):
        for _ in range(120):
            queue.admit(speed)
            clock.now += 1.0
            queue.release(speed, scored=speed)
    assert queue.tokens_per_second == pytest.approx(100, rel=0.25)
