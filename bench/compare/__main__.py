"""`python -m bench.compare`: one command that measures, writes a JSON file and the report made from it."""

import argparse
import contextlib
import os
import resource
import signal
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.compare import native
from bench.compare.backend import Backend, running_backend
from bench.compare.beside import measure_beside
from bench.compare.http2 import measure_http2
from bench.compare.idle import measure_idle
from bench.compare.latency import measure_latency
from bench.compare.machine import describe_machine, describe_versions
from bench.compare.processes import CLIENT_CPU, PROXY_CPU, BenchError
from bench.compare.proxies import FASTLB, PROXY_NAMES, RELAYS, Proxy, Setup, config_texts, executable, running_proxy, why_missing
from bench.compare.ratios import median_of
from bench.compare.record import to_json
from bench.compare.report import render
from bench.compare.restart import measure_restart
from bench.compare.same_work import check_proxy
from bench.compare.setups import TCP_SETUPS, measure_logs, measure_routes, measure_tcp, measure_tls, measure_workers
from bench.compare.start import measure_start
from bench.compare.turns import measure_slot, measure_work, takes_part
from bench.compare.udp import measure_sessions, measure_udp
from bench.compare.works import (
    HTTP2,
    IDLE,
    IDLE_TLS,
    LATENCY,
    LOG,
    ONLY_IN,
    PARTS,
    RESTART,
    ROUTES,
    START,
    TCP,
    TCP_IDLE,
    TLS,
    TLS_BESIDE,
    TLS_HTTP2,
    TLS_WORKS,
    UDP,
    WORKERS,
    WORKS,
)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev bench", description="Compare fastlb with nginx, HAProxy and a relay that parses nothing.")
    parser.add_argument("--works", type=_names(PARTS), default=PARTS, metavar="A,B", help=f"which of: {', '.join(PARTS)} (default: all)")
    parser.add_argument(
        "--proxies", type=_names(PROXY_NAMES), default=PROXY_NAMES, metavar="A,B", help=f"which of: {', '.join(PROXY_NAMES)} (default: all)"
    )
    parser.add_argument("--rounds", type=int, default=10, help="rounds per work; every proxy is measured in each (default: 10)")
    parser.add_argument("--passes", type=int, default=2, help="slots per proxy and round: 2 is ABCD ABCD (default: 2)")
    parser.add_argument("--slot", type=float, default=0.8, metavar="SECONDS", help="measured length of one slot (default: 0.8)")
    parser.add_argument("--quick", action="store_true", help="2 rounds of short slots: shows that everything works, figures are rough")
    parser.add_argument(
        "--output", type=Path, default=native.ROOT / "bench" / "results", help="where the two files go (default: bench/results)"
    )
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.passes, arguments.slot = 2, 1, 0.4
    if arguments.rounds < 1 or arguments.passes < 1 or not 0.1 <= arguments.slot <= 30:
        parser.error("--rounds and --passes start at 1, --slot goes from 0.1 to 30")
    return arguments


def _names(allowed: tuple[str, ...]) -> Any:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(name.strip() for name in text.split(","))
        for name in names:
            if name not in allowed:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(allowed)}")
        return names

    return parse


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def prepare_process() -> None:
    """Own CPU and descriptors; an ordinary exit on SIGTERM and SIGHUP, so that nothing is left behind."""
    if not {PROXY_CPU, CLIENT_CPU} <= os.sched_getaffinity(0):
        raise BenchError(f"needs CPUs {PROXY_CPU} and {CLIENT_CPU}: one for the proxies, one for client and backend")
    if executable("wrk") is None:
        raise BenchError("wrk is not installed (Debian: apt-get install wrk)")
    os.sched_setaffinity(0, {CLIENT_CPU})
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda signum, _frame: sys.exit(128 + signum))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    skipped = {name: reason for name in arguments.proxies if (reason := why_missing(name))}
    names = [name for name in PROXY_NAMES if name in arguments.proxies and name not in skipped]
    for name, reason in skipped.items():
        say(f"{name} is left out: {reason}")
    works = [work for work in WORKS if work.name in arguments.works]
    run: dict[str, Any] = {
        "started": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "settings": {"rounds": arguments.rounds, "passes": arguments.passes, "slot_seconds": arguments.slot},
        "machine": describe_machine(),
        "versions": describe_versions(names),
        "configs": config_texts(),
        "skipped": skipped,
        "works": {},
    }
    with tempfile.TemporaryDirectory(prefix="fastlb-bench-") as temporary, running_backend(Path(temporary)) as backend:
        directory = Path(temporary)
        with contextlib.ExitStack() as stack:
            proxies = [stack.enter_context(running_proxy(name, backend.target, directory)) for name in names]
            for proxy in proxies:
                check_proxy(proxy, [work for work in works if takes_part(proxy, work)])
            for work in works:
                run["works"][work.name] = measure_work(
                    work, proxies, backend, rounds=arguments.rounds, passes=arguments.passes, slot_seconds=arguments.slot, say=say
                )
            if LATENCY in arguments.works:
                timed = [proxy for proxy in proxies if proxy.name not in ONLY_IN]
                maxima = _maxima(run, timed, backend)
                run[LATENCY] = measure_latency(
                    timed, maxima, backend, rounds=max(arguments.rounds // 2, 1), seconds=arguments.slot * 2, say=say
                )
        held = [name for name in names if name not in ONLY_IN]
        if START in arguments.works:
            run[START] = measure_start(held, backend, directory, repeats=2 if arguments.quick else 10, say=say)
        if IDLE in arguments.works:
            run[IDLE] = measure_idle(held, backend, directory, repeats=1 if arguments.quick else 3, say=say)
        if IDLE_TLS in arguments.works:
            run[IDLE_TLS] = measure_idle(
                [name for name in held if name not in RELAYS], backend, directory, repeats=1, say=say, setup=Setup(tls=True)
            )
        some = {"rounds": arguments.rounds, "passes": arguments.passes, "seconds": arguments.slot, "say": say}
        if WORKERS in arguments.works:
            run[WORKERS] = measure_workers(names, backend, directory, **some)
        if LOG in arguments.works:
            run[LOG] = measure_logs(names, backend, directory, **some)
        if ROUTES in arguments.works:
            run[ROUTES] = measure_routes(names, backend, directory, **some)
        if over_tls := [work for work in TLS_WORKS if TLS in arguments.works or work.name in arguments.works]:
            run[TLS] = measure_tls(over_tls, names, backend, directory, **some)
        if TCP in arguments.works:
            run[TCP] = measure_tcp(names, backend, directory, **some)
        if TCP_IDLE in arguments.works:
            tcp_names = [name for name in names if name in TCP_SETUPS]
            run[TCP_IDLE] = measure_idle(tcp_names, backend, directory, repeats=1 if arguments.quick else 3, say=say, setup=Setup(tcp=True))
        for part in (HTTP2, TLS_HTTP2):
            if part in arguments.works:
                run[part] = measure_http2(names, backend, directory, tls=part == TLS_HTTP2, **some)
        if TLS_BESIDE in arguments.works:
            run[TLS_BESIDE] = measure_beside(
                names, backend, directory, rounds=max(arguments.rounds // 2, 1), seconds=arguments.slot * 3, say=say
            )
        if UDP in arguments.works:
            run[UDP] = measure_udp(names, directory, **some)
            if FASTLB in names:
                run["udp_session_bytes"] = measure_sessions(directory)
        if RESTART in arguments.works and FASTLB in names:
            run[RESTART] = measure_restart(backend, directory, repeats=3 if arguments.quick else 20, say=say)
    run["ended"] = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return run


def _maxima(run: dict[str, Any], proxies: list[Proxy], backend: Backend) -> dict[str, float]:
    """Requests per second with 64 keep-alive connections, per proxy; measured here when that work was not asked for."""
    work = WORKS[0]
    if work.name in run["works"]:
        return {proxy.name: median_of(run["works"][work.name]["slots"], proxy.name, "requests_per_second") for proxy in proxies}
    return {proxy.name: measure_slot(work, proxy, backend, 0, 1.0).requests_per_second for proxy in proxies}


def main() -> int:
    arguments = parse_arguments()
    try:
        prepare_process()
        native.compile_programs()
        run = measure(arguments)
    except BenchError as error:
        say(f"void: {error}")
        return 1
    except KeyboardInterrupt:
        say("stopped; nothing was written")
        return 130
    arguments.output.mkdir(parents=True, exist_ok=True)
    stem = arguments.output / f"compare-{datetime.now(UTC):%Y-%m-%d-%H%M%S}"
    report = render(run)
    stem.with_suffix(".json").write_text(to_json(run))
    stem.with_suffix(".md").write_text(report)
    print(report)
    say(f"written: {stem}.json and .md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
