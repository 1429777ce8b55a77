"""Everything at once: clients and backends that break off at random while configurations change. Whole answers are right, nothing leaks."""

import os
import random
import threading
import time

import pytest

from tests.support.backend import ThreadedBackend
from tests.support.configuration import configuration
from tests.support.message import chunked, request, response
from tests.support.waiting import SANITIZED

BYTES = os.urandom(3_000_000)
SIZES = [0, 1, 100, 5000, 16384, 70_000, 300_000, 2_000_000]
TIMEOUTS = {"timeouts": {"first_byte": "1s", "between_bytes": "1s", "connect": "1s", "tunnel": "1s"}}


def body_for(seed, size):
    """The answer to a request is known from its target, whoever gives it."""
    start = seed * 7919 % 900_000
    return BYTES[start : start + size]


def misbehave(peer):
    """A backend's connection: answers in some framing, or breaks off in some way."""
    dice = random.Random()
    while True:
        received = peer.read_request()
        seed, size = map(int, received.target[1:].split("/"))
        body = body_for(seed, size)
        if received.get("Upgrade"):
            peer.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n" + body)
            while data := peer.receive():
                peer.send(data)
            return
        kind = dice.randrange(20)
        cut = dice.randrange(len(body) + 1)
        if kind < 8:
            peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" * (kind == 1) + response(body))
        elif kind < 13:
            peer.send(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                + chunked(*(part for part in (body[:cut], body[cut:]) if part), trailers="X: y\r\n")
            )
        elif kind == 13:
            peer.send(b"HTTP/1.1 200 OK\r\n\r\n" + body)
            return
        elif kind == 14:
            peer.send(response(body, "Connection: close"))
            return
        elif kind == 15:
            peer.send(response(body)[: 20 + cut])
            peer.reset()
            return
        elif kind == 16:
            peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(body or b"x")[:-5])
            return
        elif kind == 17:
            return
        elif kind == 18:
            peer.send(b"garbage\r\n\r\n")
        else:
            peer.send(response(body) + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")


class Client(threading.Thread):
    def __init__(self, lb, seed, actions):
        super().__init__(daemon=True)
        self.lb, self.dice, self.actions = lb, random.Random(seed), actions
        self.right = self.failed = 0
        self.error = None

    def run(self):
        try:
            for _ in range(self.actions):
                try:
                    self.act()
                except (EOFError, OSError):
                    self.failed += 1
        except BaseException as error:
            self.error = error

    def act(self):
        peer = self.lb.connect(small_buffers=self.dice.random() < 0.1)
        peer.socket.settimeout(5)
        try:
            for _ in range(self.dice.choice([1, 1, 3, 10])):
                if not self.exchange(peer):
                    break
        finally:
            peer.reset() if self.dice.random() < 0.3 else peer.close()
            self.lb.peers.remove(peer)

    def exchange(self, peer):
        dice = self.dice
        seed, size, upload = dice.randrange(1000), dice.choice(SIZES), dice.choice(SIZES)
        target = f"/{seed}/{size}"
        kind = dice.randrange(12)
        method = dice.choice(["GET", "PUT", "POST"])
        data = {
            0: request(target, "Connection: close"),
            1: request(target, "Transfer-Encoding: chunked", method=method) + chunked(*([BYTES[:upload]] if upload else [])),
            2: request(target, method=method, body=BYTES[:upload]),
            3: request(target, version="1.0"),
            4: request(target, "Expect: 100-continue", method="POST", body=BYTES[:100]),
        }.get(kind, request(target))
        if kind == 5:
            peer.send(data[: dice.randrange(len(data))])
            return False
        if kind == 6:
            peer.send(request(target, "Connection: Upgrade", "Upgrade: echo"))
            if peer.read_response().status == 101:
                assert peer.read_exactly(size) == body_for(seed, size)
                peer.send(b"ping")
                assert peer.read_exactly(4) == b"ping"
            return False
        if kind == 7:
            peer.send(data)
            return False  # and does not wait for the answer
        sender = threading.Thread(target=self.send, args=[peer, data], daemon=True)
        sender.start()
        answer = peer.read_response()
        sender.join()
        if answer.status == 200:
            assert answer.body == body_for(seed, size), (target, len(answer.body))
            self.right += 1
        else:
            assert answer.reason, answer.head
        return not answer.closes and kind != 3

    @staticmethod
    def send(peer, data):
        try:
            peer.send(data)
        except OSError:
            pass


def play(fastlb, keep, actions, seed):
    backends = [keep(ThreadedBackend(misbehave)) for _ in range(3)]
    texts = [
        configuration(backends[:count], pool=TIMEOUTS | {"algorithm": algorithm})
        for count in (3, 2, 1)
        for algorithm in ("round_robin", "weighted_least_connections")
    ]
    lb = fastlb(texts[0])
    clients = [Client(lb, f"{seed}/{number}", actions) for number in range(6)]
    for client in clients:
        client.start()
    turn = 0
    while any(client.is_alive() for client in clients):
        turn += 1
        served = lb.counter("exchanges_closed")
        end = time.monotonic() + 0.5
        while lb.counter("exchanges_closed") < served + 50 and time.monotonic() < end:
            clients[0].join(0.02)
        lb.apply_ok(texts[turn % len(texts)])
    assert [client.error for client in clients if client.error] == []
    assert sum(client.right for client in clients) > actions
    for backend in backends:
        backend.errors = [error for error in backend.errors if not isinstance(error, TimeoutError)]


def test_some_hundreds_of_conversations(fastlb, keep):
    play(fastlb, keep, 20 if SANITIZED else 60, "short")


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(5))
def test_thousands_of_conversations(fastlb, keep, seed):
    play(fastlb, keep, 1000, seed)
