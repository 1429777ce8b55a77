"""Large plain bodies go through a pipe and never enter the process; they arrive unchanged, whatever happens around them."""

import hashlib
import os
import threading

import pytest

from tests.support.backend import ThreadedBackend
from tests.support.message import request, response

BODY = os.urandom(24_000_000)
DIGEST = hashlib.sha256(BODY).hexdigest()


def serve(peer):
    """Downloads and uploads of BODY, many on a connection."""
    while True:
        head = peer.read_head()
        if head.method == "GET":
            peer.send(response(BODY))
        else:
            digest = hashlib.sha256(peer.read_exactly(head.body_length)).hexdigest()
            peer.send(response(digest.encode()))


def test_download_is_spliced_and_unchanged(fastlb, keep):
    lb = fastlb([keep(ThreadedBackend(serve))])
    client = lb.connect()
    for _ in range(2):
        assert hashlib.sha256(client.ask(request()).body).hexdigest() == DIGEST
    counters = lb.wait_for_exchange_end()
    assert counters["spliced_bytes"] > len(BODY)
    assert counters["pipes_taken"] == counters["pipes_returned"] > 0


def test_upload_is_spliced_and_unchanged(fastlb, keep):
    lb = fastlb([keep(ThreadedBackend(serve))])
    client = lb.connect()
    for _ in range(2):
        assert client.ask(request(method="POST", body=BODY)).body.decode() == DIGEST
    counters = lb.wait_for_exchange_end()
    assert counters["spliced_bytes"] > len(BODY)
    assert counters["pipes_taken"] == counters["pipes_returned"] > 0


def test_many_at_once_share_the_pipes(fastlb, keep):
    lb = fastlb([keep(ThreadedBackend(serve))])
    failures = []

    def play(number):
        client = lb.connect()
        answer = client.ask(request() if number % 2 else request(method="PUT", body=BODY))
        got = hashlib.sha256(answer.body).hexdigest() if number % 2 else answer.body.decode()
        if got != DIGEST:
            failures.append(number)

    threads = [threading.Thread(target=play, args=[number]) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.parametrize("size", [131071, 131072, 131073, 147456, 262144, 262145, 393216, 1048576, 1048577, 2097152, 2500000])
def test_sizes_around_the_thresholds_arrive_whole_and_the_connections_live_on(fastlb, instant, size):
    body = BODY[:size]
    lb = fastlb([instant(response(body))])
    client = lb.connect(small_buffers=True)
    for _ in range(3):
        assert client.ask(request()).body == body
    assert lb.counter("backend_connections_opened") == 1


def test_reader_that_stops_and_goes_on(fastlb, keep):
    lb = fastlb([keep(ThreadedBackend(serve))])
    client = lb.connect(small_buffers=True)
    client.send(request())
    length = client.read_head().body_length
    digest = hashlib.sha256()
    left = length
    while left:
        client.wait_readable()
        part = client.read_exactly(min(left, 1_500_000))
        digest.update(part)
        left -= len(part)
        lb.turn()
    assert digest.hexdigest() == DIGEST


def test_pipelined_request_behind_a_large_upload_is_served(fastlb, keep):
    lb = fastlb([keep(ThreadedBackend(serve))])
    client = lb.connect()
    sender = threading.Thread(target=lambda: client.send(request(method="POST", body=BODY) + request()))
    sender.start()
    assert client.read_response().body.decode() == DIGEST
    assert hashlib.sha256(client.read_response().body).hexdigest() == DIGEST
    sender.join()


@pytest.mark.parametrize("who", ["client", "backend"])
def test_either_side_that_resets_in_the_middle_gives_the_pipe_back(fastlb, backend, who):
    lb = fastlb([backend])
    client = lb.connect(small_buffers=True)
    client.send(request())
    connection = backend.accept()
    connection.read_request()
    connection.socket.setblocking(False)
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
    with pytest.raises(BlockingIOError):
        while True:
            connection.socket.send(BODY[:65536])
    lb.wait_for_counter("spliced_bytes")
    if who == "client":
        client.reset()
    else:
        connection.reset()
        client.read_head()
        assert len(client.read_to_ending()[0]) < 100_000_000
    counters = lb.wait_for_exchange_end()
    assert counters["pipes_taken"] == counters["pipes_returned"]
