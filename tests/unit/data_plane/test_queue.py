"""fastlb/data_plane/queue.pyx: exchanges that wait for a backend of a full pool, in one engine or several on one shared memory."""

import contextlib
import os
import select
import signal
import socket
import struct
from collections.abc import Iterator

import pytest

from fastlb import _core
from tests.support.node import Node

# Longer than the difference between two waits that is not worth a wake-up (queue.pyx: FAIR_MS).
UNFAIR_MS = 30


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


def test_one_that_joins_again_after_a_failed_attempt_is_still_bounded_by_its_attempts(node: Node) -> None:
    node.apply(1, attempts=1)
    node.fill()
    node.wait_in_turn(("/b", 0))
    node.backends[0].listening.close()
    waiting = node.clients[-1]
    node.backends[0].answer("/first", connection="close")
    node.backends[0].connections[0].close()
    node.backends[0].connections.clear()
    node.until(lambda: waiting.status)
    assert (waiting.status, waiting.reason) == (502, "backend:connect_refused")
    node.backends[0].begin()


def test_who_waits_for_the_one_backend_it_belongs_to_holds_up_nobody_else(node: Node) -> None:
    node.apply(1, 1, sticky=_core.STICKY_FLAGS["reject"])
    first, second = node.backends
    belongs = f"Cookie: ID={0:022}\r\n"
    node.send("/held", fields=belongs)
    node.until(lambda: first.arrived == ["/held"])
    node.send("/back", fields=belongs)
    node.until(lambda: node.waiting() == 1)
    node.send("/new")
    node.until(lambda: second.arrived == ["/new"])
    assert node.waiting() == 1
    second.answer("/new")
    node.let_time_pass(50)
    first.answer("/held")
    node.until(lambda: first.arrived == ["/held", "/back"])


def test_one_whose_kept_connection_was_stale_keeps_its_turn(node: Node) -> None:
    node.apply(1)
    node.fill()
    node.wait_in_turn(("/b", 0), ("/c", 0))
    backend = node.backends[0]
    first = backend.connections[0]
    backend.answer("/first")
    node.until(lambda: "/b" in backend.arrived)
    assert backend.open.pop("/b") is first
    backend.connections.remove(first)
    first.close()  # as if it had ended before the request came
    node.until(lambda: len(backend.arrived) == 3)
    assert backend.arrived == ["/first", "/b", "/b"]


# ---------------------------------------------------------------------------------------------------------- snapshots
def test_who_waits_with_an_old_snapshot_is_served_before_who_comes_with_the_new_one(node: Node) -> None:
    node.apply(1)
    node.fill()
    node.wait_in_turn(("/old", 0))
    node.apply(1)
    node.wait_in_turn(("/new", 0))
    node.backends[0].answer("/first")
    node.until(lambda: len(node.arrived()) == 2)
    node.backends[0].answer("/old")
    node.until(lambda: len(node.arrived()) == 3)
    assert node.arrived() == ["/first", "/old", "/new"]


def test_a_raised_cap_serves_who_waits_already(node: Node) -> None:
    node.apply(1)
    node.fill()
    node.wait_in_turn(("/b", 0), ("/c", 0))
    node.apply(2)
    node.until(lambda: node.arrived() == ["/first", "/b"])
    assert node.waiting() == 1


def test_a_lowered_cap_holds_for_who_waits_already(node: Node) -> None:
    node.apply(2)
    node.fill("/a")
    node.fill("/b")
    node.wait_in_turn(("/c", 0))
    node.apply(1)
    node.backends[0].answer("/a")
    node.let_time_pass(50)
    assert node.waiting() == 1
    node.backends[0].answer("/b")
    node.until(lambda: "/c" in node.arrived())


def test_who_waits_goes_on_waiting_where_the_new_snapshot_has_no_queue(node: Node) -> None:
    node.apply(1)
    node.fill()
    client = node.wait_in_turn(("/old", 0))[0]
    node.apply(1, queue_max=0)
    refused = node.send("/new")
    node.until(lambda: refused.reason == "pool_full")
    node.backends[0].answer("/first")
    node.until(lambda: "/old" in node.arrived())
    node.backends[0].answer("/old")
    node.until(lambda: client.status == 200)
    assert node.shared.queues()[0]["waiting"] == 0


def test_new_backends_serve_new_requests_while_old_ones_wait(node: Node) -> None:
    node.apply(1)
    node.fill()
    node.wait_in_turn(("/old", 0))
    node.apply(1, 1)
    node.send("/new")
    node.until(lambda: node.backends[1].arrived == ["/new"])
    assert node.waiting() == 1


def test_a_backend_that_goes_down_is_waited_for_no_longer(node: Node) -> None:
    node.apply(1)
    node.fill()
    client = node.wait_in_turn(("/b", 0))[0]
    node.shared.set_state(str(node.shared.backends()[0]["identity"]), _core.ROW_STATES["down"])
    node.until(lambda: client.status)
    assert (client.status, client.reason) == (503, "no_backend")


def test_a_backend_that_comes_up_serves_who_waits_for_another(node: Node) -> None:
    node.apply(1, 1)
    down = next(row for row in node.shared.backends() if str(row["display"]).endswith(f":{node.backends[1].port}"))
    node.shared.set_state(str(down["identity"]), _core.ROW_STATES["down"])
    node.fill()
    node.wait_in_turn(("/b", 0))
    node.shared.set_state(str(down["identity"]), 0)
    node.until(lambda: node.backends[1].arrived == ["/b"])


def test_draining_serves_who_waits(node: Node) -> None:
    node.apply(1)
    first = node.fill()
    client = node.wait_in_turn(("/b", 0))[0]
    node.engines[0].drain(0)
    node.backends[0].answer("/first")
    node.until(lambda: "/b" in node.arrived())
    node.backends[0].answer("/b")
    node.until(lambda: client.ended)
    assert first.status == client.status == 200
    assert b"Connection: close" in client.received


def test_closing_an_engine_in_which_somebody_waits_leaves_nothing_behind(node: Node) -> None:
    node.apply(1)
    node.fill()
    node.wait_in_turn(("/b", 0), ("/c", 0))
    # Node.__exit__ looks.


# ---------------------------------------------------------------------------------------------------------- several workers
def test_a_release_in_one_worker_serves_who_waits_in_another(two: Node) -> None:
    two.apply(1)
    two.fill(worker=0)
    client = two.wait_in_turn(("/b", 1))[0]
    two.backends[0].answer("/first")
    two.until(lambda: "/b" in two.arrived())
    two.backends[0].answer("/b")
    two.until(lambda: client.status == 200)


def test_the_sibling_is_told_through_its_eventfd(two: Node) -> None:
    two.apply(1)
    two.fill(worker=0)
    two.wait_in_turn(("/b", 1))
    with contextlib.suppress(BlockingIOError):
        os.eventfd_read(two.event_fds[1])
    two.backends[0].answer("/first")
    wake = select.poll()
    wake.register(two.event_fds[1], select.POLLIN)
    while not wake.poll(0):  # the other engine is not pumped, so it can only be told
        two.engines[0].pump()
    two.until(lambda: "/b" in two.arrived())


def test_who_has_waited_longest_is_served_first_wherever_that_is(two: Node) -> None:
    two.apply(1)
    two.fill("/0", worker=0)
    order = [(f"/{number}", number % 2) for number in range(1, 7)]
    for request in order:
        two.wait_in_turn(request)
        two.let_time_pass(UNFAIR_MS)
    for number in range(6):
        two.backends[0].answer(f"/{number}")
        two.until(lambda number=number: len(two.arrived()) == number + 2)
    assert two.arrived() == ["/0", *(target for target, _ in order)]


def test_priorities_count_in_all_workers(two: Node) -> None:
    two.apply(1, priorities=True)
    two.fill("/a", worker=0)
    two.wait_in_turn(("/5/a", 0), ("/2/a", 1), ("/3/a", 0))
    for n, target in enumerate(("/a", "/2/a", "/3/a"), 2):
        two.backends[0].answer(target)
        two.until(lambda n=n: len(two.arrived()) == n)
    assert two.arrived() == ["/a", "/2/a", "/3/a", "/5/a"]


def test_who_arrives_does_not_overtake_who_waits_in_another_worker(two: Node) -> None:
    two.apply(1)
    two.fill(worker=0)
    two.wait_in_turn(("/waits", 1))
    two.let_time_pass(UNFAIR_MS)
    two.backends[0].answer("/first")
    while two.shared.backends()[0]["in_flight"]:
        two.engines[0].pump()  # the sibling is told and does not look yet
    two.send("/late", worker=0)
    for _ in range(3):
        two.engines[0].pump()
    two.until(lambda: len(two.arrived()) == 2)
    assert two.arrived()[1] == "/waits"


def test_a_sibling_that_stands_still_is_not_waited_for(two: Node) -> None:
    two.apply(1)
    two.fill(worker=0)
    two.wait_in_turn(("/stuck", 1))
    two.let_time_pass(UNFAIR_MS)
    two.wait_in_turn(("/b", 0))
    stuck = two.engines.pop()  # not pumped any more
    two.backends[0].answer("/first")
    two.until(lambda: "/b" in two.arrived())
    two.engines.append(stuck)


def test_the_limit_of_a_queue_is_that_of_all_workers_together(two: Node) -> None:
    two.apply(1, queue_max=2)
    two.fill(worker=0)
    two.wait_in_turn(("/b", 0), ("/c", 1))
    client = two.send("/d", worker=1)
    two.until(lambda: client.status)
    assert client.reason == "queue_full"


def test_without_a_sibling_s_eventfd_it_finds_out_by_itself() -> None:
    with Node(2, introduced=False) as node:
        node.apply(1)
        node.fill(worker=0)
        node.wait_in_turn(("/b", 1))
        node.backends[0].answer("/first")
        node.until(lambda: "/b" in node.arrived())


def test_what_a_dead_worker_had_claimed_is_free_for_who_waits(two: Node) -> None:
    two.apply(1)
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    pid = os.fork()
    if pid == 0:
        try:
            die_waiting(two, listening)
        finally:
            os._exit(1)
    clients = [socket.create_connection(listening.getsockname()) for _ in range(2)]
    clients[0].send(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
    two.until(lambda: two.arrived() == ["/held"])
    clients[1].send(b"GET /lost HTTP/1.1\r\nHost: a\r\n\r\n")
    two.until(lambda: two.waiting() == 1)
    assert two.shared.waiting_workers() == [2]
    two.wait_in_turn(("/b", 1))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert two.shared.settle_worker(2)["settled"]
    assert two.shared.waiting_workers() == [1]
    assert two.waiting() == 1
    two.until(lambda: two.arrived() == ["/held", "/b"])
    for one in (*clients, listening):
        one.close()


def die_waiting(node: Node, listening: socket.socket) -> None:
    """In a child, as the worker in slot 2: takes the one place, has somebody wait, and never ends."""
    node.shared.open_worker(2, os.getpid())
    engine = _core.Engine(max_connections=10, pipes=0, shared=node.shared, slot=2)
    image = _core.seal(node.last_image)
    engine.apply(image, [(listening.fileno(), 0)])
    wake = select.poll()
    wake.register(engine.fileno(), select.POLLIN)
    while True:
        wake.poll()
        engine.pump()
