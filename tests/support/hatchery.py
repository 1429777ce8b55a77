"""Starts `fastlb serve` processes without starting Python for each: a process that has imported all of fastlb forks them.

Python and its imports are two thirds of the cost of a start, and nine tenths under sanitizers, and the same every time. A process forked
here has its own session, descriptors, environment and limits, runs the same `main`, and ends as any other. What is about the start itself
(what a new interpreter reads, a command that runs another) begins with a new interpreter: `Fastlb(..., fresh=True)`.

The hatchery belongs to the test run that started it and ends with it. It keeps one socket for each process that it forked, which says the
pid first and then the status; whoever asked holds the other end.
"""

import atexit
import fcntl
import gc
import json
import os
import resource
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
# Of one request: arguments, environment.
MOST_BYTES = 1 << 17
MOST_DESCRIPTORS = 64
# Descriptors are moved above those that a test wants to have at a place of its own.
OUT_OF_THE_WAY = 500
NUMBER = struct.Struct("i")


class Hatched:
    """A process that the hatchery forked, with the face of subprocess.Popen."""

    def __init__(self, said: socket.socket, command: Sequence[str]) -> None:
        self._said = said  # owned
        self._command = command
        self.pid = self._next_number()
        self.returncode: int | None = None

    def _next_number(self) -> int:
        number: int = NUMBER.unpack(self._said.recv(NUMBER.size))[0]
        return number

    def poll(self) -> int | None:
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        status = self._look(timeout)
        if status is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self._command, timeout)
        return status

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            self._said.settimeout(timeout)
            try:
                self.returncode = self._next_number()
            except (BlockingIOError, TimeoutError):
                return None
            self._said.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Hatchery:
    """The side of the test run."""

    def __init__(self) -> None:
        self._open()

    def _open(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MOST_BYTES)
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  a test's captured output would go with the test
        with theirs:
            command = [sys.executable, "-m", "tests.support.hatchery", str(theirs.fileno())]
            self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=self._said, pass_fds=[theirs.fileno()])

    def _open_again(self) -> None:
        """It has ended: that costs no more than the tests whose processes it had, and is told."""
        self._socket.close()
        status = self._process.wait()
        self._said.seek(0)
        print(f"the hatchery ended with {status}: {self._said.read().decode(errors='replace')}", file=sys.stderr)
        self._said.close()
        self._open()

    def start(
        self, arguments: Sequence[str], *, stdout: int, stderr: int, environment: dict[str, str], pass_fds: Sequence[int], descriptors: int
    ) -> Hatched:
        """Has `fastlb ARGUMENTS` run. The descriptors given remain the caller's.

        Args:
            environment: all of it.
            pass_fds: what the process has under the same numbers.
            descriptors: soft and hard limit of open files; 0 = as here.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            order = {"arguments": list(arguments), "environment": environment, "pass_fds": list(pass_fds), "descriptors": descriptors}
            message, given = json.dumps(order).encode(), [theirs.fileno(), stdout, stderr, *pass_fds]
            try:
                socket.send_fds(self._socket, [message], given)
            except (BrokenPipeError, ConnectionResetError):
                self._open_again()
                socket.send_fds(self._socket, [message], given)
        return Hatched(ours, ["fastlb", *arguments])

    def close(self) -> None:
        self._socket.close()
        self._process.wait()
        self._said.close()


@cache
def hatchery() -> Hatchery:
    """That of this test run, which starts with the first who wants it."""
    made = Hatchery()
    atexit.register(made.close)
    return made


# ---------------------------------------------------------------------------------------------------- the process itself
def main(orders: socket.socket) -> None:
    """Forks until the test run ends. Returns in each process that it forked, with `sys.argv` set."""
    selector = selectors.PollSelector()  # which has no descriptor that would have to be closed after a fork
    selector.register(orders, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is not orders:
                selector.unregister(key.fileobj)
                _tell_status(*key.data)
                continue
            message, descriptors, _, _ = socket.recv_fds(orders, MOST_BYTES, MOST_DESCRIPTORS)
            if not message:
                sys.exit()
            said, *given = descriptors
            pid = os.fork()
            if pid == 0:
                orders.detach()  # closed with all the others
                _become(json.loads(message), given)
                return
            os.write(said, NUMBER.pack(pid))
            for descriptor in given:
                os.close(descriptor)
            process = os.pidfd_open(pid)
            selector.register(process, selectors.EVENT_READ, (pid, process, said))


def _tell_status(pid: int, process: int, said: int) -> None:
    _, status = os.waitpid(pid, 0)
    os.close(process)
    try:
        os.write(said, NUMBER.pack(os.waitstatus_to_exitcode(status)))
    except BrokenPipeError:
        pass  # nobody wants to know
    os.close(said)


def _become(order: dict[str, Any], given: list[int]) -> None:
    """Makes this process what a new one would be."""
    os.setsid()
    wanted = [1, 2, *order["pass_fds"]]
    # First all out of the way: a number that is wanted may be one of those given.
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, OUT_OF_THE_WAY) for descriptor in given]
    os.closerange(3, OUT_OF_THE_WAY)
    for descriptor, number in zip(moved, wanted, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(order["environment"])
    if order["descriptors"]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (order["descriptors"], order["descriptors"]))
    sys.argv = ["fastlb", *order["arguments"]]
    sys.orig_argv = [sys.executable, "-m", *sys.argv]


if __name__ == "__main__":
    import fastlb.cli.serve
    import fastlb.processes.launch

    gc.collect()
    gc.freeze()  # what exists now is not looked at again in the processes
    main(socket.socket(fileno=int(sys.argv[1])))
    fastlb.cli.main(prog_name="fastlb")
