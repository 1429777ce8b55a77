"""Names of backends and their addresses, looked up in the background.

Owns the known addresses. getaddrinfo blocks for as long as a name server lets it, so it runs in threads, and in daemon threads, because a
process that stops must not wait for a name server. Everything else happens on the loop's thread.
"""

import queue
import socket
import threading
from asyncio import AbstractEventLoop, Event, wait_for
from collections.abc import Callable, Iterable
from ipaddress import ip_address

# A name without an address is asked for again soon. One that has addresses seldom changes; getaddrinfo does not tell how long they hold.
RETRY_SECONDS = 5.0
REFRESH_SECONDS = 30.0
# Answers that arrive together become one new snapshot.
SETTLE_SECONDS = 0.1
MAX_THREADS = 8

Resolve = Callable[[str], list[str]]


def resolve_name(name: str) -> list[str]:
    """The addresses of a name in a stable order, IPv4 first.

    Raises:
        OSError: the system's resolver has none.
    """
    found = {str(entry[4][0]) for entry in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)}
    parsed = sorted((ip_address(text) for text in found if "%" not in text), key=lambda ip: (ip.version, int(ip)))
    if not parsed:
        raise OSError("it has link-local addresses only")
    return [str(ip) for ip in parsed]


class Names:
    """Keeps the addresses of a set of names up to date.

    Args:
        on_change: called on the loop when addresses differ from before; not for the names' first answers while `first_answers` waits.
        report: takes one-line messages for the operator.
        resolve: replaces getaddrinfo in tests.
    """

    def __init__(
        self, loop: AbstractEventLoop, on_change: Callable[[], None], report: Callable[[str], None], resolve: Resolve = resolve_name
    ) -> None:
        self._loop = loop
        self._on_change = on_change
        self._report = report
        self._resolve = resolve
        self._addresses: dict[str, tuple[str, ...]] = {}
        self._watched: set[str] = set()
        self._asking: set[str] = set()  # queued or in a thread
        self._failed: set[str] = set()
        self._jobs: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._n_threads = 0
        self._answered = Event()
        self._settling = False
        self._holding = False
        self._closed = False

    @property
    def addresses(self) -> dict[str, tuple[str, ...]]:
        """The addresses of every watched name that has any; a copy."""
        return {name: addresses for name, addresses in self._addresses.items() if name in self._watched}

    def watch(self, names: Iterable[str]) -> None:
        """Replaces the set of names. New ones are looked up at once."""
        before, self._watched = self._watched, set(names)
        for name in sorted(self._watched - before):
            if name not in self._addresses:
                self._ask(name)

    async def first_answers(self, timeout_seconds: float) -> None:
        """Waits until every watched name was answered, well or badly, but not longer than this."""
        self._holding = True
        try:
            await wait_for(self._all_answered(), timeout_seconds)
        except TimeoutError:
            late = sorted(self._asking & self._watched)
            self._report(f"still resolving {', '.join(late)}; backends join when they are found")
        finally:
            self._holding = False

    def close(self) -> None:
        self._closed = True
        for _ in range(self._n_threads):
            self._jobs.put(None)

    async def _all_answered(self) -> None:
        while self._asking & self._watched:
            self._answered.clear()
            await self._answered.wait()

    def _ask(self, name: str) -> None:
        if self._closed or name in self._asking or name not in self._watched:
            return
        self._asking.add(name)
        self._jobs.put(name)
        if self._n_threads < min(MAX_THREADS, len(self._asking)):
            self._n_threads += 1
            threading.Thread(target=self._work, name="fastlb-names", daemon=True).start()

    def _work(self) -> None:
        """A thread: touches nothing but the queue, and hands each answer to the loop."""
        while (name := self._jobs.get()) is not None:
            answer: tuple[str, ...] | str
            try:
                answer = tuple(self._resolve(name))
            except (OSError, UnicodeError) as error:
                answer = getattr(error, "strerror", None) or str(error)
            try:
                self._loop.call_soon_threadsafe(self._take_answer, name, answer)
            except RuntimeError:  # the loop has been closed while the name server took its time
                return

    def _take_answer(self, name: str, answer: tuple[str, ...] | str) -> None:
        self._asking.discard(name)
        self._answered.set()
        if self._closed or name not in self._watched:
            self._addresses.pop(name, None)
            return
        if isinstance(answer, str):
            self._take_failure(name, answer)
        else:
            self._take_addresses(name, answer)
        wait_seconds = RETRY_SECONDS if name in self._failed else REFRESH_SECONDS
        self._loop.call_later(wait_seconds, self._ask, name)

    def _take_failure(self, name: str, reason: str) -> None:
        if name not in self._failed:
            known = self._addresses.get(name)
            then = f"keeping {', '.join(known)}" if known else "its backends get no requests"
            self._report(f'cannot resolve "{name}": {reason.lower()}; {then}; trying again every {RETRY_SECONDS:.0f} s')
        self._failed.add(name)

    def _take_addresses(self, name: str, addresses: tuple[str, ...]) -> None:
        before = self._addresses.get(name)
        self._addresses[name] = addresses
        if name in self._failed or before not in (None, addresses):
            self._report(f'"{name}" resolves to {", ".join(addresses)}')
        self._failed.discard(name)
        if addresses != before and not self._holding and not self._settling:
            self._settling = True
            self._loop.call_later(SETTLE_SECONDS, self._settle)

    def _settle(self) -> None:
        self._settling = False
        if not self._closed:
            self._on_change()
