"""fastlb/data_plane/http2_frames.pxd: frames that nghttp2 passes over, which RFC 9113 forbids or which come in floods."""

import random
from collections.abc import Iterator

import pytest
from h2.errors import ErrorCodes

from tests.support.http2 import Client, Stream
from tests.support.images import Writer
from tests.unit.data_plane.test_http2 import BASIC, OK, Http2World, raw
from tests.unit.data_plane.test_http2_numbers import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GET,
    HEADERS,
    PING,
    PRIORITY,
    RST_STREAM,
    ends_with,
    finished,
)

POST = [(":method", "POST"), *BASIC[1:]]
WINDOW = 65535
UNKNOWN = 0x20  # no type of frame that anybody has registered


@pytest.fixture
def world() -> Iterator[Http2World]:
    with Http2World() as made:
        yield made
    made.check_balance()


def reset_by_us(world: Http2World) -> tuple[Client, int]:
    """A client whose upload was answered early and its stream reset before it has sent its body. All windows are small."""
    writer = Writer(9)
    writer.listener("web", http2_window_bytes=WINDOW, http2_connection_window_bytes=WINDOW)
    writer.backend(writer.pool(), world.backend.getsockname()[1])
    writer.add_route(host="", path_prefix="/", pool=0)
    world.apply_image(writer.image(), world.web)
    client = Client(world, world.web)
    number = client.begin(POST)
    peer = world.accept()
    world.request_head(peer)
    peer.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    world.pump_until(lambda: client.take() or client.streams[number].reset is not None)
    assert client.streams[number].reset == ErrorCodes.NO_ERROR
    return client, number


def is_served(world: Http2World, client: Client) -> None:
    number = client.request()
    peer = world.accept()
    world.request_head(peer)
    peer.send(OK)
    assert client.wait(number).ended
    assert client.goaway is None


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("data", [b"", b"x"])
def test_data_on_a_stream_that_was_finished_ends_the_connection(world: Http2World, data: bytes, step: int) -> None:
    client, number = finished(world)
    client.send(raw(DATA, 0, number, data), step)
    ends_with(world, client, ErrorCodes.STREAM_CLOSED)


def test_data_on_a_stream_that_its_client_has_reset_ends_the_connection(world: Http2World) -> None:
    client = Client(world, world.web)
    number = client.begin(POST)
    world.request_head(world.accept())
    client.send(raw(RST_STREAM, 0, number, (8).to_bytes(4, "big")) + raw(DATA, 0, number, b"x"))
    ends_with(world, client, ErrorCodes.STREAM_CLOSED)


def test_data_behind_the_end_of_a_request_ends_the_connection(world: Http2World) -> None:
    client = Client(world, world.web)
    number = client.begin(BASIC, end=True)
    world.request_head(world.accept())
    client.send(raw(DATA, 0, number, b"x"))
    ends_with(world, client, ErrorCodes.STREAM_CLOSED)


def test_data_on_a_stream_that_was_left_out_ends_the_connection(world: Http2World) -> None:
    client = Client(world, world.web)
    client.streams[7] = Stream()
    client.send(raw(HEADERS, END_HEADERS | END_STREAM, 7, GET))
    world.request_head(world.accept())
    client.send(raw(DATA, 0, 5, b"x"))
    ends_with(world, client, ErrorCodes.STREAM_CLOSED)


def test_what_came_before_the_frame_that_breaks_the_protocol_is_heard(world: Http2World) -> None:
    client, number = finished(world)
    client.streams[number + 2] = Stream()
    client.send(raw(HEADERS, END_HEADERS | END_STREAM, number + 2, GET) + raw(DATA, 0, number, b"x") + raw(PING, 0, 0, bytes(8)))
    ends_with(world, client, ErrorCodes.STREAM_CLOSED)
    assert client.goaway and client.goaway.last_stream_id == number + 2


@pytest.mark.parametrize("step", [0, 1, 5])
@pytest.mark.parametrize(
    "frame",
    [
        raw(PRIORITY, 0, 3, (3).to_bytes(4, "big") + b"\x10"),
        raw(HEADERS, END_HEADERS | END_STREAM | 0x20, 1, (1).to_bytes(4, "big") + b"\x10" + GET),
    ],
    ids=["priority", "headers"],
)
def test_a_stream_that_depends_on_itself_ends_the_connection(world: Http2World, frame: bytes, step: int) -> None:
    client = Client(world, world.web)
    client.send(frame, step)
    ends_with(world, client, ErrorCodes.PROTOCOL_ERROR)


def test_priorities_of_others_are_passed_over(world: Http2World) -> None:
    client = Client(world, world.web)
    client.send(raw(PRIORITY, 0, 3, (1).to_bytes(4, "big") + b"\x10") * 10)
    is_served(world, client)


# ---------------------------------------------------------------------------------------------------------- under way when we reset
@pytest.mark.parametrize("size", [10, 1000])
def test_a_body_that_was_under_way_when_its_stream_was_reset_is_no_fault(world: Http2World, size: int) -> None:
    """As many frames as its window allows, were they small, too: more than may move nothing."""
    client, number = reset_by_us(world)
    client.send(raw(DATA, 0, number, bytes(size)) * (WINDOW // size))
    is_served(world, client)


def test_more_than_could_have_been_under_way_ends_the_connection(world: Http2World) -> None:
    client, number = reset_by_us(world)
    for _ in range(3 * WINDOW // 10_000):  # the stream's window, and the connection's, which opens again and again
        client.send(raw(DATA, 0, number, bytes(1000)) * 10)
        world.engine.pump()
        world.engine.pump()
    ends_with(world, client, ErrorCodes.STREAM_CLOSED)


@pytest.mark.parametrize("flags", [0, 8])
def test_a_flood_of_empty_data_on_a_stream_that_was_reset_ends_the_connection(world: Http2World, flags: int) -> None:
    client, number = reset_by_us(world)
    if flags:  # padding counts as data, for windows too
        client.send(raw(DATA, flags, number, b"\0") * (2 * WINDOW + 1))
        ends_with(world, client, ErrorCodes.STREAM_CLOSED)
    else:
        client.send(raw(DATA, flags, number) * 4000)
        client.wait_for_end()
        assert world.counters()["http2_ended.other_flood"] == 1
        assert client.goaway is None or client.goaway.error_code == ErrorCodes.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("size", [0, 100])
def test_a_flood_of_unknown_frames_ends_the_connection(world: Http2World, size: int) -> None:
    client = Client(world, world.web)
    client.send(raw(UNKNOWN, 0xFF, 0, bytes(size)) * 100)
    is_served(world, client)
    client.send(raw(UNKNOWN, 0xFF, 1, bytes(size)) * 4000)
    client.wait_for_end()
    assert world.counters()["http2_ended.other_flood"] == 1


@pytest.mark.parametrize("seed", range(3))
def test_frames_are_told_apart_however_they_are_cut(world: Http2World, seed: int) -> None:
    """A conversation of all kinds of frames, in random pieces: what ends the connection is the last one."""
    client = Client(world, world.web)
    cut = random.Random(seed)
    frames = (
        raw(PING, 0, 0, bytes(8))
        + raw(PRIORITY, 0, 99, (1).to_bytes(4, "big") + b"\x10")
        + raw(UNKNOWN, 0, 1, bytes(30))
        + raw(HEADERS, END_HEADERS, 1, b"\x83" + GET[1:])
        + raw(DATA, 8, 1, b"\x03abc\0\0\0")
        + raw(DATA, 0, 1, bytes([0, 0, 1, 0, 0, 0, 0, 0, 1]) * 3)
        + raw(HEADERS, END_HEADERS | END_STREAM, 1, b"\x00\x01x\x01y")
    )
    while frames:
        size = cut.randrange(1, 16)
        client.send(frames[:size])
        world.engine.pump()
        frames = frames[size:]
    peer = world.accept()
    assert b"x: y\r\n" in world.read_until(peer, lambda data: data.endswith(b"\r\n0\r\nx: y\r\n\r\n"))
    peer.send(OK)
    world.pump_until(lambda: client.take() or world.counters()["http2_streams_closed"])
    assert client.goaway is None
    client.send(raw(DATA, 0, 1))
    ends_with(world, client, ErrorCodes.STREAM_CLOSED)
