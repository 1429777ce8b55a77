"""What the service manager keeps for us over our death: listening sockets and the shared memory (FDSTORE=1, sd_pid_notify_with_fds(3)).

Where all processes of a service are killed together, as with KillMode=mixed, nobody outlives the supervisor; but the sockets stay open, so
clients wait in their queues instead of being reset, and the counts and states in the shared memory are there for the next start. An orderly
end takes everything back: then nobody is to wait.

A `DescriptorStore` owns nothing: the service manager has copies. Without one nothing happens here.
"""

import hashlib
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fastlb.processes.sockets import BoundAddress, can_be_listened_on
from fastlb.processes.systemd import FIRST_INHERITED, notify

PREFIX = "fastlb."
MEMORY = PREFIX + "memory"
# A message carries so many descriptors at most (SCM_MAX_FD).
MAX_DESCRIPTORS = 200
# No inode has this number.
NOT_OURS = frozenset((-1,))


@dataclass(frozen=True, slots=True)
class Stored:
    """What was kept for this process by a fastlb before it. Owned by who takes it.

    Args:
        sockets: that listen; nobody accepts from them.
        memory_fd: of the shared memory; -1 for none.
        names: under which the service manager still has all of it.
    """

    sockets: tuple[socket.socket, ...] = ()
    memory_fd: int = -1
    names: frozenset[str] = frozenset()


class DescriptorStore:
    """What the service manager has of us, by name.

    Args:
        names: what it has from a fastlb before this one, which `keep` replaces.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._kept = dict.fromkeys(names, NOT_OURS)  # the inodes

    def keep(self, memory_fd: int, bound: Iterable[BoundAddress]) -> None:
        """Has it keep the shared memory and these sockets, and nothing else any more."""
        wanted: dict[str, list[int]] = {MEMORY: [memory_fd]}
        for address in bound:
            wanted.setdefault(_name(address), []).extend(one.socket.fileno() for one in address.sockets)
        inodes = {name: frozenset(os.fstat(descriptor).st_ino for descriptor in descriptors) for name, descriptors in wanted.items()}
        self._remove(name for name in list(self._kept) if not self._kept[name] <= inodes.get(name, frozenset()))
        self._add({name: descriptors for name, descriptors in wanted.items() if self._kept.get(name) != inodes[name]}, inodes)

    def forget(self) -> None:
        """Takes everything back: whoever connects after our end is refused."""
        self._remove(list(self._kept))

    def leave(self) -> None:
        """Leaves everything to another fastlb, which has taken over."""
        self._kept.clear()

    def _add(self, wanted: Mapping[str, Sequence[int]], inodes: Mapping[str, frozenset[int]]) -> None:
        for name, descriptors in wanted.items():
            # A name may be given again: what is kept already is not kept twice.
            parts = [descriptors[at : at + MAX_DESCRIPTORS] for at in range(0, len(descriptors), MAX_DESCRIPTORS)]
            if all(notify("FDSTORE=1", f"FDNAME={name}", descriptors=part) for part in parts):
                self._kept[name] = inodes[name]

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            notify("FDSTOREREMOVE=1", f"FDNAME={name}")
            self._kept.pop(name, None)


def take_stored() -> Stored:
    """Takes what was kept off the descriptors that this process was given: they come behind those of socket units, which are left to
    `inherited_sockets`. Whatever is not what its name says is closed."""
    try:
        count = int(os.environ["LISTEN_FDS"])
        if int(os.environ["LISTEN_PID"]) != os.getpid():
            return Stored()
    except (KeyError, ValueError):
        return Stored()
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    sockets: list[socket.socket] = []
    memory_fd = -1
    while 0 < count <= len(names) and names[count - 1].startswith(PREFIX):
        count -= 1
        descriptor = FIRST_INHERITED + count
        try:
            os.set_inheritable(descriptor, False)
            if names[count] == MEMORY and memory_fd < 0:
                memory_fd = descriptor
            else:
                one = socket.socket(fileno=descriptor)
                if can_be_listened_on(one):
                    one.setblocking(False)
                    sockets.append(one)
                else:
                    one.close()
        except OSError:
            continue  # there is no such descriptor, or it is no socket
    os.environ["LISTEN_FDS"] = str(count)
    os.environ["LISTEN_FDNAMES"] = ":".join(names[:count])
    return Stored(tuple(sockets), memory_fd, frozenset(names[count:]))


def _name(address: BoundAddress) -> str:
    """Short, and without the colons that separate names."""
    return PREFIX + hashlib.sha256((str(address.address) + "/udp" * address.address.udp).encode()).hexdigest()[:16]
