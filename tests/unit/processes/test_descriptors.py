"""The descriptor limit: what is set, what it means in connections, and what is said about it."""

import os
import resource
import subprocess
import sys
from types import SimpleNamespace

import pytest

from fastlb.processes import descriptors
from fastlb.processes.descriptors import set_limits

INFINITY = resource.RLIM_INFINITY


class Kernel:
    """Stands for the resource module, with its rules for limits."""

    def __init__(self, soft: int, hard: int, nr_open: int, may_raise: bool) -> None:
        self.limits = (soft, hard)
        self.nr_open = nr_open
        self.may_raise = may_raise
        self.module = SimpleNamespace(
            RLIMIT_NOFILE=resource.RLIMIT_NOFILE, RLIM_INFINITY=INFINITY, getrlimit=lambda _: self.limits, setrlimit=self.setrlimit
        )

    def setrlimit(self, which: int, limits: tuple[int, int]) -> None:
        soft, hard = limits
        assert which == resource.RLIMIT_NOFILE
        assert 0 <= soft <= hard
        if hard > self.nr_open or (hard > self.limits[1] != INFINITY and not self.may_raise):
            raise ValueError("not allowed to raise maximum limit")
        self.limits = limits


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel(256, 1024, 1 << 20, may_raise=False)
    monkeypatch.setattr(descriptors, "resource", kernel.module)
    monkeypatch.setattr(descriptors, "_read_nr_open", lambda: kernel.nr_open)
    return kernel


def test_the_soft_limit_is_raised_to_the_hard_one(kernel: Kernel) -> None:
    limits = set_limits(0, 0, 1)
    assert kernel.limits == (1024, 1024)
    assert (limits.descriptors, limits.per_worker, limits.in_all, limits.warnings) == (1024, 412, 412, ())
    assert limits.sentence == "room for 412 connections (1024 descriptors per process)"


def test_every_worker_has_the_limit_for_itself(kernel: Kernel) -> None:
    limits = set_limits(0, 0, 5)
    assert (limits.per_worker, limits.in_all) == (410, 2050)  # four descriptors wake the other four
    assert limits.sentence == "room for 410 connections per worker and 2050 in all (1024 descriptors per process)"


@pytest.mark.parametrize(
    ("hard", "max_connections", "workers", "per_worker", "in_all", "warned"),
    [
        (1024, 100, 1, 100, 100, ""),
        (1024, 412, 1, 412, 412, ""),
        (1024, 413, 1, 413, 413, "leaves 411 of 824 descriptors for backends"),
        (1024, 824, 1, 824, 824, "leaves 0 of 824 descriptors for backends"),
        (1024, 825, 1, 824, 824, "is more than 1 worker can have with 1024 descriptors each: using 824"),
        (1024, 100, 2, 100, 100, ""),
        (1024, 823, 2, 823, 823, ""),
        (1024, 824, 2, 823, 824, "leaves 822 of 1646 descriptors for backends"),
        (1024, 2000, 2, 823, 1646, "is more than 2 workers can have with 1024 descriptors each: using 1646"),
        (100, 0, 1, 1, 1, ""),
        (1, 0, 2, 1, 2, ""),
    ],
)
def test_as_many_connections_as_descriptors_allow(
    kernel: Kernel, hard: int, max_connections: int, workers: int, per_worker: int, in_all: int, warned: str
) -> None:
    kernel.limits = (1, hard)
    limits = set_limits(max_connections, 0, workers)
    assert (limits.per_worker, limits.in_all) == (per_worker, in_all)
    assert len(limits.warnings) == bool(warned)
    for warning in limits.warnings:
        assert warning.startswith(f"max_connections {max_connections} {warned}"), warning
        needed = -(-2 * max_connections // workers) + 200 + workers - 1
        assert warning.endswith(f"LimitNOFILE= in a systemd unit, --ulimit nofile= for a container) to {needed} or more"), warning


def test_the_advice_is_enough(kernel: Kernel) -> None:
    for workers in (1, 2, 3, 7):
        kernel.limits = (1, 1024)
        (warning,) = set_limits(5001, 0, workers).warnings
        needed = int(warning.rpartition(" to ")[2].split()[0])
        kernel.limits = (1, needed)
        assert set_limits(5001, 0, workers).warnings == ()
        kernel.limits = (1, needed - 1)
        assert set_limits(5001, 0, workers).warnings != ()


@pytest.mark.parametrize("hard", [1 << 30, INFINITY])
def test_practically_no_limit_is_a_million_per_worker(kernel: Kernel, hard: int) -> None:
    kernel.nr_open, kernel.limits = 1 << 30, (256, hard)
    limits = set_limits(0, 0, 2)
    assert (limits.per_worker, limits.in_all, limits.warnings) == (1 << 20, 1 << 21, ())
    assert set_limits(3 << 20, 0, 2).warnings == ()


def test_root_raises_the_hard_limit_as_far_as_needed(kernel: Kernel) -> None:
    kernel.may_raise = True
    limits = set_limits(10_000, 0, 4)
    assert kernel.limits == (20_203, 20_203)  # one worker may get them all
    assert (limits.per_worker, limits.in_all, limits.warnings) == (10_000, 10_000, ())
    assert set_limits(100, 0, 4).descriptors == 20_203  # enough is left as it is


def test_the_kernel_has_the_last_word(kernel: Kernel) -> None:
    kernel.may_raise, kernel.nr_open = True, 4096
    limits = set_limits(10_000, 0, 1)
    assert kernel.limits == (4096, 4096)
    (warning,) = limits.warnings
    assert "using 3896; the kernel allows 4096 (`sysctl fs.nr_open`): raise that and the hard limit to 20200 or more" in warning


def test_a_hard_limit_above_what_the_kernel_allows_by_now_comes_down(kernel: Kernel) -> None:
    kernel.nr_open, kernel.limits = 512, (256, 1024)
    assert set_limits(0, 0, 1).descriptors == 512
    assert kernel.limits == (512, 512)


def test_max_descriptors_is_set_up_or_down(kernel: Kernel) -> None:
    assert set_limits(0, 512, 1).descriptors == 512
    assert kernel.limits == (512, 1024)
    kernel.may_raise = True
    assert set_limits(0, 4096, 1).descriptors == 4096
    assert kernel.limits == (4096, 4096)
    (warning,) = set_limits(1000, 700, 1).warnings
    assert "using 500; raise max_descriptors to 2200 or more" in warning


def test_max_descriptors_that_cannot_be_had_is_a_warning(kernel: Kernel) -> None:
    limits = set_limits(0, 4096, 1)
    assert (limits.descriptors, kernel.limits) == (1024, (1024, 1024))
    (warning,) = limits.warnings
    assert warning.startswith("max_descriptors 4096 cannot be had: using 1024; raise the hard limit (`ulimit -Hn` as root")
    kernel.may_raise, kernel.nr_open = True, 2048
    (warning,) = set_limits(0, 4096, 1).warnings
    assert "using 2048; the kernel allows 2048 (`sysctl fs.nr_open`)" in warning


def test_what_cannot_be_changed_at_all_is_taken_as_it_is(kernel: Kernel) -> None:
    def refuse(*_: object) -> None:
        raise ValueError

    kernel.module.setrlimit = refuse
    assert set_limits(0, 0, 1).descriptors == 256


def test_the_real_limit_is_changed_and_inherited() -> None:
    code = (
        "import resource, os; from fastlb.processes.descriptors import set_limits\n"
        "limits = set_limits(50, 300, 2)\n"
        "assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == limits.descriptors == 300\n"
        "pid = os.fork()\n"
        "if not pid: os._exit(resource.getrlimit(resource.RLIMIT_NOFILE)[0] != 300)\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, env=os.environ).returncode == 0
