"""Numbers of streams that must not come again, and the last GOAWAY: what nghttp2 does not mind, and RFC 9113 does."""

import select
from collections.abc import Iterator

import pytest
from h2.errors import ErrorCodes

from tests.support.http2 import Client, Stream
from tests.support.waiting import DEADLINE_SECONDS
from tests.unit.data_plane.test_http2 import BASIC, Http2World, raw

RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"\x82\x86\x84\x41\x01a"  # :method GET, :scheme http, :path /, :authority a; without Huffman, and indexed in no table that matters
HEADERS, DATA, PRIORITY, RST_STREAM, PING = 1, 0, 2, 3, 6
END_STREAM, END_HEADERS = 1, 4


@pytest.fixture
def world() -> Iterator[Http2World]:
    with Http2World() as made:
        yield made
    made.check_balance()


def finished(world: Http2World) -> tuple[Client, int]:
    """A client whose first stream has ended, and the number of that."""
    client = Client(world, world.web)
    number = client.request()
    peer = world.accept()
    world.request_head(peer)
    peer.send(RESPONSE)
    assert client.wait(number).ended
    return client, number


def ends_with(world: Http2World, client: Client, code: ErrorCodes) -> None:
    client.wait_for_end()
    assert client.goaway and client.goaway.error_code == code
    assert world.counters()["http2_ended.protocol_error"] == 1


def test_headers_on_a_stream_that_was_finished_end_the_connection(world: Http2World) -> None:
    client, number = finished(world)
    client.send(raw(HEADERS, END_HEADERS | END_STREAM, number, GET))
    ends_with(world, client, ErrorCodes.STREAM_CLOSED)


def test_headers_on_a_stream_that_its_client_has_reset_end_the_connection(world: Http2World) -> None:
    client = Client(world, world.web)
    number = client.begin(BASIC)
    world.request_head(world.accept())
    client.send(raw(RST_STREAM, 0, number, (8).to_bytes(4, "big")) + raw(HEADERS, END_HEADERS | END_STREAM, number, GET))
    ends_with(world, client, ErrorCodes.STREAM_CLOSED)


def test_a_number_that_was_left_out_is_not_used_later(world: Http2World) -> None:
    client = Client(world, world.web)
    client.streams[7] = Stream()
    client.send(raw(HEADERS, END_HEADERS | END_STREAM, 7, GET))
    world.request_head(world.accept())
    client.send(raw(HEADERS, END_HEADERS | END_STREAM, 5, GET))
    ends_with(world, client, ErrorCodes.PROTOCOL_ERROR)


def test_a_priority_of_no_stream_ends_the_connection(world: Http2World) -> None:
    client = Client(world, world.web)
    client.send(raw(PRIORITY, 0, 0, bytes(5)))
    ends_with(world, client, ErrorCodes.PROTOCOL_ERROR)


def test_what_crosses_a_reset_of_ours_is_no_fault(world: Http2World) -> None:
    """An early answer ends the stream from our side; the client has not ended its own, and may not know yet."""
    client = Client(world, world.web)
    number = client.begin([(":method", "POST"), *BASIC[1:], ("content-length", "100")])
    peer = world.accept()
    world.request_head(peer)
    peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    client.wait(number)
    client.send(raw(DATA, END_STREAM, number, b"x" * 100) + raw(PING, 0, 0, bytes(8)))
    world.pump_until(lambda: world.counters()["exchanges_opened"] == world.counters()["exchanges_closed"])
    following = client.begin(BASIC, end=True)
    again = world.accept()
    world.request_head(again)
    again.send(RESPONSE)
    assert client.wait(following).body == b"ok"


def test_numbers_far_behind_are_passed_over(world: Http2World) -> None:
    """What is remembered is bounded: 64 numbers."""
    client, number = finished(world)
    client.streams[1001] = Stream()
    client.send(raw(HEADERS, END_HEADERS | END_STREAM, 1001, GET))
    client.send(raw(HEADERS, END_HEADERS | END_STREAM, number, GET) + raw(DATA, 0, number, b"x"))
    world.pump_until(lambda: world.counters()["exchanges_opened"] == 2)
    assert client.goaway is None


def test_a_stream_behind_the_last_goaway_is_refused_also_before_that_has_gone(world: Http2World) -> None:
    """The second before the last stream's number is said is over, and the client opens one more in the same moment: it is either served and
    within that number, or refused, so that it can be sent elsewhere."""
    client = Client(world, world.web)
    number = client.request()
    peer = world.accept()
    world.request_head(peer)
    world.engine.drain(60_000)
    world.pump_until(lambda: client.take() or client.goaway)
    wake = select.poll()
    wake.register(world.engine.fileno(), select.POLLIN)
    world.pump_until(lambda: not wake.poll(0))  # nothing is left to do but to wait for that second
    late = client.begin(BASIC, end=True, flush=False)
    assert wake.poll(DEADLINE_SECONDS * 1000)
    client.flush()
    stream = client.streams[late]

    def look() -> bool:
        client.take()
        return stream.reset is not None or world.counters()["http2_streams_opened"] == 2

    world.pump_until(look)
    peer.send(RESPONSE)
    assert client.wait(number).body == b"ok"
    if stream.reset is None:
        second = world.accept() if world.counters()["backend_connections_opened"] == 2 else peer
        world.request_head(second)
        second.send(RESPONSE)
        client.wait(late)
    client.wait_for_end()
    assert client.goaway
    served = stream.reset is None
    assert served == (client.goaway.last_stream_id >= late)
    if not served:
        assert stream.reset == ErrorCodes.REFUSED_STREAM
