"""Where and with what a run was made: machine, versions, commit."""

import os
import platform
import subprocess
import sys
from pathlib import Path

from bench.compare.native import ROOT
from bench.compare.proxies import FASTLB, HAPROXY, NGINX, executable


def describe_machine() -> dict[str, object]:
    cpuinfo = Path("/proc/cpuinfo").read_text()
    fields = dict(line.split(":", 1) for line in cpuinfo.splitlines() if ":" in line)
    cpu = {key.strip(): value.strip() for key, value in fields.items()}
    return {
        "cpu": cpu.get("model name", platform.machine()),
        "cpu_family_model": f"{cpu.get('cpu family', '?')}/{cpu.get('model', '?')}",
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "virtual": "hypervisor" in cpu.get("flags", ""),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "kernel": platform.release(),
        "system": _os_name(),
        "tcp_congestion_control": _sysctl("net/ipv4/tcp_congestion_control"),
        "ip_local_port_range": _sysctl("net/ipv4/ip_local_port_range"),
        "tcp_tw_reuse": _sysctl("net/ipv4/tcp_tw_reuse"),
        "mitigations": {
            entry.name: entry.read_text().strip() for entry in sorted(Path("/sys/devices/system/cpu/vulnerabilities").glob("*"))
        },
    }


def describe_versions(proxies: list[str]) -> dict[str, str]:
    versions = {
        "python": platform.python_version(),
        "gcc": _first_line("gcc", "--version"),
        "wrk": _first_line("wrk", "-v"),
        "git_commit": _git("rev-parse", "HEAD") or "none",
        "git_dirty": "yes" if _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!bench/results") else "no",
    }
    if NGINX in proxies:
        versions[NGINX] = _first_line(executable(NGINX) or NGINX, "-v")
    if HAPROXY in proxies:
        versions[HAPROXY] = _first_line(executable(HAPROXY) or HAPROXY, "-v")
    if FASTLB in proxies:
        versions[FASTLB] = " · ".join(_output(sys.executable, "-m", "fastlb", "-V").split("\n"))
    return versions


def _first_line(*command: str) -> str:
    return _output(*command).partition("\n")[0]


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=10, cwd=ROOT)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip()


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False, timeout=10, cwd=ROOT)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _sysctl(name: str) -> str:
    try:
        return " ".join((Path("/proc/sys") / name).read_text().split())
    except OSError:
        return "unknown"


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return "unknown"
