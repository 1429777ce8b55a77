"""Trailers: passed on behind a chunked body, in both directions, but for fields that decide framing, routing or trust."""

from tests.support.message import chunked, request, response

CHUNKED = b"HTTP/1.1 200 OK\r\nTrailer: X-Checksum\r\nTransfer-Encoding: chunked\r\n\r\n"
FORBIDDEN = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\nHost: evil\r\nX-Forwarded-For: 1.2.3.4\r\nConnection: close\r\n"


def titled(fields):
    """Names that have come through HTTP/2 are in lower case."""
    return [(name.title(), value) for name, value in fields]


def test_trailers_of_a_response_reach_the_client(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request())
    backend.answer(CHUNKED + chunked(b"hello", trailers="X-Checksum: abc\r\nX-Other: 1\r\n"))
    answer = client.read_response()
    assert answer.body == b"hello"
    assert answer.trailers == [("X-Checksum", "abc"), ("X-Other", "1")]
    assert answer.get("Trailer") == "X-Checksum"


def test_trailers_of_a_request_reach_the_backend(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/", "Transfer-Encoding: chunked", method="POST") + chunked(b"hello", trailers="X-Checksum: abc\r\n"))
    _, received = backend.answer()
    assert (received.body, titled(received.trailers)) == (b"hello", [("X-Checksum", "abc")])
    assert client.read_response().status == 200


def test_trailers_that_would_decide_framing_or_trust_are_dropped(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/", "Transfer-Encoding: chunked", method="POST") + chunked(b"x", trailers=FORBIDDEN + "X-Fine: 1\r\n"))
    connection = backend.accept()
    assert titled(connection.read_request().trailers) == [("X-Fine", "1")]
    connection.send(CHUNKED + chunked(b"x", trailers=FORBIDDEN + "X-Fine: 2\r\n"))
    assert client.read_response().trailers == [("X-Fine", "2")]


def test_trailers_in_pieces_are_whole_at_the_end(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request())
    connection = backend.accept()
    connection.read_request()
    connection.send_bytewise(CHUNKED + chunked(b"hello", trailers="X-Checksum: abc\r\nX-Other: 1\r\n"))
    assert client.read_response().trailers == [("X-Checksum", "abc"), ("X-Other", "1")]
    client.send(request("/next"))
    assert connection.read_request().target == "/next"
    connection.send(response())
    assert client.read_response().status == 200


def test_client_of_http_1_0_gets_the_body_without_trailers(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/", version="1.0"))
    backend.answer(CHUNKED + chunked(b"hello", trailers="X-Checksum: abc\r\n"))
    assert client.read_response().body == b"hello"
