"""Memory of idle keep-alive client connections, and of idle TCP sessions: what thousands of them add to the proxy's PSS."""

import contextlib
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.compare.backend import Backend
from bench.compare.processes import CLIENT_CPU, BenchError, child_setup
from bench.compare.proxies import ADDRESS, RELAY, USUAL, Proxy, Setup, make_certificate, running_proxy
from bench.compare.works import IDLE_CONNECTIONS, IDLE_TLS_CONNECTIONS

_HOLD = Path(__file__).with_name("hold.py")
_WARM_UP_CONNECTIONS = 200  # held before the first reading, so that what a proxy allocates once is not counted
_SPARE_FILES = 300  # more than any of them keeps for itself
_SETTLE_SECONDS = 0.5
_START_SECONDS = 60


def measure_idle(
    names: list[str],
    backend: Backend,
    directory: Path,
    *,
    repeats: int,
    say: Callable[[str], None],
    setup: Setup = USUAL,
) -> list[dict[str, object]]:
    """A fresh process per measurement. Bytes are those of user memory; the kernel's are not in it."""
    measured: list[dict[str, object]] = []
    directory = directory / ("idle-tls" if setup.tls else "idle-tcp" if setup.tcp else "idle")
    directory.mkdir(exist_ok=True)
    if setup.tls:
        make_certificate(directory)
    count = IDLE_TLS_CONNECTIONS if setup.tls else IDLE_CONNECTIONS
    for number in range(1, repeats + 1):
        for name in names:
            with running_proxy(name, backend.target, directory, setup) as proxy:
                most = _most_connections(2 if setup.tcp or name == RELAY else 1)
                measured.append({"proxy": name, "round": number, **_measure(proxy, min(count, most))})
        say(f"{directory.name}: round {number} of {repeats}")
    return measured


def _most_connections(each: int) -> int:
    """What the descriptor limit allows, where a client takes so many descriptors of the proxy."""
    return (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - _SPARE_FILES) // each - _WARM_UP_CONNECTIONS


def _measure(proxy: Proxy, count: int) -> dict[str, object]:
    with _holding(proxy, _WARM_UP_CONNECTIONS):
        time.sleep(_SETTLE_SECONDS)
        before = proxy.program.pss_bytes()
        with _holding(proxy, count):
            time.sleep(_SETTLE_SECONDS)
            after = proxy.program.pss_bytes()
    return {"connections": count, "pss_before": before, "pss_after": after, "bytes_per_connection": (after - before) / count}


@contextlib.contextmanager
def _holding(proxy: Proxy, count: int) -> Iterator[None]:
    holder = subprocess.Popen(
        [sys.executable, str(_HOLD), ADDRESS, str(proxy.port), str(count), proxy.scheme],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=child_setup(CLIENT_CPU),
    )
    try:
        assert holder.stdout is not None
        if holder.stdout.readline() != "held\n":
            raise BenchError(f"cannot hold {count} connections through {proxy.name}: {holder.communicate()[1]}{proxy.program.log_tail()}")
        yield
        still_open = holder.communicate("\n", timeout=_START_SECONDS)[0]
        if int(still_open) != count:
            raise BenchError(f"{proxy.name} kept {still_open.strip()} of {count} idle connections")
    finally:
        holder.kill()
        holder.wait()
