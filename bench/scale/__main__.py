"""How many TCP sessions one fastlb holds, and what they cost.  `python -m bench.scale --help`

One real fastlb before four backends that echo; clients, backends and fastlb are processes of their own, because a descriptor limit is a
process's. Each session is asked once when it is open and once at the end, and nothing may happen to it between: any error voids the run.

What is measured: user memory (what only the workers have, and the PSS of all of fastlb), the kernel's (slab caches; on loopback
a session has four sockets there, and two of them are fastlb's), CPU while nothing happens, and how long asking all of them takes.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.compare.processes import CLIENT_CPU, BenchError, Program, child_setup, descendants, free_port, running
from bench.health import Admin

ENDS = Path(__file__).with_name("ends.py")
RESULTS = Path(__file__).parents[1] / "results"
N_BACKENDS = 4
WARM_UP = (
    2000  # of the sessions, held before the first reading: by then fastlb has what it allocates once, and for as many as are busy at a time
)
SOCKETS_PER_SESSION = 4  # on loopback: the client's, two of fastlb's, the backend's
PER_PROCESS = 9500  # sessions of one process of clients: each has its own source address, and ports enough
SETTLE_SECONDS = 2.0
START_SECONDS = 60.0
# The caches that a socket in an epoll set has objects in; what other programs do meanwhile shows in the others.
SOCKET_CACHES = {"TCP", "sock_inode_cache", "dentry", "filp", "eventpoll_epi", "ep_head", "lsm_inode_cache", "lsm_file_cache"} | {
    "tcp_bind_bucket",
    "tcp_bind2_bucket",
    "request_sock_TCP",
    "skbuff_head_cache",
    "skbuff_small_head",
    "kmalloc-192",
}


def configuration(workers: int, port: int, backends: list[str]) -> str:
    listed = ", ".join(f'"{one}"' for one in backends)
    return (
        f'[global]\nworkers = {workers}\n[[listeners]]\nname = "db"\nbind = "127.0.0.1:{port}"\nprotocol = "tcp"\npool = "db"\n'
        f'[pools.db]\nbackends = [{listed}]\nalgorithm = "round_robin"\ntimeouts = {{ tunnel = "1h" }}\n'
    )


class Ends:
    """A process of one of the two ends."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(ENDS), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=child_setup(CLIENT_CPU),
        )

    def read(self) -> list[str]:
        """The words of its next line."""
        assert self.process.stdout is not None
        words = self.process.stdout.readline().split()
        if not words:
            raise BenchError(f"{' '.join(map(str, self.process.args))} ended: {self.process.communicate()[1]}")  # type: ignore[arg-type]
        return words

    def say(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def ends(*arguments: str) -> Iterator[Ends]:
    one = Ends(*arguments)
    try:
        yield one
    finally:
        one.stop()


def slab_bytes() -> dict[str, int]:
    """What objects of each of the kernel's caches take; only root may read it."""
    found = {}
    with contextlib.suppress(PermissionError):
        for line in Path("/proc/slabinfo").read_text().splitlines()[2:]:
            name, active, _, size, *_ = line.split()
            found[name] = int(active) * int(size)
    return found


def slab_total_kib() -> int:
    return next(int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("Slab:"))


def socket_pages() -> int:
    """Pages that buffers of all TCP sockets take (net.ipv4.tcp_mem counts in them)."""
    line = next(line for line in Path("/proc/net/sockstat").read_text().splitlines() if line.startswith("TCP:"))
    return int(line.split()[-1])


def descriptors(program: Program) -> list[int]:
    """Of each process of fastlb, sorted."""
    return sorted(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in descendants(program.process.pid))


def wait_for_workers(admin: Admin) -> list[int]:
    """The pids of all of them, once they are ready."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        rows = [row for row in admin.get("/v1/processes")["processes"] if row["role"] == "worker"]
        if all(row["state"] == "ready" for row in rows):
            return [row["pid"] for row in rows]
        time.sleep(0.05)
    raise BenchError("not all workers are ready")


def private_bytes(pids: list[int]) -> int:
    """What only these processes have."""
    kib = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Private_"):
                kib += int(line.split()[1])
    return kib * 1024


def read_state(program: Program, workers: list[int]) -> dict[str, Any]:
    return {
        "workers": private_bytes(workers),
        "pss": program.pss_bytes(),
        "slab": slab_bytes(),
        "slab_kib": slab_total_kib(),
        "pages": socket_pages(),
    }


def measure(sessions: int, workers: int, seconds: float, directory: Path) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        backends = []
        for number in range(-(-sessions // (2 * PER_PROCESS))):
            addresses = [f"127.0.{1 + number}.{1 + part}" for part in range(N_BACKENDS)]
            echo = stack.enter_context(ends("echo", *addresses))
            backends += [f"{address}:{port}" for address, port in zip(addresses, echo.read(), strict=True)]
        port = free_port()
        path = directory / "fastlb.toml"
        path.write_text(configuration(workers, port, backends))
        command = [sys.executable, "-m", "fastlb", "serve", "-c", str(path), "--admin", f"unix:{directory}/control", "--user", "root"]
        cpus = tuple(sorted(os.sched_getaffinity(0)))
        program = stack.enter_context(running("fastlb", command, cpus=cpus, directory=directory))
        program.wait_until_listening("127.0.0.1", port)
        pids = wait_for_workers(Admin(directory / "control", program))
        holders = [stack.enter_context(ends("hold", "127.0.0.1", str(port), "127.2.0.1", str(WARM_UP)))]
        holders[0].read()
        holders[0].say("ask")  # all of them are busy within the tenth of a second after which silent ones are folded
        holders[0].read()
        time.sleep(SETTLE_SECONDS)
        before = read_state(program, pids)
        began = time.monotonic()
        for number, at in enumerate(range(WARM_UP, sessions, PER_PROCESS)):
            count = min(PER_PROCESS, sessions - at)
            holders.append(stack.enter_context(ends("hold", "127.0.0.1", str(port), f"127.2.0.{2 + number}", str(count))))
        for holder in holders[1:]:
            holder.read()
        opened_seconds = time.monotonic() - began
        time.sleep(SETTLE_SECONDS)
        after = read_state(program, pids)
        cpu_ns, began = program.cpu_ns(), time.monotonic()
        time.sleep(seconds)
        idle_cpu_percent = (program.cpu_ns() - cpu_ns) / (time.monotonic() - began) / 1e7
        for holder in holders:
            holder.say("look")
        changed = sum(int(holder.read()[0]) for holder in holders)
        of_processes = descriptors(program)
        for holder in holders:
            holder.say("ask")
        asked = [json.loads(" ".join(holder.read())) for holder in holders]
        answered = sum(count for count, _ in asked)
        if changed or answered != sessions:
            raise BenchError(f"{changed} sessions had an event while they were idle, {answered} of {sessions} were answered")
        caches = {name: size - before["slab"].get(name, 0) for name, size in after["slab"].items() if name in SOCKET_CACHES}
        grown = {name: size for name, size in sorted(caches.items(), key=lambda one: -one[1]) if size > 0}
        n_more = sessions - WARM_UP
        n_sockets = n_more * SOCKETS_PER_SESSION
        return {
            "sessions": sessions,
            "workers": workers,
            "held_seconds": seconds,
            "errors": 0,
            "opened_per_second": round(n_more / opened_seconds),
            "asked_seconds": round(max(took for _, took in asked), 2),
            "descriptors_per_process": of_processes,
            "worker_bytes_per_session": round((after["workers"] - before["workers"]) / n_more, 1),
            "user_bytes_per_session": round((after["pss"] - before["pss"]) / n_more, 1),
            "kernel_bytes_per_socket": round(sum(grown.values()) / n_sockets, 1),
            "kernel_slab_bytes_per_socket": round((after["slab_kib"] - before["slab_kib"]) * 1024 / n_sockets, 1),
            "kernel_caches_bytes_per_session": {name: round(size / n_more, 1) for name, size in grown.items()},
            "buffer_pages": after["pages"] - before["pages"],
            "idle_cpu_percent": round(idle_cpu_percent, 3),
        }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", default="9500x1,19000x2", help="SESSIONSxWORKERS, separated by commas")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long they are held")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the JSON file goes")
    options = parser.parse_args()
    runs = []
    for run in options.runs.split(","):
        sessions, _, workers = run.partition("x")
        directory = Path(tempfile.mkdtemp(prefix="fastlb-bench-"))
        try:
            runs.append(measure(int(sessions), int(workers), options.seconds, directory))
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        print(json.dumps(runs[-1], indent=1), file=sys.stderr)
    report = {"machine": platform.machine(), "kernel": platform.release(), "python": platform.python_version(), "runs": runs}
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"scale-{datetime.datetime.now(datetime.UTC):%Y-%m-%d}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
