"""fastlb/data_plane/timer_wheel.pyx against a dictionary of deadlines."""

import hypothesis.stateful as stateful
from hypothesis import strategies as st

from tests.property.examples import examples
from tests.support._probe import Wheel

TICK = 16
TURN = 4096 * TICK
N = 12
numbers = st.integers(0, N - 1)
delays = st.one_of(
    st.integers(0, 100), st.integers(0, 3000), st.sampled_from([TURN - TICK, TURN - 1, TURN, TURN + 1]), st.integers(0, 4 * TURN)
)
steps = st.one_of(st.integers(0, 40), st.integers(0, 2000), st.sampled_from([TICK, TURN - 1, TURN, TURN + 1]), st.integers(0, 3 * TURN))


class TimerWheelMachine(stateful.RuleBasedStateMachine):
    """Times are in milliseconds. `deadlines` is the model; a timer is due once its deadline's tick has begun."""

    @stateful.initialize(start=st.one_of(st.just(0), st.integers(0, 10**9)))
    def open(self, start: int) -> None:
        self.wheel = Wheel(start, N)
        self.now = start
        self.deadlines: dict[int, int] = {}

    @stateful.rule(number=numbers, delay=delays)
    def set_timer(self, number: int, delay: int) -> None:
        self.wheel.set(number, self.now + delay)
        self.deadlines[number] = self.now + delay

    @stateful.rule(number=numbers, before=st.integers(0, 5000))
    def set_timer_in_the_past(self, number: int, before: int) -> None:
        deadline = max(0, self.now - before)
        self.wheel.set(number, deadline)
        self.deadlines[number] = deadline

    @stateful.rule(number=numbers)
    def cancel_timer(self, number: int) -> None:
        self.wheel.cancel(number)
        self.deadlines.pop(number, None)

    @stateful.rule(step=steps, again=st.dictionaries(numbers, delays, max_size=3), gone=st.sets(numbers, max_size=2))
    def move_clock(self, step: int, again: dict[int, int], gone: set[int]) -> None:
        """Moves the clock. Timers that expire may be set again, and cancel others, as the handlers of the engine do."""
        before = self.now
        self.now += step
        late = {number for number, deadline in self.deadlines.items() if self.is_overdue(deadline, before)}
        while (number := self.wheel.take(self.now)) is not None:
            assert number in self.deadlines, "a timer that is not set expired"
            deadline = self.deadlines.pop(number)
            assert deadline <= self.now, "a timer expired early"
            late.discard(number)
            if number in again:
                delay = again.pop(number)
                self.wheel.set(number, self.now + delay)
                self.deadlines[number] = self.now + delay
            for other in gone:
                self.wheel.cancel(other)
                self.deadlines.pop(other, None)
                late.discard(other)
            gone = set()
        assert not late, "a timer did not expire in time"

    def is_overdue(self, deadline: int, before: int) -> bool:
        """Whether it had to expire by now: its tick has begun, and that tick came after the last look at the wheel."""
        return self.now // TICK >= max(-(-deadline // TICK), before // TICK + 1)

    @stateful.invariant()
    def wheel_counts_what_is_set(self) -> None:
        if hasattr(self, "wheel"):
            assert self.wheel.count == len(self.deadlines)
            assert [self.wheel.is_filed(number) for number in range(N)] == [number in self.deadlines for number in range(N)]

    @stateful.invariant()
    def kernel_timer_fires_in_time(self) -> None:
        # What the engine relies on while it sleeps: never later than the tick in which the first deadline is due.
        if hasattr(self, "wheel") and self.deadlines:
            first = min(self.deadlines.values())
            assert self.wheel.arm(self.now) <= max(-(-first // TICK) * TICK, (self.now // TICK + 1) * TICK)


TestTimerWheel = TimerWheelMachine.TestCase
TestTimerWheel.settings = examples(150)
