"""Reloads as the controller sees them: who waits for one, and what came of it.

Owns the tickets. Reading the file again is the supervisor's to arrange, which has the privileges; whoever asks gets the answer of a reload
that began after the question, so that what was on disk by then is what the answer is about.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastlb import FastlbError
from fastlb.control_plane.config.schema import GlobalSettings
from fastlb.control_plane.reading import Reading, take_reading, warn_of_settings_that_stay
from fastlb.processes.messages import FromController, Reload, Reloaded, Reread
from fastlb.processes.output import report, report_warnings, say


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a reload: the generation in force, or errors, and then nothing has changed, unless fastlb itself made a mistake.

    Args:
        milliseconds: from the question to the last worker's word.
        apply_milliseconds: of these from when the file had been read.
    """

    generation: int = 0
    milliseconds: float = 0.0
    apply_milliseconds: float = 0.0
    warnings: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        if self.errors:
            return {"errors": list(self.errors)}
        return {
            "generation": self.generation,
            "milliseconds": round(self.milliseconds, 1),
            "apply_milliseconds": round(self.apply_milliseconds, 1),
            "warnings": list(self.warnings),
        }


class Reloads:
    """Applies what loaders have read.

    Args:
        send: says something to the supervisor.
        use: puts what was read in force; returns the generation, and warnings. FastlbError: nothing has changed.
        started: the settings that this fastlb was started with.
    """

    def __init__(
        self,
        send: Callable[[FromController], None],
        use: Callable[[Reading], Awaitable[tuple[int, Sequence[str]]]],
        started: GlobalSettings,
    ) -> None:
        self._send = send
        self._use = use
        self._started = started
        self._tickets: dict[int, asyncio.Future[Outcome]] = {}
        self._drawn = 0
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def ask(self) -> Outcome:
        """Has the file read again; returns when every worker uses what it says, or with what is wrong with it."""
        if self._closed:
            return _ENDING
        began = time.monotonic()
        self._drawn += 1
        ticket = self._drawn
        waiting = self._tickets[ticket] = asyncio.get_running_loop().create_future()
        self._send(Reload(ticket))
        try:
            outcome: Outcome = await waiting
        finally:
            self._tickets.pop(ticket, None)
        return replace(outcome, milliseconds=(time.monotonic() - began) * 1000)

    def take(self, message: Reread, descriptors: list[int]) -> None:
        """The file has been read."""
        began = time.monotonic()
        try:
            reading = Reading(errors=(message.error,)) if message.error or not descriptors else take_reading(descriptors[0])
        except Exception as error:  # whatever it is: the supervisor has no other reload before this one is done
            reading = Reading(errors=_describe_mistake(error))
        self._task = asyncio.get_running_loop().create_task(self._finish(message, reading, began))  # the supervisor has one at a time

    def close(self) -> None:
        """Answers whoever still waits."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
        self._answer(self._drawn, _ENDING)

    async def _finish(self, message: Reread, reading: Reading, began: float) -> None:
        try:
            outcome = replace(await self._take(reading), apply_milliseconds=(time.monotonic() - began) * 1000)
            report_warnings(outcome.warnings)
            if reading.is_renewal:
                _tell_of_renewal(outcome)
            elif outcome.errors:
                report("\n".join(("the configuration was not reloaded, and the one in force stays:", *outcome.errors)))
            else:
                say(f"reloaded (generation {outcome.generation})")
        except Exception as error:  # as above
            outcome = Outcome(errors=_describe_mistake(error))
            report("\n".join(("the reload did not come to its end; `fastlb status` says which generation is in force:", *outcome.errors)))
        self._answer(message.ticket, outcome)
        self._send(Reloaded(message.number, not outcome.errors))

    async def _take(self, reading: Reading) -> Outcome:
        if reading.errors:
            return Outcome(errors=reading.errors)
        try:
            generation, more = await self._use(reading)
        except FastlbError as error:
            return Outcome(errors=tuple(str(error).splitlines()))
        stays = warn_of_settings_that_stay(self._started, reading.config.settings) if reading.config is not None else ()
        return Outcome(generation, warnings=(*reading.warnings, *more, *stays))

    def _answer(self, ticket: int, outcome: Outcome) -> None:
        """Tells everybody whose ticket is not newer than this one."""
        for number, waiting in list(self._tickets.items()):
            if number <= ticket and not waiting.done():
                waiting.set_result(outcome)


def _tell_of_renewal(outcome: Outcome) -> None:
    """Of files of TLS that were read again; nothing where they hold what is in force."""
    if outcome.errors:
        report("\n".join(("the files of TLS were not put in force, and what they held before stays:", *outcome.errors)))
    elif outcome.generation:
        say(f"certificates reloaded (generation {outcome.generation})")


def _describe_mistake(error: Exception) -> tuple[str, ...]:
    return tuple(f"a mistake in fastlb: {type(error).__name__}: {error}".splitlines())


_ENDING = Outcome(errors=("fastlb is ending and takes no configuration any more",))
