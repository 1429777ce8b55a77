"""Keep-alive: one client connection and one backend connection carry many exchanges, and close when either side says so."""

import pytest

from tests.support.message import request, response


def test_one_connection_on_either_side_carries_many_exchanges(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/0"))
    connection = backend.accept()
    for number in range(5):
        if number:
            client.send(request(f"/{number}"))
        assert connection.read_request().target == f"/{number}"
        connection.send(response(b"answer %d" % number))
        answer = client.read_response()
        assert (answer.status, answer.body) == (200, b"answer %d" % number)
        assert not answer.closes
    counters = lb.counters()
    assert counters["clients_opened"] == 1
    assert counters["backend_connections_opened"] == 1
    assert counters["backend_reused"] == 4


def test_connection_close_of_the_client_is_answered_and_obeyed(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/", "Connection: close"))
    connection, received = backend.answer()
    assert "connection" not in received.names  # this hop's, not the next one's
    answer = client.read_response()
    assert answer.closes
    client.expect_end()
    assert connection.is_quiet()  # the backend's connection is kept for others
    assert lb.backends()[0]["idle"] == 1


def test_connection_close_of_the_backend_does_not_close_the_client(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/1"))
    first, _ = backend.answer(response(b"one", "Connection: close"))
    answer = client.read_response()
    assert answer.body == b"one"
    assert "connection" not in answer.names
    first.expect_end()
    client.send(request("/2"))
    backend.answer(response(b"two"))
    assert client.read_response().body == b"two"


@pytest.mark.parametrize("value", ["Close", "foo, close", "close,foo", " , close ,"])
def test_close_is_found_anywhere_in_the_connection_header(fastlb, backend, value):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/", f"Connection: {value}"))
    backend.answer()
    assert client.read_response().closes
    client.expect_end()


def test_client_that_closes_between_requests_leaves_nothing_behind(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request())
    backend.answer()
    client.read_response()
    client.close()
    lb.wait_for(lambda counters: counters["clients_closed"] == 1, "the client is gone")
    assert lb.backends()[0]["idle"] == 1
