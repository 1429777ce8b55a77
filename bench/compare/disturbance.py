"""What else ran on the proxies' CPU: other processes, the hypervisor, the kernel's network thread."""

import functools
import os
from dataclasses import dataclass
from pathlib import Path

from bench.compare.processes import PROXY_CPU, cpu_clock_ns

_TICK_US = 1e6 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class CpuReading:
    busy_us: float  # everything but idle, iowait and steal
    steal_us: float
    ksoftirqd_ns: int


def read() -> CpuReading:
    prefix = f"cpu{PROXY_CPU} "
    line = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith(prefix))
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(ticks) for ticks in line.split()[1:9])
    thread = _ksoftirqd()
    return CpuReading((user + nice + system + irq + softirq) * _TICK_US, steal * _TICK_US, cpu_clock_ns(thread) if thread else 0)


@functools.cache
def _ksoftirqd() -> int | None:
    """The kernel thread that takes over when softirq work piles up; None where it cannot be seen (containers)."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "comm").read_text().strip() == f"ksoftirqd/{PROXY_CPU}":
                    return int(entry.name)
            except OSError:
                continue
    return None
