"""A large body through a stalled reader costs bounded memory, in both directions, framed however it may be."""

import os
import threading

import pytest

from tests.support.backend import ThreadedBackend
from tests.support.message import request, response
from tests.support.waiting import SANITIZED

MEGABYTE = 1 << 20
SIZE = 64 * MEGABYTE
# A relay holds one read's worth; the rest is what an allocator keeps. Far below the body, far above the noise.
BOUND = (48 if SANITIZED else 8) * MEGABYTE
PART = os.urandom(MEGABYTE)


def pieces(coding, size=SIZE):
    """The body in writes of its own."""
    for _ in range(size // len(PART)):
        yield PART if coding != "chunked" else b"%x\r\n%s\r\n" % (len(PART), PART)
    if coding == "chunked":
        yield b"0\r\n\r\n"


HEADS = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE,
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "until close": b"HTTP/1.1 200 OK\r\n\r\n",
}


def send_all(peer, parts, stalled):
    """Sends in a thread; `stalled` is set when the other side takes no more for the first time."""

    def run():
        peer.socket.setblocking(False)
        for part in parts:
            view = memoryview(part)
            while view:
                try:
                    view = view[peer.socket.send(view) :]
                except BlockingIOError:
                    stalled.set()
                    peer.socket.setblocking(True)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize("coding", HEADS)
def test_answer_that_the_client_does_not_read(fastlb, backend, coding):
    lb = fastlb([backend])
    client = lb.connect(small_buffers=True)
    client.send(request())
    connection = backend.accept()
    connection.read_request()
    connection.send(HEADS[coding])
    client.read_head()
    before = lb.memory_bytes()
    stalled = threading.Event()
    sender = send_all(connection, pieces(coding), stalled)
    assert stalled.wait(60)
    lb.turn()
    assert lb.memory_bytes() - before < BOUND
    total = 0
    while total < SIZE:  # and then it reads on
        data = client.receive()
        assert data
        total += len(data)
    sender.join()
    connection.close()
    assert lb.memory_bytes() - before < BOUND


@pytest.mark.parametrize("coding", ["length", "chunked"])
def test_upload_that_the_backend_does_not_read(fastlb, backend, coding):
    lb = fastlb([backend])
    client = lb.connect()
    framing = f"Content-Length: {SIZE}" if coding == "length" else "Transfer-Encoding: chunked"
    client.send(request("/", framing, method="POST"))
    connection = backend.accept()
    connection.read_head()
    before = lb.memory_bytes()
    stalled = threading.Event()
    sender = send_all(client, pieces(coding), stalled)
    assert stalled.wait(60)
    lb.turn()
    assert lb.memory_bytes() - before < BOUND
    total = 0
    while total < SIZE:
        data = connection.receive()
        assert data
        total += len(data)
    sender.join()
    connection.send(response(b"done", "Connection: close"))
    assert client.read_until(b"done")
    assert lb.memory_bytes() - before < BOUND


@pytest.mark.parametrize("who", ["client", "backend"])
def test_tunnel_whose_other_end_does_not_read(fastlb, backend, who):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/", "Connection: Upgrade", "Upgrade: proto"))
    connection, _ = backend.answer(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: proto\r\n\r\n")
    client.read_response()
    before = lb.memory_bytes()
    sending, reading = (client, connection) if who == "client" else (connection, client)
    stalled = threading.Event()
    sender = send_all(sending, pieces("length"), stalled)
    assert stalled.wait(60)
    lb.turn()
    assert lb.memory_bytes() - before < BOUND
    total = 0
    while total < SIZE:
        total += len(reading.receive())
    sender.join()


def test_client_that_pipelines_and_does_not_read_its_answers(fastlb, instant):
    lb = fastlb(pools={"main": {"backends": [instant(response(b"x" * 10_000))]}}, routes=[{"path": "/yes", "pool": "main"}])
    client = lb.connect(small_buffers=True)
    before = lb.memory_bytes()
    stalled = threading.Event()
    sender = send_all(client, [request("/yes") + request("/no")] * 5000, stalled)
    assert stalled.wait(60)
    lb.turn()
    assert lb.memory_bytes() - before < BOUND
    for _ in range(5000):
        assert client.read_response().status == 200
        assert client.read_response().status == 404
    sender.join()
    assert lb.memory_bytes() - before < BOUND


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("coding", ["length", "chunked"])
def test_ten_gigabytes_through_a_slow_reader(fastlb, keep, coding):
    size = 10 << 30

    def serve(peer):
        peer.read_request()
        peer.socket.settimeout(None)
        head = HEADS[coding] if coding == "chunked" else b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
        peer.send(head)
        for part in pieces(coding, size):
            peer.send(part)

    lb = fastlb([keep(ThreadedBackend(serve))])
    client = lb.connect()
    client.send(request())
    client.read_head()
    before = lb.memory_bytes()
    most = total = 0
    looked = 0
    while total < size:
        data = client.receive()
        assert data
        total += len(data)
        if total - looked > 256 * MEGABYTE:
            looked = total
            most = max(most, lb.memory_bytes() - before)
            client.wait_readable(0.05)
    assert most < BOUND
