"""TCP sessions through an engine that the test pumps: a tcp listener before backends that are the test's own sockets."""

import contextlib
import socket
import struct
from typing import Any

from tests.support.images import Writer
from tests.support.world import World


class Sessions(World):
    """A listener of TCP sessions before `backends`, asked in turn. Leaving it asserts that every counter balances."""

    def __init__(self, n_backends: int = 1) -> None:
        super().__init__()
        self.backends = [self.backend, *(self.listen() for _ in range(n_backends - 1))]
        self.listening = self.listen()

    def __exit__(self, *_: object) -> None:
        self.stack.close()
        self.pump_until(self.is_at_rest)
        super().__exit__()
        counters = self.counters()
        for name in counters:
            for opened, closed in (("_opened", "_closed"), ("_taken", "_returned")):
                if name.endswith(opened):
                    assert counters[name] == counters[name.removesuffix(opened) + closed], name

    def is_at_rest(self) -> bool:
        counters = self.counters()
        return counters["clients_opened"] == counters["clients_closed"]

    def start(
        self,
        *,
        session_ms: int = 0,
        ports: list[int] | None = None,
        sticky: dict[str, Any] | None = None,
        source: str = "",
        keepalive: tuple[int, int, int] = (30, 5, 3),
        **pool: Any,
    ) -> None:
        """Applies a snapshot; `ports` in the place of those of the backends."""
        self.generation += 1
        writer = Writer(self.generation)
        writer.set_max_connections(self.max_connections)
        listener = writer.listener(http2_streams=0)
        number = writer.pool(**{"algorithm": "round_robin", **pool})
        writer.set_socket(number, keepalive=keepalive, source=source)
        if sticky is not None:
            writer.set_sticky_table(number, **sticky)
        for port in ports or [backend.getsockname()[1] for backend in self.backends]:
            writer.backend(number, port)
        writer.set_session(listener, writer.add_route(pool=number), timeout_ms=session_ms)
        self.apply_image(writer.image(), self.listening)

    def dial(self) -> socket.socket:
        """A client's end."""
        return self.connect(self.listening)

    def accept_from(self, backend: socket.socket) -> socket.socket:
        before, self.backend = self.backend, backend
        try:
            return self.accept()
        finally:
            self.backend = before

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Both ends of a session with the first backend, which is relayed by now."""
        client = self.dial()
        peer = self.accept()
        self.pump_until(lambda: self.counters()["tunnels_opened"] > self.counters()["tunnels_closed"])
        return client, peer

    def read_all(self, peer: socket.socket, size: int) -> bytes:
        """So many bytes, or what comes until the end."""
        received = b""
        while len(received) < size and (more := self.read(peer)):
            received += more
        return received

    def end_of(self, peer: socket.socket) -> str:
        """How this end is ended: "end" or "reset", whatever comes before it."""
        while True:
            try:
                if not self.read(peer):
                    return "end"
            except ConnectionResetError:
                return "reset"


def reset(peer: socket.socket) -> None:
    """Closes with a reset."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def dead_port() -> int:
    """A port that nobody listens at: of a socket that is bound for as long as the process, so that nobody else gets it."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    _bound.append(bound)
    return int(bound.getsockname()[1])


_bound: list[socket.socket] = []


def fill(peer: socket.socket) -> int:
    """Sends until the socket takes no more; how many bytes that were."""
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += peer.send(bytes(65536))
    return sent
