"""An event loop's timers without a loop: the test says what time it is."""

import heapq
from collections.abc import Callable
from typing import Any


class PlayedHandle:
    def __init__(self, when: float, number: int, callback: Callable[[], None]) -> None:
        self.when, self.number, self.callback = when, number, callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    def __lt__(self, other: "PlayedHandle") -> bool:
        return (self.when, self.number) < (other.when, other.number)


class PlayedLoop:
    """Calls what is due while `play` lets time pass; `now` may be moved on by what is called, as work takes time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._timers: list[PlayedHandle] = []
        self._n = 0

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[..., None], *args: Any) -> PlayedHandle:
        assert delay >= 0
        self._n += 1
        handle = PlayedHandle(self.now + delay, self._n, lambda: callback(*args))
        heapq.heappush(self._timers, handle)
        return handle

    def call_soon(self, callback: Callable[..., None], *args: Any) -> PlayedHandle:
        return self.call_later(0, callback, *args)

    def play(self, seconds: float) -> None:
        """Everything that happens within so many seconds."""
        end = self.now + seconds
        while self._timers and self._timers[0].when <= end:
            handle = heapq.heappop(self._timers)
            if not handle.cancelled:
                self.now = max(self.now, handle.when)
                handle.callback()
        self.now = max(self.now, end)

    @property
    def pending(self) -> int:
        """Timers that are armed."""
        return sum(not handle.cancelled for handle in self._timers)
