"""fastlb/data_plane/timer_wheel.pyx, under a simulated clock. A tick is 16 ms, a turn 4096 ticks."""

import select
import time

import pytest

from tests.support._probe import Wheel

TICK = 16
TURN = 4096 * TICK


def expire_exactly(wheel: Wheel, after: int, until: int, step: int = 1) -> dict[int, int]:
    """When each timer expires while the clock goes from `after` to `until`."""
    return {number: now for now in range(after, until, step) for number in wheel.advance(now)}


def test_timer_expires_once_within_a_tick_of_its_deadline() -> None:
    for deadline in (1, 15, 16, 17, 100, 160, 1000):
        wheel = Wheel(0)
        wheel.set(0, deadline)
        when = expire_exactly(wheel, 0, deadline + 2 * TICK)
        assert deadline <= when[0] < deadline + TICK
        assert wheel.count == 0


def test_timer_never_expires_early() -> None:
    wheel = Wheel(5)
    wheel.set(0, 1000)
    assert wheel.advance(999) == []
    assert wheel.is_filed(0)


def test_clock_that_starts_anywhere_makes_no_difference() -> None:
    for start in (0, 7, 123_456_789, 2**40 + 3):
        wheel = Wheel(start)
        wheel.set(0, start + 100)
        assert wheel.advance(start + 99) == []
        assert wheel.advance(start + 100 + TICK) == [0]


def test_timers_expire_in_the_order_of_their_ticks() -> None:
    wheel = Wheel(0)
    for number, deadline in enumerate([500, 100, 300, 200, 400]):
        wheel.set(number, deadline)
    assert wheel.advance(600) == [1, 3, 2, 4, 0]


def test_cancelled_timer_does_not_expire() -> None:
    wheel = Wheel(0)
    wheel.set(0, 100)
    wheel.set(1, 100)
    wheel.cancel(0)
    assert wheel.advance(1000) == [1]


def test_cancelling_twice_or_what_was_never_set_is_allowed() -> None:
    wheel = Wheel(0)
    wheel.cancel(0)
    wheel.set(0, 100)
    wheel.cancel(0)
    wheel.cancel(0)
    assert wheel.count == 0


def test_deadline_moved_later_expires_later_and_is_filed_again_once() -> None:
    wheel = Wheel(0)
    wheel.set(0, 100)
    for deadline in range(200, 1001, 100):
        wheel.set(0, deadline)
    assert wheel.refiled == 0
    assert wheel.advance(999) == []
    assert wheel.refiled == 1
    assert wheel.advance(1000 + TICK) == [0]


def test_deadline_moved_earlier_expires_earlier() -> None:
    wheel = Wheel(0)
    wheel.set(0, 5000)
    wheel.set(0, 100)
    assert wheel.advance(100 + TICK) == [0]
    assert wheel.advance(6000) == []


def test_deadline_in_the_past_expires_at_the_next_tick() -> None:
    wheel = Wheel(1000)
    wheel.set(0, 5)
    assert wheel.advance(1000 + TICK) == [0]


def test_deadline_of_several_turns_expires_in_its_own() -> None:
    wheel = Wheel(0)
    wheel.set(0, 3 * TURN + 100)
    for now in range(0, 3 * TURN + 100, 1000):
        assert wheel.advance(now) == []
    assert wheel.advance(3 * TURN + 100 + TICK) == [0]


@pytest.mark.parametrize("deadline", [TURN - TICK, TURN - 1, TURN, TURN + 1, TURN + TICK, 2 * TURN])
def test_deadline_at_the_end_of_a_turn_expires_once(deadline: int) -> None:
    wheel = Wheel(0)
    wheel.set(0, deadline)
    when = expire_exactly(wheel, 0, deadline + 2 * TICK, step=5)
    assert deadline <= when[0] < deadline + TICK + 5


def test_clock_that_jumps_over_turns_expires_everything() -> None:
    wheel = Wheel(0)
    for number in range(64):
        wheel.set(number, 1 + number * 997)
    assert sorted(wheel.advance(100 * TURN)) == list(range(64))
    assert wheel.count == 0


def test_clock_that_goes_back_expires_nothing_and_breaks_nothing() -> None:
    wheel = Wheel(10_000)
    wheel.set(0, 10_100)
    assert wheel.advance(5000) == []
    assert wheel.advance(10_200) == [0]


def test_timer_set_again_while_others_expire_waits_for_its_new_deadline() -> None:
    wheel = Wheel(0)
    wheel.set(0, 100)
    wheel.set(1, 100)
    first = wheel.take(200)
    wheel.set(first, 300)
    other = wheel.take(200)
    assert {first, other} == {0, 1}
    assert wheel.take(200) is None
    assert wheel.advance(300 + TICK) == [first]


def test_timer_set_to_now_while_others_expire_does_not_keep_the_wheel_turning() -> None:
    wheel = Wheel(0)
    wheel.set(0, 100)
    assert wheel.take(112) == 0
    wheel.set(0, 112)
    taken = [wheel.take(112) for _ in range(3)]
    assert taken.count(0) <= 1
    assert taken[-1] is None


def test_timer_cancelled_by_another_that_expires_does_not_expire() -> None:
    wheel = Wheel(0)
    wheel.set(0, 100)
    wheel.set(1, 100)
    first = wheel.take(200)
    wheel.cancel(1 - first)
    assert wheel.take(200) is None
    assert wheel.count == 0


def test_very_late_deadline_does_not_overflow() -> None:
    wheel = Wheel(1000)
    wheel.set(0, 2**63 - 1)
    assert wheel.advance(10 * TURN) == []
    assert wheel.count == 1


def test_timerfd_is_armed_for_the_first_timer() -> None:
    wheel = Wheel(0)
    wheel.set(0, 500)
    wheel.set(1, 100)
    assert 100 <= wheel.arm(0) < 100 + TICK


def test_timerfd_is_left_alone_without_timers() -> None:
    wheel = Wheel(0)
    assert wheel.arm(0) == 0
    assert not wheel.is_kernel_timer_set()


def test_timerfd_is_armed_again_for_an_earlier_timer_only() -> None:
    wheel = Wheel(0)
    wheel.set(0, 1000)
    when = wheel.arm(0)
    wheel.set(1, 2000)
    assert wheel.arm(0) == when
    wheel.set(2, 500)
    assert wheel.arm(0) < when


def test_timerfd_is_armed_again_after_it_fired() -> None:
    wheel = Wheel(0)
    wheel.set(0, 100)
    wheel.set(1, 1000)
    first = wheel.arm(0)
    assert wheel.advance(first) == [0]
    assert wheel.arm(first) >= 1000


def clock_ms() -> int:
    return int(time.clock_gettime(time.CLOCK_MONOTONIC) * 1000)


def test_timerfd_waits_in_the_kernel() -> None:
    now = clock_ms()
    wheel = Wheel(now)
    wheel.set(0, now + 100_000)
    wheel.arm(now)
    assert wheel.is_kernel_timer_set()
    assert not select.select([wheel.fd], [], [], 0)[0]


def test_timerfd_wakes_a_sleeping_loop() -> None:
    now = clock_ms()
    wheel = Wheel(now)
    wheel.set(0, now + 30)
    wheel.arm(now)
    assert select.select([wheel.fd], [], [], 10)[0]
    assert wheel.advance(clock_ms()) == [0]
