"""The fastlb before this one and the one after it, as far as either is there.

Owns the predecessor: what is left of the fastlb before, or the elder that has started this one (upgrade.py); and, as the parent of
`Upgrading`, what an heir means for everything else: whose the sockets and the admin API are, which slots are whose, which process the
service manager is told of. Whoever of two fastlbs is killed leaves workers that serve on; the other one adopts them.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Protocol

from fastlb import FastlbError, _core
from fastlb.control_plane.tls.tickets import TicketKeys
from fastlb.processes.changeover import Changeover, Snapshot
from fastlb.processes.controller_process import ControllerProcess
from fastlb.processes.crew import ENDING_SECONDS, SETTLE_SECONDS, Crew
from fastlb.processes.cuts import ELDER
from fastlb.processes.foreign_memory import ForeignMemoryError
from fastlb.processes.guest import SYNC_SECONDS, Guest
from fastlb.processes.handover import Doors
from fastlb.processes.life import Life, StartError
from fastlb.processes.listening import Listening, Opened
from fastlb.processes.memory_lock import changing_rows, try_settling
from fastlb.processes.messages import AdminSocket, Cut, CutDone, Endpoints, LeaveAdmin, Upgraded
from fastlb.processes.nursery import Nursery
from fastlb.processes.output import report
from fastlb.processes.predecessor import Predecessor, adopt_orphans
from fastlb.processes.roster import MAX_WORKERS, Slot, choose_where_room
from fastlb.processes.runtime_directory import RuntimeDirectory
from fastlb.processes.supervisor_options import SupervisorOptions
from fastlb.processes.systemd import InheritedSocket, notify
from fastlb.processes.upgrade import Elder, Upgrading

# How long workers have to end by themselves after they were told to.
STOP_SECONDS = 5.0
# Between two readings of another fastlb's memory passes at least so many times what one takes.
SYNC_SHARE = 10


class Cutting(Protocol):
    """Who ends what is in flight at a backend, and adds up what that was."""

    def cut(self, message: Cut, for_heir: bool) -> None:
        """Has all our workers do it."""

    def on_cut(self, number: int, done: CutDone | None) -> None:
        """Somebody that was told has done it; None: has ended, and owes nothing."""


class Succession:
    """Who was here before, and who comes after.

    Args:
        doors: ours; None: workers do not outlive their supervisor.
    """

    def __init__(
        self,
        options: SupervisorOptions,
        predecessor: Predecessor | Elder,
        shared: _core.SharedMemory,
        doors: Doors | None,
        life: Life,
        nursery: Nursery,
        crew: Crew,
        listening: Listening,
        changeover: Changeover[Opened],
        controller: ControllerProcess,
        cutting: Cutting,
    ) -> None:
        self._options = options
        self._shared = shared
        self._doors = doors
        self._life = life
        self._crew = crew
        self._listening = listening
        self._changeover = changeover
        self._controller = controller
        self._cutting = cutting
        self._is_short = False  # we have gone back from an upgrade with fewer workers than are wanted
        self._guest: Guest | None = None  # the other one of the two, where it has a memory of its own
        self.predecessor = predecessor
        self.upgrading = Upgrading(self, nursery)

    def begin(self) -> None:
        """Makes the slots, and settles what was left in the others, before anybody of ours is there."""
        self._crew.make_slots(self._options.n_workers, self.predecessor.take_event_fds())
        foreign_fd = self.predecessor.take_foreign_memory()
        if foreign_fd >= 0:
            self._take_in(foreign_fd, self.predecessor.pid)
            os.close(foreign_fd)
        self.predecessor.watch(self._on_predecessor_exit, self._on_elder_end, self._on_cut)
        self.introduce(self._crew.slots)
        self._settle_left()

    def introduce(self, slots: Iterable[Slot]) -> None:
        """Gives the workers of the fastlb before this one what wakes ours."""
        self.predecessor.introduce({slot.number: slot.event_fd for slot in slots})

    def check_change(self, homes: Sequence[int]) -> None:
        """Whether a snapshot with workers in these slots may be put in force. StartError: two fastlbs would be in each other's way."""
        if self.upgrading.heir_pid:  # whose workers may be in any slot that is free here
            raise StartError("an upgrade is under way, and the configuration is the new one's")
        if self.predecessor.is_alive and not {slot.number for slot in self._crew.slots if not slot.retired}.issuperset(homes):
            # Should the old one start its workers again, they may be in any slot that is free here.
            raise StartError("an upgrade is under way: there can be more workers when the old fastlb has ended")
        if homes[-1] >= MAX_WORKERS:
            raise StartError("there is no room for so many workers as long as those of the fastlb before this one have not ended")

    def prepare_change(self) -> None:
        """The rows and meters of a snapshot are made, and nobody works with it yet."""
        self._sync_guest()

    def hand_over_admin(self) -> None:
        """Lends a controller the sockets of the admin API, which stay when it dies. During an upgrade there is one API: the new one's, as
        soon as that is ready."""
        if self.upgrading.is_ready:
            self._controller.tell(LeaveAdmin(self.upgrading.shares_memory))
        elif self._options.elder is None or self._life.is_started:
            for one in [one for bound in self._options.admin for one in bound.sockets]:
                self._controller.tell(AdminSocket(), one.socket.fileno())

    def notify_end(self, status: str) -> None:
        """Tells the service manager that the service ends, unless it goes on without us."""
        if self.upgrading.is_ready:
            return
        if not self.predecessor.is_alive:
            notify("STOPPING=1", f"STATUS={status}")
        if self._life.is_started:
            self._listening.store.forget()
        if self.predecessor.is_alive:  # last: it may listen to the main process only
            notify(f"MAINPID={self.predecessor.pid}")

    # -------------------------------------------------------------------------------------------------- the fastlb before this one
    def succeed(self) -> None:
        """All of ours are ready."""
        self.predecessor.succeed(self._shared.fileno())
        self._sync_guest()  # before anybody asks us for a count
        if self._options.elder is not None:
            self.hand_over_admin()
        else:
            self._listening.own_taken_over()
        if not self.predecessor.is_gone:
            self._life.start(self._see_off())

    async def _see_off(self) -> None:
        """Has the workers of the fastlb before this one end, now that ours accept from the same sockets."""
        assert self._changeover.snapshot is not None
        with suppress(TimeoutError):
            async with asyncio.timeout(self._changeover.snapshot.apply.drain_timeout_ms / 1000 + ENDING_SECONDS):
                await self.wait_for(lambda: self.predecessor.is_gone)
        self.predecessor.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await self.wait_for(lambda: self.predecessor.is_gone)
        self.predecessor.kill()

    def _on_cut(self, number: int, done: CutDone) -> None:
        self._cutting.on_cut(number, done)

    def _settle_left(self, first: bool = True) -> None:
        """Takes back what processes that ended without a supervisor had claimed, before anybody of ours is there. What a live one in the
        middle of a count holds up is looked at again; our own workers' slots are settled by then, or when they could not begin there."""
        if self.predecessor.shared is None:
            return
        kept = {slot.number for slot in self._crew.slots if slot.reserved or not (first or slot.retired)}
        with try_settling(self._shared) as alone:
            settled = alone and self._shared.settle_all(kept)
        if not settled:
            self._life.later(SETTLE_SECONDS, self._settle_left, False)
        self._crew.wake_waiting()

    def _on_predecessor_exit(self, number: int | None) -> None:
        """A worker of the fastlb before this one has ended; its slot is free once its counts are settled."""
        self._controller.tell_processes()
        if number is None:
            return
        self._cutting.on_cut(number, None)
        if self._crew.settle(number):
            self._crew.slots[number].reserved = False
            self._crew.wake_waiting()
            if self._is_short:
                self.resume()
        else:
            self._life.later(SETTLE_SECONDS, self._on_predecessor_exit, number)

    # -------------------------------------------------------------------------------------------------- another memory
    def _take_in(self, memory_fd: int, pid: int) -> None:
        """Counts what another fastlb counts in a memory that is laid out otherwise, for as long as it is there."""
        slot = max(len(self._crew.slots), self._shared.worker_slots())
        try:
            if slot >= MAX_WORKERS:
                raise ForeignMemoryError("there is no slot for it")
            guest = Guest(self._shared, slot, pid, memory_fd)
        except (ForeignMemoryError, ValueError, OSError) as error:
            report(f"what the other fastlb counts is not counted here: {error}")
            return
        self._crew.add_slots((slot,))
        self._crew.slots[slot].reserved = True  # for good: its counts are no worker's
        self._guest = guest
        self._sync_guest()
        self._life.start(self._keep_guest())

    async def _keep_guest(self) -> None:
        """Carries its counts over until it has gone."""
        while self._guest is not None:
            began = time.monotonic()
            self._sync_guest()
            await asyncio.sleep(max(SYNC_SECONDS, SYNC_SHARE * (time.monotonic() - began)))
            self._see_guest_off()

    def _sync_guest(self) -> None:
        if self._guest is not None:
            try:
                self._guest.sync()
            except (ForeignMemoryError, ValueError, OSError) as error:
                report(f"what the other fastlb counts is not counted here any more: {error}")
                self._end_guest(self._guest)

    def _see_guest_off(self) -> None:
        """Counts what is left of it, if nobody of it is there any more: neither a supervisor nor workers that outlived one."""
        is_there = self.upgrading.heir_pid or self.predecessor.is_alive or not self.predecessor.is_gone
        if self._guest is None or is_there or not self._life.is_started:  # before that there is nothing that it could be counted on
            return
        try:
            self._guest.sync(whole=True)
        except (ForeignMemoryError, ValueError, OSError) as error:
            report(f"what the other fastlb counted at last is not counted here: {error}")
        self._end_guest(self._guest)

    def _end_guest(self, guest: Guest) -> None:
        self._guest = None
        guest.close()
        self._settle_guest(guest.slot)

    def _settle_guest(self, number: int) -> None:
        if self._crew.settle(number):
            self._crew.wake_waiting()
        else:
            self._life.later(SETTLE_SECONDS, self._settle_guest, number)

    # -------------------------------------------------------------------------------------------------- as the parent of an upgrade
    @property
    def shared(self) -> _core.SharedMemory:
        return self._shared

    @property
    def slots(self) -> list[Slot]:
        return self._crew.slots

    @property
    def weights(self) -> dict[str, int]:
        return self._changeover.snapshot.apply.weights if self._changeover.snapshot is not None else {}

    @property
    def endpoints(self) -> Endpoints:
        return self._changeover.snapshot.apply.endpoints if self._changeover.snapshot is not None else {}

    @property
    def ticket_keys(self) -> TicketKeys:
        apply = self._changeover.snapshot.apply if self._changeover.snapshot is not None else None
        return TicketKeys(apply.ticket_keys, apply.ticket_keys_born) if apply is not None else TicketKeys()

    @property
    def can_be_upgraded(self) -> bool:
        # A third one beside two could bring the first back; an heir and a reload that adds workers could choose the same slots.
        is_alone = not self.predecessor.is_alive and not self._changeover.lock.locked()
        return self._life.is_started and not self._life.is_ending and is_alone

    @property
    def is_ending(self) -> bool:
        return self._life.is_ending

    @property
    def is_drained(self) -> bool:
        return not self._crew.children() and self.predecessor.is_gone

    @property
    def runtime(self) -> RuntimeDirectory | None:
        return self._options.runtime

    def sockets(self) -> list[socket.socket]:
        bound = [one.socket for bound in (*self._options.admin, *self._listening.bound) for one in bound.sockets]
        return bound + [one.socket for one in self.given if one.socket not in bound]

    @property
    def given(self) -> Sequence[InheritedSocket]:
        return self._options.inherited

    def step_aside(self) -> None:
        self._options.pid_file.step_aside()

    async def wait_for(self, holds: Callable[[], bool]) -> None:
        await self._life.wait_for(holds)

    def cut(self, message: Cut) -> None:
        self._cutting.cut(message, for_heir=True)

    def finish(self) -> None:
        self._life.finish()

    async def upgrade(self) -> None:
        """All of an upgrade, for the controller, which hears when the heir is ready, or why it is not."""
        if self.upgrading.begin():
            self._life.start(self.upgrading.go_over())
            await self.wait_for(lambda: self.upgrading.is_ready or not self.upgrading.heir_pid)
        if self.upgrading.is_ready:
            self._controller.tell(Upgraded(self.upgrading.heir_pid, ""))
        else:
            self._controller.tell(Upgraded(0, self.upgrading.failure))

    def on_heir_ready(self, pid: int, memory_fd: int) -> None:
        """The heir serves: closing our sockets loses nobody, and their files are its own."""
        if memory_fd >= 0:
            self._take_in(memory_fd, pid)
        self._controller.tell(LeaveAdmin(self.upgrading.shares_memory))
        self._listening.leave_to_heir()
        report(f"process {pid} has taken over; both accept until one of them is told to end")
        notify(f"MAINPID={pid}")
        self._life.note_change()

    def on_heir_gone(self, was_ready: bool) -> None:
        """We are alone again, with what the heir left, should it have been killed. While we end, its workers serve on, for the next one."""
        self._life.note_change()
        if self._life.is_ending:
            return
        self._sync_guest()  # before anybody asks us for a count
        self._listening.take_from_heir()
        try:
            self._options.pid_file.come_back()
        except (OSError, FastlbError) as error:
            report(f"the pid file: {error}")
        if was_ready:
            notify(f"MAINPID={os.getpid()}")
            if self._changeover.snapshot is not None:
                self._restore_rows(self._changeover.snapshot)  # before our controller looks for them
            self._controller.tell(AdminSocket())  # also where the admin API is off
            self.hand_over_admin()
            self._listening.keep_in_store()
        if self._changeover.snapshot is not None:
            self._adopt_orphans()
            if self._is_short:
                self.resume()
        self._see_guest_off()

    def rest(self) -> None:
        """Lets all our workers drain."""
        self._is_short = False
        if self._changeover.snapshot is not None:
            self._crew.resize((), self._changeover.snapshot.apply.drain_timeout_ms)

    def resume(self) -> None:
        """Starts as many as the snapshot in force wants, where nobody of another fastlb is."""
        snapshot = self._changeover.snapshot
        if snapshot is not None and not self._life.is_ending:
            workers = self._shared.workers()  # who drains here is no help, and where the heir's workers are is no room
            self._crew.add_slots(workers)
            for number in workers:
                if self._crew.slots[number].retired:
                    self._crew.slots[number].reserved = True
            self._restore_rows(snapshot)
            homes = choose_where_room(self._crew.slots, snapshot.apply.n_workers)
            self._is_short = len(homes) < snapshot.apply.n_workers
            if self._is_short:
                report(f"there is room for {len(homes)} of {snapshot.apply.n_workers} workers until others have ended")
            self._crew.resize(homes, snapshot.apply.drain_timeout_ms)

    def _restore_rows(self, snapshot: Snapshot) -> None:
        """Makes the rows of backends that only we list: the heir has freed them, if a reload of it found nobody there."""
        try:
            with changing_rows(self._shared):
                self._shared.add_rows(snapshot.image_fd)
        except (ValueError, OSError) as error:
            report(f"not all backends have a row in the shared memory: {error}")

    # -------------------------------------------------------------------------------------------------- who was left alone
    def _on_elder_end(self) -> None:
        """The fastlb that has started this one has gone."""
        self._cutting.on_cut(ELDER, None)
        self._listening.own_taken_over(*self._options.admin)
        self._adopt_orphans()
        self._see_guest_off()

    def _adopt_orphans(self) -> None:
        """Takes over from workers whose supervisor, which ran beside us over the same memory, has been killed; or settles what is left."""
        if self._life.is_ending or self.predecessor.is_alive:
            return
        slots = self._crew.slots
        own = {slot.number for slot in slots if slot.child is not None or slot.awaited or not (slot.retired or slot.reserved)}
        own |= {self._guest.slot} if self._guest is not None else set()
        if self._options.runtime is not None and self._doors is not None:
            self.predecessor.leave()
            self.predecessor = adopt_orphans(self._options.runtime.path, self._shared, own, self._doors.name)
        taken = self.predecessor.take_event_fds()
        workers, guests = self._shared.workers(), self._shared.guests()
        self._crew.add_slots([*taken, *workers])
        for slot in slots:
            if slot.reserved and slot.child is None and slot.number not in workers and slot.number not in guests:
                slot.reserved = False  # the heir's worker there has ended in order
        for number, event_fd in taken.items():
            slot = slots[number]
            slot.reserved = True
            if event_fd >= 0:
                os.close(slot.event_fd)
                slot.event_fd = event_fd
        self.predecessor.watch(self._on_predecessor_exit, self._on_elder_end, self._on_cut)
        self._controller.tell_processes()
        for number in workers:
            if number not in taken and number not in own:
                self._on_predecessor_exit(number)
        if self._life.is_started and not self.predecessor.is_gone:
            self._life.start(self._succeed_orphans(self.predecessor))

    async def _succeed_orphans(self, orphans: Predecessor | Elder) -> None:
        """Has them drain as soon as ours accept: if we rested, nobody else does."""
        await self.wait_for(lambda: self._crew.are_all_ready)
        if self.predecessor is orphans and not self._life.is_ending:
            orphans.succeed(self._shared.fileno())
            await self._see_off()
