"""Answers that have no body whatever their fields say: to HEAD, and 204 and 304."""

import pytest

from tests.support.message import request, response


def ask_twice(fastlb, backend, method, reply):
    """The answer to a request of `method`; a second exchange shows that neither side waits for a body."""
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/1", method=method))
    connection, received = backend.answer(reply)
    assert received.method == method
    answer = client.read_response(method)
    client.send(request("/2"))
    assert connection.read_request().target == "/2"
    connection.send(response(b"two"))
    assert client.read_response().body == b"two"
    return answer


def test_head_keeps_the_length_of_the_body_that_get_would_have(fastlb, backend):
    answer = ask_twice(fastlb, backend, "HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 123456\r\n\r\n")
    assert answer.get("Content-Length") == "123456"


def test_head_of_a_chunked_answer_has_no_body(fastlb, backend):
    ask_twice(fastlb, backend, "HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")


def test_head_of_an_answer_without_any_length_has_no_body(fastlb, backend):
    ask_twice(fastlb, backend, "HEAD", b"HTTP/1.1 200 OK\r\n\r\n")


def test_204_has_no_body_and_no_length(fastlb, backend):
    answer = ask_twice(fastlb, backend, "DELETE", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n")
    assert answer.status == 204
    assert not answer.names & {"content-length", "transfer-encoding"}


def test_304_has_no_body_and_keeps_its_length(fastlb, backend):
    answer = ask_twice(fastlb, backend, "GET", b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nContent-Length: 5\r\n\r\n')
    assert (answer.status, answer.get("ETag"), answer.get("Content-Length")) == (304, '"a"', "5")


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_chunked_coding_of_an_answer_without_a_body_means_nothing(fastlb, backend, status):
    answer = ask_twice(fastlb, backend, "GET", f"HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
    assert "transfer-encoding" not in answer.names


def test_local_answers_to_head_have_no_body(fastlb, backend):
    lb = fastlb(pools={"main": {"backends": [backend]}}, routes=[{"path": "/yes", "pool": "main"}])
    client = lb.connect()
    for _ in range(2):
        answer = client.ask(request("/no", method="HEAD"), "HEAD")
        assert (answer.status, answer.reason) == (404, "no_route")
        assert answer.body_length


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_body_that_must_not_be_there_never_becomes_the_next_answer(fastlb, backend, method):
    """A backend that sends a body after all: its connection is not used again."""
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/1", method=method))
    evil = response(b"evil")
    status = "200 OK" if method == "HEAD" else "304 Not Modified"
    first, _ = backend.answer(f"HTTP/1.1 {status}\r\nContent-Length: {len(evil)}\r\n\r\n".encode() + evil)
    assert client.read_response(method).status in (200, 304)
    client.send(request("/2"))
    second, received = backend.answer(response(b"good"))
    assert received.target == "/2"
    assert client.read_response().body == b"good"
    assert first.ending() in ("end", "reset")
