"""Configurations that change while workers refuse, stand still or die: all of them use one snapshot in the end, the old or the new."""

import os
import random
import resource
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.support.configuration import configuration
from tests.support.load import Load, assert_consistent, kill_worker, wait_for_restart, wait_for_workers
from tests.support.loop_backend import LoopBackend
from tests.support.message import request, response
from tests.support.process import Control
from tests.support.waiting import SANITIZED, wait_until


@pytest.fixture
def paced(keep):
    return [keep(LoopBackend()) for _ in range(2)]


def generations(lb):
    """What each worker uses."""
    return [row["generation"] for row in lb.processes() if row["role"] == "worker"]


def wait_for_generation(lb, generation, workers=2):
    wait_until(lambda: generations(lb) == [generation] * workers, f"all workers use generation {generation}")


class Applying(threading.Thread):
    """An apply that is under way, in a conversation of its own."""

    def __init__(self, lb, text):
        super().__init__(daemon=True)
        self.path = str(lb.write(text))
        self.control = Control(lb.directory / "control")
        self.answer = None
        self.start()

    def run(self):
        self.answer = self.control.ask("apply", config=self.path)
        self.control.close()

    def result(self):
        self.join(60)
        return self.answer


def wait_for_prepared_image(pid, before):
    """Until a worker has mapped an image that it had not before."""
    wait_until(lambda: mapped_images(pid) - before, "the worker has prepared")


def mapped_images(pid):
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line.split()[4] for line in lines if "memfd:fastlb-snapshot" in line}


def no_more_memory(pid):
    """The process cannot map anything any more; returns what puts that right."""
    size = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(pid, resource.RLIMIT_AS, (size, hard))
    return lambda: resource.prlimit(pid, resource.RLIMIT_AS, (soft, hard))


@pytest.mark.skipif(SANITIZED, reason="sanitizers map memory on their own")
def test_worker_that_refuses_keeps_all_others_from_changing(fastlb, paced):
    lb = fastlb(paced, workers=3)
    pids = lb.worker_pids()
    with Load(("127.0.0.1", lb.port)) as load:
        load.wait_for_answers(50)
        mend = no_more_memory(lb.worker_pid(1))
        answer = lb.apply(configuration(paced, pool={"algorithm": "round_robin"}))
        assert not answer["ok"]
        (error,) = answer["errors"]
        assert error.startswith("worker 1 refused the configuration: ")
        assert generations(lb) == [1, 1, 1]
        load.wait_for_answers(50)
        mend()
        answer = lb.apply(configuration(paced, pool={"algorithm": "round_robin"}))
        assert answer["ok"], answer
        wait_for_generation(lb, answer["generation"], 3)
        load.wait_for_answers(50)
    assert load.failures == []
    assert lb.worker_pids() == pids


@pytest.mark.skipif(SANITIZED, reason="sanitizers map memory on their own")
def test_refusal_closes_the_sockets_that_the_configuration_would_have_had(fastlb, paced):
    lb = fastlb(paced, workers=2)
    path = lb.directory / "further.sock"
    wanted = configuration(paced, listener={"bind": ["127.0.0.1:0", f"unix:{path}"]})
    mend = no_more_memory(lb.worker_pid(0))
    assert not lb.apply(wanted)["ok"]
    assert not path.exists()
    mend()
    lb.apply_ok(wanted, new_sockets=1)
    assert lb.get(bind=1).status == 200


def test_worker_killed_before_it_has_prepared_does_not_hold_up_the_others(fastlb, paced):
    lb = fastlb(paced, workers=2)
    with Load(("127.0.0.1", lb.port)) as load:
        load.wait_for_answers(50)
        images = mapped_images(lb.worker_pid(1))
        os.kill(lb.worker_pid(0), signal.SIGSTOP)
        applying = Applying(lb, configuration(paced, pool={"algorithm": "round_robin"}))
        wait_for_prepared_image(lb.worker_pid(1), images)
        death = kill_worker(lb, 0, exactly=True)
        assert applying.result() == {"ok": True, "generation": 2}
        wait_for_restart(lb, 2, death)
        wait_for_generation(lb, 2)
    assert load.unexcused([death]) == []


def test_worker_restarted_between_prepare_and_commit_gets_the_committed_one(fastlb, paced):
    """One stands still, so that the snapshot is prepared and not committed; the other, which has prepared it, dies and comes again."""
    lb = fastlb(paced, workers=2)
    with Load(("127.0.0.1", lb.port), fresh=4, kept=4) as load:
        load.wait_for_answers(50)
        images = mapped_images(lb.worker_pid(1))
        pid = lb.worker_pid(0)
        os.kill(pid, signal.SIGSTOP)
        applying = Applying(lb, configuration(paced, pool={"algorithm": "round_robin"}))
        wait_for_prepared_image(lb.worker_pid(1), images)
        death = kill_worker(lb, 1, exactly=True)
        wait_for_restart(lb, 2, death)
        assert generations(lb)[1] == 1, "what is in force until the other one has voted"
        restarted = lb.worker_pid(1)
        os.kill(restarted, signal.SIGSTOP)
        os.kill(pid, signal.SIGCONT)
        wait_until(lambda: generations(lb)[0] == 2, "the one that stood still has changed")
        assert applying.answer is None, "the restarted one would still send somebody to what was in force before"
        os.kill(restarted, signal.SIGCONT)
        assert applying.result() == {"ok": True, "generation": 2}
        assert generations(lb) == [2, 2]
        assert lb.worker_pid(1) == restarted
        assert lb.worker_pid(0) == pid
        load.wait_for_answers(50)
    assert load.unexcused([death]) == []


@pytest.mark.long
def test_worker_that_stands_still_holds_up_an_apply_no_longer_than_the_watchdog(fastlb, paced):
    lb = fastlb(paced, workers=2)
    pid = lb.worker_pid(0)
    os.kill(pid, signal.SIGSTOP)
    lb.control.patience(60)
    lb.apply_ok(configuration(paced))
    wait_for_workers(lb, 2, lambda row: row["pid"] != pid)
    wait_for_generation(lb, 2)


def test_new_requests_never_go_back_to_the_old_configuration(fastlb, keep):
    """Once apply has answered, no worker sends anybody to the old backends, whoever dies."""
    backends = [keep(LoopBackend()) for _ in range(2)]
    lb = fastlb([backends[0]], workers=2)
    for turn in range(2 if SANITIZED else 6):
        new, old = backends[(turn + 1) % 2], backends[turn % 2]
        killer = threading.Thread(target=kill_worker, args=[View(lb), turn % 2], kwargs={"exactly": False})
        killer.start()
        lb.apply_ok(configuration([new]))
        before = old.n_requests
        for _ in range(20):
            assert lb.get().status == 200
        assert old.n_requests == before
        killer.join()
        wait_for_workers(lb, 2)


class View:
    """What kill_worker needs of a process, over a conversation of its own: the other one is busy with apply."""

    def __init__(self, lb):
        self.port = lb.port
        self.control = Control(lb.directory / "control")

    def worker_pid(self, slot):
        def look():
            rows = self.control.ask("processes")["processes"]
            return [row["pid"] for row in rows if row["role"] == "worker" and row["slot"] == slot and row["pid"]]

        return wait_until(look, f"worker {slot} is there")[0]


def change_and_kill(fastlb, backends, seconds, workers, seed):
    """Configurations change without end while workers are killed at random moments; at the end all use the last one."""
    lb = fastlb(backends, workers=workers)
    texts = [configuration(backends, pool={"algorithm": name}) for name in ("round_robin", "weighted_least_connections")]
    deaths = []
    stop = threading.Event()
    errors = []

    def kill_at_random():
        dice = random.Random(seed)
        view = View(lb)
        try:
            while not stop.wait(dice.uniform(0.3, 0.8)):
                deaths.append(kill_worker(view, dice.randrange(workers), exactly=False))
        except BaseException as error:
            errors.append(error)
        finally:
            view.control.close()

    with Load(("127.0.0.1", lb.port)) as load:
        killer = threading.Thread(target=kill_at_random, daemon=True)
        killer.start()
        end = time.monotonic() + seconds
        applied = 0
        try:
            while time.monotonic() < end:
                lb.apply_ok(texts[applied % 2])
                applied += 1
        finally:
            stop.set()
            killer.join()
        assert errors == []
        wait_for_workers(lb, workers)
        generation = lb.control.ask("counters")["generation"]
        assert generation == applied + 1
        wait_for_generation(lb, generation, workers)
        load.wait_for_answers(50)
    assert load.unexcused(deaths) == []
    assert len(deaths) > 2
    assert "mistake" not in lb.messages()
    lb.rest()
    assert_consistent(lb)


def test_configurations_change_while_workers_are_killed(fastlb, paced):
    change_and_kill(fastlb, paced, 4, 2, "short")


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_configurations_change_for_minutes_while_workers_are_killed(fastlb, paced):
    change_and_kill(fastlb, paced, 200, 3, "long")


def test_idle_client_of_a_worker_that_was_not_killed_sees_every_change(fastlb, keep):
    one, two = keep(LoopBackend(answer=response(b"one"))), keep(LoopBackend(answer=response(b"two")))
    lb = fastlb([one], workers=2)
    clients = [lb.connect() for _ in range(16)]
    assert {client.ask(request()).body for client in clients} == {b"one"}
    lb.apply_ok(configuration([two]))
    assert {client.ask(request()).body for client in clients} == {b"two"}
