"""fastlb/control_plane/health/schedule.py with a played clock."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlb.control_plane.health.schedule import WINDOW_SECONDS, Schedule, first_delay, jittered
from tests.support.played_loop import PlayedLoop


def make(limit: int = 10) -> tuple[PlayedLoop, Schedule]:
    loop = PlayedLoop()
    untyped: Any = loop
    return loop, Schedule(untyped, limit, loop.time)


def test_what_is_planned_starts_at_its_time() -> None:
    loop, schedule = make()
    starts: list[float] = []
    for delay in (3, 1, 2):
        schedule.plan(1000.0 + delay, lambda: starts.append(loop.now))
    loop.play(0.999)
    assert starts == []
    loop.play(10)
    assert starts == [1001, 1002, 1003]
    assert (schedule.running, schedule.started, schedule.latest_seconds) == (3, 3, 0)


def test_what_is_overdue_starts_at_once() -> None:
    loop, schedule = make()
    starts: list[float] = []
    schedule.plan(900.0, lambda: starts.append(loop.now))
    loop.play(0)
    assert starts == [1000]


def test_what_is_cancelled_does_not_start() -> None:
    loop, schedule = make()
    planned = schedule.plan(1001.0, lambda: pytest.fail("it was cancelled"))
    schedule.cancel(planned)
    schedule.cancel(planned)
    loop.play(10)
    assert loop.pending == 0


def test_no_more_run_than_are_allowed_and_the_others_follow_in_their_order() -> None:
    loop, schedule = make(limit=2)
    starts: list[int] = []
    for number in range(6):
        schedule.plan(1000.0 + number, lambda number=number: starts.append(number))  # type: ignore[misc]
    loop.play(10)
    assert (starts, schedule.running, schedule.waiting) == ([0, 1], 2, 4)
    schedule.ended()
    assert starts == [0, 1, 2]
    schedule.ended()
    schedule.ended()
    assert (starts, schedule.running, schedule.waiting) == ([0, 1, 2, 3, 4], 2, 1)


def test_who_waits_can_be_cancelled() -> None:
    loop, schedule = make(limit=1)
    starts: list[int] = []
    planned = [schedule.plan(1000.0, lambda number=number: starts.append(number)) for number in range(3)]  # type: ignore[misc]
    loop.play(1)
    schedule.cancel(planned[1])
    assert schedule.waiting == 1
    schedule.ended()
    assert (starts, schedule.waiting, schedule.running) == ([0, 2], 0, 1)


def test_the_latest_start_is_told_of_this_minute_and_the_last() -> None:
    loop, schedule = make(limit=1)
    schedule.plan(1000.0, lambda: None)
    schedule.plan(1001.0, lambda: None)
    loop.play(3)
    schedule.ended()
    assert schedule.latest_seconds == 2
    loop.play(WINDOW_SECONDS)
    assert schedule.latest_seconds == 2
    loop.play(WINDOW_SECONDS)
    assert schedule.latest_seconds == 0


def test_work_that_keeps_the_loop_shows_as_lateness() -> None:
    loop, schedule = make()

    def work() -> None:
        loop.now += 0.25

    schedule.plan(1001.0, work)
    schedule.plan(1001.0, lambda: None)
    loop.play(2)
    assert schedule.latest_seconds == 0.25


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0.001, 3), st.booleans()), max_size=30), st.integers(1, 4))
def test_everything_starts_once_and_never_too_many(jobs: list[tuple[float, float, bool]], limit: int) -> None:
    loop, schedule = make(limit)
    started: list[int] = []

    def begin(number: int, seconds: float) -> None:
        started.append(number)
        assert schedule.running <= limit
        loop.call_later(seconds, schedule.ended)

    kept = set()
    for number, (delay, seconds, is_cancelled) in enumerate(jobs):
        planned = schedule.plan(1000.0 + delay, lambda number=number, seconds=seconds: begin(number, seconds))  # type: ignore[misc]
        if is_cancelled:
            schedule.cancel(planned)
        else:
            kept.add(number)
    loop.play(1000)
    assert sorted(started) == sorted(kept)
    assert (schedule.running, schedule.waiting) == (0, 0)


def test_jitter_is_a_tenth_at_most_and_first_starts_are_spread() -> None:
    values = [jittered(5.0) for _ in range(1000)]
    assert min(values) >= 4.5
    assert max(values) <= 5.5
    assert max(values) - min(values) > 0.5
    delays = [first_delay(2.0) for _ in range(1000)]
    assert min(delays) < 0.2
    assert 1.8 < max(delays) <= 2.0
