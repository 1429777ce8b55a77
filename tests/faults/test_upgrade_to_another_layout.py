"""Upgrades between two fastlbs that lay out their memory otherwise, under constant load: no request is lost, and no count."""

import os
import signal
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from tests.faults.test_upgrade_of_fastlb import SHIFT, Upgraded, begin, end_new, end_of_old, upgrade, workers_of
from tests.support.load import Load, wait_for_workers
from tests.support.loop_backend import LoopBackend
from tests.support.message import request
from tests.support.waiting import wait_until

# Its memory is of a version that no other fastlb knows, also none that runs this same program: there is no such build to be installed.
OTHER_LAYOUT = """
import os, runpy, struct, sys
from fastlb import _core

class SharedMemory:
    def __new__(cls, fd):
        raise ValueError("of another layout")

    @staticmethod
    def create(made=_core.SharedMemory.create):
        memory = made()
        os.pwrite(memory.fileno(), struct.pack("I", 1 << 30), 8)
        return memory

_core.SharedMemory = SharedMemory
sys.argv[0] = "fastlb"
runpy.run_module("fastlb", run_name="__main__")
"""


@pytest.fixture
def paced(keep):
    return [keep(LoopBackend()) for _ in range(2)]


@pytest.fixture
def start(fastlb, paced):
    def make(**options):
        prefix = [sys.executable, "-c", SHIFT, OTHER_LAYOUT]
        backends = [{"address": backend.address, **options} for backend in paced]
        return fastlb(backends, workers=2, prefix=prefix, settings={"drain_timeout": "5s"})

    return make


def read_counts(lb):
    """Every count of the page but those of single workers, which begin anew; and of this process."""
    _, _, content = lb.control.read("/metrics")
    found = {}
    for family in parse(content.decode()):
        for sample in family.samples:
            is_count = family.type == "counter" or (family.type == "histogram" and not sample.name.endswith("_sum"))
            if is_count and sample.name.startswith("fastlb_") and "worker" not in sample.labels:
                found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    assert len(found) > 100
    return found


def assert_grown(before, after):
    fallen = {key: (value, after.get(key)) for key, value in before.items() if after.get(key, -1) < value}
    assert not fallen


def attempts(lb):
    return sum(row["requests"] for row in lb.control.ask("backends")["backends"])


def test_no_request_and_no_count_is_lost_and_another_upgrade_follows(start):
    lb = start()
    with Load(("127.0.0.1", lb.port)) as load:
        load.wait_for_answers(50)
        before = read_counts(lb)
        new = Upgraded(lb, upgrade(lb))
        taken_over = read_counts(new)
        assert_grown(before, taken_over)
        assert sum(value for (name, _), value in taken_over.items() if name == "fastlb_requests_total") >= 50
        end_of_old(lb)
        assert_grown(taken_over, read_counts(new))
        load.wait_for_answers(30)
        before = read_counts(new)
        new.control.patience(60)
        status, answer = new.control.request("POST", "/v1/upgrade")
        assert status == 200, answer
        new.control.close()
        new = Upgraded(lb, answer["pid"])
        assert_grown(before, read_counts(new))
        load.wait_for_answers(30)
    assert load.failures == []
    assert "is not counted here" not in lb.messages()
    wait_until(lambda: list(new.control.ask("backends")["backends"][0]) and len(new.processes()) == 5, "the second one has ended")
    counters = wait_until(lambda: (c := new.wait_for_rest())["exchanges_opened"] == load.answered and c, "all is counted")
    assert counters["workers_died"] == counters["exchanges_lost"] == 0
    assert attempts(new) == counters["attempts_opened"] == load.answered
    assert all(row["in_flight"] == 0 for row in new.control.ask("backends")["backends"])
    new.stop()


def test_roll_back_counts_what_the_new_one_did(start):
    lb = start()
    with Load(("127.0.0.1", lb.port)) as load:
        load.wait_for_answers(30)
        before = read_counts(lb)
        pid = begin(lb)
        new = Upgraded(lb, pid)
        assert_grown(before, read_counts(new))
        lb.signal(signal.SIGWINCH)
        wait_until(lambda: workers_of(lb) == [], "the old workers have drained")
        load.wait_for_answers(30)
        before = read_counts(new)
        new.control.close()
        lb.signal(signal.SIGHUP)
        wait_for_workers(lb, 2)
        load.wait_for_answers(30)
    assert load.failures == []
    end_new(lb, pid)
    after = wait_until(lambda: lb.control.ask("counters")["counters"], "counts")
    assert after["exchanges_opened"] == load.answered + 1, "with the one that end_new has asked"
    assert_grown(before, read_counts(lb))
    assert "is not counted here" not in lb.messages()


def test_caps_hold_over_both_and_what_the_old_one_finishes_makes_room(start, paced):
    lb = start(max_connections=1)
    for backend in paced:
        backend.hold()
    clients = [lb.connect() for _ in paced]
    for client in clients:
        client.send(request())
    wait_until(lambda: sum(backend.open for backend in paced) == 2, "both backends are full")
    new = Upgraded(lb, begin(lb))
    lb.signal(signal.SIGWINCH)
    rows = new.control.ask("backends")["backends"]
    assert [row["in_flight"] for row in rows] == [1, 1], "in the old one's workers, counted in the memory of the new one"
    assert lb.get().status == 503
    for backend in paced:
        backend.release()
    for client in clients:
        assert client.read_response().status == 200
        client.close()
    wait_until(lambda: lb.get().status == 200, "there is room again")
    lb.signal(signal.SIGQUIT)
    end_of_old(lb)
    new.wait_for_rest()
    new.stop()


def test_old_one_that_is_killed_whole_is_settled_in_the_memory_of_the_new_one(start, paced):
    lb = start()
    for backend in paced:
        backend.hold()
    client = lb.connect()
    client.send(request())
    wait_until(lambda: sum(backend.open for backend in paced) == 1, "the request is with a backend")
    old = [row["pid"] for row in workers_of(lb)]
    new = Upgraded(lb, begin(lb))
    lb.signal(signal.SIGWINCH)
    assert sum(row["in_flight"] for row in new.control.ask("backends")["backends"]) == 1
    for pid in [lb.pid, *old]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue  # it had drained
    lb.process.wait()
    lb._was_killed = True
    wait_until(lambda: sum(row["in_flight"] for row in new.control.ask("backends")["backends"]) == 0, "given back")
    for backend in paced:
        backend.release()
    client.close()
    new.stop()
