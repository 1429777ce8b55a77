"""fastlb/data_plane/engine.pyx through fastlb._core.Engine, in this process: the test pumps, so that every step is its own."""

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from fastlb import _core
from tests.support.images import Writer

RESPONSE = b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\nok"
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class World:
    """An engine with whatever sockets a test opens around it; everything is closed at the end."""

    def __init__(self) -> None:
        self.engine = _core.Engine(max_connections=100, pipes=4)
        self.stack = contextlib.ExitStack()
        self.generation = 0
        self.backend = self.listen()

    def listen(self) -> socket.socket:
        listening = self.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listening.setblocking(False)
        return listening

    def apply(self, *listeners: socket.socket, **pool: int) -> list[int]:
        """A snapshot with these listeners before the one backend."""
        self.generation += 1
        writer = Writer(self.generation)
        for _ in listeners:
            writer.add_bind(writer.listener())
        number = writer.pool(**pool)
        writer.backend(number, self.backend.getsockname()[1])
        writer.add_route(host="", path_prefix="/", pool=number)
        return self.apply_image(writer.image(), *listeners)

    def apply_image(self, image: bytes, *listeners: socket.socket) -> list[int]:
        fd = _core.seal(image)
        try:
            return self.engine.apply(fd, [listening.fileno() for listening in listeners])
        finally:
            os.close(fd)

    def connect(self, listening: socket.socket) -> socket.socket:
        client = self.stack.enter_context(socket.create_connection(listening.getsockname()))
        client.setblocking(False)
        return client

    def pump_until(self, done: Callable[[], object], budget: int = 0) -> None:
        """Waits on the engine's descriptor as the outer loop does, and pumps."""
        deadline = time.monotonic() + 20
        while not done():
            assert time.monotonic() < deadline, "the engine went to sleep although something was left to do"
            if select.select([self.engine.fileno()], [], [], 0.05)[0]:
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


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    with made.stack:
        yield made
        made.engine.close()


# ---------------------------------------------------------------------------------------------------------- snapshots
def test_engine_without_a_snapshot_does_nothing(world: World) -> None:
    assert world.engine.generation() == 0
    assert world.engine.pump() == 0
    assert world.engine.connections() == 0


def test_apply_serves_and_counts(world: World) -> None:
    web = world.listen()
    assert world.apply(web) == []
    assert world.engine.generation() == 1
    client = world.connect(web)
    assert world.exchange(client)[0] == RESPONSE
    counters = world.counters()
    assert counters["responses_2xx"] == counters["exchanges_closed"] == counters["attempts_closed"] == 1
    assert counters["clients"] == world.engine.connections() == 1
    (row,) = world.engine.backends()
    assert (row["requests"], row["in_flight"], row["idle"], row["failures"]) == (1, 0, 1, 0)


def test_damaged_image_leaves_the_old_snapshot(world: World) -> None:
    web = world.listen()
    world.apply(web)
    for image in (b"", b"x", bytes(4096), Writer(2).image()[:-8]):
        with pytest.raises(ValueError, match="damaged"):
            world.apply_image(image, web)
    assert world.engine.generation() == 1
    assert world.exchange(world.connect(web))[0] == RESPONSE


def test_wrong_number_of_sockets_leaves_the_old_snapshot(world: World) -> None:
    web = world.listen()
    world.apply(web)
    with pytest.raises(ValueError, match="differ in number"):
        world.apply_image(Writer(2).image(), web)
    assert world.engine.generation() == 1
    assert world.counters()["snapshots_opened"] - world.counters()["snapshots_closed"] == 1


def test_socket_that_cannot_be_watched_leaves_the_old_snapshot(world: World) -> None:
    web, other = world.listen(), world.listen()
    world.apply(web)
    writer = Writer(2)
    for _ in range(2):
        writer.add_bind(writer.listener())
    image = _core.seal(writer.image())
    with pytest.raises(OSError):
        world.engine.apply(image, [other.fileno(), 9999])
    os.close(image)
    assert world.engine.generation() == 1
    world.connect(other)
    assert world.exchange(world.connect(web))[0] == RESPONSE
    assert world.counters()["clients_opened"] == 1, "the listener of the failed snapshot accepts"


def test_snapshot_is_swapped_with_a_client_and_its_backend_connection_kept(world: World) -> None:
    web = world.listen()
    world.apply(web)
    client = world.connect(web)
    _, peer = world.exchange(client)
    assert world.apply(web) == []
    assert world.engine.generation() == 2
    assert world.exchange(client, peer)[0] == RESPONSE
    counters = world.counters()
    assert counters["backend_connections_opened"] == counters["backend_reused"] == 1
    assert counters["snapshots_closed"] == 1


def test_exchange_keeps_its_snapshot_until_its_head_is_sent(world: World) -> None:
    web = world.listen()
    world.apply(web)
    client = world.connect(web)
    client.send(REQUEST)
    peer = world.accept()
    world.read(peer)
    world.apply(web)
    assert world.counters()["snapshots_closed"] == 0
    peer.send(RESPONSE)
    assert world.read(client) == RESPONSE
    assert world.counters()["snapshots_closed"] == 1


def test_removed_listener_is_handed_back_with_its_queue_taken_in(world: World) -> None:
    web, old = world.listen(), world.listen()
    world.apply(web, old)
    waiting = [world.connect(old) for _ in range(3)]
    assert world.apply(web) == [old.fileno()]
    old.close()
    assert world.engine.connections() == 3
    assert world.exchange(waiting[0])[0] == RESPONSE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert world.read(waiting[0]) == b""


def test_backend_that_is_listed_no_more_loses_its_idle_connections(world: World) -> None:
    web = world.listen()
    world.apply(web)
    _, peer = world.exchange(world.connect(web))
    world.backend = world.listen()
    world.apply(web)
    assert world.read(peer) == b""
    assert len(world.engine.backends()) == 1


# ---------------------------------------------------------------------------------------------------------- pump
def test_budget_bounds_a_pump(world: World) -> None:
    web = world.listen()
    world.apply(web)
    clients = [world.connect(web) for _ in range(10)]
    world.pump_until(lambda: world.engine.connections() == 10)
    for client in clients:
        client.send(b"GET / HTTP/1.1\r\n")
    assert select.select([world.engine.fileno()], [], [], 5)[0]
    assert world.engine.pump(3) <= 3


def test_pump_of_one_event_at_a_time_serves_everybody(world: World) -> None:
    web = world.listen()
    world.apply(web)
    clients = [world.connect(web) for _ in range(5)]
    for client in clients:
        client.send(b"BAD\r\n\r\n")
    for client in clients:
        assert world.read(client, budget=1).startswith(b"HTTP/1.1 400 ")


def test_pipelined_requests_wake_the_engine_without_another_event(world: World) -> None:
    web = world.listen()
    world.apply(web)
    client = world.connect(web)
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
    peer = world.accept()
    for _ in range(3):
        world.read(peer)
        peer.send(RESPONSE)
        assert world.read(client) == RESPONSE


def test_timer_wakes_the_engine(world: World) -> None:
    web = world.listen()
    writer = Writer(1)
    writer.add_bind(writer.listener(head_timeout_ms=20))
    writer.pool()
    world.apply_image(writer.image(), web)
    client = world.connect(web)
    client.send(b"GET")
    assert world.read(client).startswith(b"HTTP/1.1 408 ")
    assert world.counters()["reason.client:head_timeout"] == 1


# ---------------------------------------------------------------------------------------------------------- end
def test_drain_hands_the_listeners_back_and_lets_exchanges_finish(world: World) -> None:
    web = world.listen()
    world.apply(web)
    client = world.connect(web)
    client.send(REQUEST)
    peer = world.accept()
    world.read(peer)
    assert world.engine.drain(1000) == [web.fileno()]
    web.close()
    assert world.engine.connections() == 1
    peer.send(RESPONSE)
    assert b"\r\nConnection: close\r\n" in world.read(client)
    assert world.read(client) == b""
    world.pump_until(lambda: world.engine.connections() == 0)


def test_drain_closes_idle_clients_after_their_grace(world: World) -> None:
    web = world.listen()
    world.apply(web)
    client = world.connect(web)
    world.exchange(client)
    world.engine.drain(20)
    assert world.read(client) == b""


def test_idle_client_may_send_one_more_request_within_the_grace(world: World) -> None:
    web = world.listen()
    world.apply(web)
    client = world.connect(web)
    _, peer = world.exchange(client)
    world.engine.drain(10_000)
    assert b"\r\nConnection: close\r\n" in world.exchange(client, peer)[0]
    assert world.read(client) == b""


def test_close_in_the_middle_of_everything_gives_all_descriptors_back() -> None:
    before = len(list(os.scandir("/proc/self/fd")))
    world = World()
    with world.stack:
        web = world.listen()
        world.apply(web)
        world.exchange(world.connect(web))  # idle on both sides
        busy = world.connect(web)
        busy.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc")
        world.pump_until(lambda: world.counters()["attempts_opened"] == 2)
        half = world.connect(web)
        half.send(b"GET / HT")
        world.pump_until(lambda: world.engine.connections() == 3)
        world.engine.close()
    assert len(list(os.scandir("/proc/self/fd"))) == before


def test_closed_engine_says_so(world: World) -> None:
    world.engine.close()
    world.engine.close()
    assert world.engine.counters()["snapshots_opened"] == world.engine.counters()["snapshots_closed"]
    for use in (world.engine.pump, world.engine.fileno, world.engine.connections, world.engine.backends):
        with pytest.raises(ValueError, match="closed"):
            use()


def test_engine_needs_room_for_a_connection() -> None:
    with pytest.raises(ValueError, match="max_connections"):
        _core.Engine(max_connections=0)
    with pytest.raises(OverflowError):
        _core.Engine(max_connections=-1)
