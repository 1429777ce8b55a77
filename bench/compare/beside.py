"""Do handshakes starve other connections? The latency of plain requests on a schedule, alone and while other clients shake hands."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.compare import handshakes
from bench.compare.backend import Backend
from bench.compare.latency import measure_rate
from bench.compare.proxies import ADDRESS, FASTLB, NGINX, Proxy, Setup, make_certificate, running_proxy
from bench.compare.works import SMALL

REQUESTS_PER_SECOND, HANDSHAKES_PER_SECOND = 2000, 500
_HANDSHAKES_AT_ONCE = 64
_PROXIES = (NGINX, FASTLB)


def measure_beside(
    names: Sequence[str], backend: Backend, directory: Path, *, rounds: int, seconds: float, say: Callable[[str], None]
) -> list[dict[str, object]]:
    """For each proxy pairs of runs at one rate: by themselves, and with full handshakes on another listener."""
    directory = directory / "beside"
    directory.mkdir(exist_ok=True)
    make_certificate(directory)
    pairs: list[dict[str, object]] = []
    with contextlib.ExitStack() as stack:
        proxies = [
            stack.enter_context(running_proxy(name, backend.target, directory, Setup(beside=True))) for name in _PROXIES if name in names
        ]
        for number in range(1, rounds + 1):
            for proxy in proxies:
                pairs.append({"proxy": proxy.name, "round": number, **_measure_pair(proxy, seconds)})
            say(f"tls-beside: round {number} of {rounds}")
    return pairs


def _measure_pair(proxy: Proxy, seconds: float) -> dict[str, object]:
    alone = measure_rate(proxy.target, REQUESTS_PER_SECOND, seconds, proxy.name)
    client = handshakes.start(
        f"{ADDRESS}:{proxy.tls_port}", f"/bytes/{SMALL}", _HANDSHAKES_AT_ONCE, handshakes.FULL, rate=HANDSHAKES_PER_SECOND
    )
    try:
        beside = measure_rate(proxy.target, REQUESTS_PER_SECOND, seconds, proxy.name)
    except BaseException:
        client.kill()
        client.communicate()
        raise
    made = handshakes.finish(client, _HANDSHAKES_AT_ONCE, handshakes.FULL)
    return {"alone": alone, "beside": beside, "handshakes_per_second": made.requests_per_second}
