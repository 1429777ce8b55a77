"""How long a proxy takes from the fork that starts it to the first response that came through it."""

import socket
import time
from collections.abc import Callable
from pathlib import Path

from bench.compare.backend import Backend
from bench.compare.processes import BenchError
from bench.compare.proxies import ADDRESS, Proxy, launched_proxy
from bench.compare.works import SMALL

_PAUSE_SECONDS = 0.0005  # between two tries; the figures are no finer than this
_LONGEST_SECONDS = 20.0


def measure_start(
    names: list[str], backend: Backend, directory: Path, *, repeats: int, say: Callable[[str], None]
) -> list[dict[str, object]]:
    """Fresh processes in turns, after one of each that is not kept: files are in memory then, as after a first start."""
    measured: list[dict[str, object]] = []
    for number in range(repeats + 1):
        for name in names:
            started = time.monotonic()
            with launched_proxy(name, backend.target, directory) as proxy:
                _wait_for_response(proxy, started)
                taken = time.monotonic() - started
            if number:
                measured.append({"proxy": name, "round": number, "ms": taken * 1e3})
    say(f"start: {repeats} rounds")
    return measured


def _wait_for_response(proxy: Proxy, started: float) -> None:
    request = f"GET /bytes/{SMALL} HTTP/1.1\r\nHost: {proxy.target}\r\n\r\n".encode()
    while True:
        try:
            with socket.create_connection((ADDRESS, proxy.port), timeout=_LONGEST_SECONDS) as connection:
                connection.sendall(request)
                if connection.recv(4096).startswith(b"HTTP/1.1 200 "):
                    return
        except OSError:
            pass  # it does not listen yet
        proxy.program.refresh()
        if time.monotonic() - started > _LONGEST_SECONDS:
            raise BenchError(f"{proxy.name} served no request within {_LONGEST_SECONDS:g} s{proxy.program.log_tail()}")
        time.sleep(_PAUSE_SECONDS)
