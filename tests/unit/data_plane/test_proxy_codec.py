"""fastlb/data_plane/proxy_codec.pyx: clients whose connections begin with a PROXY header, before an engine that the test pumps."""

import ipaddress
import os
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import http2
from tests.support.images import Writer, find_sections, load, patch
from tests.support.issue import issue
from tests.support.logs import compile_logs, wait_for_lines
from tests.support.pair import OK, Pair
from tests.support.proxy_header import AUTHORITY, PROXY, UNIQUE_ID, UNIX_STREAM, binary, line, local, raw, tls, tlv
from tests.support.sessions import Sessions
from tests.support.tls import TICKET_KEY, TlsClient, client_context

REQUEST = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
FACTS = (
    "proxy_protocol_sender",
    "proxy_protocol_destination",
    "proxy_protocol_destination_port",
    "proxy_protocol_alpn",
    "proxy_protocol_authority",
    "proxy_protocol_unique_id",
    "proxy_protocol_tls_version",
    "proxy_protocol_tls_cipher",
    "proxy_protocol_certificate_name",
    "proxy_protocol_certificate_verify",
)
HEADERS = {
    "line": line(),
    "unknown": b"PROXY UNKNOWN\r\n",
    "binary": binary(check=True),
    "binary6": binary(("2001:db8::7", 40000), ("2001:db8::9", 443)),
    "local": local(),
    "everything": binary(("192.0.2.7", 1), ("203.0.113.9", 2), tlv(AUTHORITY, b"a"), tls(3, 0), check=True),
}


class Headers(Pair):
    """A listener of HTTP whose clients begin with a header, before one backend that is told what is known of them.

    Args:
        senders: networks that send headers.
        proxy: what else SnapshotWriter.set_proxy_protocol is given.
        tls: whether clients speak TLS behind their header.
    """

    def __init__(self, *senders: str, tls: bool = False, **proxy: Any) -> None:
        self.senders = [ipaddress.ip_network(one) for one in senders or ("127.0.0.0/8",)]
        self.proxy = {"from_unix": False, "others_plain": False, "timeout_ms": 60_000, **proxy}
        self.tls = tls
        self.greeting = b""
        self.trusted: tuple[str, ...] = ()
        super().__init__(n=1)

    def load(self, **changes: Any) -> None:
        self.generation += 1
        writer = Writer(self.generation)
        if self.log_format:
            plan, destinations = compile_logs({"to": str(self.log_path), "format": self.log_format})
            writer.set_log_plan(plan)
        listener = writer.listener(log_set=0 if self.log_format else None)
        if self.proxy:
            writer.set_proxy_protocol(listener, senders=self.senders, **{**self.proxy, **changes})
        for network in self.trusted:
            writer.add_trusted_network(ipaddress.ip_network(network))
        if self.tls:
            writer.add_certificate(*issue("a.example"))
            writer.set_tls(listener, identities=[[0]], names=[("a.example", 0)], default=0)
            writer.set_ticket_keys([TICKET_KEY])
        writer.backend(writer.pool(), self.backend.getsockname()[1])
        route = writer.add_route(host="", path_prefix="/", pool=0)
        facts = ("client", "client_port", *FACTS)
        writer.edit_request(route, [("set", name.replace("_", "-"), [(name, "controls", "")]) for name in facts])
        self.apply_image(writer.image(), self.front)
        if self.log_format:
            self.open_logs(destinations)

    def connect(self, listening: socket.socket) -> socket.socket:
        client = super().connect(listening)
        client.send(self.greeting)
        return client

    def told(self, *pieces: bytes) -> dict[str, str]:
        """What the backend is told of a client that sends this, a piece at a time."""
        client = self.client()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            client.send(piece)
            self.engine.pump()
        peer = self.accept()
        head = self.read_until(peer, b"\r\n\r\n").decode()
        peer.send(OK)
        assert self.read_until(client, b"ok")
        client.close()
        peer.close()
        return {name.lower(): value for name, _, value in (text.partition(": ") for text in head.split("\r\n")[1:-2])}

    def reasons(self) -> dict[str, int]:
        found = {name.removeprefix("reason."): value for name, value in self.counters().items() if name.startswith("reason.")}
        return {name: value for name, value in found.items() if value}

    def refused(self, data: bytes, end: bool = False) -> str:
        """Why a client that sends this is refused; it gets no byte."""
        before = self.reasons()
        client = self.client()
        client.send(data)
        if end:
            client.shutdown(socket.SHUT_WR)
        assert self.read_all(client) == b""
        client.close()
        (reason,) = {name for name, value in self.reasons().items() if value != before.get(name, 0)}
        return reason


@pytest.fixture
def world() -> Iterator[Headers]:
    with Headers() as made:
        yield made


# ---------------------------------------------------------------------------------------------------- who the client is
@pytest.mark.parametrize("header", [line(), binary(), binary(check=True)], ids=["line", "binary", "checked"])
def test_client_is_who_the_header_says(world: Headers, header: bytes) -> None:
    told = world.told(header + REQUEST)
    assert (told["client"], told["client-port"]) == ("192.0.2.7", "40000")
    assert (told["x-forwarded-for"], told["x-forwarded-proto"]) == ("192.0.2.7", "http")
    assert told["proxy-protocol-sender"] == "127.0.0.1"
    assert (told["proxy-protocol-destination"], told["proxy-protocol-destination-port"]) == ("203.0.113.9", "443")


def test_ipv6_client_is_who_the_header_says(world: Headers) -> None:
    told = world.told(HEADERS["binary6"], REQUEST)
    assert (told["x-forwarded-for"], told["proxy-protocol-destination"]) == ("2001:db8::7", "2001:db8::9")


@pytest.mark.parametrize("header", [local(), b"PROXY UNKNOWN\r\n", raw(PROXY, 0, b"")])
def test_sender_that_names_nobody_is_the_client(world: Headers, header: bytes) -> None:
    told = world.told(header, REQUEST)
    assert told["x-forwarded-for"] == told["client"] == told["proxy-protocol-sender"] == "127.0.0.1"
    assert "proxy-protocol-destination" not in told or told["proxy-protocol-destination"] == ""


def test_client_of_a_unix_socket_is_trusted_by_nobody(world: Headers) -> None:
    world.trusted = ("127.0.0.0/8", "::/0", "0.0.0.0/0")
    world.load()
    told = world.told(raw(PROXY, UNIX_STREAM, bytes(216)), b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n")
    assert (told["x-forwarded-for"], told["client-port"]) == ("unix:", "0")


def test_what_else_is_said_is_told(world: Headers) -> None:
    parts = (tlv(1, b"h2"), tlv(AUTHORITY, b"shop.example"), tlv(UNIQUE_ID, b"id-1"))
    inner = (tlv(0x21, b"TLSv1.3"), tlv(0x22, b"alice"), tlv(0x23, b"TLS_AES_128_GCM_SHA256"))
    told = world.told(binary(("192.0.2.7", 1), ("203.0.113.9", 2), *parts, tls(3, 0, *inner)), REQUEST)
    assert [told[name.replace("_", "-")] for name in FACTS] == [
        *("127.0.0.1", "203.0.113.9", "2", "h2", "shop.example", "id-1", "TLSv1.3", "TLS_AES_128_GCM_SHA256", "alice", "SUCCESS")
    ]
    assert told["x-forwarded-proto"] == "https", "the client speaks TLS, with the sender"


@pytest.mark.parametrize(
    ("client", "verify", "said"), [(1, 0, "NONE"), (3, 0, "SUCCESS"), (5, 20, "FAILED:20"), (3, 0xFFFFFFFF, "FAILED:4294967295")]
)
def test_certificate_of_a_client_is_good_only_where_it_showed_one(world: Headers, client: int, verify: int, said: str) -> None:
    told = world.told(binary(("192.0.2.7", 1), ("203.0.113.9", 2), tls(client, verify)), REQUEST)
    assert told["proxy-protocol-certificate-verify"] == said


def test_client_without_tls_has_no_facts_of_it(world: Headers) -> None:
    told = world.told(binary(("192.0.2.7", 1), ("203.0.113.9", 2), tls(0, 0, tlv(0x22, b"alice"))), REQUEST)
    assert not told.get("proxy-protocol-certificate-name") and not told.get("proxy-protocol-certificate-verify")
    assert told["x-forwarded-proto"] == "http"


def test_values_cannot_break_a_head(world: Headers) -> None:
    told = world.told(binary(("192.0.2.7", 1), ("203.0.113.9", 2), tlv(AUTHORITY, b"a\r\nX-Evil: 1\r\n\r\n")), REQUEST)
    assert told["proxy-protocol-authority"] == "a%0D%0AX-Evil: 1%0D%0A%0D%0A"
    assert "x-evil" not in told


def test_trust_goes_by_the_address_that_the_header_gives(world: Headers) -> None:
    request = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n"
    world.trusted = ("127.0.0.0/8",)
    world.load()
    assert world.told(line(), request)["x-forwarded-for"] == "192.0.2.7"
    world.trusted = ("192.0.2.0/24",)
    world.load()
    assert world.told(line(), request)["x-forwarded-for"] == "1.1.1.1, 192.0.2.7"


def test_connection_keeps_its_client_for_all_its_requests(world: Headers) -> None:
    client = world.request(line() + REQUEST)
    peer = world.accept()
    for _ in range(3):
        assert b"X-Forwarded-For: 192.0.2.7\r\n" in world.read_until(peer, b"\r\n\r\n")
        peer.send(OK)
        world.read_until(client, b"ok")
        client.send(REQUEST)
    assert world.read_until(peer, b"\r\n\r\n")
    peer.send(OK)
    world.read_until(client, b"ok")


def test_lines_tell_of_the_client_and_its_header(world: Headers, tmp_path: Any) -> None:
    world.log_to(
        tmp_path / "log", "{client} {client_port} {proxy_protocol_sender} {proxy_protocol_authority} {proxy_protocol_alpn} {status}"
    )
    world.told(binary(("192.0.2.7", 77), ("203.0.113.9", 2), tlv(AUTHORITY, b"shop.example")), REQUEST)
    assert world.lines(1) == ["192.0.2.7 77 127.0.0.1 shop.example - 200"]


# ---------------------------------------------------------------------------------------------------- how it comes
@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_header_comes_a_byte_at_a_time(world: Headers, header: bytes) -> None:
    told = world.told(*(bytes([byte]) for byte in header + REQUEST))
    assert told["client"] == ("127.0.0.1" if header in (HEADERS["local"], HEADERS["unknown"]) else told["x-forwarded-for"])
    counters = world.counters()
    assert counters["client_bytes_in"] == len(header + REQUEST)


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_header_that_is_cut_anywhere_is_refused(world: Headers, header: bytes) -> None:
    for cut in range(1, len(header)):
        assert world.refused(header[:cut], end=True) == "client:proxy_header", cut
    assert world.counters()["exchanges_opened"] == 0


@pytest.mark.parametrize("header", [line(), HEADERS["everything"]], ids=["line", "binary"])
def test_header_with_a_byte_that_is_flipped_is_another_or_none(world: Headers, header: bytes) -> None:
    # What follows is no request, so that whoever is let in is answered: no connection stays without an end.
    for at in range(len(header)):
        damaged = bytearray(header)
        damaged[at] ^= 0xFF
        client = world.request(bytes(damaged) + b"\x01\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        answer = world.read_all(client)
        client.close()
        assert answer == b"" or answer.startswith(b"HTTP/1.1 400"), at
    assert world.counters()["attempts_opened"] == 0


def test_connection_that_ends_without_a_byte_is_no_failure(world: Headers) -> None:
    client = world.client()
    client.shutdown(socket.SHUT_WR)
    assert world.read_all(client) == b""
    assert world.reasons() == {}


def test_header_alone_is_a_connection_that_waits(world: Headers) -> None:
    client = world.request(line())
    world.pump_until(lambda: world.counters()["client_bytes_in"] == len(line()))
    client.send(REQUEST)
    world.accept().send(OK)
    assert world.read_until(client, b"ok")


def test_header_with_an_end_behind_it_ends_the_connection(world: Headers) -> None:
    client = world.request(line())
    client.shutdown(socket.SHUT_WR)
    assert world.read_all(client) == b""
    assert world.reasons() == {}


@pytest.mark.parametrize(
    "data",
    [
        REQUEST,
        b"\x16\x03\x01",
        b"PROXY TCP4 1\r\n",
        b"PROXY " + b"x" * 200,
        raw(PROXY, 0x11, b"", size=65535),
        raw(0x31, 0x11, bytes(12)),
    ],
)
def test_what_is_no_header_is_refused_without_an_answer(world: Headers, data: bytes) -> None:
    assert world.refused(data) == "client:proxy_header"
    counters = world.counters()
    assert counters["exchanges_opened"] == 0 and counters["client_bytes_out"] == 0


@pytest.mark.parametrize("said", [b"", b"PROXY TCP4 192.0.2.7"])
def test_header_that_does_not_come_in_time_is_refused(said: bytes) -> None:
    with Headers(timeout_ms=20) as world:
        client = world.client()
        if said:
            client.send(said)
        assert world.read_all(client) == b""
        assert world.reasons() == {"client:proxy_timeout": 1}


# ---------------------------------------------------------------------------------------------------- from whom
def test_others_are_refused_whatever_they_send() -> None:
    with Headers("10.0.0.0/8", "2001:db8::/32") as world:
        assert world.refused(line() + REQUEST) == "client:proxy_sender"
        client = world.client()
        assert world.read_all(client) == b"", "and need not send anything"


def test_others_may_speak_for_themselves_and_for_nobody_else() -> None:
    with Headers("10.0.0.0/8", others_plain=True) as world:
        told = world.told(REQUEST)
        assert told["x-forwarded-for"] == "127.0.0.1"
        assert not told.get("proxy-protocol-sender")
        client = world.request(line() + REQUEST)
        assert world.read_all(client).startswith(b"HTTP/1.1 400 ")


def test_those_who_send_headers_always_do() -> None:
    with Headers(others_plain=True) as world:
        assert world.refused(REQUEST) == "client:proxy_header"


@pytest.mark.parametrize("from_unix", [True, False])
def test_unix_sockets_are_said_for_themselves(from_unix: bool, tmp_path: Any) -> None:
    with Headers("0.0.0.0/0", "::/0", from_unix=from_unix) as world:
        listening = world.stack.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(os.fspath(tmp_path / "socket"))
        listening.listen()
        listening.setblocking(False)
        world.front = listening
        world.load()
        client = world.stack.enter_context(socket.socket(socket.AF_UNIX))
        client.connect(listening.getsockname())
        client.setblocking(False)
        client.send(line() + REQUEST)
        if from_unix:
            peer = world.accept()
            assert b"X-Forwarded-For: 192.0.2.7\r\n" in world.read_until(peer, b"\r\n\r\n")
            peer.send(OK)
            world.read_until(client, b"ok")
        else:
            assert world.read_all(client) == b""
            assert world.reasons() == {"client:proxy_sender": 1}


# ---------------------------------------------------------------------------------------------------- what comes behind it
@pytest.mark.parametrize("together", [True, False])
def test_tls_comes_behind_the_header(together: bool) -> None:
    with Headers(tls=True) as world:
        sock = world.client()
        client = TlsClient(world, sock, client_context(), "a.example")
        if together:  # in one segment with the ClientHello
            with pytest.raises(ssl.SSLWantReadError):
                client.ssl.do_handshake()
            sock.send(line() + client.outgoing.read())
        else:
            sock.send(line())
            world.pump_until(lambda: world.counters()["client_bytes_in"] == len(line()))
        client.shake()
        client.send(REQUEST)
        peer = world.accept()
        head = world.read_until(peer, b"\r\n\r\n")
        assert b"X-Forwarded-For: 192.0.2.7\r\n" in head and b"X-Forwarded-Proto: https\r\n" in head
        peer.send(OK)
        client.receive_until(b"ok")


def test_header_within_tls_is_no_header() -> None:
    with Headers(tls=True) as world:
        client = TlsClient(world, world.client(), client_context(), "a.example")
        assert client.refusal()
        assert world.reasons() == {"client:proxy_header": 1}


def test_http2_with_prior_knowledge_comes_behind_the_header(world: Headers) -> None:
    world.greeting = line()
    client = http2.Client(world, world.front)
    peer = None
    for _ in range(2):
        number = client.request()
        peer = peer or world.accept()
        assert b"X-Forwarded-For: 192.0.2.7\r\n" in (head := world.read_until(peer, b"\r\n\r\n"))
        assert b"proxy-protocol-destination: 203.0.113.9\r\n" in head
        peer.send(OK)
        assert client.wait(number).body == b"ok"


class Passed(Sessions):
    """TCP sessions whose clients begin with a header."""

    def start(self, plan: bytes = b"", **_: Any) -> None:
        self.generation += 1
        writer = Writer(self.generation)
        writer.set_log_plan(plan)
        listener = writer.listener(http2_streams=0, log_set=0 if plan else None)
        network = ipaddress.ip_network("127.0.0.0/8")
        writer.set_proxy_protocol(listener, senders=[network], from_unix=False, others_plain=False, timeout_ms=60_000)
        number = writer.pool()
        writer.backend(number, self.backend.getsockname()[1])
        writer.set_session(listener, writer.add_route(pool=number), timeout_ms=0)
        self.apply_image(writer.image(), self.listening)


def test_tcp_session_begins_with_the_end_of_its_header() -> None:
    with Passed() as world:
        world.start()
        client = world.dial()
        for byte in line():
            client.send(bytes([byte]))
            world.engine.pump()
        peer = world.accept()
        peer.send(b"220 a server that speaks first\r\n")
        assert world.read(client) == b"220 a server that speaks first\r\n"
        client.send(b"EHLO")
        assert world.read(peer) == b"EHLO", "the header is not passed on"


def test_tcp_session_gets_what_came_with_its_header() -> None:
    with Passed() as world:
        world.start()
        client = world.dial()
        client.send(binary() + b"early")
        client.shutdown(socket.SHUT_WR)
        peer = world.accept()
        assert world.read_all(peer, 6) == b"early"


def test_line_of_a_tcp_session_tells_of_its_header(tmp_path: Any) -> None:
    plan, _ = compile_logs(
        {"to": str(tmp_path / "log"), "format": "{client} {proxy_protocol_sender} {proxy_protocol_authority} {tls_version}"}
    )
    with Passed() as world:
        world.start(plan)
        with (tmp_path / "log").open("ab") as file:
            world.engine.set_log(0, file.fileno())
        client = world.dial()
        client.send(binary(("192.0.2.7", 1), ("203.0.113.9", 2), tlv(AUTHORITY, b"a.example")))
        world.accept().close()
        assert world.end_of(client) == "end"
        client.close()
        world.pump_until(world.is_at_rest)
        assert wait_for_lines(tmp_path / "log", 1) == ["192.0.2.7 127.0.0.1 a.example -"]


# ---------------------------------------------------------------------------------------------------- reloads
def test_reload_changes_what_new_connections_begin_with(world: Headers) -> None:
    waiting = world.request(line()[:10])
    world.pump_until(lambda: world.counters()["clients_opened"] == 1)
    world.proxy = {}
    world.load()
    assert world.told(REQUEST)["x-forwarded-for"] == "127.0.0.1"
    waiting.send(line()[10:] + REQUEST)
    peer = world.accept()
    assert b"X-Forwarded-For: 192.0.2.7\r\n" in world.read_until(peer, b"\r\n\r\n")
    peer.send(OK)
    world.read_until(waiting, b"ok")


def test_clients_in_the_queue_of_a_listener_that_leaves_are_taken_in_as_it_said() -> None:
    with Headers() as world:
        client = world.request(line() + REQUEST)  # nobody has accepted it
        front, world.front = world.front, world.listen()
        world.load()
        peer = world.accept()
        assert b"X-Forwarded-For: 192.0.2.7\r\n" in world.read_until(peer, b"\r\n\r\n")
        peer.send(OK)
        assert b"Connection: close" in world.read_until(client, b"ok")
        front.close()


# ---------------------------------------------------------------------------------------------------- the image
def test_image_with_senders_that_lie_outside_is_refused() -> None:
    writer = Writer()
    listener = writer.listener()
    network = ipaddress.ip_network("10.0.0.0/8")
    writer.set_proxy_protocol(listener, senders=[network], from_unix=True, others_plain=True, timeout_ms=1000)
    writer.route()
    image = writer.image()
    load(image)
    offset, count = find_sections(image)["senders"]
    assert count == 1
    with pytest.raises(ValueError, match="damaged"):
        load(patch(image, offset + 16, 129))


@pytest.mark.parametrize("timeout_ms", [0, 60_001])
def test_writer_refuses_a_time_that_nobody_waits(timeout_ms: int) -> None:
    writer = Writer()
    with pytest.raises(ValueError, match="PROXY header"):
        writer.set_proxy_protocol(writer.listener(), senders=[], from_unix=True, others_plain=False, timeout_ms=timeout_ms)
