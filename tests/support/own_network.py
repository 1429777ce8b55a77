"""Python in a network of its own: a process whose ports, addresses and routes are nothing to anybody else."""

import subprocess
import sys

import pytest

PLEASE = 'ip link set lo up && exec "$0" -c "$1"'


def run_in_own_network(script: str, seconds: float = 60) -> list[str]:
    """What it prints, in words; where no such network can be had the test is skipped."""
    for ways in (["--user", "--map-root-user", "--net"], ["--net"]):  # without user namespaces root may
        command = ["unshare", *ways, "sh", "-c", PLEASE, sys.executable, script]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        except FileNotFoundError:
            pytest.skip("no unshare")
        if "unshare" not in ended.stderr and "Read-only" not in ended.stderr:
            assert ended.returncode == 0, ended.stderr
            return ended.stdout.split()
    pytest.skip("networks of one's own are not for us")
