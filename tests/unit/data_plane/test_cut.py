"""engine_cut: what is in flight at one backend ends, where its client sees it, and nothing else does."""

import socket

import pytest

from tests.support.images import Writer
from tests.support.world import REQUEST, RESPONSE, World

NO_BACKEND = "0|127.0.0.1:1"


class Two(World):
    """Two backends in one pool, asked in turn."""

    def start(self, **pool: int) -> socket.socket:
        listening = self.listen()
        self.other = self.listen()
        writer = Writer()
        writer.set_reason_header("X-Fastlb-Reason")
        writer.listener()
        number = writer.pool(algorithm="round_robin", **pool)
        for backend in (self.backend, self.other):
            writer.backend(number, backend.getsockname()[1])
        writer.add_route(host="", path_prefix="/", pool=number)
        self.apply_image(writer.image(), listening)
        return listening

    def identity(self, backend: socket.socket) -> str:
        return f"0|127.0.0.1:{backend.getsockname()[1]}"

    def accept_from(self, backend: socket.socket) -> socket.socket:
        before, self.backend = self.backend, backend
        try:
            return self.accept()
        finally:
            self.backend = before

    def ask(self, client: socket.socket, backend: socket.socket, request: bytes = REQUEST) -> socket.socket:
        """The backend's end of a connection on which the request has come."""
        client.send(request)
        peer = self.accept_from(backend)
        assert self.read(peer)
        return peer

    def cut(self, backend: socket.socket) -> int:
        try:
            return self.engine.cut(self.identity(backend))
        finally:
            self.engine.pump()

    def end_of(self, peer: socket.socket) -> bytes:
        try:
            return self.read(peer)
        except ConnectionResetError:
            return b""


def assert_at_rest(world: World) -> None:
    counters = world.counters()
    assert counters["exchanges_opened"] == counters["exchanges_closed"]
    assert counters["claims_taken"] == counters["claims_returned"]
    assert [row["in_flight"] for row in world.engine.backends()] == [0, 0]


def test_client_without_an_answer_gets_one_that_says_why() -> None:
    with Two() as world:
        listening = world.start()
        client = world.connect(listening)
        peer = world.ask(client, world.backend)
        assert world.cut(world.backend) == 1
        answer = world.read(client)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"X-Fastlb-Reason: backend_drained\r\n" in answer
        assert world.end_of(peer) == b""
        assert world.counters()["reason.backend_drained"] == 1
        assert_at_rest(world)


def test_client_in_the_middle_of_its_answer_sees_a_cut() -> None:
    with Two() as world:
        listening = world.start()
        client = world.connect(listening)
        peer = world.ask(client, world.backend)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        assert world.read(client).endswith(b"half")
        assert world.cut(world.backend) == 1
        assert world.end_of(client) == b""
        assert world.end_of(peer) == b""
        assert_at_rest(world)


def test_tunnel_ends() -> None:
    with Two() as world:
        listening = world.start()
        client = world.connect(listening)
        upgrade = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
        peer = world.ask(client, world.backend, upgrade)
        peer.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nhello")
        assert world.read(client).endswith(b"hello")
        assert world.cut(world.backend) == 1
        assert world.end_of(client) == b""
        assert world.end_of(peer) == b""
        counters = world.counters()
        assert counters["tunnels_opened"] == counters["tunnels_closed"] == 1
        assert_at_rest(world)


def test_request_that_is_not_sent_to_its_end_is_answered() -> None:
    with Two() as world:
        listening = world.start()
        client = world.connect(listening)
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nha")
        world.pump_until(lambda: world.counters()["claims_taken"] == 1)
        assert world.cut(world.backend) == 1
        assert world.read(client).startswith(b"HTTP/1.1 503 ")
        assert_at_rest(world)


def test_other_backends_and_idle_connections_are_left_alone() -> None:
    with Two() as world:
        listening = world.start()
        idle_client, client = world.connect(listening), world.connect(listening)
        idle = world.ask(idle_client, world.backend)
        idle.send(RESPONSE)
        assert world.read(idle_client).endswith(b"ok")
        peer = world.ask(client, world.other)
        assert world.cut(world.backend) == 0
        peer.send(RESPONSE)
        assert world.read(client).endswith(b"ok")
        idle_client.send(REQUEST)
        assert world.read(idle)
        idle.send(RESPONSE)
        assert world.read(idle_client).endswith(b"ok")
        assert_at_rest(world)


def test_backend_that_is_not_there_has_nothing_in_flight() -> None:
    with Two() as world:
        world.start()
        assert world.engine.cut(NO_BACKEND) == 0
        assert world.engine.cut("") == 0


def test_exchange_with_a_hedge_goes_on_at_the_other_backend() -> None:
    with Two() as world:
        listening = world.start(hedge_after_ms=10)
        client = world.connect(listening)
        world.ask(client, world.backend)
        second = world.accept_from(world.other)
        assert world.read(second)
        assert world.cut(world.backend) == 0
        second.send(RESPONSE)
        assert world.read(client).endswith(b"ok")
        assert world.counters()["reason.backend_drained"] == 0
        assert_at_rest(world)


@pytest.mark.parametrize("n", [1, 40])
def test_every_exchange_there_ends_and_is_counted(n: int) -> None:
    with Two() as world:
        listening = world.start()
        clients = [world.connect(listening) for _ in range(2 * n)]
        for client in clients:
            client.send(REQUEST)
        world.pump_until(lambda: world.counters()["claims_taken"] == 2 * n)
        assert world.cut(world.other) == n
        assert world.counters()["reason.backend_drained"] == n
        assert world.cut(world.backend) == n
        assert_at_rest(world)
