"""Pipelining: requests sent without waiting are answered one by one, in order, whatever came in one segment."""

import pytest

from tests.support.message import Message, chunked, request, response

BODY = b"body of the first"
FIRST = {
    "length": request("/first", method="POST", body=BODY),
    "chunked": request("/first", "Transfer-Encoding: chunked", method="POST") + chunked(BODY[:4], BODY[4:]),
    "no body": request("/first"),
}


def echo_target(received: Message) -> bytes:
    return response(received.target.encode())


def test_answers_come_in_the_order_of_the_requests(fastlb, instant):
    lb = fastlb([instant(echo_target)])
    client = lb.connect()
    client.send(b"".join(request(f"/{number}") for number in range(50)))
    assert [client.read_response().body for _ in range(50)] == [b"/%d" % number for number in range(50)]


def test_second_request_waits_until_the_first_is_answered(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/1") + request("/2"))
    connection = backend.accept()
    assert connection.read_request().target == "/1"
    assert connection.is_quiet()
    connection.send(response(b"one"))
    assert client.read_response().body == b"one"
    assert connection.read_request().target == "/2"
    connection.send(response(b"two"))
    assert client.read_response().body == b"two"


@pytest.mark.parametrize("kind", FIRST)
def test_request_behind_a_body_in_the_same_segment_is_the_next_one(fastlb, backend, kind):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(FIRST[kind] + request("/second"))
    connection = backend.accept()
    assert connection.read_request().body == (b"" if kind == "no body" else BODY)
    connection.send(response(b"one"))
    assert client.read_response().body == b"one"
    assert connection.read_request().target == "/second"
    connection.send(response(b"two"))
    assert client.read_response().body == b"two"


@pytest.mark.parametrize("kind", FIRST)
def test_half_of_the_next_request_in_the_same_segment_waits_for_the_rest(fastlb, backend, kind):
    lb = fastlb([backend])
    client = lb.connect()
    second = request("/second", "X-Long: " + "x" * 5000)
    client.send(FIRST[kind] + second[:30])
    connection = backend.accept()
    connection.read_request()
    connection.send(response(b"one"))
    assert client.read_response().body == b"one"
    client.send(second[30:3000], second[3000:])
    assert connection.read_request().target == "/second"
    connection.send(response(b"two"))
    assert client.read_response().body == b"two"


def test_requests_behind_one_that_closes_are_not_served(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/1", "Connection: close") + request("/2"))
    connection = backend.accept()
    assert connection.read_request().target == "/1"
    connection.send(response(b"one"))
    assert client.read_response().body == b"one"
    client.expect_end()
    assert lb.counter("exchanges_opened") == 1


def test_requests_behind_a_refused_one_are_not_served(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(b"GET / HTTP/1.1\r\nHost : x\r\n\r\n" + request("/2"))
    answer = client.read_response()
    assert (answer.status, answer.reason, answer.closes) == (400, "client:bad_header", True)
    client.expect_end()
    assert backend.saw_nothing()


def test_local_answers_keep_their_place_in_the_order(fastlb, instant):
    lb = fastlb(pools={"main": {"backends": [instant(echo_target)]}}, routes=[{"path": "/yes", "pool": "main"}])
    client = lb.connect()
    client.send(request("/yes/1") + request("/no") + request("/yes/2"))
    answers = [client.read_response() for _ in range(3)]
    assert [(answer.status, answer.reason) for answer in answers] == [(200, None), (404, "no_route"), (200, None)]
    assert answers[2].body == b"/yes/2"
    assert not any(answer.closes for answer in answers)


def test_deep_pipeline_is_read_no_faster_than_it_is_answered(fastlb, backend):
    """What a client piles up behind an open exchange stays in the kernel's buffers, not in ours."""
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/first"))
    connection = backend.accept()
    connection.read_request()
    before = lb.counter("client_bytes_in")
    pile = request("/next", "X-Long: " + "x" * 20000) * 40
    client.socket.setblocking(False)
    sent = client.socket.send(pile)
    assert sent > 16384
    lb.control.ask("counters")
    assert lb.counter("client_bytes_in") - before <= 16384


def test_empty_lines_between_requests_are_skipped(fastlb, instant):
    lb = fastlb([instant(echo_target)])
    client = lb.connect()
    client.send(b"\r\n\r\n" + request("/1") + b"\r\n" + request("/2"), b"\r", b"\n", request("/3"))
    assert [client.read_response().body for _ in range(3)] == [b"/1", b"/2", b"/3"]
