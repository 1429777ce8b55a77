"""The page at /metrics: what shared memory says, in Prometheus' text format 0.0.4 or in OpenMetrics 1.0.

It is made in a thread of its own and touches nothing but the memory and what it is given: a thousand routes are some 80,000 lines, and
the controller's loop has health checks to attend to. The lines are put together here and not by prometheus-client, which makes an object of
each.
"""

import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

from fastlb import BUILD_ID, __version__, _core
from fastlb.control_plane.metrics import families as f
from fastlb.control_plane.metrics.families import Family
from fastlb.control_plane.metrics.meters import LISTENER, OTHER, POOL, ROUTE, cut_label
from fastlb.control_plane.metrics.readings import (
    STATUS_CLASSES,
    BackendReading,
    HistogramReading,
    MeterReading,
    add_backends,
    read_backends,
    read_meter,
)

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

# Of the buckets every fourth is told, at the powers of two: 22 lines for a series and not 86.
TOLD_BUCKETS = slice(0, len(_core.BUCKET_BOUNDS_US), 4)
BOUNDS = tuple(repr(us / 1e6) for us in _core.BUCKET_BOUNDS_US[TOLD_BUCKETS])
# More backends share one series: each takes some thirty lines.
MAX_BACKENDS = 4096
# Of certificates the first ones are told; the log and `fastlb status` tell of all.
MAX_CERTIFICATES = 1024

DOWN, DRAIN, MAINTENANCE, EJECTED = 1, 2, 4, 8  # of a backend's state (RowState)

Labels = str  # 'pool="a",backend="b"', escaped


class CertificateReading(NamedTuple):
    """A certificate in force."""

    file: str
    names: Sequence[str]
    seconds_left: int
    is_stale: bool


@dataclass(frozen=True, slots=True)
class Node:
    """What shared memory does not say."""

    generation: int
    meters: Mapping[int, tuple[str, str]]  # kind and label, by number
    certificates: Sequence[CertificateReading] = ()
    acme: Sequence[Mapping[str, Any]] = ()  # as tls.automation.Automation.describe has them
    ocsp: Sequence[Mapping[str, Any]] = ()


class Page:
    """Lines of one format."""

    def __init__(self, openmetrics: bool) -> None:
        self.openmetrics = openmetrics
        self.lines: list[str] = []

    def begin(self, family: Family) -> None:
        """HELP and TYPE; the family's samples follow, all of them."""
        name = family.name if self.openmetrics else family.sample_name
        kind = "gauge" if family.kind == "info" and not self.openmetrics else family.kind
        self.lines.append(f"# HELP {name} {_escape_help(family.help, self.openmetrics)}")
        self.lines.append(f"# TYPE {name} {kind}")

    def add(self, family: Family, labels: Labels, value: int) -> None:
        """One sample."""
        self.lines.append(f"{family.sample_name}{{{labels}}} {value}" if labels else f"{family.sample_name} {value}")

    def add_histogram(self, family: Family, labels: Labels, histogram: HistogramReading) -> None:
        """One series of a histogram."""
        sum_us, buckets = histogram
        totals = list(accumulate(buckets))
        name = family.name
        start = f"{name}_bucket{{{labels},le="
        self.lines += [f'{start}"{bound}"}} {total}' for bound, total in zip(BOUNDS, totals[TOLD_BUCKETS], strict=True)]
        self.lines.append(f'{start}"+Inf"}} {totals[-1]}')
        self.lines.append(f"{name}_sum{{{labels}}} {sum_us / 1e6!r}")
        self.lines.append(f"{name}_count{{{labels}}} {totals[-1]}")

    def end(self) -> bytes:
        """The page; nothing may follow."""
        return ("\n".join(self.lines) + ("\n# EOF\n" if self.openmetrics else "\n")).encode()


@functools.lru_cache(maxsize=16384)
def label(name: str, value: str) -> Labels:
    """One label. Rendered once for a series, not once for each of its lines."""
    return f'{name}="{escape_label(value)}"'


def escape_label(value: str) -> str:
    """A label's value as both formats want it."""
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _escape_help(text: str, openmetrics: bool) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if openmetrics else text


def render(shared: _core.SharedMemory, node: Node, openmetrics: bool, more: Callable[[], bytes] | None = None) -> bytes:
    """The whole page.

    Args:
        more: makes families of others in the same format, without an end.
    """
    page = Page(openmetrics)
    _add_node(page, shared, node)
    _add_certificates(page, node.certificates[:MAX_CERTIFICATES])
    _add_automated(page, node)
    _add_listeners(page, _read_meters(shared, node.meters, LISTENER, "listener"))
    _add_routes(page, _read_meters(shared, node.meters, ROUTE, "route"))
    _add_pools(page, _read_meters(shared, node.meters, POOL, "pool"))
    _add_queues(page, shared)
    _add_backends(page, shared)
    _add_workers(page, shared)
    if more is not None:
        text = more().decode().rstrip("\n")
        if text:
            page.lines.append(text)
    return page.end()


# ---------------------------------------------------------------------------------------------------------- the node
def _add_automated(page: Page, node: Node) -> None:
    now = time.time()
    issued = {label("certificate", cut_label(f"acme:{one['domains'][0]}")): one for one in node.acme[:MAX_CERTIFICATES]}
    stapled = {label("certificate", cut_label(one["certificate"])): one for one in node.ocsp[:MAX_CERTIFICATES]}
    for family, values in (
        (f.ACME_EXPIRY, {name: one["not_after"] - now for name, one in issued.items() if not one["placeholder"]}),
        (f.ACME_PLACEHOLDER, {name: one["placeholder"] for name, one in issued.items()}),
        (f.ACME_FAILURES, {name: one["failures"] for name, one in issued.items()}),
        (f.OCSP_AGE, {name: now - one["this_update"] for name, one in stapled.items() if one["stapled"]}),
        (f.OCSP_EXPIRY, {name: one["next_update"] - now for name, one in stapled.items() if one["stapled"]}),
        (f.OCSP_REVOKED, {name: one["revoked"] for name, one in stapled.items()}),
        (f.OCSP_FAILURES, {name: one["failures"] for name, one in stapled.items()}),
    ):
        page.begin(family)
        for its_label, value in values.items():
            page.add(family, its_label, int(value))


def _add_node(page: Page, shared: _core.SharedMemory, node: Node) -> None:
    counters = shared.counters()
    page.begin(f.BUILD)
    page.add(f.BUILD, f"{label('version', __version__)},{label('build', BUILD_ID)}", 1)
    for family, value in (
        (f.GENERATION, node.generation),
        (f.CONNECTIONS, shared.connections()),
        (f.WORKERS_DIED, counters["workers_died"]),
        (f.EXCHANGES_LOST, counters["exchanges_lost"]),
        (f.RETRIES_REFUSED, counters["retries_refused"]),
        (f.HEDGES, counters["hedges_started"]),
        (f.HEDGES_WON, counters["hedges_won"]),
        (f.EJECTIONS_REFUSED, counters["ejections_refused"]),
        (f.PANICS, counters["panics"]),
        (f.PANIC_PICKS, counters["panic_picks"]),
        (f.TUNNELS, counters["tunnels_opened"] - counters["tunnels_closed"]),
        (f.UDP_SESSIONS, counters["udp_sessions_opened"] - counters["udp_sessions_closed"]),
        (f.UDP_SHED, counters["udp_sessions_shed"]),
        (f.UDP_MOVED, counters["udp_sessions_moved"]),
        (f.DATAGRAMS_IN, counters["datagrams_in"]),
        (f.DATAGRAMS_OUT, counters["datagrams_out"]),
        (f.DATAGRAMS_DROPPED, counters["datagrams_dropped"]),
        (f.TLS_CONNECTIONS, counters["tls_opened"] - counters["tls_closed"]),
        (f.TLS_HANDSHAKES, counters["tls_handshakes"]),
        (f.TLS_RESUMED, counters["tls_resumed"]),
        (f.TLS_RENEGOTIATIONS, counters["tls_renegotiations"]),
        (f.SPLICED, counters["spliced_bytes"]),
        (f.ACCEPT_PAUSES, counters["accept_pauses"]),
        (f.HTTP2_CONNECTIONS, counters["http2_sessions_opened"] - counters["http2_sessions_closed"]),
        (f.HTTP2_STREAMS, counters["http2_streams_opened"] - counters["http2_streams_closed"]),
        (f.HTTP2_BACKEND_CONNECTIONS, counters["backend_sessions_opened"] - counters["backend_sessions_closed"]),
        (f.HTTP2_BACKEND_STREAMS, counters["backend_streams_opened"] - counters["backend_streams_closed"]),
        (f.HTTP2_BACKEND_GOAWAYS, counters["backend_goaways"]),
    ):
        page.begin(family)
        page.add(family, "", value)
    page.begin(f.HTTP2_RESETS)
    for side in ("resets_received", "resets_sent", "streams_refused"):
        page.add(f.HTTP2_RESETS, label("side", side.split("_")[1]), counters[f"http2_{side}"])
    page.begin(f.HTTP2_ENDED)
    for name, value in counters.items():
        if name.startswith("http2_ended."):
            page.add(f.HTTP2_ENDED, label("cause", name.partition(".")[2]), value)
    page.begin(f.HTTP2_BACKEND_RESETS)
    for side in ("received", "sent"):
        page.add(f.HTTP2_BACKEND_RESETS, label("side", side), counters[f"backend_resets_{side}"])
    page.begin(f.HTTP2_BACKEND_ENDED)
    for name, value in counters.items():
        if name.startswith("backend_http2_ended."):
            page.add(f.HTTP2_BACKEND_ENDED, label("cause", name.partition(".")[2]), value)
    for family, name, values in (
        (f.TLS_EARLY_DATA, "tls_early", ("accepted", "refused")),
        (f.STICKY, "sticky", ("kept", "moved")),
        (f.MIRRORS, "mirrors", ("opened", "skipped", "failed")),
        (f.LOG_LINES, "log_lines", ("written", "dropped", "lost")),
    ):
        page.begin(family)
        for result in values:
            page.add(family, label("result", "made" if result == "opened" else result), counters[f"{name}_{result}"])


def _add_certificates(page: Page, certificates: Sequence[CertificateReading]) -> None:
    labels = [f"{label('file', cut_label(one.file))},{label('names', cut_label(' '.join(one.names)))}" for one in certificates]
    # The same certificate may be listed with two keys: a series is there once.
    series = dict(zip(labels, certificates, strict=True))
    page.begin(f.CERTIFICATE_EXPIRES)
    for its_labels, one in series.items():
        page.add(f.CERTIFICATE_EXPIRES, its_labels, one.seconds_left)
    page.begin(f.CERTIFICATE_STALE)
    for its_labels, one in series.items():
        page.add(f.CERTIFICATE_STALE, its_labels, int(one.is_stale))


# ---------------------------------------------------------------------------------------------------------- listeners, routes, pools
Meter = tuple[Labels, MeterReading]


def _read_meters(shared: _core.SharedMemory, meters: Mapping[int, tuple[str, str]], kind: str, name: str) -> list[Meter]:
    """The series of a kind. The one of all others is told where something is counted there."""
    found = []
    for number, (its_kind, text) in meters.items():
        if its_kind == kind:
            reading = read_meter(shared, number, timed=kind != LISTENER)
            if text != OTHER or reading.opened:
                found.append((label(name, text), reading))
    return found


def _add_values(page: Page, family: Family, meters: Iterable[Meter], value_of: Callable[[MeterReading], int]) -> None:
    page.begin(family)
    for labels, reading in meters:
        page.add(family, labels, value_of(reading))


def _add_listeners(page: Page, meters: Sequence[Meter]) -> None:
    _add_values(page, f.LISTENER_CONNECTIONS, meters, _in_flight)
    _add_values(page, f.LISTENER_ACCEPTED, meters, lambda reading: reading.opened)
    _add_traffic(page, meters, f.LISTENER_REQUESTS, f.LISTENER_BYTES, f.LISTENER_FAILURES)


def _add_routes(page: Page, meters: Sequence[Meter]) -> None:
    _add_values(page, f.ROUTE_IN_FLIGHT, meters, _in_flight)
    _add_values(page, f.ROUTE_RETRIES, meters, lambda reading: reading.retries)
    _add_traffic(page, meters, f.ROUTE_REQUESTS, f.ROUTE_BYTES, f.ROUTE_FAILURES)
    _add_times(page, meters, (f.ROUTE_DURATION, f.ROUTE_FIRST_BYTE, f.ROUTE_CONNECT))


def _add_pools(page: Page, meters: Sequence[Meter]) -> None:
    _add_values(page, f.POOL_IN_FLIGHT, meters, _in_flight)
    _add_values(page, f.POOL_RETRIES, meters, lambda reading: reading.retries)
    _add_traffic(page, meters, f.POOL_REQUESTS, f.POOL_BYTES, f.POOL_FAILURES)
    _add_pairs(page, f.POOL_CONNECTS, meters, lambda reading: (reading.connects, reading.reused))
    _add_times(page, meters, (f.POOL_DURATION, f.POOL_FIRST_BYTE, f.POOL_CONNECT))


def _in_flight(reading: MeterReading) -> int:
    return max(0, reading.opened - reading.closed)  # a worker goes on while its numbers are read


def _add_traffic(page: Page, meters: Sequence[Meter], requests: Family, size: Family, failures: Family) -> None:
    page.begin(requests)
    for labels, reading in meters:
        for status_class, value in zip(STATUS_CLASSES, reading.statuses, strict=True):
            page.add(requests, f'{labels},status_class="{status_class}"', value)
    _add_pairs(page, size, meters, lambda reading: (reading.bytes_in, reading.bytes_out))
    page.begin(failures)
    for labels, reading in meters:
        for reason, value in reading.failures.items():
            page.add(failures, f'{labels},reason="{reason}"', value)


def _add_times(page: Page, meters: Sequence[Meter], families: Sequence[Family]) -> None:
    for number, family in enumerate(families):
        page.begin(family)
        for labels, reading in meters:
            if reading.times is not None:
                page.add_histogram(family, labels, reading.times[number])


Read = TypeVar("Read", MeterReading, BackendReading)
PAIRS = {"direction": ("in", "out"), "reused": ("false", "true"), "to": ("up", "down")}


def _add_pairs(page: Page, family: Family, series: Iterable[tuple[Labels, Read]], values_of: Callable[[Read], tuple[int, int]]) -> None:
    """Two samples for a series, by the last label of the family."""
    name = family.labels[-1]
    page.begin(family)
    for labels, reading in series:
        for value, counted in zip(PAIRS[name], values_of(reading), strict=True):
            page.add(family, f'{labels},{name}="{value}"', counted)


def _add_queues(page: Page, shared: _core.SharedMemory) -> None:
    queues = [(label("pool", str(queue["pool"])), queue) for queue in shared.queues()]
    for family, name in ((f.POOL_WAITING, "waiting"), (f.POOL_WAITED, "waited")):
        page.begin(family)
        for labels, queue in queues:
            page.add(family, labels, int(queue[name]))
    page.begin(f.POOL_LIMITED)
    for limit in shared.limits():
        page.add(f.POOL_LIMITED, f"{label('pool', str(limit['pool']))},{label('limit', str(limit['limit']))}", int(limit["taken"]))


# ---------------------------------------------------------------------------------------------------------- backends
def _add_backends(page: Page, shared: _core.SharedMemory) -> None:
    backends = label_backends(read_backends(shared))
    for family, value_of in (
        (f.BACKEND_ATTEMPTS, attrgetter("attempts")),
        (f.BACKEND_RETRIES, attrgetter("retries")),
        (f.BACKEND_EJECTIONS, attrgetter("ejections")),
        (f.BACKEND_IN_FLIGHT, attrgetter("in_flight")),
        (f.BACKEND_IDLE, attrgetter("idle")),
        (f.BACKEND_UP, lambda reading: int(not reading.state & DOWN)),
        (f.BACKEND_EJECTED, lambda reading: int(bool(reading.state & EJECTED))),
    ):
        page.begin(family)
        for labels, reading in backends:
            page.add(family, labels, value_of(reading))
    page.begin(f.REQUESTS)
    for labels, reading in backends:
        for status_class, value in zip(STATUS_CLASSES[1:], reading.statuses[1:], strict=True):
            page.add(f.REQUESTS, f'{labels},status_class="{status_class}"', value)
    _add_pairs(page, f.BACKEND_BYTES, backends, lambda reading: (reading.bytes_in, reading.bytes_out))
    _add_pairs(page, f.BACKEND_CONNECTS, backends, lambda reading: (reading.connects, reading.reused))
    _add_pairs(page, f.TRANSITIONS, backends, lambda reading: (reading.ups, reading.downs))
    page.begin(f.BACKEND_FAILURES)
    for labels, reading in backends:
        for reason, value in reading.failures.items():
            page.add(f.BACKEND_FAILURES, f'{labels},reason="{reason}"', value)
    page.begin(f.BACKEND_ADMIN)
    for labels, reading in backends:
        state = "maint" if reading.state & MAINTENANCE else "drain" if reading.state & DRAIN else "ready"
        for name in ("ready", "drain", "maint"):
            page.add(f.BACKEND_ADMIN, f'{labels},state="{name}"', int(state == name))


def label_backends(readings: list[BackendReading], most: int = MAX_BACKENDS) -> list[tuple[Labels, BackendReading]]:
    """The first ones with labels of their own, all others as one."""
    if len(readings) > most:
        readings = [*readings[:most], add_backends(readings[most:], f"{OTHER}|{OTHER}")]
    series = []
    for reading in readings:
        pool, _, address = reading.identity.partition("|")
        series.append((f"{label('pool', cut_label(pool))},{label('backend', cut_label(address))}", reading))
    return series


# ---------------------------------------------------------------------------------------------------------- workers
def _add_workers(page: Page, shared: _core.SharedMemory) -> None:
    guests = shared.guests()  # another fastlb, as a whole: its counts are in those of the node
    slots = [slot for slot in range(shared.worker_slots()) if slot not in guests]
    labels = [label("worker", str(slot)) for slot in slots]
    counters = [shared.counters(slot) for slot in slots]
    for family, name in (
        (f.WORKER_CONNECTIONS, "clients"),
        (f.WORKER_ACCEPTED, "clients_opened"),
        (f.WORKER_EXCHANGES, "exchanges_opened"),
    ):
        page.begin(family)
        for its_labels, its_counters in zip(labels, counters, strict=True):
            page.add(family, its_labels, its_counters[name])
    page.begin(f.WORKER_GENERATION)
    for its_labels, slot in zip(labels, slots, strict=True):
        page.add(f.WORKER_GENERATION, its_labels, shared.worker_generation(slot))
    times = [shared.read_worker_times(slot) for slot in slots]
    for number, family in enumerate((f.WORKER_PUMP, f.WORKER_LAG)):
        page.begin(family)
        for its_labels, its_times in zip(labels, times, strict=True):
            page.add_histogram(family, its_labels, its_times[number])
