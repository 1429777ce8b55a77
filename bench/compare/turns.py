"""The closed-loop works: all proxies run side by side, idle, and take turns in short slots."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from bench.compare import disturbance, handshakes, wrk
from bench.compare.backend import Backend
from bench.compare.processes import CLIENT_CPU, BenchError
from bench.compare.proxies import RELAY_POOLED, RELAYS, Proxy
from bench.compare.works import ONLY_IN, Work

LEAD_IN_SECONDS = 0.2  # after every connection could have made a request; not measured
START_SECONDS = 10.0  # longest wait for that
SETTLE_SECONDS = 0.05  # connections of the last slot are closed


@dataclass(frozen=True, slots=True)
class Slot:
    """One turn of one proxy. CPU and requests are those of the window; rate and latencies are the client's, lead-in included."""

    proxy: str
    round: int
    window_seconds: float
    requests: int
    cpu_us: float
    ksoftirqd_us: float  # kernel thread of the proxies' CPU; not part of cpu_us
    others_us: float  # what else ran on the proxies' CPU, to 10 ms; negative values are rounding
    steal_us: float  # taken by the hypervisor, to 10 ms
    backend_connections: int
    requests_per_second: float
    p50_us: int
    p99_us: int
    max_us: int


def takes_part(proxy: Proxy, work: Work) -> bool:
    return ONLY_IN.get(proxy.name, work.name) == work.name


def measure_work(
    work: Work, proxies: list[Proxy], backend: Backend, *, rounds: int, passes: int, slot_seconds: float, say: Callable[[str], None]
) -> dict[str, object]:
    """Rounds of `passes` times ABCD, after one round that is not kept. Returns all slots and a run without a proxy."""
    taking_part = [proxy for proxy in proxies if takes_part(proxy, work)]
    direct = _direct(work, backend, slot_seconds)
    slots = []
    for number in range(rounds + 1):
        for _ in range(passes if number else 1):
            for proxy in taking_part:
                slot = measure_slot(work, proxy, backend, number, slot_seconds)
                if number:
                    slots.append(asdict(slot))
        say(f"{work.name}: {f'round {number} of {rounds}' if number else 'warm-up'}")
    return {"direct": asdict(direct), "slots": slots}


def measure_slot(
    work: Work, proxy: Proxy, backend: Backend, number: int, seconds: float, client_cpus: Sequence[int] = (CLIENT_CPU,)
) -> Slot:
    proxy.program.refresh()
    # The pooled relay cannot see "Connection: close" from a client: there the backend says it (see backend.c).
    held = proxy.name == RELAY_POOLED
    path = work.path.replace("/bytes/", "/held/") if held else work.path
    anew = work.connection_per_request and not held
    if work.handshake:
        client = handshakes.start(proxy.target, path, work.connections, work.handshake, cpus=client_cpus)
    else:
        client = wrk.start(f"{proxy.url}{path}", work.connections, connection_per_request=anew, cpus=client_cpus)
    try:
        _wait_for_traffic(work, backend)
        started, before = time.monotonic(), disturbance.read()
        cpu, (requests, connections) = proxy.program.cpu_ns(), backend.read_counters()
        time.sleep(seconds)
        cpu_after, (requests_after, connections_after) = proxy.program.cpu_ns(), backend.read_counters()
        ended, after = time.monotonic(), disturbance.read()
    except BaseException:
        client.kill()
        client.communicate()
        raise
    try:
        figures = handshakes.finish(client, work.connections, work.handshake) if work.handshake else wrk.finish(client)
    except BenchError as error:
        backend.program.refresh()  # says so if that is what ended
        raise BenchError(f"{work.name} through {proxy.name}: {error}{proxy.program.log_tail()}") from error
    requests_done, cpu_us = requests_after - requests, (cpu_after - cpu) / 1e3
    if not requests_done:
        raise BenchError(f"{work.name} through {proxy.name}: no request reached the backend")
    if not work.connection_per_request and proxy.name not in RELAYS and connections_after - connections > requests_done // 10:
        raise BenchError(f"{work.name} through {proxy.name}: backend connections are not kept alive")
    ksoftirqd_us = (after.ksoftirqd_ns - before.ksoftirqd_ns) / 1e3
    slot = Slot(
        proxy=proxy.name,
        round=number,
        window_seconds=ended - started,
        requests=requests_done,
        cpu_us=cpu_us,
        ksoftirqd_us=ksoftirqd_us,
        others_us=after.busy_us - before.busy_us - cpu_us - ksoftirqd_us,
        steal_us=after.steal_us - before.steal_us,
        backend_connections=connections_after - connections,
        requests_per_second=figures.requests_per_second,
        p50_us=figures.p50_us,
        p99_us=figures.p99_us,
        max_us=figures.max_us,
    )
    time.sleep(SETTLE_SECONDS)
    return slot


def _direct(work: Work, backend: Backend, seconds: float) -> wrk.WrkFigures:
    """Client and backend without a proxy: what the other CPU can do at most."""
    client = wrk.start(f"http://{backend.target}{work.path}", work.connections, connection_per_request=work.connection_per_request)
    try:
        _wait_for_traffic(work, backend)
        time.sleep(seconds)
    except BaseException:
        client.kill()
        client.communicate()
        raise
    return wrk.finish(client)


def _wait_for_traffic(work: Work, backend: Backend) -> None:
    """Until wrk has opened its connections and made as many requests, and a little longer."""
    first, deadline = backend.read_counters()[0], time.monotonic() + START_SECONDS
    while backend.read_counters()[0] < first + work.connections and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(LEAD_IN_SECONDS)
