"""fastlb/control_plane/health/script.py on uvloop, with real programs."""

import asyncio
import os
from asyncio import AbstractEventLoop
from pathlib import Path

import pytest

from fastlb.control_plane.health.result import Outcome, Result
from fastlb.control_plane.health.script import PATH, ScriptProbe, make_environment
from tests.support.descriptors import descriptors
from tests.support.probing import result_of, run
from tests.support.waiting import wait_until

PASSED, FAILED, UNKNOWN = Outcome.PASSED, Outcome.FAILED, Outcome.UNKNOWN
ENVIRONMENT = make_environment("api", "app.example:8080 (10.0.0.1)", "10.0.0.1", 8080, 3)


def sh(text: str, timeout_ms: int = 20_000) -> Result:
    return program("/bin/sh", "-c", text, timeout_ms=timeout_ms)


def program(*command: str, timeout_ms: int = 20_000) -> Result:
    async def test(loop: AbstractEventLoop) -> Result:
        before = descriptors()
        result = await result_of(lambda done: ScriptProbe(loop, command, ENVIRONMENT, timeout_ms, done))
        for _ in range(3):  # the loop closes what it let go of
            await asyncio.sleep(0)
        assert descriptors() <= before + 3  # pipes that the loop itself has made for signals
        return result

    return run(test)


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def command_of(entry: Path) -> bytes:
    try:
        return (entry / "cmdline").read_bytes()
    except OSError:  # it has ended meanwhile
        return b""


def runs(*command: str) -> bool:
    """Whether any process of this machine was started so."""
    wanted = b"".join(word.encode() + b"\0" for word in command)
    return any(command_of(entry) == wanted for entry in Path("/proc").glob("[0-9]*"))


async def wait_until_gone(pid: int) -> None:
    while not is_gone(pid):
        await asyncio.sleep(0.005)


def test_exit_code_0_passes_and_others_fail() -> None:
    result = sh("exit 0")
    assert (result.outcome, result.text, result.output) == (PASSED, "exit code 0", "")
    assert result.latency_us > 0
    assert (sh("exit 1").outcome, sh("exit 3").text) == (FAILED, "exit code 3")


def test_a_program_that_is_killed_fails() -> None:
    result = sh("kill -SEGV $$")
    assert (result.outcome, result.text) == (FAILED, "killed by SIGSEGV")


def test_the_environment_tells_of_the_backend_and_of_nothing_else() -> None:
    result = program("/usr/bin/env")
    told = {f"PATH={PATH}", "FASTLB_POOL=api", "FASTLB_BACKEND=app.example:8080 (10.0.0.1)", "FASTLB_ADDRESS=10.0.0.1", "FASTLB_PORT=8080"}
    assert result.output == " ".join([f"PATH={PATH}", *list(ENVIRONMENT_LINES)])
    assert told | {"FASTLB_WEIGHT=3"} == {f"{name}={value}" for name, value in ENVIRONMENT.items()}


ENVIRONMENT_LINES = [f"{name}={value}" for name, value in ENVIRONMENT.items() if name != "PATH"]


def test_no_shell_is_asked() -> None:
    assert program("/bin/echo", "$HOME; `id`").output == "$HOME; `id`"


def test_the_end_of_what_it_writes_is_kept_on_one_line() -> None:
    result = sh("echo first >&2; echo second; printf '\\033[31m\\000third'; exit 1")
    assert (result.text, result.output) == ("exit code 1", "first second [31m third")


def test_megabytes_are_read_and_dropped() -> None:
    result = sh("head -c 8000000 /dev/zero | tr '\\0' x; echo; echo the end")
    assert result.outcome is PASSED
    assert result.output.endswith("the end")
    assert len(result.output) <= 200


def test_a_program_that_writes_for_ever_is_killed() -> None:
    result = sh("while true; do head -c 1000000 /dev/zero; done")
    assert (result.outcome, result.text) == (FAILED, "wrote more than 16 MiB")


def test_a_program_that_hangs_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    noting = f"sleep 1000 & echo $! $$ > {pids}.new; mv {pids}.new {pids}"
    command = ("/bin/sh", "-c", f"{noting}; trap '' TERM INT HUP; echo waiting; sleep 1000")

    async def test(loop: AbstractEventLoop) -> None:
        found: asyncio.Future[Result] = loop.create_future()
        hanging = ScriptProbe(loop, command, ENVIRONMENT, 3_600_000, found.set_result)
        hanging.start()
        while not hanging._output.endswith(b"\n"):
            await asyncio.sleep(0.005)
        hanging._on_time_out()  # as its clock does, which does not wait for the machine to have come so far
        result = await found
        assert (result.outcome, result.text, result.output) == (FAILED, "timed out after 1h", "waiting")
        for pid in pids.read_text().split():
            await wait_until_gone(int(pid))

    run(test)


def test_the_clock_of_a_program_runs() -> None:
    async def test(loop: AbstractEventLoop) -> None:
        found: asyncio.Future[Result] = loop.create_future()
        slow = ScriptProbe(loop, ("/bin/sleep", "1000"), ENVIRONMENT, 1, found.set_result)
        slow.start()
        result = await found
        assert (result.outcome, result.text) == (FAILED, "timed out after 1ms")
        assert slow._starting is not None
        await slow._starting  # it may have been on its way still

    run(test)


def test_what_a_program_leaves_behind_is_killed_and_not_waited_for(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    result = sh(f"sleep 1000 & echo $! > {pid}; exit 0")  # it holds the pipe open
    assert result.outcome is PASSED
    wait_until(lambda: is_gone(int(pid.read_text())), "it is gone")


@pytest.mark.parametrize("path, reason", [("/nowhere/check", "no such file or directory"), ("/etc/passwd", "permission denied")])
def test_a_program_that_cannot_be_run_says_nothing_of_the_backend(path: str, reason: str) -> None:
    result = program(path)
    assert (result.outcome, result.text) == (UNKNOWN, f"cannot run {path}: {reason}")


def test_a_cancelled_probe_kills_its_program(tmp_path: Path) -> None:
    pid = tmp_path / "pid"

    async def test(loop: AbstractEventLoop) -> None:
        def fail(result: Result) -> None:
            pytest.fail(str(result))

        one = ScriptProbe(loop, ("/bin/sh", "-c", f"echo $$ > {pid}.new; mv {pid}.new {pid}; sleep 1000"), ENVIRONMENT, 60_000, fail)
        one.start()
        while not pid.exists():
            await asyncio.sleep(0.005)
        one.cancel()
        one.cancel()
        await wait_until_gone(int(pid.read_text()))

    run(test)


def test_a_probe_that_is_cancelled_before_its_program_runs_leaves_none() -> None:
    command = ("/bin/sleep", f"1000.{os.getpid()}")  # which no other run of the tests has

    async def test(loop: AbstractEventLoop) -> None:
        at_once = ScriptProbe(loop, command, ENVIRONMENT, 3_600_000, lambda result: pytest.fail(str(result)))
        at_once.start()
        at_once.cancel()
        assert at_once._starting is not None
        await at_once._starting
        while runs(*command):
            await asyncio.sleep(0.005)

    run(test)
