"""The fastlb before this one, as far as it still serves: workers that outlived their supervisor.

Owns what they handed over until it is taken: copies of their listening sockets, and the shared memory. They serve on, beside our own
workers, until those are ready; then they are told to drain, and end within drain_timeout. If we do not get that far, we leave without a
word and nothing has changed for them.

Where the shared memory has our layout, it becomes ours: counts, health and what the operator said stay exact, and the slots in which the
old workers are stay theirs until they have ended. Otherwise only the sockets are taken over.

The workers are not our children and not trusted more than others: what they say leads to no signal but to the process that the kernel has
named as the one that spoke.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from fastlb import _core
from fastlb.control_plane.config.address import BindAddress
from fastlb.control_plane.tls.tickets import TicketKeys
from fastlb.processes.channel import ChannelError
from fastlb.processes.descriptor_store import Stored
from fastlb.processes.handover import Orphan, Visit, find_orphans
from fastlb.processes.messages import Cut, CutDone, Drain, Siblings, Stop, ToOrphan
from fastlb.processes.output import report
from fastlb.processes.roster import MAX_WORKERS
from fastlb.processes.systemd import InheritedSocket, match

NOTHING_STORED = Stored()
# How often we look whether there is room at the door of a worker that has not answered yet.
KNOCK_SECONDS = 5.0


class Predecessor:
    """What is left of it. Without orphans it is nothing, and every method does nothing.

    Args:
        orphans: its workers, owned.
        shared: the memory of those whose slots are in `slots`; owned by the caller. None: another layout, or there is none.
        slots: the orphans that are in slots of that memory.
        others: processes that are in slots of it and did not answer, most of which are dead.
        sockets: that listen, and nobody accepts from; owned.
        silent: doors of workers that have not answered yet; owned. They are orphans as soon as they do.
        foreign_fd: the memory that they count in, where it is not `shared`; owned. -1 = there is none.
    """

    def __init__(
        self,
        orphans: Sequence[Orphan] = (),
        shared: _core.SharedMemory | None = None,
        slots: Iterable[Orphan] = (),
        others: Mapping[int, int] = MappingProxyType({}),
        sockets: Iterable[socket.socket] = (),
        silent: Iterable[Visit] = (),
        foreign_fd: int = -1,
    ) -> None:
        self._orphans = list(orphans)
        self.states = {} if shared is not None or not orphans else dict(orphans[0].states)  # of backends, where the memory is not ours
        self.weights = dict(orphans[0].weights) if orphans else {}
        self.endpoints = dict(orphans[0].endpoints) if orphans else {}
        self.ticket_keys = TicketKeys()  # those of the dead are lost, and sessions begin anew
        self._sockets = list(sockets)
        self._foreign_fd = foreign_fd
        self.shared = shared
        self._slots = {orphan.slot: orphan for orphan in slots}
        self._strangers: dict[int, int] = {}  # by slot: the pidfd of one that lives and did not answer
        for slot, pid in others.items():
            if slot not in self._slots and pid > 0:
                with suppress(OSError):
                    self._strangers[slot] = os.pidfd_open(pid)
        self._silent = list(silent)
        self._knocking: asyncio.TimerHandle | None = None
        self._has_succeeded = False
        self._on_gone: Callable[[int | None], None] = lambda _: None
        self._on_cut: Callable[[int, CutDone], None] = lambda *_: None

    def take_event_fds(self) -> dict[int, int]:
        """What wakes the worker in each slot that is not free yet, or -1; the caller owns them."""
        taken = {slot: orphan.event_fd for slot, orphan in self._slots.items()} | dict.fromkeys(self._strangers, -1)
        for orphan in self._slots.values():
            orphan.event_fd = -1
        return taken

    def take_foreign_memory(self) -> int:
        """The memory that it counts in, where that is not ours; -1 = there is none. The caller owns it."""
        taken, self._foreign_fd = self._foreign_fd, -1
        return taken

    @property
    def pids(self) -> dict[int, int]:
        """By slot."""
        return {slot: orphan.pid for slot, orphan in self._slots.items()}

    @property
    def pid(self) -> int:
        """Of that supervisor."""
        return 0

    @property
    def is_alive(self) -> bool:
        """Whether there is a supervisor beside us."""
        return False

    @property
    def is_gone(self) -> bool:
        """Whether all its workers have ended. (Not of those that never answered: nothing waits for them.)"""
        return not self._orphans

    def take_sockets(self, wanted: Iterable[BindAddress]) -> list[tuple[BindAddress, list[socket.socket]]]:
        """Takes its listening sockets for these addresses; the caller owns them. An address with port 0 gets a port that it had. The others
        are closed."""
        taken, left = share_out([*self._sockets, *(one for orphan in self._orphans for one in orphan.sockets)], wanted)
        self._sockets.clear()
        for orphan in self._orphans:
            orphan.sockets.clear()
        for one in left:
            one.close()
        return taken

    # -------------------------------------------------------------------------------------------------- watching
    def watch(self, on_gone: Callable[[int | None], None], on_end: Callable[[], None], on_cut: Callable[[int, CutDone], None]) -> None:
        """Calls `on_gone` for each worker that ends, with its slot if that is of our memory, and `on_cut` with a slot for the answers to
        `cut`. (`on_end` is for an `Elder`, which has an end of its own.) Needs a running loop."""
        loop = asyncio.get_running_loop()
        self._on_gone, self._on_cut = on_gone, on_cut
        for orphan in self._orphans:
            self._watch_orphan(orphan)
        for visit in self._silent:
            self._wait_at(visit)
        for slot, pidfd in self._strangers.items():
            loop.add_reader(pidfd, self._on_stranger_exit, slot)

    def introduce(self, event_fds: Mapping[int, int]) -> None:
        """Gives its workers what wakes ours, by slot."""
        for slot, orphan in self._slots.items():
            others = {number: event_fd for number, event_fd in event_fds.items() if number != slot}
            self._tell(orphan, Siblings(tuple(others)), *others.values())

    def succeed(self, memory_fd: int) -> None:
        """Ours are ready: has its workers accept nobody any more, finish, and end. Nobody accepts from sockets that were not taken. (An
        `Elder` wants our memory.)"""
        self._has_succeeded = True
        for orphan in self._orphans:
            self._dismiss(orphan)

    def cut(self, message: Cut) -> list[int]:
        """Has those in slots of our memory end what is in flight at a backend; returns who is to answer."""
        for orphan in self._slots.values():
            self._tell(orphan, message)
        return list(self._slots)

    def stop(self) -> None:
        """Has them end at once."""
        for orphan in self._orphans:
            self._tell(orphan, Stop())

    def kill(self) -> None:
        """Ends those that do not listen; not who has hung up and lives, which no worker does."""
        for orphan in self._orphans:
            if orphan.channel.fileno() < 0:
                continue
            report(f"worker {orphan.pid} of the fastlb before this one does not end: killed")
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(orphan.pidfd, signal.SIGKILL)

    def leave(self) -> None:
        """Lets go of them: who has not been told to drain serves on, for the next one that comes."""
        loop = asyncio.get_running_loop()
        for orphan in self._orphans:
            _forget(loop, orphan.pidfd, orphan.channel.fileno())
            orphan.close()
        self._orphans.clear()
        self._slots.clear()
        for pidfd in self._strangers.values():
            _forget(loop, pidfd)
            os.close(pidfd)
        self._strangers.clear()
        for visit in self._silent:
            if visit.connection is not None:
                _forget(loop, visit.connection.fileno())
            visit.close()
        self._silent.clear()
        if self._knocking is not None:
            self._knocking.cancel()

    def _watch_orphan(self, orphan: Orphan) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(orphan.pidfd, self._on_exit, orphan)
        loop.add_reader(orphan.channel.fileno(), self._on_readable, orphan)

    def _dismiss(self, orphan: Orphan) -> None:
        orphan.close_sockets()
        self._tell(orphan, Drain())

    def _tell(self, orphan: Orphan, message: ToOrphan, *descriptors: int) -> None:
        with suppress(OSError):  # it has ended, which its pidfd tells, or does not read: then it will not end either, and is killed
            orphan.channel.send(message, *descriptors, wait=False)

    def _on_readable(self, orphan: Orphan) -> None:
        """Nothing that it says now matters but what it has cut and that it hangs up: its end follows, and frees its slot. Who is in none is
        forgotten."""
        try:
            while (received := orphan.channel.receive()) is not None:
                message, descriptors = received
                for descriptor in descriptors:
                    os.close(descriptor)
                if isinstance(message, CutDone) and self._slots.get(orphan.slot) is orphan:
                    self._on_cut(orphan.slot, message)
        except (EOFError, ChannelError):
            _forget(asyncio.get_running_loop(), orphan.channel.fileno())
            orphan.channel.close()
            if self._slots.get(orphan.slot) is not orphan:
                self._on_exit(orphan)

    # -------------------------------------------------------------------------------------------------- who has not answered yet
    def _wait_at(self, visit: Visit) -> None:
        loop = asyncio.get_running_loop()
        if visit.connection is not None:
            loop.add_reader(visit.connection.fileno(), self._on_answer, visit)
        elif self._knocking is None:
            self._knocking = loop.call_later(KNOCK_SECONDS, self._knock_again)

    def _knock_again(self) -> None:
        self._knocking = None
        for visit in [visit for visit in self._silent if visit.connection is None]:
            if visit.knock():
                self._wait_at(visit)
            else:
                self._silent.remove(visit)

    def _on_answer(self, visit: Visit) -> None:
        """It moves again, or is no more."""
        assert visit.connection is not None
        _forget(asyncio.get_running_loop(), visit.connection.fileno())
        self._silent.remove(visit)
        orphan = visit.hear()
        if orphan is None:
            return
        report(f"worker {orphan.pid} of the fastlb before this one answers at last, and drains")
        is_in_ours = self.shared is not None and os.path.samestat(os.fstat(orphan.shared_fd), os.fstat(self.shared.fileno()))
        if is_in_ours and orphan.slot in self._strangers:
            stranger = self._strangers.pop(orphan.slot)
            _forget(asyncio.get_running_loop(), stranger)
            os.close(stranger)
            self._slots[orphan.slot] = orphan
        self._orphans.append(orphan)
        self._watch_orphan(orphan)
        if self._has_succeeded:
            self._dismiss(orphan)

    # -------------------------------------------------------------------------------------------------- ends
    def _on_exit(self, orphan: Orphan) -> None:
        _forget(asyncio.get_running_loop(), orphan.pidfd, orphan.channel.fileno())
        self._orphans.remove(orphan)
        slot = orphan.slot if self._slots.get(orphan.slot) is orphan else None
        if slot is not None:
            del self._slots[slot]
        orphan.close()
        orphan.path.unlink(missing_ok=True)
        self._on_gone(slot)

    def _on_stranger_exit(self, slot: int) -> None:
        pidfd = self._strangers.pop(slot)
        _forget(asyncio.get_running_loop(), pidfd)
        os.close(pidfd)
        self._on_gone(slot)


def find_predecessor(directory: Path | None, wanted: Sequence[BindAddress], n_workers: int, stored: Stored = NOTHING_STORED) -> Predecessor:
    """Meets the workers in a runtime directory that is ours, and takes up what the service manager has kept.

    Args:
        directory: None where there is none.
        wanted: what this fastlb is going to listen on.
        n_workers: how many workers it is going to have.
    """
    orphans, silent = find_orphans(directory) if directory is not None else ([], [])
    sockets = [one for orphan in orphans for one in orphan.sockets]
    if sockets and not any(_match(sockets, candidate) for address in wanted for candidate in _candidates(address, sockets)):
        report(f"workers of another fastlb, which is gone, serve on addresses that are not ours ({directory}): they are left alone")
        for orphan in orphans:
            orphan.close()
        orphans = []
    memories = [orphan.shared_fd for orphan in orphans] + [stored.memory_fd] * (stored.memory_fd >= 0)
    try:
        for memory in memories:
            found = _map(memory, orphans, n_workers)
            if found is not None:
                report(f"taking over {_name(orphans)}, with counts and states")
                return Predecessor(orphans, *found, found[0].workers(), stored.sockets, silent)
        if memories:
            report(f"taking over {_name(orphans)}; the memory is not laid out as ours: what it says is copied")
            return Predecessor(orphans, sockets=stored.sockets, silent=silent, foreign_fd=os.dup(memories[0]))
        return Predecessor(orphans, sockets=stored.sockets, silent=silent)
    finally:
        if stored.memory_fd >= 0:
            os.close(stored.memory_fd)


def _name(orphans: Sequence[Orphan]) -> str:
    if not orphans:
        return "what the service manager has kept"
    return f"from {len(orphans)} worker{'s' if len(orphans) > 1 else ''} whose supervisor is gone"


Shares = list[tuple[BindAddress, list[socket.socket]]]


def share_out(offered: Iterable[socket.socket], wanted: Iterable[BindAddress]) -> tuple[Shares, list[socket.socket]]:
    """Which of these listening sockets serve which address, and those that serve none."""
    offered = _distinct(offered)
    taken: Shares = []
    # Those that name their port first: what is left over is what the kernel has chosen.
    for address in sorted(wanted, key=lambda address: not address.unix_path and address.port == 0):
        for candidate in _candidates(address, offered):
            if sockets := _match(offered, candidate):
                offered = [one for one in offered if one not in sockets]
                taken.append((address, sockets))
                break
    return taken, offered


def adopt_orphans(directory: Path, shared: _core.SharedMemory, own: Container[int], doors: str) -> Predecessor:
    """The workers of a fastlb that ran beside this one, over the same memory, and has been killed.

    Args:
        own: the slots of our workers.
        doors: the name of theirs.
    """
    orphans, silent = find_orphans(directory, doors)
    workers = {slot: pid for slot, pid in shared.workers().items() if slot not in own}
    ours = os.fstat(shared.fileno())
    slots = [orphan for orphan in orphans if orphan.slot in workers and os.path.samestat(os.fstat(orphan.shared_fd), ours)]
    return Predecessor(orphans, shared, slots, workers, silent=silent)


def _map(memory: int, orphans: Iterable[Orphan], n_workers: int) -> tuple[_core.SharedMemory, list[Orphan]] | None:
    """Shared memory, if it is laid out as this build does it and has room for our workers; and the orphans that are in its slots."""
    try:
        shared = _core.SharedMemory(memory)
    except (ValueError, OSError):
        return None
    workers = shared.workers()
    here = [orphan for orphan in orphans if os.path.samestat(os.fstat(orphan.shared_fd), os.fstat(memory))]
    slots = {orphan.slot for orphan in here}
    if len(slots) == len(here) and slots <= workers.keys() and len(workers) + n_workers <= MAX_WORKERS:
        return shared, here
    shared.close()
    return None


def _candidates(address: BindAddress, offered: Iterable[socket.socket]) -> Iterable[BindAddress]:
    """What an address may have been bound to."""
    if address.unix_path or address.port:
        return [address]
    ports = {one.getsockname()[1] for one in offered if one.family != socket.AF_UNIX}
    return [replace(address, port=port) for port in sorted(ports)]


def _match(offered: Iterable[socket.socket], address: BindAddress) -> list[socket.socket]:
    if address.unix_path and not Path(address.unix_path).is_socket():
        return []  # nobody comes to it any more
    return match([InheritedSocket(one, "") for one in offered], address)


def _distinct(sockets: Iterable[socket.socket]) -> list[socket.socket]:
    """Each socket once: one that all workers share has come several times, and the copies are closed."""
    found: dict[int, socket.socket] = {}
    for one in sockets:
        if found.setdefault(os.fstat(one.fileno()).st_ino, one) is not one:
            one.close()
    return list(found.values())


def _forget(loop: asyncio.AbstractEventLoop, *descriptors: int) -> None:
    for descriptor in descriptors:
        if descriptor >= 0:
            loop.remove_reader(descriptor)
