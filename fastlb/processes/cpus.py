"""How many CPUs this process may use: its affinity, and no more than the CPU quota of its control group and of all groups above that.

Owns nothing and changes nothing. What cannot be read (no control groups, a container that hides them) limits nothing.
Sources: proc_pid_mountinfo(5), cgroups(7), cgroup_namespaces(7); the kernel's admin-guide/cgroup-v2.rst (cpu.max) and
scheduler/sched-bwc.rst (cpu.cfs_quota_us).
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path


def usable_cpus(root: str = "") -> int:
    """The smaller of affinity and quota (rounded up), at least 1.

    Args:
        root: a directory that stands for "/", where the control groups are read from.
    """
    affinity = len(os.sched_getaffinity(0))  # cpusets are in it already
    # Rounded up: half a CPU more than one is more than one worker can use.
    quotas = [-(-quota // period) for quota, period in _find_quotas(root)]
    return max(min([affinity, *quotas]), 1)


def _find_quotas(root: str) -> Iterator[tuple[int, int]]:
    """Every limit that holds for this process: microseconds of CPU time, in a period of microseconds."""
    mounts = list(_read_mounts(root))
    for line in _read(f"{root}/proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if not rest or (controllers and "cpu" not in controllers.split(",")):
            continue
        for kind, options, mount_root, mount_point in mounts:
            if kind == "cgroup" and controllers and "cpu" in options:
                read_quota = _read_quota_v1
            elif kind == "cgroup2" and not controllers:
                read_quota = _read_quota_v2
            else:
                continue
            for directory in _lineage(Path(root + mount_point), mount_root, group):
                quota = read_quota(directory)
                if quota is not None:
                    yield quota


def _read_mounts(root: str) -> Iterator[tuple[str, list[str], str, str]]:
    """Each mounted hierarchy: file system, its options, which of its directories is mounted, and where."""
    for line in _read(f"{root}/proc/self/mountinfo").splitlines():
        fields, _, end = (part.split() for part in line.partition(" - "))
        if len(fields) >= 5 and len(end) >= 3 and end[0] in ("cgroup", "cgroup2"):
            yield end[0], end[2].split(","), _unescape(fields[3]), _unescape(fields[4])


def _lineage(mount_point: Path, mount_root: str, group: str) -> Iterator[Path]:
    """The directories of a group and of all groups above it, as far as they are mounted.

    Without a namespace of its own a container sees its group's full path in /proc, and that group alone mounted as the whole tree: the
    path counts from `mount_root`. With one both are "/". A group outside of what is mounted ("/..", or another branch) leaves the mount
    point as all that can be read.
    """
    below = None if ".." in group.split("/") else _relative(group, mount_root)
    directory = mount_point / (below or ".")
    yield directory
    while directory != mount_point:
        directory = directory.parent
        yield directory


def _relative(path: str, start: str) -> str | None:
    """The path as counted from `start`, or None if it is not below that."""
    if start == "/":
        return path.strip("/")
    return path[len(start) :].strip("/") if f"{path}/".startswith(f"{start}/") else None


def _read_quota_v2(directory: Path) -> tuple[int, int] | None:
    quota, _, period = _read(f"{directory}/cpu.max").strip().partition(" ")  # "150000 100000", or "max 100000"
    return _as_quota(quota, period)


def _read_quota_v1(directory: Path) -> tuple[int, int] | None:
    return _as_quota(_read(f"{directory}/cpu.cfs_quota_us"), _read(f"{directory}/cpu.cfs_period_us"))  # the first is -1 for no limit


def _as_quota(quota: str, period: str) -> tuple[int, int] | None:
    """Both as numbers, or None for no limit."""
    try:
        result = int(quota), int(period)
    except ValueError:  # "max", or no such file
        return None
    return result if min(result) > 0 else None


def _read(path: str) -> str:
    """The text of a file, or nothing."""
    try:
        return Path(path).read_text(errors="surrogateescape")
    except OSError:
        return ""


def _unescape(field: str) -> str:
    """mountinfo writes space, tab, line end and backslash as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
