"""wrk as the closed-loop client: started, stopped after any time, its figures read."""

import json
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.compare.processes import CLIENT_CPU, BenchError, child_setup

_SCRIPT = Path(__file__).with_name("wrk.lua")
_LONGEST_SECONDS = 60
_ERRORS = ("connect", "read", "write", "status", "timeout")


@dataclass(frozen=True, slots=True)
class WrkFigures:
    requests_per_second: float
    p50_us: int
    p99_us: int
    max_us: int


def start(url: str, connections: int, *, connection_per_request: bool, cpus: Sequence[int] = (CLIENT_CPU,)) -> subprocess.Popen[bytes]:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{_LONGEST_SECONDS}s", "--timeout", "5s", "-s", str(_SCRIPT)]
    if connection_per_request:
        command += ["-H", "Connection: close"]
    return subprocess.Popen(
        [*command, url], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=child_setup(*cpus), start_new_session=True
    )


def finish(process: subprocess.Popen[bytes]) -> WrkFigures:
    """Stop wrk and read its figures. Raises BenchError for any error that wrk saw: one error voids a run."""
    process.send_signal(signal.SIGINT)
    try:
        output = process.communicate(timeout=20)[0].decode()
    except subprocess.TimeoutExpired:
        process.kill()
        raise BenchError("wrk did not stop") from None
    try:
        figures = json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        raise BenchError(f"wrk: {output}") from None
    errors = {name: figures[name] for name in _ERRORS if figures[name]}
    if errors:
        raise BenchError(f"wrk saw errors: {errors}")
    if not figures["requests"]:
        raise BenchError("wrk completed no request")
    return WrkFigures(figures["requests"] / figures["duration_us"] * 1e6, figures["p50_us"], figures["p99_us"], figures["max_us"])
