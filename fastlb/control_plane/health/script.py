"""The probe that runs a program, with no shell in between: exit code 0 passes.

The program gets a process group of its own, which is killed at the deadline and also when the program has ended: nothing that it started
goes on. (A process that leaves the group, by setsid, is beyond that.) What it writes is read and dropped but for the end, and a program
that writes more than MAX_OUTPUT_BYTES is killed. Its environment is made here: it has nothing of fastlb's own but PATH.
"""

import asyncio
import os
import signal
import time
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Mapping, Sequence
from typing import cast

from fastlb.control_plane.config.quantity import format_duration
from fastlb.control_plane.health.result import MAX_TEXT, Outcome, Result, clean, describe_error
from fastlb.control_plane.health.tcp import Done

KEPT_OUTPUT_BYTES = MAX_TEXT
MAX_OUTPUT_BYTES = 16 << 20
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def make_environment(pool: str, backend: str, host: str, port: int, weight: int) -> dict[str, str]:
    """What a program is told of the backend that it is to look at; `host`: an IP address, or the path of a unix socket."""
    return {
        "PATH": PATH,
        "FASTLB_POOL": pool,
        "FASTLB_BACKEND": backend,
        "FASTLB_ADDRESS": host,
        "FASTLB_PORT": str(port),
        "FASTLB_WEIGHT": str(weight),
    }


class ScriptProbe(asyncio.SubprocessProtocol):
    """One run of the program. `done` is called once, unless it is cancelled."""

    def __init__(
        self, loop: AbstractEventLoop, command: Sequence[str], environment: Mapping[str, str], timeout_ms: int, done: Done
    ) -> None:
        self._loop = loop
        self._command = command
        self._environment = environment
        self._timeout_ms = timeout_ms
        self._done: Done | None = done
        self._transport: asyncio.SubprocessTransport | None = None
        self._starting: asyncio.Task[None] | None = None
        self._timer: TimerHandle | None = None
        self._output = b""
        self._n_bytes = 0
        self._began = 0.0

    def start(self) -> None:
        self._began = time.monotonic()
        self._timer = self._loop.call_later(self._timeout_ms / 1000, self._on_time_out)
        self._starting = self._loop.create_task(self._spawn())

    def cancel(self) -> None:
        """Ends it, the program as well, without a result. Safe to repeat."""
        self._done = None
        self._release()

    async def _spawn(self) -> None:
        try:
            transport, _ = await self._loop.subprocess_exec(
                lambda: self,
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=self._environment,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            # A program that is not there says nothing about the backend.
            self._end(Outcome.UNKNOWN, f"cannot run {clean(self._command[0])}: {describe_error(error)}")
            return
        if self._done is None:  # ended while it was being made
            _kill_group(transport)

    # ------------------------------------------------------------------------------------------------ called by the loop
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)  # uvloop's is one, and does not say so

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._n_bytes += len(data)
        self._output = (self._output + data[-KEPT_OUTPUT_BYTES:])[-KEPT_OUTPUT_BYTES:]
        if self._n_bytes > MAX_OUTPUT_BYTES:
            self._end(Outcome.FAILED, f"wrote more than {MAX_OUTPUT_BYTES >> 20} MiB")

    def process_exited(self) -> None:
        # What it left in the pipe has arrived or arrives in this turn of the loop; whoever keeps the pipe open is not waited for.
        self._loop.call_soon(self._on_exit)

    def _on_exit(self) -> None:
        if self._transport is None:
            return
        code = self._transport.get_returncode()
        if code == 0:
            self._end(Outcome.PASSED, "exit code 0")
        elif code is not None and code < 0:
            self._end(Outcome.FAILED, f"killed by {_name_signal(-code)}")
        else:
            self._end(Outcome.FAILED, f"exit code {code}")

    def _on_time_out(self) -> None:
        self._end(Outcome.FAILED, f"timed out after {format_duration(self._timeout_ms)}")

    def _end(self, outcome: Outcome, text: str) -> None:
        done, self._done = self._done, None
        self._release()
        if done is not None:
            output = clean(self._output.decode(errors="replace"))
            done(Result(outcome, text, round((time.monotonic() - self._began) * 1e6), output))

    def _release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            _kill_group(self._transport)
            self._transport = None


def _kill_group(transport: asyncio.SubprocessTransport) -> None:
    """Kills the program and what it started, and lets go of its pipe."""
    pid = transport.get_pid()
    if pid is not None:
        try:
            os.killpg(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # gone, or changed its user: the program is not ours any more
            pass
    transport.close()


def _name_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
