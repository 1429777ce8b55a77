"""Child processes: started pinned to one CPU, measured as a tree, and never left behind."""

import contextlib
import ctypes
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PROXY_CPU = 0
CLIENT_CPU = 1  # wrk, the backend and this program
START_SECONDS = 10.0
STOP_SECONDS = 3.0

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class BenchError(Exception):
    """The run cannot go on; the text says why."""


def child_setup(*cpus: int) -> Callable[[], None]:
    """What a child does between fork and exec: its CPUs, all descriptors it may have, and to end when this process ends."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

    def setup() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        os.sched_setaffinity(0, cpus)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    return setup


@dataclass(slots=True)
class Program:
    """A running process and its descendants."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    _pids: tuple[int, ...] = ()

    def refresh(self) -> None:
        """Look up the descendants; between two calls they are taken as unchanged."""
        if self.process.poll() is not None:
            raise BenchError(f"{self.name} ended with status {self.process.returncode}{self.log_tail()}")
        self._pids = tuple(descendants(self.process.pid))

    @property
    def pids(self) -> tuple[int, ...]:
        """The tree, as it was at the last refresh."""
        return self._pids

    def cpu_ns(self) -> int:
        """CPU time of the tree so far, user and system, threads that ended included. Nanoseconds."""
        return sum(cpu_clock_ns(pid) for pid in self._pids)

    def set_cpus(self, cpus: Sequence[int]) -> None:
        """Where it runs from now on."""
        self.refresh()
        for pid in self._pids:
            os.sched_setaffinity(pid, cpus)

    def pss_bytes(self) -> int:
        """Proportional set size of the tree: memory shared between processes is counted once."""
        self.refresh()
        return sum(pss_kib(pid) for pid in self._pids) * 1024

    def log_tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-15:]
        return "".join(f"\n    {line}" for line in lines)

    def wait_until_listening(self, address: str, port: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1):
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"{self.name} does not listen on {address}:{port}{self.log_tail()}")
            time.sleep(0.02)

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # it leads its own group; usually nobody is left in it
        self.process.wait()


@contextlib.contextmanager
def running(name: str, command: Sequence[str], *, cpus: Sequence[int], directory: Path, cwd: Path | None = None) -> Iterator[Program]:
    """Run a command as long as the block lasts. Its output goes to a file in `directory`."""
    log = directory / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            start_new_session=True,
            preexec_fn=child_setup(*cpus),
        )
    program = Program(name, process, log)
    try:
        yield program
    finally:
        program.stop()


def descendants(root: int) -> list[int]:
    """The process and all below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def cpu_clock_ns(pid: int) -> int:
    """CPU time of all threads of another process, from the scheduler's nanosecond clock (clock_getcpuclockid(3))."""
    return time.clock_gettime_ns((~pid << 3) | 2)


def pss_kib(pid: int) -> int:
    """Proportional set size of one process."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise BenchError(f"/proc/{pid}/smaps_rollup has no Pss line")


def free_port(start: int = 18080) -> int:
    """The next free TCP port from `start` on: below the ephemeral range, so that no outgoing connection takes it meanwhile."""
    for port in range(start, 32000):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise BenchError("no free port between 18080 and 32000")
