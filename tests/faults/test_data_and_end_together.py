"""Data and FIN in one event: what came before the end is used, and the end is not forgotten."""

import socket

import pytest

from tests.support.backend import ScriptedBackend, listen
from tests.support.message import chunked, request, response
from tests.support.waiting import DEADLINE_SECONDS


@pytest.mark.parametrize(
    "data",
    [request(), request(method="POST", body=b"x" * 50_000), request("/", "Transfer-Encoding: chunked", method="POST") + chunked(b"hello")],
)
def test_request_and_end_of_the_client_get_their_answer(fastlb, backend, data):
    lb = fastlb([backend])
    client = lb.connect()  # which is not accepted before data comes
    lb.freeze()
    client.send(data)
    client.half_close()
    lb.thaw()
    backend.answer(response(b"answer"))
    assert client.read_response().body == b"answer"
    client.expect_end()


def test_pipelined_requests_and_end_get_all_their_answers(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()  # which is not accepted before data comes
    lb.freeze()
    client.send(request("/1") + request("/2") + request("/3"))
    client.half_close()
    lb.thaw()
    connection = backend.accept()
    for number in (b"1", b"2", b"3"):
        assert connection.read_request().target == "/" + number.decode()
        connection.send(response(number))
        assert client.read_response().body == number
    client.expect_end()
    assert connection.is_quiet()


@pytest.mark.parametrize("size", [0, 5, 16384, 262144, 1_000_000])
@pytest.mark.parametrize("framing", ["length", "chunked", "until close"])
def test_response_and_end_of_the_backend_are_passed_on(fastlb, backend, framing, size):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/1"))
    connection = backend.accept()
    connection.read_request()
    body = b"x" * size
    head = b"HTTP/1.1 200 OK\r\n"
    reply = {
        "length": response(body),
        "chunked": head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(*([body] if body else [])),
        "until close": head + b"\r\n" + body,
    }[framing]
    lb.freeze()
    connection.socket.setblocking(False)
    sent = connection.socket.send(reply)  # what fits
    connection.socket.settimeout(DEADLINE_SECONDS)
    if sent < len(reply):
        lb.thaw()
        connection.send(reply[sent:])
    connection.half_close()
    if sent == len(reply):
        lb.thaw()
    assert client.read_response().body == body
    client.send(request("/2"))  # not on that connection
    backend.answer(response(b"next"))
    assert client.read_response().body == b"next"


def test_half_a_request_and_end_is_no_request(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()  # which is not accepted before data comes
    lb.freeze()
    client.send(request()[:-2])
    client.half_close()
    lb.thaw()
    client.expect_end()
    assert backend.saw_nothing()
    assert lb.reasons() == {"client:closed": 1}


def test_tunnel_data_and_end_are_passed_on(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/", "Connection: Upgrade", "Upgrade: websocket"))
    connection, _ = backend.answer(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    client.read_response()
    for sender, receiver in ((client, connection), (connection, client)):
        lb.freeze()
        sender.send(b"x" * 100_000)
        sender.half_close()
        lb.thaw()
        assert receiver.read_to_end() == b"x" * 100_000
    lb.wait_for_exchange_end()


def test_request_and_reset_of_the_client_leave_nothing_behind(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()  # which is not accepted before data comes
    lb.freeze()
    client.send(request())
    client.reset()
    lb.thaw()
    lb.wait_for(lambda counters: counters["clients_opened"] == counters["clients_closed"] == 1, "the client is gone")


@pytest.mark.parametrize(
    ("does", "reasons"),
    [
        (lambda peer: peer.half_close(), {"backend:closed"}),
        (lambda peer: peer.close(), {"backend:closed", "backend:reset"}),
        (lambda peer: peer.reset(), {"backend:connect_failed", "backend:reset"}),
        (lambda peer: (peer.send(b"SSH-2.0-OpenSSH_9.2\r\n"), peer.half_close()), {"backend:bad_response"}),
        (lambda peer: peer.send(b"SSH-2.0-OpenSSH_9.2\r\n"), {"backend:bad_response"}),
    ],
    ids=["ends", "closes", "resets", "speaks and ends", "speaks"],
)
def test_connection_that_stands_and_ends_in_the_same_moment(fastlb, keep, does, reasons):
    """The backend's queue is full, so that fastlb's connection waits; when it is let in, fastlb stands still and sees all at once."""
    backend = keep(ScriptedBackend(listen(backlog=0)))
    filler = socket.create_connection(backend.socket.getsockname())
    lb = fastlb([backend], pool={"timeouts": {"connect": "60s"}})
    client = lb.connect()
    client.send(request())
    lb.wait_for_counter("backend_connections_opened")
    lb.freeze()
    backend.accept()  # the filler; the kernel tries the other one again after a second
    does(backend.accept())
    lb.thaw()
    answer = client.read_response()
    assert answer.status == 502
    assert answer.reason in reasons
    filler.close()
