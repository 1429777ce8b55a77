"""Backends. `ScriptedBackend` is played by the test itself, one step after the other; the others answer on their own, in a thread."""

import asyncio
import contextlib
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from tests.support.message import Message, parse_head, response
from tests.support.peer import Peer
from tests.support.waiting import DEADLINE_SECONDS, wait_until

LOOPBACK = "127.0.0.1"


def listen(address: str = LOOPBACK, port: int = 0, path: Path | None = None, backlog: int = 1024) -> socket.socket:
    """A listening socket on a free port, or on a unix path."""
    if path is not None:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(path))
    else:
        listening = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
    listening.listen(backlog)
    return listening


def address_of(listening: socket.socket) -> str:
    """As a configuration writes it."""
    if listening.family == socket.AF_UNIX:
        return f"unix:{listening.getsockname()}"
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class ScriptedBackend:
    """A listening socket. The test accepts, reads and sends."""

    def __init__(self, listening: socket.socket | None = None) -> None:
        self.socket = listening or listen()
        self.socket.settimeout(DEADLINE_SECONDS)
        self.address = address_of(self.socket)
        self.peers: list[Peer] = []

    def accept(self) -> Peer:
        peer = Peer(self.socket.accept()[0])
        self.peers.append(peer)
        return peer

    def answer(self, reply: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") -> tuple[Peer, Message]:
        """Accepts a connection, reads a request and answers it."""
        peer = self.accept()
        message = peer.read_request()
        peer.send(reply)
        return peer, message

    def saw_nothing(self) -> bool:
        """Whether no connection waits to be accepted."""
        self.socket.setblocking(False)
        try:
            self.peers.append(Peer(self.socket.accept()[0]))
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(DEADLINE_SECONDS)
        return False

    def end_connections(self) -> None:
        for peer in self.peers:
            peer.close()

    def close(self) -> None:
        """Nobody listens here any more."""
        self.socket.close()
        self.end_connections()


class ThreadedBackend:
    """Runs `serve(peer)` in a thread for each connection; the end of the connection ends it. Errors are kept for `close`."""

    def __init__(self, serve: Callable[[Peer], None], listening: socket.socket | None = None) -> None:
        self.serve = serve
        self.socket = listening or listen()
        self.address = address_of(self.socket)
        self._peers: list[Peer] = []
        self.errors: list[BaseException] = []
        self._closing = False
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while not self._closing:
            try:
                peer = Peer(self.socket.accept()[0])
            except OSError:
                return
            self._peers.append(peer)
            thread = threading.Thread(target=self._serve, args=[peer], daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, peer: Peer) -> None:
        try:
            self.serve(peer)
        except (EOFError, ConnectionError):
            pass
        except BaseException as error:
            if not self._closing:
                self.errors.append(error)
        peer.close()

    def end_connections(self) -> None:
        """Threads that wait for a socket wait no more."""
        self._closing = True
        for peer in self._peers:
            with contextlib.suppress(OSError):
                peer.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.end_connections()
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(DEADLINE_SECONDS)
        self.socket.close()
        assert not self.errors, self.errors


Answer = Callable[[Message], bytes]
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class InstantBackend:
    """Answers every request at once, from an event loop in a thread: for tests with many requests.

    Args:
        answer: makes the response to a request (whose body is read and dropped), or is the response.
    """

    def __init__(self, answer: Answer | bytes = response(b"ok"), listening: socket.socket | None = None) -> None:
        self.answer = answer
        self.socket = listening or listen()
        self.address = address_of(self.socket)
        self.n_requests = 0
        self.n_connections = 0
        self.heads: list[bytes] = []
        self.held: list[Callable[[], None]] | None = None
        self._loop = asyncio.new_event_loop()
        self._transports: set[asyncio.Transport] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._loop.create_server(lambda: InstantProtocol(self), sock=self.socket, backlog=4096))
        self._loop.run_forever()

    def hold(self) -> None:
        """From here on answers are held back, until `release`."""
        self.held = []

    def release(self) -> None:
        def send() -> None:
            held, self.held = self.held or [], None
            for answer in held:
                answer()

        self._loop.call_soon_threadsafe(send)

    def end_connections(self) -> None:
        self.release()

    def reset_connections(self) -> None:
        """Resets what is open now, and returns when that has happened."""
        ending = list(self._transports)
        for transport in ending:
            self._loop.call_soon_threadsafe(transport.abort)
        wait_until(lambda: not self._transports & set(ending), "the connections have ended")

    def wait_for_held(self, count: int) -> None:
        wait_until(lambda: len(self.held or ()) >= count, f"{count} requests are with the backend")

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

    def __enter__(self) -> "InstantBackend":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


class InstantProtocol(asyncio.Protocol):
    def __init__(self, backend: InstantBackend) -> None:
        self.backend = backend
        self.unread = b""
        self.head = b""  # of the request whose body is being skipped
        self.skip = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.backend.n_connections += 1
        self.backend._transports.add(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.backend._transports.discard(self.transport)

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
                self.answer(self.head)
                self.head = b""
            end = self.unread.find(b"\r\n\r\n")
            if end < 0:
                return
            self.head, self.unread = self.unread[: end + 4], self.unread[end + 4 :]
            length = LENGTH.search(self.head)
            self.skip = int(length[1]) if length else 0

    def answer(self, head: bytes) -> None:
        backend = self.backend
        backend.n_requests += 1
        backend.heads.append(head)
        answer = backend.answer if isinstance(backend.answer, bytes) else backend.answer(parse_head(head))
        if backend.held is not None:
            backend.held.append(lambda: self.transport.write(answer))
        else:
            self.transport.write(answer)
