"""fastlb/processes/udp_sockets.py: which worker's socket a datagram comes to. The kernel runs the program, and so does a model of it."""

import errno
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace

import pytest

from fastlb.control_plane.config.address import BindAddress
from fastlb.processes.sockets import bind_address, bind_listeners, bind_udp
from fastlb.processes.udp_sockets import SHARES, make_program, own_secret, share_out, steer
from tests.unit.processes.test_sockets import listeners


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def mix(value: int) -> int:
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        value = (value ^ value >> shift) * factor & 0xFFFFFFFF
    return value


def choose(address: bytes, port: int, n_sockets: int, secret: int | None = None) -> int:
    """What the program comes to."""
    secret = own_secret() if secret is None else secret
    value = mix(port ^ secret)
    for at in range(0, len(address), 4):
        value = mix((int.from_bytes(address[at : at + 4]) + value & 0xFFFFFFFF) ^ secret)
    return share_out(n_sockets)[value >> 24]


def bind_group(opened: ExitStack, family: socket.AddressFamily, host: str, n: int) -> list[socket.socket]:
    some = [opened.enter_context(bind_udp(family, host, 0))]
    for _ in range(n - 1):
        name = some[0].getsockname()
        some.append(opened.enter_context(bind_udp(family, host, name[1], name)))
    return some


def where_it_comes(group: list[socket.socket], client: socket.socket) -> int:
    client.sendto(b"x", group[0].getsockname())  # over loopback it is there when the call returns
    for number, one in enumerate(group):
        try:
            one.recv(10)
        except BlockingIOError:
            continue
        return number
    raise AssertionError("it came to nobody")


# ---------------------------------------------------------------------------------------------------- shares
@pytest.mark.parametrize("n", [1, 2, 3, 7, 64, 128])
def test_shares_are_even(n: int) -> None:
    counts = Counter(share_out(n))
    assert sorted(counts) == list(range(n))
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("n", [1, 2, 7, 127])
def test_one_socket_more_takes_only_its_own_part(n: int) -> None:
    before, after = share_out(n), share_out(n + 1)
    assert all(old == new or new == n for old, new in zip(before, after, strict=True))
    assert after.count(n) == SHARES // (n + 1)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_program_fits_the_kernel_and_its_own_jumps(family: socket.AddressFamily) -> None:
    program = make_program(family, 128, 1)
    assert len(program) < 4096
    assert all(jump < 256 for _, jump, _, _ in program)


# ---------------------------------------------------------------------------------------------------- the kernel
@pytest.mark.parametrize(
    ("family", "host", "packed"),
    [(socket.AF_INET, "127.0.0.9", socket.inet_aton("127.0.0.9")), (socket.AF_INET6, "::1", bytes(15) + b"\1")],
)
def test_the_kernel_chooses_as_the_table_says(opened: ExitStack, family: socket.AddressFamily, host: str, packed: bytes) -> None:
    group = bind_group(opened, family, "::1" if family == socket.AF_INET6 else "127.0.0.1", 3)
    steer(group)
    chosen = set()
    for _ in range(64):
        client = opened.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        client.bind((host, 0))
        at = where_it_comes(group, client)
        assert at == choose(packed, client.getsockname()[1], 3)
        assert at == where_it_comes(group, client)
        chosen.add(at)
    assert chosen == {0, 1, 2}


def test_clients_are_shared_out_evenly_whatever_the_secret_and_whatever_they_have_in_common() -> None:
    for secret in (0, 1, 0xFFFFFFFF, 0x5EC2E7):
        one_address = Counter(choose(b"\x0a\0\0\1", port, 4, secret) for port in range(1024, 5024))
        one_port = Counter(choose(bytes([10, 0, number >> 8, number & 255]), 4500, 4, secret) for number in range(4000))
        for counts in (one_address, one_port):
            assert len(counts) == 4
            assert max(counts.values()) < 1.2 * min(counts.values())


def test_who_does_not_know_the_secret_cannot_choose_addresses_for_one_worker() -> None:
    """Neither those that come together under another secret, nor those of which something adds up alike."""
    aimed = [port for port in range(1024, 20_000) if choose(b"\x0a\0\0\1", port, 4, 1) == 0]
    alike = [(bytes([10, 0, 0, number]), 20_000 - number) for number in range(256)]
    assert max(Counter(choose(b"\x0a\0\0\1", port, 4, 2) for port in aimed).values()) < len(aimed) / 3
    for secret in (1, 2, 3):
        assert max(Counter(choose(address, port, 4, secret) for address, port in alike).values()) < len(alike) / 2


def test_a_port_that_somebody_has_is_refused() -> None:
    with bind_udp(socket.AF_INET, "127.0.0.1", 0) as first:
        with pytest.raises(OSError) as refused:
            bind_udp(socket.AF_INET, "127.0.0.1", first.getsockname()[1])
        assert refused.value.errno == errno.EADDRINUSE


def test_tcp_and_udp_may_have_the_same_port(opened: ExitStack) -> None:
    for _ in range(20):  # somebody else may have the port of the other kind
        udp = bind_address(BindAddress("127.0.0.1", 0, udp=True), 5)
        opened.callback(udp.close)
        assert udp.urls()[0].startswith("udp://")
        port = udp.sockets[0].socket.getsockname()[1]
        with suppress(OSError):
            tcp = bind_address(BindAddress("127.0.0.1", port), 5)
            opened.callback(tcp.close)
            break
    else:
        pytest.fail("no port could be had for both")
    assert not BindAddress("127.0.0.1", port).overlaps(BindAddress("*", port, udp=True))


def test_more_workers_share_the_port_of_a_udp_listener() -> None:
    (listener,) = listeners("127.0.0.1:0")
    listener = replace(listener, bind=(BindAddress("127.0.0.1", 0, udp=True),))
    ((_, bound),) = bind_listeners([listener], homes=(0,))
    try:
        bind_listeners([listener], [bound], homes=(0, 1, 2))
        assert [one.home for one in bound.sockets] == [0, 1, 2]
        assert len({one.socket.getsockname() for one in bound.sockets}) == 1
        assert {one.socket.type for one in bound.sockets} == {socket.SOCK_DGRAM}
    finally:
        bound.close()
