"""The limit of open files, and how many clients that makes room for.

The supervisor sets the limit once, before anything is forked, so that every process inherits it. Each client takes a descriptor in its
worker, and its backend another one while it is busy.
"""

import resource
from dataclasses import dataclass
from pathlib import Path

# Descriptors of a worker that are neither clients nor backends: listeners, pipes for splice, control, logs.
RESERVED_DESCRIPTORS = 200
# Where the descriptor limit is practically none, as in containers. The kernel alone takes 4 KB for an idle connection.
MAX_DEFAULT_CONNECTIONS = 1 << 20
# What fs.nr_open is unless somebody changed it (fs/file.c); systemd does, to 2^30.
USUAL_NR_OPEN = 1 << 20

_RAISE_HARD_LIMIT = "raise the hard limit (`ulimit -Hn` as root, LimitNOFILE= in a systemd unit, --ulimit nofile= for a container)"


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What the descriptor limit means.

    Args:
        descriptors: that each process may have.
        per_worker: clients that one worker may have; none has descriptors for more.
        in_all: clients that all workers together may have, at most `workers` times as many.
        sentence: says this to whoever starts fastlb.
        warnings: where it is less than what was asked for, with what to do.
    """

    descriptors: int
    per_worker: int
    in_all: int
    sentence: str
    warnings: tuple[str, ...] = ()


def set_limits(max_connections: int, max_descriptors: int, workers: int) -> ConnectionLimits:
    """Sets the descriptor limit of this process, which those that it forks inherit, and says how many clients there may be.

    Args:
        max_connections: `global.max_connections`, over all workers; 0 for as many as the limit allows.
        max_descriptors: `global.max_descriptors`, of each process; 0 for as high as allowed.
        workers: how many there will be.
    """
    reserved = RESERVED_DESCRIPTORS + workers - 1  # each worker can wake every other
    # The kernel shares connections out by chance: one worker may get them all.
    descriptors = _set_descriptor_limit(max_descriptors, at_least=2 * max_connections + reserved if max_connections else 0)
    usable = max(descriptors - reserved, 2)
    warnings = []
    if descriptors < max_descriptors:
        warnings.append(
            f"max_descriptors {max_descriptors} cannot be had: using {descriptors}; {_advise(max_descriptors, max_descriptors)}"
        )
    if max_connections == 0:
        per_worker = min(MAX_DEFAULT_CONNECTIONS, usable // 2)
        in_all = per_worker * workers
    else:
        per_worker = min(max_connections, usable)
        in_all = min(max_connections, usable * workers)
        needed = -(-2 * max_connections // workers) + reserved
        spare = (usable * workers) - in_all
        if in_all < max_connections:
            warnings.append(
                f"max_connections {max_connections} is more than {_count(workers, 'worker')} can have with {descriptors} descriptors "
                f"each: using {in_all}; {_advise(needed, max_descriptors)} to {needed} or more"
            )
        elif spare < in_all:
            warnings.append(
                f"max_connections {max_connections} leaves {spare} of {usable * workers} descriptors for backends: enough only while "
                f"most clients are idle; {_advise(needed, max_descriptors)} to {needed} or more"
            )
    return ConnectionLimits(descriptors, per_worker, in_all, _describe(descriptors, per_worker, in_all, workers), tuple(warnings))


def _set_descriptor_limit(exactly: int, at_least: int) -> int:
    """The limit that holds from now on.

    Args:
        exactly: what was asked for; 0 for the hard limit.
        at_least: what is tried to be had when the hard limit is lower, which takes CAP_SYS_RESOURCE.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _read_nr_open()
    if hard == resource.RLIM_INFINITY:
        hard = most
    wanted = min(exactly or max(hard, at_least), most)
    for limit in (wanted, min(wanted, hard)):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, min(max(limit, hard), most)))
        except (ValueError, OSError):  # ValueError is how this module says EPERM
            continue
        return limit
    return soft


def _advise(wanted: int, max_descriptors: int) -> str:
    """How a limit of this size could be had."""
    most = _read_nr_open()
    if wanted > most:
        return f"the kernel allows {most} (`sysctl fs.nr_open`): raise that and the hard limit"
    return "raise max_descriptors" if 0 < max_descriptors < wanted else _RAISE_HARD_LIMIT


def _read_nr_open() -> int:
    """What no process may go beyond, not even root's."""
    try:
        return int(Path("/proc/sys/fs/nr_open").read_text())
    except (OSError, ValueError):
        return USUAL_NR_OPEN


def _describe(descriptors: int, per_worker: int, in_all: int, workers: int) -> str:
    each = f" per worker and {in_all} in all" if workers > 1 else ""
    return f"room for {_count(per_worker, 'connection')}{each} ({descriptors} descriptors per process)"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
