"""Names of backends and what they stand for, looked up in the background and again whenever an answer is too old.

Owns the known endpoints. How a name is looked up is the resolver's matter (resolver.py); everything here happens on the loop's thread.
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address

from fastlb.control_plane.config.address import format_host_port
from fastlb.control_plane.resolver import Answer, Endpoint, LookupFailure, Resolve

# A name without an answer is asked for again soon.
RETRY_SECONDS = 5.0
# An answer is asked for again when it has expired, and a little later, so that many names do not march in step; not in less than a second,
# whatever it says, and no later than this, because a record is sometimes changed before its time.
MIN_TTL_SECONDS = 1.0
MAX_TTL_SECONDS = 300.0
JITTER = 0.1
# Answers that arrive together become one new snapshot.
SETTLE_SECONDS = 0.1
MAX_QUESTIONS = 64  # at a time


class Names:
    """Keeps the endpoints of a set of names up to date.

    Args:
        on_change: called on the loop when endpoints differ from before; not for the names' first answers while `first_answers` waits.
        report: takes one-line messages for the operator.
        resolve: answers one question.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_change: Callable[[], None], report: Callable[[str], None], resolve: Resolve
    ) -> None:
        self._loop = loop
        self._on_change = on_change
        self._report = report
        self._resolve = resolve
        self._endpoints: dict[str, tuple[Endpoint, ...]] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}  # of every watched name
        self._unanswered: set[str] = set()  # watched, and never answered until now, well or badly
        self._failed: set[str] = set()
        self._questions = asyncio.Semaphore(MAX_QUESTIONS)
        self._answered = asyncio.Event()
        self._settling = False
        self._holding = False
        self._closed = False

    @property
    def endpoints(self) -> dict[str, tuple[Endpoint, ...]]:
        """Those of every watched name that has any; a copy."""
        return {name: endpoints for name, endpoints in self._endpoints.items() if name in self._keepers}

    def watch(self, names: Iterable[str]) -> None:
        """Replaces the set of names. New ones are looked up at once."""
        wanted = set(names)
        for name in self._keepers.keys() - wanted:
            self._keepers.pop(name).cancel()
            self._endpoints.pop(name, None)
            self._failed.discard(name)
            self._unanswered.discard(name)
        for name in sorted(wanted - self._keepers.keys()):
            self._unanswered.add(name)
            self._keepers[name] = self._loop.create_task(self._keep(name))

    def restore(self, endpoints: Mapping[str, tuple[Endpoint, ...]]) -> None:
        """What an earlier controller knew holds until there is an answer; before the names are watched."""
        self._endpoints.update(endpoints)

    def use(self, resolve: Resolve) -> None:
        """Asks there from the next question on; all names are asked for again, and what they stood for holds until they are answered."""
        self._resolve = resolve
        for name, keeper in list(self._keepers.items()):
            keeper.cancel()
            self._unanswered.add(name)
            self._keepers[name] = self._loop.create_task(self._keep(name))

    async def first_answers(self, timeout_seconds: float) -> None:
        """Waits until every watched name was answered, well or badly, but not longer than this."""
        self._holding = True
        try:
            await asyncio.wait_for(self._all_answered(), timeout_seconds)
        except TimeoutError:
            late = sorted(self._unanswered - self._endpoints.keys())
            if late:
                self._report(f"still resolving {', '.join(late)}; backends join when they are found")
        finally:
            self._holding = False

    def close(self) -> None:
        self._closed = True
        for keeper in self._keepers.values():
            keeper.cancel()

    async def _all_answered(self) -> None:
        while self._unanswered:
            self._answered.clear()
            await self._answered.wait()

    async def _keep(self, name: str) -> None:
        """Asks for one name for as long as it is watched."""
        while True:
            async with self._questions:
                try:
                    answer = await self._resolve(name)
                except LookupFailure as failure:
                    self._take_failure(name, str(failure))
                    wait_seconds = RETRY_SECONDS
                else:
                    self._take_answer(name, answer)
                    wait_seconds = min(max(answer.ttl_seconds, MIN_TTL_SECONDS), MAX_TTL_SECONDS)
            self._unanswered.discard(name)
            self._answered.set()
            await asyncio.sleep(wait_seconds * (1 + random.uniform(0, JITTER)))  # noqa: S311

    def _take_failure(self, name: str, reason: str) -> None:
        if name not in self._failed:
            known = self._endpoints.get(name)
            then = f"keeping {_show(known)}" if known else "its backends get no requests"
            self._report(f'cannot resolve "{name}": {reason}; {then}; trying again every {RETRY_SECONDS:.0f} s')
        self._failed.add(name)

    def _take_answer(self, name: str, answer: Answer) -> None:
        before = self._endpoints.get(name)
        kept = [one for one in before or () if ip_address(one.ip).version in answer.missing and one not in answer.endpoints]
        endpoints = (*answer.endpoints, *kept)
        if before is not None and set(endpoints) == set(before):
            endpoints = before  # in another order
        self._endpoints[name] = endpoints
        if name in self._failed or before not in (None, endpoints):
            self._report(f'"{name}" resolves to {_show(endpoints)}')
        self._failed.discard(name)
        if endpoints != before and not self._holding and not self._settling:
            self._settling = True
            self._loop.call_later(SETTLE_SECONDS, self._settle)

    def _settle(self) -> None:
        self._settling = False
        if not self._closed:
            self._on_change()


def _show(endpoints: tuple[Endpoint, ...]) -> str:
    """The first few, for a message."""
    shown = [format_host_port(one.ip, one.port) if one.port else one.ip for one in endpoints]
    more = len(shown) - 10
    return ", ".join(shown[:10]) + (f" and {more} more" if more > 0 else "")
