"""Every request and every response, cut in two at every byte: the two pieces arrive in events of their own and mean the same.

That the first piece has been read before the second is sent is known from the counters.
"""

import pytest

from tests.support.message import chunked, request, response

REQUESTS = {
    "get": request("/path?query", "X-One: 1", "X-Two:  two  "),
    "length": request("/", "X-One: 1", method="POST", body=b"hello, world"),
    "chunked": request("/", "Transfer-Encoding: chunked", method="POST") + chunked(b"hello", b", world", trailers="X-Sum: 1\r\n"),
    "http/1.0": request("/", "Connection: keep-alive", version="1.0"),
    "absolute": request("http://test:80/x"),
    "empty lines first": b"\r\n\r\n" + request(),
    "pipelined": request("/1") + request("/2", method="PUT", body=b"two") + request("/3"),
}

RESPONSES = {
    "length": response(b"hello, world", "X-One: 1"),
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"hello", b", world", trailers="X-Sum: 1\r\n"),
    "until close": b"HTTP/1.0 200 OK\r\nX-One: 1\r\n\r\nhello, world",
    "interim": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + response(b"hello, world"),
    "no content": b"HTTP/1.1 204 No Content\r\nX-One: 1\r\n\r\n",
    "no reason": b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n",
    "not even a space": b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
}


def summary(message):
    fields = [(name, value) for name, value in message.fields if name not in ("X-Request-Id", "Date")]
    return message.start, fields, message.body, message.trailers, [head.start for head in message.interim]


@pytest.mark.parametrize("kind", REQUESTS)
def test_request(fastlb, backend, kind):
    data = REQUESTS[kind]
    lb = fastlb([backend])
    whole = None
    for cut in range(len(data)):
        client = lb.connect()
        if cut:
            before = lb.counter("client_bytes_in")
            client.send(data[:cut])
            # A first byte of a body may be read at once or after its connection to the backend stands: its head certainly is.
            lb.wait_for(
                lambda counters, wanted=before + min(cut, data.index(b"\r\n\r\n", 4) + 4): counters["client_bytes_in"] >= wanted,
                "it has been read",
            )
        client.send(data[cut:])
        connection = backend.accept()
        received = []
        for _ in range(3 if kind == "pipelined" else 1):
            received.append(summary(connection.read_request()))
            connection.send(response(b"ok"))
            assert client.read_response().body == b"ok"
        connection.close()
        client.close()
        whole = whole or received
        assert received == whole, cut
        lb.wait_for(lambda _: lb.backends()[0]["idle"] == 0, "that connection is forgotten")


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("kind", RESPONSES)
def test_response(fastlb, backend, kind, version):
    data = RESPONSES[kind]
    lb = fastlb([backend])
    whole = None
    for cut in range(len(data)):
        client = lb.connect()
        client.send(request("/", version=version))
        connection = backend.accept()
        connection.read_request()
        if cut:
            before = lb.counter("backend_bytes_in")
            connection.send(data[:cut])
            lb.wait_for(lambda counters, wanted=before + cut: counters["backend_bytes_in"] >= wanted, "it has been read")
        connection.send(data[cut:])
        connection.close()
        received = summary(client.read_response())
        client.close()
        whole = whole or received
        assert received == whole, cut
        lb.wait_for(lambda _: lb.backends()[0]["idle"] == 0, "that connection is forgotten")


def test_bytes_one_by_one_in_both_directions(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    for kind in ("length", "chunked"):
        client.send_bytewise(REQUESTS[kind])
        connection = backend.peers[0] if backend.peers else backend.accept()
        assert connection.read_request().body == b"hello, world"
        connection.send_bytewise(RESPONSES[kind])
        assert client.read_response().body == b"hello, world"
