"""A client that resets its connection at any stage: its exchange ends at once, and the backend is free."""

import socket

import pytest

from tests.support.backend import ScriptedBackend, listen
from tests.support.message import request, response


@pytest.fixture
def gone(fastlb, backend):
    """Nothing is left of the client, and the backend's connection has ended."""

    def check(lb, connection=None, reasons=("client:reset",)):
        counters = lb.wait_for(lambda counters: counters["clients_closed"] == 1, "the client is gone")
        assert counters["exchanges_opened"] == counters["exchanges_closed"]
        assert set(lb.reasons()) <= set(reasons)
        assert [row["in_flight"] for row in lb.backends()] == [0]
        if connection is not None:
            assert connection.read_to_ending()[1] in ("end", "reset")

    return check


def test_in_its_head(fastlb, backend, gone):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(b"GET / HTTP/1.1\r\n")
    lb.wait_for_counter("client_bytes_in")
    client.reset()
    gone(lb)


def test_while_the_connection_to_the_backend_is_made(fastlb, keep, gone):
    full = keep(ScriptedBackend(listen(backlog=0)))
    with socket.create_connection(full.socket.getsockname()):
        lb = fastlb([full], pool={"timeouts": {"connect": "60s"}})
        client = lb.connect()
        client.send(request(method="POST", body=b"hello"))
        lb.wait_for_counter("backend_connections_opened")
        client.reset()
        gone(lb)
        assert lb.counter("backend_connections_closed") == 1


def test_while_the_backend_thinks(fastlb, backend, gone):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request())
    connection = backend.accept()
    connection.read_request()
    client.reset()
    gone(lb, connection)


def test_in_its_body(fastlb, backend, gone):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/", "Content-Length: 10", method="POST") + b"half")
    connection = backend.accept()
    connection.read_until(b"half")
    client.reset()
    gone(lb, connection)


def test_with_a_pipelined_request_behind(fastlb, backend, gone):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/1") + request("/2"))
    connection = backend.accept()
    assert connection.read_request().target == "/1"
    client.reset()
    gone(lb, connection)
    assert lb.counter("exchanges_opened") == 1


def test_in_its_answer(fastlb, backend, gone):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request())
    connection = backend.accept()
    connection.read_request()
    connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
    client.read_until(b"half")
    client.reset()
    gone(lb, connection)


def test_between_requests(fastlb, backend, gone):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request())
    connection, _ = backend.answer(response(b"ok"))
    assert client.read_response().body == b"ok"
    client.reset()
    gone(lb, reasons=())
    assert connection.is_quiet()


def test_that_closes_before_its_answer_is_not_waited_for_longer_than_the_answer_takes(fastlb, backend):
    """An orderly end may be a half-close: the exchange goes on, and ends with the attempt to answer."""
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request())
    connection = backend.accept()
    connection.read_request()
    client.close()
    connection.send(response(b"x" * 100_000))
    lb.wait_for(lambda counters: counters["clients_closed"] == 1, "the client is gone")
    assert lb.wait_for_exchange_end()["exchanges_closed"] == 1
