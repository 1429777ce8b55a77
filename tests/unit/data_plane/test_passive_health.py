"""fastlb/data_plane/passive_health.pyx and states.pyx: engines on one shared memory, before backends that the test plays.

Whoever is ejected here is so for longer than any test takes, and tests move time by hand: they change the stamps in shared memory. So
nothing depends on how long this process is off its processor.
"""

import mmap
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fastlb import _core
from tests.support import _probe
from tests.support.node import Client, Node

EJECTED = _core.ROW_STATES["ejected"]
DOWN = _core.ROW_STATES["down"]
OFFSETS = _probe.SHARED_OFFSETS
EJECTING_AT = 48  # in a row
STATE_CHANGES_AT = 48  # in the header
SECOND_AT = OFFSETS["blocks"] + OFFSETS["details"] + 2 * OFFSETS["details_bytes"] + 608  # RowHealth of the second backend
WINDOW_AT, EJECTED_UNTIL_AT, RETURNED_AT = SECOND_AT + 8, SECOND_AT + 32, SECOND_AT + 40
LONG = {"ejection_ms": 60_000, "max_ejection_ms": 60_000}
SOON_MS = 40


@pytest.fixture
def node() -> Iterator[Node]:
    with Node() as made:
        yield made


@pytest.fixture
def three() -> Iterator[Node]:
    with Node(3) as made:
        yield made


def apply(node: Node, n_backends: int = 2, *, attempts: int = 1, health: dict[str, Any] | None = None, **pool: Any) -> None:
    node.apply(*[0] * n_backends, queue_max=0, algorithm="round_robin", attempts=attempts, health=health or {}, **pool)


def rows(node: Node) -> list[dict[str, Any]]:
    """In the order of the backends."""
    found = {row["display"]: row for row in node.shared.backends()}
    return [found[f"127.0.0.1:{backend.port}"] for backend in node.backends]


def states(node: Node) -> list[int]:
    return [row["state"] for row in rows(node)]


def total(node: Node, name: str) -> int:
    return sum(engine.counters()[name] for engine in node.engines)


def change(node: Node, at: int, make: Callable[[int], int]) -> int:
    """Of a word of the shared memory what `make` makes of it."""
    with mmap.mmap(node.shared.fileno(), 0) as raw:
        word = make(struct.unpack_from("<Q", raw, at)[0])
        struct.pack_into("<Q", raw, at, word)
    return word


def end_ejection(node: Node, after_ms: int = SOON_MS) -> int:
    """Of the second backend, so much later than now, and all workers look at it anew. Returns when."""
    until = change(node, EJECTED_UNTIL_AT, lambda _: time.monotonic_ns() // 1_000_000 + after_ms)
    change(node, STATE_CHANGES_AT, lambda changes: changes + 1)
    return until


def wait_until_ms(moment: int) -> None:
    select.select([], [], [], max(moment / 1000 - time.monotonic(), 0))


class Traffic:
    """Requests one after another, each answered by whoever got it as `answers` says: a status, or what is sent and whether it ends so."""

    def __init__(self, node: Node, *answers: int | bytes) -> None:
        self.node = node
        self.answers = list(answers)
        self.sent = 0
        self.got: list[int] = []  # which backend had it

    def ask(self, worker: int = 0) -> Client:
        self.sent += 1
        target = f"/{self.sent}"
        client = self.node.send(target, worker)

        def look() -> bool:
            for number, backend in enumerate(self.node.backends):
                if target in backend.open:
                    self.got.append(number)
                    self.answer(number, target)
            return bool(client.status) or client.ended

        self.node.until(look)
        return client

    def answer(self, number: int, target: str) -> None:
        backend = self.node.backends[number]
        answer = self.answers[number] if number < len(self.answers) else 200
        peer = backend.open.pop(target)
        if isinstance(answer, int):
            peer.send(f"HTTP/1.1 {answer} X\r\nContent-Length: 0\r\n\r\n".encode())
        else:
            peer.send(answer)
            backend.connections.remove(peer)
            peer.close()

    def times(self, n: int, worker: int = 0) -> list[int]:
        return [self.ask(worker).status for _ in range(n)]


# ---------------------------------------------------------------------------------------------------------- failures in a row
@pytest.mark.parametrize("answer", [500, 599, b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-"])
def test_backend_is_ejected_after_so_many_failures_in_a_row(node: Node, answer: int | bytes) -> None:
    apply(node)
    traffic = Traffic(node, 200, answer)
    traffic.times(5)
    assert states(node) == [0, 0], "two of them failed"
    assert rows(node)[1]["failed_in_row"] == 2
    traffic.times(1)
    assert states(node) == [0, EJECTED]
    assert traffic.times(4) == [200] * 4
    assert traffic.got[6:] == [0] * 4
    assert (total(node, "ejections"), total(node, "returns")) == (1, 0)
    assert [row["ejections"] for row in rows(node)] == [0, 1]


def test_one_good_answer_begins_the_count_anew(node: Node) -> None:
    apply(node)
    traffic = Traffic(node, 200, 500)
    traffic.times(4)
    traffic.answers[1] = 404
    traffic.times(2)
    assert rows(node)[1]["failed_in_row"] == 0
    traffic.answers[1] = 500
    traffic.times(4)
    assert states(node) == [0, 0]
    traffic.times(2)
    assert states(node) == [0, EJECTED]


def test_what_is_no_failure_by_the_pool_ejects_nobody(node: Node) -> None:
    apply(node, health={"counts": ("connect", "503")})
    assert 502 in Traffic(node, 500, b"").times(20)
    assert states(node) == [0, 0]
    assert [row["failed_in_row"] for row in rows(node)] == [0, 0]


def test_refused_connections_count_for_requests_that_others_answer(node: Node) -> None:
    apply(node, attempts=2)
    node.backends[1].listening.close()
    assert Traffic(node).times(8) == [200] * 8
    assert states(node) == [0, EJECTED]
    assert rows(node)[1]["failures"] == 3


CUT = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"


def test_answers_that_are_cut_are_failures_in_a_row_although_their_heads_are_good(node: Node) -> None:
    apply(node)
    traffic = Traffic(node, 200, CUT)
    traffic.times(4)
    assert rows(node)[1]["failed_in_row"] == 2
    traffic.times(2)
    assert states(node) == [0, EJECTED]


def test_answer_counts_as_good_when_it_is_whole(node: Node) -> None:
    apply(node, 1)
    Traffic(node, CUT).times(2)
    client = node.send("/slow")
    node.until(lambda: "/slow" in node.backends[0].open)
    peer = node.backends[0].open.pop("/slow")
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
    node.until(lambda: client.status)
    assert rows(node)[0]["failed_in_row"] == 2
    peer.send(b"k")
    node.until(lambda: client.received.endswith(b"ok"))
    assert rows(node)[0]["failed_in_row"] == 0


def test_client_that_leaves_says_nothing_against_an_answer(node: Node) -> None:
    apply(node, 1)
    Traffic(node, CUT).times(2)
    client = node.send("/long")
    node.until(lambda: "/long" in node.backends[0].open)
    node.backends[0].open.pop("/long").send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\no")
    node.until(lambda: client.status)
    node.clients.remove(client)
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
    client.socket.close()
    node.until(lambda: rows(node)[0]["in_flight"] == 0)
    assert rows(node)[0]["failed_in_row"] == 0


def test_tunnel_is_a_good_answer_when_it_begins_and_one_that_nobody_asked_for_is_none(node: Node) -> None:
    apply(node, 1)
    Traffic(node, CUT).times(1)
    for asked, failed in (("", 2), ("Connection: Upgrade\r\nUpgrade: x\r\n", 0)):
        client = node.connect()
        client.send("/t", fields=asked)
        node.until(lambda: "/t" in node.backends[0].open)
        node.backends[0].open.pop("/t").send(b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        node.until(lambda client=client: client.status)
        assert (client.status, rows(node)[0]["failed_in_row"]) == (101 if asked else 502, failed)


def test_answers_that_are_cut_are_a_share_of_failures(node: Node) -> None:
    apply(node, health={"failures_in_row": 0, "error_ratio": 0.9, "min_requests": 3})
    traffic = Traffic(node, 200, CUT)
    traffic.times(6)
    assert states(node) == [0, EJECTED]


def test_stale_connection_says_nothing_against_a_backend(node: Node) -> None:
    apply(node, health={"failures_in_row": 1})
    traffic = Traffic(node)
    traffic.times(2)
    for backend in node.backends:
        backend.connections.pop().close()
    assert traffic.times(2) == [200, 200]
    assert states(node) == [0, 0]


def test_backend_that_is_slow_is_ejected_where_time_outs_count(node: Node) -> None:
    apply(node, health={"failures_in_row": 1}, first_byte_timeout_ms=20)
    client = node.send("/slow")
    node.until(lambda: client.status)
    assert client.status == 504
    assert states(node) == [EJECTED, 0]


def test_failures_of_hedges_count(node: Node) -> None:
    apply(node, attempts=2, health={"failures_in_row": 1}, hedge_after_ms=10)
    client = node.send("/a")
    node.until(lambda: all("/a" in backend.open for backend in node.backends))
    first = node.backends[0]
    peer = first.open.pop("/a")
    first.connections.remove(peer)
    peer.close()
    node.until(lambda: states(node) == [EJECTED, 0])
    node.backends[1].answer("/a")
    node.until(lambda: client.status)
    assert client.status == 200


def test_our_own_limits_say_nothing_against_a_backend(node: Node) -> None:
    apply(node, health={"failures_in_row": 1}, limits={"connections": 1})
    client = node.send("/a")
    node.until(lambda: node.backends[0].open)
    assert Traffic(node).times(2) == [503, 503]
    assert states(node) == [0, 0]
    assert [row["failures"] for row in rows(node)] == [0, 0]
    node.backends[0].answer("/a")
    node.until(lambda: client.status)


# ---------------------------------------------------------------------------------------------------------- share of failures
def test_backend_is_ejected_by_its_share_of_failures(node: Node) -> None:
    apply(node, health={"failures_in_row": 0, "error_ratio": 0.5, "min_requests": 8})
    traffic = Traffic(node, 200, 500)
    for answer in (500, 200, 500, 200, 500, 200, 500):
        traffic.answers[1] = answer
        traffic.times(2)
    assert states(node) == [0, 0], "seven were too few"
    traffic.answers[1] = 500
    traffic.times(2)
    assert states(node) == [0, EJECTED]


def test_share_below_the_limit_ejects_nobody(node: Node) -> None:
    apply(node, health={"failures_in_row": 0, "error_ratio": 0.5, "min_requests": 8})
    traffic = Traffic(node, 200, 500)
    for answer in (500, 200, 200) * 6:
        traffic.answers[1] = answer
        traffic.times(2)
    assert states(node) == [0, 0]


def test_window_that_is_over_is_forgotten(node: Node) -> None:
    apply(node, health={"failures_in_row": 0, "error_ratio": 0.5, "min_requests": 4, "window_ms": 20_000})
    traffic = Traffic(node, 200, 500)
    for _ in range(3):
        traffic.times(4)  # two failures each
        assert states(node) == [0, 0]
        change(node, WINDOW_AT, lambda began: began - 20_000)
    traffic.times(8)
    assert states(node) == [0, EJECTED]


# ---------------------------------------------------------------------------------------------------------- together
def test_failures_of_all_workers_count_together(three: Node) -> None:
    apply(three)
    traffic = Traffic(three, 200, 500)
    for worker in range(3):
        traffic.times(2, worker)
    assert states(three) == [0, EJECTED]
    for worker in range(3):
        assert traffic.times(3, worker) == [200] * 3
    assert total(three, "ejections") == 1


def test_no_more_than_their_share_are_ejected(three: Node) -> None:
    apply(three, 5, health={"max_ejected": 0.4})
    traffic = Traffic(three, *[500] * 5)
    for number in range(60):
        traffic.ask(number % 3)
        assert states(three).count(EJECTED) <= 2
    assert states(three).count(EJECTED) == 2
    assert total(three, "ejections_refused") >= 1


@pytest.mark.parametrize(("n_backends", "share", "most"), [(1, 1.0, 0), (2, 1.0, 1), (2, 0.0, 1), (4, 1.0, 3), (4, 0.49, 1)])
def test_one_may_always_be_ejected_but_never_the_last_one(node: Node, n_backends: int, share: float, most: int) -> None:
    apply(node, n_backends, health={"max_ejected": share})
    Traffic(node, *[500] * n_backends).times(20 * n_backends)
    assert states(node).count(EJECTED) == most


def test_backend_is_not_ejected_when_the_others_are_down(node: Node) -> None:
    apply(node)
    node.shared.set_state(rows(node)[0]["identity"], DOWN)
    assert Traffic(node, 200, 500).times(9) == [500] * 9
    assert states(node) == [DOWN, 0]


# ---------------------------------------------------------------------------------------------------------- coming back
def test_ejected_backend_comes_back_when_its_time_is_over(node: Node) -> None:
    apply(node, health=LONG, slow_start_ms=0)
    traffic = Traffic(node, 200, 500)
    traffic.times(6)
    assert states(node) == [0, EJECTED]
    until = end_ejection(node)
    node.until(lambda: states(node) == [0, 0])
    after = rows(node)[1]
    assert after["up_since_ms"] >= until, "not before its time, and slow start knows"
    assert after["failed_in_row"] == 0
    assert (total(node, "ejections"), total(node, "returns")) == (1, 1)
    traffic.answers[1] = 200
    traffic.times(4)
    assert set(traffic.got[-4:]) == {0, 1}


def check_ejection(traffic: Traffic, expected_ms: int) -> None:
    """The second backend is ejected for so long, and then comes back."""
    node = traffic.node
    before = node.shared.heartbeat_ms(0)
    traffic.times(2)
    assert states(node) == [0, EJECTED]
    until = rows(node)[1]["ejected_until_ms"]
    assert until - node.shared.heartbeat_ms(0) <= expected_ms <= until - before
    end_ejection(node, 0)
    node.until(lambda: states(node) == [0, 0])


def test_ejections_that_follow_one_another_take_longer(node: Node) -> None:
    apply(node, health={"ejection_ms": 20_000, "max_ejection_ms": 70_000, "failures_in_row": 1})
    traffic = Traffic(node, 200, 500)
    for expected in (20_000, 40_000, 60_000, 70_000, 70_000):
        check_ejection(traffic, expected)


@pytest.mark.parametrize(("back_ms", "then"), [(15_000, 45_000), (30_000, 30_000), (45_000, 15_000), (60_000, 15_000)])
def test_ejections_are_forgotten_while_it_is_back(node: Node, back_ms: int, then: int) -> None:
    apply(node, health={"ejection_ms": 15_000, "max_ejection_ms": 200_000, "failures_in_row": 1})
    traffic = Traffic(node, 200, 500)
    for expected in (15_000, 30_000, 45_000):
        check_ejection(traffic, expected)
    change(node, RETURNED_AT, lambda returned: returned - back_ms)
    check_ejection(traffic, then)


def test_backend_ejected_by_a_worker_that_died_is_brought_back_by_another(three: Node) -> None:
    apply(three, health=LONG)
    Traffic(three, 200, 500).times(6)
    assert states(three) == [0, EJECTED]
    dead = three.engines.pop(0)
    end_ejection(three)
    three.until(lambda: states(three) == [0, 0])
    assert total(three, "returns") == 1
    dead.close()


def test_worker_that_slept_through_it_brings_it_back_before_its_next_event(three: Node) -> None:
    apply(three, health=LONG)
    traffic = Traffic(three, 200, 500)
    after_ms = SOON_MS
    while not states(three)[1]:
        traffic.times(6)
        assert states(three) == [0, EJECTED]
        until = end_ejection(three, after_ms)
        three.engines[2].pump()  # has a timer for it now; or has brought it back, where we were off our processor for so long
        after_ms *= 2
    wait_until_ms(until + 20)  # nobody is pumped meanwhile; timers have ticks of 16 ms
    assert states(three) == [0, EJECTED]
    three.engines[2].pump()
    assert states(three) == [0, 0]


def test_ejection_survives_a_reload(node: Node) -> None:
    apply(node)
    Traffic(node, 200, 500).times(6)
    apply(node, 3)
    assert states(node) == [0, EJECTED, 0]
    assert Traffic(node, 200, 500).times(6) == [200] * 6


def test_pool_without_passive_health_brings_back_at_once(three: Node) -> None:
    apply(three)
    Traffic(three, 200, 500).times(6)
    assert states(three) == [0, EJECTED]
    three.apply(0, 0, queue_max=0, algorithm="round_robin", attempts=1)
    assert states(three) == [0, 0]
    assert 500 in Traffic(three, 200, 500).times(20)
    assert states(three) == [0, 0]


def test_shorter_longest_ejection_holds_for_those_that_are_ejected(node: Node) -> None:
    apply(node)
    Traffic(node, 200, 500).times(6)
    assert states(node) == [0, EJECTED]
    apply(node, health={"ejection_ms": SOON_MS, "max_ejection_ms": SOON_MS})
    node.until(lambda: states(node) == [0, 0])


def test_next_worker_of_a_slot_takes_over_who_is_ejected() -> None:
    with Node() as node:
        apply(node, health=LONG)
        Traffic(node, 200, 500).times(6)
        node.engines.pop().close()
        assert node.shared.settle_worker(0)["settled"]
        node.shared.open_worker(0, 1)
        node.engines.append(_core.Engine(max_connections=200, pipes=0, shared=node.shared, slot=0))
        apply(node, health=LONG)
        assert states(node) == [0, EJECTED]
        change(node, EJECTED_UNTIL_AT, lambda until: until - LONG["ejection_ms"] + SOON_MS)  # it has not looked yet
        node.until(lambda: states(node) == [0, 0])


def test_ejected_backend_that_is_taken_out_by_the_operator_stays_out(node: Node) -> None:
    apply(node, health=LONG)
    Traffic(node, 200, 500).times(6)
    drain = _core.ROW_STATES["drain"]
    node.shared.set_state(rows(node)[1]["identity"], drain)
    assert states(node) == [0, EJECTED | drain]
    end_ejection(node)
    node.until(lambda: states(node) == [0, drain])


def test_sticky_client_of_an_ejected_backend_goes_elsewhere(node: Node) -> None:
    apply(node, sticky=_core.STICKY_FLAGS["drain"])
    Traffic(node, 200, 500).times(6)
    assert states(node) == [0, EJECTED]
    client = node.send("/x", fields=f"Cookie: ID={1:022}\r\n")
    node.until(lambda: node.backends[0].open)
    node.backends[0].answer("/x")
    node.until(lambda: client.status)


def test_who_waits_is_served_by_the_one_that_comes_back(node: Node) -> None:
    node.apply(1, 0, attempts=1, algorithm="round_robin", health={**LONG, "failures_in_row": 1})
    traffic = Traffic(node, 200, 500)
    traffic.times(2)
    assert states(node) == [0, EJECTED]
    first = node.send("/first")
    node.until(lambda: "/first" in node.backends[0].open)
    second = node.send("/second")
    node.until(lambda: node.waiting() == 1)
    end_ejection(node)
    node.until(lambda: "/second" in node.backends[1].open)
    assert states(node) == [0, 0]
    for number, (target, client) in enumerate((("/first", first), ("/second", second))):
        node.backends[number].answer(target)
        node.until(lambda client=client: client.status)


def test_pool_that_has_it_off_writes_nothing(node: Node) -> None:
    node.apply(0, 0, queue_max=0, algorithm="round_robin", attempts=1)
    Traffic(node, 200, 500).times(20)
    assert [row["failed_in_row"] for row in rows(node)] == [0, 0]
    assert total(node, "ejections") == 0


@pytest.mark.parametrize(("age_ms", "ejected"), [(0, 0), (5000, EJECTED)])
def test_worker_that_died_while_it_ejected_hinders_nobody_for_long(node: Node, age_ms: int, ejected: int) -> None:
    """It leaves its stamp in the pool's row, the one behind those of the two backends."""
    apply(node)
    traffic = Traffic(node, 200, 500)
    traffic.times(5)
    at = OFFSETS["blocks"] + 3 * OFFSETS["row_bytes"] + EJECTING_AT
    stamp = change(node, at, lambda _: node.shared.heartbeat_ms(0) - age_ms)
    traffic.times(1)
    assert states(node) == [0, ejected]
    assert change(node, at, lambda left: left) == (0 if ejected else stamp)


@pytest.mark.parametrize("until_ms", [0, 1, (1 << 64) - 1])
def test_time_that_nobody_of_ours_wrote_ejects_nobody_for_ever(node: Node, until_ms: int) -> None:
    apply(node, health=LONG)
    Traffic(node, 200, 500).times(6)
    assert states(node) == [0, EJECTED]
    change(node, EJECTED_UNTIL_AT, lambda _: until_ms)
    apply(node, health={"ejection_ms": SOON_MS, "max_ejection_ms": 2 * SOON_MS})  # looks anew
    node.until(lambda: states(node) == [0, 0])
