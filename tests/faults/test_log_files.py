"""Logs that are moved away and opened again under load, by several workers, some of which die: no line is lost but what died with one."""

import os
import signal

from tests.support.load import Load, kill_worker, wait_for_restart
from tests.support.loop_backend import LoopBackend
from tests.support.message import request
from tests.support.process import session_members
from tests.support.waiting import SANITIZED, wait_until

LINE = '[access_log]\nto = "{path}"\nformat = "{{target}} {{status}}"\n'


def start(fastlb, keep, path, workers=2):
    backend = keep(LoopBackend())
    text = f'[[listeners]]\nname = "web"\nbind = "127.0.0.1:0"\n[pools.main]\nbackends = ["{backend.address}"]\n'
    return fastlb(LINE.format(path=path) + text, workers=workers)


def count_lines(directory):
    return sum(path.read_bytes().count(b"/ 200\n") for path in directory.glob("log*"))


def test_no_line_is_lost_when_files_are_moved_away_under_load(fastlb, keep, tmp_path):
    log = tmp_path / "log"
    lb = start(fastlb, keep, log)
    with Load(("127.0.0.1", lb.port)) as load:
        for turn in range(2 if SANITIZED else 6):
            load.wait_for_answers(50)
            log.rename(tmp_path / f"log.{turn}")
            lb.signal(signal.SIGUSR1)
            wait_until(log.exists, "the log is open again")
    assert load.failures == []
    wait_until(lambda: count_lines(tmp_path) == load.answered, "there is a line for each request")


def test_worker_that_comes_later_writes_to_the_file_of_today(fastlb, keep, tmp_path):
    log, moved = tmp_path / "log", tmp_path / "log.1"
    lb = start(fastlb, keep, log)
    lb.get()
    wait_until(lambda: count_lines(tmp_path) == 1, "the line is there")
    log.rename(moved)
    lb.signal(signal.SIGUSR1)
    wait_until(log.exists, "the log is open again")
    for slot in range(2):
        wait_for_restart(lb, 2, kill_worker(lb, slot, exactly=False))
    size = moved.stat().st_size
    clients = [lb.connect() for _ in range(16)]
    for client in clients:
        assert client.ask(request()).status == 200
    wait_until(lambda: count_lines(tmp_path) == 17, "all lines are there")
    assert moved.stat().st_size == size
    assert log.read_bytes().count(b"\n") == 16


def test_only_what_a_killed_worker_had_not_written_is_missing(fastlb, keep, tmp_path):
    log = tmp_path / "log"
    lb = start(fastlb, keep, log)
    with Load(("127.0.0.1", lb.port)) as load:
        load.wait_for_answers(100)
        death = kill_worker(lb, 0, exactly=True)
        wait_for_restart(lb, 2, death)
        load.wait_for_answers(100)
    assert load.unexcused([death]) == []
    lb.rest()
    text = log.read_bytes()
    lines = text.splitlines(keepends=True)
    whole = [line for line in lines if line == b"/ 200\n"]
    assert len(lines) - len(whole) <= 1, "a line that is cut short is the dead one's last"
    assert 200 <= len(whole) <= load.answered + len(load.failures)


def test_signal_for_the_logs_reaches_nobody_else(fastlb, keep, tmp_path):
    """logrotate may send it to the whole group: workers must not die of it."""
    lb = start(fastlb, keep, tmp_path / "log")
    members = session_members(lb.pid)
    assert len(members) == 5
    for pid in members:
        os.kill(pid, signal.SIGUSR1)
    assert lb.get().status == 200
    assert sorted(session_members(lb.pid)) == sorted(members)
