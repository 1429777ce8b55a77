"""Every wait ends: each time-out with its status and reason id. Only that it fires is looked at, never how long it took."""

import socket
import threading

import pytest

from tests.support.backend import ScriptedBackend, listen
from tests.support.message import chunked, request, response
from tests.support.waiting import DEADLINE_SECONDS, deadline_in

SHORT = "150ms"
POST = request("/", "Content-Length: 10", method="POST")


def listener(**timeouts):
    return {"listener": {"timeouts": timeouts}}


def pool(**timeouts):
    return {"pool": {"timeouts": timeouts}}


# ------------------------------------------------------------------------------------------------------------ the client's
def test_head_that_never_ends(fastlb, backend):
    client = (lb := fastlb([backend], **listener(head=SHORT))).connect()
    client.send(b"GET / HTTP/1.1\r\nHost:")
    answer = client.read_response()
    assert (answer.status, answer.reason, answer.closes) == (408, "client:head_timeout", True)
    client.expect_end()
    assert lb.reasons() == {"client:head_timeout": 1}


def test_head_that_trickles_has_the_same_time_in_total(fastlb, backend):
    client = fastlb([backend], **listener(head=SHORT)).connect()
    client.send(b"GET / HTTP/1.1\r\n")
    in_time = deadline_in()
    while not client.wait_readable(0.01):
        assert in_time(), "it may trickle for ever"
        client.send(b"X: y\r\n")
    answer = client.read_response()
    assert (answer.status, answer.reason) == (408, "client:head_timeout")


def test_head_of_a_later_request_has_its_own_time(fastlb, instant):
    client = fastlb([instant()], **listener(head=SHORT)).connect()
    assert client.ask(request()).status == 200
    client.send(b"GET")
    assert client.read_response().reason == "client:head_timeout"


def test_client_that_never_says_anything_is_closed(fastlb, backend):
    lb = fastlb([backend], **listener(head=SHORT))
    client = lb.connect()
    client.expect_end()
    assert lb.reasons() == {}  # as harmless as an idle keep-alive connection


def test_client_that_only_sends_empty_lines_is_closed(fastlb, instant):
    lb = fastlb([instant()], **listener(head=SHORT, idle=SHORT))
    for asks_first in (False, True):
        client = lb.connect()
        if asks_first:
            assert client.ask(request()).status == 200
        in_time = deadline_in()
        while not client.wait_readable(0.01):
            assert in_time(), "it may send empty lines for ever"
            client.send(b"\r\n")
        assert client.read_to_ending()[0] == b""


@pytest.mark.parametrize("chunk", [b"", b"half"])
def test_body_that_stops(fastlb, backend, chunk):
    client = (lb := fastlb([backend], **listener(body=SHORT))).connect()
    client.send(POST + chunk)
    connection = backend.accept()
    answer = client.read_response()
    assert (answer.status, answer.reason, answer.closes) == (408, "client:body_timeout", True)
    client.expect_end()
    assert connection.read_to_ending()[0].endswith(b"\r\n\r\n" + chunk)
    assert lb.reasons() == {"client:body_timeout": 1}


def test_body_that_trickles_is_allowed(fastlb, backend):
    """The body's time-out is one between reads."""
    client = fastlb([backend], **listener(body="1s")).connect()
    client.send(request("/", "Transfer-Encoding: chunked", method="POST"))
    connection = backend.accept()
    connection.read_head()
    for _ in range(30):  # 1.5 s in all
        client.send(b"1\r\nx\r\n")
        assert connection.read_exactly(6) == b"1\r\nx\r\n"
        client.wait_readable(0.05)
    client.send(b"0\r\n\r\n")
    connection.read_until(b"0\r\n\r\n")
    connection.send(response())
    assert client.read_response().status == 200


def test_idle_keep_alive_connection_is_closed(fastlb, instant):
    lb = fastlb([instant()], **listener(idle=SHORT))
    client = lb.connect()
    assert client.ask(request()).status == 200
    client.expect_end()
    assert lb.reasons() == {}


def test_client_that_stops_reading(fastlb, backend):
    lb = fastlb([backend], **listener(write=SHORT))
    client = lb.connect(small_buffers=True)
    client.send(request())
    connection = backend.accept()
    connection.read_request()
    connection.socket.setblocking(False)
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
    with pytest.raises(BlockingIOError):
        while True:
            connection.socket.send(b"x" * 65536)
    lb.wait_for_counter("reason.client:write_timeout")
    connection.socket.settimeout(DEADLINE_SECONDS)
    assert connection.read_to_ending()[1] in ("end", "reset")
    assert client.read_to_ending()[1] == "reset"


@pytest.mark.parametrize("framing", ["Content-Length: 100000000", "Transfer-Encoding: chunked"])
def test_client_that_stops_reading_is_not_saved_by_a_backend_that_trickles(fastlb, backend, framing):
    """What comes from the other side is no sign of life of the client's."""
    lb = fastlb([backend], **listener(write="300ms"))
    client = lb.connect(small_buffers=True)
    client.send(request())
    connection = backend.accept()
    connection.read_request()
    head = f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode()
    connection.send(head)
    sent = len(head)
    in_time = deadline_in()
    while not lb.counter("reason.client:write_timeout"):
        assert in_time(), "the time-out starts anew with every byte of the backend"
        # Much, until fastlb reads no more because the client does not; the kernel may make room once more. Then byte by byte.
        reads = lb.counter("backend_bytes_in") == sent
        part = b"ffa\r\n" + b"x" * 4090 + b"\r\n" if reads else b"1\r\nx\r\n"
        try:
            connection.send(part)
        except OSError:
            break
        sent += len(part)
        if reads:
            lb.turn()
        else:
            connection.wait_readable(0.02)
    lb.wait_for_counter("reason.client:write_timeout")


# ------------------------------------------------------------------------------------------------------------ the backend's
def full_backlog():
    """A listener that lets nobody in any more, and the connections that fill its queue."""
    listening = listen(backlog=0)
    fillers = []
    for _ in range(3):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(listening.getsockname())
        fillers.append(filler)
    return listening, fillers


def test_backend_that_does_not_accept(fastlb, keep):
    listening, fillers = full_backlog()
    lb = fastlb([keep(ScriptedBackend(listening))], **pool(connect=SHORT))
    client = lb.connect()
    answer = client.ask(request())
    assert (answer.status, answer.reason, answer.closes) == (504, "backend:connect_timeout", False)
    for filler in fillers:
        filler.close()
    assert lb.reasons() == {"backend:connect_timeout": 1}


def test_backend_that_does_not_accept_is_left_for_the_next_one(fastlb, keep, instant):
    listening, fillers = full_backlog()
    lb = fastlb([keep(ScriptedBackend(listening)), instant()], pool={"timeouts": {"connect": SHORT}, "algorithm": "round_robin"})
    assert [lb.get(method="POST", body=b"body").status for _ in range(2)] == [200, 200]
    for filler in fillers:
        filler.close()
    assert (lb.counter("retries"), lb.reasons()) == (2, {})


def test_backend_that_does_not_answer(fastlb, backend):
    lb = fastlb([backend], **pool(first_byte=SHORT))
    client = lb.connect()
    client.send(request())
    connection = backend.accept()
    answer = client.read_response()
    assert (answer.status, answer.reason, answer.closes) == (504, "backend:first_byte_timeout", False)
    connection.read_request()
    assert connection.ending() in ("end", "reset")
    assert lb.backends()[0]["failures"] == 1


def test_backend_that_does_not_answer_is_not_blamed_while_the_body_is_coming(fastlb, backend):
    lb = fastlb([backend], **pool(first_byte="300ms"))
    client = lb.connect()
    client.send(request("/", "Transfer-Encoding: chunked", method="POST"))
    connection = backend.accept()
    connection.read_head()
    for _ in range(12):  # 0.6 s
        client.send(b"1\r\nx\r\n")
        assert connection.read_exactly(6) == b"1\r\nx\r\n"
        client.wait_readable(0.05)
    client.send(b"0\r\n\r\n")
    connection.read_until(b"0\r\n\r\n")
    connection.send(response(b"ok"))
    assert client.read_response().body == b"ok"


def test_client_that_sends_on_does_not_give_the_backend_more_time(fastlb, backend):
    """Bytes of the next request are no sign of life of the backend's."""
    lb = fastlb([backend], **pool(first_byte="300ms"))
    client = lb.connect()
    client.send(request())
    backend.accept().read_request()
    in_time = deadline_in()
    while not client.wait_readable(0.02):
        assert in_time(), "the time-out starts anew with every byte of the client"
        client.send(b"G")
    assert client.read_response().reason == "backend:first_byte_timeout"


@pytest.mark.parametrize("sent", [b"H", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n"])
def test_backend_that_stops_in_its_head(fastlb, backend, sent):
    lb = fastlb([backend], **pool(first_byte=SHORT, between_bytes=SHORT))
    client = lb.connect()
    client.send(request())
    backend.answer(sent)
    answer = client.read_response()
    assert answer.status == 504
    assert answer.reason in ("backend:first_byte_timeout", "backend:between_bytes_timeout")


def test_backend_that_stops_in_its_body(fastlb, backend):
    lb = fastlb([backend], **pool(between_bytes=SHORT))
    client = lb.connect()
    client.send(request())
    connection, _ = backend.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    head = client.read_head()
    assert head.get("Content-Length") == "10"
    assert client.read_to_ending()[0] == b"half"  # the client sees that it is not whole
    assert connection.ending() in ("end", "reset")
    lb.wait_for_exchange_end()
    assert lb.reasons()["backend:between_bytes_timeout"] == 1


def test_backend_that_stops_in_its_body_is_not_saved_by_a_client_that_sends_on(fastlb, backend):
    lb = fastlb([backend], **pool(between_bytes="300ms"))
    client = lb.connect()
    client.send(request())
    backend.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    client.read_until(b"half")
    in_time = deadline_in()
    while not client.wait_readable(0.02):
        assert in_time(), "the time-out starts anew with every byte of the client"
        client.send(b"G")
    assert client.read_to_ending()[0] == b""
    assert lb.reasons()["backend:between_bytes_timeout"] == 1


def test_backend_that_trickles_is_allowed(fastlb, backend):
    lb = fastlb([backend], **pool(between_bytes="1s"))
    client = lb.connect()
    client.send(request())
    connection, _ = backend.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n")
    client.read_head()
    for _ in range(30):  # 1.5 s in all
        connection.send(b"x")
        assert client.read_exactly(1) == b"x"
        connection.wait_readable(0.05)
    assert lb.reasons() == {}


def test_backend_is_not_blamed_while_the_client_reads_slowly(fastlb, backend):
    lb = fastlb([backend], **pool(between_bytes=SHORT))
    client = lb.connect(small_buffers=True)
    client.send(request())
    connection = backend.accept()
    connection.read_request()
    body = b"x" * 20_000_000
    connection.socket.setblocking(False)
    sent = 0
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
    with pytest.raises(BlockingIOError):
        while True:
            sent += connection.socket.send(body[sent : sent + 65536])
    client.read_head()
    for _ in range(2):  # the time of others, which began later, is up
        other = lb.connect()
        other.send(request())
        backend.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
        other.read_head()
        other.read_to_ending()
    connection.socket.settimeout(DEADLINE_SECONDS)
    sender = threading.Thread(target=lambda: connection.send(body[sent:]))
    sender.start()
    assert len(client.read_exactly(len(body))) == len(body)
    sender.join()
    assert lb.reasons() == {"backend:between_bytes_timeout": 2, "backend:truncated": 2}


def test_backend_that_stops_reading_the_request(fastlb, backend):
    lb = fastlb([backend], **pool(first_byte=SHORT))
    client = lb.connect(small_buffers=True)
    client.send(request("/", "Content-Length: 100000000", method="POST"))
    connection = backend.accept().small_buffers()
    connection.read_head()
    client.socket.settimeout(0.2)
    try:
        while True:
            client.send(b"x" * 65536)
    except OSError:
        pass
    client.socket.settimeout(DEADLINE_SECONDS)
    lb.wait_for_exchange_end()
    assert lb.reasons() in ({"backend:between_bytes_timeout": 1}, {"backend:first_byte_timeout": 1})


# ------------------------------------------------------------------------------------------------------------ the exchange's
def test_exchange_that_takes_too_long_before_its_answer(fastlb, backend):
    lb = fastlb([backend], **pool(exchange=SHORT))
    client = lb.connect()
    client.send(request())
    connection = backend.accept()
    answer = client.read_response()
    assert (answer.status, answer.reason) == (504, "exchange_timeout")
    connection.read_request()
    assert connection.ending() in ("end", "reset")
    assert lb.reasons() == {"exchange_timeout": 1}


def test_exchange_that_takes_too_long_although_bytes_keep_coming(fastlb, backend):
    lb = fastlb([backend], **pool(exchange="300ms"))
    client = lb.connect()
    client.send(request())
    connection, _ = backend.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    client.read_head()
    in_time = deadline_in()
    try:
        while in_time():
            connection.send(chunked(b"x")[:6])
            client.read_exactly(6)
            connection.wait_readable(0.02)
    except (EOFError, OSError):
        pass
    lb.wait_for_counter("reason.exchange_timeout")
    assert b"0\r\n\r\n" not in client.read_to_ending()[0]


def test_exchange_that_takes_too_long_in_its_request_body(fastlb, backend):
    lb = fastlb([backend], **pool(exchange="300ms"))
    client = lb.connect()
    client.send(request("/", "Transfer-Encoding: chunked", method="POST"))
    connection = backend.accept()
    connection.read_head()
    in_time = deadline_in()
    while not client.wait_readable(0.02):
        assert in_time()
        client.send(b"1\r\nx\r\n")
    answer = client.read_response()
    assert (answer.status, answer.reason, answer.closes) == (504, "exchange_timeout", True)
