"""TCP sessions whose TLS ends in the engine, on either side or on both; the test plays clients and backends and pumps."""

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from fastlb import _core
from tests.support.images import Writer, load
from tests.support.issue import Authority, issue
from tests.support.logs import compile_logs, wait_for_lines
from tests.support.sessions import Sessions, dead_port, fill, reset
from tests.support.tls import TICKET_KEY, TlsClient, client_context, load_chain

AUTHORITY = Authority()
BACKENDS = AUTHORITY.issue("db.example")
Choices = Sequence[tuple[Sequence[bytes], int]]


class TlsSessions(Sessions):
    """A listener of sessions before backends; each side speaks TLS if `serve` says so."""

    def serve(
        self,
        *,
        front: dict[str, Any] | None = None,
        back: dict[str, Any] | None = None,
        certificates: Sequence[tuple[bytes, bytes]] = (issue("a.example"),),
        names: Sequence[tuple[str, int]] = (("a.example", 0),),
        ports: Sequence[int] = (),
        sni: tuple[Sequence[tuple[str, Choices]], Choices] | None = None,
        log: Path | None = None,
        log_format: str = "",
        header: Sequence[str] = (),
        **pool: Any,
    ) -> None:
        """Applies a snapshot. `front`, `back`: what set_tls and set_backend_tls are given; None = plain. With `sni` each backend has a pool
        of its own, and choices count them."""
        self.generation += 1
        writer = Writer(self.generation)
        writer.set_ticket_keys([TICKET_KEY])
        if log is not None:
            plan, _ = compile_logs({"to": str(log), "format": log_format})
            writer.set_log_plan(plan)
        listener = writer.listener(http2_streams=0, **({"log_set": 0} if log is not None else {}))
        for certificate in certificates:
            writer.add_certificate(*certificate)
        if front is not None:
            identities = [[number] for number in range(len(certificates))]
            writer.set_tls(listener, **{"identities": identities, "names": names, "default": 0, "alpn": (), **front})
        all_ports = ports or [backend.getsockname()[1] for backend in self.backends]
        routes = []
        for part in [[port] for port in all_ports] if sni is not None else [all_ports]:
            number = writer.pool(f"pool{len(routes)}", **{"algorithm": "round_robin", **pool})
            for port in part:
                name = f"127.0.0.1:{port}"
                address = _core.pack_address("127.0.0.1", port)
                writer.add_backend(
                    number, identity=f"{number}|{name}", display=name, address=address, weight=1, max_in_flight=0, tls_name="db.example"
                )
            if back is not None:
                writer.set_backend_tls(number, **{"ca": AUTHORITY.pem, **back})
            if header:
                writer.set_proxy_header(number, version=2, facts=header)
            routes.append(writer.add_route(pool=number))
        writer.set_session(listener, None if sni is not None else routes[0])
        if sni is not None:
            named, others = sni
            writer.set_sni(
                listener,
                [(name, [(list(protocols), routes[at]) for protocols, at in choices]) for name, choices in named],
                [(list(protocols), routes[at]) for protocols, at in others],
            )
        self.apply_image(writer.image(), self.listening)
        if log is not None:
            with log.open("ab") as file:
                self.engine.set_log(0, file.fileno())

    def tls_dial(
        self, context: ssl.SSLContext | None = None, name: str | None = "a.example", session: ssl.SSLSession | None = None
    ) -> TlsClient:
        return TlsClient(self, self.dial(), context or client_context(), name, session)

    def tls_accept(self, certificate: tuple[bytes, bytes] = BACKENDS, context: ssl.SSLContext | None = None) -> TlsClient:
        """The next connection of the first backend, as its side of it; hands are not shaken yet."""
        context = load_chain(context or ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificate)
        return TlsClient(self, self.accept(), context, server_side=True)

    def tunnels(self) -> int:
        counters = self.counters()
        return counters["tunnels_opened"] - counters["tunnels_closed"]


class Plain:
    """A side without TLS, with the face of one that has it."""

    def __init__(self, world: Sessions, sock: socket.socket) -> None:
        self.world, self.sock = world, sock

    def send(self, data: bytes) -> None:
        self.sock.send(data)

    def receive(self) -> bytes:
        return self.world.read(self.sock)

    def end(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def fill(self) -> int:
        return fill(self.sock)

    def push(self) -> None:
        """Nothing of it waits outside its socket."""


class Secure:
    """A side with TLS."""

    def __init__(self, side: TlsClient) -> None:
        self.side, self.sock = side, side.sock
        self.send, self.receive = side.send, side.receive
        self.rest = b""  # records that its socket has not taken
        self.ends = False

    def end(self) -> None:
        """In order: close_notify, then FIN, behind what waits."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.side.ssl.unwrap()
        self.ends = True
        self.push()

    def push(self) -> None:
        self.rest += self.side.outgoing.read()
        with contextlib.suppress(BlockingIOError):
            while self.rest:
                self.rest = self.rest[self.sock.send(self.rest) :]
        if self.ends and not self.rest:
            self.sock.shutdown(socket.SHUT_WR)
            self.ends = False

    def fill(self) -> int:
        """Sends until the socket takes no more; how many bytes that are, with those that wait."""
        sent = 0
        self.push()
        while not self.rest:
            sent += self.side.ssl.write(bytes(16384))
            self.push()
        return sent


Side = Plain | Secure
WAYS = ["front", "back", "both"]


def goodbye(side: TlsClient) -> None:
    """Sends close_notify, without waiting for the other one's."""
    with contextlib.suppress(ssl.SSLWantReadError):
        side.ssl.unwrap()
    side.flush()


def open_session(world: TlsSessions, way: str, **changes: Any) -> tuple[Side, Side]:
    """Both sides of a session that is relayed."""
    world.serve(front={} if way != "back" else None, back={} if way != "front" else None, **changes)
    if way == "back":
        client: Side = Plain(world, world.dial())
    else:
        client = Secure(world.tls_dial().shake())
    backend: Side = Plain(world, world.accept()) if way == "front" else Secure(world.tls_accept().shake())
    world.pump_until(lambda: world.tunnels() == 1)
    return client, backend


@pytest.fixture
def world() -> Iterator[TlsSessions]:
    with TlsSessions() as made:
        yield made


@pytest.fixture
def two() -> Iterator[TlsSessions]:
    with TlsSessions(2) as made:
        yield made


def balanced(world: TlsSessions) -> dict[str, int]:
    """The counters once nothing is left."""
    world.pump_until(world.is_at_rest)
    return world.counters()


# ---------------------------------------------------------------------------------------------------- bytes
@pytest.mark.parametrize("way", WAYS)
def test_bytes_go_both_ways(world: TlsSessions, way: str) -> None:
    client, backend = open_session(world, way)
    for asks, answers in ((client, backend), (backend, client)):
        for data in (b"\0", b"a line\r\n", bytes(range(256)) * 40):
            asks.send(data)
            received = b""
            while len(received) < len(data):
                received += answers.receive()
            assert received == data
    counters = world.counters()
    assert counters["tls_opened"] - counters["tls_closed"] == (2 if way == "both" else 1)
    assert counters["spliced_bytes"] == 0


def test_a_server_may_speak_first(world: TlsSessions) -> None:
    client, backend = open_session(world, "both")
    backend.send(b"220 ready\r\n")
    assert client.receive() == b"220 ready\r\n"


def test_what_came_with_the_end_of_the_handshake_is_not_lost(world: TlsSessions) -> None:
    world.serve(front={})
    client = world.tls_dial()
    with pytest.raises(ssl.SSLWantReadError):
        client.ssl.do_handshake()
    client.flush()
    client.pull()
    client.ssl.do_handshake()
    client.ssl.write(b"early bytes")  # leaves in one piece with the handshake's end
    goodbye(client)
    client.sock.shutdown(socket.SHUT_WR)
    peer = world.accept()
    assert world.read_all(peer, 99) == b"early bytes"
    peer.close()


def test_hello_and_records_in_single_bytes_are_put_together(world: TlsSessions) -> None:
    world.serve(front={})
    client = world.tls_dial()
    client.step = 1
    client.shake()
    client.send(b"piece by piece")
    peer = world.accept()
    assert world.read_all(peer, 14) == b"piece by piece"


# ---------------------------------------------------------------------------------------------------- ends
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("first", ["client", "backend"])
def test_an_end_is_passed_on_and_the_other_direction_goes_on(world: TlsSessions, way: str, first: str) -> None:
    sides = open_session(world, way)
    ends, stays = sides if first == "client" else sides[::-1]
    ends.send(b"that was all")
    ends.end()
    assert stays.receive() == b"that was all"
    assert stays.receive() == b""
    stays.send(b"one more thing")
    assert ends.receive() == b"one more thing"
    stays.end()
    assert ends.receive() == b""
    counters = balanced(world)
    assert [counters["reason.client:reset"], counters["reason.backend:reset"]] == [0, 0]


def test_close_notify_alone_ends_a_direction(world: TlsSessions) -> None:
    client, backend = open_session(world, "front")
    assert isinstance(client, Secure)
    client.send(b"said")
    goodbye(client.side)
    assert backend.receive() == b"said"
    assert backend.receive() == b""
    backend.send(b"answered")
    backend.end()
    assert client.receive() == b"answered"
    assert client.receive() == b""


@pytest.mark.parametrize("way", WAYS)
def test_a_client_that_is_cut_is_no_orderly_end_for_its_backend(world: TlsSessions, way: str) -> None:
    client, backend = open_session(world, way)
    client.send(b"half of i")
    assert backend.receive() == b"half of i"
    if way == "back":
        reset(client.sock)
    else:
        client.sock.shutdown(socket.SHUT_WR)  # a FIN without close_notify, which anybody on the way can send
    with pytest.raises((ConnectionResetError, ssl.SSLEOFError)):
        assert backend.receive() != b""
    assert balanced(world)["reason.client:reset"] == 1


@pytest.mark.parametrize("way", WAYS)
def test_a_backend_that_is_cut_is_no_orderly_end_for_its_client(world: TlsSessions, way: str) -> None:
    client, backend = open_session(world, way)
    backend.send(b"half of i")
    assert client.receive() == b"half of i"
    if way == "front":
        reset(backend.sock)
    else:
        backend.sock.shutdown(socket.SHUT_WR)
    with pytest.raises((ConnectionResetError, ssl.SSLEOFError)):
        assert client.receive() != b""
    assert balanced(world)["reason.backend:reset"] == 1


def test_a_client_that_leaves_without_a_word_once_it_was_told_the_end_is_no_failure(world: TlsSessions) -> None:
    client, backend = open_session(world, "front")
    backend.send(b"bye")
    backend.end()
    assert client.receive() == b"bye"
    assert client.receive() == b""
    client.sock.close()
    counters = balanced(world)
    assert not [name for name in counters if name.startswith("reason.") and counters[name]]


def stall(world: TlsSessions, writer: Side) -> int:
    """Has one side send until nothing on the way takes any more; how many bytes that are."""
    sent = 0
    while more := writer.fill():
        sent += more
        world.engine.pump()
    return sent


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("slow", ["client", "backend"])
def test_a_whole_stream_ends_in_order_behind_a_reader_that_stalls(world: TlsSessions, way: str, slow: str) -> None:
    sides = open_session(world, way)
    reader, writer = sides if slow == "client" else sides[::-1]
    sent = stall(world, writer)
    writer.end()
    received = 0
    while received < sent:
        writer.push()
        received += len(reader.receive())
    while isinstance(writer, Secure) and writer.ends:
        writer.push()
        world.engine.pump()
    assert reader.receive() == b""
    assert received == sent


def test_an_end_waits_until_there_is_room_for_close_notify(world: TlsSessions) -> None:
    world.listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # inherited: the least that there is
    for size in range(2000, 62_000, 4000):
        client, backend = open_session(world, "front")
        backend.send(bytes(size))
        backend.end()
        for _ in range(5):  # its socket is full by now
            world.engine.pump()
        received = b""
        while data := client.receive():  # raises where the stream is cut
            received += data
        assert len(received) == size
        client.end()
        balanced(world)


# ---------------------------------------------------------------------------------------------------- certificates and sessions
def test_the_name_that_a_client_asks_for_chooses_the_certificate(world: TlsSessions) -> None:
    world.serve(front={}, certificates=[issue("a.example"), issue("b.example")], names=[("a.example", 0), ("b.example", 1)])
    for name in ("b.example", "a.example"):
        context = ssl.create_default_context(cadata=issue(name)[0].decode())
        client = world.tls_dial(context, name).shake()
        peer = world.accept()
        client.send(b"x")
        assert world.read(peer) == b"x"


def test_a_client_shows_its_certificate_or_there_is_no_session(world: TlsSessions) -> None:
    world.serve(front={"client_auth": "required", "client_ca": AUTHORITY.pem})
    assert world.tls_dial().refusal()
    assert world.counters()["attempts_opened"] == 0, "no backend hears of it"
    client = world.tls_dial(load_chain(client_context(), AUTHORITY.issue("ann.example"))).shake()
    client.send(b"x")
    assert world.read(world.accept()) == b"x"
    assert world.counters()["reason.client:tls_certificate"] == 1


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_sessions_of_tls_are_resumed(world: TlsSessions, version: ssl.TLSVersion) -> None:
    world.serve(front={})
    context = client_context(maximum_version=version)
    taken = None
    for resumed in (False, True):
        client = world.tls_dial(context, session=taken).shake()
        assert client.ssl.session_reused is resumed
        peer = world.accept()
        peer.send(b"hello")
        assert client.receive() == b"hello"
        taken = client.ssl.session
    assert world.counters()["tls_resumed"] == 1


def test_the_next_connection_to_a_backend_resumes_its_session(world: TlsSessions) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    world.serve(back={})
    for resumed in (False, True):
        client = world.dial()
        end = world.tls_accept(context=context).shake()
        assert end.ssl.session_reused is resumed
        end.send(b"here")
        assert world.read(client) == b"here"


# ---------------------------------------------------------------------------------------------------- handshakes that fail
def test_a_backend_whose_handshake_fails_is_followed_by_another(two: TlsSessions) -> None:
    two.serve(back={}, attempts=2)
    client = two.dial()
    stranger = TlsClient(
        two, two.accept(), load_chain(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), Authority("x.example").issue("db.example")), server_side=True
    )
    with contextlib.suppress(ssl.SSLError):
        stranger.shake()
        stranger.receive()
    two.backend = two.backends[1]
    end = two.tls_accept().shake()
    end.send(b"I am who I say")
    assert two.read(client) == b"I am who I say"
    assert two.counters()["retries"] == 1


@pytest.mark.parametrize("says", [b"", b"no TLS at all\r\n"])
def test_a_backend_that_speaks_no_tls_is_a_failure_of_its_own(world: TlsSessions, says: bytes) -> None:
    world.serve(back={}, attempts=1)
    client = world.dial()
    peer = world.accept()
    peer.send(says)
    peer.close()
    assert world.end_of(client) == "reset"
    assert balanced(world)["reason.backend:tls_handshake"] == 1


def test_a_client_is_reset_where_no_backend_is_there(world: TlsSessions) -> None:
    world.serve(front={}, ports=[dead_port()])
    client = world.tls_dial().shake()
    with pytest.raises((ConnectionResetError, ssl.SSLEOFError)):
        assert client.receive() != b""
    assert world.counters()["reason.backend:connect_refused"] == 1


def test_a_client_that_ends_in_the_middle_of_its_handshake_costs_no_backend(world: TlsSessions) -> None:
    world.serve(front={})
    client = world.tls_dial()
    with pytest.raises(ssl.SSLWantReadError):
        client.ssl.do_handshake()
    client.flush()
    client.pull()
    client.sock.close()
    counters = balanced(world)
    assert [counters["reason.client:tls_closed"], counters["attempts_opened"]] == [1, 0]


def test_plain_bytes_where_tls_is_spoken_are_no_session(world: TlsSessions) -> None:
    world.serve(front={})
    for said in (b"GET / HTTP/1.1\r\n\r\n", b"\x00\x00\x00\x08\x04\xd2\x16\x2f"):
        client = world.dial()
        client.send(said)
        with contextlib.suppress(ConnectionResetError):
            while world.read(client):
                pass
    counters = balanced(world)
    assert [counters["reason.client:tls_protocol"], counters["attempts_opened"]] == [2, 0]


# ---------------------------------------------------------------------------------------------------- time and memory
def test_a_handshake_has_its_time(world: TlsSessions) -> None:
    world.serve(front={"handshake_timeout_ms": 40})
    silent, half = world.dial(), world.tls_dial()
    with pytest.raises(ssl.SSLWantReadError):
        half.ssl.do_handshake()
    half.sock.send(half.outgoing.read()[:50])
    assert world.end_of(silent) in ("end", "reset")
    assert world.end_of(half.sock) in ("end", "reset")
    assert balanced(world)["reason.client:tls_timeout"] == 2


def test_a_backend_that_does_not_answer_a_handshake_has_the_time_of_a_connect(two: TlsSessions) -> None:
    two.serve(back={}, attempts=2, connect_timeout_ms=40)
    client = two.dial()
    two.accept()  # it says nothing
    two.backend = two.backends[1]
    end = two.tls_accept().shake()
    end.send(b"in time")
    assert two.read(client) == b"in time"


@pytest.mark.parametrize("way", WAYS)
def test_silence_ends_a_session_in_order(world: TlsSessions, way: str) -> None:
    client, backend = open_session(world, way, tunnel_timeout_ms=200)
    assert client.receive() == b""
    assert backend.receive() == b""
    assert balanced(world)["reason.idle_timeout"] == 1


def test_a_session_that_is_silent_is_folded_and_goes_on(world: TlsSessions) -> None:
    client, backend = open_session(world, "both")
    backend.send(b"tickets, too")
    assert client.receive() == b"tickets, too"
    world.engine.fold_after(20)
    client.send(b"more")
    assert backend.receive() == b"more"
    world.pump_until(lambda: world.engine.folded == 1)
    client.send(b"awake")
    assert backend.receive() == b"awake"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("slow", ["client", "backend"])
def test_a_reader_that_stalls_stops_the_other_side_within_bounded_memory(world: TlsSessions, way: str, slow: str) -> None:
    sides = open_session(world, way)
    reader, writer = sides if slow == "client" else sides[::-1]
    before = world.counters()
    sent = stall(world, writer)
    after = world.counters()
    came, left = ("backend_bytes_in", "client_bytes_out") if slow == "client" else ("client_bytes_in", "backend_bytes_out")
    assert after[came] - after[left] <= 262_144, "one read at most waits in the engine"
    assert (after["buffers_taken"] - before["buffers_taken"]) - (after["buffers_returned"] - before["buffers_returned"]) <= 3
    received = 0
    while received < sent:
        writer.push()
        received += len(reader.receive())
    assert received == sent


# ---------------------------------------------------------------------------------------------------- names and protocols
def arrives_at(world: TlsSessions, name: str | None, protocols: Sequence[str] = ()) -> tuple[int, str | None]:
    """The number of the backend that the session of such a client goes to, and the protocol that was agreed on."""
    context = client_context()
    if protocols:
        context.set_alpn_protocols(list(protocols))
    client = world.tls_dial(context, name).shake()
    client.send(b"whose?")
    found: list[tuple[int, socket.socket]] = []

    def look() -> bool:
        for number, backend in enumerate(world.backends):
            with contextlib.suppress(BlockingIOError):
                found.append((number, world.stack.enter_context(backend.accept()[0])))
        return bool(found)

    world.pump_until(look)
    (number, peer), *_ = found
    peer.setblocking(False)
    assert world.read(peer) == b"whose?"
    return number, client.ssl.selected_alpn_protocol()


def test_the_first_of_our_protocols_that_a_client_offers_is_agreed_on(world: TlsSessions) -> None:
    world.serve(front={"alpn": (b"postgresql", b"h2")})
    assert arrives_at(world, "a.example", ["h2", "postgresql"]) == (0, "postgresql")
    assert arrives_at(world, "a.example", ["x", "h2"]) == (0, "h2"), "and h2 is bytes as any other"
    assert arrives_at(world, "a.example") == (0, None), "who offers none is let in"
    context = client_context()
    context.set_alpn_protocols(["http/1.1"])
    assert world.tls_dial(context).refusal()
    assert world.counters()["reason.client:tls_no_shared_cipher"] == 1


def test_names_and_protocols_lead_to_pools_where_tls_ends_here() -> None:
    with TlsSessions(3) as three:
        rules = [("a.example", [([b"postgresql"], 0), ([], 1)]), ("*.b.example", [([], 0)])]
        three.serve(front={"alpn": (b"postgresql", b"h2")}, sni=(rules, [([], 2)]))
        asked: list[tuple[str | None, list[str]]] = [
            ("a.example", ["h2", "postgresql"]),
            ("a.example", ["h2"]),
            ("a.example", []),
            ("x.b.example", []),
            ("other.example", ["postgresql"]),
            (None, []),
        ]
        assert [arrives_at(three, name, offered)[0] for name, offered in asked] == [0, 1, 1, 0, 2, 2]


def test_what_fits_no_rule_is_reset_once_hands_are_shaken(world: TlsSessions, tmp_path: Path) -> None:
    world.serve(front={}, sni=([("a.example", [([], 0)])], []), log=tmp_path / "log", log_format="{tls_server_name} {status} {reason}")
    client = world.tls_dial(name="b.example").shake()
    with pytest.raises((ConnectionResetError, ssl.SSLEOFError)):
        assert client.receive() != b""
    counters = balanced(world)
    assert [counters["reason.client:tls_unknown_name"], counters["attempts_opened"]] == [1, 0]
    (line,) = wait_for_lines(tmp_path / "log", 1)
    assert line == "b.example 499 client:tls_unknown_name"


def test_the_backend_is_told_what_was_agreed_on(world: TlsSessions) -> None:
    world.serve(front={"alpn": (b"postgresql",)}, header=("alpn", "authority"))
    context = client_context()
    context.set_alpn_protocols(["postgresql"])
    world.tls_dial(context).shake()
    header = world.read(world.accept())
    assert b"\x01\x00\x0apostgresql" in header  # PP2_TYPE_ALPN
    assert b"\x02\x00\x09a.example" in header  # PP2_TYPE_AUTHORITY


# ---------------------------------------------------------------------------------------------------- the log, images
def test_a_session_over_tls_is_one_line_in_the_log(world: TlsSessions, tmp_path: Path) -> None:
    fields = "{tls_version} {tls_server_name} {tls_resumed} {status} {request_bytes} {bytes_sent} {reason}"
    client, backend = open_session(world, "front", log=tmp_path / "log", log_format=fields)
    client.send(b"ask")
    assert backend.receive() == b"ask"
    backend.send(b"tell")
    assert client.receive() == b"tell"
    client.end()
    assert backend.receive() == b""
    backend.end()
    balanced(world)
    (line,) = wait_for_lines(tmp_path / "log", 1)
    assert line == "TLSv1.3 a.example no 200 3 4 -", "bytes are those of the session, not of its records"


CUTS: list[Callable[[socket.socket], None]] = [reset, socket.socket.close]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cut", CUTS)
def test_whoever_goes_at_any_point_leaves_nothing_behind(world: TlsSessions, way: str, cut: Callable[[socket.socket], None]) -> None:
    for who in ("client", "backend"):
        client, backend = open_session(world, way)
        client.send(bytes(20_000))
        backend.send(bytes(20_000))
        cut(client.sock if who == "client" else backend.sock)
        world.pump_until(lambda: world.tunnels() == 0)
    balanced(world)


def test_an_image_with_names_of_sessions_is_checked() -> None:
    load_image = Writer()
    listener = load_image.listener()
    load_image.set_session(listener, None)
    load_image.set_sni(listener, [("a.example", [([b"h2"], 7)])], [])
    with pytest.raises(ValueError, match="image"):
        load(load_image.image())
