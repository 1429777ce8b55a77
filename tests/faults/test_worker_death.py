"""Workers that are killed under constant load: only exchanges inside them fail, others serve at once, and the counts are exact again."""

import os
import random
import select
import signal
import time

import pytest

from fastlb.processes.roster import STEADY_SECONDS
from tests.support.configuration import configuration
from tests.support.load import (
    HUNG,
    Death,
    Load,
    assert_consistent,
    assert_sockets_are_home,
    kill_worker,
    wait_for_end,
    wait_for_restart,
    wait_for_workers,
)
from tests.support.loop_backend import LoopBackend
from tests.support.process import listening_inodes
from tests.support.waiting import SANITIZED, wait_until

TARGETS = ("/", "/", "/slow")
TIMEOUTS = {"timeouts": {"first_byte": "60s", "connect": "60s"}}


@pytest.fixture
def paced(keep):
    """Backends that answer at once, and slowly where they are asked to."""
    return [keep(LoopBackend()) for _ in range(2)]


def keep_killing(fastlb, backends, kills, workers, seed):
    """Kills one worker after the other while clients ask. Of every other one it is known which clients it had."""
    lb = fastlb(backends, workers=workers, pool=TIMEOUTS)
    dice = random.Random(seed)
    deaths = []

    def steady():
        """Workers that have lived a while: the next one starts at once."""
        last = {death.slot: death.dead for death in deaths}
        return [slot for slot in range(workers) if time.monotonic() - last.get(slot, 0.0) > STEADY_SECONDS + 0.1]

    with Load(("127.0.0.1", lb.port), targets=TARGETS) as load:
        load.wait_for_answers(100)
        for turn in range(kills):
            death = kill_worker(lb, dice.choice(wait_until(steady, "a worker has lived a while")), exactly=turn % 2 == 0)
            deaths.append(death)
            load.wait_for_answers(dice.choice((5, 20, 60)))
            wait_for_restart(lb, workers, death)
            assert_consistent(lb)
            assert load.unexcused(deaths) == []
        assert_sockets_are_home(lb, workers)
        load.wait_for_answers(100)
    assert load.unexcused(deaths) == []
    counters = lb.rest()
    assert_consistent(lb)
    assert counters["workers_died"] == kills
    assert sum(row["restarts"] for row in lb.processes() if row["role"] == "worker") == kills


def test_killed_workers_take_only_their_own_exchanges_with_them(fastlb, paced):
    keep_killing(fastlb, paced, 3 if SANITIZED else 12, 2, "short")


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("workers", [2, 4])
def test_hundreds_of_workers_are_killed(fastlb, paced, workers):
    keep_killing(fastlb, paced, 50 if SANITIZED else 400, workers, workers)


def test_stopped_worker_is_killed_by_the_watchdog_and_delays_nobody_longer(fastlb, paced):
    lb = fastlb(paced, workers=2, pool=TIMEOUTS)
    pid = lb.worker_pid(1)
    with Load(("127.0.0.1", lb.port), targets=TARGETS) as load:
        load.wait_for_answers(100)
        descriptor = os.pidfd_open(pid)
        before = load.answered
        signal.pidfd_send_signal(descriptor, signal.SIGSTOP)
        assert select.select([descriptor], [], [], 60 if SANITIZED else 30)[0], "the watchdog sleeps"
        os.close(descriptor)
        assert load.answered > before, "the other worker goes on"
        wait_for_workers(lb, 2, lambda row: row["pid"] != pid)
        load.wait_for_answers(100)
    # Whoever was with the stopped worker loses that exchange; whoever waits in the queue of its socket is served when that is lent.
    assert [failure for failure in load.failures if failure.kind != "broken"] == []
    assert len(load.failures) <= 12  # each client has one connection
    assert "has not moved for 5 s: killed" in lb.messages()
    assert_consistent(lb)


def test_clients_in_the_queue_of_a_stopped_worker_are_served_when_it_is_killed(fastlb, instant):
    lb = fastlb([instant()], workers=2, listener={"defer_accept": False})
    os.kill(lb.worker_pid(0), signal.SIGSTOP)
    clients = [lb.connect() for _ in range(64)]  # in both queues, all but certainly
    for client in clients:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    kill_worker(lb, 0, exactly=False)
    for client in clients:
        assert client.read_response().status == 200


def test_crash_loop_of_one_worker_costs_nobody_anything(fastlb, paced):
    lb = fastlb(paced, workers=2, pool=TIMEOUTS)
    deaths = []
    seen = set()
    with Load(("127.0.0.1", lb.port), targets=TARGETS) as load:
        load.wait_for_answers(100)

        def appears():
            (row,) = (row for row in lb.processes() if row["role"] == "worker" and row["slot"] == 1)
            return row["pid"] if row["pid"] not in seen | {0} else 0

        sibling = lb.worker_pid(0)
        for _ in range(3 if SANITIZED else 6):
            pid = wait_until(appears, "worker 1 is there again")
            seen.add(pid)
            deaths.append(kill_now(lb, 1, pid))
            load.wait_for_answers(20)
        assert " in 0." in lb.messages() or " in 1." in lb.messages(), "it waits longer from death to death"
        assert lb.worker_pid(0) == sibling
        wait_for_workers(lb, 2, lambda row: row["pid"] not in seen)
        assert_sockets_are_home(lb, 2)
        load.wait_for_answers(100)
    assert load.unexcused(deaths) == []


def kill_now(lb, slot, pid):
    """As kill_worker, for one that need not be ready."""
    descriptor = os.pidfd_open(pid)
    killed = time.monotonic()
    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    assert select.select([descriptor], [], [], 60)[0]
    os.close(descriptor)
    return Death(slot, pid, killed, time.monotonic(), None)


def test_all_workers_killed_at_once_lose_nobody_who_connects(fastlb, paced):
    lb = fastlb(paced, workers=2, pool=TIMEOUTS)
    deaths = []
    with Load(("127.0.0.1", lb.port), targets=TARGETS) as load:
        for _ in range(1 if SANITIZED else 3):
            load.wait_for_answers(100)
            pids = [lb.worker_pid(slot) for slot in range(2)]
            for slot, pid in enumerate(pids):
                deaths.append(kill_now(lb, slot, pid))
            wait_for_workers(lb, 2, lambda row, pids=pids: row["pid"] not in pids)
        load.wait_for_answers(100)
    # A sibling that died as well may have held a lent socket: the later death excuses its clients too.
    assert load.unexcused(deaths) == []
    lb.rest()
    assert_consistent(lb)


def test_death_between_lending_and_giving_back_loses_nobody(fastlb, paced):
    """The sibling that holds a lent socket dies before the home is ready again."""
    lb = fastlb(paced, workers=3, pool=TIMEOUTS)
    deaths = []
    with Load(("127.0.0.1", lb.port), targets=TARGETS) as load:
        for _ in range(2 if SANITIZED else 5):
            load.wait_for_answers(50)
            pids = [lb.worker_pid(slot) for slot in range(3)]
            for slot in (0, 1):
                deaths.append(kill_now(lb, slot, pids[slot]))
            wait_for_workers(lb, 3, lambda row, dead=pids[:2]: row["pid"] not in dead)
        assert_sockets_are_home(lb, 3)
        load.wait_for_answers(100)
    assert load.unexcused(deaths) == []


def test_number_of_workers_changes_and_nobody_notices(fastlb, paced):
    def text(workers):
        return configuration(paced, pool=TIMEOUTS, settings={"workers": workers})

    lb = fastlb(text(4), workers=0)
    with Load(("127.0.0.1", lb.port), targets=TARGETS) as load:
        for workers in (2, 4) if SANITIZED else (2, 4, 1, 4):
            load.wait_for_answers(100)
            leaving = [lb.worker_pid(slot) for slot in range(workers, 4)]
            lb.apply_ok(text(workers))
            wait_for_workers(lb, workers)
            for pid in leaving:
                wait_for_end(pid)
            assert len(listening_inodes(lb.port)) == 4, "a socket that is closed resets who waits in it"
            load.wait_for_answers(100)
        assert_sockets_are_home(lb, 4)
    assert load.failures == []
    assert_consistent(lb)


def test_hung_is_what_a_client_without_an_answer_is(fastlb, scripted, monkeypatch):
    """The load's own test: a backend that never answers."""
    monkeypatch.setattr("tests.support.load.DEADLINE_SECONDS", 0.2)
    silent = scripted()
    lb = fastlb([silent], pool=TIMEOUTS)
    load = Load(("127.0.0.1", lb.port), fresh=1, kept=1)
    wait_until(lambda: len(load.of_kind(HUNG)) >= 2, "both clients give up")
    monkeypatch.undo()
    load.stop()
    assert load.unexcused([Death(0, 0, 0.0, 1e12, None)]) == load.failures
