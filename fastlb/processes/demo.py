"""The backends of `fastlb serve` without arguments: three small HTTP servers, each a process of its own, so that one can be killed to
see what happens. Each answers with its name and with what it received.

The parent opens their sockets before it forks, so that they can be connected to at once, whenever the child is ready to accept.
"""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

BACKLOG = 4096


@dataclass(frozen=True, slots=True)
class DemoBackend:
    """A running demo backend."""

    name: str
    pid: int
    address: str


@contextmanager
def run_demo_backends(n_backends: int = 3) -> Iterator[list[DemoBackend]]:
    """Runs demo backends on free ports of 127.0.0.1 for as long as the block lasts, or until this process is gone.

    Fork before any thread or event loop exists.
    """
    # Children watch the reading end: its end of file is the end of the parent, whatever way that went.
    watched, held = os.pipe()
    backends: list[DemoBackend] = []
    try:
        for number in range(1, n_backends + 1):
            listening = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
            name, port = f"b{number}", listening.getsockname()[1]
            pid = os.fork()
            if pid == 0:
                os.close(held)
                _run_child(name, listening, watched)
            listening.close()  # the child's own now: it goes away with the child
            backends.append(DemoBackend(name, pid, f"127.0.0.1:{port}"))
        yield backends
    finally:
        os.close(held)
        os.close(watched)
        for backend in backends:
            os.kill(backend.pid, signal.SIGKILL)  # not yet waited for, so the pid is still its own
            os.waitpid(backend.pid, 0)


def _run_child(name: str, listening: socket.socket, watched: int) -> NoReturn:
    """The rest of the life of a forked child. Never returns into the parent's code."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the parent decides
        signal.signal(signal.SIGQUIT, signal.SIG_IGN)
        from fastlb.processes.demo_backend import serve_demo_backend

        serve_demo_backend(name, listening, watched)
        status = 0
    finally:
        os._exit(status)
