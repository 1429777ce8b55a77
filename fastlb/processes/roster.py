"""The workers as the supervisor knows them: one record for each slot, and how long a slot waits after its worker died.

A slot outlives its processes: its eventfd, its columns in shared memory and the sockets made for it belong to the slot.
"""

import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from fastlb.processes.child import Child
from fastlb.processes.lending import Assignment

# The longest that a worker takes for one step: saying hello, preparing a snapshot, changing to it.
START_SECONDS = 10.0
# A worker that lived this long had a reason of its own to die; the next one starts at once.
STEADY_SECONDS = 1.0
# As many slots as the shared memory has.
MAX_WORKERS = 128
# Waits after the second, third, … death in quick succession; meanwhile siblings have its sockets.
FIRST_BACK_OFF_SECONDS = 0.1
LONGEST_BACK_OFF_SECONDS = 10.0


class State(StrEnum):
    """How far a slot's worker is."""

    WAITING = "waiting"  # no process: one is being forked, or is to be after a while
    BLANK = "blank"  # it runs and has no snapshot
    PREPARING = "preparing"  # it has been given the snapshot in force
    COMMITTING = "committing"  # it has been told to use it
    READY = "ready"
    DRAINING = "draining"  # it accepts nothing any more and ends by itself


# Those that have, or are just getting, sockets to accept from.
ACCEPTING = frozenset((State.COMMITTING, State.READY))
# Those that use some snapshot, or have been told to.
COMMITTED = frozenset((State.COMMITTING, State.READY, State.DRAINING))


@dataclass(slots=True)
class Slot:
    """A place for one worker.

    Args:
        number: of the slot, and of its part of the shared memory.
        event_fd: wakes its engine; owned by the slot.
        generation: of the snapshot that it was told to use last.
        lent: the numbers of the sockets whose descriptors the process has.
        born: when its process was forked, in seconds of the loop's clock.
        busy_since: when it was last given something to do before it is ready.
        pinged_ms: when a heartbeat was asked for that has not come yet; 0 = none is owed.
        retired: there shall be no worker here.
        reserved: a worker of the fastlb before this one is still here; see predecessor.py.
        catching_up: it has been told to prepare the snapshot in force, alone and not with all others.
        awaited: the next worker is on its way: the last one is being settled, it has to wait, or it is being forked.
    """

    number: int
    event_fd: int
    child: Child | None = None
    state: State = State.WAITING
    generation: int = 0
    lent: set[int] = field(default_factory=set)
    assigned: Assignment = ()
    pinged_ms: int = 0
    born: float = 0.0
    busy_since: float = 0.0
    n_quick_deaths: int = 0
    restarts: int = -1
    retired: bool = False
    reserved: bool = False
    catching_up: bool = False
    awaited: bool = False

    @property
    def pid(self) -> int:
        """0 = there is no process."""
        return self.child.pid if self.child is not None else 0

    def begin(self, child: Child, now: float) -> None:
        """A process has been forked for this slot."""
        self.child = child
        self.awaited = False
        self.born = self.busy_since = now
        self.restarts += 1

    def end(self, now: float) -> float:
        """The process has ended and is reaped; returns how long to wait before the next, in seconds."""
        self.child = None
        self.state = State.WAITING
        self.generation = 0
        self.lent.clear()
        self.assigned = ()
        self.catching_up = False
        self.pinged_ms = 0
        if now - self.born >= STEADY_SECONDS:
            self.n_quick_deaths = 0
            return 0.0
        self.n_quick_deaths += 1
        if self.n_quick_deaths == 1:
            return 0.0
        return float(min(FIRST_BACK_OFF_SECONDS * 2 ** (self.n_quick_deaths - 2), LONGEST_BACK_OFF_SECONDS))

    def begin_draining(self) -> None:
        """It accepts nothing any more, and needs no snapshot."""
        self.state = State.DRAINING
        self.catching_up = False

    def is_past(self, generation: int) -> bool:
        """No new request here meets what was in force before this snapshot: it is used, or nothing is accepted any more."""
        return self.state not in ACCEPTING or (self.state is State.READY and self.generation >= generation)

    def kill(self) -> None:
        """Ends its process at once."""
        if self.child is not None:
            self.child.signal(signal.SIGKILL)

    def wake(self) -> None:
        os.eventfd_write(self.event_fd, 1)


def choose_slots(slots: Iterable[Slot], n_workers: int) -> list[int]:
    """Where so many workers shall be: where some are already, and then where nobody is. The slots may be more than there are yet."""
    slots = list(slots)
    kept = [slot.number for slot in slots if not slot.retired and not slot.reserved]
    free = [slot.number for slot in slots if slot.retired and not slot.reserved]
    beyond = len(slots)
    return sorted([*kept, *free, *range(beyond, beyond + n_workers)][:n_workers])


def choose_where_room(slots: Iterable[Slot], n_workers: int) -> list[int]:
    """The same for as many of them as there can be."""
    return [number for number in choose_slots(slots, n_workers) if number < MAX_WORKERS]


def make_slot(number: int, event_fd: int = -1) -> Slot:
    """An empty slot. `event_fd`: the one that it has already, owned from now on."""
    return Slot(number, event_fd if event_fd >= 0 else os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
