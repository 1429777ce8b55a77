"""fastlb/data_plane/early_data.pyx: what goes on before a resumed handshake is over, and what waits."""

import contextlib
import socket
from typing import Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived

from tests.support.openssl_client import OpenSslClient
from tests.support.pair import OK, head
from tests.support.tls import TICKET_KEY, TlsWorld

GET = head("GET")
POST = head("POST", "Content-Length: 2") + b"hi"
MARK = b"\r\nearly-data: 1\r\n"


def early_world(**tls: Any) -> TlsWorld:
    return TlsWorld(early_data_bytes=16384, **tls)


def session_of(world: TlsWorld, alpn: bytes = b"http/1.1") -> Any:
    """Of a client that has been here before."""
    with OpenSslClient(world, alpn=alpn) as client:
        client.shake()
        if alpn == b"h2":
            client.receive_until(b"")
        else:
            client.send(GET)
            world.answer(OK.replace(b"200 OK", b"200 OK\r\nConnection: close"))
            client.receive_until(b"ok")
        return client.session()


def begin(world: TlsWorld, session: Any, data: bytes, alpn: bytes = b"http/1.1") -> OpenSslClient:
    """A client that comes back and has sent this, and not the end of its handshake."""
    client = OpenSslClient(world, alpn=alpn, session=session)
    client.write_early(data)
    client.sock.send(client.taken())
    return client


def nobody_came(world: TlsWorld) -> bool:
    """Whether no request reaches the backend, however often the engine is asked."""
    for _ in range(20):
        world.engine.pump()
    with contextlib.suppress(BlockingIOError):
        world.backend.accept()
        return False
    return True


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_safe_request_goes_on_before_the_handshake_is_over_and_says_so(method: str) -> None:
    with early_world() as world, begin(world, session_of(world), head(method)) as client:
        peer = world.answer(OK if method != "HEAD" else OK[:-2])
        assert world.request_head.lower().count(MARK) == 1
        assert world.counts("tls_handshakes") == (1,)
        world.pump_until(lambda: len(client.sock.recv(1 << 16, socket.MSG_PEEK)) > 200)  # the answer is here, too
        assert client.shake().was_early_taken()
        client.receive_until(b"200 OK")
        client.send(GET)
        world.answer(peer=peer)
        assert MARK not in world.request_head.lower()
        client.receive_until(b"ok")
        assert world.counts("tls_handshakes", "tls_resumed") == (2, 1)
        assert world.counts("tls_early_accepted", "tls_early_refused") == (1, 0)
        assert client.session()


def test_request_that_changes_something_waits_for_the_end_of_the_handshake() -> None:
    with early_world() as world, begin(world, session_of(world), POST) as client:
        assert nobody_came(world)
        assert client.shake().was_early_taken()
        world.answer()
        assert MARK not in world.request_head.lower()
        client.receive_until(b"ok")


def test_only_the_first_request_goes_early() -> None:
    with early_world() as world, begin(world, session_of(world), GET + POST + GET) as client:
        peer = world.answer()
        assert MARK in world.request_head.lower()
        world.engine.pump()
        client.shake()
        world.answer(peer=peer)
        assert world.request_head.startswith(b"POST ")
        assert MARK not in world.request_head.lower()
        world.answer(peer=peer)
        assert MARK not in world.request_head.lower()
        client.send(GET)
        world.answer(peer=peer)
        client.receive_until(b"ok")


@pytest.mark.parametrize("fields", [("Connection: early-data",), ("Connection: Upgrade", "Upgrade: websocket")])
def test_request_that_could_lose_its_mark_or_become_a_tunnel_waits(fields: tuple[str, ...]) -> None:
    with early_world() as world, begin(world, session_of(world), head("GET", *fields)) as client:
        assert nobody_came(world)
        client.shake()
        world.answer()
        client.receive_until(b"ok")


@pytest.mark.parametrize("data", [GET[:-2], b"GET / HTTP/1.1\r\n\r\n", b"\r\n" + GET])
def test_what_is_no_whole_request_waits(data: bytes) -> None:
    with early_world() as world, begin(world, session_of(world), data) as client:
        assert nobody_came(world)
        client.shake()
        if data == GET[:-2]:
            client.send(b"\r\n")
        if b"Host" in data:
            world.answer()
            assert MARK not in world.request_head.lower()
            client.receive_until(b"ok")
        else:
            client.receive_until(b"400 Bad Request")


def test_mark_of_a_proxy_before_us_stays_as_it_is() -> None:
    with early_world() as world, begin(world, session_of(world), head("GET", "Early-Data: 1")) as client:
        peer = world.answer()
        assert world.request_head.lower().count(MARK) == 1
        client.shake()
        client.receive_until(b"ok")
        client.send(head("GET", "Early-Data: 1"))
        world.answer(peer=peer)
        assert world.request_head.lower().count(MARK) == 1


def test_backend_may_say_that_it_is_too_early() -> None:
    with early_world() as world, begin(world, session_of(world), GET) as client:
        world.answer(b"HTTP/1.1 425 Too Early\r\nContent-Length: 0\r\n\r\n")
        client.shake()
        client.receive_until(b"HTTP/1.1 425 Too Early\r\n")


def test_repeated_flight_never_brings_about_what_waits() -> None:
    with early_world() as world:
        session = session_of(world)
        with OpenSslClient(world, alpn=b"http/1.1", session=session) as client:
            client.write_early(POST)
            recorded = client.taken()
            for _ in range(3):
                world.client().send(recorded)
            assert nobody_came(world)
            client.sock.send(recorded)
            client.shake()
            world.answer()
            client.receive_until(b"ok")


def test_early_data_that_is_not_taken_is_sent_again() -> None:
    with early_world() as world:
        session = session_of(world)
        world.load(early_data_bytes=0)
        with begin(world, session, GET) as client:
            assert nobody_came(world)
            assert not client.shake().was_early_taken()
            client.send(GET)
            world.answer()
            assert MARK not in world.request_head.lower()
            client.receive_until(b"ok")


def test_nothing_is_early_with_an_unknown_key() -> None:
    with early_world() as world:
        session = session_of(world)
        world.keys = [TICKET_KEY[::-1]]
        world.load()
        with begin(world, session, GET) as client:
            assert nobody_came(world)
            assert not client.shake().was_early_taken()
            assert world.counts("tls_early_accepted", "tls_early_refused") == (0, 1)


@pytest.mark.parametrize("data", [GET, POST])
def test_flights_in_pieces_of_a_byte(data: bytes) -> None:
    with early_world() as world, OpenSslClient(world, alpn=b"http/1.1", session=session_of(world)) as client:
        client.write_early(data)
        for byte in client.taken():
            client.sock.send(bytes([byte]))
            world.engine.pump()
        if data == GET:
            world.answer()
        client.shake()
        if data == POST:
            world.answer()
        assert (MARK in world.request_head.lower()) == (data == GET)
        client.receive_until(b"ok")


def test_client_that_never_ends_its_handshake_is_closed_in_time() -> None:
    with early_world() as world:
        session = session_of(world)
        world.load(handshake_timeout_ms=50)
        with begin(world, session, POST) as client:
            world.read_all(client.sock)
            assert world.counts("reason.client:tls_timeout") == (1,)


def test_client_that_leaves_within_its_handshake_leaves_nothing() -> None:
    with early_world() as world, begin(world, session_of(world), GET) as client:
        world.answer()
        client.sock.close()
        world.pump_until(lambda: len(set(world.counts("clients_opened", "clients_closed"))) == 1)


def test_connection_that_closes_behind_its_early_request_ends_in_order() -> None:
    with early_world() as world, begin(world, session_of(world), head("GET", "Connection: close")) as client:
        world.answer()
        client.shake()
        client.receive_until(b"ok")
        assert b"Connection: close" not in world.request_head


# ---------------------------------------------------------------------------------------------------------------- HTTP/2
def http2(method: str = "GET", *, body: bytes = b"", connection: H2Connection | None = None) -> tuple[H2Connection, bytes]:
    """A client's connection, and the bytes of a request."""
    if connection is None:
        connection = H2Connection(H2Configuration(client_side=True, header_encoding="latin-1"))
        connection.initiate_connection()
    stream = connection.get_next_available_stream_id()
    fields = [(":method", method), (":scheme", "https"), (":authority", "a"), (":path", f"/{method.lower()}")]
    connection.send_headers(stream, fields, end_stream=not body)
    if body:
        connection.send_data(stream, body, end_stream=True)
    return connection, connection.data_to_send()


def bodies(client: OpenSslClient, connection: H2Connection, count: int) -> dict[int, bytes]:
    """What has come on so many streams, once all have something."""
    answers: dict[int, bytes] = {}
    statuses = []
    while len(answers) < count:
        for event in connection.receive_data(client.receive_until(b"")):
            if isinstance(event, ResponseReceived):
                statuses.append(dict(event.headers)[":status"])
            elif isinstance(event, DataReceived):
                answers[event.stream_id] = answers.get(event.stream_id, b"") + event.data
    assert set(statuses) == {"200"}
    return answers


def http2_world(**tls: Any) -> TlsWorld:
    return early_world(alpn=[b"h2", b"http/1.1"], **tls)


def test_streams_go_on_each_by_its_method() -> None:
    with http2_world() as world:
        session = session_of(world, b"h2")
        connection, data = http2("GET")
        data += http2("POST", body=b"hi", connection=connection)[1] + http2("HEAD", connection=connection)[1]
        with begin(world, session, data, b"h2") as client:
            first = world.accept()
            second = world.accept()
            heads = {world.read_until(peer, b"\r\n\r\n"): peer for peer in (first, second)}
            assert {one.split()[0] for one in heads} == {b"GET", b"HEAD"}
            assert all(MARK in one.lower() for one in heads)
            for one, peer in heads.items():
                peer.send(OK if one.startswith(b"GET") else OK[:-2])
            assert world.counts("tls_handshakes") == (1,)
            client.shake()
            assert client.was_early_taken()
            peer = next(iter(heads.values()))
            received = b""

            def post_came() -> bool:
                nonlocal received
                for peer in heads.values():
                    with contextlib.suppress(BlockingIOError):
                        received = peer.recv(65536)
                        peer.send(OK)
                return bool(received)

            world.pump_until(post_came)
            assert received.startswith(b"POST ") and received.endswith(b"hi")
            assert MARK not in received.lower()
            assert bodies(client, connection, 2) == {1: b"ok", 3: b"ok"}
            client.send(http2("GET", connection=connection)[1])
            received = b""
            world.pump_until(post_came)
            assert MARK not in received.lower()


def test_stream_waits_no_longer_than_a_handshake_may_take() -> None:
    with http2_world() as world:
        session = session_of(world, b"h2")
        world.load(handshake_timeout_ms=50)
        with begin(world, session, http2("POST", body=b"hi")[1], b"h2") as client:
            world.read_all(client.sock)
            assert world.counts("reason.client:tls_timeout", "attempts_opened") == (1, 0)


def test_stream_that_waits_may_be_reset() -> None:
    with http2_world() as world:
        session = session_of(world, b"h2")
        connection, data = http2("POST", body=b"hi")
        connection.reset_stream(1)
        with begin(world, session, data + connection.data_to_send(), b"h2") as client:
            client.shake()
            assert nobody_came(world)
            client.send(http2("GET", connection=connection)[1])
            world.answer()
            assert bodies(client, connection, 1) == {3: b"ok"}
