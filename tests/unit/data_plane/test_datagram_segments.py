"""fastlb/data_plane/datagram_segments.pxd: datagrams that come together and leave together, and those that cannot."""

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.datagrams import Datagrams, Peer

SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104  # linux/udp.h
SO_NO_CHECK = 11  # without checksums of UDP nothing is taken apart
SIZES = st.lists(st.one_of(st.sampled_from([0, 1, 1200, 1200, 1200]), st.integers(0, 3000)), min_size=1, max_size=40)


@pytest.fixture
def world() -> Iterator[Datagrams]:
    with Datagrams() as made:
        made.start()
        yield made


@pytest.fixture(scope="module")
def lasting() -> Iterator[Datagrams]:
    """One for many examples."""
    with Datagrams() as made:
        made.start()
        yield made


def send_together(sender: socket.socket, size: int, n: int, last: int, to: Peer | None = None) -> list[bytes]:
    """One message of `n` datagrams of `size` and one of `last` bytes, which the kernel takes apart, at the latest when it is received."""
    datagrams = [bytes([number + 1]) * size for number in range(n)] + [b"l" * last] * (last > 0)
    control = [(SOL_UDP, UDP_SEGMENT, struct.pack("H", size))]
    sender.sendmsg([b"".join(datagrams)], control, 0, to) if to else sender.sendmsg([b"".join(datagrams)], control)
    return datagrams


def receive_all(world: Datagrams, peer: socket.socket, n: int) -> list[bytes]:
    return [world.receive(peer)[0] for _ in range(n)]


def receive_together(world: Datagrams, peer: socket.socket) -> tuple[int, int]:
    """The bytes of the next message, and of what size its datagrams are."""
    received: list[tuple[int, int]] = []

    def look() -> bool:
        try:
            data, control, _, _ = peer.recvmsg(65536, 64)
        except BlockingIOError:
            return False
        sizes = [struct.unpack("i", value)[0] for level, kind, value in control if (level, kind) == (SOL_UDP, UDP_GRO)]
        received.append((len(data), sizes[0] if sizes else 0))
        return True

    world.pump_until(look)
    return received[0]


def backend_socket(peer: Peer) -> socket.socket:
    """The engine's own socket of a session, by its address."""
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found = socket.socket(fileno=os.dup(int(entry.name)))
        except OSError:
            continue
        if found.family == socket.AF_INET and found.type == socket.SOCK_DGRAM and found.getsockname() == peer:
            return found
        found.close()
    raise AssertionError(f"no socket is {peer}")


# ---------------------------------------------------------------------------------------------------- together
def test_what_a_client_sends_in_one_message_arrives_as_its_datagrams(world: Datagrams) -> None:
    client = world.client()
    sent = send_together(client, 1200, 9, 17)
    assert receive_all(world, world.backends[0], 10) == sent
    assert world.counters()["datagrams_in"] == 10


def test_what_a_backend_sends_in_one_message_arrives_as_its_datagrams(world: Datagrams) -> None:
    client = world.client()
    peer = world.ask(client, b"?")
    sent = send_together(world.backends[0], 1000, 20, 999, peer)
    assert receive_all(world, client, 21) == sent
    assert world.counters()["datagrams_out"] == 21


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_what_comes_together_goes_on_together(host: str) -> None:
    with Datagrams(host=host) as world:
        world.start()
        client = world.bind(host)
        client.connect(
            (host.replace("0.0.0.0", "127.0.0.1").replace("::", "::1") if host != "::1" else host, world.listening.getsockname()[1])
        )
        for one in (client, world.backends[0]):
            one.setsockopt(SOL_UDP, UDP_GRO, 1)
        peer = world.ask(client, b"?")
        send_together(client, 1200, 30, 5)
        assert receive_together(world, world.backends[0]) == (36005, 1200)
        send_together(world.backends[0], 1400, 40, 0, peer)
        assert receive_together(world, client) == (56000, 1400)


def test_single_datagrams_of_one_size_leave_together(world: Datagrams) -> None:
    client = world.client()
    for one in (client, world.backends[0]):
        one.setsockopt(SOL_UDP, UDP_GRO, 1)
    peer = world.ask(client, b"?")
    for size in (700, 700, 700, 200, 700):
        client.send(bytes(size))
    assert [receive_together(world, world.backends[0]) for _ in range(2)] == [(2300, 700), (700, 0)]
    for size in (10, 10, 11):
        world.backends[0].sendto(bytes(size), peer)
    assert [receive_together(world, client) for _ in range(2)] == [(20, 10), (11, 0)]


def test_no_more_leave_together_than_one_message_holds(world: Datagrams) -> None:
    client = world.client()
    for number in range(4):
        client.send(bytes([number]) * 30_000)
    assert receive_all(world, world.backends[0], 4) == [bytes([number]) * 30_000 for number in range(4)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(asked=SIZES, answers=SIZES)
def test_datagrams_of_any_sizes_arrive_whole_and_in_order(lasting: Datagrams, asked: list[int], answers: list[int]) -> None:
    world = lasting
    client = world.client()
    peer = world.ask(client, b"?")
    backend = world.backends[0]
    sent = [bytes([number]) * size for number, size in enumerate(asked)]
    for datagram in sent:
        client.send(datagram)
    assert receive_all(world, backend, len(sent)) == sent
    back = [bytes([number]) * size for number, size in enumerate(answers)]
    for datagram in back:
        backend.sendto(datagram, peer)
    assert receive_all(world, client, len(back)) == back
    client.close()


# ---------------------------------------------------------------------------------------------------- not together
def test_answers_that_the_kernel_does_not_take_apart_leave_one_by_one(world: Datagrams) -> None:
    client = world.client()
    peer = world.ask(client, b"?")
    world.listening.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
    sent = send_together(world.backends[0], 1000, 20, 999, peer)
    for size in (500, 500, 20):
        sent.append(b"s" * size)
        world.backends[0].sendto(sent[-1], peer)
    assert receive_all(world, client, 24) == sent
    counters = world.counters()
    assert (counters["datagrams_out"], counters["datagrams_dropped"]) == (24, 0)


def test_questions_that_the_kernel_does_not_take_apart_leave_one_by_one(world: Datagrams) -> None:
    client = world.client()
    peer = world.ask(client, b"?")
    with backend_socket(peer) as ours:
        ours.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
    sent = send_together(client, 1000, 20, 999)
    for size in (500, 500, 20):
        sent.append(b"s" * size)
        client.send(sent[-1])
    assert receive_all(world, world.backends[0], 24) == sent
    assert world.counters()["datagrams_dropped"] == 0


def test_answers_that_are_expected_are_counted_one_by_one() -> None:
    with Datagrams() as world:
        world.start(responses=2)
        client = world.client()
        sent = send_together(client, 100, 3, 0)
        assert receive_all(world, world.backends[0], 3) == sent
        peer = world.ask(client, b"?")
        answers = send_together(world.backends[0], 100, 7, 0, peer)
        assert receive_all(world, client, 7) == answers
        assert world.open_sessions() == 1, "one of eight is missing"
        world.backends[0].sendto(b"!", peer)
        assert world.receive(client)[0] == b"!"
        assert world.open_sessions() == 0


def test_of_datagrams_that_came_together_the_last_one_is_sent_to_another_backend() -> None:
    with Datagrams(2) as world:
        gone = world.bind()
        port = gone.getsockname()[1]
        gone.close()
        world.start(ports=[port, world.backends[1].getsockname()[1]])
        sent = send_together(world.client(), 1000, 3, 10)
        assert world.receive(world.backends[1])[0] == sent[-1]


def test_what_came_together_for_no_backend_is_counted_as_what_it_was(world: Datagrams) -> None:
    world.start(caps=1)
    world.echo(world.client(), b"takes the only place")
    send_together(world.client(), 100, 6, 1)
    world.pump_until(lambda: world.counters()["datagrams_dropped"] == 7)
