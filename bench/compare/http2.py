"""HTTP/2 with TLS and without: h2load with 16 connections of 16 streams each; nginx and fastlb run side by side and take turns."""

import contextlib
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.compare.backend import Backend
from bench.compare.processes import CLIENT_CPU, BenchError, child_setup
from bench.compare.proxies import FASTLB, NGINX, Proxy, Setup, executable, make_certificate, running_proxy
from bench.compare.works import SMALL

CONNECTIONS, STREAMS = 16, 16
_LEAD_IN_SECONDS = 1.0
_PROXIES = (NGINX, FASTLB)
_AGREED = ("Cipher: TLS_AES_128_GCM_SHA256", "Application protocol: h2")
_DONE = re.compile(r"requests: .* (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout")


def measure_http2(
    names: Sequence[str],
    backend: Backend,
    directory: Path,
    *,
    tls: bool,
    rounds: int,
    passes: int,
    seconds: float,
    say: Callable[[str], None],
) -> list[dict[str, object]]:
    """Turns of all proxies that speak HTTP/2 here, after one round that is not kept. None without h2load."""
    if executable("h2load") is None:
        say("http2 is left out: h2load is not installed")
        return []
    directory = directory / ("tls-http2" if tls else "http2")
    directory.mkdir(exist_ok=True)
    if tls:
        make_certificate(directory)
    slots: list[dict[str, object]] = []
    with contextlib.ExitStack() as stack:
        proxies = [
            stack.enter_context(running_proxy(name, backend.target, directory, Setup(http2=True, tls=tls)))
            for name in _PROXIES
            if name in names
        ]
        for number in range(rounds + 1):
            for _ in range(passes if number else 1):
                for proxy in proxies:
                    slot = _measure_slot(proxy, backend, number, seconds)
                    if number:
                        slots.append(slot)
            say(f"{directory.name}: {f'round {number} of {rounds}' if number else 'warm-up'}")
    return slots


def _measure_slot(proxy: Proxy, backend: Backend, number: int, seconds: float) -> dict[str, object]:
    """CPU and requests of a window within a run of h2load; one request of the run that fails voids it."""
    proxy.program.refresh()
    command = ["h2load", "-t1", f"-c{CONNECTIONS}", f"-m{STREAMS}", f"-D{round(_LEAD_IN_SECONDS + seconds) + 1}"]
    client = subprocess.Popen(
        [*command, f"{proxy.url}/bytes/{SMALL}"],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=child_setup(CLIENT_CPU),
        start_new_session=True,
    )
    try:
        time.sleep(_LEAD_IN_SECONDS)
        started, cpu, (requests, _) = time.monotonic(), proxy.program.cpu_ns(), backend.read_counters()
        time.sleep(seconds)
        cpu_after, (requests_after, _) = proxy.program.cpu_ns(), backend.read_counters()
        window = time.monotonic() - started
        output = client.communicate(timeout=30)[0]
    except BaseException:
        client.kill()
        client.communicate()
        raise
    done = _DONE.search(output)
    if proxy.scheme == "https" and not all(line in output for line in _AGREED):
        raise BenchError(f"http2 through {proxy.name}: not agreed on {_AGREED}: {output}")
    if not done or not int(done[1]) or any(int(done[kind]) for kind in (2, 3, 4)) or requests_after == requests:
        raise BenchError(f"http2 through {proxy.name}: {output}{proxy.program.log_tail()}")
    return {
        "proxy": proxy.name,
        "round": number,
        "window_seconds": window,
        "requests": requests_after - requests,
        "cpu_us": (cpu_after - cpu) / 1e3,
        "requests_per_second": (requests_after - requests) / window,
    }
