"""What fastlb's processes may do and what they cost, as the system sees it."""

import contextlib
import os
import pwd
import socket
from functools import partial
from pathlib import Path

import pytest

from tests.support.certificates import make_certificates
from tests.support.configuration import configuration
from tests.support.load import kill_worker, wait_for_restart, wait_for_workers
from tests.support.waiting import SANITIZED, wait_until

IDLE_PSS_KIB = 12 << 10  # what an idle worker may cost

UNPRIVILEGED = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes accounts")


@pytest.fixture
def fastlb(fastlb):
    """With an interpreter each: what is imported before the account changes, and what is shared, are the start's own."""
    return partial(fastlb, fresh=True)


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


def free_privileged_port():
    for port in range(1023, 600, -1):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no privileged port is free")


@root_only
@pytest.mark.skipif(int(UNPRIVILEGED.read_text()) < 1024, reason="everybody may bind every port here")
def test_reload_adds_a_privileged_port_after_privileges_were_dropped(fastlb, instant):
    lb = start_as_nobody(fastlb, instant())
    port = free_privileged_port()
    lb.reload_ok(configuration([instant()], listener={"bind": ["127.0.0.1:0", f"127.0.0.1:{port}"]}), new_sockets=1)
    assert lb.port_of(1) == port
    assert lb.get(bind=1).status == 200


@root_only
def test_reload_reads_what_is_for_root_alone_and_leaves_nobody_with_more_rights(fastlb, instant):
    lb = start_as_nobody(fastlb, instant())
    before = {row["pid"] for row in lb.processes()}
    key = lb.directory / "key"
    key.write_text("0123456789abcdef")
    key.chmod(0o600)
    hidden = lb.directory / "tls"
    hidden.mkdir(mode=0o700)
    make_certificates(hidden, "a.example")
    health = {"type": "tcp", "tls": True, "tls_ca_file": str(hidden / "authority.pem"), "interval": "1m", "fast_interval": "1m"}
    text = configuration([instant()], settings={"sticky_key_file": str(key)}, pool={"sticky": {"cookie": "ID"}, "health": health})
    lb.rewrite(text)
    lb.config_path.chmod(0o600)
    answer = lb.reload()
    assert answer["ok"], answer
    assert answer["warnings"] == []
    first = lb.get().get("set-cookie").split(";")[0]
    assert {row["pid"] for row in lb.processes()} == before
    for row in lb.processes():
        if row["role"] != "supervisor":
            assert status_of(row["pid"])["Uid"] == [str(pwd.getpwnam("nobody").pw_uid)] * 4, row
    key.write_text("another key, of 16 and more")
    assert lb.reload()["ok"]
    assert lb.get().get("set-cookie").split(";")[0] != first  # it was read again, not remembered


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
