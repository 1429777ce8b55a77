"""handshakes.c as a client: a TLS 1.3 handshake for each request, full or resumed."""

import json
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from bench.compare import native
from bench.compare.processes import CLIENT_CPU, BenchError, child_setup

FULL, RESUMED = "full", "resumed"


@dataclass(frozen=True, slots=True)
class HandshakeFigures:
    full: int
    resumed: int
    requests_per_second: float
    p50_us: int
    p99_us: int
    max_us: int


def start(
    target: str, path: str, connections: int, kind: str, *, rate: float = 0, cpus: Sequence[int] = (CLIENT_CPU,)
) -> subprocess.Popen[bytes]:
    """`rate`: handshakes per second on a schedule; 0 = as many as come, `connections` at a time."""
    command = [native.program("handshakes"), *target.split(":"), path, str(connections), kind, f"{rate:.0f}"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=child_setup(*cpus), start_new_session=True
    )


def finish(process: subprocess.Popen[bytes], connections: int, kind: str) -> HandshakeFigures:
    """Stop it and read its figures. Raises BenchError for any error, and for a handshake that is not of its kind."""
    process.send_signal(signal.SIGINT)
    try:
        output = process.communicate(timeout=20)[0].decode()
    except subprocess.TimeoutExpired:
        process.kill()
        raise BenchError("handshakes did not stop") from None
    try:
        figures = json.loads(output)
    except ValueError:
        raise BenchError(f"handshakes: {output}") from None
    wrong = figures["resumed"] if kind == FULL else max(figures["full"] - connections, 0)  # the first of each connection has no session yet
    if figures["errors"] or figures["no_free_connection"] or wrong or not figures["requests"]:
        raise BenchError(f"handshakes ({kind}): {output}")
    names = ("full", "resumed", "requests_per_second", "p50_us", "p99_us", "max_us")
    return HandshakeFigures(**{name: figures[name] for name in names})
