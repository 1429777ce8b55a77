"""HTTP/2 to clients: streams become requests of HTTP/1.1 and their answers frames again. The test holds every socket."""

import base64
import re
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, StreamEnded
from h2.settings import SettingCodes
from hyperframe.frame import ContinuationFrame, DataFrame, Frame, HeadersFrame, PingFrame, PriorityFrame, SettingsFrame, WindowUpdateFrame

from tests.support.http2 import Client, Fields, Stream
from tests.support.images import Writer
from tests.support.tls import TlsWorld, client_context
from tests.support.world import RESPONSE, World

BASIC: Fields = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")]
OK = b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 0\r\n\r\n"


class Http2World(World):
    def __init__(self) -> None:
        super().__init__()
        self.web = self.listen()
        self.apply(self.web)

    def read_until(self, peer: socket.socket, done: Callable[[bytes], object]) -> bytes:
        data = b""
        while not done(data):
            data += self.read(peer)
        return data

    def request_head(self, peer: socket.socket) -> bytes:
        return self.read_until(peer, lambda data: b"\r\n\r\n" in data)


@pytest.fixture
def world() -> Iterator[Http2World]:
    with Http2World() as made:
        yield made
    made.check_balance()


def settle(world: Http2World) -> None:
    world.pump_until(lambda: world.counters()["exchanges_opened"] == world.counters()["exchanges_closed"])


# ---------------------------------------------------------------------------------------------------------- requests
def test_a_get_goes_to_the_backend_in_http1_and_its_answer_comes_back_in_frames(world: Http2World) -> None:
    client = Client(world, world.web)
    number = client.request("/x?y=1", "GET", ("user-agent", "me"), ("x-mine", "1"))
    peer = world.accept()
    head = world.request_head(peer)
    assert head.startswith(b"GET /x?y=1 HTTP/1.1\r\nhost: a\r\nuser-agent: me\r\nx-mine: 1\r\n")
    assert b"transfer-encoding" not in head.lower() and b"content-length" not in head
    peer.send(b"HTTP/1.1 200 OK\r\nDate: x\r\nX-Yours: 2\r\nConnection: keep-alive, x-gone\r\nX-Gone: 1\r\nContent-Length: 2\r\n\r\nok")
    stream = client.wait(number)
    assert stream.fields == {":status": "200", "date": "x", "x-yours": "2", "content-length": "2"}
    assert stream.body == b"ok"
    counted = world.counters()
    assert (counted["clients_opened"], counted["http2_sessions_opened"], counted["http2_streams_opened"]) == (1, 1, 1)


def test_a_request_in_single_bytes_is_the_same_request(world: Http2World) -> None:
    client = Client(world, world.web, frame_bytes=1)
    client.streams[1] = Stream()
    client.h2.send_headers(1, [*BASIC, ("content-length", "3")])
    client.h2.send_data(1, b"abc", end_stream=True)
    client.flush(1)
    peer = world.accept()
    assert world.read_until(peer, lambda data: data.endswith(b"abc")).startswith(b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n")
    peer.send(RESPONSE)
    assert client.wait(1).body == b"ok"


def test_streams_of_one_connection_run_beside_each_other(world: Http2World) -> None:
    client = Client(world, world.web)
    first, second = client.request("/1"), client.request("/2")
    one, two = world.accept(), world.accept()
    heads = {world.request_head(peer).split()[1]: peer for peer in (one, two)}
    heads[b"/2"].send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2")
    assert client.wait(second).body == b"2"
    assert not client.streams[first].ended
    heads[b"/1"].send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1")
    assert client.wait(first).body == b"1"


def test_a_whole_body_without_a_length_gets_one(world: Http2World) -> None:
    client = Client(world, world.web)
    number = client.request("/", "POST", body=b"hello")
    peer = world.accept()
    assert world.read_until(peer, lambda data: data.endswith(b"hello")).count(b"content-length: 5\r\n") == 1
    peer.send(OK)
    assert client.wait(number).fields[":status"] == "200"


def test_a_body_that_comes_later_is_chunked_and_its_trailers_follow(world: Http2World) -> None:
    client = Client(world, world.web)
    number = client.begin([(":method", "POST"), *BASIC[1:]])
    peer = world.accept()
    assert b"Transfer-Encoding: chunked\r\n" in world.request_head(peer)
    client.h2.send_data(number, b"hello")
    client.flush()
    assert world.read_until(peer, lambda data: data.endswith(b"\r\n")) == b"5\r\nhello\r\n"
    client.h2.send_headers(number, [("x-sum", "1"), ("host", "evil")], end_stream=True)
    client.flush()
    assert world.read_until(peer, lambda data: data.endswith(b"\r\n\r\n")) == b"0\r\nx-sum: 1\r\n\r\n"
    peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nGrpc-Status: 0\r\nContent-Length: 9\r\n\r\n")
    stream = client.wait(number)
    assert (stream.body, stream.trailers, stream.ended) == (b"ok", {"grpc-status": "0"}, True)
    assert "transfer-encoding" not in stream.fields


def test_crumbs_of_cookies_are_joined_and_te_stays_on_its_hop(world: Http2World) -> None:
    client = Client(world, world.web)
    number = client.request("/", "GET", ("cookie", "a=1"), ("te", "trailers"), ("cookie", "b=2"))
    peer = world.accept()
    head = world.request_head(peer)
    assert b"cookie: a=1; b=2\r\n" in head
    assert head.count(b"cookie") == 1
    assert b"\r\nte:" not in head
    peer.send(OK)
    client.wait(number)


def test_interim_answers_pass(world: Http2World) -> None:
    client = Client(world, world.web)
    number = client.request()
    peer = world.accept()
    world.request_head(peer)
    peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + RESPONSE)
    stream = client.wait(number)
    assert stream.interim == [[(":status", "103"), ("link", "</x>")]]
    assert stream.body == b"ok"


def test_head_and_statuses_without_a_body_end_with_their_head(world: Http2World) -> None:
    client = Client(world, world.web)
    number = client.request("/", "HEAD")
    peer = world.accept()
    world.request_head(peer)
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
    assert client.wait(number).fields["content-length"] == "100"
    number = client.request()
    world.request_head(peer)
    peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert client.wait(number).fields[":status"] == "204"


# ---------------------------------------------------------------------------------------------------------- what is refused
MALFORMED: dict[str, Fields] = {
    "line feed in a value": [*BASIC, ("x", "a\r\nevil: 1")],
    "zero in a value": [*BASIC, ("x", "a\0b")],
    "space before a value": [*BASIC, ("x", " a")],
    "upper case": [*BASIC, ("X-Upper", "1")],
    "colon in a name": [*BASIC, ("x:y", "1")],
    "empty name": [*BASIC, ("", "1")],
    "connection": [*BASIC, ("connection", "close")],
    "keep-alive": [*BASIC, ("keep-alive", "1")],
    "proxy-connection": [*BASIC, ("proxy-connection", "close")],
    "transfer-encoding": [*BASIC, ("transfer-encoding", "chunked")],
    "upgrade": [*BASIC, ("upgrade", "websocket")],
    "te": [*BASIC, ("te", "gzip")],
    "pseudo-header behind a field": [*BASIC[:3], ("x", "1"), (":path", "/")],
    "unknown pseudo-header": [*BASIC, (":status", "200")],
    "repeated pseudo-header": [*BASIC, (":path", "/2")],
    "no method": BASIC[1:],
    "no scheme": [BASIC[0], *BASIC[2:]],
    "no path": BASIC[:3],
    "empty path": [*BASIC[:3], (":path", "")],
    "path without a slash": [*BASIC[:3], (":path", "x")],
    "absolute path": [*BASIC[:3], (":path", "http://evil/")],
    "path with a request behind it": [*BASIC[:3], (":path", "/ HTTP/1.1\r\nhost: evil\r\n\r\nGET /")],
    "space in the path": [*BASIC[:3], (":path", "/ x")],
    "fragment": [*BASIC[:3], (":path", "/#x")],
    "space in the method": [(":method", "GET /x"), *BASIC[1:]],
    "another scheme": [BASIC[0], (":scheme", "ftp"), *BASIC[2:]],
    "empty authority": [*BASIC[:2], (":authority", ""), BASIC[3]],
    "user in the authority": [*BASIC[:2], (":authority", "u@a"), BASIC[3]],
    "another host": [*BASIC, ("host", "evil")],
    "two hosts": [BASIC[0], BASIC[1], BASIC[3], ("host", "a"), ("host", "a")],
    "no host": [BASIC[0], BASIC[1], BASIC[3]],
    "two lengths": [*BASIC, ("content-length", "0"), ("content-length", "0")],
    "a length that is none": [*BASIC, ("content-length", "+1")],
    "a length without a body": [*BASIC, ("content-length", "1")],
    "connect with a path": [(":method", "CONNECT"), *BASIC[2:]],
    "protocol without connect": [*BASIC, (":protocol", "websocket")],
}


def test_a_malformed_request_is_answered_with_400_and_then_reset(world: Http2World) -> None:
    client = Client(world, world.web)
    for why, fields in MALFORMED.items():
        stream = client.wait(client.submit(fields))
        assert stream.fields.get(":status") == "400", why
        assert stream.reset == ErrorCodes.PROTOCOL_ERROR, why
        assert stream.fields["x-fastlb-reason"].startswith("client:bad_"), why
        assert stream.body.startswith(b"400 "), why
    world.backend.setblocking(False)
    with pytest.raises(BlockingIOError):
        world.backend.accept()  # no backend saw anything
    assert world.counters()["http2_resets_sent"] == len(MALFORMED)


@pytest.mark.parametrize(("length", "body"), [(2, b"abc"), (4, b"abc")], ids=["more than its length", "less than its length"])
def test_a_body_that_differs_from_its_length_is_refused_also_when_the_request_is_under_way(
    world: Http2World, length: int, body: bytes
) -> None:
    client = Client(world, world.web)
    number = client.begin([(":method", "POST"), *BASIC[1:], ("content-length", str(length))])
    peer = world.accept()
    world.request_head(peer)
    client.h2.streams[number]._expected_content_length = None
    frame = DataFrame(number, body, flags=["END_STREAM"])
    client.send(frame.serialize())
    stream = client.wait(number)
    assert stream.fields[":status"] == "400"
    assert stream.reset == ErrorCodes.PROTOCOL_ERROR


def test_trailers_have_to_end_the_stream_and_to_be_fields(world: Http2World) -> None:
    for fields, ends in (([("x", "1")], False), ([(":path", "/")], True), ([("x", "a\nb")], True)):
        client = Client(world, world.web)
        number = client.begin([(":method", "POST"), *BASIC[1:]])
        peer = world.accept()
        world.request_head(peer)
        block = client.h2.encoder.encode(fields)
        client.send(HeadersFrame(number, block, flags=["END_HEADERS", *(["END_STREAM"] if ends else [])]).serialize())
        stream = client.wait(number)
        assert (stream.fields[":status"], stream.reset) == ("400", ErrorCodes.PROTOCOL_ERROR)


def test_a_header_list_beyond_the_limit_is_a_431(world: Http2World) -> None:
    client = Client(world, world.web)
    stream = client.wait(client.submit([*BASIC, *((f"x-{n}", "y" * 1000) for n in range(40))]))
    assert stream.fields[":status"] == "431"
    assert stream.ended


def test_connect_is_a_501(world: Http2World) -> None:
    client = Client(world, world.web)
    assert client.wait(client.submit([(":method", "CONNECT"), (":authority", "a:1")])).fields[":status"] == "501"


def test_a_listener_without_http2_refuses_its_preface(world: Http2World) -> None:
    writer = Writer(9)
    writer.set_reason_header("X-Fastlb-Reason")
    writer.listener("web", http2_streams=0)
    pool = writer.pool()
    writer.backend(pool, world.backend.getsockname()[1])
    writer.add_route(host="", path_prefix="/", pool=pool)
    world.apply_image(writer.image(), world.web)
    client = world.connect(world.web)
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert b"505" in world.read(client)
    assert world.counters()["http2_sessions_opened"] == 0


# ---------------------------------------------------------------------------------------------------------- bodies, windows, ends
def test_a_large_answer_waits_for_windows_and_holds_its_backend_back(world: Http2World) -> None:
    client = Client(world, world.web, window=0)
    number = client.request()
    peer = world.accept()
    world.request_head(peer)
    size = 4 << 20
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
    sent = 0

    def push() -> None:
        nonlocal sent
        while sent < size:
            try:
                sent += peer.send(b"z" * min(65536, size - sent))
            except BlockingIOError:
                return

    for _ in range(200):
        push()
        world.engine.pump()
    assert sent < size  # windows are closed: the backend is not read on
    client.take()
    assert client.streams[number].body == b""
    client.h2.increment_flow_control_window(1 << 30, number)
    client.h2.increment_flow_control_window(1 << 30)
    client.flush()

    def look() -> bool:
        push()
        client.take()
        return client.streams[number].ended

    world.pump_until(look)
    assert client.streams[number].body == b"z" * size


def test_an_upload_stops_at_its_window_while_the_backend_does_not_read(world: Http2World) -> None:
    client = Client(world, world.web)
    size = 8 << 20
    number = client.begin([(":method", "POST"), *BASIC[1:], ("content-length", str(size))])
    peer = world.accept()
    world.request_head(peer)
    sent = 0

    def push() -> None:
        nonlocal sent
        client.take()
        while sent < size and client.h2.local_flow_control_window(number):
            piece = min(client.h2.local_flow_control_window(number), 16384, size - sent)
            client.h2.send_data(number, bytes(piece), end_stream=sent + piece == size)
            sent += piece
        client.flush()

    for _ in range(100):
        push()
        world.engine.pump()
    assert 0 < sent < size
    received = 0

    def look() -> bool:
        nonlocal received
        push()
        try:
            received += len(peer.recv(1 << 18))
        except BlockingIOError:
            pass
        return received == size

    world.pump_until(look)
    peer.send(OK)
    assert client.wait(number).fields[":status"] == "200"


def test_an_answer_before_the_body_is_whole_ends_with_a_reset_without_error(world: Http2World) -> None:
    client = Client(world, world.web)
    number = client.begin([(":method", "POST"), *BASIC[1:]])
    peer = world.accept()
    world.request_head(peer)
    peer.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno")
    stream = client.wait(number)
    client.world.pump_until(lambda: client.take() or stream.reset is not None)
    assert (stream.fields[":status"], stream.body, stream.ended, stream.reset) == ("413", b"no", True, ErrorCodes.NO_ERROR)


def test_a_cut_answer_is_a_reset(world: Http2World) -> None:
    client = Client(world, world.web)
    number = client.request()
    peer = world.accept()
    world.request_head(peer)
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    world.pump_until(lambda: client.take() or client.streams[number].body)
    peer.close()
    stream = client.wait(number)
    assert (stream.ended, stream.reset) == (False, ErrorCodes.INTERNAL_ERROR)


def push_all(peer: socket.socket, size: int) -> Callable[[], bool]:
    """Each call sends as much of `size` bytes as the socket takes; True when all are sent."""
    sent = 0

    def push() -> bool:
        nonlocal sent
        while sent < size:
            try:
                sent += peer.send(b"z" * min(65536, size - sent))
            except BlockingIOError:
                return False
        return True

    return push


def test_an_answer_that_is_cut_while_the_client_does_not_read_is_a_reset_when_it_does(world: Http2World) -> None:
    client = Client(world, world.web, window=1 << 30)
    client.h2.increment_flow_control_window(1 << 30)
    client.flush()
    number = client.request()
    peer = world.accept()
    world.request_head(peer)
    size = 64 << 20
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
    push = push_all(peer, size)
    quiet = 0
    while quiet < 50:  # nothing moves any more: the client's socket is full, and a frame of the answer has been promised for the next batch
        before = world.counters()["backend_bytes_in"]
        push()
        world.engine.pump()
        quiet = quiet + 1 if world.counters()["backend_bytes_in"] == before else 0
    assert world.engine.cut(f"0|127.0.0.1:{world.backend.getsockname()[1]}") == 1
    world.pump_until(lambda: world.counters()["exchanges_closed"] == 1)
    assert client.wait(number).reset == ErrorCodes.INTERNAL_ERROR


def test_the_rest_of_a_body_after_an_early_answer_is_no_fault_of_the_client(world: Http2World) -> None:
    client = Client(world, world.web, window=0)
    number = client.begin([(":method", "POST"), *BASIC[1:], ("content-length", "10")])
    peer = world.accept()
    world.request_head(peer)
    peer.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")
    world.pump_until(lambda: world.counters()["exchanges_closed"] == 1)  # the answer waits for its window
    client.h2.send_data(number, b"0123456789", end_stream=True)
    client.flush()
    world.pump_until(lambda: client.take() or client.streams[number].fields)
    client.h2.increment_flow_control_window(100, number)
    client.flush()
    stream = client.wait(number)
    assert (stream.fields[":status"], stream.body, stream.ended, stream.reset) == ("401", b"no", True, None)


def test_a_client_that_opens_windows_in_small_steps_is_no_flood(world: Http2World) -> None:
    client = Client(world, world.web, window=65535)
    number = client.request()
    peer = world.accept()
    world.request_head(peer)
    size, step = 6 << 20, 2048  # Go's client opens both windows for each 4 KiB
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
    push = push_all(peer, size)
    opened = 0

    def look() -> bool:
        nonlocal opened
        push()
        client.take()
        while not client.streams[number].ended and len(client.streams[number].body) - opened >= step:
            opened += step
            client.h2.increment_flow_control_window(step, number)
            client.h2.increment_flow_control_window(step)
        client.flush()
        return client.streams[number].ended or client.closed

    world.pump_until(look)
    assert (client.goaway, len(client.streams[number].body)) == (None, size)


def test_streams_take_turns_where_the_connection_is_the_bottleneck(world: Http2World) -> None:
    client = Client(world, world.web, window=0)
    numbers = [client.request("/1"), client.request("/2")]
    for _ in numbers:
        peer = world.accept()
        world.request_head(peer)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n" + b"z" * 60000)
    world.pump_until(lambda: world.counters()["exchanges_closed"] == 2)  # both answers wait for their windows
    for number in numbers:
        client.h2.increment_flow_control_window(1 << 20, number)
    client.flush()
    first, second = (client.streams[number] for number in numbers)
    world.pump_until(lambda: client.take() or len(first.body) + len(second.body) == 65535)  # the connection's window
    assert min(len(first.body), len(second.body)) > 16384
    client.h2.increment_flow_control_window(1 << 20)
    client.flush()
    assert [len(client.wait(number).body) for number in numbers] == [60000, 60000]


def test_an_answer_to_a_malformed_head_request_has_no_body(world: Http2World) -> None:
    client = Client(world, world.web)
    number = client.begin([(":method", "HEAD"), *BASIC[1:3], (":path", "nowhere")], end=True)
    stream = client.wait(number)
    assert (stream.fields[":status"], stream.body) == ("400", b"")


def test_a_client_that_resets_its_stream_ends_its_exchange_and_no_other(world: Http2World) -> None:
    client = Client(world, world.web)
    first, second = client.request("/1"), client.request("/2")
    peers = [world.accept(), world.accept()]
    heads = {world.request_head(peer).split()[1]: peer for peer in peers}
    client.h2.reset_stream(first, ErrorCodes.CANCEL)
    client.flush()
    world.pump_until(lambda: world.counters()["exchanges_closed"] == 1)
    assert world.read(heads[b"/1"]) == b""
    heads[b"/2"].send(RESPONSE)
    assert client.wait(second).body == b"ok"
    assert world.counters()["reason.client:reset"] == 1


def test_a_client_that_leaves_ends_all_its_exchanges(world: Http2World) -> None:
    client = Client(world, world.web)
    client.request("/1")
    client.request("/2")
    peers = [world.accept(), world.accept()]
    client.socket.close()
    settle(world)
    for peer in peers:
        world.request_head(peer)
        assert world.read(peer) == b""
    world.pump_until(lambda: world.counters()["http2_sessions_closed"] == 1)
    assert world.engine.connections() == 0


def test_a_refused_backend_is_a_local_answer(world: Http2World) -> None:
    world.backend.close()
    client = Client(world, world.web)
    stream = client.wait(client.request())
    assert (stream.fields[":status"], stream.fields["x-fastlb-reason"], stream.ended) == ("502", "backend:connect_refused", True)


# ---------------------------------------------------------------------------------------------------------- websocket
def test_a_websocket_becomes_an_upgrade_and_its_tunnel_data_frames(world: Http2World) -> None:
    client = Client(world, world.web)
    world.pump_until(lambda: client.take() or client.h2.remote_settings.get(SettingCodes.ENABLE_CONNECT_PROTOCOL))
    number = client.begin([(":method", "CONNECT"), (":protocol", "websocket"), *BASIC[1:], ("sec-websocket-version", "13")])
    peer = world.accept()
    head = world.request_head(peer)
    assert head.startswith(b"GET / HTTP/1.1\r\n")
    assert b"Connection: Upgrade\r\nUpgrade: websocket\r\n" in head
    key = re.search(rb"Sec-WebSocket-Key: (\S+)\r\n", head)
    assert key and len(base64.b64decode(key[1], validate=True)) == 16
    peer.send(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n"
        b"Sec-WebSocket-Protocol: chat\r\n\r\nhello"
    )
    stream = client.streams[number]
    world.pump_until(lambda: client.take() or stream.body == b"hello")
    assert {name: stream.fields[name] for name in stream.fields if name != "date"} == {":status": "200", "sec-websocket-protocol": "chat"}
    client.h2.send_data(number, b"up")
    client.flush()
    assert world.read(peer) == b"up"
    client.h2.send_data(number, b"last", end_stream=True)
    client.flush()
    assert world.read_until(peer, lambda data: data.endswith(b"last")) == b"last"
    assert world.read(peer) == b""
    peer.send(b"bye")
    peer.close()
    assert client.wait(number).body == b"hellobye"
    assert stream.ended
    settle(world)


def test_a_tunnel_that_its_backend_has_half_closed_goes_on_the_other_way(world: Http2World) -> None:
    client = Client(world, world.web)
    number = client.begin([(":method", "CONNECT"), (":protocol", "websocket"), *BASIC[1:]])
    peer = world.accept()
    world.request_head(peer)
    peer.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nbye")
    peer.shutdown(socket.SHUT_WR)
    stream = client.wait(number)
    assert (stream.body, stream.ended, stream.reset) == (b"bye", True, None)
    client.h2.send_data(number, b"late", end_stream=True)
    client.flush()
    assert world.read_until(peer, lambda data: data.endswith(b"late")) == b"late"
    assert world.read(peer) == b""
    settle(world)


def test_a_websocket_with_a_length_is_malformed(world: Http2World) -> None:
    client = Client(world, world.web)
    number = client.begin([(":method", "CONNECT"), (":protocol", "websocket"), *BASIC[1:], ("content-length", "5")])
    assert client.wait(number).fields[":status"] == "400"


def test_a_backend_that_does_not_switch_is_no_tunnel(world: Http2World) -> None:
    client = Client(world, world.web)
    for status, seen in ((b"200 OK", "502"), (b"403 Forbidden", "403")):
        number = client.begin([(":method", "CONNECT"), (":protocol", "websocket"), *BASIC[1:]])
        peer = world.accept()
        world.request_head(peer)
        peer.send(b"HTTP/1.1 %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % status)
        assert client.wait(number).fields[":status"] == seen


# ---------------------------------------------------------------------------------------------------------- drains and time
def test_a_drain_tells_the_client_to_leave_and_loses_no_stream(world: Http2World) -> None:
    client = Client(world, world.web)
    number = client.request()
    peer = world.accept()
    world.request_head(peer)
    world.engine.drain(60_000)
    world.pump_until(lambda: client.take() or client.goaway)
    assert client.goaway and (client.goaway.error_code, client.goaway.last_stream_id) == (ErrorCodes.NO_ERROR, (1 << 31) - 1)
    peer.send(RESPONSE)
    assert client.wait(number).body == b"ok"
    client.wait_for_end()
    assert client.goaway.last_stream_id == number
    client.socket.close()  # until then it is read from, so that no reset eats the GOAWAY
    world.pump_until(lambda: world.engine.connections() == 0)


def test_an_idle_connection_ends_with_goaway(world: Http2World) -> None:
    writer = Writer(9)
    writer.listener("web", idle_timeout_ms=50)
    pool = writer.pool()
    writer.backend(pool, world.backend.getsockname()[1])
    writer.add_route(host="", path_prefix="/", pool=pool)
    world.apply_image(writer.image(), world.web)
    client = Client(world, world.web)
    number = client.request()
    peer = world.accept()
    world.request_head(peer)
    peer.send(OK)
    client.wait(number)
    client.wait_for_end()
    assert client.goaway and client.goaway.error_code == ErrorCodes.NO_ERROR


def test_a_header_block_that_does_not_end_in_time_ends_the_connection(world: Http2World) -> None:
    writer = Writer(9)
    writer.listener("web", head_timeout_ms=50)
    pool = writer.pool()
    writer.backend(pool, world.backend.getsockname()[1])
    writer.add_route(host="", path_prefix="/", pool=pool)
    world.apply_image(writer.image(), world.web)
    client = Client(world, world.web)
    world.pump_until(
        lambda: client.take() or client.h2.remote_settings.max_concurrent_streams == 128
    )  # acknowledged: nothing comes between
    client.send(HeadersFrame(1, client.h2.encoder.encode(BASIC), flags=["END_STREAM"]).serialize())
    client.wait_for_end()
    assert client.goaway and client.goaway.error_code == ErrorCodes.ENHANCE_YOUR_CALM
    assert world.counters()["http2_ended.header_flood"] == 1


@pytest.mark.parametrize("talks", [False, True])
def test_an_answer_whose_window_stays_closed_is_given_up(world: Http2World, talks: bool) -> None:
    writer = Writer(9)
    writer.listener("web", write_timeout_ms=50)
    pool = writer.pool()
    writer.backend(pool, world.backend.getsockname()[1])
    writer.add_route(host="", path_prefix="/", pool=pool)
    world.apply_image(writer.image(), world.web)
    client = Client(world, world.web, window=0)
    number = client.request()
    peer = world.accept()
    world.request_head(peer)
    peer.send(RESPONSE)
    spoke = time.monotonic()

    def look() -> bool:
        nonlocal spoke
        if talks and time.monotonic() - spoke > 0.005:  # whatever the client says buys its answer no time
            spoke = time.monotonic()
            client.h2.ping(b"12345678")
            client.flush()
        client.take()
        return client.streams[number].reset is not None

    world.pump_until(look)
    assert client.streams[number].reset == ErrorCodes.CANCEL
    assert world.counters()["http2_streams_opened"] == world.counters()["http2_streams_closed"]


# ---------------------------------------------------------------------------------------------------------- abuse
def settings_frame() -> Frame:
    return SettingsFrame(0, settings={SettingCodes.HEADER_TABLE_SIZE: 4096})


FLOODS: dict[str, Callable[[], Frame]] = {
    "ping_flood": lambda: PingFrame(0, b"12345678"),
    "settings_flood": settings_frame,
    "priority_flood": lambda: PriorityFrame(1, depends_on=0, stream_weight=1),
    "window_update_flood": lambda: WindowUpdateFrame(0, window_increment=1),
    "empty_data_flood": lambda: DataFrame(1, b""),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_of_frames_ends_the_connection(world: Http2World, flood: str) -> None:
    client = Client(world, world.web)
    client.begin([(":method", "POST"), *BASIC[1:]])
    client.send(FLOODS[flood]().serialize() * 4000)
    client.wait_for_end()
    settle(world)
    assert world.counters()[f"http2_ended.{flood}"] == 1
    assert client.goaway is None or client.goaway.error_code == ErrorCodes.ENHANCE_YOUR_CALM


def test_streams_that_are_reset_at_once_end_the_connection(world: Http2World) -> None:
    client = Client(world, world.web)
    for _ in range(20):
        for _ in range(50):
            number = client.h2.get_next_available_stream_id()
            client.h2.send_headers(number, BASIC, end_stream=True)
            client.h2.reset_stream(number, ErrorCodes.CANCEL)
        client.flush()
        world.engine.pump()
    client.wait_for_end()
    settle(world)
    assert world.counters()["http2_ended.rapid_resets"] == 1


def test_streams_that_the_client_has_us_reset_end_the_connection_too(world: Http2World) -> None:
    client = Client(world, world.web)
    for number in range(1, 1200, 2):
        client.send(
            HeadersFrame(number, client.h2.encoder.encode(BASIC), flags=["END_HEADERS"]).serialize()
            + WindowUpdateFrame(number, window_increment=0x7FFFFFFF).serialize()
        )
        world.engine.pump()
        if world.counters()["http2_ended.rapid_resets"]:
            break
    client.world.pump_until(lambda: world.counters()["http2_sessions_closed"] == 1)
    settle(world)
    assert world.counters()["http2_ended.rapid_resets"] == 1


def test_a_header_list_far_beyond_the_limit_ends_the_connection(world: Http2World) -> None:
    client = Client(world, world.web)
    block = client.h2.encoder.encode([*BASIC, ("x", "y" * 3000)])
    indexed = bytes([0x80 | 62]) * 1000  # the field above, again and again out of the table: 3 MB
    client.send(HeadersFrame(1, block + indexed, flags=["END_HEADERS", "END_STREAM"]).serialize())
    client.wait_for_end()
    assert world.counters()["http2_ended.header_flood"] == 1
    assert client.goaway and client.goaway.error_code == ErrorCodes.ENHANCE_YOUR_CALM


def test_continuations_without_end_end_the_connection(world: Http2World) -> None:
    client = Client(world, world.web)
    client.send(HeadersFrame(1, client.h2.encoder.encode(BASIC)).serialize() + ContinuationFrame(1, b"").serialize() * 100)
    client.wait_for_end()
    counted = world.counters()
    assert counted["http2_ended.header_flood"] + counted["http2_ended.continuation_flood"] == 1


def raw(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


@pytest.mark.parametrize(
    ("frame", "code"),
    {
        "data on an idle stream": (raw(0, 0, 99, b"x"), ErrorCodes.PROTOCOL_ERROR),
        "data on no stream": (raw(0, 0, 0, b"x"), ErrorCodes.PROTOCOL_ERROR),
        "padding longer than its frame": (raw(0, 8, 1, b"\xff"), ErrorCodes.PROTOCOL_ERROR),
        "a stream with a server's number": (raw(1, 4, 2, b"\x82"), ErrorCodes.PROTOCOL_ERROR),
        "a reset of an idle stream": (raw(3, 0, 99, bytes(4)), ErrorCodes.PROTOCOL_ERROR),
        "settings of a stream": (raw(4, 0, 1), ErrorCodes.PROTOCOL_ERROR),
        "settings of an odd size": (raw(4, 0, 0, b"x"), ErrorCodes.FRAME_SIZE_ERROR),
        "an acknowledgement with settings": (raw(4, 1, 0, bytes(6)), ErrorCodes.FRAME_SIZE_ERROR),
        "a push": (raw(5, 4, 1, bytes(4)), ErrorCodes.PROTOCOL_ERROR),
        "a ping of a stream": (raw(6, 0, 3, bytes(8)), ErrorCodes.PROTOCOL_ERROR),
        "a ping of an odd size": (raw(6, 0, 0, bytes(7)), ErrorCodes.FRAME_SIZE_ERROR),
        "a window that grows by nothing": (raw(8, 0, 0, bytes(4)), ErrorCodes.PROTOCOL_ERROR),
        "a window that is too large": (raw(8, 0, 0, b"\x7f\xff\xff\xff"), ErrorCodes.FLOW_CONTROL_ERROR),
        "a continuation of nothing": (raw(9, 4, 1), ErrorCodes.PROTOCOL_ERROR),
        "a header block that is none": (raw(1, 5, 1, b"\xff\xff\xff\xff\xff\xff"), ErrorCodes.COMPRESSION_ERROR),
        "a frame that is too large": (raw(0, 0, 1, bytes(16385)), ErrorCodes.FRAME_SIZE_ERROR),
        "a reset of no stream": (raw(3, 0, 0, bytes(4)), ErrorCodes.PROTOCOL_ERROR),
        "a reset of an odd size": (raw(3, 0, 1, bytes(3)), ErrorCodes.FRAME_SIZE_ERROR),
        "a window of an odd size": (raw(8, 0, 0, bytes(3)), ErrorCodes.FRAME_SIZE_ERROR),
        "a window of an idle stream": (raw(8, 0, 99, b"\0\0\0\1"), ErrorCodes.PROTOCOL_ERROR),
        "a goaway of a stream": (raw(7, 0, 1, bytes(8)), ErrorCodes.PROTOCOL_ERROR),
        "a goaway that is too short": (raw(7, 0, 0, bytes(7)), ErrorCodes.FRAME_SIZE_ERROR),
        "headers of no stream": (raw(1, 5, 0, b"\x82"), ErrorCodes.PROTOCOL_ERROR),
        "headers with padding longer than their frame": (raw(1, 13, 1, b"\xff\x82"), ErrorCodes.PROTOCOL_ERROR),
        "a header block that another frame is within": (raw(1, 1, 1, b"\x82") + raw(6, 0, 0, bytes(8)), ErrorCodes.PROTOCOL_ERROR),
        "a header block that goes on in another stream": (raw(1, 1, 1, b"\x82") + raw(9, 4, 3, b"\x84"), ErrorCodes.PROTOCOL_ERROR),
        "a table that grows beyond what we allow": (raw(1, 5, 1, b"\x3f\xe2\x1f\x82"), ErrorCodes.COMPRESSION_ERROR),
        "a table that changes behind a field": (raw(1, 5, 1, b"\x82\x20\x84"), ErrorCodes.COMPRESSION_ERROR),
        "a field that no table has": (raw(1, 5, 1, b"\xff\x80\x01"), ErrorCodes.COMPRESSION_ERROR),
        "a push that is neither on nor off": (raw(4, 0, 0, b"\0\2\0\0\0\2"), ErrorCodes.PROTOCOL_ERROR),
        "a window for streams that is too large": (raw(4, 0, 0, b"\0\4\x80\0\0\0"), ErrorCodes.FLOW_CONTROL_ERROR),
        "frames that may be too small": (raw(4, 0, 0, b"\0\5\0\0\x3f\xff"), ErrorCodes.PROTOCOL_ERROR),
        "frames that may be too large": (raw(4, 0, 0, b"\0\5\1\0\0\0"), ErrorCodes.PROTOCOL_ERROR),
    }.values(),
)
def test_what_breaks_the_protocol_ends_the_connection(world: Http2World, frame: bytes, code: ErrorCodes) -> None:
    client = Client(world, world.web)
    client.send(frame)
    client.wait_for_end()
    assert client.goaway and client.goaway.error_code == code
    assert world.counters()["http2_ended.protocol_error"] == 1


def test_a_preface_that_is_none_is_closed(world: Http2World) -> None:
    client = world.connect(world.web)
    client.send(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n")
    data = world.read_until(client, lambda data: len(data) > 9)
    world.pump_until(lambda: world.counters()["http2_sessions_closed"] == 1)
    assert data[3] == 4  # SETTINGS


# ---------------------------------------------------------------------------------------------------------- with what else a route does
def test_a_chunked_body_is_mirrored_as_it_was_sent(world: Http2World) -> None:
    shadow = world.listen()
    writer = Writer(9)
    writer.listener()
    main, copies = writer.pool("main"), writer.pool("shadow")
    writer.backend(main, world.backend.getsockname()[1])
    writer.backend(copies, shadow.getsockname()[1])
    writer.set_mirror(writer.add_route(host="", path_prefix="/", pool=main), pool=copies, share=1.0)
    world.apply_image(writer.image(), world.web)
    client = Client(world, world.web)
    number = client.begin([(":method", "POST"), *BASIC[1:]])
    peer = world.accept()
    world.request_head(peer)
    client.h2.send_data(number, b"hello", end_stream=True)
    client.flush()
    assert world.read_until(peer, lambda data: data.endswith(b"0\r\n\r\n")) == b"5\r\nhello\r\n0\r\n\r\n"
    world.backend = shadow
    copy = world.accept()
    assert world.read_until(copy, lambda data: data.endswith(b"0\r\n\r\n")).endswith(b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    for one in (peer, copy):
        one.send(OK)
    assert client.wait(number).fields[":status"] == "200"
    world.pump_until(lambda: world.counters()["mirrors_closed"] == 1)


def test_a_body_is_sent_again_to_another_backend(world: Http2World) -> None:
    client = Client(world, world.web)
    number = client.request("/", "PUT", body=b"hello")
    peer = world.accept()
    assert world.read_until(peer, lambda data: data.endswith(b"hello"))
    peer.send(RESPONSE)
    client.wait(number)
    number = client.request("/", "PUT", body=b"again")
    world.read_until(peer, lambda data: data.endswith(b"again"))
    peer.close()  # before it answers, on a connection that was kept: the same backend is asked again
    second = world.accept()
    assert world.read_until(second, lambda data: data.endswith(b"again")).startswith(b"PUT / HTTP/1.1\r\n")
    second.send(OK)
    assert client.wait(number).fields[":status"] == "200"
    assert world.counters()["replays"] == 1


def test_metrics_count_a_streams_bytes_once(world: Http2World) -> None:
    client = Client(world, world.web)
    number = client.request()
    peer = world.accept()
    world.request_head(peer)
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000)
    client.wait(number)
    counted = world.counters()
    assert 100_000 < counted["client_bytes_out"] < 101_000
    assert counted["client_bytes_in"] < 1000


# ---------------------------------------------------------------------------------------------------------- over TLS
@pytest.mark.parametrize("step", [0, 1], ids=["whole", "single bytes"])
def test_alpn_chooses_http2_and_the_backend_is_told_https(step: int) -> None:
    with TlsWorld(alpn=[b"h2", b"http/1.1"]) as world:
        context = client_context()
        context.set_alpn_protocols(["h2", "http/1.1"])
        client = world.tls_client(context, "a.example")
        client.step = step
        client.shake()
        assert client.ssl.selected_alpn_protocol() == "h2"
        h2 = H2Connection(H2Configuration(header_encoding="latin-1"))
        h2.initiate_connection()
        h2.send_headers(1, [(":method", "GET"), (":scheme", "https"), (":authority", "a.example"), (":path", "/")], end_stream=True)
        client.send(h2.data_to_send())
        world.answer()
        assert b"\r\nX-Forwarded-Proto: https\r\n" in world.request_head
        events: list[Event] = []
        while not any(isinstance(event, StreamEnded) for event in events):
            events += h2.receive_data(client.receive())
        assert [event.data for event in events if isinstance(event, DataReceived)] == [b"ok"]
        assert world.counts("tls_handshakes", "http2_sessions_opened") == (1, 1)
