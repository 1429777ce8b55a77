"""The backend process and its shared counters."""

import contextlib
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.compare import native
from bench.compare.processes import CLIENT_CPU, Program, free_port, running

ADDRESS = "127.0.0.1"
_COUNTERS = struct.Struct("=QQ")  # struct Counters in backend.c


@dataclass(frozen=True, slots=True)
class Backend:
    port: int
    program: Program
    counters: mmap.mmap

    @property
    def target(self) -> str:
        return f"{ADDRESS}:{self.port}"

    def read_counters(self) -> tuple[int, int]:
        """Requests answered and connections accepted since the start."""
        requests, connections = _COUNTERS.unpack_from(self.counters)
        return requests, connections


@contextlib.contextmanager
def running_backend(directory: Path) -> Iterator[Backend]:
    path, port = directory / "backend.counters", free_port()
    command = [native.program("backend"), str(path), ADDRESS, str(port)]
    with running("backend", command, cpus=(CLIENT_CPU,), directory=directory) as program:
        program.wait_until_listening(ADDRESS, port)
        with path.open("rb") as file, mmap.mmap(file.fileno(), _COUNTERS.size, prot=mmap.PROT_READ) as counters:
            yield Backend(port, program, counters)
