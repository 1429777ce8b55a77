"""The workers of one supervisor: has them forked, and lets them go.

Owns the slots, and the doors at which the next fastlb finds who outlives this one. When a worker dies its share of the counts in shared
memory is taken back before another one is forked in its slot. It knows neither sockets nor snapshots: its parent has siblings take over.
"""

import asyncio
import os
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Protocol

from fastlb import _core
from fastlb.processes.child import Child
from fastlb.processes.handover import Doors
from fastlb.processes.life import Life
from fastlb.processes.memory_lock import try_settling
from fastlb.processes.messages import Drain, FromWorker, Siblings, Stop, ToWorker
from fastlb.processes.nursery import Nursery
from fastlb.processes.output import report
from fastlb.processes.roster import ACCEPTING, Slot, State, choose_slots, make_slot
from fastlb.processes.worker import END_SECONDS

# After a fork that the system refused.
RETRY_SECONDS = 1.0
# How often what a dead worker left behind is looked at again, where a live one stood still in the middle of the same count.
SETTLE_SECONDS = 0.05
# How long workers have to end by themselves when a drain is over, after the moment that their idle clients have (worker.END_SECONDS).
ENDING_SECONDS = END_SECONDS + 1.0


class Parent(Protocol):
    """Who has sockets and snapshots."""

    def on_worker_message(self, slot: Slot, message: FromWorker) -> None:
        """A worker says something."""

    def on_worker_gone(self, slot: Slot) -> None:
        """A worker has ended: nobody waits for it, and siblings accept from its sockets."""

    def on_worker_leaving(self, slot: Slot) -> None:
        """A worker is about to be told to drain: siblings accept from its sockets before it stops."""

    def on_slots_added(self, slots: Sequence[Slot]) -> None:
        """There are more slots than before."""

    def on_slot_freed(self, number: int) -> None:
        """Nobody of ours is to be in this slot any more, and it is settled."""

    def tell_processes(self) -> None:
        """The list of processes has changed."""


class Crew:
    """All slots, with those that other fastlbs' workers are in.

    Args:
        doors: None: workers do not outlive this supervisor.
    """

    def __init__(self, parent: Parent, life: Life, nursery: Nursery, shared: _core.SharedMemory, doors: Doors | None) -> None:
        self._parent = parent
        self._life = life
        self._nursery = nursery
        self._shared = shared
        self._doors = doors
        self.slots: list[Slot] = []

    def make_slots(self, n_workers: int, reserved: Mapping[int, int]) -> None:
        """So many for workers of ours, around those in which the workers of the fastlb before this one still are.

        Args:
            reserved: the eventfds of those by slot, owned from now on; -1 = none is known.
        """
        n_slots = max([n_workers + len(reserved), *(number + 1 for number in reserved)])
        self.slots = [make_slot(number, reserved.get(number, -1)) for number in range(n_slots)]
        for slot in self.slots:
            slot.retired, slot.reserved = True, slot.number in reserved
        for number in choose_slots(self.slots, n_workers):
            self.slots[number].retired = False

    def add_slots(self, numbers: Collection[int]) -> None:
        """Makes slots up to the highest of these, where nobody is to be yet."""
        while len(self.slots) <= max(numbers, default=0):
            self.slots.append(make_slot(len(self.slots)))
            self.slots[-1].retired = True

    def begin(self) -> None:
        """Has all workers forked."""
        for slot in self.slots:
            self._fork(slot)

    def close(self) -> None:
        """When all have ended."""
        for slot in self.slots:
            os.close(slot.event_fd)

    def close_doors(self) -> None:
        """When all have ended: whoever looks for orphans finds none of ours."""
        if self._doors is not None:
            self._doors.close()

    # -------------------------------------------------------------------------------------------------- what there is
    def children(self) -> list[Child]:
        """Those that run."""
        return [slot.child for slot in self.slots if slot.child is not None]

    def accepting(self) -> list[int]:
        """The slots that sockets may belong to, or be lent to."""
        return [slot.number for slot in self.slots if slot.state in ACCEPTING and not slot.retired]

    @property
    def are_all_ready(self) -> bool:
        return all(slot.state is State.READY for slot in self.slots if not slot.retired)

    # -------------------------------------------------------------------------------------------------- messages
    def tell(self, slot: Slot, message: ToWorker, *descriptors: int) -> None:
        """Says something to a worker; one that cannot be told anything is dead or as good as that."""
        if slot.child is not None and not slot.child.send(message, *descriptors):
            slot.kill()

    def introduce(self, slot: Slot, others: Sequence[Slot]) -> None:
        """Gives a worker what wakes its siblings, once: an eventfd belongs to its slot, whoever works there."""
        siblings = [other for other in others if other is not slot]
        if siblings:
            numbers = tuple(other.number for other in siblings)
            self.tell(slot, Siblings(numbers), *(other.event_fd for other in siblings))

    # -------------------------------------------------------------------------------------------------- births
    def _fork(self, slot: Slot) -> None:
        """Has the next worker forked, if there shall be one."""
        slot.awaited = not slot.retired and not self._life.has_doors_closed
        if slot.awaited and not self._life.is_stopping:
            door = self._doors.open(slot.number) if self._doors is not None else None
            descriptors = (slot.event_fd, door.fileno()) if door is not None else (slot.event_fd,)
            self._nursery.fork(slot.number, len(self.slots), FromWorker, *descriptors)

    def on_born(self, number: int, child: Child) -> None:
        slot = self.slots[number]
        slot.begin(child, asyncio.get_running_loop().time())
        self._nursery.watch(child, partial(self._on_exit, slot), lambda message, _: self._parent.on_worker_message(slot, message))
        if slot.retired or self._life.has_doors_closed:  # since it was asked for
            child.send(Stop())

    def on_not_born(self, number: int) -> None:
        self._settle(self.slots[number], asyncio.get_running_loop().time() + RETRY_SECONDS)

    # -------------------------------------------------------------------------------------------------- deaths
    def _on_exit(self, slot: Slot) -> None:
        child = slot.child
        assert child is not None
        how = self._nursery.bury(child)
        was = slot.state
        slot.reserved = False
        wait = slot.end(asyncio.get_running_loop().time())
        self._parent.on_worker_gone(slot)
        if not self._life.is_stopping and not self._life.has_doors_closed and not slot.retired:
            again = "starting another" if not wait else f"starting another in {wait:g} s"
            report(f"worker {slot.number} ({child.pid}) ended ({how or 'without a reason'}, {was.value}); {again}")
        elif how and not self._life.is_stopping:
            report(f"worker {slot.number} ({child.pid}) ended ({how}) while it was {was.value}")
        slot.awaited = True
        self._settle(slot, asyncio.get_running_loop().time() + wait)
        self._parent.tell_processes()

    def _settle(self, slot: Slot, when: float) -> None:
        """Takes back what a dead worker had claimed, then has the next one forked, at this time of the loop's clock or later.

        A live worker that stands still in the middle of the same count is waited for; the watchdog ends that.
        """
        now = asyncio.get_running_loop().time()
        if not self.settle(slot.number):
            self._life.later(SETTLE_SECONDS, self._settle, slot, when)
            return
        self.wake_waiting()
        if when > now:
            self._life.later(when - now, self._fork, slot)
        else:
            self._fork(slot)

    def settle(self, number: int) -> bool:
        """Settles the worker that was in a slot, ours or not. False: not yet, for reasons that pass."""
        with try_settling(self._shared) as alone:
            if not alone or not self._shared.settle_worker(number)["settled"]:
                return False
        if self.slots[number].retired:
            self._parent.on_slot_freed(number)
        return True

    def wake_waiting(self) -> None:
        """What a dead worker had claimed is free for who waits for it."""
        for number in self._shared.waiting_workers():
            if number < len(self.slots):
                self.slots[number].wake()

    # -------------------------------------------------------------------------------------------------- how many there are
    def resize(self, homes: Collection[int], drain_timeout_ms: int) -> None:
        """Starts the workers that are missing and lets those go that are too many: siblings get their sockets, and they finish."""
        n_before = len(self.slots)
        self.add_slots(homes)
        if n_before < len(self.slots):
            self._parent.on_slots_added(self.slots[n_before:])
        for slot in self.slots[:n_before]:
            if slot.state is not State.WAITING:  # who has not said hello yet is told of all then
                self.introduce(slot, self.slots[n_before:])
        for slot in self.slots:
            was, slot.retired = slot.retired, slot.number not in homes
            if not slot.retired and slot.child is None and not slot.awaited:
                self._fork(slot)
            elif slot.retired and not was:
                self._life.start(self._retire(slot, drain_timeout_ms))

    async def _retire(self, slot: Slot, drain_timeout_ms: int) -> None:
        """Lets a worker finish what it has."""
        child = slot.child
        await self._life.wait_for(lambda: slot.child is not child or slot.state in (State.READY, State.BLANK))
        if child is None or slot.child is not child or not slot.retired:
            return
        slot.begin_draining()
        self._life.note_change()
        self._parent.on_worker_leaving(slot)
        self.tell(slot, Drain())
        await asyncio.sleep(drain_timeout_ms / 1000 + ENDING_SECONDS)
        if slot.child is child:
            self.tell(slot, Stop())
