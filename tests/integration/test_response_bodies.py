"""Response bodies: Content-Length and chunked, streamed to the client as they come."""

import hashlib
import os

import pytest

from tests.support.message import Message, chunked, request, response

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_body_with_a_length_keeps_its_length(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request())
    backend.answer(response(b"hello"))
    answer = client.read_response()
    assert (answer.body, answer.get("Content-Length")) == (b"hello", "5")


def test_chunked_body_stays_chunked(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request())
    connection, _ = backend.answer(CHUNKED + chunked(b"hello, ", b"world"))
    answer = client.read_response()
    assert answer.chunked
    assert answer.body == b"hello, world"
    client.send(request("/next"))
    assert connection.read_request().target == "/next"  # the connection is good for another
    connection.send(response())
    assert client.read_response().status == 200


def test_chunk_extensions_and_odd_sizes_are_not_passed_on(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request())
    backend.answer(CHUNKED + b'0005;name=value;q="a;\\"b"\r\nhello\r\n000A\r\n0123456789\r\n00;x\r\n\r\n')
    assert client.read_response().body == b"hello0123456789"


def test_empty_bodies_end_at_once(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request())
    connection, _ = backend.answer(response(b""))
    assert client.read_response().get("Content-Length") == "0"
    client.send(request())
    connection.read_request()
    connection.send(CHUNKED + chunked())
    assert client.read_response().body == b""


@pytest.mark.parametrize("coding", ["length", "chunked"])
def test_body_is_streamed_and_not_gathered(fastlb, backend, coding):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request())
    connection = backend.accept()
    connection.read_request()
    connection.send(CHUNKED if coding == "chunked" else b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
    client.read_head()
    for part in (b"one", b"two", b"six"):
        connection.send(part if coding == "length" else b"3\r\n%s\r\n" % part)
        assert client.read_exactly(3 if coding == "length" else 8) == (part if coding == "length" else b"3\r\n%s\r\n" % part)
    if coding == "chunked":
        connection.send(b"0\r\n\r\n")
        assert client.read_exactly(5) == b"0\r\n\r\n"
    assert lb.wait_for_exchange_end()["exchanges_closed"] == 1


def test_backend_is_free_once_its_answer_is_whole_however_slowly_the_client_reads(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect(small_buffers=True)
    client.send(request())
    backend.answer(response(b"x" * 60000))
    lb.wait_for(lambda _: lb.backends()[0]["in_flight"] == 0, "the backend is free")
    assert client.read_response().body == b"x" * 60000


SIZES = [1, 16000, 16383, 16384, 16385, 65536, 131071, 131072, 262144, 1_000_003, 8_000_000]


def test_bodies_of_all_sizes_arrive_unchanged(fastlb, instant):
    bodies = {size: os.urandom(size) for size in SIZES}

    def answer(received: Message) -> bytes:
        body = bodies[int(received.target.split("/")[2])]
        if received.target.startswith("/chunked"):
            return CHUNKED + chunked(*(body[at : at + 70001] for at in range(0, len(body), 70001)))
        return response(body)

    lb = fastlb([instant(answer)])
    client = lb.connect()
    for size, body in bodies.items():
        for kind in ("length", "chunked"):
            client.send(request(f"/{kind}/{size}"))
            received = client.read_response().body
            assert hashlib.sha256(received).digest() == hashlib.sha256(body).digest(), (kind, size, len(received))
    assert lb.counter("backend_connections_opened") == 1


def test_client_that_resets_in_an_answer_ends_the_attempt(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request())
    connection = backend.accept()
    connection.read_request()
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
    client.read_until(b"half")
    client.reset()
    assert connection.ending() in ("end", "reset")
    lb.wait_for_counter("reason.client:reset")
