"""fastlb/control_plane/health/http2_reply.py: h2 is the oracle of what a server says; frames that break the rules are made by hand."""

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, PingAckReceived, RequestReceived, SettingsAcknowledged, StreamEnded
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import given
from hypothesis import strategies as st

from fastlb.control_plane.health.http2_reply import MAX_BYTES, Fields, Reply, ReplyError, make_request

REQUEST = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/x"), (b"te", b"trailers")]
HEAD = [(":status", "200"), ("x", "y" * 50)]
TRAILERS = [("grpc-status", "0")]


def block(*fields: tuple[str, str]) -> bytes:
    return bytes(Encoder().encode(list(fields)))


def joined(*frames: Frame | bytes) -> bytes:
    return b"".join(frame if isinstance(frame, bytes) else frame.serialize() for frame in frames)


def read(*frames: Frame | bytes) -> Reply:
    reply = Reply(100)
    reply.take(joined(SettingsFrame(0), *frames))
    return reply


def error(*frames: Frame | bytes) -> str:
    with pytest.raises(ReplyError) as caught:
        read(*frames)
    return str(caught.value)


def head(*flags: str, fields: list[tuple[str, str]] = HEAD, stream: int = 1) -> HeadersFrame:
    return HeadersFrame(stream, block(*fields), flags=flags)


# ---------------------------------------------------------------------------------------------------------- good ones
def server() -> tuple[H2Connection, Fields, bytes]:
    """One that has been asked, with what it understood."""
    h2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))
    h2.initiate_connection()
    fields, body, ended = [], b"", False
    for event in h2.receive_data(make_request(REQUEST, b"hello")):
        if isinstance(event, RequestReceived):
            fields = [(bytes(name), bytes(value)) for name, value in event.headers]
        elif isinstance(event, DataReceived):
            body += event.data
        ended = ended or isinstance(event, StreamEnded)
    assert ended
    return h2, fields, body


def answered() -> bytes:
    h2, _, _ = server()
    h2.send_headers(1, [(":status", "103"), ("link", "</x>")])
    h2.send_headers(1, HEAD)
    h2.send_data(1, b"wor")
    h2.send_data(1, b"ld", pad_length=7)
    h2.ping(b"12345678")
    h2.send_headers(1, TRAILERS, end_stream=True)
    return h2.data_to_send()


def test_a_server_understands_the_request() -> None:
    h2, fields, body = server()
    assert (fields, body) == (REQUEST, b"hello")
    assert (h2.remote_settings.enable_push, h2.remote_settings.max_header_list_size) == (0, MAX_BYTES)


def test_an_answer_is_read_however_it_arrives() -> None:
    data = answered()
    for cut in range(len(data)):
        reply = Reply(100)
        reply.take(data[:cut])
        assert not reply.has_ended
        reply.take(data[cut:])
        assert reply.has_ended
        assert reply.fields == [(name.encode(), value.encode()) for name, value in HEAD]
        assert (bytes(reply.body), reply.trailers) == (b"world", [(b"grpc-status", b"0")])


def test_what_is_sent_back_acknowledges_settings_and_pings() -> None:
    h2, _, _ = server()
    h2.ping(b"12345678")
    reply = Reply(100)
    reply.take(h2.data_to_send())
    acknowledged = h2.receive_data(reply.to_send)
    assert [type(event) for event in acknowledged] == [SettingsAcknowledged, PingAckReceived]


def test_a_head_alone_or_a_body_ends_an_answer_too() -> None:
    assert read(head("END_HEADERS", "END_STREAM")).has_ended
    reply = read(head("END_HEADERS"), DataFrame(1, b"x", flags=["END_STREAM"]))
    assert (reply.has_ended, bytes(reply.body), reply.trailers) == (True, b"x", [])


def test_a_block_may_go_on_in_other_frames_and_begin_with_priority_and_padding() -> None:
    whole = block(*HEAD)
    first = HeadersFrame(1, whole[:3], pad_length=5, flags=["PADDED", "PRIORITY", "END_STREAM"])
    reply = read(first, ContinuationFrame(1, whole[3:5]), ContinuationFrame(1, whole[5:], flags=["END_HEADERS"]))
    assert reply.has_ended and len(reply.fields) == 2


def test_frames_that_mean_nothing_here_are_passed_over() -> None:
    unknown = b"\0\0\1\x63\0\0\0\0\x07?"
    assert read(unknown, PriorityFrame(1), WindowUpdateFrame(0, window_increment=1), head("END_HEADERS", "END_STREAM")).has_ended


def test_what_comes_behind_the_end_is_not_read() -> None:
    assert read(head("END_HEADERS", "END_STREAM"), b"\xff" * 50).has_ended


# ---------------------------------------------------------------------------------------------------------- bad ones
@pytest.mark.parametrize(
    ("frames", "text"),
    [
        ([RstStreamFrame(1, error_code=7)], "reset the call: REFUSED_STREAM"),
        ([RstStreamFrame(1, error_code=99)], "reset the call: error 99"),
        ([GoAwayFrame(0, error_code=11)], "goes away: ENHANCE_YOUR_CALM"),
        ([PushPromiseFrame(1, 2, block(*HEAD), flags=["END_HEADERS"])], "no HTTP/2: it pushes, which it was told not to do"),
        ([head("END_HEADERS", stream=3)], "no HTTP/2: a frame is on no stream of ours"),
        ([b"\0\0\0\4\0\0\0\0\1"], "no HTTP/2: a frame belongs to no stream"),
        ([b"\0\0\5\4\0\0\0\0\0hello"], "no HTTP/2: its settings have a wrong size"),
        ([b"\0\0\7\6\0\0\0\0\0seven77"], "no HTTP/2: a ping has a wrong size"),
        ([b"\0\x40\1\0\0\0\0\0\1"], "no HTTP/2: a frame is too long"),
        ([DataFrame(1, b"x")], "no HTTP/2: a body is where none can be"),
        ([head("END_HEADERS"), head("END_HEADERS", fields=TRAILERS)], "no HTTP/2: its trailers are none"),
        ([head("END_HEADERS"), head("END_HEADERS", "END_STREAM")], "no HTTP/2: its trailers are none"),
        ([head("END_HEADERS", fields=TRAILERS)], "no HTTP/2: its answer has no status"),
        ([head("END_HEADERS", fields=[(":status", "2000")])], "no HTTP/2: its answer has no status"),
        ([head("END_HEADERS", fields=[("x", "1"), (":status", "200")])], "no HTTP/2: its answer has no status"),
        ([head("END_HEADERS", fields=[*HEAD[:1], (":path", "/")])], "no HTTP/2: its answer has no status"),
        ([head(), PingFrame(0, b"12345678")], "no HTTP/2: a header block is cut"),
        ([ContinuationFrame(1, b"")], "no HTTP/2: a header block is cut"),
        ([b"\0\0\2\0\x08\0\0\0\1\2x"], "no HTTP/2: a body is where none can be"),
        ([head("END_HEADERS"), b"\0\0\2\0\x08\0\0\0\1\2x"], "no HTTP/2: a frame is all padding"),
        ([HeadersFrame(1, b"\xff\xff\xff\xff\xff", flags=["END_HEADERS"])], "no HTTP/2: .+"),
        ([head("END_HEADERS"), DataFrame(1, bytes(101))], "its answer is too long"),
        ([head("END_HEADERS", "END_STREAM", fields=[(":status", "103")])], "no HTTP/2: it ends with an interim answer"),
        ([head("END_HEADERS", fields=[(":status", "100")])] * 9, "more than 8 interim answers"),
        ([PingFrame(0, b"12345678")] * 1000, "more than 16 KiB instead of an answer"),
    ],
)
def test_what_breaks_the_rules_is_no_answer(frames: list[Frame | bytes], text: str) -> None:
    if text.endswith(".+"):
        assert error(*frames).startswith(text[:-2])
    else:
        assert error(*frames) == text


def test_it_begins_with_settings() -> None:
    for data in (PingFrame(0, b"12345678"), SettingsFrame(0, flags=["ACK"]), head("END_HEADERS")):
        with pytest.raises(ReplyError, match="it does not begin with its settings"):
            Reply(100).take(data.serialize())


def test_a_header_bomb_is_refused() -> None:
    # One field of 4000 bytes in the table of the other side, and then many that name it.
    bomb = Encoder()
    entry = bytes(bomb.encode([(":status", "200"), ("x", "y" * 4000)]))
    assert error(HeadersFrame(1, entry + b"\xbe" * 1000, flags=["END_HEADERS"])).startswith("no HTTP/2: ")


@given(
    st.lists(st.tuples(st.integers(0, 10), st.integers(0, 255), st.sampled_from([0, 1, 1, 1, 2]), st.binary(max_size=40)), max_size=8),
    st.binary(max_size=20),
)
def test_whatever_arrives_it_is_an_answer_or_an_error(frames: list[tuple[int, int, int, bytes]], rest: bytes) -> None:
    data = joined(*(len(body).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + body for kind, flags, stream, body in frames), rest)
    try:
        reply = read(data)
    except ReplyError as raised:
        assert str(raised).isprintable()
    else:
        assert not reply.has_ended or reply.fields
