"""Some engines on one shared memory in this process, before backends that the test plays: the test pumps them all, step by step."""

import contextlib
import itertools
import os
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

from fastlb import _core
from tests.support.images import Writer
from tests.support.waiting import DEADLINE_SECONDS


class PlayedBackend:
    """A listening socket and the connections made to it. A request is known by its target, and stays until it is answered."""

    def __init__(self) -> None:
        self.port = 0
        self.begin()
        self.connections: list[socket.socket] = []
        self.arrived: list[str] = []  # targets, in the order in which they came
        self.open: dict[str, socket.socket] = {}  # those not answered yet
        self.most = 0  # open at a time

    def begin(self) -> None:
        """Listens, on the same port as before."""
        self.listening = socket.create_server(("127.0.0.1", self.port))
        self.listening.setblocking(False)
        self.port = int(self.listening.getsockname()[1])

    def look(self) -> None:
        """Takes in whatever has come."""
        with contextlib.suppress(OSError):  # nothing more, or it does not listen
            while True:
                connection, _ = self.listening.accept()
                connection.setblocking(False)
                self.connections.append(connection)
        for connection in list(self.connections):
            with contextlib.suppress(BlockingIOError):
                received = connection.recv(65536)
                if not received:
                    self.connections.remove(connection)
                    connection.close()
                elif received.startswith((b"GET ", b"POST ")):
                    target = received.split(b" ", 2)[1].decode()
                    self.arrived.append(target)
                    self.open[target] = connection
                    self.most = max(self.most, len(self.open))

    def answer(self, target: str, connection: str = "keep-alive") -> None:
        peer = self.open.pop(target)
        peer.send(f"HTTP/1.1 200 OK\r\nConnection: {connection}\r\nContent-Length: {len(target)}\r\n\r\n{target}".encode())

    def close(self) -> None:
        for one in (self.listening, *self.connections):
            one.close()


class Client:
    """A connection to one of the engines."""

    def __init__(self, address: tuple[str, int], worker: int) -> None:
        self.worker = worker
        self.socket = socket.create_connection(address)
        self.socket.setblocking(False)
        self.received = b""
        self.ended = False

    def look(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while not self.ended:
                some = self.socket.recv(65536)
                self.ended = not some
                self.received += some

    @property
    def status(self) -> int:
        """Of the answer; 0 = none yet."""
        return int(self.received.split(b" ", 2)[1]) if self.received else 0

    @property
    def reason(self) -> str:
        """What the reason header says, "" without one."""
        head = self.received.partition(b"\r\n\r\n")[0].decode()
        return next((line.partition(": ")[2] for line in head.split("\r\n") if line.startswith("X-Fastlb-Reason: ")), "")

    def send(self, target: str, *, method: str = "GET", fields: str = "", body: bytes = b"") -> None:
        self.socket.send(f"{method} {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n".encode() + body)


class Node:
    """The engines, and what is around them. Leaving it checks that nothing is left."""

    def __init__(self, n_workers: int = 1, introduced: bool = True) -> None:
        self.shared = _core.SharedMemory.create()
        self.engines: list[_core.Engine] = []
        self.event_fds: list[int] = []
        self.listening: list[socket.socket] = []
        self.backends = [PlayedBackend()]
        self.clients: list[Client] = []
        self.generation = 0
        self.last_image = b""
        for slot in range(n_workers):
            self.shared.open_worker(slot, os.getpid())
            self.event_fds.append(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
            self.listening.append(socket.create_server(("127.0.0.1", 0)))
            self.listening[-1].setblocking(False)
            self.engines.append(_core.Engine(max_connections=200, pipes=0, shared=self.shared, slot=slot, event_fd=self.event_fds[-1]))
        for engine, (slot, event_fd) in itertools.product(self.engines, enumerate(self.event_fds)):
            if introduced:
                engine.set_sibling(slot, event_fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        for client in self.clients:
            client.socket.close()
        for engine in self.engines:
            engine.close()
        for backend in self.backends:
            backend.close()
        for listening in self.listening:
            listening.close()
        for event_fd in self.event_fds:
            os.close(event_fd)
        if not failed:
            self.check_balance()
        self.shared.close()

    def check_balance(self) -> None:
        """Every engine is closed: nothing is open, claimed or waiting."""
        counters = self.shared.counters()
        for name, value in counters.items():
            for first, second in (("_opened", "_closed"), ("_taken", "_returned")):
                if name.endswith(first):
                    assert value == counters[name.replace(first, second)], name
        assert all(row["in_flight"] == 0 for row in self.shared.backends())
        assert all(row["waiting"] == 0 for row in self.shared.queues())
        assert self.shared.waiting_workers() == []
        assert self.shared.verify() == []

    def image(self, *caps: int, priorities: bool = False, sticky: int | None = None, groups: Sequence[int] = (), **pool: Any) -> bytes:
        """A pool with a backend for each cap; "/0/", "/1/", ... lead to it with these priorities where `priorities` says so.

        Args:
            groups: how many backends are in each priority group; none: all in one.
            sticky: a sum of STICKY_FLAGS; the cookie is "ID", its value the number of the backend in 22 digits.
        """
        self.generation += 1
        writer = Writer(self.generation)
        writer.set_reason_header("X-Fastlb-Reason")
        writer.listener()
        number = writer.pool(**{"queue_max": 100, "queue_timeout_ms": 60_000, "attempts": 3, **pool})
        while len(self.backends) < len(caps):
            self.backends.append(PlayedBackend())
        starts = {sum(groups[:i]) for i in range(1, len(groups))}
        if sticky is not None:
            writer.set_sticky_cookie(number, name="ID", attributes="", flags=sticky)
        for index, (backend, cap) in enumerate(zip(self.backends, caps, strict=False)):
            if index in starts:
                writer.begin_group(number)
            if cap >= 0:
                writer.backend(number, backend.port, max_in_flight=cap, cookie=f"{index:022}")
        writer.add_route(host="", path_prefix="/", pool=number)
        for priority in range(8 if priorities else 0):
            writer.add_route(host="", path_prefix=f"/{priority}/", pool=number, priority=priority)
        return writer.image()

    def apply(self, *caps: int, **settings: Any) -> None:
        """A snapshot for all engines; a cap of -1 leaves that backend out. `settings` as of image()."""
        self.apply_image(self.image(*caps, **settings))

    def apply_image(self, image: bytes) -> None:
        self.last_image = image
        fd = _core.seal(image)
        try:
            self.shared.add_rows(fd)
            for engine, listening in zip(self.engines, self.listening, strict=True):
                engine.apply(fd, [(listening.fileno(), 0)])
        finally:
            os.close(fd)

    def connect(self, worker: int = 0) -> Client:
        client = Client(self.listening[worker].getsockname(), worker)
        self.clients.append(client)
        return client

    def send(self, target: str, worker: int = 0, **request: Any) -> Client:
        """One request on a connection of its own."""
        client = self.connect(worker)
        client.send(target, **request)
        return client

    def step(self) -> None:
        """Everybody does what there is to do now."""
        for engine in self.engines:
            engine.pump()
        for backend in self.backends:
            backend.look()
        for client in self.clients:
            client.look()

    def until(self, done: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not done():
            assert time.monotonic() < deadline, "nothing comes of it"
            self.step()

    def let_time_pass(self, milliseconds: int) -> None:
        """While everybody does what there is to do; so that what happens next is younger by so much."""
        end = time.monotonic() + milliseconds / 1000
        self.until(lambda: time.monotonic() >= end)

    def arrived(self) -> list[str]:
        """What has come to the first backend."""
        return self.backends[0].arrived

    def waiting(self) -> int:
        return sum(int(row["waiting"]) for row in self.shared.queues())

    def wait_in_turn(self, *requests: tuple[str, int]) -> list[Client]:
        """Sends requests (a target and a worker each), each when the one before it waits."""
        clients = []
        for target, worker in requests:
            before = self.waiting()
            clients.append(self.send(target, worker))
            self.until(lambda before=before: self.waiting() == before + 1)
        return clients

    def fill(self, target: str = "/first", worker: int = 0) -> Client:
        """A request that takes the one place of the first backend."""
        client = self.send(target, worker)
        self.until(lambda: target in self.arrived())
        return client
