"""fastlb/data_plane/limits.pyx: engines on one shared memory, before backends that the test plays."""

import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastlb import _core
from tests.support.images import Writer
from tests.support.node import Client, Node


@pytest.fixture
def node() -> Iterator[Node]:
    with Node(2) as made:
        yield made
        made.until(lambda: all(row["taken"] == 0 or row["limit"] == "connections" for row in made.shared.limits()))


def apply(node: Node, *caps: int, queue_max: int = 0, algorithm: str = "round_robin", **pool: Any) -> None:
    node.apply(*(caps or (0,)), queue_max=queue_max, algorithm=algorithm, **pool)


def taken(node: Node) -> dict[str, int]:
    return {row["limit"]: row["taken"] for row in node.shared.limits()}


def open_one(node: Node, target: str, worker: int = 0) -> Client:
    """A request that a backend has."""
    client = node.send(target, worker)
    node.until(lambda: any(target in backend.open for backend in node.backends))
    return client


def answer(node: Node, target: str, client: Client) -> None:
    next(backend for backend in node.backends if target in backend.open).answer(target)
    node.until(lambda: client.status)


def refused(node: Node, target: str, worker: int = 0) -> str:
    client = node.send(target, worker)
    node.until(lambda: client.status)
    assert client.status == 503
    return client.reason


def test_pool_without_limits_has_no_rows_for_them(node: Node) -> None:
    apply(node)
    answer(node, "/a", open_one(node, "/a"))
    assert taken(node) == {}


# ---------------------------------------------------------------------------------------------------------- requests
def test_requests_are_limited_over_all_workers_and_backends(node: Node) -> None:
    apply(node, 0, 0, limits={"requests": 2})
    first, second = open_one(node, "/1", 0), open_one(node, "/2", 1)
    assert taken(node) == {"requests": 2}
    assert [refused(node, f"/x{worker}", worker) for worker in (0, 1)] == ["requests_limit"] * 2
    answer(node, "/1", first)
    third = open_one(node, "/3", 1)
    assert refused(node, "/y") == "requests_limit"
    answer(node, "/2", second)
    answer(node, "/3", third)
    assert taken(node) == {"requests": 0}
    assert node.shared.counters()["reason.requests_limit"] == 3


def test_request_beyond_the_limit_does_not_wait_in_the_queue(node: Node) -> None:
    apply(node, 1, queue_max=10, limits={"requests": 1})
    first = open_one(node, "/1")
    second = node.send("/2")
    node.until(lambda: node.waiting() == 1)  # for the backend, which is full
    answer(node, "/1", first)
    node.until(lambda: "/2" in node.arrived())
    answer(node, "/2", second)
    apply(node, 2, queue_max=10, limits={"requests": 1})
    third = open_one(node, "/3")
    assert refused(node, "/4") == "requests_limit"
    answer(node, "/3", third)


def test_hedge_beyond_the_limit_is_not_begun(node: Node) -> None:
    apply(node, 0, 0, limits={"requests": 1}, hedge_after_ms=10)
    client = open_one(node, "/1")
    node.let_time_pass(60)
    assert len(node.backends[0].open) + len(node.backends[1].open) == 1
    answer(node, "/1", client)
    assert client.status == 200


# ---------------------------------------------------------------------------------------------------------- connections
def test_connections_are_limited_with_the_idle_ones(node: Node) -> None:
    apply(node, limits={"connections": 2})
    first, second = open_one(node, "/1", 0), open_one(node, "/2", 1)
    answer(node, "/1", first)
    answer(node, "/2", second)
    assert taken(node) == {"connections": 2}, "both are idle"
    third = open_one(node, "/3", 0)  # on the one of its worker
    assert refused(node, "/y", 0) == "connections_limit"
    answer(node, "/3", third)


def test_idle_connection_to_another_backend_makes_room(node: Node) -> None:
    apply(node, 0, 0, limits={"connections": 1})
    for target in ("/1", "/2", "/3"):
        answer(node, target, open_one(node, target))
    assert [len(backend.arrived) for backend in node.backends] == [2, 1], "each took the place of the one before"
    assert taken(node) == {"connections": 1}


def direct(node: Node, number: int) -> None:
    """All new requests go to this backend."""
    rows = {row["display"]: row["identity"] for row in node.shared.backends()}
    for index, backend in enumerate(node.backends):
        node.shared.set_state(rows[f"127.0.0.1:{backend.port}"], _core.ROW_STATES["drain"] if index != number else 0)


def test_idle_connection_that_counts_is_found_behind_one_that_does_not(node: Node) -> None:
    apply(node)
    answer(node, "/1", open_one(node, "/1"))
    apply(node, 0, 0, limits={"connections": 1})
    direct(node, 0)
    second, third = open_one(node, "/2"), open_one(node, "/3")  # on the connection from before; on one that counts
    assert taken(node) == {"connections": 1}
    answer(node, "/2", second)
    answer(node, "/3", third)
    direct(node, 1)
    answer(node, "/4", open_one(node, "/4"))
    node.until(lambda: [len(backend.connections) for backend in node.backends] == [1, 1])
    assert taken(node) == {"connections": 1}


def test_the_one_that_has_been_idle_longest_makes_room_whatever_its_backend(node: Node) -> None:
    apply(node, 0, 0, 0, limits={"connections": 2})
    for number in (1, 0, 2):
        direct(node, number)
        answer(node, f"/{number}", open_one(node, f"/{number}"))
    node.until(lambda: [len(backend.connections) for backend in node.backends] == [1, 0, 1])


def test_idle_connections_beyond_a_lowered_limit_make_room(node: Node) -> None:
    apply(node, 0, 0, limits={"connections": 3})
    direct(node, 0)
    clients = [open_one(node, f"/{number}") for number in range(3)]
    for number, client in enumerate(clients):
        answer(node, f"/{number}", client)
    apply(node, 0, 0, limits={"connections": 1})
    direct(node, 1)
    answer(node, "/x", open_one(node, "/x"))
    assert taken(node) == {"connections": 1}


def test_connection_that_ends_anyway_makes_up_for_a_refusal(node: Node) -> None:
    apply(node, limits={"connections": 2})
    first, second = open_one(node, "/1", 0), open_one(node, "/2", 0)
    assert refused(node, "/x", 1) == "connections_limit"
    node.backends[0].answer("/1", "close")
    node.until(lambda: first.status)
    answer(node, "/2", second)
    assert taken(node) == {"connections": 1}, "the other one is kept"


def test_refusal_takes_one_connection_from_the_idle_ones_of_another_worker(node: Node) -> None:
    apply(node, limits={"connections": 2})
    first, second = open_one(node, "/1", 0), open_one(node, "/2", 0)
    assert refused(node, "/x", 1) == "connections_limit"
    answer(node, "/1", first)  # its connection is closed for the other worker
    answer(node, "/2", second)  # this one is kept
    node.until(lambda: taken(node) == {"connections": 1})
    third = open_one(node, "/3", 1)
    assert taken(node) == {"connections": 2}
    answer(node, "/3", third)
    assert taken(node) == {"connections": 2}


def test_connection_keeps_the_place_it_was_given_when_limits_change(node: Node) -> None:
    apply(node, limits={"connections": 1})
    answer(node, "/1", open_one(node, "/1"))
    assert taken(node) == {"connections": 1}
    apply(node)
    answer(node, "/2", open_one(node, "/2"))  # on the same connection
    assert taken(node) == {"connections": 1}
    apply(node, limits={"connections": 1})
    assert refused(node, "/x", 1) == "connections_limit"
    node.backends[0].connections.pop().close()
    node.until(lambda: taken(node) == {"connections": 0})


def test_connection_that_is_refused_gives_its_places_back(node: Node) -> None:
    apply(node, limits={"connections": 5, "pending": 5, "requests": 5, "retries": 5}, attempts=2)
    node.backends[0].listening.close()
    client = node.send("/1")
    node.until(lambda: client.status)
    assert client.status == 502
    assert taken(node) == {"connections": 0, "pending": 0, "requests": 0, "retries": 0}


# ---------------------------------------------------------------------------------------------------------- pending
def test_attempts_that_connect_are_limited(node: Node) -> None:
    """The backend's accept queue is full, so connections to it are being made for as long as nobody accepts."""
    apply(node, limits={"pending": 2})
    backend = node.backends[0]
    backend.listening.listen(0)
    backend.look = lambda: None  # type: ignore[method-assign]
    clients = []
    while taken(node)["pending"] < 2:
        clients.append(node.send(f"/{len(clients)}", len(clients) % 2))
        node.let_time_pass(20)
    assert refused(node, "/x") == "pending_limit"
    del backend.look
    for number in range(len(clients)):
        node.until(lambda number=number: f"/{number}" in backend.open)
        backend.answer(f"/{number}")
    node.until(lambda: all(client.status == 200 for client in clients))
    assert taken(node) == {"pending": 0}


# ---------------------------------------------------------------------------------------------------------- retries
def test_retries_are_limited_and_the_client_gets_what_came_before(node: Node) -> None:
    apply(node, 0, 0, limits={"retries": 1}, retry={"on": ("503",)}, attempts=2)
    first = open_one(node, "/1")
    fail(node, "/1")
    node.until(lambda: sum(backend.arrived.count("/1") for backend in node.backends) == 2)
    assert taken(node) == {"retries": 1}
    second = open_one(node, "/2")
    fail(node, "/2")
    node.until(lambda: second.status)
    assert (second.status, second.reason) == (503, "")
    assert node.shared.counters()["retries_refused"] == 1
    answer(node, "/1", first)
    assert first.status == 200
    assert taken(node) == {"retries": 0}
    third = open_one(node, "/3")
    fail(node, "/3")
    node.until(lambda: sum(backend.arrived.count("/3") for backend in node.backends) == 2)
    answer(node, "/3", third)
    assert third.status == 200


def fail(node: Node, target: str) -> None:
    backend = next(backend for backend in node.backends if target in backend.open)
    backend.open.pop(target).send(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")


EARNED = {"on": ("503",), "share": 1.0, "floor": 0}  # each request pays for one retry, and nothing else does


def test_retry_beyond_the_limit_spends_nothing_of_the_budget(node: Node) -> None:
    apply(node, 0, 0, 0, limits={"retries": 1}, retry=EARNED, attempts=3)
    first = open_one(node, "/1")
    fail(node, "/1")
    node.until(lambda: sum(backend.arrived.count("/1") for backend in node.backends) == 2)
    for number in range(4):
        client = open_one(node, f"/x{number}")
        fail(node, f"/x{number}")
        node.until(lambda client=client: client.status)
        assert client.status == 503
    answer(node, "/1", first)
    last = open_one(node, "/2")
    for tries in (1, 2):
        node.until(lambda tries=tries: sum(backend.arrived.count("/2") for backend in node.backends) == tries)
        fail(node, "/2")
    node.until(lambda: sum(backend.arrived.count("/2") for backend in node.backends) == 3)
    answer(node, "/2", last)
    assert last.status == 200, "its second retry is paid for by those that had none"
    assert node.shared.counters()["retries_refused"] == 4


def test_retry_beyond_the_budget_gives_its_place_back(node: Node) -> None:
    apply(node, 0, 0, limits={"retries": 1}, retry={**EARNED, "share": 0.0}, attempts=2)
    client = open_one(node, "/1")
    fail(node, "/1")
    node.until(lambda: client.status)
    assert client.status == 503
    assert node.shared.counters()["retries_refused"] == 1
    assert taken(node) == {"retries": 0}


def test_hedge_that_cannot_begin_spends_nothing(node: Node) -> None:
    apply(node, 0, 0, limits={"retries": 1, "requests": 1}, hedge_after_ms=10, retry=EARNED, attempts=2)
    for number in range(3):
        client = open_one(node, f"/{number}")
        node.let_time_pass(40)
        assert taken(node) == {"retries": 0, "requests": 1}
        answer(node, f"/{number}", client)
    apply(node, 0, 0, limits={"retries": 1}, hedge_after_ms=10, retry={**EARNED, "share": 0.0}, attempts=2)
    client = open_one(node, "/last")
    node.until(lambda: all("/last" in backend.open for backend in node.backends))  # with what the three have not spent
    answer(node, "/last", client)
    assert node.shared.counters()["hedges_started"] == 1


def test_hedge_is_a_retry(node: Node) -> None:
    apply(node, 0, 0, limits={"retries": 1}, hedge_after_ms=10)
    first, second = open_one(node, "/1"), node.send("/2")
    node.until(lambda: sum(len(backend.open) for backend in node.backends) == 3)
    node.let_time_pass(40)
    assert sum(len(backend.open) for backend in node.backends) == 3, "one of the two has a hedge, the other none"
    assert taken(node) == {"retries": 1}
    for target, client in (("/1", first), ("/2", second)):
        answer(node, target, client)


# ---------------------------------------------------------------------------------------------------------- ends
def test_clients_that_leave_give_their_places_back(node: Node) -> None:
    apply(node, limits={"connections": 9, "pending": 9, "requests": 9, "retries": 9})
    clients = [open_one(node, f"/{number}", number % 2) for number in range(4)]
    assert taken(node)["requests"] == 4
    for client in clients:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        client.socket.close()
    node.clients.clear()
    node.until(lambda: set(taken(node).values()) == {0})


def test_places_of_a_dead_worker_are_given_back(node: Node) -> None:
    apply(node, limits={"connections": 2, "requests": 2})
    open_one(node, "/1", 0)
    survivor = open_one(node, "/2", 1)
    assert refused(node, "/x", 1)
    dead = node.engines.pop(0)
    copy = node.shared.counters(0)
    assert copy["claims_taken"] == 1
    dead.close()  # in order; what settlement does for one that was killed is what it does for every row
    assert node.shared.settle_worker(0)["settled"]
    assert taken(node) == {"connections": 1, "requests": 1}
    third = open_one(node, "/3", 1)
    answer(node, "/2", survivor)
    answer(node, "/3", third)


def test_a_unix_backend_is_connected_at_once_and_never_pending(node: Node, tmp_path: Path) -> None:
    path = tmp_path / "backend"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        writer = Writer(1)
        writer.listener()
        number = writer.pool(limits={"pending": 1})
        writer.add_backend(
            number, identity="0|unix", display="unix", address=_core.pack_unix(str(path)), weight=1, max_in_flight=0, cookie=""
        )
        writer.add_route(host="", path_prefix="/", pool=number)
        node.apply_image(writer.image())
        clients = [node.send(f"/{number}") for number in range(2)]
        node.until(lambda: node.shared.backends()[0]["in_flight"] == 2)
        assert taken(node) == {"pending": 0}
        assert [client.status for client in clients] == [0, 0]
