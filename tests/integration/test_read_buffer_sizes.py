"""Messages whose bytes fill a read exactly: after such a read no second event comes, so nothing may be forgotten."""

import os

import pytest

from tests.support.message import chunked, request, response

FIRST_READ, READ = 16384, 65536
LARGEST = 262144 - 4096  # what one read takes at most, see relay.pyx
SIZES = [FIRST_READ, READ, LARGEST, 262144]
AROUND = [size + extra for size in SIZES for extra in (-1, 0, 1)]


def padded(size, make):
    """`make(filler)` of exactly this size, as one of its header values grows."""
    empty = len(make(""))
    return make("x" * (size - empty))


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_request_head_of_the_size_of_the_first_read(fastlb, backend, extra):
    lb = fastlb([backend])
    data = padded(FIRST_READ + extra, lambda filler: request("/", f"X-Fill: {filler}"))
    client = lb.connect()
    lb.freeze()
    client.send(data)
    lb.thaw()
    backend.answer()
    assert client.read_response().status == 200


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_two_requests_the_first_of_which_fills_the_read(fastlb, backend, extra):
    lb = fastlb([backend])
    data = padded(FIRST_READ + extra, lambda filler: request("/1", f"X-Fill: {filler}"))
    client = lb.connect()
    lb.freeze()
    client.send(data + request("/2"))
    lb.thaw()
    connection = backend.accept()
    for target in ("/1", "/2"):
        assert connection.read_request().target == target
        connection.send(response())
        assert client.read_response().status == 200


@pytest.mark.parametrize("end", [False, True], ids=["", "and the end"])
@pytest.mark.parametrize("size", AROUND)
@pytest.mark.parametrize("coding", ["length", "chunked"])
def test_request_of_this_size(fastlb, backend, coding, size, end):
    lb = fastlb([backend])
    body = os.urandom(size - 200)
    if coding == "length":
        data = padded(size, lambda filler: request("/", f"X-Fill: {filler}", method="POST", body=body))
    else:
        data = padded(size, lambda filler: request("/", f"X-Fill: {filler}", "Transfer-Encoding: chunked", method="POST") + chunked(body))
    assert len(data) == size
    client = lb.connect()
    lb.freeze()
    client.send(data)
    if end:
        client.half_close()
    lb.thaw()
    connection = backend.accept()
    assert connection.read_request().body == body
    connection.send(response(b"ok"))
    assert client.read_response().body == b"ok"
    if end:
        client.expect_end()
    else:
        client.send(request("/next"))
        assert connection.read_request().target == "/next"
        connection.send(response(b"next"))
        assert client.read_response().body == b"next"


@pytest.mark.parametrize("size", AROUND)
@pytest.mark.parametrize(
    ("framing", "end"), [("length", False), ("length", True), ("chunked", False), ("chunked", True), ("until close", True)]
)
def test_response_of_this_size(fastlb, backend, framing, size, end):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/1"))
    connection = backend.accept()
    connection.read_request()
    body = os.urandom(size - 200)
    head = "HTTP/1.1 200 OK\r\nX-Fill: %s\r\n"
    data = {
        "length": lambda: padded(size, lambda filler: response(body, f"X-Fill: {filler}")),
        "chunked": lambda: padded(size, lambda filler: (head % filler).encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body)),
        "until close": lambda: padded(size, lambda filler: (head % filler).encode() + b"\r\n" + body),
    }[framing]()
    assert len(data) == size
    lb.freeze()
    connection.send(data)
    if end:
        connection.half_close()
    lb.thaw()
    assert client.read_response().body == body
    client.send(request("/2"))
    following = connection if not end else backend.accept()
    assert following.read_request().target == "/2"
    following.send(response(b"next"))
    assert client.read_response().body == b"next"


@pytest.mark.parametrize("size", AROUND)
def test_tunnel_bytes_of_this_size(fastlb, backend, size):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/", "Connection: Upgrade", "Upgrade: proto"))
    connection, _ = backend.answer(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: proto\r\n\r\n")
    client.read_response()
    data = os.urandom(size)
    for sender, receiver in ((client, connection), (connection, client)):
        lb.freeze()
        sender.send(data)
        lb.thaw()
        assert receiver.read_exactly(size) == data


@pytest.mark.parametrize("bytes_behind", [0, 1])
def test_pooled_connection_whose_answer_filled_the_read_is_clean(fastlb, backend, bytes_behind):
    """The answer fills the first read exactly; what may lie behind it is looked at before the connection is used again."""
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/1"))
    connection = backend.accept()
    connection.read_request()
    data = padded(FIRST_READ, lambda filler: response(b"one", f"X-Fill: {filler}"))
    lb.freeze()
    connection.send(data + b"x" * bytes_behind)
    lb.thaw()
    assert client.read_response().body == b"one"
    client.send(request("/2"))
    following = backend.accept() if bytes_behind else connection
    assert following.read_request().target == "/2"
    following.send(response(b"two"))
    assert client.read_response().body == b"two"
