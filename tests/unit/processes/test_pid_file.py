"""The pid file: one owner at a time, stale ones replaced, removed only by its writer."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastlb.processes.pid_file import PidFile, PidFileError

# Writes the file, says so, and lives until its standard input ends.
OWNER = (
    "import sys; from fastlb.processes.pid_file import PidFile\n"
    "PidFile(sys.argv[1]).write()\n"
    "print('written', flush=True)\n"
    "sys.stdin.read()"
)


@contextmanager
def owner(path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that owns the file."""
    process = subprocess.Popen([sys.executable, "-c", OWNER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fastlb.pid"


def test_it_holds_the_number_of_this_process_and_goes_at_the_end(path: Path) -> None:
    file = PidFile(str(path))
    umask = os.umask(0o077)
    try:
        file.write()
    finally:
        os.umask(umask)
    assert path.read_text() == f"{os.getpid()}\n"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path]
    file.remove()
    file.remove()
    assert list(path.parent.iterdir()) == []


def test_without_a_path_nothing_happens() -> None:
    file = PidFile("")
    file.write()
    file.remove()


def test_a_live_owner_is_named_and_keeps_its_file(path: Path) -> None:
    with owner(path) as other:
        with pytest.raises(PidFileError, match=rf"fastlb runs already: process {other.pid} has the pid file {path}; stop it"):
            PidFile(str(path)).write()
        assert path.read_text() == f"{other.pid}\n"
        assert list(path.parent.iterdir()) == [path]


def test_what_a_dead_owner_left_is_replaced(path: Path) -> None:
    with owner(path) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert path.read_text() == f"{other.pid}\n"
        file = PidFile(str(path))
        file.write()
        assert path.read_text() == f"{os.getpid()}\n"
        file.remove()


@pytest.mark.parametrize("content", ["", "1\n", "\n", "99999999999", "1"])
def test_the_number_alone_keeps_nobody_away(path: Path, content: str) -> None:
    """Process 1 is alive and has no lock: the number has been used again, or it was never ours."""
    path.write_text(content)
    file = PidFile(str(path))
    file.write()
    assert path.read_text() == f"{os.getpid()}\n"
    file.remove()


def test_a_fork_inherits_no_ownership(path: Path) -> None:
    """A worker that outlives its supervisor does not keep the next one from starting."""
    code = (
        "import os, sys; from fastlb.processes.pid_file import PidFile\n"
        "PidFile(sys.argv[1]).write()\n"
        "if os.fork(): os._exit(0)\n"
        "print('orphan', flush=True); sys.stdin.read()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "orphan\n"
        process.wait()
        file = PidFile(str(path))
        file.write()
        file.remove()
    finally:
        process.communicate()  # ends the orphan


def test_somebody_elses_file_is_not_removed(path: Path) -> None:
    file = PidFile(str(path))
    file.write()
    path.unlink()
    path.write_text("another\n")
    file.remove()
    assert path.read_text() == "another\n"


def test_a_file_that_was_taken_away_is_no_problem(path: Path) -> None:
    file = PidFile(str(path))
    file.write()
    path.unlink()
    file.remove()
    assert not path.exists()


@pytest.mark.parametrize("content", ["root:x:0:0::/root:/bin/sh\n", "1" * 33, "12 13", "\0"])
def test_a_file_that_is_no_pid_file_is_left_alone(path: Path, content: str) -> None:
    path.write_text(content)
    with pytest.raises(PidFileError, match="is there and is no pid file"):
        PidFile(str(path)).write()
    assert path.read_text() == content
    assert list(path.parent.iterdir()) == [path]


def test_a_fifo_is_no_pid_file_and_nobody_waits_for_it(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(PidFileError, match="no pid file"):
        PidFile(str(path)).write()


@pytest.mark.parametrize(
    ("name", "reason"),
    [("missing/fastlb.pid", "no such file or directory"), ("file/fastlb.pid", "not a directory"), ("directory", "directory")],
)
def test_a_path_that_cannot_be_written_is_an_error(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    with pytest.raises(PidFileError, match=rf"cannot write the pid file {tmp_path}/{name}: .*{reason}"):
        PidFile(str(tmp_path / name)).write()


def test_a_link_is_not_followed(path: Path) -> None:
    target = path.with_name("target")
    target.write_text("5\n")
    path.symlink_to(target)
    with pytest.raises(PidFileError, match="cannot write the pid file"):
        PidFile(str(path)).write()
    assert target.read_text() == "5\n"


def test_of_many_that_start_at_once_one_wins(path: Path) -> None:
    path.write_text("12345\n")
    code = (
        "import sys; from fastlb import FastlbError; from fastlb.processes.pid_file import PidFile\n"
        "sys.stdin.readline()\n"
        "try: PidFile(sys.argv[1]).write(); print('won', flush=True)\n"
        "except FastlbError as error: print('lost', error, flush=True)\n"
        "sys.stdin.read()\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    try:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        said = [process.stdout.readline() for process in processes if process.stdout is not None]
        winners = [process.pid for process, line in zip(processes, said, strict=True) if line == "won\n"]
        assert winners == [int(path.read_text())], said
        assert list(path.parent.iterdir()) == [path]
    finally:
        for process in processes:
            process.communicate()


def test_it_steps_aside_for_a_successor_and_comes_back(tmp_path):
    path, aside = tmp_path / "pid", tmp_path / "pid.oldbin"
    ours = PidFile(str(path))
    ours.write()
    number = path.read_text()
    ours.step_aside()
    ours.step_aside()  # nothing more happens
    assert not path.exists()
    assert aside.read_text() == number
    path.write_text("1\n")  # of a successor that died
    ours.come_back()
    assert path.read_text() == number
    assert not aside.exists()
    ours.remove()
    assert list(tmp_path.iterdir()) == []


def test_it_is_removed_under_the_name_that_it_has(tmp_path):
    ours = PidFile(str(tmp_path / "pid"))
    ours.write()
    ours.step_aside()
    ours.remove()
    assert list(tmp_path.iterdir()) == []
