"""The parent's account of reloads: all workers are told, and whoever asked hears what all did."""

from crossrt.server.worker_link import Reload, ReloadCoordinator, Reloaded, joined


def test_whoever_asked_is_answered_once_all_have_answered() -> None:
    reloads = ReloadCoordinator()
    assert reloads.begin([0, 1]) is None
    reloads.ask(True, 1)
    assert reloads.begin([0, 1]) == Reload(force=True)
    assert reloads.begin([0, 1]) is None
    assert reloads.answered(1, {"m": "opened"}) is None
    assert reloads.answered(0, {"m": "opened"}) == (1, Reloaded({"m": "opened"}))


def test_reloads_take_place_one_after_the_other_and_a_signal_gets_no_answer() -> None:
    reloads = ReloadCoordinator()
    reloads.ask(False)
    reloads.ask(True, 0)
    assert reloads.begin([0]) == Reload(force=False)
    assert reloads.begin([0]) is None
    assert reloads.answered(0, {"m": "unchanged"}) is None
    assert reloads.begin([0]) == Reload(force=True)
    assert reloads.answered(0, {"m": "opened"}) == (0, Reloaded({"m": "opened"}))
    assert reloads.begin([0]) is None


def test_a_worker_that_dies_is_not_waited_for() -> None:
    reloads = ReloadCoordinator()
    reloads.ask(True, 0)
    reloads.ask(True, 1)
    reloads.begin([0, 1, 2])
    assert reloads.answered(0, {"m": "opened"}) is None
    assert reloads.died(2) is None
    assert reloads.died(1) == (0, Reloaded({"m": "opened"}))
    assert reloads.begin([0, 1, 2]) == Reload(force=True)  # the one that asked for this has died since
    assert [reloads.answered(worker, {"m": "opened"}) for worker in range(3)] == [None] * 3


def test_what_one_worker_could_not_do_is_not_done() -> None:
    why = "kept: the file is missing"
    assert joined([{"m": "opened"}, {"m": "opened"}]) == {"m": "opened"}
    assert joined([{"m": why, "keys": why}, {"m": why, "keys": why}]) == {"m": why, "keys": why}
    assert joined([{"m": "opened"}, {"m": why, "keys": why}]) == {
        "m": "kept by 1 of 2 workers: the file is missing",
        "keys": "kept by 1 of 2 workers: the file is missing",
    }
