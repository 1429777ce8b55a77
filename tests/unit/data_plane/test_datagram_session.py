"""fastlb/data_plane/datagram.pyx and datagram_session.pyx: UDP sessions in an engine that the test pumps."""

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from fastlb import _core
from tests.support.datagrams import Datagrams
from tests.support.images import Writer, find_sections, load, patch

Peer = tuple[Any, ...]


@pytest.fixture
def world() -> Iterator[Datagrams]:
    with Datagrams() as made:
        made.start()
        yield made


@pytest.fixture
def two() -> Iterator[Datagrams]:
    with Datagrams(2) as made:
        yield made


def closed_port(world: Datagrams) -> int:
    """A port where no datagram is taken: whoever sends one to it gets ECONNREFUSED."""
    gone = world.bind()
    port = int(gone.getsockname()[1])
    gone.close()
    return port


# ---------------------------------------------------------------------------------------------------- datagrams
def test_datagrams_go_both_ways_and_are_counted(world: Datagrams) -> None:
    client = world.client()
    peer = world.ask(client, b"question")
    world.backends[0].sendto(b"an answer", peer)
    world.backends[0].sendto(b"and more", peer)
    assert [world.receive(client)[0] for _ in range(2)] == [b"an answer", b"and more"]
    counters = world.counters()
    names = ("client_bytes_in", "client_bytes_out", "backend_bytes_in", "backend_bytes_out", "datagrams_in", "datagrams_out")
    assert [counters[name] for name in names] == [8, 17, 17, 8, 1, 2]


def test_a_client_keeps_its_socket_to_the_backend(world: Datagrams) -> None:
    client, other = world.client(), world.client()
    first = world.echo(client, b"1")
    second = world.echo(other, b"2")
    assert first != second
    assert world.echo(client, b"3") == first
    assert world.counters()["udp_sessions_opened"] == 2


def test_empty_datagrams_pass_as_any_others(world: Datagrams) -> None:
    world.echo(world.client(), b"")


@pytest.mark.parametrize("size", [1, 1472, 9000, 65507])
def test_datagrams_of_every_size_arrive_whole(world: Datagrams, size: int) -> None:
    world.echo(world.client(), bytes(range(256)) * (size // 256) + bytes(size % 256))


def test_a_burst_of_several_clients_arrives_in_order(world: Datagrams) -> None:
    clients = [world.client() for _ in range(3)]
    for number in range(30):
        for client in clients:
            client.send(b"%d" % number)
        clients[0].send(b"again")
    received: dict[Peer, list[bytes]] = {}
    for _ in range(120):
        data, peer = world.receive(world.backends[0])
        received.setdefault(peer, []).append(data)
    plain = [b"%d" % number for number in range(30)]
    with_more = [one for number in plain for one in (number, b"again")]
    assert sorted(map(len, received.values())) == [30, 30, 60]
    assert all(some in (plain, with_more) for some in received.values())


def test_a_burst_of_answers_arrives_in_order(world: Datagrams) -> None:
    client = world.client()
    peer = world.ask(client, b"?")
    for number in range(100):
        world.backends[0].sendto(b"%d" % number, peer)
    assert [world.receive(client)[0] for _ in range(100)] == [b"%d" % number for number in range(100)]


def test_a_socket_for_all_addresses_answers_from_the_one_that_was_asked() -> None:
    with Datagrams(host="0.0.0.0") as world:
        world.start()
        client = world.bind("0.0.0.0")
        port = world.listening.getsockname()[1]
        for host in ("127.0.0.1", "127.0.0.2", "127.0.0.1"):
            client.sendto(b"?", (host, port))
            _, peer = world.receive(world.backends[0])
            world.backends[0].sendto(b"!", peer)
            assert world.receive(client)[1] == (host, port)
        assert world.counters()["udp_sessions_opened"] == 2, "what is asked at another address is another session"


def test_ipv6_clients_are_served_at_every_address() -> None:
    for host in ("::1", "::"):
        with Datagrams(host=host) as world:
            world.start()
            client = world.bind("::1")
            client.connect(("::1", world.listening.getsockname()[1]))
            world.echo(client, b"six")


# ---------------------------------------------------------------------------------------------------- ends
def test_a_session_ends_with_the_answers_that_are_expected() -> None:
    with Datagrams() as world:
        world.start(responses=1)
        client = world.client()
        first, second = world.ask(client, b"1"), world.ask(client, b"2")
        assert first == second
        world.backends[0].sendto(b"one", first)
        assert world.receive(client)[0] == b"one"
        assert world.counters()["udp_sessions_closed"] == 0, "one question is still open"
        world.backends[0].sendto(b"two", first)
        assert world.receive(client)[0] == b"two"
        assert world.counters()["udp_sessions_closed"] == 1


def test_a_session_that_both_sides_have_forgotten_ends(world: Datagrams) -> None:
    world.start(silence_ms=30)
    world.echo(world.client(), b"x")
    world.pump_until(lambda: world.counters()["udp_sessions_closed"] == 1)
    counters = world.counters()
    assert counters["reason.backend:first_byte_timeout"] == 0
    assert counters["claims_taken"] == counters["claims_returned"]


def test_a_session_without_the_answer_that_was_expected_says_so(world: Datagrams) -> None:
    world.start(silence_ms=30)
    world.ask(world.client(), b"x")
    world.pump_until(lambda: world.counters()["udp_sessions_closed"] == 1)
    assert world.counters()["reason.backend:first_byte_timeout"] == 1


def test_where_no_answer_is_expected_none_is_missed(world: Datagrams) -> None:
    world.start(silence_ms=30, responses=0)
    world.ask(world.client(), b"<13>a line")
    world.pump_until(lambda: world.counters()["udp_sessions_closed"] == 1)
    assert world.counters()["reason.backend:first_byte_timeout"] == 0


def test_a_session_lasts_no_longer_than_it_may_however_busy_it_is(world: Datagrams) -> None:
    world.start(session_ms=60)
    client = world.client()
    world.ask(client, b"x")

    def talk() -> bool:
        client.send(b"x")
        return world.counters()["reason.session_timeout"] == 1

    world.pump_until(talk)


# ---------------------------------------------------------------------------------------------------- the table
def test_a_new_client_of_a_full_table_takes_the_place_of_the_most_silent_one(world: Datagrams) -> None:
    world.start(max_sessions=2)
    clients = [world.client() for _ in range(3)]
    peers = [world.ask(clients[0], b"0"), world.ask(clients[1], b"1")]
    assert world.ask(clients[0], b"0") == peers[0]
    world.ask(clients[2], b"2")
    counters = world.counters()
    assert (counters["udp_sessions_shed"], counters["reason.session_shed"]) == (1, 1)
    assert counters["udp_sessions_opened"] - counters["udp_sessions_closed"] == 2
    assert world.ask(clients[0], b"0") == peers[0], "it was heard last"
    assert world.ask(clients[1], b"1") != peers[1]


def test_forged_addresses_turn_over_the_table_and_take_nothing_else(world: Datagrams) -> None:
    world.start(max_sessions=8)
    for number in range(300):
        sender = world.bind(f"127.0.{1 + number % 100}.{1 + number % 7}")
        sender.sendto(b"x", world.listening.getsockname())
        world.settle()
        sender.close()
    counters = world.counters()
    assert counters["udp_sessions_opened"] == 300
    assert counters["udp_sessions_shed"] == 292
    assert counters["clients_opened"] - counters["clients_closed"] == 8


def test_half_of_a_workers_places_is_left_to_others(world: Datagrams) -> None:
    world.start(max_sessions=1000)
    for number in range(60):
        sender = world.bind(f"127.1.1.{1 + number}")
        sender.sendto(b"x", world.listening.getsockname())
        world.settle()
    counters = world.counters()
    assert counters["udp_sessions_opened"] - counters["udp_sessions_closed"] == 50, "the engine has room for 100 clients"


def test_clients_of_the_whole_node_are_bounded_with_those_of_udp(world: Datagrams) -> None:
    world.max_connections = 4
    world.start()
    peers = [world.ask(world.client(), b"%d" % number) for number in range(3)]
    assert len(set(peers)) == 3
    assert world.counters()["udp_sessions_shed"] == 1
    assert world.open_sessions() == 2, "the other half is for those who connect"


def test_half_of_the_connection_table_is_left_to_others(world: Datagrams) -> None:
    world.engine.close()
    world.engine = _core.Engine(max_connections=100, max_sockets=100, pipes=4)
    world.start(max_sessions=1000)
    world.forge(60)
    assert world.open_sessions() == 25, "each takes two places"
    assert world.counters()["datagrams_dropped"] == 0


def test_a_flood_at_one_listener_leaves_the_others_their_clients(world: Datagrams) -> None:
    other = world.bind()
    world.start(world.listening, other, max_sessions=1000)
    world.forge(60)
    world.forge(10, other, net="127.4")
    counters = world.counters()
    assert (counters["udp_sessions_opened"], counters["datagrams_dropped"]) == (70, 0)
    assert world.open_sessions() == 50


def test_a_lowered_bound_ends_sessions_bit_by_bit() -> None:
    with Datagrams(clients=400) as world:
        world.start(max_sessions=100)
        world.forge(100)
        world.start(max_sessions=10)
        world.forge(1, net="127.4")
        assert world.counters()["udp_sessions_shed"] == 64
        world.forge(1, net="127.5")
        assert world.open_sessions() == 10


def test_copies_are_kept_of_small_datagrams_only(world: Datagrams) -> None:
    def held() -> int:
        counters = world.counters()
        return counters["buffers_taken"] - counters["buffers_returned"]

    client = world.client()
    before = held()
    world.ask(client, bytes(2048))
    assert held() == before + 1
    world.ask(client, bytes(2049))
    assert held() == before
    world.start(responses=0)
    world.ask(world.client(), b"x")
    assert held() == before


def test_without_a_port_of_ours_no_backend_is_blamed() -> None:
    """In a network of its own, whose ports are few: a process, as that is nothing for this one."""
    script = """
from tests.support.datagrams import Datagrams
with Datagrams(2, clients=400) as world:
    world.start(max_sessions=100, health={"failures_in_row": 3, "max_ejected": 1.0})
    open("/proc/sys/net/ipv4/ip_local_port_range", "w").write("40000 40029")
    for number in range(60):
        sender = world.stack.enter_context(__import__("socket").socket(2, 2))
        sender.bind((f"127.4.0.{1 + number}", 5000))
        sender.sendto(b"x", world.listening.getsockname())
        sender.close()
        world.settle()
    counters = world.counters()
    print(*(counters[name] for name in ("udp_sessions_opened", "ejections", "retries")))
    print(counters["udp_sessions_shed"] >= 30, world.open_sessions() >= 25)
"""
    command = [
        "unshare",
        "--user",
        "--map-root-user",
        "--net",
        "sh",
        "-c",
        'ip link set lo up && exec "$0" -c "$1"',
        sys.executable,
        script,
    ]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        pytest.skip("no unshare")
    if "unshare" in ended.stderr or "Read-only" in ended.stderr:
        pytest.skip("networks of one's own are not for us")
    assert ended.stdout.split() == ["60", "0", "0", "True", "True"], ended.stderr


# ---------------------------------------------------------------------------------------------------- backends
def test_what_a_dead_backend_was_sent_goes_to_the_next_one(two: Datagrams) -> None:
    alive = two.backends[1].getsockname()[1]
    two.start(ports=[closed_port(two), alive], health={"failures_in_row": 1, "max_ejected": 1.0})
    two.echo(two.client(), b"who is there?", two.backends[1])
    counters = two.counters()
    assert (counters["retries"], counters["udp_sessions_moved"], counters["ejections"]) == (1, 1, 1)
    assert counters["udp_sessions_opened"] == 1


def test_a_session_whose_backend_dies_goes_on_at_another_one(two: Datagrams) -> None:
    two.start()
    client = two.client()
    first = two.backends[0]
    two.echo(client, b"before", first)
    first.close()
    client.send(b"lost")
    two.settle()
    two.ask(client, b"after", two.backends[1])
    assert two.counters()["reason.backend:connect_refused"] == 1


def test_without_another_backend_the_datagram_is_lost_and_told(world: Datagrams) -> None:
    world.start(ports=[closed_port(world)])
    client = world.client()
    client.send(b"x")
    world.pump_until(lambda: world.counters()["udp_sessions_closed"] == 1)
    counters = world.counters()
    assert counters["reason.backend:connect_refused"] == 1
    assert counters["datagrams_dropped"] == 1


def test_a_backend_that_restarts_is_what_is_told(world: Datagrams) -> None:
    client = world.client()
    world.echo(client, b"before")
    world.backends[0].close()
    for _ in range(70):  # more than a turn: what is sent after the first ones meets the kernel's word about them
        client.send(b"x")
    world.settle()
    counters = world.counters()
    assert counters["reason.pool_full"] == 0
    assert counters["reason.backend:connect_refused"] > 0


def test_more_attempts_than_the_pool_allows_are_not_made(two: Datagrams) -> None:
    two.start(ports=[closed_port(two), two.backends[1].getsockname()[1]], attempts=1)
    two.client().send(b"x")
    two.pump_until(lambda: two.counters()["udp_sessions_closed"] == 1)
    assert two.counters()["retries"] == 0


def test_a_backend_takes_no_more_sessions_than_its_cap(two: Datagrams) -> None:
    two.start(caps=1)
    clients = [two.client() for _ in range(3)]
    two.ask(clients[0], b"0", two.backends[0])
    two.ask(clients[1], b"1", two.backends[1])
    clients[2].send(b"2")
    two.pump_until(lambda: two.counters()["reason.pool_full"] == 1)


def test_a_hash_gives_a_client_the_same_backend_whatever_its_port(two: Datagrams) -> None:
    two.start(algorithm="consistent_hash")
    two.client().send(b"first")
    two.settle()
    at = next(one for one in two.backends if can_read(one))
    for number in range(10):
        two.ask(two.client(), b"%d" % number, at)


def can_read(peer: socket.socket) -> bool:
    with contextlib.suppress(BlockingIOError):
        peer.recv(65536)
        return True
    return False


def test_a_client_that_is_known_again_by_its_address_returns(two: Datagrams) -> None:
    two.start(sticky={"size": 1024, "expires_ms": 3_600_000}, silence_ms=30)
    two.echo(two.client(), b"0", two.backends[0])
    two.echo(two.client(), b"1", two.backends[0])


# ---------------------------------------------------------------------------------------------------- snapshots
def test_a_reload_leaves_sessions_at_their_backends(two: Datagrams) -> None:
    two.start()
    client = two.client()
    peer = two.echo(client, b"before")
    two.start()
    assert two.echo(client, b"after") == peer


def test_a_session_whose_backend_is_listed_no_more_goes_to_another(two: Datagrams) -> None:
    two.start()
    client = two.client()
    two.echo(client, b"before", two.backends[0])
    two.start(ports=[two.backends[1].getsockname()[1]])
    two.echo(client, b"after", two.backends[1])
    counters = two.counters()
    assert counters["udp_sessions_opened"] == 1
    assert counters["exchanges_opened"] == 2


@pytest.mark.parametrize("responses", [-1, 0])
def test_a_session_that_is_never_answered_stays_and_keeps_no_snapshot(two: Datagrams, responses: int) -> None:
    world = two
    world.start(responses=responses)
    client = world.client()
    peer = world.ask(client, b"before")
    world.start(responses=responses)
    assert world.ask(client, b"after") == peer
    counters = world.counters()
    assert counters["snapshots_opened"] - counters["snapshots_closed"] == 1


def test_sessions_end_with_their_listener(world: Datagrams) -> None:
    world.echo(world.client(), b"x")
    other = world.bind()
    assert world.start(other) == [world.listening.fileno()]
    assert world.counters()["udp_sessions_closed"] == 1


def test_answers_still_arrive_when_the_socket_has_gone_to_a_sibling(world: Datagrams) -> None:
    client = world.client()
    peer = world.ask(client, b"?")
    assert world.engine.assign([]) == [world.listening.fileno()]
    world.backends[0].sendto(b"late", peer)
    assert world.receive(client) == (b"late", world.listening.getsockname())
    client.send(b"for the sibling")
    world.settle()
    assert world.listening.recv(100) == b"for the sibling"


def test_a_drain_waits_for_answers_and_then_for_nothing(world: Datagrams) -> None:
    client = world.client()
    peer = world.ask(client, b"?")
    world.engine.drain(0)
    world.backends[0].sendto(b"late", peer)
    assert world.receive(client)[0] == b"late"
    assert world.engine.connections() == 1


def test_a_backend_that_is_taken_out_of_use_loses_its_sessions(world: Datagrams) -> None:
    client = world.client()
    world.echo(client, b"x")
    port = world.backends[0].getsockname()[1]
    assert world.engine.cut(f"0|127.0.0.1:{port}") == 1
    world.settle()
    assert world.counters()["udp_sessions_closed"] == 1


# ---------------------------------------------------------------------------------------------------- the image
@pytest.mark.parametrize("settings", [{"max_sessions": 0}, {"max_sessions": (1 << 20) + 1}])
def test_tables_without_a_bound_are_refused(settings: dict[str, int]) -> None:
    writer = Writer()
    listener = writer.listener()
    with pytest.raises(ValueError, match="max_sessions"):
        writer.set_datagrams(listener, writer.route(), silence_ms=1, responses=1, **settings)


def test_an_image_whose_sessions_would_never_end_is_refused() -> None:
    writer = Writer()
    listener = writer.listener()
    writer.set_datagrams(listener, writer.route(), max_sessions=16, silence_ms=61_234, responses=1)
    image = writer.image()
    load(image)
    start, count = find_sections(image)["listeners"]
    assert count == 1
    at = image.index((61_234).to_bytes(4, "little"), start)
    with pytest.raises(ValueError, match="image"):
        load(patch(image, at, 0))
