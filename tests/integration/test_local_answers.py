"""Answers that fastlb makes itself: status, reason id in a header and in the counters, a sentence, and a connection
that lives on where it can."""

import pytest

from tests.support.configuration import configuration
from tests.support.message import request

BAD = b"GET / HTTP/1.1\r\nHost : x\r\n\r\n"


def test_answer_says_what_happened_in_a_header_and_in_words(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    answer = client.ask(BAD)
    assert answer.start == "HTTP/1.1 400 Bad Request"
    assert answer.get("X-Fastlb-Reason") == "client:bad_header"
    assert answer.get("Content-Type") == "text/plain; charset=utf-8"
    assert (answer.get("Date") or "").endswith(" GMT")
    first, sentence, rest = answer.body.decode().split("\n")
    assert (first, rest) == ("400 Bad Request", "")
    assert sentence.endswith(".")
    assert lb.reasons() == {"client:bad_header": 1}
    assert lb.counter("responses_4xx") == 1


def test_header_can_be_renamed_and_turned_off(fastlb, backend):
    lb = fastlb([backend], settings={"reason_header": "X-Why"})
    answer = lb.connect().ask(BAD)
    assert (answer.reason, answer.get("X-Why")) == (None, "client:bad_header")
    lb.apply_ok(configuration([backend], settings={"reason_header": ""}))
    answer = lb.connect().ask(BAD)
    assert not {"x-why", "x-fastlb-reason"} & answer.names
    assert b"client:bad_header" not in answer.head + answer.body
    assert lb.reasons() == {"client:bad_header": 2}


def test_answers_of_backends_carry_no_reason_of_ours(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request())
    backend.answer(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
    answer = client.read_response()
    assert (answer.status, answer.reason) == (502, None)
    assert lb.reasons() == {}
    assert lb.counter("responses_5xx") == 1


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_failure_of_ours_keeps_the_connection_where_the_client_wants_it(fastlb, instant, version):
    lb = fastlb(pools={"main": {"backends": [instant()]}}, routes=[{"path": "/yes", "pool": "main"}])
    client = lb.connect()
    fields = ["Connection: keep-alive"] if version == "1.0" else []
    for _ in range(2):
        answer = client.ask(request("/no", *fields, version=version))
        assert (answer.status, answer.closes) == (404, False)
        assert answer.get("Connection") == ("keep-alive" if version == "1.0" else None)
    assert client.ask(request("/yes", *fields, version=version)).status == 200
    answer = client.ask(request("/no", "Connection: close", version=version))
    assert answer.closes
    client.expect_end()


@pytest.mark.parametrize("behind", [b"", b"some of the body", b"x" * 100_000])
def test_failure_of_ours_before_the_body_was_read_closes_without_losing_the_answer(fastlb, instant, behind):
    """What the client still sends is read and dropped for a while, so that no reset overtakes the answer."""
    lb = fastlb(pools={"main": {"backends": [instant()]}}, routes=[{"path": "/yes", "pool": "main"}])
    client = lb.connect()
    client.send(request("/no", "Content-Length: 200000", method="POST") + behind)
    answer = client.read_response()
    assert (answer.status, answer.reason, answer.closes) == (404, "no_route", True)
    client.send(b"x" * 50_000)
    client.expect_end()


def test_client_that_never_stops_sending_is_cut_off_in_the_end(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(BAD)
    with pytest.raises(OSError):
        while True:
            client.send(b"x" * 65536)
    assert lb.wait_for(lambda counters: counters["clients_closed"] == 1, "it is gone")["client_bytes_in"] < 4 << 20
