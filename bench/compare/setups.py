"""What a second worker, an access log, and routes with header edits cost: proxies in several setups, which take turns at the first work."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from bench.compare.backend import Backend
from bench.compare.processes import CLIENT_CPU, PROXY_CPU, BenchError
from bench.compare.proxies import FASTLB, HAPROXY, NGINX, RELAY, Proxy, Setup, make_certificate, running_proxy
from bench.compare.same_work import check_edits, check_proxy
from bench.compare.turns import measure_slot
from bench.compare.works import TCP_WORKS, WORKS, Work

BOTH_CPUS = (PROXY_CPU, CLIENT_CPU)
# Labels are "proxy, setup": the part before the comma is the proxy, the first setup of a proxy is what its others are compared with.
WORKER_SETUPS = {
    f"{NGINX}, 1 worker": (NGINX, Setup(workers=1, cpus=BOTH_CPUS)),
    f"{NGINX}, 2 workers": (NGINX, Setup(workers=2, cpus=BOTH_CPUS)),
    f"{FASTLB}, 1 worker": (FASTLB, Setup(workers=1, cpus=BOTH_CPUS)),
    f"{FASTLB}, 2 workers": (FASTLB, Setup(workers=2, cpus=BOTH_CPUS)),
}
LOG_SETUPS = {
    f"{NGINX}, no log": (NGINX, Setup()),
    f"{NGINX}, log": (NGINX, Setup(logs="file")),
    f"{NGINX}, buffered log": (NGINX, Setup(logs="buffered")),
    f"{FASTLB}, no log": (FASTLB, Setup()),
    f"{FASTLB}, log": (FASTLB, Setup(logs="file")),
}
# One line per proxy: here the ratio to nginx counts.
TLS_SETUPS = {name: (name, Setup(tls=True)) for name in (NGINX, HAPROXY, FASTLB)}
TCP_SETUPS = {name: (name, Setup(tcp=True)) for name in (NGINX, HAPROXY, RELAY, FASTLB)}
ROUTES_SETUPS = {NGINX: (NGINX, Setup(logs="file", routes=True)), FASTLB: (FASTLB, Setup(logs="file", routes=True))}


def measure_workers(
    names: Sequence[str], backend: Backend, directory: Path, *, rounds: int, passes: int, seconds: float, say: Callable[[str], None]
) -> list[dict[str, object]]:
    """One worker and two, with the proxy, client and backend all free to use both CPUs."""
    backend.program.set_cpus(BOTH_CPUS)
    try:
        return _measure(WORKER_SETUPS, names, backend, directory, rounds, passes, seconds, BOTH_CPUS, say, "workers")
    finally:
        backend.program.set_cpus((CLIENT_CPU,))


def measure_logs(
    names: Sequence[str], backend: Backend, directory: Path, *, rounds: int, passes: int, seconds: float, say: Callable[[str], None]
) -> list[dict[str, object]]:
    """Without and with a line per request in the combined format to a file. One line fewer than requests voids the run."""
    return _measure(LOG_SETUPS, names, backend, directory, rounds, passes, seconds, (CLIENT_CPU,), say, "log")


def measure_routes(
    names: Sequence[str], backend: Backend, directory: Path, *, rounds: int, passes: int, seconds: float, say: Callable[[str], None]
) -> list[dict[str, object]]:
    """20 routes with header edits, and a line per request in the combined format. Edits that are not seen void the run."""
    return _measure(ROUTES_SETUPS, names, backend, directory / "routes", rounds, passes, seconds, (CLIENT_CPU,), say, "routes")


def measure_tls(
    works: Sequence[Work],
    names: Sequence[str],
    backend: Backend,
    directory: Path,
    *,
    rounds: int,
    passes: int,
    seconds: float,
    say: Callable[[str], None],
) -> dict[str, list[dict[str, object]]]:
    """The slots of each of some TLS_WORKS. A proxy that agrees on another version or cipher voids the run."""
    home = directory / "tls"
    home.mkdir(exist_ok=True)
    make_certificate(home)
    return {
        work.name: _measure(TLS_SETUPS, names, backend, home, rounds, passes, seconds, (CLIENT_CPU,), say, work.name, work)
        for work in works
    }


def measure_tcp(
    names: Sequence[str], backend: Backend, directory: Path, *, rounds: int, passes: int, seconds: float, say: Callable[[str], None]
) -> dict[str, list[dict[str, object]]]:
    """The slots of each of TCP_WORKS."""
    return {
        work.name: _measure(TCP_SETUPS, names, backend, directory / "tcp", rounds, passes, seconds, (CLIENT_CPU,), say, work.name, work)
        for work in TCP_WORKS
    }


def _measure(
    setups: dict[str, tuple[str, Setup]],
    names: Sequence[str],
    backend: Backend,
    directory: Path,
    rounds: int,
    passes: int,
    seconds: float,
    client_cpus: Sequence[int],
    say: Callable[[str], None],
    what: str,
    work: Work = WORKS[0],
) -> list[dict[str, object]]:
    slots: list[dict[str, object]] = []
    requests: dict[str, int] = {}
    directory.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        chosen = {label: setup for label, setup in setups.items() if setup[0] in names}
        proxies: list[Proxy] = [
            stack.enter_context(running_proxy(name, backend.target, directory, setup, label)) for label, (name, setup) in chosen.items()
        ]
        for proxy in proxies:
            check_proxy(proxy, [work], reads_heads=not chosen[proxy.name][1].tcp)
            if chosen[proxy.name][1].routes:
                check_edits(proxy)
        for number in range(rounds + 1):
            for _ in range(passes if number else 1):
                for proxy in proxies:
                    slot = measure_slot(work, proxy, backend, number, seconds, client_cpus)
                    requests[proxy.name] = requests.get(proxy.name, 0) + slot.requests
                    if number:
                        slots.append(asdict(slot))
            say(f"{what}: {f'round {number} of {rounds}' if number else 'warm-up'}")
    for proxy in proxies:
        if chosen[proxy.name][1].logs:
            lines = (proxy.home / "access.log").read_bytes().count(b"\n")
            if lines < requests[proxy.name]:
                raise BenchError(f"{proxy.name}: {lines} lines for at least {requests[proxy.name]} requests")
    return slots
