"""TCP sessions under faults of the network and of the node: resets at any point, peers that vanish, no ports, headers that are damaged.

Every world asserts at its end that each counter of something opened or taken equals that of its closing.
"""

import contextlib
import ctypes
import ipaddress
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from fastlb import _core
from tests.support.images import Writer, find_sections, load, patch
from tests.support.own_network import run_in_own_network
from tests.support.proxy_header import binary, line, tls, tlv
from tests.support.sessions import Sessions, fill, reset

SO_ATTACH_FILTER = 26


@pytest.fixture
def world() -> Iterator[Sessions]:
    with Sessions() as made:
        made.start()
        yield made


# ---------------------------------------------------------------------------------------------------- resets
@pytest.mark.parametrize("who", ["client", "backend"])
@pytest.mark.parametrize("speaks", ["client", "backend", "both"])
@pytest.mark.parametrize("after", [0, 1, 1000, 65536, 300_000, 8_000_000])
def test_a_reset_at_any_point_is_a_reset_for_the_other_side(world: Sessions, who: str, speaks: str, after: int) -> None:
    client, peer = world.pair()
    ends, stays = (client, peer) if who == "client" else (peer, client)
    speakers = [side for side, name in ((client, "client"), (peer, "backend")) if speaks in (name, "both")]
    for side in speakers:
        sent = 0
        while sent < after:
            more = side.send(bytes(min(after - sent, 65536))) if after - sent <= 65536 else fill(side)
            sent += more
            world.engine.pump()
            if not more:
                break  # nobody reads: this is as far as it goes
    reset(ends)
    assert world.end_of(stays) == "reset"
    world.pump_until(world.is_at_rest)
    counters = world.counters()
    assert counters[f"reason.{who}:reset"] == 1
    assert counters["tunnels_opened"] == counters["tunnels_closed"] == 1


def test_a_client_that_is_reset_before_its_backend_is_there_leaves_nothing(world: Sessions) -> None:
    writer = Writer(2)
    listener = writer.listener()
    pool = writer.pool(queue_max=9, queue_timeout_ms=3_600_000)
    writer.backend(pool, world.backend.getsockname()[1], max_in_flight=1)
    writer.set_session(listener, writer.add_route(pool=pool))
    world.apply_image(writer.image(), world.listening)
    world.pair()
    waits = world.dial()
    world.pump_until(lambda: world.counters()["waits_opened"] == 1)
    reset(waits)
    world.pump_until(lambda: world.counters()["waits_closed"] == 1)
    assert world.counters()["reason.client:reset"] == 1


# ---------------------------------------------------------------------------------------------------- peers that vanish
class Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32))


def vanish(peer: socket.socket) -> None:
    """Drops whatever arrives at this socket, so that it acknowledges nothing and says nothing: as if its machine had lost its power."""
    drop = Instruction(0x06, 0, 0, 0)  # BPF_RET | BPF_K: 0 bytes of the packet are kept
    program = struct.pack("HL", 1, ctypes.addressof(drop))
    peer.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


@pytest.mark.parametrize("who", ["client", "backend"])
def test_one_that_has_vanished_is_found_by_probes_and_the_other_one_is_told(world: Sessions, who: str) -> None:
    for option, value in ((socket.SO_KEEPALIVE, 1),):
        world.listening.setsockopt(socket.SOL_SOCKET, option, value)  # inherited, as are the next three
    for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT):
        world.listening.setsockopt(socket.IPPROTO_TCP, option, 1)
    world.start(keepalive=(1, 1, 1))
    client, peer = world.pair()
    gone, stays = (client, peer) if who == "client" else (peer, client)
    vanish(gone)
    assert world.end_of(stays) == "reset"
    world.pump_until(world.is_at_rest)
    assert world.counters()[f"reason.{who}:reset"] == 1


def test_one_that_has_vanished_without_probes_is_found_by_the_silence(world: Sessions) -> None:
    world.start(tunnel_timeout_ms=60)
    client, peer = world.pair()
    vanish(client)
    assert world.end_of(peer) == "end"
    world.pump_until(world.is_at_rest)
    assert world.counters()["reason.idle_timeout"] == 1


# ---------------------------------------------------------------------------------------------------- ports
def test_without_a_port_towards_one_backend_another_one_is_asked_and_none_is_blamed() -> None:
    script = """
from tests.support.sessions import Sessions
with Sessions(2) as world:
    open("/proc/sys/net/ipv4/ip_local_port_range", "w").write("40000 40009")
    world.start(health={"failures_in_row": 1}, attempts=2)
    held = []
    for number in range(20):
        client = world.stack.enter_context(__import__("socket").socket())
        client.bind((f"127.4.0.{1 + number}", 5000))
        client.connect(world.listening.getsockname())
        client.setblocking(False)
        held.append(client)
        world.pump_until(lambda: world.counters()["tunnels_opened"] == number + 1)
    last = world.stack.enter_context(__import__("socket").socket())
    last.bind(("127.4.1.1", 5000))
    last.connect(world.listening.getsockname())
    last.setblocking(False)
    how = world.end_of(last)
    counters = world.counters()
    print(how, *(counters[name] for name in ("tunnels_opened", "ejections", "reason.no_local_address")), counters["retries"] > 0)
    held.pop().close()
    world.accept()
"""
    assert run_in_own_network(script) == ["reset", "20", "0", "1", "True"]


# ---------------------------------------------------------------------------------------------------- the client's address
def test_a_backend_sees_the_clients_own_address_in_transparent_mode() -> None:
    """Addresses that are no node's: what comes from there and goes there is kept by routes, as it would be from another machine."""
    script = """
import socket, subprocess
from tests.support.sessions import Sessions
subprocess.run("ip route add local 198.51.100.0/24 dev lo", shell=True, check=True)
with Sessions() as world:
    world.start(source="client")
    for name in ("198.51.100.7", "127.0.0.1"):
        client = world.stack.enter_context(socket.socket())
        client.bind((name, 0))
        client.connect(world.listening.getsockname())
        client.setblocking(False)
        peer = world.accept()
        print(peer.getpeername()[0])
        client.send(b"hello")
        assert world.read(peer) == b"hello"
        peer.send(b"you")
        assert world.read(client) == b"you"
        peer.close()
"""
    assert run_in_own_network(script) == ["198.51.100.7", "127.0.0.1"]


def test_a_worker_that_may_not_pretend_refuses_such_a_snapshot(world: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_core, "may_be_transparent", lambda: False)
    with pytest.raises(ValueError, match=r'source_address = "client" of a pool is not allowed'):
        world.start(source="client")
    world.pair()


def test_a_client_without_an_address_of_the_backends_family_has_no_backend(world: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_core, "may_be_transparent", lambda: True)
    front = world.listen_unix()
    writer = Writer(2)
    listener = writer.listener()
    pool = writer.pool(health={"failures_in_row": 1})
    writer.backend(pool, world.backend.getsockname()[1])
    writer.set_socket(pool, source="client")
    writer.set_session(listener, writer.add_route(pool=pool))
    world.apply_image(writer.image(), front)
    client = world.stack.enter_context(socket.socket(socket.AF_UNIX))
    client.connect(front.getsockname())
    world.pump_until(lambda: world.counters()["clients_closed"] == 1)
    counters = world.counters()
    assert [counters["reason.no_local_address"], counters["ejections"]] == [1, 0]


def test_an_image_with_two_sources_is_refused() -> None:
    writer = Writer()
    listener = writer.listener()
    pool = writer.pool()
    writer.backend(pool)
    writer.set_session(listener, writer.add_route(pool=pool))
    writer.set_socket(pool, source="127.0.0.9")
    image = writer.image()
    load(image)
    address = _core.pack_address("127.0.0.9", 1)
    at = image.index(address[:2] + b"\0\0" + address[4:8], find_sections(image)["pools"][0])
    with pytest.raises(ValueError, match="image"):
        load(patch(image, at + 28, 1))


# ---------------------------------------------------------------------------------------------------- PROXY headers
HEADERS = {"line": line(), "binary": binary(("192.0.2.7", 1), ("203.0.113.9", 2), tlv(2, b"a.example"), tls(1, 0), check=True)}


class HeaderSessions(Sessions):
    """Sessions that begin with a PROXY header."""

    def start(self, **_: Any) -> None:
        self.generation += 1
        writer = Writer(self.generation)
        listener = writer.listener(http2_streams=0)
        senders = [ipaddress.ip_network("127.0.0.0/8")]
        writer.set_proxy_protocol(listener, senders=senders, from_unix=False, others_plain=False, timeout_ms=60_000)
        number = writer.pool()
        writer.backend(number, self.backend.getsockname()[1])
        writer.set_session(listener, writer.add_route(pool=number))
        self.apply_image(writer.image(), self.listening)

    def outcome(self, data: bytes) -> str:
        """What becomes of a client that says this and ends: "refused", or what its backend got."""
        before = self.counters()
        client = self.dial()
        client.send(data)
        client.shutdown(socket.SHUT_WR)
        peers: list[socket.socket] = []

        def look() -> bool:
            with contextlib.suppress(BlockingIOError):
                peers.append(self.stack.enter_context(self.backend.accept()[0]))
            return bool(peers) or self.counters()["clients_closed"] > before["clients_closed"]

        self.pump_until(look)
        if not peers:
            assert self.counters()["reason.client:proxy_header"] == before["reason.client:proxy_header"] + 1
            client.close()
            return "refused"
        peers[0].setblocking(False)
        received = self.read_all(peers[0], 1 << 20)
        peers[0].close()
        self.end_of(client)
        client.close()
        self.pump_until(self.is_at_rest)
        return received.decode("latin-1")


@pytest.fixture
def headers() -> Iterator[HeaderSessions]:
    with HeaderSessions() as made:
        made.start()
        yield made


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_is_cut_anywhere_is_no_session(headers: HeaderSessions, name: str) -> None:
    header = HEADERS[name]
    assert headers.outcome(header + b"and more") == "and more"
    for size in range(1, len(header)):
        assert headers.outcome(header[:size]) == "refused", size
    assert headers.counters()["attempts_opened"] == 1


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_with_a_byte_that_is_flipped_is_another_or_none(headers: HeaderSessions, name: str) -> None:
    header = HEADERS[name]
    taken = []
    for at in range(len(header)):
        for mask in (0x01, 0x80):
            flipped = header[:at] + bytes([header[at] ^ mask]) + header[at + 1 :]
            outcome = headers.outcome(flipped + b"and more")
            assert outcome in ("refused", "and more")
            if outcome != "refused":
                taken.append(at)
    if name == "line":
        assert all(chr(header[at]).isdigit() for at in taken), "another digit makes another header"
    else:
        # LOCAL in the place of PROXY says that nothing of the rest counts; and what is no check sum any more is not checked.
        assert taken == [12, len(header) - 7]
