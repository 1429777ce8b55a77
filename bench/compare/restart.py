"""A worker that is killed: how long until another one is ready in its place; and what an idle worker costs in memory."""

import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.compare.backend import Backend
from bench.compare.processes import BenchError, pss_kib
from bench.compare.proxies import FASTLB, Setup, running_proxy

_WORKERS = 2
_PAUSE_SECONDS = 0.0005  # between two looks; the figures are no finer than this
_STEADY_SECONDS = 1.2  # after a shorter life the next worker would be held back
_LONGEST_SECONDS = 10.0


def measure_restart(backend: Backend, directory: Path, *, repeats: int, say: Callable[[str], None]) -> dict[str, Any]:
    """From the SIGKILL to the moment when the supervisor counts the new worker as ready, as the admin API shows it."""
    control = directory / "control"
    measured = []
    setup = Setup(workers=_WORKERS, arguments=("--admin", f"unix:{control}"))
    with running_proxy(FASTLB, backend.target, directory, setup, "restart"), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_LONGEST_SECONDS)
        connection.connect(str(control))
        admin = http.client.HTTPConnection("localhost")
        admin.sock = connection

        def workers() -> list[dict[str, Any]]:
            admin.request("GET", "/v1/processes")
            rows: list[dict[str, Any]] = json.loads(admin.getresponse().read())["processes"]
            return [row for row in rows if row["role"] == "worker"]

        def wait_until_ready(without: int) -> None:
            end = time.monotonic() + _LONGEST_SECONDS
            while any(row["state"] != "ready" or row["pid"] == without for row in workers()):
                if time.monotonic() > end:
                    raise BenchError(f"no worker was ready {_LONGEST_SECONDS:g} s after one was killed")
                time.sleep(_PAUSE_SECONDS)

        wait_until_ready(0)
        pss = [pss_kib(row["pid"]) * 1024 for row in workers()]
        for _ in range(repeats):
            time.sleep(_STEADY_SECONDS)
            pid = workers()[0]["pid"]
            killed = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            wait_until_ready(pid)
            measured.append((time.monotonic() - killed) * 1e3)
    say(f"restart: {repeats} workers killed")
    return {"pss_bytes": pss, "ms": measured}
