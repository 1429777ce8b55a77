"""HTTP/2 to backends: attempts are streams of shared connections, their answers those of any backend. The test holds every socket."""

import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from h2.errors import ErrorCodes

from fastlb import _core
from tests.support.http2 import Client
from tests.support.http2_backend import OK, Backend
from tests.support.images import Writer
from tests.support.world import REQUEST, World

LENGTH_OK = [*OK, ("content-length", "2")]


class BackendWorld(World):
    """One pool that speaks HTTP/2 behind a listener; `backends` are the connections that fastlb has made."""

    def __init__(self, shared: _core.SharedMemory | None = None) -> None:
        super().__init__(shared)
        self.web = self.listen()
        self.settle(retry={"on": ("connect", "closed", "reset")})

    def settle(self, **pool: Any) -> None:
        self.apply(self.web, **{"protocol": "http2", **pool})

    def settle_two(self, second: socket.socket, **pool: Any) -> None:
        """A pool of two backends."""
        self.generation += 1
        writer = Writer(self.generation)
        writer.set_reason_header("X-Fastlb-Reason")
        writer.listener()
        number = writer.pool(protocol="http2", **pool)
        for backend in (self.backend, second):
            writer.backend(number, backend.getsockname()[1])
        writer.add_route(pool=number)
        self.apply_image(writer.image(), self.web)

    def client(self, request: bytes = b"") -> socket.socket:
        made = self.connect(self.web)
        if request:
            made.send(request)
        return made

    def read_all(self, client: socket.socket, end: bytes) -> bytes:
        data = b""
        while not data.endswith(end):
            more = self.read(client)
            assert more, data
            data += more
        return data


@pytest.fixture
def world() -> Iterator[BackendWorld]:
    with BackendWorld() as made:
        yield made
    made.check_balance()


# ---------------------------------------------------------------------------------------------------------- requests and answers
def test_a_request_of_http1_is_a_stream_and_its_answer_http1_again(world: BackendWorld) -> None:
    client = world.client(b"GET /x?y=1 HTTP/1.1\r\nHost: a\r\nX-Mine: 1\r\nConnection: keep-alive, x-gone\r\nX-Gone: 1\r\nTE: gzip\r\n\r\n")
    backend = Backend(world, world.accept())
    request = backend.wait_whole()
    assert request.fields[:4] == [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/x?y=1")]
    names = [name for name, _ in request.fields]
    assert ("x-mine", "1") in request.fields
    assert not {"host", "connection", "x-gone", "te", "keep-alive"} & set(names)
    assert ("x-forwarded-for", "127.0.0.1") in request.fields or "x-forwarded-for" not in names
    backend.answer(fields=[*LENGTH_OK, ("x-yours", "2")])
    assert world.read_all(client, b"ok") == b"HTTP/1.1 200 OK\r\ndate: x\r\ncontent-length: 2\r\nx-yours: 2\r\n\r\nok"


def test_streams_of_one_connection_serve_many_clients(world: BackendWorld) -> None:
    clients = [world.client(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % i) for i in range(5)]
    backend = Backend(world, world.accept())
    backend.wait_for(lambda: sum(one.ended for one in backend.requests.values()) == 5)
    paths = {request.path: number for number, request in backend.requests.items() if number}
    for i in reversed(range(5)):
        backend.answer(paths[f"/{i}"], str(i).encode(), [*OK, ("content-length", "1")])
        assert world.read_all(clients[i], b"\r\n\r\n%d" % i).startswith(b"HTTP/1.1 200 OK\r\n")
    counted = world.counters()
    assert (counted["backend_connections_opened"], counted["backend_sessions_opened"], counted["backend_streams_opened"]) == (1, 1, 5)


def test_the_next_request_goes_on_the_same_connection(world: BackendWorld) -> None:
    client = world.client(REQUEST)
    backend = Backend(world, world.accept())
    for number in (1, 3, 5):
        backend.wait_whole(number)
        backend.answer(number, fields=LENGTH_OK)
        world.read_all(client, b"ok")
        if number != 5:
            client.send(REQUEST)
    counted = world.counters()
    assert (counted["backend_connections_opened"], counted["backend_reused"], counted["backend_resets_sent"]) == (1, 2, 0)


def test_an_answer_without_a_length_ends_with_its_stream(world: BackendWorld) -> None:
    client = world.client(REQUEST)
    backend = Backend(world, world.accept())
    backend.wait_whole()
    backend.answer(body=b"hello")
    assert world.read_all(client, b"0\r\n\r\n").endswith(b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")


def test_an_answer_that_ends_with_its_head_does_so_for_the_client(world: BackendWorld) -> None:
    client = world.client(REQUEST)
    backend = Backend(world, world.accept())
    backend.wait_whole()
    backend.answer(body=None)
    assert world.read_all(client, b"\r\n\r\n") == b"HTTP/1.1 200 OK\r\ndate: x\r\ncontent-length: 0\r\n\r\n"


@pytest.mark.parametrize(("method", "status"), [("HEAD", "200"), ("GET", "204"), ("GET", "304")])
def test_answers_that_have_no_body_have_none(world: BackendWorld, method: str, status: str) -> None:
    client = world.client(f"{method} / HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    backend = Backend(world, world.accept())
    backend.wait_whole()
    backend.answer(body=None, fields=[(":status", status), ("date", "x"), *([("content-length", "100")] if status != "204" else [])])
    head = world.read_all(client, b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert (b"content-length: 100\r\n" in head) == (status != "204")
    client.send(REQUEST)
    backend.wait_whole(3)
    backend.answer(3, fields=LENGTH_OK)
    assert world.read_all(client, b"ok").startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_body_goes_in_data_frames_and_trailers_behind_it(world: BackendWorld) -> None:
    client = world.client(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    backend = Backend(world, world.accept())
    request = backend.wait()
    backend.wait_for(lambda: request.body == b"hello")
    assert not request.ended
    client.send(b"6\r\n world\r\n0\r\nX-Sum: 1\r\nHost: evil\r\n\r\n")
    backend.wait_whole()
    assert (request.body, request.trailers) == (b"hello world", [("x-sum", "1")])
    assert "transfer-encoding" not in dict(request.fields)
    backend.answer(trailers=[("grpc-status", "0")])
    assert world.read_all(client, b"grpc-status: 0\r\n\r\n").endswith(b"2\r\nok\r\n0\r\ngrpc-status: 0\r\n\r\n")


def test_a_body_with_a_length_keeps_it(world: BackendWorld) -> None:
    client = world.client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
    backend = Backend(world, world.accept())
    request = backend.wait_whole()
    assert (dict(request.fields)["content-length"], request.body) == ("5", b"hello")
    backend.answer(fields=LENGTH_OK)
    world.read_all(client, b"ok")


def test_te_trailers_is_said_where_the_client_says_it(world: BackendWorld) -> None:
    client = world.client(b"GET / HTTP/1.1\r\nHost: a\r\nTE: gzip;q=0.5, trailers\r\nConnection: TE\r\n\r\n")
    backend = Backend(world, world.accept())
    assert ("te", "trailers") in backend.wait_whole().fields
    backend.answer(fields=LENGTH_OK)
    world.read_all(client, b"ok")


def test_interim_answers_pass(world: BackendWorld) -> None:
    client = world.client(REQUEST)
    backend = Backend(world, world.accept())
    backend.wait_whole()
    backend.h2.send_headers(1, [(":status", "103"), ("link", "</x>")])
    backend.answer(fields=LENGTH_OK)
    data = world.read_all(client, b"ok")
    assert data.startswith(b"HTTP/1.1 103 \r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\n")


def test_both_directions_run_at_once_between_http2_and_http2(world: BackendWorld) -> None:
    client = Client(world, world.web)
    number = client.begin([(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/chat"), ("te", "trailers")])
    backend = Backend(world, world.accept())
    request = backend.wait()
    assert ("te", "trailers") in request.fields
    stream = client.streams[number]

    def told(body: bytes) -> bool:
        client.take()
        return stream.body == body

    backend.h2.send_headers(1, [(":status", "200"), ("content-type", "application/grpc")])
    backend.flush()
    for i in range(3):
        client.h2.send_data(number, b"ask%d" % i)
        client.flush()
        backend.wait_for(lambda i=i: request.body.endswith(b"ask%d" % i))
        backend.h2.send_data(1, b"say%d" % i)
        backend.flush()
        world.pump_until(lambda i=i: told(b"".join(b"say%d" % k for k in range(i + 1))))
    client.h2.end_stream(number)
    client.flush()
    backend.wait_whole()
    backend.h2.send_headers(1, [("grpc-status", "0"), ("grpc-message", "")], end_stream=True)
    backend.flush()
    client.wait(number)
    assert (stream.trailers, stream.ended, stream.reset) == ({"grpc-status": "0", "grpc-message": ""}, True, None)


def test_an_answer_of_trailers_only_stays_one(world: BackendWorld) -> None:
    client = Client(world, world.web)
    number = client.request("/x", "POST", ("te", "trailers"), body=b"ask")
    backend = Backend(world, world.accept())
    backend.wait_whole()
    backend.answer(body=None, fields=[(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "12")])
    stream = client.wait(number)
    assert (stream.fields["grpc-status"], stream.trailers, stream.body, stream.ended) == ("12", {}, b"", True)


def test_an_answer_may_end_before_its_request(world: BackendWorld) -> None:
    client = Client(world, world.web)
    number = client.begin([(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/")])
    backend = Backend(world, world.accept())
    backend.wait()
    backend.answer(fields=LENGTH_OK)
    backend.h2.reset_stream(1, ErrorCodes.NO_ERROR)
    backend.flush()
    stream = client.wait(number)
    assert (stream.body, stream.ended) == (b"ok", True)


# ---------------------------------------------------------------------------------------------------------- windows
def test_a_slow_client_stops_its_stream_and_no_other(world: BackendWorld) -> None:
    slow = world.client(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
    backend = Backend(world, world.accept())
    backend.wait_whole()
    backend.h2.send_headers(1, [(":status", "200")])
    sent = 0

    def fill() -> bool:
        nonlocal sent
        backend.take()
        while (room := backend.h2.local_flow_control_window(1)) > 0:
            size = min(room, 16384)
            backend.h2.send_data(1, b"x" * size)
            sent += size
        backend.flush()
        return backend.h2.local_flow_control_window(1) == 0 and not world.engine.pump()

    world.pump_until(fill)
    quick = world.client(REQUEST)
    backend.wait_whole(3)
    backend.answer(3, fields=LENGTH_OK)
    assert world.read_all(quick, b"ok").startswith(b"HTTP/1.1 200 OK\r\n")
    received = b""
    while received.count(b"x") < sent:
        received += world.read(slow)
        backend.take()
    backend.h2.end_stream(1)
    backend.flush()
    world.read_all(slow, b"0\r\n\r\n")


def test_a_backend_that_opens_no_window_stops_the_client(world: BackendWorld) -> None:
    client = world.client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
    backend = Backend(world, world.accept(), window=1000)
    sent = 0

    def push() -> bool:
        nonlocal sent
        backend.take()
        try:
            sent += client.send(b"x" * min(65536, 1_000_000 - sent)) if sent < 1_000_000 else 0
        except BlockingIOError:
            return True
        return sent == 1_000_000

    world.pump_until(push)
    request = backend.wait()
    backend.wait_for(lambda: len(request.body) == 1000)

    def rest() -> bool:
        nonlocal sent
        backend.take()
        if sent < 1_000_000:
            try:
                sent += client.send(b"x" * min(65536, 1_000_000 - sent))
            except BlockingIOError:
                pass
        return request.ended

    backend.opens_windows = True
    backend.h2.acknowledge_received_data(1000, 1)
    backend.flush()
    world.pump_until(rest)
    assert len(request.body) == 1_000_000
    backend.answer(fields=LENGTH_OK)
    world.read_all(client, b"ok")


# ---------------------------------------------------------------------------------------------------------- sessions
def test_more_attempts_than_streams_open_another_connection(world: BackendWorld) -> None:
    world.settle(streams=2)
    clients = [world.client(REQUEST) for _ in range(3)]
    one, two = Backend(world, world.accept()), Backend(world, world.accept())

    def all_here() -> bool:
        one.take()
        two.take()
        return sum(request.ended for backend in (one, two) for request in backend.requests.values()) == 3

    world.pump_until(all_here)
    for backend in (one, two):
        for number in [number for number, request in backend.requests.items() if request.ended]:
            backend.answer(number, fields=LENGTH_OK)
    for client in clients:
        world.read_all(client, b"ok")


def test_a_backend_that_allows_fewer_streams_is_obeyed(world: BackendWorld) -> None:
    first = world.client(REQUEST)
    one = Backend(world, world.accept(), streams=1)
    one.wait_whole()
    second = world.client(REQUEST)
    two = Backend(world, world.accept(), streams=1)
    two.wait_whole()
    one.answer(fields=LENGTH_OK)
    two.answer(fields=LENGTH_OK)
    world.read_all(first, b"ok")
    world.read_all(second, b"ok")


def test_a_backend_that_cannot_be_reached_fails_every_attempt_that_waits(world: BackendWorld) -> None:
    world.backend.close()
    clients = [world.client(REQUEST) for _ in range(3)]
    for client in clients:
        assert b"backend:connect_refused" in world.read(client)


def test_a_goaway_lets_streams_finish_and_takes_no_more(world: BackendWorld) -> None:
    first = world.client(REQUEST)
    one = Backend(world, world.accept())
    one.wait_whole()
    one.h2.close_connection(last_stream_id=1)
    one.flush()
    world.pump_until(lambda: world.counters()["backend_goaways"] == 1)
    second = world.client(REQUEST)
    two = Backend(world, world.accept())
    two.wait_whole()
    two.answer(fields=LENGTH_OK)
    world.read_all(second, b"ok")
    one.send(b"\0\0\x01\x01\x04\0\0\0\x01\x88" + b"\0\0\x02\0\x01\0\0\0\x01ok")  # h2 would not send any more
    assert world.read_all(first, b"0\r\n\r\n").endswith(b"2\r\nok\r\n0\r\n\r\n")
    while world.read(one.socket):
        pass
    assert world.counters()["retries"] == 0


def test_what_a_goaway_leaves_out_is_sent_again_whatever_its_method(world: BackendWorld) -> None:
    client = world.client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
    one = Backend(world, world.accept())
    one.wait_whole()
    one.h2.close_connection(last_stream_id=0)
    one.flush()
    two = Backend(world, world.accept())
    assert two.wait_whole().body == b"hello"
    two.answer(fields=LENGTH_OK)
    world.read_all(client, b"ok")


def test_a_refused_stream_is_sent_again_whatever_its_method(world: BackendWorld) -> None:
    client = world.client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
    backend = Backend(world, world.accept())
    backend.wait_whole()
    backend.h2.reset_stream(1, ErrorCodes.REFUSED_STREAM)
    backend.flush()
    assert backend.wait_whole(3).body == b"hello"
    backend.answer(3, fields=LENGTH_OK)
    world.read_all(client, b"ok")


def test_a_reset_stream_is_a_failed_attempt_and_no_more(world: BackendWorld) -> None:
    post = world.client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
    backend = Backend(world, world.accept())
    backend.wait_whole()
    other = world.client(REQUEST)
    backend.wait_whole(3)
    backend.h2.reset_stream(1, ErrorCodes.INTERNAL_ERROR)
    backend.flush()
    assert b"backend:reset" in world.read(post)
    backend.answer(3, fields=LENGTH_OK)
    world.read_all(other, b"ok")


def test_a_connection_that_ends_fails_its_streams(world: BackendWorld) -> None:
    posts = [world.client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello") for _ in range(3)]
    backend = Backend(world, world.accept())
    backend.wait_for(lambda: sum(request.ended for request in backend.requests.values()) == 3)
    backend.socket.close()
    for post in posts:
        assert b"backend:closed" in world.read(post)


def test_a_client_that_leaves_resets_its_stream_and_no_other(world: BackendWorld) -> None:
    leaving, staying = world.client(REQUEST), None
    backend = Backend(world, world.accept())
    backend.wait_whole()
    staying = world.client(REQUEST)
    backend.wait_whole(3)
    leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    leaving.close()
    backend.wait_for(lambda: backend.requests[1].reset is not None)
    assert backend.requests[1].reset == ErrorCodes.CANCEL
    backend.answer(3, fields=LENGTH_OK)
    world.read_all(staying, b"ok")


def test_an_idle_connection_ends_with_a_goaway(world: BackendWorld) -> None:
    world.settle(idle_timeout_ms=50)
    client = world.client(REQUEST)
    backend = Backend(world, world.accept())
    backend.wait_whole()
    backend.answer(fields=LENGTH_OK)
    world.read_all(client, b"ok")
    backend.wait_for(lambda: False)
    assert any(type(event).__name__ == "ConnectionTerminated" for event in backend.events)


def test_a_pool_that_speaks_http1_again_leaves_its_connections(world: BackendWorld) -> None:
    client = world.client(REQUEST)
    backend = Backend(world, world.accept())
    backend.wait_whole()
    world.settle(protocol="http1")
    client_of_http1 = world.client(REQUEST)
    peer = world.accept()
    assert world.read(peer).startswith(b"GET / HTTP/1.1\r\n")
    peer.send(b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\nok")
    world.read_all(client_of_http1, b"ok")
    backend.answer(fields=LENGTH_OK)
    world.read_all(client, b"ok")
    backend.wait_for(lambda: False)
    world.settle()
    client.send(REQUEST)
    Backend(world, world.accept()).wait_whole()


# ---------------------------------------------------------------------------------------------------------- what is refused
MALFORMED = {
    "no status": [("x", "1")],
    "status behind a field": [("x", "1"), (":status", "200")],
    "two statuses": [(":status", "200"), (":status", "200")],
    "a status that is none": [(":status", "2x0")],
    "a path": [(":status", "200"), (":path", "/")],
    "101": [(":status", "101")],
    "connection": [(":status", "200"), ("connection", "close")],
    "transfer-encoding": [(":status", "200"), ("transfer-encoding", "chunked")],
    "upgrade": [(":status", "200"), ("upgrade", "x")],
    "line feed in a value": [(":status", "200"), ("x", "a\nb")],
    "zero in a value": [(":status", "200"), ("x", "a\0b")],
    "upper case": [(":status", "200"), ("X-Y", "1")],
    "space in a name": [(":status", "200"), ("x y", "1")],
    "two lengths": [(":status", "200"), ("content-length", "2"), ("content-length", "2")],
    "a length that is none": [(":status", "200"), ("content-length", "+2")],
    "too short a length": [(":status", "200"), ("content-length", "1")],
    "too long a length": [(":status", "200"), ("content-length", "3")],
}


@pytest.mark.parametrize("fields", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_answer_is_refused_and_its_stream_reset(world: BackendWorld, fields: list[tuple[str, str]]) -> None:
    client = world.client(REQUEST)
    backend = Backend(world, world.accept())
    backend.wait_whole()
    backend.answer(fields=fields)
    assert b"backend:bad_response" in world.read(client)
    backend.wait_for(lambda: world.counters()["backend_resets_sent"] == 1)
    client = world.client(REQUEST)
    backend.wait_whole(3)
    backend.answer(3, fields=LENGTH_OK)
    world.read_all(client, b"ok")


# ---------------------------------------------------------------------------------------------------------- WebSockets
UPGRADE = (
    b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def test_a_websocket_is_an_extended_connect(world: BackendWorld) -> None:
    client = world.client(UPGRADE)
    backend = Backend(world, world.accept())
    request = backend.wait()
    assert dict(request.fields)[":method"] == "CONNECT"
    assert dict(request.fields)[":protocol"] == "websocket"
    assert not {"connection", "upgrade", "sec-websocket-key"} & {name for name, _ in request.fields}
    backend.h2.send_headers(1, [(":status", "200"), ("date", "x")])
    backend.h2.send_data(1, b"hello")
    backend.flush()
    head, _, rest = world.read_all(client, b"hello").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head  # RFC 6455 section 1.3
    assert rest == b"hello"
    client.send(b"and back")
    backend.wait_for(lambda: request.body == b"and back")
    client.shutdown(socket.SHUT_WR)
    backend.wait_for(lambda: request.ended)
    backend.h2.end_stream(1)
    backend.flush()
    assert world.read(client) == b""
    world.pump_until(lambda: world.counters()["tunnels_closed"] == 1)


def test_a_websocket_that_the_backend_refuses_is_an_answer(world: BackendWorld) -> None:
    client = world.client(UPGRADE)
    backend = Backend(world, world.accept())
    backend.wait()
    backend.answer(fields=[(":status", "403"), ("content-length", "2")])
    assert world.read_all(client, b"ok").startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize("asked", ["websocket", "something/1"])
def test_an_upgrade_that_cannot_be_passed_on_is_answered_here(world: BackendWorld, asked: str) -> None:
    client = world.client(UPGRADE.replace(b"websocket\r\n", asked.encode() + b"\r\n"))
    Backend(world, world.accept(), connects=asked != "websocket").wait_for(lambda: world.counters()["reason.no_upgrade"])
    assert world.read(client).startswith(b"HTTP/1.1 501 Not Implemented\r\n")


# ---------------------------------------------------------------------------------------------------------- hostile backends
def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


FLOODS = {
    "ping_flood": frame(6, 0, 0, bytes(8)),
    "settings_flood": frame(4, 0, 0),
    "empty_data_flood": frame(0, 0, 1),
    "window_update_flood": frame(8, 0, 0, (1).to_bytes(4, "big")),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_ends_the_connection_and_its_attempts(world: BackendWorld, flood: str) -> None:
    client = world.client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
    backend = Backend(world, world.accept())
    backend.wait_whole()
    backend.h2.send_headers(1, [(":status", "103")])
    backend.flush()
    backend.send(FLOODS[flood] * 4000)
    assert b"HTTP/1.1 502 " in world.read_all(client, b"malformed.\n")
    assert world.counters()[f"backend_http2_ended.{flood}"] == 1


@pytest.mark.parametrize(
    "frames",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        frame(5, 4, 1, (2).to_bytes(4, "big") + b"\x88"),
        frame(0, 0, 1, bytes(70000)),
        frame(1, 4, 2, b"\x88"),
        frame(8, 0, 0, (0).to_bytes(4, "big")),
        frame(0, 0, 5, b"x"),
        frame(9, 4, 1, b""),
        frame(1, 4, 1, b"\xff\xff\xff\xff\xff\xff\xff\xff"),
    ],
    ids=[
        "http1",
        "push",
        "beyond the window",
        "a stream of its own",
        "a window of 0",
        "an idle stream",
        "a continuation of nothing",
        "hpack",
    ],
)
def test_a_broken_protocol_ends_the_connection_and_its_attempts(world: BackendWorld, frames: bytes) -> None:
    client = world.client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
    backend = Backend(world, world.accept(), begin=not frames.startswith(b"HTTP"))
    backend.wait_whole()
    backend.send(frames)
    assert b"HTTP/1.1 502 " in world.read_all(client, b".\n")
    world.pump_until(lambda: world.counters()["backend_http2_ended.protocol_error"] == 1)


def test_a_header_list_that_is_too_large_fails_its_attempt_and_no_other(world: BackendWorld) -> None:
    client = world.client(REQUEST)
    backend = Backend(world, world.accept())
    backend.wait_whole()
    other = world.client(REQUEST)
    backend.wait_whole(3)
    backend.answer(fields=[*OK, *((f"x-{i}", "y" * 1000) for i in range(70))])
    assert b"backend:head_too_large" in world.read_all(client, b".\n")
    backend.answer(3, fields=LENGTH_OK)
    world.read_all(other, b"ok")


def test_a_small_block_that_means_much_is_not_kept(world: BackendWorld) -> None:
    client = world.client(REQUEST)
    backend = Backend(world, world.accept())
    backend.wait_whole()
    block = b"\x88\x40\x01x\x7f\xa1\x1e" + b"y" * 4000 + b"\xbe" * 12000  # one long field, named again and again
    frames = [block[i : i + 16384] for i in range(0, len(block), 16384)]
    data = b"".join(frame(9 if i else 1, 4 if i == len(frames) - 1 else 0, 1, part) for i, part in enumerate(frames))
    backend.send(data)
    assert b"HTTP/1.1 502 " in world.read_all(client, b".\n")
    assert world.counters()["backend_http2_ended.header_flood"] == 1


# ---------------------------------------------------------------------------------------------------------- with all else that pools do
def test_connections_are_limited_and_not_streams(world: BackendWorld) -> None:
    world.settle(limits={"connections": 1}, streams=2)
    clients = [world.client(REQUEST) for _ in range(2)]
    backend = Backend(world, world.accept())
    backend.wait_for(lambda: sum(request.ended for request in backend.requests.values()) == 2)
    assert b"connections_limit" in world.read(world.client(REQUEST))
    for number in (1, 3):
        backend.answer(number, fields=LENGTH_OK)
    for client in clients:
        world.read_all(client, b"ok")


def test_an_idle_connection_gives_its_place_to_another_backend(world: BackendWorld) -> None:
    second = world.listen()
    world.settle_two(second, limits={"connections": 1}, algorithm="round_robin")
    first_client = world.client(REQUEST)
    backend = Backend(world, world.accept())
    backend.wait_whole()
    backend.answer(fields=LENGTH_OK)
    world.read_all(first_client, b"ok")
    first_client.send(REQUEST)
    world.backend, first = second, world.backend
    other = Backend(world, world.accept())
    world.backend = first
    other.wait_whole()
    other.answer(fields=LENGTH_OK)
    world.read_all(first_client, b"ok")
    backend.wait_for(lambda: False)


def test_a_drained_backend_is_cut_stream_by_stream(world: BackendWorld) -> None:
    clients = [world.client(REQUEST) for _ in range(2)]
    backend = Backend(world, world.accept())
    backend.wait_for(lambda: sum(request.ended for request in backend.requests.values()) == 2)
    assert world.engine.cut(f"0|127.0.0.1:{world.backend.getsockname()[1]}") == 2
    for client in clients:
        assert b"backend_drained" in world.read(client)
    backend.wait_for(lambda: all(backend.requests[number].reset is not None for number in (1, 3)))


def test_no_connection_stays_where_none_may_be_idle(world: BackendWorld) -> None:
    world.settle(max_idle=0)
    client = world.client(REQUEST)
    backend = Backend(world, world.accept())
    backend.wait_whole()
    backend.answer(fields=LENGTH_OK)
    world.read_all(client, b"ok")
    backend.wait_for(lambda: False)


def test_a_silent_connection_gets_no_more_attempts_until_it_has_answered(world: BackendWorld) -> None:
    world.settle(first_byte_timeout_ms=1100, attempts=1)
    client = world.client(REQUEST)
    one = Backend(world, world.accept())
    one.wait_whole()
    one.answer(fields=LENGTH_OK)
    world.read_all(client, b"ok")
    client.send(REQUEST)
    one.wait_whole(3)
    assert b"first_byte_timeout" in world.read(client)
    client = world.client(REQUEST)
    two = Backend(world, world.accept())
    two.wait_whole()
    two.answer(fields=LENGTH_OK)
    world.read_all(client, b"ok")
    one.wait_for(lambda: any(type(event).__name__ == "PingReceived" for event in one.events))


def test_a_hedge_ends_the_slower_stream(world: BackendWorld) -> None:
    second = world.listen()
    world.settle_two(second, hedge_after_ms=10, algorithm="round_robin")
    client = world.client(REQUEST)
    slow = Backend(world, world.accept())
    slow.wait_whole()
    world.backend, first = second, world.backend
    quick = Backend(world, world.accept())
    world.backend = first
    quick.wait_whole()
    quick.answer(fields=LENGTH_OK)
    world.read_all(client, b"ok")
    slow.wait_for(lambda: slow.requests[1].reset == ErrorCodes.CANCEL)


# ---------------------------------------------------------------------------------------------------------- sessions that are shared
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"


def wait_ms(world: BackendWorld, ms: int) -> None:
    """So much time passes, in which nothing happens."""
    end = time.monotonic() + ms / 1000
    world.pump_until(lambda: time.monotonic() >= end)


def test_uploads_take_turns(world: BackendWorld) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"
    clients = [world.client(head) for _ in range(2)]
    backend = Backend(world, world.accept(), window=1_000_000)
    one, two = backend.wait(1), backend.wait(3)

    def fill() -> None:
        for client in clients:
            with contextlib.suppress(BlockingIOError):
                client.send(b"x" * 65536)

    def moved(size: int) -> None:
        def look() -> bool:
            fill()
            return len(one.body) + len(two.body) == size

        backend.wait_for(look)

    moved(65535)  # all that the connection's window lets through
    before = len(one.body), len(two.body)
    for i in range(8):
        backend.h2.increment_flow_control_window(32768)
        backend.flush()
        moved(65535 + 32768 * (i + 1))
    assert len(one.body) - before[0] >= 65536
    assert len(two.body) - before[1] >= 65536


def test_a_reset_on_a_connection_that_lives_is_a_failure_although_it_was_used_before(world: BackendWorld) -> None:
    world.settle(retry={"on": ()})
    client = world.client(REQUEST)
    backend = Backend(world, world.accept())
    backend.wait_whole()
    backend.answer(fields=LENGTH_OK)
    world.read_all(client, b"ok")
    client.send(REQUEST)
    backend.wait_whole(3)
    backend.h2.reset_stream(3, ErrorCodes.INTERNAL_ERROR)
    backend.flush()
    assert b"backend:reset" in world.read(client)
    assert world.counters()["replays"] == 0


def two_idle_sessions(world: BackendWorld) -> tuple[socket.socket, list[Backend]]:
    world.settle(streams=1)
    clients = [world.client(REQUEST) for _ in range(2)]
    backends = [Backend(world, world.accept()) for _ in range(2)]
    for backend in backends:
        backend.wait_whole()
        backend.answer(fields=LENGTH_OK)
    for client in clients:
        world.read_all(client, b"ok")
    wait_ms(world, 150)
    return clients[0], backends


def test_where_one_idle_connection_has_ended_others_are_not_trusted(world: BackendWorld) -> None:
    client, backends = two_idle_sessions(world)
    client.send(REQUEST)
    for backend in reversed(backends):  # the newest is used first
        backend.socket.close()
    fresh: list[socket.socket] = []

    def look() -> bool:
        with contextlib.suppress(BlockingIOError):
            fresh.append(world.stack.enter_context(world.backend.accept()[0]))
        return bool(fresh)

    world.pump_until(look, budget=1)
    fresh[0].setblocking(False)
    backend = Backend(world, fresh[0])
    backend.wait_whole()
    backend.answer(fields=LENGTH_OK)
    world.read_all(client, b"ok")
    assert (world.counters()["replays"], world.counters()["retries"]) == (1, 0)


def test_an_idle_connection_is_read_before_what_cannot_be_sent_twice(world: BackendWorld) -> None:
    client = world.client(REQUEST)
    one = Backend(world, world.accept())
    one.wait_whole()
    one.answer(fields=LENGTH_OK)
    world.read_all(client, b"ok")
    client.send(POST)
    one.socket.close()
    world.pump_until(lambda: world.counters()["backend_connections_opened"] == 2, budget=1)
    two = Backend(world, world.accept())
    assert two.wait_whole().body == b"hi"
    two.answer(fields=LENGTH_OK)
    world.read_all(client, b"ok")


def test_a_burst_waits_until_the_backend_has_said_how_much_it_takes(world: BackendWorld) -> None:
    clients = [world.client(REQUEST) for _ in range(30)]
    backends: list[Backend] = []
    answers = dict.fromkeys(range(30), b"")
    answered = False

    def look() -> bool:
        nonlocal answered
        with contextlib.suppress(BlockingIOError):
            peer = world.stack.enter_context(world.backend.accept()[0])
            peer.setblocking(False)
            backends.append(Backend(world, peer, streams=5))
        for backend in backends:
            backend.take()  # h2 minds more streams than it allows
        if sum(request.ended for backend in backends for request in backend.requests.values()) == 30 and not answered:
            answered = True
            for backend in backends:
                for number, request in backend.requests.items():
                    if request.ended:
                        backend.answer(number, fields=LENGTH_OK)
        for i, client in enumerate(clients):
            with contextlib.suppress(BlockingIOError):
                answers[i] += client.recv(65536)
        return all(answer.endswith(b"ok") for answer in answers.values())

    world.pump_until(look)
    counted = world.counters()
    assert (counted["backend_connections_opened"], counted["replays"], counted["retries"]) == (6, 0, 0)


def test_an_answer_to_a_ping_may_come_in_the_same_millisecond(world: BackendWorld) -> None:
    client = Client(world, world.web)
    client.request("/0")
    backend = Backend(world, world.accept())
    backend.wait_whole()
    backend.wait_for(lambda: any(type(event).__name__ == "SettingsAcknowledged" for event in backend.events))
    wait_ms(world, 20)  # nothing that the backend has said is on its way any more
    first, _ = client.request("/1"), client.request("/2")
    backend.wait_whole(3)
    backend.wait_whole(5)
    wait_ms(world, 1050)
    client.h2.reset_stream(first)
    client.flush()
    world.engine.pump()  # sends the ping
    world.engine.pump()
    backend.socket.send(frame(6, 1, 0, bytes(8)))
    world.engine.pump()
    client.request("/3")
    world.pump_until(lambda: world.counters()["backend_streams_opened"] == 4)
    assert world.counters()["backend_sessions_opened"] == 1
    backend.wait_for(lambda: any(type(event).__name__ == "PingReceived" for event in backend.events))


def test_a_stream_whose_end_does_not_come_is_reset_however_busy_its_connection_is(world: BackendWorld) -> None:
    client = world.client(REQUEST)
    backend = Backend(world, world.accept())
    request = backend.wait_whole()
    backend.h2.send_headers(1, LENGTH_OK)
    backend.h2.send_data(1, b"ok")
    backend.flush()
    world.read_all(client, b"ok")
    number = 3
    end = time.monotonic() + 4
    while request.reset is None:
        assert time.monotonic() < end
        client.send(REQUEST)
        backend.wait_whole(number)
        backend.answer(number, fields=LENGTH_OK)
        world.read_all(client, b"ok")
        number += 2
        wait_ms(world, 10)
    assert request.reset == ErrorCodes.CANCEL


def test_a_backend_that_does_not_read_is_read(world: BackendWorld) -> None:
    waiting = world.client(REQUEST)
    backend = Backend(world, world.accept(), window=50_000_000)
    backend.wait_whole()
    upload = world.client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n")
    backend.wait(3)
    backend.h2.increment_flow_control_window(50_000_000)
    backend.flush()
    stuck = 0

    def fill() -> bool:
        nonlocal stuck
        try:
            upload.send(b"x" * 65536)
            stuck = 0
        except BlockingIOError:
            stuck += 1
            world.engine.pump()
        return stuck == 20

    world.pump_until(fill)
    backend.h2.send_headers(1, LENGTH_OK)
    backend.h2.send_data(1, b"ok", end_stream=True)
    backend.flush()
    world.read_all(waiting, b"ok")
    upload.close()


def test_an_empty_host_is_no_authority(world: BackendWorld) -> None:
    client = world.client(b"GET /x HTTP/1.1\r\nHost:\r\nX-Mine: 1\r\n\r\n")
    backend = Backend(world, world.accept())
    backend.h2.config.validate_inbound_headers = False  # h2 wants one
    request = backend.wait_whole()
    assert request.fields[:3] == [(":method", "GET"), (":scheme", "http"), (":path", "/x")]
    assert ("x-mine", "1") in request.fields
    backend.answer(fields=LENGTH_OK)
    world.read_all(client, b"ok")


def test_a_backend_that_speaks_http1_is_told_from_a_broken_one(world: BackendWorld) -> None:
    client = world.client(REQUEST)
    world.accept().send(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    assert b"backend:no_http2" in world.read(client)


def test_a_stream_error_is_a_bad_response(world: BackendWorld) -> None:
    client = world.client(POST)
    backend = Backend(world, world.accept())
    backend.wait_whole()
    backend.send(frame(8, 0, 1, (2**31 - 1).to_bytes(4, "big")))
    assert b"backend:bad_response" in world.read(client)
    backend.wait_for(lambda: backend.requests[1].reset is not None)


def test_a_connection_that_fails_is_one_failure_however_many_wait_for_it() -> None:
    with contextlib.closing(_core.SharedMemory.create()) as shared, BackendWorld(shared) as world:
        second = world.listen()
        world.settle_two(second, health={"failures_in_row": 2}, attempts=1, algorithm="round_robin")
        name = f"127.0.0.1:{second.getsockname()[1]}"
        second.close()
        clients = [world.client(REQUEST) for _ in range(6)]
        backend = Backend(world, world.accept())
        backend.wait_for(lambda: sum(request.ended for request in backend.requests.values()) == 3)
        for number in (1, 3, 5):
            backend.answer(number, fields=LENGTH_OK)
        assert sum(b"backend:connect_refused" in world.read(client) for client in clients) == 3
        row = next(row for row in shared.backends() if row["display"] == name)
        assert (row["failures"], row["state"]) == (3, 0)
