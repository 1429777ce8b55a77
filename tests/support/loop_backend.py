"""The backend for many requests: it answers on its own, from an event loop in a thread, and counts what it is asked at the same time."""

import asyncio
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from tests.support.backend import LENGTH, Answer, address_of, listen
from tests.support.message import parse_head, response
from tests.support.waiting import DEADLINE_SECONDS, wait_until

HEADS_KEPT = 10_000


class LoopBackend:
    """Answers every request, at once or after a while.

    Args:
        answer: makes the response to a request (whose body is read and dropped), or is the response.
        seconds: from request to answer; a target "/slow" gets its answer after `slow_seconds`.
    """

    def __init__(
        self,
        answer: Answer | bytes = response(b"ok"),
        listening: socket.socket | None = None,
        *,
        seconds: float = 0.0,
        slow_seconds: float = 0.05,
    ) -> None:
        self.answer = answer
        self.seconds = seconds
        self.slow_seconds = slow_seconds
        self.socket = listening or listen(backlog=4096)
        self.address = address_of(self.socket)
        self.n_requests = 0
        self.n_connections = 0
        self.most = 0  # requests at the same time, ever
        self.heads: list[bytes] = []  # of the first HEADS_KEPT requests
        self.held: list[Callable[[], None]] | None = None
        self._open: set[object] = set()
        self._loop = asyncio.new_event_loop()
        self._transports: set[asyncio.Transport] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def open(self) -> int:
        """Requests that are neither answered nor given up, now."""
        return len(self._open)

    def hold(self) -> None:
        """From here on answers are held back, until `release`."""
        self._on_loop(lambda: setattr(self, "held", []))

    def release(self, count: int | None = None) -> None:
        """Sends what was held back; with a count the first so many, and the rest stay."""

        def send() -> None:
            held = self.held or []
            going, self.held = (held, None) if count is None else (held[:count], held[count:])
            for answer in going:
                answer()

        self._on_loop(send)

    def wait_for_held(self, count: int) -> None:
        wait_until(lambda: len(self.held or ()) >= count, f"{count} requests are with the backend")

    def end_connections(self) -> None:
        if self._thread.is_alive():
            self.release()

    def reset_connections(self) -> None:
        """Resets what is open now, and returns when that has happened."""
        ending = list(self._transports)
        for transport in ending:
            self._loop.call_soon_threadsafe(transport.abort)
        wait_until(lambda: not self._transports & set(ending), "the connections have ended")

    def close(self) -> None:
        def stop() -> None:
            for transport in self._transports:
                transport.abort()
            self._loop.call_soon(self._loop.stop)

        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(stop)
            self._thread.join(DEADLINE_SECONDS)
            self._loop.close()
        self.socket.close()

    def __enter__(self) -> "LoopBackend":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._loop.create_server(lambda: LoopProtocol(self), sock=self.socket, backlog=4096))
        self._loop.run_forever()

    def _on_loop(self, do: Callable[[], Any]) -> None:
        done = threading.Event()

        def run() -> None:
            do()
            done.set()

        self._loop.call_soon_threadsafe(run)
        assert done.wait(DEADLINE_SECONDS)

    def _begin(self, token: object, head: bytes) -> None:
        self.n_requests += 1
        if len(self.heads) < HEADS_KEPT:
            self.heads.append(head)
        self._open.add(token)
        # A connection that ended before this request came (its worker died, and another one took the place) may be told of later in the
        # same turn of the loop: count when the turn is over.
        self._loop.call_soon(self._loop.call_soon, self._note_most)

    def _note_most(self) -> None:
        self.most = max(self.most, len(self._open))


class LoopProtocol(asyncio.Protocol):
    """One connection of a LoopBackend."""

    def __init__(self, backend: LoopBackend) -> None:
        self.backend = backend
        self.unread = b""
        self.head = b""  # of the request whose body is being skipped
        self.skip = 0
        self.tokens: set[object] = set()  # of the requests without an answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.backend.n_connections += 1
        self.backend._transports.add(transport)

    def eof_received(self) -> None:
        self._give_up()

    def connection_lost(self, error: Exception | None) -> None:
        self.backend._transports.discard(self.transport)
        self._give_up()

    def data_received(self, data: bytes) -> None:
        self.unread += data
        while True:
            if self.skip:
                skipped = min(self.skip, len(self.unread))
                self.skip -= skipped
                self.unread = self.unread[skipped:]
                if self.skip:
                    return
            if self.head:
                self._take(self.head)
                self.head = b""
            end = self.unread.find(b"\r\n\r\n")
            if end < 0:
                return
            self.head, self.unread = self.unread[: end + 4], self.unread[end + 4 :]
            length = LENGTH.search(self.head)
            self.skip = int(length[1]) if length else 0

    def _take(self, head: bytes) -> None:
        backend = self.backend
        token = object()
        self.tokens.add(token)
        backend._begin(token, head)
        answer = backend.answer if isinstance(backend.answer, bytes) else backend.answer(parse_head(head))
        seconds = backend.slow_seconds if head.startswith(b"GET /slow ") else backend.seconds
        if backend.held is not None:
            backend.held.append(lambda: self._send(token, answer))
        elif seconds:
            backend._loop.call_later(seconds, self._send, token, answer)
        else:
            self._send(token, answer)

    def _send(self, token: object, answer: bytes) -> None:
        if token in self.tokens:
            self.tokens.discard(token)
            self.backend._open.discard(token)
            self.transport.write(answer)

    def _give_up(self) -> None:
        self.backend._open -= self.tokens
        self.tokens.clear()
