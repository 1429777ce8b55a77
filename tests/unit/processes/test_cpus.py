"""How many CPUs may be used, over trees of control groups as systems and containers have them."""

import os
from pathlib import Path

import pytest

from fastlb.processes.cpus import usable_cpus

V2_MOUNT = "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1_MOUNT = "29 23 0:26 {} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"
V1_GROUPS = "5:memory:/m\n4:cpu,cpuacct:{0}\n3:cpuset:/other\n1:name=systemd:/x\n0::/unified\n"


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def make_tree(root: Path, mounts: str, groups: str, files: dict[str, str]) -> str:
    for path, text in {
        "proc/self/mountinfo": f"22 27 0:21 / /proc rw - proc proc rw\n{mounts}\n",
        "proc/self/cgroup": groups,
        **files,
    }.items():
        file = root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return str(root)


def test_without_control_groups_the_affinity_counts(tmp_path: Path) -> None:
    assert usable_cpus(str(tmp_path)) == 8


def test_the_affinity_of_this_process_is_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5})
    assert usable_cpus() == 1


@pytest.mark.parametrize(
    ("written", "cpus"),
    [
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("100001 100000", 2),
        ("100000 100000", 1),
        ("1000 100000", 1),
        ("50000 25000", 2),
        ("900000 100000", 8),
        ("max 100000", 8),
        ("max", 8),
        ("", 8),
        ("nonsense here", 8),
        ("0 100000", 8),
    ],
)
def test_a_quota_of_version_2_is_rounded_up(tmp_path: Path, written: str, cpus: int) -> None:
    root = make_tree(tmp_path, V2_MOUNT, "0::/app.slice/x.service\n", {"sys/fs/cgroup/app.slice/x.service/cpu.max": f"{written}\n"})
    assert usable_cpus(root) == cpus


@pytest.mark.parametrize(
    ("at", "cpus"),
    [("", 3), ("/a", 3), ("/a/b", 3), ("/a/b/c", 3), ("/a/b/c/below", 8), ("/a/sibling", 8)],
)
def test_the_tightest_quota_of_all_groups_above_counts(tmp_path: Path, at: str, cpus: int) -> None:
    files = {"sys/fs/cgroup/a/b/c/cpu.max": "500000 100000" if cpus == 3 else "max 100000", f"sys/fs/cgroup{at}/cpu.max": "300000 100000"}
    assert usable_cpus(make_tree(tmp_path, V2_MOUNT, "0::/a/b/c\n", files)) == cpus


def test_a_container_with_a_namespace_sees_its_group_as_the_whole_tree(tmp_path: Path) -> None:
    assert usable_cpus(make_tree(tmp_path, V2_MOUNT, "0::/\n", {"sys/fs/cgroup/cpu.max": "250000 100000"})) == 3


def test_a_container_without_a_namespace_sees_its_path_and_only_itself_mounted(tmp_path: Path) -> None:
    mount = V1_MOUNT.format("/docker/abc")
    files = {
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "400000\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/cpu,cpuacct/inner/cpu.cfs_quota_us": "200000\n",
        "sys/fs/cgroup/cpu,cpuacct/inner/cpu.cfs_period_us": "100000\n",
    }
    assert usable_cpus(make_tree(tmp_path, mount, V1_GROUPS.format("/docker/abc"), files)) == 4
    assert usable_cpus(make_tree(tmp_path, mount, V1_GROUPS.format("/docker/abc/inner"), files)) == 2


@pytest.mark.parametrize("group", ["/docker/abcdef", "/elsewhere", "/../sibling"])
def test_a_group_outside_of_what_is_mounted_leaves_the_mount_point(tmp_path: Path, group: str) -> None:
    files = {
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "400000\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/sibling/cpu.cfs_quota_us": "100000\n",
        "sys/fs/cgroup/sibling/cpu.cfs_period_us": "100000\n",
    }
    assert usable_cpus(make_tree(tmp_path, V1_MOUNT.format("/docker/abc"), V1_GROUPS.format(group), files)) == 4


@pytest.mark.parametrize(("quota", "cpus"), [("-1", 8), ("150000", 2), ("0", 8)])
def test_a_quota_of_version_1_beside_version_2(tmp_path: Path, quota: str, cpus: int) -> None:
    """As systemd's hybrid layout has it: the controller is on version 1, version 2 has no limits."""
    files = {
        "sys/fs/cgroup/cpu,cpuacct/system.slice/cpu.cfs_quota_us": f"{quota}\n",
        "sys/fs/cgroup/cpu,cpuacct/system.slice/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/unified/unified/cgroup.procs": "",
    }
    mounts = f"{V1_MOUNT.format('/')}\n30 23 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"
    assert usable_cpus(make_tree(tmp_path, mounts, V1_GROUPS.format("/system.slice"), files)) == cpus


def test_the_mount_point_is_looked_up_and_not_assumed(tmp_path: Path) -> None:
    mount = r"29 23 0:26 / /my\040groups\134 rw,relatime shared:4 master:1 - cgroup2 none rw"
    assert usable_cpus(make_tree(tmp_path, mount, "0::/x\n", {"my groups\\/x/cpu.max": "100000 100000"})) == 1


def test_damaged_files_limit_nothing(tmp_path: Path) -> None:
    assert usable_cpus(make_tree(tmp_path, "1 2 -\n - cgroup2\n- - -", "\n:\n::\n0\nx:cpu\n", {})) == 8


def test_this_machine_has_an_answer() -> None:
    assert 1 <= usable_cpus() <= 8
