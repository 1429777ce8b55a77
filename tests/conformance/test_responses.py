"""A response that is not HTTP/1 as it should be is a 502, and nothing of it leaks into the next exchange."""

import contextlib

import pytest

from tests.support.message import request, response

OK = b"HTTP/1.1 200 OK\r\n"
MALFORMED = {
    "not HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "HTTP/0.9": b"<html>hello</html>\r\n",
    "HTTP/2": b"HTTP/2.0 200 OK\r\n\r\n",
    "lower case": b"http/1.1 200 OK\r\n\r\n",
    "no status": b"HTTP/1.1 \r\n\r\n",
    "status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "status with a sign": b"HTTP/1.1 +20 OK\r\n\r\n",
    "status that begins with 0": b"HTTP/1.1 099 OK\r\n\r\n",
    "two spaces": b"HTTP/1.1  200 OK\r\n\r\n",
    "bare LF in the status line": b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
    "bare LF in a field": OK + b"X: 1\nContent-Length: 0\r\n\r\n",
    "bare LF at the end": OK + b"Content-Length: 0\r\n\n",
    "bare CR in a value": OK + b"X: a\rb\r\nContent-Length: 0\r\n\r\n",
    "bare CR in the reason": b"HTTP/1.1 200 O\rK\r\n\r\n",
    "NUL in a value": OK + b"X: a\0b\r\nContent-Length: 0\r\n\r\n",
    "NUL in a name": OK + b"X\0: a\r\nContent-Length: 0\r\n\r\n",
    "NUL in the reason": b"HTTP/1.1 200 O\0K\r\n\r\n",
    "space before the colon": OK + b"Content-Length : 0\r\n\r\n",
    "no colon": OK + b"Content-Length 0\r\n\r\n",
    "no name": OK + b": 0\r\n\r\n",
    "folded line": OK + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "field that begins with a space": OK + b" X: a\r\nContent-Length: 0\r\n\r\n",
    "length and chunked": OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "the same length twice": OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "list of lengths": OK + b"Content-Length: 5, 5\r\n\r\nhello",
    "length with a plus": OK + b"Content-Length: +5\r\n\r\nhello",
    "length with a minus": OK + b"Content-Length: -5\r\n\r\nhello",
    "length with a space": OK + b"Content-Length: 1 2\r\n\r\nhello",
    "length in hexadecimal": OK + b"Content-Length: 0x5\r\n\r\nhello",
    "no length in the field": OK + b"Content-Length:\r\n\r\nhello",
    "length beyond all sizes": OK + b"Content-Length: 99999999999999999999\r\n\r\nhello",
    "unknown coding": OK + b"Transfer-Encoding: gzip\r\n\r\nhello",
    "coding before chunked": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "coding after chunked": OK + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunked twice": OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "two codings": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "malformed interim response": b"HTTP/1.1 100 Continue\r\nX : 1\r\n\r\n" + response(b"ok"),
    "garbage behind an interim response": b"HTTP/1.1 100 Continue\r\n\r\ngarbage\r\n\r\n",
}

CUT = {
    "nothing at all": b"",
    "half a status line": b"HTTP/1.1 2",
    "half a head": OK + b"Content-Length: 5\r\n",
    "only an interim response": b"HTTP/1.1 100 Continue\r\n\r\n",
}


def ask_twice(stage, reply, *, close=False, bytewise=False):
    """The answer to the first request, whose response is `reply`; the second one must be served as if nothing had been."""
    client = stage.lb.connect()
    client.send(request("/1"))
    first = stage.backend.accept()
    assert first.read_request().target == "/1"
    if bytewise:
        with contextlib.suppress(OSError):  # refused before the end
            first.send_bytewise(reply)
    else:
        first.send(reply)
    if close:
        first.close()
    answer = client.read_response()
    client.send(request("/2"))
    second, received = stage.backend.answer(response(b"good", "Connection: close"))
    assert received.target == "/2"
    good = client.read_response()
    assert (good.status, good.body) == (200, b"good")
    client.close()
    if not close:
        assert first.ending() in ("end", "reset")
        first.close()
    second.close()
    return answer


@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_response_is_a_502(stage, kind, bytewise):
    before = stage.lb.reasons().get("backend:bad_response", 0)
    answer = ask_twice(stage, MALFORMED[kind], bytewise=bytewise)
    assert (answer.status, answer.reason, answer.closes) == (502, "backend:bad_response", False)
    assert stage.lb.reasons() == {**stage.lb.reasons(), "backend:bad_response": before + 1}


@pytest.mark.parametrize("kind", CUT)
def test_response_that_ends_in_its_head_is_a_502(stage, kind):
    answer = ask_twice(stage, CUT[kind], close=True)
    assert (answer.status, answer.reason) == (502, "backend:closed")


@pytest.mark.parametrize(
    "head",
    [OK + b"X: " + b"x" * 70_000, OK + b"X: y\r\n" * 14_000, b"HTTP/1.1 200 " + b"x" * 70_000],
    ids=["one long field", "many fields", "long reason"],
)
def test_response_head_that_is_too_large_is_a_502(stage, head):
    answer = ask_twice(stage, head)
    assert (answer.status, answer.reason) == (502, "backend:head_too_large")


def test_response_head_of_60_kb_and_200_fields_passes(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request())
    backend.answer(response(b"ok", *(f"X-{number}: {'x' * 290}" for number in range(200))))
    answer = client.read_response()
    assert (answer.body, answer.get("X-199")) == (b"ok", "x" * 290)


@pytest.mark.parametrize("extra", [b"x", b"\r\n", response(b"evil"), b"x" * 100_000], ids=["byte", "CRLF", "response", "100 kB"])
@pytest.mark.parametrize("body", [b"", b"hello"])
def test_bytes_behind_a_response_never_become_the_next_one(stage, extra, body):
    answer = ask_twice(stage, response(body) + extra)
    assert (answer.status, answer.body) == (200, body)


def test_bytes_behind_a_chunked_response_never_become_the_next_one(stage):
    answer = ask_twice(stage, OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + response(b"evil"))
    assert (answer.status, answer.body) == (200, b"")


def test_failures_are_counted_for_the_backend(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request())
    backend.answer(b"garbage\r\n\r\n")
    assert client.read_response().reason == "backend:bad_response"
    assert [(row["requests"], row["failures"]) for row in lb.backends()] == [(1, 1)]


def test_response_before_any_request_is_not_taken_for_an_answer(fastlb, backend):
    """A pooled connection on which the backend speaks, and a request, seen in the same moment."""
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/1"))
    first, _ = backend.answer()
    assert client.read_response().status == 200
    lb.freeze()
    first.send(response(b"evil"))
    client.send(request("/2"))
    lb.thaw()
    backend.answer(response(b"good"))
    assert client.read_response().body == b"good"
