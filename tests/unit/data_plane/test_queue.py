"""fastlb/data_plane/queue.pyx: exchanges that wait for a backend of a full pool, in one engine or several on one shared memory."""

import socket
import struct
from collections.abc import Iterator

import pytest

from tests.support.node import Node


@pytest.fixture
def node() -> Iterator[Node]:
    with Node() as made:
        yield made


@pytest.fixture
def two() -> Iterator[Node]:
    with Node(2) as made:
        yield made


# ---------------------------------------------------------------------------------------------------------- one worker
def test_who_waits_is_served_in_the_order_of_arrival(node: Node) -> None:
    node.apply(1)
    node.fill("/a")
    clients = node.wait_in_turn(("/b", 0), ("/c", 0), ("/d", 0))
    for target in ("/a", "/b", "/c", "/d"):
        assert node.arrived()[-1] == target
        n = len(node.arrived())
        node.backends[0].answer(target)
        node.until(lambda n=n, target=target: len(node.arrived()) > n or target == "/d")
    node.until(lambda: all(client.status for client in clients))
    assert [client.status for client in clients] == [200] * 3
    assert node.backends[0].most == 1
    assert node.shared.queues() == [{"pool": "api", "waiting": 0, "waited": 3}]


def test_without_a_queue_a_full_pool_is_refused_at_once(node: Node) -> None:
    node.apply(1, queue_max=0)
    node.fill()
    client = node.send("/b")
    node.until(lambda: client.status)
    assert (client.status, client.reason) == (503, "pool_full")
    assert node.shared.queues() == []


def test_a_lower_number_of_priority_goes_first_whenever_it_came(node: Node) -> None:
    node.apply(1, priorities=True)
    node.fill("/a")
    node.wait_in_turn(("/7/a", 0), ("/b", 0), ("/5/a", 0), ("/0/a", 0), ("/4/a", 0), ("/0/b", 0))
    served = ["/a"]
    while node.waiting():
        node.backends[0].answer(served[-1])
        n = len(served)
        node.until(lambda n=n: len(node.arrived()) > n)
        served.append(node.arrived()[-1])
    assert served == ["/a", "/0/a", "/0/b", "/b", "/4/a", "/5/a", "/7/a"]


def test_who_waits_too_long_is_refused_and_its_place_is_free(node: Node) -> None:
    node.apply(1, queue_timeout_ms=1, queue_max=1)
    node.fill()
    for target in ("/b", "/c"):
        client = node.send(target)
        node.until(lambda client=client: client.status)
        assert (client.status, client.reason) == (503, "queue_timeout")
    assert node.waiting() == 0
    assert node.arrived() == ["/first"]


def test_the_exchange_s_own_deadline_holds_while_it_waits(node: Node) -> None:
    node.apply(1)
    node.fill()
    node.apply(1, exchange_timeout_ms=1)
    client = node.send("/b")
    node.until(lambda: client.status)
    assert (client.status, client.reason) == (504, "exchange_timeout")


def test_the_connection_of_a_refused_client_goes_on(node: Node) -> None:
    node.apply(1, queue_timeout_ms=1)
    node.fill()
    client = node.send("/b")
    node.until(lambda: client.status)
    node.backends[0].answer("/first")
    client.received = b""
    client.send("/c")
    node.until(lambda: "/c" in node.arrived())
    node.backends[0].answer("/c")
    node.until(lambda: client.status)
    assert client.status == 200


def test_a_full_queue_refuses_the_next_one(node: Node) -> None:
    node.apply(1, queue_max=2)
    node.fill()
    node.wait_in_turn(("/b", 0), ("/c", 0))
    client = node.send("/d")
    node.until(lambda: client.status)
    assert (client.status, client.reason) == (503, "queue_full")
    assert node.waiting() == 2


@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_leaves_gives_its_turn_to_the_next(node: Node, reset: bool) -> None:
    node.apply(1)
    node.fill()
    leaving, staying = node.wait_in_turn(("/b", 0), ("/c", 0))
    if reset:
        leaving.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    leaving.socket.close()
    node.clients.remove(leaving)
    node.until(lambda: node.waiting() == 1)
    node.backends[0].answer("/first")
    node.until(lambda: "/c" in node.arrived())
    node.backends[0].answer("/c")
    node.until(lambda: staying.status == 200)
    assert "/b" not in node.arrived()
    counters = node.engines[0].counters()
    assert counters["reason.client:reset" if reset else "reason.client:closed"] == 1


def test_a_client_that_had_shut_its_writing_side_before_is_served(node: Node) -> None:
    node.apply(1)
    node.fill()
    client = node.connect()
    client.send("/b")
    client.socket.shutdown(socket.SHUT_WR)
    node.until(lambda: node.waiting() == 1)
    node.backends[0].answer("/first")
    node.until(lambda: "/b" in node.arrived())
    node.backends[0].answer("/b")
    node.until(lambda: client.status == 200)


def test_a_request_body_is_not_read_while_its_head_waits(node: Node) -> None:
    node.apply(1)
    node.fill()
    body = b"x" * 1_000_000
    client = node.send("/b", method="POST", fields=f"Content-Length: {len(body)}\r\n", body=body[:100])
    node.until(lambda: node.waiting() == 1)
    before = node.engines[0].counters()["client_bytes_in"]
    sent = 100 + client.socket.send(body[100:])
    node.let_time_pass(20)
    assert node.engines[0].counters()["client_bytes_in"] == before
    node.backends[0].answer("/first")
    node.until(lambda: "/b" in node.arrived())
    node.until(lambda: node.engines[0].counters()["client_bytes_in"] >= before + sent - 100)


def test_expect_is_not_answered_while_the_request_waits(node: Node) -> None:
    node.apply(1)
    node.fill()
    client = node.send("/b", method="POST", fields="Content-Length: 2\r\nExpect: 100-continue\r\n")
    node.until(lambda: node.waiting() == 1)
    node.let_time_pass(20)
    assert client.received == b""
    node.backends[0].answer("/first")
    node.until(lambda: "/b" in node.arrived())
    node.backends[0].open["/b"].send(b"HTTP/1.1 100 Continue\r\n\r\n")
    node.until(lambda: client.received)
    assert client.status == 100


def test_a_retry_waits_for_a_backend_that_it_has_not_tried(node: Node) -> None:
    node.apply(1, 1)
    refusing, full = node.backends
    refusing.close()
    clients = [node.send("/a"), node.send("/b")]
    node.until(lambda: full.arrived and node.waiting() == 1)
    full.answer(full.arrived[0])
    node.until(lambda: len(full.arrived) == 2)
    full.answer(full.arrived[1])
    node.until(lambda: all(client.status == 200 for client in clients))


def test_who_cannot_use_what_is_free_does_not_keep_it_from_the_next(node: Node) -> None:
    node.apply(1, 1)
    node.send("/held")
    node.until(lambda: any(backend.arrived for backend in node.backends))
    held, other = sorted(node.backends, key=lambda backend: not backend.arrived)
    other.listening.close()
    node.send("/retry")  # refused by one backend, it waits for the other
    node.until(lambda: node.waiting() == 1)
    other.begin()
    node.send("/next")
    node.until(lambda: other.arrived == ["/next"])
    assert node.waiting() == 1
    held.answer("/held")
    node.until(lambda: "/retry" in held.arrived)
