"""In-flight counts of a node with several workers: exact at rest and after deaths, close to the true minimum, and never above a cap.

Backends hold their answers back, so that nothing ends while requests are counted on both sides.
"""

import os
import random
import signal

import pytest

from tests.support.load import Load, assert_consistent, kill_worker, wait_for_restart, wait_for_workers
from tests.support.loop_backend import LoopBackend
from tests.support.message import request
from tests.support.waiting import SANITIZED, wait_until

LONG = {"timeouts": {"first_byte": "60s", "connect": "60s"}}


@pytest.fixture
def held(keep):
    backends = [keep(LoopBackend()) for _ in range(3)]
    for backend in backends:
        backend.hold()
    return backends


def send_requests(lb, count):
    """So many clients with a request each, all at once."""
    clients = [lb.connect() for _ in range(count)]
    for client in clients:
        client.send(request())
    return clients


def wait_for_open(backends, count):
    wait_until(lambda: sum(backend.open for backend in backends) == count, f"{count} requests are with the backends")
    return [backend.open for backend in backends]


def wait_for_rows(lb, backends):
    """Until fastlb's counts are what the backends see themselves."""

    def look():
        rows = {row["display"]: row["in_flight"] for row in lb.backends()}
        return [rows[backend.address] for backend in backends] == [backend.open for backend in backends]

    wait_until(look, "the counts are those of the backends")


@pytest.mark.parametrize("algorithm", ["weighted_least_connections"])
@pytest.mark.parametrize("workers", [2, 4])
def test_no_pick_is_further_from_the_least_than_the_number_of_workers(fastlb, held, workers, algorithm):
    lb = fastlb(held, workers=workers, pool=LONG | {"algorithm": algorithm})
    send_requests(lb, 120)
    counts = wait_for_open(held, 120)
    assert max(counts) - min(counts) <= workers, counts
    wait_for_rows(lb, held)
    held[0].release(30)
    wait_for_open(held, 90)
    wait_for_rows(lb, held)
    send_requests(lb, 60)  # the first of them fill the gap
    counts = wait_for_open(held, 150)
    assert max(counts) - min(counts) <= workers, counts
    wait_for_rows(lb, held)


def test_requests_of_a_killed_worker_are_counted_no_more(fastlb, held):
    lb = fastlb(held, workers=3, pool=LONG)
    clients = send_requests(lb, 90)
    wait_for_open(held, 90)
    dead = 0
    for slot in range(3):
        death = kill_worker(lb, slot, exactly=True)
        dead += len(death.ports)
        wait_for_open(held, 90 - dead)
        wait_for_rows(lb, held)
        wait_for_restart(lb, 3, death)
        assert_consistent(lb)
    assert dead == 90
    for client in clients:
        assert client.read_to_ending()[0] == b""
    assert [row["in_flight"] for row in lb.backends()] == [0, 0, 0]


@pytest.mark.long
def test_counts_are_right_while_a_dead_worker_cannot_be_settled(fastlb, held):
    """A sibling stands still, perhaps in the middle of a claim; the watchdog ends that."""
    lb = fastlb(held, workers=3, pool=LONG)
    send_requests(lb, 60)
    wait_for_open(held, 60)
    stopped = lb.worker_pid(2)
    os.kill(stopped, signal.SIGSTOP)
    death = kill_worker(lb, 0, exactly=False)
    wait_for_workers(lb, 3, lambda row: row["pid"] not in (stopped, death.pid))
    wait_for_rows(lb, held)
    assert_consistent(lb)


CAP = 3


def play_with_cap(fastlb, keep, kills, workers, seed):
    """More clients than the backends may have, while workers die: no backend ever has more than its cap, nor fewer for good."""
    backends = [keep(LoopBackend(seconds=0.01)) for _ in range(2)]
    lb = fastlb([{"address": backend.address, "max_connections": CAP} for backend in backends], workers=workers, pool=LONG)
    dice = random.Random(seed)
    deaths = []
    with Load(("127.0.0.1", lb.port), fresh=8, kept=8, allowed=[503]) as load:
        for turn in range(kills):
            load.wait_for_answers(100)
            death = kill_worker(lb, dice.randrange(workers), exactly=turn % 2 == 0)
            deaths.append(death)
            for row in lb.backends():
                # A claim above the cap is taken back at once; each worker may be in the middle of one.
                assert 0 <= row["in_flight"] <= CAP + workers
            wait_for_restart(lb, workers, death)
            assert_consistent(lb)
        load.wait_for_answers(100)
    assert load.unexcused(deaths) == []
    assert load.answers[503] > 0, "the cap was reached"
    assert [backend.most for backend in backends] == [CAP, CAP]
    lb.rest()
    for backend in backends:
        backend.hold()
    clients = send_requests(lb, 2 * CAP)
    assert wait_for_open(backends, 2 * CAP) == [CAP, CAP], "all of it can be used"
    answer = lb.get()
    assert (answer.status, answer.reason) == (503, "pool_full")
    for backend in backends:
        backend.release()
    for client in clients:
        assert client.read_response().status == 200


def test_cap_holds_while_workers_die(fastlb, keep):
    play_with_cap(fastlb, keep, 2 if SANITIZED else 5, 3, "short")


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_cap_holds_over_a_hundred_deaths(fastlb, keep):
    play_with_cap(fastlb, keep, 20 if SANITIZED else 100, 4, "long")
