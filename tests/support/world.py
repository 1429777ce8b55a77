"""An engine in this process, between sockets that the test holds in its own hands: the test pumps, so that every step is its own."""

import contextlib
import os
import select
import socket
import tempfile
import time
from collections.abc import Callable
from typing import Self

from fastlb import _core
from tests.support.images import Writer
from tests.support.waiting import DEADLINE_SECONDS

RESPONSE = b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\nok"
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class World:
    """An engine with whatever sockets a test opens around it; leaving it closes everything. With `shared`, it is one of several."""

    def __init__(self, shared: _core.SharedMemory | None = None, slot: int = 0, clients: int = 100) -> None:
        self.shared = shared
        if shared:
            shared.open_worker(slot, os.getpid())
        self.engine = _core.Engine(max_connections=clients, pipes=4, shared=shared, slot=slot)
        self.max_connections = 0  # of the node
        self.stack = contextlib.ExitStack()
        self.generation = 0
        self.backend = self.listen()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()
        self.engine.close()

    def listen(self) -> socket.socket:
        listening = self.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listening.setblocking(False)
        return listening

    def listen_unix(self) -> socket.socket:
        directory = self.stack.enter_context(tempfile.TemporaryDirectory(prefix="fastlb-"))
        listening = self.stack.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(f"{directory}/socket")
        listening.listen()
        listening.setblocking(False)
        return listening

    def apply(self, *listeners: socket.socket, **pool: int) -> list[int]:
        """A snapshot with these listeners before the one backend."""
        self.generation += 1
        writer = Writer(self.generation)
        writer.set_reason_header("X-Fastlb-Reason")
        writer.set_max_connections(self.max_connections)
        for _ in listeners:
            writer.listener()
        number = writer.pool(**pool)
        writer.backend(number, self.backend.getsockname()[1])
        writer.add_route(host="", path_prefix="/", pool=number)
        return self.apply_image(writer.image(), *listeners)

    def apply_image(self, image: bytes, *listeners: socket.socket) -> list[int]:
        fd = _core.seal(image)
        try:
            if self.shared:
                self.shared.add_rows(fd)
            return self.engine.apply(fd, [(listening.fileno(), index) for index, listening in enumerate(listeners)])
        finally:
            os.close(fd)

    def connect(self, listening: socket.socket) -> socket.socket:
        client = self.stack.enter_context(socket.create_connection(listening.getsockname()))
        client.setblocking(False)
        return client

    def pump_until(self, done: Callable[[], object], budget: int = 0) -> None:
        """Waits on the engine's descriptor as the outer loop does, and pumps."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        wake = select.poll()  # select.select knows no descriptor beyond 1023
        wake.register(self.engine.fileno(), select.POLLIN)
        while not done():
            assert time.monotonic() < deadline, "the engine went to sleep although something was left to do"
            if wake.poll(2):
                self.engine.pump(budget)

    def read(self, peer: socket.socket, budget: int = 0) -> bytes:
        """What comes next on this socket; b"" at its end."""
        received: list[bytes] = []

        def look() -> bool:
            with contextlib.suppress(BlockingIOError):
                received.append(peer.recv(65536))
            return bool(received)

        self.pump_until(look, budget)
        return received[0]

    def accept(self) -> socket.socket:
        accepted: list[socket.socket] = []

        def look() -> bool:
            with contextlib.suppress(BlockingIOError):
                accepted.append(self.stack.enter_context(self.backend.accept()[0]))
            return bool(accepted)

        self.pump_until(look)
        accepted[0].setblocking(False)
        return accepted[0]

    def exchange(self, client: socket.socket, peer: socket.socket | None = None) -> tuple[bytes, socket.socket]:
        """One request with its response; over an idle backend connection where `peer` is given."""
        client.send(REQUEST)
        peer = peer or self.accept()
        assert self.read(peer).startswith(b"GET / HTTP/1.1\r\n")
        peer.send(RESPONSE)
        return self.read(client), peer

    def counters(self) -> dict[str, int]:
        return self.engine.counters()

    def check_balance(self) -> None:
        """Once it is closed: whatever was opened was closed, and whatever was taken given back."""
        counted = self.counters()
        for name, value in counted.items():
            if name.endswith(("_opened", "_taken")):
                assert value == counted[name.replace("_opened", "_closed").replace("_taken", "_returned")], name
