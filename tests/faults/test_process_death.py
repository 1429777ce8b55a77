"""The processes beside the workers die under constant load: nobody who is served notices, and all of them come again."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.support.configuration import configuration
from tests.support.load import (
    Load,
    assert_consistent,
    assert_sockets_are_home,
    kill_worker,
    process_state,
    wait_for_end,
    wait_for_restart,
    wait_for_workers,
)
from tests.support.loop_backend import LoopBackend
from tests.support.message import request
from tests.support.process import ROOT
from tests.support.waiting import SANITIZED, wait_until

TURNS = 1 if SANITIZED else 3


@pytest.fixture
def paced(keep):
    return [keep(LoopBackend()) for _ in range(2)]


def pid_of(lb, role):
    (pid,) = (row["pid"] for row in lb.processes() if row["role"] == role)
    return pid


def test_controller_is_killed_and_the_next_one_knows_what_is_in_force(fastlb, paced):
    lb = fastlb(paced, workers=2)
    lb.apply_ok(configuration(paced))
    with Load(("127.0.0.1", lb.port)) as load:
        workers = [lb.worker_pid(slot) for slot in range(2)]
        for _ in range(TURNS):
            load.wait_for_answers(50)
            pid = pid_of(lb, "controller")
            os.kill(pid, signal.SIGKILL)
            wait_for_end(pid)
            lb.reconnect()
            assert pid_of(lb, "controller") != pid
            before = lb.control.ask("counters")["generation"]
            answer = lb.apply(configuration(paced))
            assert answer == {"ok": True, "generation": before + 1}
        assert [lb.worker_pid(slot) for slot in range(2)] == workers
        load.wait_for_answers(50)
    assert load.failures == []


@pytest.mark.long
def test_stopped_controller_is_killed_by_the_watchdog(fastlb, paced):
    lb = fastlb(paced, workers=1)
    with Load(("127.0.0.1", lb.port), fresh=2, kept=2) as load:
        pid = pid_of(lb, "controller")
        os.kill(pid, signal.SIGSTOP)
        wait_for_end(pid)
        lb.reconnect()
        load.wait_for_answers(50)
    assert load.failures == []
    assert "does not answer: killed" in lb.messages()


def test_zygote_is_killed_and_nobody_else_ends(fastlb, paced):
    lb = fastlb(paced, workers=2)
    with Load(("127.0.0.1", lb.port)) as load:
        others = {row["pid"] for row in lb.processes() if row["role"] != "zygote"}
        for _ in range(TURNS):
            load.wait_for_answers(50)
            pid = pid_of(lb, "zygote")
            os.kill(pid, signal.SIGKILL)
            wait_for_end(pid)
            wait_until(lambda pid=pid: pid_of(lb, "zygote") not in (pid, 0), "there is another zygote")
        assert {row["pid"] for row in lb.processes() if row["role"] != "zygote"} == others
        death = kill_worker(lb, 0, exactly=True)  # which the new zygote replaces
        wait_for_restart(lb, 2, death)
        load.wait_for_answers(50)
    assert load.unexcused([death]) == []


@pytest.mark.parametrize("order", ["worker first", "zygote first"])
def test_zygote_and_worker_are_killed_together(fastlb, paced, order):
    lb = fastlb(paced, workers=2)
    deaths = []
    with Load(("127.0.0.1", lb.port)) as load:
        for turn in range(TURNS):
            load.wait_for_answers(50)
            zygote = pid_of(lb, "zygote")
            if order == "zygote first":
                os.kill(zygote, signal.SIGKILL)
            death = kill_worker(lb, turn % 2, exactly=False)
            deaths.append(death)
            if order == "worker first":
                try:
                    os.kill(zygote, signal.SIGKILL)  # perhaps in the middle of forking
                except ProcessLookupError:
                    pass
            wait_for_end(zygote)
            wait_for_restart(lb, 2, death)
        assert_sockets_are_home(lb, 2)
        load.wait_for_answers(50)
    assert load.unexcused(deaths) == []
    lb.rest()
    assert_consistent(lb)


@pytest.mark.long
def test_zygote_that_stands_still_is_killed_and_its_work_done_by_another(fastlb, paced):
    lb = fastlb(paced, workers=2)
    with Load(("127.0.0.1", lb.port), pause=0.02) as load:
        zygote = pid_of(lb, "zygote")
        os.kill(zygote, signal.SIGSTOP)
        load.wait_for_answers(50)
        death = kill_worker(lb, 1, exactly=True)
        wait_for_end(zygote)  # which takes as long as a fork may take
        wait_for_restart(lb, 2, death)
        load.wait_for_answers(50)
    assert load.unexcused([death]) == []


def test_workers_that_nobody_could_find_finish_and_end_and_another_fastlb_can_start(fastlb, keep):
    """Those that can be found outlive their supervisor: test_supervisor_death.py."""
    slow = keep(LoopBackend())
    lb = fastlb([slow], workers=2, environment={"RUNTIME_DIRECTORY": "/dev/null/run"})
    rows = lb.processes()
    slow.hold()
    clients = [lb.connect() for _ in range(8)]
    for client in clients:
        client.send(request())
    wait_until(lambda: slow.open == 8, "all requests are with the backend")
    port = lb.port
    lb.kill_supervisor()
    for row in rows:
        if row["role"] in ("zygote", "controller"):
            wait_for_end(row["pid"])
    # Nobody accepts any more, so the port is free while the old workers finish.
    second = wait_until(lambda: try_start(lb, slow, port), "another fastlb starts on the same port")
    try:
        slow.release()
        for client in clients:
            answer = client.read_response()
            assert (answer.status, answer.closes) == (200, True)
            client.expect_end()
        assert lb.connect().ask(request()).status == 200
    finally:
        second.terminate()
        second.wait()
        assert second.stdout is not None
        second.stdout.close()
    for row in rows:
        wait_until(lambda row=row: process_state(row["pid"]) in ("", "Z"), f"{row} has ended")
    assert lb.messages().count("the supervisor is gone: draining") == 2


def try_start(lb, backend, port):
    """A second fastlb on this port, ready; None when the port is not free."""
    text = configuration([backend], listener={"bind": f"127.0.0.1:{port}"})
    command = [sys.executable, "-m", "fastlb", "serve", "-c", str(lb.write(text)), "--workers", "1", "--admin", "off"]
    command += ["--user", "root"] if os.geteuid() == 0 else []
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "ready (pid" in line:
            return process
    process.stdout.close()
    process.wait()
    return None


def test_everything_but_the_supervisor_is_killed_at_once(fastlb, paced):
    lb = fastlb(paced, workers=2)
    with Load(("127.0.0.1", lb.port)) as load:
        load.wait_for_answers(50)
        rows = [row for row in lb.processes() if row["role"] != "supervisor"]
        for row in rows:
            os.kill(row["pid"], signal.SIGKILL)
        for row in rows:
            wait_for_end(row["pid"])
        ended = time.monotonic()
        lb.reconnect()
        wait_for_workers(lb, 2, lambda row: row["pid"] not in {dead["pid"] for dead in rows})
        load.wait_for_answers(50)
    assert [failure for failure in load.failures if failure.kind != "broken" or failure.connecting > ended] == []
    lb.rest()
    assert_consistent(lb)
