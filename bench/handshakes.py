"""Where the CPU of a TLS handshake goes, by library: fastlb beside nginx. `python -m bench.handshakes --help`

The works tls-handshake and tls-resumed of bench.compare, sampled by perf (Debian: linux-perf), which needs root or
kernel.perf_event_paranoid <= 1. A proxy's CPU per handshake is the scheduler's; the shares of it are those of perf's samples.
Proxies take turns; figures are medians over the rounds, ratios within a round. Sampling costs a few per cent, of both.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.compare import handshakes, native
from bench.compare.backend import Backend, running_backend
from bench.compare.processes import BenchError
from bench.compare.proxies import FASTLB, NGINX, Proxy, Setup, make_certificate, running_proxy
from bench.compare.same_work import check_proxy
from bench.compare.works import TLS_WORKS, Work

HERTZ = 4999
LEAD_IN_SECONDS = 0.3
KERNEL, CRYPTO, SSL, C, OWN = "kernel", "libcrypto", "libssl", "libc", "its own"
OUTSIDE = "user, outside libcrypto"
LIBRARIES = {"libcrypto.": CRYPTO, "libssl.": SSL, "libc.": C, "[kernel": KERNEL, "[guest.kernel": KERNEL}


def sample(proxy: Proxy, work: Work, backend: Backend, seconds: float, data: Path) -> dict[str, float]:
    """Microseconds of CPU per handshake in each library while clients shake hands."""
    proxy.program.refresh()
    client = handshakes.start(proxy.target, work.path, work.connections, work.handshake)
    time.sleep(LEAD_IN_SECONDS)
    pids = ",".join(map(str, proxy.program.pids))
    before, requests = proxy.program.cpu_ns(), backend.read_counters()[0]
    command = ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(HERTZ), "-p", pids, "-o", str(data), "sleep", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    after, requests_after = proxy.program.cpu_ns(), backend.read_counters()[0]
    handshakes.finish(client, work.connections, work.handshake)
    if done.returncode:
        raise BenchError(f"perf record: {done.stderr}")
    counted = count_samples(data)
    each = (after - before) / 1e3 / (requests_after - requests) / sum(counted.values())
    times = {name: counted.get(name, 0) * each for name in (CRYPTO, SSL, C, OWN, KERNEL)}
    return {**times, OUTSIDE: times[SSL] + times[C] + times[OWN], "all": sum(times.values())}


def count_samples(data: Path) -> dict[str, int]:
    command = ["perf", "report", "-i", str(data), "--stdio", "--no-children", "-s", "dso", "-F", "sample,dso", "-t", "|"]
    counted: dict[str, int] = {}
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        number, _, file = line.partition("|")
        if number.strip().isdigit():
            name = next((known for start, known in LIBRARIES.items() if file.strip().startswith(start)), OWN)
            counted[name] = counted.get(name, 0) + int(number)
    if not counted:
        raise BenchError("perf took no samples")
    return counted


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.handshakes", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=8, metavar="N")
    parser.add_argument("--seconds", type=float, default=1.0, metavar="S", help="of each turn")
    arguments = parser.parse_args()
    native.compile_programs()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        make_certificate(directory)
        with (
            running_backend(directory) as backend,
            running_proxy(NGINX, backend.target, directory, Setup(tls=True)) as nginx,
            running_proxy(FASTLB, backend.target, directory, Setup(tls=True)) as fastlb,
        ):
            for work in (work for work in TLS_WORKS if work.handshake):
                for proxy in (nginx, fastlb):
                    check_proxy(proxy, [work])
                rounds = [
                    tuple(sample(proxy, work, backend, arguments.seconds, directory / "perf.data") for proxy in (nginx, fastlb))
                    for _ in range(arguments.rounds + 1)
                ][1:]  # the first is a warm-up
                print(f"\n{work.title}\n\n| CPU µs | nginx | fastlb | fastlb ÷ nginx |\n|---|---:|---:|---:|")
                for part in rounds[0][0]:
                    theirs, ours = ([turns[k][part] for turns in rounds] for k in (0, 1))
                    ratio = statistics.median(b / a for a, b in zip(theirs, ours, strict=True))
                    print(f"| {part} | {statistics.median(theirs):.1f} | {statistics.median(ours):.1f} | {ratio:.2f} |")


if __name__ == "__main__":
    try:
        main()
    except BenchError as error:
        sys.exit(f"bench.handshakes: {error}")
