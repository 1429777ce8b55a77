"""Latency with an open-loop client at half of what each proxy can do, direct and through it in turns."""

import json
import subprocess
from collections.abc import Callable

from bench.compare import native
from bench.compare.backend import Backend
from bench.compare.processes import CLIENT_CPU, BenchError, child_setup
from bench.compare.proxies import Proxy
from bench.compare.works import SMALL

CONNECTIONS = 64
WARM_UP_SECONDS = 0.3
SHARE_OF_MAXIMUM = 0.5


def measure_latency(
    proxies: list[Proxy], maxima: dict[str, float], backend: Backend, *, rounds: int, seconds: float, say: Callable[[str], None]
) -> list[dict[str, object]]:
    """For each proxy pairs of runs at one rate: to the backend itself, then through the proxy.

    `maxima` are requests per second, per proxy, from the closed-loop work with 64 connections.
    """
    pairs: list[dict[str, object]] = []
    for number in range(1, rounds + 1):
        for proxy in proxies:
            rate = maxima[proxy.name] * SHARE_OF_MAXIMUM
            pairs.append(
                {
                    "proxy": proxy.name,
                    "round": number,
                    "direct": measure_rate(backend.target, rate, seconds, "direct"),
                    "through": measure_rate(proxy.target, rate, seconds, proxy.name),
                }
            )
        say(f"latency: round {number} of {rounds}")
    return pairs


def measure_rate(target: str, rate: float, seconds: float, name: str) -> dict[str, float]:
    """Figures of the open-loop client at `rate` requests per second."""
    command = [native.program("openloop"), *target.split(":"), f"/bytes/{SMALL}"]
    command += [f"{rate:.0f}", str(WARM_UP_SECONDS), str(seconds), str(CONNECTIONS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=child_setup(CLIENT_CPU), timeout=seconds + 30)
    if done.returncode:
        raise BenchError(f"latency through {name}: {done.stdout}{done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout)
    return figures
