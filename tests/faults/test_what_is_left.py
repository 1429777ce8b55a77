"""The end of fastlb, in order or not, at rest or in the middle of something: no process, no socket and no file is left behind."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.backend import address_of, listen
from tests.support.configuration import configuration
from tests.support.load import Load, kill_worker, wait_for_restart
from tests.support.loop_backend import LoopBackend
from tests.support.message import request
from tests.support.process import ROOT, listening_inodes, session_members
from tests.support.waiting import DEADLINE_SECONDS, SANITIZED, wait_until

ENDING = [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT]


@pytest.fixture
def files():
    """A directory with a short name: a unix path has at most 107 bytes."""
    directory = Path(tempfile.mkdtemp(prefix="fastlb-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def start(fastlb, keep, files):
    """Starts fastlb with everything that could be left: a unix socket, a pid file, two workers."""

    def make(environment=None, **settings):
        backend = keep(LoopBackend())
        return fastlb(
            [backend],
            workers=2,
            environment=environment,
            listener={"bind": ["127.0.0.1:0", f"unix:{files}/web"]},
            settings={"pid_file": str(files / "pid"), "drain_idle_grace": "100ms", "drain_timeout": "1s", **settings},
        )

    return make


def assert_nothing_is_left(lb, files):
    assert session_members(lb.pid) == []
    assert listening_inodes(lb.port) == set()
    assert sorted(files.iterdir()) == []
    assert not (lb.directory / "control").exists()


@pytest.mark.parametrize("number", ENDING)
def test_nothing_is_left_after_an_end_under_load(start, files, number):
    lb = start()
    assert (files / "pid").read_text() == f"{lb.pid}\n"
    with Load(("127.0.0.1", lb.port), fresh=2, kept=2), Load(str(files / "web"), fresh=2, kept=2) as load:
        load.wait_for_answers(50)
        lb.connect(0)
        lb.connect(1).send(b"GET / HT")
        lb.signal(number)
        lb.wait_exit()
        assert_nothing_is_left(lb, files)


@pytest.mark.parametrize("number", ENDING)
def test_nothing_is_left_when_it_ends_while_a_worker_starts(start, files, number):
    lb = start()
    for pid in lb.worker_pids():
        os.kill(pid, signal.SIGKILL)
    lb.signal(number)
    lb.wait_exit()
    assert_nothing_is_left(lb, files)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGQUIT, marks=pytest.mark.long)])
def test_nothing_is_left_when_it_ends_while_a_configuration_changes(start, files, keep, number):
    """A worker stands still, so that the change is under way; SIGTERM does not wait for it, SIGQUIT until the watchdog ends it."""
    lb = start(drain_timeout="3s")
    os.kill(lb.worker_pid(1), signal.SIGSTOP)
    path = lb.write(configuration([keep(LoopBackend())]))
    lb.control.send("POST", "/v1/apply", {"config": str(path)})
    lb.control.patience(60)
    lb.signal(number)
    assert lb.process.wait(4 * DEADLINE_SECONDS) == 0
    assert_nothing_is_left(lb, files)


@pytest.mark.long
def test_workers_that_stand_still_are_killed_in_the_end(start, files):
    lb = start()
    for pid in lb.worker_pids():
        os.kill(pid, signal.SIGSTOP)
    lb.signal(signal.SIGTERM)
    assert lb.process.wait(2 * DEADLINE_SECONDS) == 0
    assert lb.messages().count("does not end: killed") == 2
    assert_nothing_is_left(lb, files)


@pytest.mark.long
def test_drain_waits_no_longer_than_its_time_for_workers_that_stand_still(start, files):
    lb = start(drain_timeout="300ms")
    for pid in lb.worker_pids():
        os.kill(pid, signal.SIGSTOP)
    lb.signal(signal.SIGQUIT)
    assert lb.process.wait(4 * DEADLINE_SECONDS) == 0
    assert_nothing_is_left(lb, files)


def test_killed_supervisor_without_a_runtime_directory_leaves_nothing_that_keeps_the_next_from_starting(start, files):
    """Nobody could find its workers again, so they end."""
    lb = start({"RUNTIME_DIRECTORY": str(files / "missing" / "run")})
    assert "its workers end with their supervisor" in lb.messages()
    idle = lb.connect()
    assert idle.ask(request()).status == 200
    lb.kill_supervisor()
    wait_until(lambda: session_members(lb.pid) == [], "all its processes have ended")
    assert listening_inodes(lb.port) == set()
    second = start()  # with the same pid file and the same unix socket
    assert second.get(bind=1).status == 200
    assert (files / "pid").read_text() == f"{second.pid}\n"
    second.signal(signal.SIGTERM)
    second.wait_exit()
    assert_nothing_is_left(second, files)


# ------------------------------------------------------------------------------------------------------------ starts that fail
def run_until_it_fails(files, text, *arguments):
    path = files / "config.toml"
    path.write_text(text)
    command = [sys.executable, "-m", "fastlb", "serve", "-c", str(path), "--workers", "2", "--admin", f"unix:{files}/control", *arguments]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    _, messages = process.communicate(timeout=2 * DEADLINE_SECONDS)
    path.unlink()
    assert process.returncode == 1
    assert session_members(process.pid) == []
    assert sorted(files.iterdir()) == []
    assert "Traceback" not in messages
    return messages


def as_root(*more):
    return ["--user", "root", *more] if os.geteuid() == 0 else []


def test_start_on_a_port_in_use_leaves_nothing(files):
    with listen() as taken:
        text = configuration(
            ["127.0.0.1:9"],
            listener={"bind": [f"unix:{files}/web", address_of(taken)]},
            settings={"pid_file": str(files / "pid")},
        )
        assert "address already in use" in run_until_it_fails(files, text, *as_root())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes accounts")
def test_start_under_an_account_that_does_not_exist_leaves_nothing(files):
    text = configuration(["127.0.0.1:9"], settings={"pid_file": str(files / "pid")})
    assert "no user" in run_until_it_fails(files, text, "--user", "no-such-account")


def test_start_with_the_pid_file_of_a_running_one_leaves_that_alone(start, files):
    lb = start()
    text = configuration(["127.0.0.1:9"], settings={"pid_file": str(files / "pid")})
    other = Path(tempfile.mkdtemp(prefix="fastlb-"))
    try:
        assert f"process {lb.pid} has the pid file" in run_until_it_fails(other, text, *as_root())
    finally:
        shutil.rmtree(other)
    assert (files / "pid").read_text() == f"{lb.pid}\n"
    assert lb.get().status == 200


def test_sigterm_at_any_moment_of_the_start_leaves_no_process(files):
    """In order once the signal is handled; before that the kernel ends what has been started so far."""
    text = configuration(["127.0.0.1:9"])
    path = files / "config.toml"
    path.write_text(text)
    command = [sys.executable, "-m", "fastlb", "serve", "-c", str(path), "--workers", "2", "--admin", "off", *as_root()]
    for moment in range(2 if SANITIZED else 6):
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        assert process.stdout is not None
        assert "workers" in process.stdout.readline()  # said just before the zygote is forked
        wait_until(lambda moment=moment, pid=process.pid: len(session_members(pid)) > min(moment, 4), "so many processes are there")
        process.send_signal(signal.SIGTERM)
        _, messages = process.communicate(timeout=2 * DEADLINE_SECONDS)
        assert process.returncode in (0, -signal.SIGTERM), messages
        assert "Traceback" not in messages
        wait_until(lambda pid=process.pid: session_members(pid) == [], "all processes have ended")


# ------------------------------------------------------------------------------------------------------------ unix sockets
def test_both_workers_accept_from_one_unix_socket(start, files):
    lb = start()
    for slot in range(2):
        pid = lb.worker_pid(1 - slot)
        os.kill(pid, signal.SIGSTOP)
        assert lb.get(bind=1).status == 200
        os.kill(pid, signal.SIGCONT)


def test_killed_workers_cost_nobody_who_connects_to_a_unix_socket(start, files):
    lb = start()
    deaths = []
    with Load(str(files / "web")) as load:
        for slot in (0, 1):
            load.wait_for_answers(50)
            deaths.append(kill_worker(lb, slot, exactly=False))
            wait_for_restart(lb, 2, deaths[-1])
        load.wait_for_answers(50)
    assert load.unexcused(deaths) == []


def test_refused_is_what_a_client_meets_after_the_end(start, files):
    """The load's own test."""
    lb = start()
    lb.signal(signal.SIGTERM)
    lb.wait_exit()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", lb.port)) != 0
    load = Load(("127.0.0.1", lb.port), fresh=1, kept=0)
    wait_until(lambda: load.of_kind("refused"), "the client is refused")
    load.stop()
