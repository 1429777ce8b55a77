"""Fields that concern one hop only are removed, whoever named them; everything else passes as it came."""

import pytest

from tests.support.message import request, response

HOP = ["Keep-Alive: timeout=5", "Proxy-Connection: keep-alive", "TE: trailers", "Upgrade: websocket"]
HOP_NAMES = {"keep-alive", "proxy-connection", "te", "upgrade", "connection", "transfer-encoding"}


def test_hop_by_hop_fields_of_a_request_stay_here(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/", *HOP, "X-End: 1"))
    _, received = backend.answer()
    assert not received.names & HOP_NAMES
    assert received.get("X-End") == "1"
    assert client.read_response().status == 200


def test_hop_by_hop_fields_of_a_response_stay_here(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request())
    backend.answer(response(b"ok", *HOP, "Connection: keep-alive", "X-End: 1"))
    answer = client.read_response()
    assert not answer.names & HOP_NAMES
    assert answer.get("X-End") == "1"


def test_fields_named_in_connection_stay_here(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(
        request("/", "X-One: 1", "Connection: x-one, X-TWO", "X-Two: 2", "X-Three: 3", "Connection: ,x-four ,", "x-Four: 4", "X-two: again")
    )
    connection, received = backend.answer(response(b"ok", "X-One: 1", "Connection: X-One", "X-Two: 2"))
    assert not received.names & {"x-one", "x-two", "x-four", "connection"}
    assert received.get("X-Three") == "3"
    answer = client.read_response()
    assert "x-one" not in answer.names
    assert answer.get("X-Two") == "2"
    assert connection.is_quiet()


@pytest.mark.parametrize("name", ["Host", "Content-Length", "host", "X-Forwarded-For", "X-Request-Id"])
def test_what_makes_the_message_cannot_be_taken_away_by_connection(fastlb, backend, name):
    """CVE-2022-31813: a client that names Host or X-Forwarded-For must not get them removed before the backend."""
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/", f"Connection: {name}", method="POST", body=b"hello"))
    _, received = backend.answer()
    assert received.get("Host") == "test"
    assert received.get("Content-Length") == "5"
    assert received.get("X-Forwarded-For") == "127.0.0.1"
    assert received.get("X-Request-Id")
    assert received.body == b"hello"
    assert client.read_response().status == 200


def test_everything_else_passes_as_it_came(fastlb, backend):
    lb = fastlb([backend])
    fields = [
        "x-UPPER-lower:  spaces around \t ",
        "X-Empty:",
        "X-Twice: 1",
        "X-Twice: 2",
        "X-Latin: \xe9\xff",
        "Accept: */*",
        "Cookie: a=b; c=d",
        "Via: 1.1 other",
    ]
    client = lb.connect()
    client.send(request("/", *fields))
    _, received = backend.answer(response(b"ok", *fields, "Set-Cookie: a=1", "Set-Cookie: b=2", "Server: mine"))
    answer = client.read_response()
    for message in (received, answer):
        for field in fields:
            assert ("\r\n" + field + "\r\n").encode("latin-1") in message.head
    assert answer.all("Set-Cookie") == ["a=1", "b=2"]
    assert answer.get("Server") == "mine"


def test_date_is_kept_and_added_where_it_is_missing(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request())
    connection, _ = backend.answer(response(b"", "Date: Sun, 06 Nov 1994 08:49:37 GMT"))
    assert client.read_response().get("Date") == "Sun, 06 Nov 1994 08:49:37 GMT"
    client.send(request())
    connection.read_request()
    connection.send(response(b""))
    assert (client.read_response().get("Date") or "").endswith(" GMT")
