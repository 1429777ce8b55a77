"""UDP sessions through an engine that the test pumps: a UDP listener before backends that are the test's own sockets."""

import contextlib
import socket
from typing import Any, Self

from tests.support.images import Writer
from tests.support.world import World

Peer = tuple[Any, ...]


class Datagrams(World):
    """A UDP listener before `backends`, asked in turn unless a test says otherwise. Leaving it asserts that every counter balances."""

    def __init__(self, n_backends: int = 1, host: str = "127.0.0.1", **world: Any) -> None:
        super().__init__(**world)
        self.backends = [self.bind() for _ in range(n_backends)]
        self.listening = self.bind(host)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()
        self.engine.close()
        counters = self.counters()
        for name in counters:
            for opened, closed in (("_opened", "_closed"), ("_taken", "_returned")):
                if name.endswith(opened):
                    assert counters[name] == counters[name.removesuffix(opened) + closed], name

    def bind(self, host: str = "127.0.0.1") -> socket.socket:
        bound = self.stack.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM))
        bound.bind((host, 0))
        bound.setblocking(False)
        return bound

    def start(
        self,
        *listening: socket.socket,
        max_sessions: int = 16,
        silence_ms: int = 60_000,
        responses: int = -1,
        session_ms: int = 0,
        ports: list[int] | None = None,
        sticky: dict[str, Any] | None = None,
        caps: int = 0,
        weights: list[int] | None = None,
        server_ids: list[tuple[bytes, int]] | None = None,
        server_id_offset: int = 0,
        **pool: Any,
    ) -> list[int]:
        """Applies a snapshot; `ports` in the place of those of the backends. `server_ids`: see SnapshotWriter.set_datagrams."""
        self.generation += 1
        writer = Writer(self.generation)
        writer.set_max_connections(self.max_connections)
        sockets = listening or (self.listening,)
        listeners = [writer.listener(f"l{number}", http2_streams=0) for number in range(len(sockets))]
        number = writer.pool(**{"algorithm": "round_robin", **pool})
        if sticky is not None:
            writer.set_sticky_table(number, **sticky)
        ports = ports or [backend.getsockname()[1] for backend in self.backends]
        for port, weight in zip(ports, weights or [1] * len(ports), strict=True):
            writer.backend(number, port, weight=weight, max_in_flight=caps)
        route = writer.add_route(pool=number)
        for listener in listeners:
            writer.set_datagrams(
                listener,
                route,
                max_sessions=max_sessions,
                silence_ms=silence_ms,
                responses=responses,
                timeout_ms=session_ms,
                server_ids=server_ids or [],
                server_id_offset=server_id_offset,
            )
        return self.apply_image(writer.image(), *sockets)

    def client(self, host: str = "127.0.0.1") -> socket.socket:
        """A client's socket, connected to the listener."""
        client = self.bind(host)
        client.connect((host, self.listening.getsockname()[1]))
        return client

    def open_sessions(self) -> int:
        counters = self.counters()
        return counters["udp_sessions_opened"] - counters["udp_sessions_closed"]

    def forge(self, n: int, to: socket.socket | None = None, net: str = "127.3") -> None:
        """Datagrams of so many clients that nobody hears of again."""
        for number in range(n):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.bind((f"{net}.{number // 250}.{1 + number % 250}", 0))
                sender.sendto(b"x", (to or self.listening).getsockname())
            if number % 20 == 19:
                self.settle()
        self.settle()

    def receive(self, peer: socket.socket) -> tuple[bytes, Peer]:
        """The next datagram that comes to this socket, and from whom."""
        received: list[tuple[bytes, Peer]] = []

        def look() -> bool:
            with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
                received.append(peer.recvfrom(65536))
            return bool(received)

        self.pump_until(look)
        return received[0]

    def ask(self, client: socket.socket, data: bytes, backend: socket.socket | None = None) -> Peer:
        """Has `data` come to the backend, and returns where an answer to it goes."""
        client.send(data)
        got, peer = self.receive(backend or self.backends[0])
        assert got == data
        return peer

    def echo(self, client: socket.socket, data: bytes, backend: socket.socket | None = None) -> Peer:
        """One question with the same as its answer."""
        backend = backend or self.backends[0]
        peer = self.ask(client, data, backend)
        backend.sendto(data, peer)
        assert self.receive(client)[0] == data
        return peer

    def settle(self) -> None:
        """Until nothing is left to do."""
        while self.engine.pump():
            pass
