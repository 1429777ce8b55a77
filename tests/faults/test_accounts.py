"""What fastlb's processes may do and what they cost, as the system sees it."""

import os
import pwd
from pathlib import Path

import pytest

from tests.support.load import kill_worker, wait_for_restart, wait_for_workers
from tests.support.waiting import SANITIZED, wait_until

IDLE_PSS_KIB = 12 << 10  # what an idle worker may cost

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes accounts")


def status_of(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


def start_as_nobody(fastlb, backend):
    """The control socket is made by the controller, so nobody needs a directory for it."""
    text = f'[global]\nworkers = 2\n[[listeners]]\nname = "web"\nbind = "127.0.0.1:0"\n[pools.main]\nbackends = ["{backend.address}"]\n'
    return fastlb(text, workers=2, user="", open_directory=True)


@root_only
def test_only_the_supervisor_is_root(fastlb, instant):
    lb = start_as_nobody(fastlb, instant())
    nobody = pwd.getpwnam("nobody")
    rows = lb.processes()
    assert sorted(row["role"] for row in rows) == ["controller", "supervisor", "worker", "worker", "zygote"]
    for row in rows:
        status = status_of(row["pid"])
        if row["role"] == "supervisor":
            assert status["Uid"] == ["0"] * 4
            continue
        assert status["Uid"] == [str(nobody.pw_uid)] * 4, row
        assert status["Gid"] == [str(nobody.pw_gid)] * 4, row
        assert "0" not in status["Groups"], row
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[name][0], 16) == 0, (row, name)
        assert status["NoNewPrivs"] == ["1"], row
    assert lb.get().status == 200


@root_only
def test_processes_that_come_later_have_no_more_rights(fastlb, instant):
    lb = start_as_nobody(fastlb, instant())
    (zygote,) = (row["pid"] for row in lb.processes() if row["role"] == "zygote")
    os.kill(zygote, 9)
    wait_until(lambda: all(row["pid"] not in (0, zygote) for row in lb.processes() if row["role"] == "zygote"), "another zygote")
    death = kill_worker(lb, 1, exactly=False)
    wait_for_restart(lb, 2, death)
    for row in lb.processes():
        if row["role"] != "supervisor":
            status = status_of(row["pid"])
            assert status["Uid"] == [str(pwd.getpwnam("nobody").pw_uid)] * 4, row
            assert int(status["CapEff"][0], 16) == 0, row
            assert status["NoNewPrivs"] == ["1"], row
    assert lb.get().status == 200


def pss_kib(pid):
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


@pytest.mark.skipif(SANITIZED, reason="sanitizers keep a shadow of all memory")
def test_idle_worker_costs_little_memory(fastlb, instant):
    lb = fastlb([instant()], workers=2)
    for _ in range(10):
        assert lb.get().status == 200
    wait_for_workers(lb, 2)
    for pid in lb.worker_pids():
        assert pss_kib(pid) <= IDLE_PSS_KIB


@pytest.mark.skipif(SANITIZED, reason="sanitizers keep a shadow of all memory")
def test_restarted_worker_costs_no_more(fastlb, instant):
    """It is forked from the zygote as the first ones were, not from something that has grown."""
    lb = fastlb([instant()], workers=2)
    for slot in range(2):
        wait_for_restart(lb, 2, kill_worker(lb, slot, exactly=False))
    for pid in lb.worker_pids():
        assert pss_kib(pid) <= IDLE_PSS_KIB
