"""A pump that may handle one event at a time serves all busy connections alike."""

import select
import threading
from collections import Counter

from tests.support.backend import ThreadedBackend
from tests.support.message import request, response
from tests.support.waiting import SANITIZED, deadline_in

CONNECTIONS, ROUNDS = (100, 40) if SANITIZED else (1000, 30)


def test_busiest_of_many_connections_gets_at_most_twice_what_the_slowest_gets(fastlb, instant):
    lb = fastlb([instant(response(b"x" * 100))], pump_budget=1)  # one: of two threads of ours one would lag behind the other
    clients = {client.socket.fileno(): client for client in (lb.connect() for _ in range(CONNECTIONS))}
    for client in clients.values():
        assert client.ask(request()).status == 200
    # All begin together, and every client always has a request under way: a new one is sent as soon as an answer has come.
    asked = request()
    watched = select.epoll()
    answered: Counter[int] = Counter(dict.fromkeys(clients, 0))
    lb.freeze()
    for descriptor, client in clients.items():
        watched.register(descriptor, select.EPOLLIN)
        client.send(asked)
    lb.thaw()
    in_time = deadline_in(100)
    while answered.total() < CONNECTIONS * ROUNDS:
        assert in_time(), answered.total()
        for descriptor, _ in watched.poll():
            client = clients[descriptor]
            client.unread += client.socket.recv(4096)
            while client.unread.endswith(b"x" * 100):
                client.unread = b""
                answered[descriptor] += 1
                client.send(asked)
    busiest, slowest = max(answered.values()), min(answered.values())
    assert busiest <= 2 * slowest, (busiest, slowest)
    watched.close()


def test_bulk_transfer_does_not_starve_small_requests(fastlb, keep, instant):
    """While a body without end goes through one connection as fast as it can, the other one's requests are answered."""

    def serve(peer):
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1 << 50))
        while True:
            peer.send(b"x" * 1_000_000)

    lb = fastlb(
        pump_budget=1,
        pools={"bulk": {"backends": [keep(ThreadedBackend(serve))]}, "small": {"backends": [instant()]}},
        routes=[{"path": "/bulk", "pool": "bulk"}, {"path": "/", "pool": "small"}],
    )
    bulk, small = lb.connect(), lb.connect()
    bulk.send(request("/bulk"))
    bulk.read_head()
    stop = threading.Event()

    def read_on():
        while not stop.is_set():
            bulk.receive()

    reader = threading.Thread(target=read_on)
    reader.start()
    for _ in range(100):
        before = lb.counter("spliced_bytes")
        assert small.ask(request()).status == 200
        lb.wait_for(lambda counters, before=before: counters["spliced_bytes"] > before, "the bulk goes on, too")
    stop.set()
    reader.join()
    bulk.reset()
