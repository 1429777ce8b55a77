"""When probes start: each at its time, with some jitter, and not too many at once.

Owns the timers and the line of those whose time has come while `limit` others run. It knows nothing of backends.
"""

import random
import time
from asyncio import AbstractEventLoop, TimerHandle
from collections import deque
from collections.abc import Callable

# Backends that are probed in step would be probed at one moment by all nodes, and the prober would be busy then and idle otherwise.
JITTER = 0.1
# The latest start is told of this minute and the one before, so that one bad moment is not told for ever.
WINDOW_SECONDS = 60.0

Start = Callable[[], None]


class Planned:
    """A start that has not happened yet."""

    __slots__ = ("due", "handle", "start")

    def __init__(self, due: float, start: Start) -> None:
        self.due = due  # of time.monotonic
        self.start: Start | None = start
        self.handle: TimerHandle | None = None


class Schedule:
    """Starts what is planned.

    Args:
        limit: of what runs at a time. Whoever is started calls `ended` once, later.
        clock: seconds, monotonic. The loop's own clock stands still while it works, and so would not show who is late.
    """

    def __init__(self, loop: AbstractEventLoop, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._loop = loop
        self._limit = limit
        self._clock = clock
        self._line: deque[Planned] = deque()
        self._window_began = clock()
        self._latest = [0.0, 0.0]  # seconds: of this window, and of the one before
        self.running = 0
        self.started = 0

    def plan(self, due: float, start: Start) -> Planned:
        """Has `start` called at the time `due`, or as soon afterwards as there is room."""
        planned = Planned(due, start)
        planned.handle = self._loop.call_later(max(0.0, due - self._clock()), self._come_due, planned)
        return planned

    def cancel(self, planned: Planned) -> None:
        """It is not started, if it was not yet. Safe to repeat."""
        planned.start = None
        if planned.handle is not None:
            planned.handle.cancel()
            planned.handle = None

    def ended(self) -> None:
        """One that was started is over."""
        self.running -= 1
        while self._line and self.running < self._limit:
            planned = self._line.popleft()
            if planned.start is not None:
                self._start(planned)

    @property
    def waiting(self) -> int:
        """How many are due, and wait for others to end."""
        return sum(planned.start is not None for planned in self._line)

    @property
    def latest_seconds(self) -> float:
        """How late the latest start was, of the last minute or two."""
        self._turn_window(self._clock())
        return max(self._latest)

    def _come_due(self, planned: Planned) -> None:
        planned.handle = None
        if self.running < self._limit:
            self._start(planned)
        else:
            self._line.append(planned)

    def _start(self, planned: Planned) -> None:
        start, planned.start = planned.start, None
        assert start is not None
        now = self._clock()
        self._turn_window(now)
        self._latest[0] = max(self._latest[0], now - planned.due)
        self.running += 1
        self.started += 1
        start()

    def _turn_window(self, now: float) -> None:
        if now - self._window_began >= WINDOW_SECONDS:
            self._latest = [0.0, self._latest[0] if now - self._window_began < 2 * WINDOW_SECONDS else 0.0]
            self._window_began = now


def jittered(seconds: float) -> float:
    """About so much: a tenth more or less."""
    return seconds * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  nobody gains by guessing it


def first_delay(seconds: float) -> float:
    """Anything up to so much: what begins together is spread out."""
    return seconds * random.random()  # noqa: S311
