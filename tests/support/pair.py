"""An engine in this process before two or more backends that the test plays: what one of them does, and what the other one then gets."""

import contextlib
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastlb import _core
from tests.support.images import Writer
from tests.support.logs import LogWorld, compile_logs, wait_for_lines
from tests.support.process import unequal

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Pair(LogWorld):
    """Round robin: the first request goes to backend 0, another attempt of it to backend 1. Leaving it asserts that all counters balance.

    Args:
        n: how many backends.
        unix: which of them have a unix socket, which holds about 200 KB that nobody has read, and not megabytes.
        cap: requests that each of them takes at a time; 0 = no cap.
        pool: settings of the pool, as Writer.pool has them.
    """

    def __init__(self, n: int = 2, cap: int = 0, unix: Sequence[int] = (), **pool: Any) -> None:
        super().__init__()
        self.pool: dict[str, Any] = {"algorithm": "round_robin", **pool}
        self.backends = [self.backend, *(self.listen() for _ in range(n - 1))]
        for number in unix:
            self.backends[number] = self.listen_unix()
        self.front = self.listen()
        self.cap = cap
        self.log_format = ""
        self.load()

    def load(self, **pool: Any) -> None:
        """Another snapshot of the same, with these settings of the pool changed."""
        self.generation += 1
        self.pool |= pool
        writer = Writer(self.generation)
        writer.set_reason_header("X-Fastlb-Reason")
        if self.log_format:
            plan, destinations = compile_logs({"to": str(self.log_path), "format": self.log_format})
            writer.set_log_plan(plan)
            writer.listener(log_set=0)
        else:
            writer.listener()
        number = writer.pool(**self.pool)
        for backend in self.backends:
            if backend.family == socket.AF_UNIX:
                path = backend.getsockname()
                packed = _core.pack_unix(path)
                writer.add_backend(number, identity=path, display=path, address=packed, weight=1, max_in_flight=self.cap)
            else:
                writer.backend(number, backend.getsockname()[1], max_in_flight=self.cap)
        writer.add_route(host="", path_prefix="/", pool=number)
        self.apply_image(writer.image(), self.front)
        if self.log_format:
            self.open_logs(destinations)

    def log_to(self, path: Path, log_format: str) -> None:
        """From here on exchanges are logged."""
        self.log_path, self.log_format = path, log_format
        self.load()

    def lines(self, count: int) -> list[str]:
        """The log, once it has so many lines."""
        self.rest()
        return wait_for_lines(self.log_path, count)

    def client(self) -> socket.socket:
        return self.connect(self.front)

    def request(self, data: bytes) -> socket.socket:
        """A client that has sent this."""
        client = self.client()
        client.setblocking(True)
        client.sendall(data)
        client.setblocking(False)
        return client

    def accept_at(self, number: int) -> socket.socket:
        """The next connection of this backend."""
        self.backend = self.backends[number]
        return self.accept()

    def accept_any(self) -> socket.socket:
        """The next connection of whichever backend gets one."""
        accepted: list[socket.socket] = []

        def look() -> bool:
            for listening in self.backends:
                with contextlib.suppress(BlockingIOError):
                    accepted.append(self.stack.enter_context(listening.accept()[0]))
            return bool(accepted)

        self.pump_until(look)
        accepted[0].setblocking(False)
        return accepted[0]

    def read_until(self, peer: socket.socket, mark: bytes) -> bytes:
        """All that comes, up to where this has come; fails at the end of the stream."""
        received = b""
        while mark not in received:
            data = self.read(peer)
            assert data, f"ended after {received[-200:]!r}"
            received += data
        return received

    def read_all(self, peer: socket.socket) -> bytes:
        """All that comes, to the end of the stream or its reset."""
        received = b""
        while True:
            try:
                data = self.read(peer)
            except ConnectionResetError:
                return received
            if not data:
                return received
            received += data

    def fill_backlog(self, number: int) -> list[socket.socket]:
        """This backend lets nobody in any more; the connections that wait for it."""
        listening = self.backends[number]
        listening.listen(0)
        fillers = []
        while True:
            filler = self.stack.enter_context(socket.socket())
            filler.settimeout(0.05)  # loopback takes microseconds
            try:
                filler.connect(listening.getsockname())
            except TimeoutError:
                filler.close()
                return fillers
            fillers.append(filler)

    def saw_nothing(self, number: int) -> bool:
        """Whether no connection waits at this backend."""
        try:
            self.stack.enter_context(self.backends[number].accept()[0])
        except BlockingIOError:
            return True
        return False

    def counts(self, *names: str) -> tuple[int, ...]:
        counters = self.counters()
        return tuple(counters[name] for name in names)

    def failures(self) -> list[int]:
        """Of each backend, in their order."""
        rows = {row["display"]: row["failures"] for row in self.engine.backends()}
        names = (backend.getsockname() for backend in self.backends)
        return [rows[name if isinstance(name, str) else f"127.0.0.1:{name[1]}"] for name in names]

    def __exit__(self, *error: object) -> None:
        at_rest = error == (None, None, None)
        super().__exit__(*error)
        if at_rest:
            assert not unequal(self.counters()), self.counters()


def reset(peer: socket.socket) -> None:
    """Ends a connection so that the other side gets an error."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def head(method: str = "GET", *fields: str) -> bytes:
    return "\r\n".join((f"{method} / HTTP/1.1", "Host: a", *fields, "", "")).encode()


def sized(method: str, body: bytes) -> bytes:
    return head(method, f"Content-Length: {len(body)}") + body
