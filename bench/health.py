"""What it costs to probe many backends: CPU of the controller, and how late probes start. `python -m bench.health --help`

One real fastlb with one worker and no clients, and one backend process that answers on every address of 127.0.0.0/8, so that each probed
address is another backend. CPU is read from the scheduler's nanosecond clock of the controller alone, over a window that begins when
every backend has been found up; the same without any health checks is measured first and taken off.
"""

import argparse
import http.client
import json
import platform
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.compare import native
from bench.compare.processes import CLIENT_CPU, PROXY_CPU, BenchError, Program, cpu_clock_ns, free_port, pss_kib, running

START_SECONDS = 60.0


def configuration(n: int, port: int, health: str) -> str:
    backends = ", ".join(f'"127.{1 + i // 62500}.{i // 250 % 250}.{i % 250 + 1}:{port}"' for i in range(n))
    head = '[global]\nworkers = 1\n[[listeners]]\nname = "web"\nbind = "127.0.0.1:0"\n'
    return f"{head}[pools.api]\nbackends = [{backends}]\nhealth = {health}\n"


class Admin:
    """One connection to the admin API."""

    def __init__(self, path: Path, program: Program) -> None:
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                connection = socket.socket(socket.AF_UNIX)
                connection.connect(str(path))
                break
            except OSError:
                connection.close()
                if time.monotonic() > end or program.process.poll() is not None:
                    raise BenchError(f"fastlb does not start{program.log_tail()}") from None
                time.sleep(0.01)
        self._http = http.client.HTTPConnection("localhost")
        self._http.sock = connection

    def get(self, path: str) -> dict[str, Any]:
        self._http.request("GET", path)
        answer: dict[str, Any] = json.loads(self._http.getresponse().read())
        return answer


def measure(n: int, port: int, health: str, seconds: float, directory: Path) -> dict[str, Any]:
    """One fastlb from its start on."""
    path, control = directory / "fastlb.toml", directory / "control"
    path.write_text(configuration(n, port, health))
    command = [sys.executable, "-m", "fastlb", "serve", "-c", str(path), "--admin", f"unix:{control}", "--user", "root"]
    with running("fastlb", command, cpus=(PROXY_CPU,), directory=directory) as program:
        admin = Admin(control, program)
        end = time.monotonic() + START_SECONDS
        while True:
            known = admin.get("/v1/health")
            rows = admin.get("/v1/processes")["processes"]
            if all(row["state"] == "ready" for row in rows if row["role"] == "worker") and all(
                one["verdict"] == "up" for one in known["backends"]
            ):
                break
            if time.monotonic() > end:
                raise BenchError(f"not all backends are up{program.log_tail()}")
            time.sleep(0.2)
        settled = time.monotonic()
        latest_at_start = known["probes"]["latest_ms"]
        (pid,) = (row["pid"] for row in rows if row["role"] == "controller")
        while time.monotonic() < settled + 3:
            time.sleep(0.1)
        before_ns, before, began = cpu_clock_ns(pid), admin.get("/v1/health")["probes"], time.monotonic()
        time.sleep(seconds)
        after_ns, elapsed = cpu_clock_ns(pid), time.monotonic() - began
        after = admin.get("/v1/health")
        if any(one["verdict"] != "up" for one in after["backends"]):
            raise BenchError("a backend went down while it was measured")
        latencies = sorted(one["latency_us"] for one in after["backends"])
        return {
            "health": health,
            "probes_per_second": round((after["probes"]["started"] - before["started"]) / elapsed, 1),
            "controller_cpu_percent": round((after_ns - before_ns) / elapsed / 1e7, 2),
            "latest_ms": after["probes"]["latest_ms"],
            "latest_ms_at_start": latest_at_start,
            "probe_p50_us": latencies[len(latencies) // 2] if latencies else 0,
            "probe_max_us": latencies[-1] if latencies else 0,
            "controller_pss_mib": round(pss_kib(pid) / 1024, 1),
        }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.health", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backends", type=int, default=1000)
    parser.add_argument("--interval", default="5s")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long each kind is measured")
    parser.add_argument(
        "--kinds", default="off,tcp,http,match", help="off, tcp, http, match (http with a text to find), separated by commas"
    )
    options = parser.parse_args()
    every = f'interval = "{options.interval}"'
    kinds = {
        "off": '"off"',
        "tcp": f'{{ type = "tcp", {every} }}',
        "http": f'{{ type = "http", path = "/bytes/128", {every} }}',
        "match": f'{{ type = "http", path = "/bytes/128", match = "~.", {every} }}',
    }
    native.compile_programs()
    directory = Path(tempfile.mkdtemp(prefix="fastlb-bench-"))
    results = {}
    try:
        port = free_port()
        command = [native.program("backend"), str(directory / "counters"), "0.0.0.0", str(port)]
        with running("backend", command, cpus=(CLIENT_CPU,), directory=directory) as backend:
            backend.wait_until_listening("127.0.0.1", port)
            for kind in options.kinds.split(","):
                results[kind] = measure(options.backends, port, kinds[kind], options.seconds, directory)
                print(f"{kind}: {json.dumps(results[kind])}", file=sys.stderr)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    report = {
        "backends": options.backends,
        "interval": options.interval,
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    print(json.dumps({**report, "kinds": results}, indent=1))


if __name__ == "__main__":
    main()
