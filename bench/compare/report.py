"""A markdown report from a run's JSON:  python -m bench.compare.report bench/results/FILE.json"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.compare.beside import HANDSHAKES_PER_SECOND, REQUESTS_PER_SECOND
from bench.compare.proxies import FASTLB, PEER
from bench.compare.ratios import Spread, cpu_per_request, median_of, ratio_per_round, share_of_window
from bench.compare.works import (
    HTTP2,
    HTTP2_AT_MOST,
    IDLE,
    IDLE_AT_MOST_BYTES,
    IDLE_TLS,
    LATENCY,
    LATENCY_AT_MOST_US,
    LOG,
    RESTART,
    RESTART_AT_MOST_MS,
    ROUTES,
    ROUTES_AT_MOST,
    START,
    START_AT_MOST_MS,
    TCP,
    TCP_IDLE,
    TCP_IDLE_AT_MOST_BYTES,
    TCP_WORKS,
    TLS,
    TLS_BESIDE,
    TLS_HTTP2,
    TLS_HTTP2_AT_MOST,
    TLS_HTTP2_WANTED,
    TLS_WORKS,
    UDP,
    UDP_AT_MOST,
    UDP_WANTED,
    WORKER_AT_MOST_MIB,
    WORKERS,
    WORKS,
    Work,
)

_DISTURBED = 0.02  # of the proxies' CPU; above that the report warns
_LABELS = {
    "relay": "relay (parses nothing)",
    "relay-pooled": "relay with pooled backend connections",
    "nginx-buffers": "nginx with larger buffers",
    "nginx-unbuffered": "nginx without response buffering",
    "haproxy": "HAProxy",
}


def render(run: Mapping[str, Any]) -> str:
    return "\n".join(_lines(run)) + "\n"


def _lines(run: Mapping[str, Any]) -> Iterator[str]:
    machine, versions, settings = run["machine"], run["versions"], run["settings"]
    yield "# fastlb, nginx, HAProxy and a relay that parses nothing"
    yield ""
    yield f"{run['started']}, commit {versions['git_commit'][:12]}{' with changes' if versions['git_dirty'] == 'yes' else ''}"
    yield ""
    virtual = ", virtual machine" if machine["virtual"] else ""
    yield f"- Machine: {machine['cpu']} ({machine['cpu_family_model']}), {machine['cores']} cores{virtual}, {machine['memory_mib']} MiB,"
    yield f"  Linux {machine['kernel']}, {machine['system']}, TCP {machine['tcp_congestion_control']}"
    for name in ("nginx", "haproxy", "fastlb", "wrk", "gcc", "python"):
        if name in versions:
            yield f"- {_LABELS.get(name, name)}: {versions[name]}"
    yield (
        f"- {settings['rounds']} rounds, {settings['passes']} slots of {settings['slot_seconds']} s per proxy and round, taking turns;"
        " proxies on CPU 0, client and backend on CPU 1"
    )
    for name, reason in run["skipped"].items():
        yield f"- Not measured: {_label(name)} ({reason})"
    yield ""
    yield (
        "CPU is user and system time of the whole process tree, per request. Ratios are taken within a round; shown is the median over"
        " the rounds, then the smallest and largest round. No run had an error. What the figures mean: bench/README.md."
    )
    targets: list[str] = []
    for work in WORKS:
        if work.name in run["works"]:
            yield from _work_lines(work, run["works"][work.name], targets)
    if LATENCY in run:
        yield from _latency_lines(run[LATENCY], targets)
    if IDLE in run:
        title = "User memory of an idle keep-alive client connection"
        yield from _idle_lines(run[IDLE], targets, title, "idle: bytes per connection", IDLE_AT_MOST_BYTES)
        yield ""
        yield "The relay holds two sockets per client, so the descriptor limit may leave it fewer connections to hold."
    if IDLE_TLS in run:
        yield from _idle_lines(run[IDLE_TLS], targets, "User memory of an idle keep-alive client connection over TLS")
    if START in run:
        yield from _start_lines(run[START], targets)
    if WORKERS in run:
        yield from ("", "## One worker and two, 128-byte responses, 64 keep-alive connections", "")
        yield from _setup_lines(run[WORKERS])
        yield ""
        yield (
            "Proxy, client and backend share both cores here, so requests/s say how the machine divides itself and not what two workers"
            " could do on cores of their own. What a second worker costs is the CPU per request."
        )
    if LOG in run:
        yield from ("", "## An access log: a line per request, combined format, to a file; 128-byte responses", "")
        yield from _setup_lines(run[LOG])
        yield ""
        yield "Every request was found in the file. nginx writes each line by itself unless it is told to buffer (64k, 1 s)."
    if ROUTES in run:
        yield from ("", "## 20 routes with header edits, and an access log; 128-byte responses, 64 keep-alive connections", "")
        yield from _beside_peer(run[ROUTES], ROUTES, ROUTES_AT_MOST, "", targets)
    if TLS in run:
        for work in (work for work in TLS_WORKS if work.name in run[TLS]):
            yield from ("", f"## {work.title}", "")
            yield from _beside_peer(run[TLS][work.name], work.name, work.at_most, work.wanted, targets)
    if TCP in run:
        for work in TCP_WORKS:
            yield from ("", f"## {work.title}", "")
            yield from _beside_peer(run[TCP][work.name], work.name, work.at_most, work.wanted, targets)
    if TCP_IDLE in run:
        title = "User memory of an idle TCP session, both connections"
        yield from _idle_lines(run[TCP_IDLE], targets, title, "tcp-idle: bytes per session", TCP_IDLE_AT_MOST_BYTES)
    if run.get(HTTP2):
        yield from ("", "## HTTP/2 without TLS; 128-byte responses, 16 connections of 16 streams", "")
        yield from _cpu_lines(run[HTTP2], "request", HTTP2, HTTP2_AT_MOST, "", targets)
    if run.get(TLS_HTTP2):
        yield from ("", "## HTTP/2 over TLS; 128-byte responses, 16 connections of 16 streams", "")
        yield from _cpu_lines(run[TLS_HTTP2], "request", TLS_HTTP2, TLS_HTTP2_AT_MOST, TLS_HTTP2_WANTED, targets)
    if run.get(TLS_BESIDE):
        yield from _beside_lines(run[TLS_BESIDE])
    if run.get(UDP):
        yield from ("", "## UDP; datagrams of 128 bytes and their echoes, 100 clients", "")
        yield from _cpu_lines(run[UDP], "datagram", UDP, UDP_AT_MOST, UDP_WANTED, targets)
    if "udp_session_bytes" in run:
        yield from ("", f"A UDP session of fastlb takes {run['udp_session_bytes']:,.0f} bytes besides what the kernel has for its socket.")
    if RESTART in run:
        yield from _restart_lines(run[RESTART], targets)
    if targets:
        yield from ("", "## Against the targets", "", "| figure | measured | at most | wanted | met |", "|---|---|---|---|---|", *targets)
    yield from _disturbance_lines(run["works"])


def _work_lines(work: Work, measured: Mapping[str, Any], targets: list[str]) -> Iterator[str]:
    slots = measured["slots"]
    per_request = cpu_per_request(slots)
    yield from ("", f"## {work.title}", "")
    yield f"| proxy | CPU µs per request | ÷ {PEER} | ÷ {work.floor} | requests/s | p50 | p99 | CPU 0 busy |"
    yield "|---|---|---|---|---|---|---|---|"
    for proxy, rounds in per_request.items():
        cells = [
            _label(proxy),
            f"{median(rounds.values()):.2f}",
            _spread(ratio_per_round(per_request, proxy, PEER)),
            _spread(ratio_per_round(per_request, proxy, work.floor)),
            f"{median_of(slots, proxy, 'requests_per_second'):,.0f}",
            _microseconds(median_of(slots, proxy, "p50_us")),
            _microseconds(median_of(slots, proxy, "p99_us")),
            f"{share_of_window(slots, ['cpu_us'], proxy):.0%}",
        ]
        yield f"| {' | '.join(cells)} |"
    direct = measured["direct"]
    yield ""
    yield f"Without a proxy: {direct['requests_per_second']:,.0f} requests/s, p50 {_microseconds(direct['p50_us'])}."
    to_peer, to_floor = ratio_per_round(per_request, FASTLB, PEER), ratio_per_round(per_request, FASTLB, work.floor)
    if to_peer:
        wanted_of_floor = work.wanted.endswith("relay")
        targets.append(_target(f"{work.name}: CPU ÷ {PEER}", to_peer.median, work.at_most, "" if wanted_of_floor else work.wanted))
        if to_floor and work.at_most_of_floor:
            targets.append(
                _target(f"{work.name}: CPU ÷ {work.floor}", to_floor.median, work.at_most_of_floor, work.wanted if wanted_of_floor else "")
            )


def _latency_lines(pairs: Sequence[Mapping[str, Any]], targets: list[str]) -> Iterator[str]:
    yield from ("", "## Latency at half of each proxy's maximum, open loop, 128-byte responses", "")
    yield "| proxy | requests/s | p50 direct | p50 through | p50 added | p99 direct | p99 through |"
    yield "|---|---|---|---|---|---|---|"
    for proxy in dict.fromkeys(pair["proxy"] for pair in pairs):
        own = [pair for pair in pairs if pair["proxy"] == proxy]
        added = Spread.of([pair["through"]["p50_us"] - pair["direct"]["p50_us"] for pair in own])
        cells = [_label(proxy), f"{own[0]['through']['rate']:,.0f}"]
        cells += [_microseconds(median(pair[side]["p50_us"] for pair in own)) for side in ("direct", "through")]
        cells += [f"{added.median:.0f} µs ({added.low:.0f}–{added.high:.0f})"]
        cells += [_microseconds(median(pair[side]["p99_us"] for pair in own)) for side in ("direct", "through")]
        yield f"| {' | '.join(cells)} |"
        if proxy == FASTLB:
            targets.append(_target("latency: p50 added, µs", added.median, LATENCY_AT_MOST_US, ""))


def _idle_lines(
    measured: Sequence[Mapping[str, Any]], targets: list[str], title: str, figure: str = "", at_most: float = 0
) -> Iterator[str]:
    yield from ("", f"## {title}", "")
    yield "| proxy | connections held | bytes each | PSS before |"
    yield "|---|---|---|---|"
    for proxy in dict.fromkeys(one["proxy"] for one in measured):
        own = [one for one in measured if one["proxy"] == proxy]
        each = Spread.of([one["bytes_per_connection"] for one in own])
        before = median(one["pss_before"] for one in own) / 2**20
        yield f"| {_label(proxy)} | {own[0]['connections']:,} | {each.median:.0f} ({each.low:.0f}–{each.high:.0f}) | {before:.1f} MiB |"
        if proxy == FASTLB and figure:
            targets.append(_target(figure, each.median, at_most, ""))


def _start_lines(measured: Sequence[Mapping[str, Any]], targets: list[str]) -> Iterator[str]:
    yield from ("", "## From start to the first response", "", "| proxy | ms |", "|---|---|")
    for proxy in dict.fromkeys(one["proxy"] for one in measured):
        taken = Spread.of([one["ms"] for one in measured if one["proxy"] == proxy])
        yield f"| {_label(proxy)} | {taken.median:.0f} ({taken.low:.0f}–{taken.high:.0f}) |"
        if proxy == FASTLB:
            targets.append(_target("start: ms to the first response", taken.median, START_AT_MOST_MS, ""))


def _setup_lines(slots: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A proxy in several setups, each compared with its first."""
    per_request = cpu_per_request(slots)
    yield "| proxy | CPU µs per request | ÷ its first line | requests/s | p50 | p99 |"
    yield "|---|---|---|---|---|---|"
    first: dict[str, str] = {}
    for label, rounds in per_request.items():
        base = first.setdefault(label.partition(",")[0], label)
        cells = [
            label,
            f"{median(rounds.values()):.2f}",
            _spread(ratio_per_round(per_request, label, base)) if base != label else "1",
            f"{median_of(slots, label, 'requests_per_second'):,.0f}",
            _microseconds(median_of(slots, label, "p50_us")),
            _microseconds(median_of(slots, label, "p99_us")),
        ]
        yield f"| {' | '.join(cells)} |"


def _beside_peer(slots: Sequence[Mapping[str, Any]], what: str, at_most: float, wanted: str, targets: list[str]) -> Iterator[str]:
    per_request = cpu_per_request(slots)
    yield f"| proxy | CPU µs per request | ÷ {PEER} | requests/s | p50 | p99 |"
    yield "|---|---|---|---|---|---|"
    for proxy, rounds in per_request.items():
        cells = [_label(proxy), f"{median(rounds.values()):.2f}", _spread(ratio_per_round(per_request, proxy, PEER))]
        cells += [f"{median_of(slots, proxy, 'requests_per_second'):,.0f}"]
        cells += [_microseconds(median_of(slots, proxy, field)) for field in ("p50_us", "p99_us")]
        yield f"| {' | '.join(cells)} |"
    to_peer = ratio_per_round(per_request, FASTLB, PEER)
    if to_peer:
        targets.append(_target(f"{what}: CPU ÷ {PEER}", to_peer.median, at_most, wanted))


def _beside_lines(pairs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    title = f"{REQUESTS_PER_SECOND:,} plain requests/s by themselves, and beside {HANDSHAKES_PER_SECOND} full handshakes/s"
    yield from ("", f"## {title}", "")
    yield "| proxy | p50 alone | p50 beside | p99 alone | p99 beside | longest beside |"
    yield "|---|---|---|---|---|---|"
    for proxy in dict.fromkeys(pair["proxy"] for pair in pairs):
        own = [pair for pair in pairs if pair["proxy"] == proxy]
        cells = [_microseconds(median(pair[when][f"p{p}_us"] for pair in own)) for p in (50, 99) for when in ("alone", "beside")]
        yield f"| {_label(proxy)} | {' | '.join(cells)} | {_microseconds(max(pair['beside']['max_us'] for pair in own))} |"


def _cpu_lines(slots: Sequence[Mapping[str, Any]], unit: str, what: str, at_most: float, wanted: str, targets: list[str]) -> Iterator[str]:
    per_request = cpu_per_request(slots)
    yield f"| proxy | CPU µs per {unit} | ÷ {PEER} | {unit}s/s |"
    yield "|---|---|---|---|"
    for proxy, rounds in per_request.items():
        cells = [_label(proxy), f"{median(rounds.values()):.2f}", _spread(ratio_per_round(per_request, proxy, PEER))]
        cells.append(f"{median_of(slots, proxy, 'requests_per_second'):,.0f}")
        yield f"| {' | '.join(cells)} |"
    to_peer = ratio_per_round(per_request, FASTLB, PEER)
    if to_peer:
        targets.append(_target(f"{what}: CPU ÷ {PEER}", to_peer.median, at_most, wanted))


def _restart_lines(measured: Mapping[str, Any], targets: list[str]) -> Iterator[str]:
    yield from ("", "## Workers of fastlb", "")
    taken, pss = Spread.of(measured["ms"]), max(measured["pss_bytes"]) / 2**20
    yield f"From SIGKILL to another one that is ready: {taken.median:.0f} ms ({taken.low:.0f}–{taken.high:.0f})."
    yield f"PSS of an idle worker beside another one: {pss:.1f} MiB."
    targets.append(_target("restart of a worker, ms", taken.median, RESTART_AT_MOST_MS, ""))
    targets.append(_target("PSS of an idle worker, MiB", pss, WORKER_AT_MOST_MIB, ""))


def _disturbance_lines(works: Mapping[str, Any]) -> Iterator[str]:
    slots = [slot for measured in works.values() for slot in measured["slots"]]
    if not slots:
        return
    others, softirq, steal = (share_of_window(slots, [field]) for field in ("others_us", "ksoftirqd_us", "steal_us"))
    yield ""
    yield (
        f"CPU 0 besides the proxies: {max(others, 0.0):.1%} other processes and interrupts, {softirq:.1%} ksoftirqd, {steal:.1%} stolen"
        " by the hypervisor. None of it is charged to a proxy."
    )
    if others > _DISTURBED or steal > _DISTURBED:
        yield "**The machine was not quiet: take differences of a few per cent as noise.**"


def _target(figure: str, measured: float, at_most: float, wanted: str) -> str:
    digits = 2 if at_most < 10 else 0
    return f"| {figure} | {measured:.{digits}f} | {at_most:.{digits}f} | {wanted} | {'yes' if measured <= at_most else '**no**'} |"


def _label(proxy: str) -> str:
    return f"**{proxy}**" if proxy == FASTLB else _LABELS.get(proxy, proxy)


def _spread(spread: Spread | None) -> str:
    return "–" if spread is None else f"{spread.median:.2f} ({spread.low:.2f}–{spread.high:.2f})"


def _microseconds(value: float) -> str:
    return f"{value:.0f} µs" if value < 10_000 else f"{value / 1000:.1f} ms"


if __name__ == "__main__":
    print(render(json.loads(Path(sys.argv[1]).read_text())), end="")
