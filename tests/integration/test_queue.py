"""Requests that wait for a backend of a full pool, over several workers: none is lost or refused, and no backend has more than its cap."""

import contextlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.configuration import configuration
from tests.support.load import Load, client_ports, kill_worker, wait_for_restart, wait_for_workers
from tests.support.loop_backend import LoopBackend
from tests.support.message import request
from tests.support.waiting import SANITIZED, wait_until

CAP = 3
QUEUE = {"queue": {"max": 1000, "timeout": "60s"}}


@pytest.fixture
def backends(keep):
    return [keep(LoopBackend(seconds=0.003)) for _ in range(2)]


def capped(backends):
    return [{"address": backend.address, "max_connections": CAP} for backend in backends]


def test_more_clients_than_backends_may_have_are_all_served(fastlb, backends):
    lb = fastlb(capped(backends), workers=2, pool=QUEUE)
    with Load(("127.0.0.1", lb.port), fresh=12, kept=12, pause=0) as load:
        load.wait_for_answers(500 if SANITIZED else 3000)
    assert load.failures == []
    assert set(load.answers) == {200}
    assert [backend.most for backend in backends] == [CAP, CAP]
    assert lb.counter("waits_opened") > 0
    lb.rest()


@pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not installed")
def test_wrk_sees_no_error(fastlb, backends):
    lb = fastlb(capped(backends), workers=2, pool=QUEUE)
    out = subprocess.run(
        ["wrk", "-t2", "-c100", "-d1s", "--timeout", "30s", f"http://127.0.0.1:{lb.port}/"], capture_output=True, text=True, check=True
    ).stdout
    assert int(re.search(r"(\d+) requests in", out)[1]) > 0
    assert "Non-2xx" not in out, out
    assert "Socket errors" not in out, out
    assert [backend.most for backend in backends] == [CAP, CAP]


def test_a_place_that_comes_free_in_one_worker_serves_who_waits_in_the_other(fastlb, keep):
    backend = keep(LoopBackend())
    backend.hold()
    lb = fastlb([{"address": backend.address, "max_connections": 1}], workers=2, pool=QUEUE)
    clients = [lb.connect() for _ in range(40)]  # the kernel shares them out: some for each worker
    for client in clients:
        client.send(request())
    lb.wait_for(lambda counters: counters["waits_opened"] == 39, "all but one wait")
    for n in range(1, 41):
        wait_until(lambda n=n: backend.n_requests == n, f"{n} requests have come")
        backend.release(1)
    for client in clients:
        assert client.read_response().status == 200
    assert backend.most == 1


def test_who_waits_is_served_when_the_worker_that_had_the_place_dies(fastlb, keep):
    backend = keep(LoopBackend())
    backend.hold()
    lb = fastlb([{"address": backend.address, "max_connections": 1}], workers=2, pool=QUEUE)
    holder = lb.connect()
    holder.send(request())
    wait_until(lambda: backend.open == 1, "the place is taken")
    port = holder.socket.getsockname()[1]
    slot = next(slot for slot in range(2) if port in client_ports(lb.worker_pid(slot), lb.port))
    clients = [lb.connect() for _ in range(40)]
    for client in clients:
        client.send(request())
    lb.wait_for(lambda counters: counters["waits_opened"] == 40, "they wait")
    death = kill_worker(lb, slot, exactly=True)
    wait_until(lambda: backend.n_requests == 2, "a client of the other worker is served")
    backend.release()
    for client in clients:
        if client.socket.getsockname()[1] in death.ports:
            assert client.read_to_ending()[0] == b""
        else:
            assert client.read_response().status == 200
    wait_for_restart(lb, 2, death)


def test_a_worker_that_was_started_again_is_woken_by_its_siblings_and_wakes_them(fastlb, backends):
    lb = fastlb(capped(backends), workers=2, pool=QUEUE)
    deaths = []
    with Load(("127.0.0.1", lb.port), fresh=12, kept=12, pause=0) as load:
        for slot in (0, 1):
            load.wait_for_answers(300)
            death = kill_worker(lb, slot, exactly=False)
            deaths.append(death)
            wait_for_restart(lb, 2, death)
        load.wait_for_answers(1000)
    assert load.unexcused(deaths) == []
    assert set(load.answers) == {200}
    assert [backend.most for backend in backends] == [CAP, CAP]
    lb.rest()


def test_workers_that_join_later_and_those_that_were_there_can_wake_each_other(fastlb, backends):
    def text(count):
        return configuration(capped(backends), pool=QUEUE, settings={"workers": count})

    lb = fastlb(text(1), workers=0)
    alone = count_eventfds(lb.worker_pid(0))
    lb.apply_ok(text(3))
    wait_for_workers(lb, 3, lambda row: row["state"] == "ready")
    # One more for each sibling; the first worker is told of both others in one message.
    wait_until(lambda: {count_eventfds(pid) for pid in lb.worker_pids()} == {alone + 2}, "each has the eventfds of the others")


def count_eventfds(pid):
    found = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += str(entry.readlink()) == "anon_inode:[eventfd]"
    return found
