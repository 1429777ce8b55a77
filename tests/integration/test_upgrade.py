"""Upgrade: after a 101 both directions are plain bytes until either side closes; half-close is kept."""

import os
import signal
import threading

import pytest

from tests.support.message import request, response
from tests.support.waiting import wait_until

ASK = request("/chat", "Connection: Upgrade", "Upgrade: websocket")
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


@pytest.fixture
def tunnel(fastlb, backend):
    """An open tunnel: the process, the client's end and the backend's."""

    def open_tunnel(**arguments):
        lb = fastlb([backend], **arguments)
        client = lb.connect()
        client.send(ASK)
        connection, _ = backend.answer(SWITCH)
        assert client.read_response().status == 101
        return lb, client, connection

    return open_tunnel


def test_request_and_answer_carry_the_upgrade_to_the_other_side(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/chat", "Connection: keep-alive, Upgrade", "Upgrade: proto/1", "X-End: 1"))
    _, received = backend.answer(SWITCH.replace(b"websocket", b"proto/1"))
    assert (received.get("Connection"), received.get("Upgrade"), received.get("X-End")) == ("Upgrade", "proto/1", "1")
    answer = client.read_response()
    assert (answer.status, answer.get("Connection"), answer.get("Upgrade")) == (101, "Upgrade", "proto/1")
    assert lb.counter("tunnels_opened") == 1


def test_bytes_pass_both_ways_at_any_time(tunnel):
    _, client, backend = tunnel()
    for number in range(20):
        sender, receiver = (client, backend) if number % 3 else (backend, client)
        sender.send(b"message %d" % number)
        assert receiver.read_until(b"%d" % number).endswith(b"message %d" % number)


def test_bytes_of_both_sides_in_the_segment_of_the_switch_are_not_lost(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(ASK + b"early client")
    connection = backend.accept()
    connection.read_request()
    assert connection.is_quiet()  # not before the backend has agreed
    connection.send(SWITCH + b"early backend")
    assert client.read_response().status == 101
    assert client.read_exactly(13) == b"early backend"
    assert connection.read_exactly(12) == b"early client"


def test_half_close_of_the_client_is_passed_on_and_the_other_way_stays_open(tunnel):
    lb, client, backend = tunnel()
    client.send(b"last words")
    client.half_close()
    assert backend.read_to_end() == b"last words"
    backend.send(b"still here")
    assert client.read_exactly(10) == b"still here"
    backend.close()
    client.expect_end()
    assert lb.wait_for_exchange_end()["tunnels_closed"] == 1


def test_half_close_of_the_backend_is_passed_on_and_the_other_way_stays_open(tunnel):
    lb, client, backend = tunnel()
    backend.send(b"last words")
    backend.half_close()
    assert client.read_to_end() == b"last words"
    client.send(b"still here")
    assert backend.read_exactly(10) == b"still here"
    client.close()
    backend.expect_end()
    lb.wait_for_exchange_end()


@pytest.mark.parametrize("who", ["client", "backend"])
def test_reset_of_one_side_ends_the_other(tunnel, who):
    lb, client, backend = tunnel()
    first, second = (client, backend) if who == "client" else (backend, client)
    first.reset()
    assert second.ending() in ("end", "reset")
    lb.wait_for_exchange_end()


@pytest.mark.parametrize("who", ["client", "backend"])
def test_reset_of_a_side_that_had_half_closed_ends_the_other(tunnel, who):
    lb, client, backend = tunnel()
    first, second = (client, backend) if who == "client" else (backend, client)
    first.half_close()
    assert second.read_to_end() == b""
    first.reset()
    lb.wait_for_exchange_end()


def test_megabytes_pass_unchanged_in_both_directions_at_once(tunnel):
    _, client, backend = tunnel()
    up, down = os.urandom(5_000_000), os.urandom(5_000_000)

    def play(peer, out, size, result):
        sender = threading.Thread(target=lambda: (peer.send(out), peer.half_close()))
        sender.start()
        result.append(peer.read_to_end())
        sender.join()

    from_client, from_backend = [], []
    thread = threading.Thread(target=play, args=[backend, down, len(up), from_client])
    thread.start()
    play(client, up, len(down), from_backend)
    thread.join()
    assert from_client == [up]
    assert from_backend == [down]


def test_refused_upgrade_is_an_ordinary_exchange(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(ASK)
    connection, _ = backend.answer(response(b"no"))
    assert client.read_response().body == b"no"
    client.send(request("/next"))
    assert connection.read_request().target == "/next"
    connection.send(response(b"next"))
    assert client.read_response().body == b"next"
    assert lb.counter("tunnels_opened") == 0


def test_request_pipelined_behind_a_refused_upgrade_is_served(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(ASK + request("/next"))
    connection, _ = backend.answer(response(b"no"))
    assert client.read_response().body == b"no"
    assert connection.read_request().target == "/next"
    connection.send(response(b"next"))
    assert client.read_response().body == b"next"


def test_interim_response_before_the_switch_passes(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(ASK)
    connection, _ = backend.answer(b"HTTP/1.1 103 Early Hints\r\n\r\n" + SWITCH + b"hello")
    answer = client.read_response()
    assert (answer.status, [head.status for head in answer.interim]) == (101, [103])
    assert client.read_exactly(5) == b"hello"
    client.send(b"world")
    assert connection.read_exactly(5) == b"world"


def test_switch_before_the_request_is_whole_is_a_bad_response(fastlb, backend):
    """Its rest would become bytes of the tunnel."""
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/", "Connection: Upgrade", "Upgrade: proto/1", "Content-Length: 10", method="POST") + b"half")
    connection = backend.accept()
    connection.read_until(b"half")
    connection.send(SWITCH)
    answer = client.read_response()
    assert (answer.status, answer.reason, answer.closes) == (502, "backend:bad_response", True)


def test_sigquit_leaves_tunnels_their_time(tunnel):
    lb, client, backend = tunnel()
    lb.signal(signal.SIGQUIT)
    wait_until(lambda: "draining" in lb.messages(), "it drains")
    for sender, receiver in ((client, backend), (backend, client)):
        sender.send(b"still here")
        assert receiver.read_exactly(10) == b"still here"
    client.close()
    backend.expect_end()
    backend.close()
    lb.wait_exit()


@pytest.mark.parametrize("fields", [[], ["Upgrade: proto/1"], ["Connection: Upgrade"]])
def test_101_that_nobody_asked_for_is_a_bad_response(fastlb, backend, fields):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/", *fields))
    connection, received = backend.answer(SWITCH + b"evil")
    assert not received.names & {"upgrade", "connection"}
    answer = client.read_response()
    assert (answer.status, answer.reason) == (502, "backend:bad_response")
    assert connection.ending() in ("end", "reset")


@pytest.mark.parametrize("protocol", ["h2c", "H2C", "websocket, h2c", "h2c/1"])
def test_h2c_is_never_asked_of_a_backend(fastlb, backend, protocol):
    """Requests inside of it would pass unseen."""
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/", "Connection: Upgrade, HTTP2-Settings", f"Upgrade: {protocol}", "HTTP2-Settings: AAMAAABkAAQAAP__"))
    _, received = backend.answer()
    assert not received.names & {"upgrade", "connection", "http2-settings"}
    assert client.read_response().status == 200


def test_upgrade_of_http_1_0_is_not_forwarded(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/", "Connection: Upgrade", "Upgrade: proto/1", version="1.0"))
    _, received = backend.answer()
    assert not received.names & {"upgrade", "connection"}
    assert client.read_response().status == 200


def test_tunnel_ends_when_nothing_moves_for_its_time_out(tunnel):
    lb, client, backend = tunnel(pool={"timeouts": {"tunnel": "100ms"}})
    assert client.ending() in ("end", "reset")
    assert backend.ending() in ("end", "reset")
    assert lb.wait_for_exchange_end()["tunnels_closed"] == 1


@pytest.mark.parametrize("half_closed", ["neither", "client", "backend"])
def test_tunnel_in_use_outlives_its_time_out(tunnel, half_closed):
    lb, client, backend = tunnel(pool={"timeouts": {"tunnel": "500ms"}})
    if half_closed == "client":
        client.half_close()
        backend.expect_end()
    elif half_closed == "backend":
        backend.half_close()
        client.expect_end()
    sender, receiver = (backend, client) if half_closed == "client" else (client, backend)
    lb.wait_for_counter("timers_refiled", 0)
    for _ in range(24):  # 1.2 s in all, with a pause that is a tenth of the time-out
        sender.send(b"x")
        assert receiver.read_exactly(1) == b"x"
        receiver.wait_readable(0.05)
