"""Backends that are being drained: until when each may finish what it has, and what had to be cut.

Owns a task for each. That no new work comes to a backend is the matter of its state in shared memory; here is only the clock. A controller
that begins where another has ended, or another fastlb, starts the clock of every draining backend anew.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastlb import FastlbError
from fastlb.control_plane.config.quantity import format_duration
from fastlb.processes.output import report

# How often it is looked whether a backend has finished; two looks in a row have to say so, as a worker may just have picked it.
LOOK_SECONDS = 0.1


@dataclass(slots=True)
class Drain:
    """Of one backend.

    Args:
        timeout_ms: how long it may take.
        deadline: when that is over, in seconds of the monotonic clock.
        is_over: nothing was in flight any more, or the time is over and what was has been cut, as far as the workers of this fastlb have
            answered.
        cut: exchanges that were cut.
    """

    timeout_ms: int
    deadline: float
    is_over: bool = False
    cut: int = 0

    def as_json(self) -> dict[str, Any]:
        left = 0 if self.is_over else max(round((self.deadline - time.monotonic()) * 1000), 0)
        return {"timeout_ms": self.timeout_ms, "left_ms": left, "over": self.is_over, "cut": self.cut}


class Drains:
    """All of them, by the identity of the backend.

    Args:
        in_flight: of a backend, in all workers.
        cut: ends what is in flight at a backend; returns how many exchanges that were.
    """

    def __init__(self, in_flight: Callable[[str], int], cut: Callable[[str], Awaitable[int]]) -> None:
        self._in_flight = in_flight
        self._cut = cut
        self._drains: dict[str, Drain] = {}
        self._clocks: dict[str, asyncio.Task[None]] = {}

    def begin(self, identity: str, timeout_ms: int) -> None:
        """Starts the clock; the time runs from now, also where it ran already."""
        self.forget(identity)
        drain = self._drains[identity] = Drain(timeout_ms, time.monotonic() + timeout_ms / 1000)
        self._clocks[identity] = asyncio.get_running_loop().create_task(self._watch(identity, drain))

    def forget(self, identity: str) -> None:
        """It is not draining any more."""
        self._drains.pop(identity, None)
        clock = self._clocks.pop(identity, None)
        if clock is not None:
            clock.cancel()

    def get(self, identity: str) -> Drain | None:
        return self._drains.get(identity)

    def close(self) -> None:
        for identity in list(self._drains):
            self.forget(identity)

    async def _watch(self, identity: str, drain: Drain) -> None:
        try:
            while not await self._is_empty(identity) and time.monotonic() < drain.deadline:
                await asyncio.sleep(min(LOOK_SECONDS, max(drain.deadline - time.monotonic(), 0)))
            if self._in_flight(identity):
                drain.cut = await self._cut(identity)
                report(
                    f"backend {identity.replace('|', ' ', 1)}: drained for {format_duration(drain.timeout_ms)}; exchanges cut: {drain.cut}"
                )
        except KeyError:  # it is listed no more, and nothing is in flight there
            self._drains.pop(identity, None)
        except FastlbError as error:
            report(f"{_name(identity)}: what is in flight could not be cut: {error}")
        drain.is_over = True
        self._clocks.pop(identity, None)

    async def _is_empty(self, identity: str) -> bool:
        if self._in_flight(identity):
            return False
        await asyncio.sleep(LOOK_SECONDS)
        return not self._in_flight(identity)


def _name(identity: str) -> str:
    return f"backend {identity.replace('|', ' ', 1)}"
