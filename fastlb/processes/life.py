"""How far this fastlb is in its life, and the tasks of its supervisor.

Owns the tasks, and the event that wakes whoever waits for a child to move on. What the supervisor is made of looks here before it starts
something: who ends starts nothing. It forks nobody and sends nothing.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastlb import FastlbError
from fastlb.processes.output import report


class StartError(FastlbError):
    """fastlb could not start; the text says why."""


class Life:
    """From the start to the end of one supervisor."""

    def __init__(self) -> None:
        self.is_started = False  # every worker has been ready
        self.is_draining = False  # what is in flight is finished, then all end
        self.is_stopping = False  # all end now
        self.has_doors_closed = False  # nothing is accepted any more, and nobody is started to accept
        self.failure: FastlbError | None = None  # why it ends by itself
        self._finished = asyncio.Event()
        self._changed = asyncio.Event()  # set whenever a child moved on; whoever waits for something looks again
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_ending(self) -> bool:
        """Whether no configuration is taken any more."""
        return self.is_stopping or self.is_draining

    # -------------------------------------------------------------------------------------------------- waiting
    def note_change(self) -> None:
        """A child has moved on, or something else that may be waited for has come."""
        self._changed.set()

    async def wait_for(self, holds: Callable[[], bool]) -> None:
        """Looks again whenever a child has moved on."""
        while not holds():
            self._changed.clear()
            await self._changed.wait()

    # -------------------------------------------------------------------------------------------------- the end
    def finish(self) -> None:
        """Nothing is waited for any more: all are to end."""
        self._finished.set()

    def fail(self, error: FastlbError) -> None:
        """Gives up; the first reason counts."""
        self.failure = self.failure or error
        self._finished.set()

    async def wait_for_end(self) -> None:
        await self._finished.wait()

    # -------------------------------------------------------------------------------------------------- tasks
    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Has it done meanwhile; a mistake in it ends fastlb."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)

    def cancel_tasks(self) -> None:
        for task in list(self._tasks):
            task.cancel()

    def later(self, seconds: float, do: Callable[..., None], *arguments: Any) -> None:
        """Calls it after a while, unless all end by then."""

        def run() -> None:
            if not self.is_stopping:
                do(*arguments)

        asyncio.get_running_loop().call_later(seconds, run)

    def _on_task_done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            report(f"a mistake in fastlb: {type(error).__name__}: {error}")
            self.fail(StartError(f"the supervisor ends because of it: {error}"))
