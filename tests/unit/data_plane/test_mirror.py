"""A request that is mirrored reaches both pools, and its client sees nothing of it. The test holds every socket."""

import contextlib
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Network

import pytest

from tests.support.images import Writer
from tests.support.world import REQUEST, RESPONSE, World

POST = b"POST /form?q=1 HTTP/1.1\r\nHost: a\r\nX-Mine: 1\r\n"


class Mirrored(World):
    """One route to a backend, with a shadow behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.trusted: IPv4Network | None = None
        self.shadow = self.listen()
        self.web = self.listen()
        self.apply_mirror()

    def apply_mirror(
        self, share: float = 1.0, shadow_port: int = 0, shadow_pool: dict[str, int] | None = None, max_in_flight: int = 0, **pool: int
    ) -> None:
        self.generation += 1
        writer = Writer(self.generation)
        writer.set_reason_header("X-Fastlb-Reason")
        if self.trusted:
            writer.add_trusted_network(self.trusted)
        writer.listener()
        main = writer.pool("main", **pool)
        writer.backend(main, self.backend.getsockname()[1], max_in_flight=max_in_flight)
        shadow = writer.pool("shadow", **(shadow_pool or {}))
        writer.backend(shadow, shadow_port or self.shadow.getsockname()[1])
        writer.set_mirror(writer.add_route(host="", path_prefix="/", pool=main), pool=shadow, share=share)
        self.apply_image(writer.image(), self.web)

    def accept_shadow(self) -> socket.socket:
        self.backend, self.shadow = self.shadow, self.backend
        try:
            return self.accept()
        finally:
            self.backend, self.shadow = self.shadow, self.backend

    def read_all(self, peer: socket.socket, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += self.read(peer)
        return data

    def settle(self) -> None:
        """Until no mirror is left."""
        self.pump_until(lambda: self.counters()["mirrors_opened"] == self.counters()["mirrors_closed"])

    def mirrors(self) -> tuple[int, int, int]:
        counted = self.counters()
        return counted["mirrors_opened"], counted["mirrors_skipped"], counted["mirrors_failed"]


@pytest.fixture
def world() -> Iterator[Mirrored]:
    with Mirrored() as made:
        yield made
    made.check_balance()


def ended(peer: socket.socket) -> bool:
    with contextlib.suppress(BlockingIOError):
        return peer.recv(1) == b""
    return False


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def test_a_request_reaches_both_pools_and_the_client_gets_one_answer(world: Mirrored) -> None:
    client = world.connect(world.web)
    client.send(REQUEST)
    peer, shadow = world.accept(), world.accept_shadow()
    head = world.read(peer)
    assert world.read(shadow) == head  # with the same X-Request-Id
    assert b"X-Forwarded-For: 127.0.0.1\r\n" in head
    assert b"X-Request-Id: " in head
    shadow.send(b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops")
    world.settle()
    peer.send(RESPONSE)
    assert world.read(client) == RESPONSE
    assert world.mirrors() == (1, 0, 0)


def test_a_mirror_is_trusted_as_its_client_is(world: Mirrored) -> None:
    """Trust is worked out while the head is written, and that may be for the mirror first."""
    world.trusted = IPv4Network("127.0.0.0/8")
    world.apply_mirror()
    client = world.connect(world.web)
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\nX-Request-Id: mine\r\n\r\n")
    head = world.read(world.accept())
    assert b"X-Forwarded-For: 192.0.2.1, 127.0.0.1\r\n" in head
    assert b"X-Request-Id: mine\r\n" in head
    assert world.read(world.accept_shadow()) == head
    world.apply_mirror()  # another generation: worked out anew, for a request that waits for its body
    client = world.connect(world.web)
    client.send(POST + b"X-Forwarded-For: 192.0.2.1\r\nContent-Length: 2\r\n\r\na")
    head = world.read(world.accept())
    client.send(b"b")
    assert world.read(world.accept_shadow()) == head + b"b"


def test_a_mirror_whose_request_waits_is_trusted_as_well(world: Mirrored) -> None:
    """Its backend's pool is full, so the mirror's head is the first one to be written."""
    world.trusted = IPv4Network("127.0.0.0/8")
    world.apply_mirror(queue_max=10, queue_timeout_ms=10_000, max_in_flight=1)
    first, second = world.connect(world.web), world.connect(world.web)
    first.send(REQUEST)
    peer = world.accept()
    world.read(peer)
    world.read(world.accept_shadow())
    second.send(b"GET /2 HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n")
    mirrored = world.read(world.accept_shadow())
    assert b"X-Forwarded-For: 192.0.2.1, 127.0.0.1\r\n" in mirrored
    peer.send(RESPONSE)
    world.read(first)
    assert world.read(peer) == mirrored


def test_the_edits_and_the_target_of_the_route_hold_for_its_mirror(world: Mirrored) -> None:
    writer = Writer(world.generation + 1)
    writer.listener()
    main, shadow = writer.pool("main"), writer.pool("shadow")
    writer.backend(main, world.backend.getsockname()[1])
    writer.backend(shadow, world.shadow.getsockname()[1])
    route = writer.add_route(host="", path_prefix="/", pool=main)
    writer.set_mirror(route, pool=shadow, share=1.0)
    writer.edit_request(route, [("set", "X-From", [("client", "controls", "")]), ("remove", "X-Mine", [])])
    writer.set_prefix(route, len("/form"), "/new")
    world.apply_image(writer.image(), world.web)
    client = world.connect(world.web)
    client.send(POST + b"Content-Length: 2\r\n\r\n")
    head = world.read(world.accept())
    assert head.startswith(b"POST /new?q=1 HTTP/1.1\r\n")
    assert b"X-From: 127.0.0.1\r\n" in head
    assert b"X-Mine" not in head
    client.send(b"hi")
    assert world.read(world.accept_shadow()) == head + b"hi"


def test_a_mirror_is_tried_once_whatever_its_pool_does_for_others(world: Mirrored) -> None:
    writer = Writer(world.generation + 1)
    writer.listener()
    main, shadow = writer.pool("main"), writer.pool("shadow", first_byte_timeout_ms=100)
    writer.backend(main, world.backend.getsockname()[1])
    for listening in (world.shadow, world.listen()):
        writer.backend(shadow, listening.getsockname()[1])
    writer.set_retry(shadow, on=("connect",), unsafe=False, within_ms=10_000, share=1.0, floor=100)
    writer.set_hedge(shadow, after_ms=10)
    writer.set_mirror(writer.add_route(host="", path_prefix="/", pool=main), pool=shadow, share=1.0)
    world.apply_image(writer.image(), world.web)
    client = world.connect(world.web)
    client.send(REQUEST)
    world.pump_until(lambda: world.counters()["mirrors_closed"] == 1)  # after 100 ms of silence
    assert world.counters()["hedges_started"] == 0
    assert world.mirrors() == (1, 0, 1)


def test_what_a_mirror_is_answered_is_not_counted_as_an_answer(world: Mirrored) -> None:
    client = world.connect(world.web)
    client.send(REQUEST)
    peer, shadow = world.accept(), world.accept_shadow()
    world.read(shadow)
    shadow.send(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops")
    world.settle()
    world.read(peer)
    peer.send(RESPONSE)
    world.read(client)
    counted = world.counters()
    assert [counted[f"responses_{n}xx"] for n in range(1, 6)] == [0, 1, 0, 0, 0]
    assert counted["clients_opened"] == 1
    assert counted["client_bytes_out"] == len(RESPONSE)
    assert not any(value for name, value in counted.items() if name.startswith("reason."))


def test_the_answer_does_not_wait_for_a_shadow_that_says_nothing(world: Mirrored) -> None:
    client = world.connect(world.web)
    peer = None
    for _ in range(3):
        client.send(REQUEST)
        peer = peer or world.accept()
        world.accept_shadow()
        world.read(peer)
        peer.send(RESPONSE)
        assert world.read(client) == RESPONSE
    assert world.mirrors() == (3, 0, 0)


def test_the_shadow_is_sent_its_copy_behind_the_request_itself(world: Mirrored) -> None:
    """Connecting to it costs system calls that the client must not wait for: with a budget of one event the copy's turn comes later."""
    client = world.connect(world.web)
    client.send(REQUEST)
    world.pump_until(lambda: world.counters()["attempts_opened"] == 1, budget=1)
    assert world.mirrors() == (1, 0, 0)
    peer = world.accept()
    assert world.read(peer).startswith(b"GET / ")


def test_a_shadow_connection_is_used_again(world: Mirrored) -> None:
    client = world.connect(world.web)
    peer = shadow = None
    for body in (b"Content-Length: 3\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"):
        client.send(REQUEST)
        peer, shadow = peer or world.accept(), shadow or world.accept_shadow()
        assert world.read(peer) == world.read(shadow)
        shadow.send(b"HTTP/1.1 200 OK\r\n" + body)
        world.settle()
        peer.send(RESPONSE)
        world.read(client)
    assert world.counters()["backend_reused"] == 2
    assert world.mirrors() == (2, 0, 0)


@pytest.mark.parametrize(
    ("sent", "forwarded"),
    [
        (b"Content-Length: 5\r\n\r\nhello", b"hello"),
        (b"Content-Length: 0\r\n\r\n", b""),
        (b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n", b"hello"),
        (b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b""),
        (b"Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n", b"hello"),
    ],
)
@pytest.mark.parametrize("bytewise", [False, True])
def test_the_same_head_and_body_arrive_at_the_shadow(world: Mirrored, sent: bytes, forwarded: bytes, bytewise: bool) -> None:
    client = world.connect(world.web)
    data = POST + sent
    for part in [data[i : i + 1] for i in range(len(data))] if bytewise else [data]:
        client.send(part)
        world.engine.pump()
    peer, shadow = world.accept(), world.accept_shadow()
    peer_got, shadow_got = b"", b""
    end = b"X-Sum: 7\r\n\r\n" if b"X-Sum: 7" in sent else b"0\r\n\r\n" if b"chunked" in sent else forwarded or b"\r\n\r\n"
    while not peer_got.endswith(end):
        peer_got += world.read(peer)
    while not shadow_got.endswith(end):
        shadow_got += world.read(shadow)
    assert shadow_got.partition(b"\r\n\r\n")[0] == peer_got.partition(b"\r\n\r\n")[0]
    body = shadow_got.partition(b"\r\n\r\n")[2]
    if b"chunked" in sent:
        assert body == (b"5\r\nhello\r\n" if forwarded else b"") + b"0\r\n" + (b"X-Sum: 7\r\n" if b"X-Sum: 7" in sent else b"") + b"\r\n"
    else:
        assert body == forwarded
    shadow.send(RESPONSE)
    peer.send(RESPONSE)
    assert world.read(client) == RESPONSE
    world.settle()
    assert world.mirrors() == (1, 0, 0)


@pytest.mark.parametrize(("size", "mirrors"), [(1000, (1, 0, 0)), (1001, (0, 1, 0))])
def test_a_body_larger_than_what_is_kept_is_not_mirrored(world: Mirrored, size: int, mirrors: tuple[int, int, int]) -> None:
    world.apply_mirror(replay_limit_bytes=1000)
    client = world.connect(world.web)
    client.send(POST + b"Content-Length: %d\r\n\r\n" % size + b"a" * size)
    peer = world.accept()
    got = b""
    while not got.endswith(b"a" * size):
        got += world.read(peer)
    peer.send(RESPONSE)
    assert world.read(client) == RESPONSE
    if mirrors[0]:
        shadow = world.accept_shadow()
        assert world.read_all(shadow, len(got)) == got
    assert world.mirrors() == mirrors


def test_a_request_that_is_answered_before_its_body_is_here_is_not_mirrored(world: Mirrored) -> None:
    client = world.connect(world.web)
    client.send(POST + b"Content-Length: 6\r\n\r\nabc")
    peer = world.accept()
    world.read(peer)
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok")
    world.read(client)
    client.send(b"def")
    assert world.read(peer) == b"def"
    world.pump_until(lambda: world.mirrors()[1])
    assert world.mirrors() == (0, 1, 0)


def test_a_request_whose_client_leaves_in_its_body_is_not_mirrored(world: Mirrored) -> None:
    client = world.connect(world.web)
    client.send(POST + b"Content-Length: 6\r\n\r\nabc")
    world.read(world.accept())
    reset(client)
    world.pump_until(lambda: world.engine.connections() == 0)
    assert world.mirrors() == (0, 0, 0)


def test_a_mirror_goes_on_when_its_client_leaves(world: Mirrored) -> None:
    client = world.connect(world.web)
    client.send(REQUEST)
    shadow = world.accept_shadow()
    reset(client)
    world.pump_until(lambda: world.engine.connections() == 0)
    assert world.read(shadow).startswith(b"GET / ")
    shadow.send(RESPONSE)
    world.settle()
    assert world.mirrors() == (1, 0, 0)


def test_pipelined_requests_are_all_mirrored(world: Mirrored) -> None:
    client = world.connect(world.web)
    request = POST + b"Content-Length: 3\r\n\r\n"
    client.send(request + b"one" + request + b"two" + REQUEST)
    peer = None
    bodies = []
    for _ in range(3):
        peer = peer or world.accept()
        world.read(peer)
        peer.send(RESPONSE)
        assert world.read(client) == RESPONSE
        bodies.append(world.read(world.accept_shadow())[-3:])
    assert bodies == [b"one", b"two", b"\n\r\n"]
    assert world.mirrors() == (3, 0, 0)


def test_an_upgrade_is_not_mirrored(world: Mirrored) -> None:
    client = world.connect(world.web)
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    peer = world.accept()
    world.read(peer)
    peer.send(RESPONSE)
    world.read(client)
    assert world.mirrors() == (0, 0, 0)


def test_a_share_of_the_requests_is_mirrored(world: Mirrored) -> None:
    world.apply_mirror(share=0.25, shadow_port=1)
    client = world.connect(world.web)
    peer = None
    for _ in range(200):
        client.send(REQUEST)
        peer = peer or world.accept()
        world.read(peer)
        peer.send(RESPONSE)
        world.read(client)
    opened, skipped, _ = world.mirrors()
    assert skipped == 0
    assert 20 <= opened <= 85  # mean 50, deviation 6.1: outside once in a million runs


def test_a_share_of_nothing_mirrors_nothing(world: Mirrored) -> None:
    world.apply_mirror(share=0.0)
    client = world.connect(world.web)
    world.exchange(client)
    assert world.mirrors() == (0, 0, 0)


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab",
        b"HTTP/1.1 101 No\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"",
    ],
    ids=["garbage", "cut", "switch", "nothing"],
)
def test_a_shadow_that_answers_badly_fails_its_mirror_only(world: Mirrored, answer: bytes) -> None:
    client = world.connect(world.web)
    client.send(POST + b"Content-Length: 2\r\n\r\nhi")
    peer, shadow = world.accept(), world.accept_shadow()
    world.read(shadow)
    shadow.send(answer)
    shadow.close()
    world.settle()
    assert world.mirrors() == (1, 0, 1)
    world.read(peer)
    peer.send(RESPONSE)
    assert world.read(client) == RESPONSE
    assert not any(value for name, value in world.counters().items() if name.startswith("reason."))


def test_a_shadow_that_is_down_fails_its_mirror_only(world: Mirrored) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    world.apply_mirror(shadow_port=port)
    client = world.connect(world.web)
    assert world.exchange(client)[0] == RESPONSE
    world.settle()
    assert world.mirrors() == (1, 0, 1)
    assert world.counters()["retries"] == 0


def test_a_shadow_pool_without_room_fails_the_mirror(world: Mirrored) -> None:
    client = world.connect(world.web)
    writer = Writer(world.generation + 1)
    writer.listener()
    main, shadow = writer.pool("main"), writer.pool("shadow")
    writer.backend(main, world.backend.getsockname()[1])
    writer.backend(shadow, world.shadow.getsockname()[1], max_in_flight=1)
    writer.set_mirror(writer.add_route(host="", path_prefix="/", pool=main), pool=shadow, share=1.0)
    world.apply_image(writer.image(), world.web)
    peer = world.exchange(client)[1]
    world.exchange(client, peer)
    assert world.mirrors() == (2, 0, 1)


@pytest.mark.parametrize("head", [b"Content-Length: 99999999", b"Transfer-Encoding: chunked", b"X-Until: close"])
def test_an_endless_answer_of_the_shadow_is_read_and_held_nowhere(world: Mirrored, head: bytes) -> None:
    client = world.connect(world.web)
    client.send(REQUEST)
    peer, shadow = world.accept(), world.accept_shadow()
    world.read(shadow)
    shadow.send(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n")
    part = b"fff0\r\n" + b"x" * 0xFFF0 + b"\r\n" if b"chunked" in head else b"x" * 65536
    sent = 0
    while sent < 50:
        with contextlib.suppress(BlockingIOError):
            part = part[shadow.send(part) :] or (b"fff0\r\n" + b"x" * 0xFFF0 + b"\r\n" if b"chunked" in head else b"x" * 65536)
            sent += 1
        world.engine.pump()
    world.read(peer)
    peer.send(RESPONSE)
    assert world.read(client) == RESPONSE
    counted = world.counters()
    assert counted["buffers_taken"] - counted["buffers_returned"] <= 1
    assert counted["spliced_bytes"] == 0
    shadow.close()
    world.settle()
    assert world.mirrors() == (1, 0, 0 if b"X-Until" in head else 1)


def test_a_shadow_that_hangs_is_given_up_after_its_pools_time_out(world: Mirrored) -> None:
    world.apply_mirror(shadow_pool={"first_byte_timeout_ms": 30})
    client = world.connect(world.web)
    client.send(REQUEST)
    peer, shadow = world.accept(), world.accept_shadow()
    world.settle()
    assert world.mirrors() == (1, 0, 1)
    world.read(peer)
    peer.send(RESPONSE)
    assert world.read(client) == RESPONSE
    world.read(shadow)
    world.pump_until(lambda: ended(shadow))


def test_a_mirror_as_a_whole_has_the_time_of_its_pool(world: Mirrored) -> None:
    world.apply_mirror(shadow_pool={"exchange_timeout_ms": 60})
    client = world.connect(world.web)
    client.send(REQUEST)
    shadow = world.accept_shadow()
    world.read(shadow)
    shadow.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
    world.settle()
    assert world.mirrors() == (1, 0, 1)


def test_a_stale_shadow_connection_is_replaced(world: Mirrored) -> None:
    client = world.connect(world.web)
    client.send(REQUEST)
    peer, shadow = world.accept(), world.accept_shadow()
    world.read(shadow)
    shadow.send(RESPONSE)
    world.settle()
    world.read(peer)
    peer.send(RESPONSE)
    world.read(client)
    client.send(REQUEST)
    world.pump_until(lambda: world.counters()["mirrors_opened"] == 2)
    shadow.close()  # the copy may be on its way over this connection
    shadow = world.accept_shadow()
    assert world.read(shadow).startswith(b"GET / ")
    shadow.send(RESPONSE)
    world.settle()
    assert world.mirrors() == (2, 0, 0)


def test_a_mirror_does_not_take_its_head_from_a_request_parsed_meanwhile(world: Mirrored) -> None:
    """The head parsed last and the mirror's copy may stand in the same block, one behind the other."""
    client, other = world.connect(world.web), world.connect(world.web)
    client.send(POST + b"Content-Length: 3\r\n\r\nab")
    peer = world.accept()
    world.read(peer)
    other.send(b"GET /other HTTP/1.1\r\nHost: b\r\n\r\n")  # mirrored too; its mirror's head is parsed last, and its block free again
    peer2, shadow2 = world.accept(), world.accept_shadow()
    world.read(peer2)
    assert world.read(shadow2).startswith(b"GET /other ")
    peer2.send(RESPONSE)
    world.read(other)
    shadow2.send(RESPONSE)
    world.settle()
    client.send(b"c")
    assert world.read(peer) == b"c"
    got = world.read(shadow2)
    assert got.startswith(b"POST /form?q=1 ")
    assert got.endswith(b"abc")


def test_a_snapshot_swap_leaves_mirrors_alone(world: Mirrored) -> None:
    client = world.connect(world.web)
    client.send(REQUEST)
    peer, shadow = world.accept(), world.accept_shadow()
    world.apply(world.web)  # without a mirror
    world.read(shadow)
    shadow.send(RESPONSE)
    world.settle()
    world.read(peer)
    peer.send(RESPONSE)
    assert world.read(client) == RESPONSE
    world.exchange(client, peer)
    assert world.mirrors() == (1, 0, 0)


def test_a_mirror_outlives_its_listener(world: Mirrored) -> None:
    client = world.connect(world.web)
    client.send(REQUEST)
    shadow = world.accept_shadow()
    world.apply()
    reset(client)
    world.pump_until(lambda: world.engine.connections() == 0)
    world.read(shadow)
    shadow.send(RESPONSE)
    world.settle()
    assert world.mirrors() == (1, 0, 0)


def test_draining_ends_although_a_mirror_hangs(world: Mirrored) -> None:
    client = world.connect(world.web)
    client.send(REQUEST)
    peer, shadow = world.accept(), world.accept_shadow()
    world.read(shadow)
    world.engine.drain(0)
    world.read(peer)
    peer.send(RESPONSE)
    assert b"Connection: close\r\n" in world.read(client)
    world.pump_until(lambda: world.engine.connections() == 0)
    assert world.counters()["mirrors_closed"] == 0


def test_beyond_the_bound_mirrors_are_skipped_and_their_requests_are_not(world: Mirrored) -> None:
    """As many as MAX_MIRROR_BYTES holds: bodies of 252 KiB that a full shadow does not take."""
    world.apply_mirror(replay_limit_bytes=252 << 10)
    client = world.connect(world.web)
    body = b"b" * (250 << 10)
    shadows, peer = [], None
    while world.mirrors()[1] == 0:
        data = POST + b"Content-Length: %d\r\n\r\n" % len(body) + body
        peer_got = b""
        while data or not peer_got.endswith(b"\r\n\r\n" + body):
            with contextlib.suppress(BlockingIOError):
                data = data[client.send(data) :] if data else data
            world.engine.pump()
            if peer is None:
                with contextlib.suppress(BlockingIOError):
                    peer = world.stack.enter_context(world.backend.accept()[0])
                    peer.setblocking(False)
                continue
            with contextlib.suppress(BlockingIOError):
                peer_got += peer.recv(1 << 20)
        assert peer is not None
        peer.send(RESPONSE)
        assert world.read(client) == RESPONSE
        with contextlib.suppress(BlockingIOError):
            shadows.append(world.stack.enter_context(world.shadow.accept()[0]))
    opened, skipped, failed = world.mirrors()
    assert (opened, skipped, failed) == ((64 << 20) // (len(body) + len(POST) + len(b"Content-Length: 256000\r\n\r\n")), 1, 0)
