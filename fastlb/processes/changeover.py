"""The change from one snapshot to the next: in every worker, or in none.

Owns the snapshot in force and the votes on the one that is offered. It opens no socket and forks nobody: that is for
listening.py and crew.py.

It takes two steps: every worker prepares the snapshot and says so, then all are told to change. One refusal, and all forget it and the old
one stays. A worker that starts in between gets the one in force, and the next as soon as that is.
"""

import asyncio
import os
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from fastlb import FastlbError
from fastlb.processes.crew import Crew
from fastlb.processes.life import Life, StartError
from fastlb.processes.messages import Abort, Apply, Commit, Prepare
from fastlb.processes.output import report
from fastlb.processes.roster import ACCEPTING, START_SECONDS, Slot, State

# A controller offers one configuration at a time; its successor may offer one while the last of a dead one is looked at.
MAX_OFFERS = 2


class ChangeError(FastlbError):
    """A snapshot that is not put in force; the text says why."""


@dataclass(slots=True)
class Snapshot:
    """A configuration that is in force or offered. Owns both descriptors."""

    apply: Apply
    image_fd: int
    state_fd: int

    @property
    def generation(self) -> int:
        return self.apply.generation

    def close(self) -> None:
        os.close(self.image_fd)
        os.close(self.state_fd)


Opened = TypeVar("Opened")


class Parent(Protocol[Opened]):
    """What a change needs around the workers; `Opened` is what is listened on before and after."""

    def open(self, offered: Snapshot) -> Opened:
        """Opens what a snapshot listens on and logs to, beside what is open. Raises FastlbError: it cannot be, and nothing has changed."""

    def abandon(self, opened: Opened) -> None:
        """Closes what has been opened for a snapshot that nobody uses."""

    def assign(self, slot: Slot) -> None:
        """Gives a worker the sockets of the snapshot in force; `slot.assigned` says which it is to accept from."""

    def send_logs(self, slot: Slot) -> None:
        """Gives a worker the logs of the snapshot in force."""

    def switch(self, opened: Opened) -> None:
        """What was opened is what is listened on from now on."""

    def adjust(self, opened: Opened) -> None:
        """All have been told to change: makes what is opened, the number of workers and the logs as the snapshot wants them."""

    def retire(self, opened: Opened) -> None:
        """All have changed: closes what is not listened on any more."""


class Changeover(Generic[Opened]):
    """What is in force, and what is to be."""

    def __init__(self, parent: Parent[Opened], life: Life, crew: Crew) -> None:
        self._parent = parent
        self._life = life
        self._crew = crew
        self._n_offers = 0  # snapshots that wait for their turn
        self._offered = 0  # the generation that is voted on; 0 = none
        self._votes: dict[int, asyncio.Future[str | None]] = {}  # by slot: None = yes or gone, a text = why not
        self.lock = asyncio.Lock()  # held during a change: who has it meets none half done
        self.snapshot: Snapshot | None = None  # in force

    @property
    def generation(self) -> int:
        """Of the snapshot in force; 0 = there is none."""
        return self.snapshot.generation if self.snapshot is not None else 0

    def close(self) -> None:
        if self.snapshot is not None:
            self.snapshot.close()

    def take(self, apply: Apply, descriptors: list[int]) -> Snapshot | None:
        """What a controller offers, to be put in force in its turn; None when it offers too much at once, or not what belongs to it."""
        if len(descriptors) != 2 or self._n_offers >= MAX_OFFERS:
            return None
        self._n_offers += 1
        image_fd, state_fd = (os.dup(descriptor) for descriptor in descriptors)
        return Snapshot(apply, image_fd, state_fd)

    async def put_in_force(self, offered: Snapshot) -> None:
        """Has every worker change to a snapshot, or none.

        Raises:
            FastlbError: the one before stays in force. The text says why.
        """
        async with self.lock:
            self._n_offers -= 1
            try:
                if offered.generation <= self.generation:
                    raise ChangeError(f"generation {offered.generation} is not newer than the one in force")
                opened = self._parent.open(offered)
                try:
                    prepared = await self._prepare_everywhere(offered)
                except BaseException:
                    self._parent.abandon(opened)
                    raise
            except BaseException:
                offered.close()
                raise
            await self._commit_everywhere(offered, prepared, opened)

    async def _prepare_everywhere(self, offered: Snapshot) -> list[Slot]:
        """Has every worker get ready; returns the slots of those that are.

        Raises:
            ChangeError: one of them refused; all have forgotten it.
        """
        crew = self._crew
        loop = asyncio.get_running_loop()
        # One at a time: a worker has one snapshot in force and one prepared. Whoever is between two gets there, or dies.
        await self._life.wait_for(lambda: not any(slot.catching_up or slot.state is State.COMMITTING for slot in crew.slots))
        self._offered = offered.generation
        voters = [slot for slot in crew.slots if slot.state in (State.BLANK, State.READY)]
        children = {slot.number: slot.child for slot in voters}
        votes = {slot.number: loop.create_future() for slot in voters}
        self._votes.update(votes)
        for slot in voters:
            crew.tell(slot, Prepare(offered.generation), offered.image_fd)
        try:
            if votes:
                _, silent = await asyncio.wait(votes.values(), timeout=START_SECONDS)
                for slot in voters:
                    if votes[slot.number] in silent:
                        report(f"worker {slot.number} ({slot.pid}) did not answer for {START_SECONDS:g} s: killed")
                        slot.kill()
                await asyncio.wait(votes.values())
        finally:
            self._offered = 0
            for number in votes:
                self._votes.pop(number, None)
        refusals: dict[str, list[int]] = {}
        for number, vote in votes.items():
            if refusal := vote.result():
                refusals.setdefault(refusal, []).append(number)
        if refusals:
            for slot in voters:
                crew.tell(slot, Abort())
            raise ChangeError("\n".join(_describe(numbers, refusal) for refusal, numbers in refusals.items()))
        return [slot for slot in voters if slot.child is not None and slot.child is children[slot.number]]

    async def _commit_everywhere(self, offered: Snapshot, prepared: list[Slot], opened: Opened) -> None:
        """Tells all workers to change, and waits until no new request meets what was in force before."""
        crew = self._crew
        old, self.snapshot = self.snapshot, offered
        self._parent.switch(opened)
        for slot in prepared:
            slot.state = State.COMMITTING
        for slot in prepared:
            self._commit(slot)
        for slot in crew.slots:
            if slot.state in (State.BLANK, State.READY) and slot not in prepared:  # it came while the others prepared
                self.bring_up_to_date(slot)
        self._parent.adjust(opened)
        if old is not None:
            old.close()
            # Also those that came while the others prepared and still get, or already use, the one before.
            children = [(slot, slot.child) for slot in crew.slots if slot.state in ACCEPTING]
            await self._life.wait_for(lambda: all(slot.child is not child or slot.is_past(offered.generation) for slot, child in children))
        self._parent.retire(opened)

    # -------------------------------------------------------------------------------------------------- one worker
    def bring_up_to_date(self, slot: Slot) -> None:
        """Gives a worker that has none, or an older one, the snapshot in force, if there is one."""
        if self.snapshot is not None and not self._life.has_doors_closed:
            if slot.state is State.BLANK:
                slot.state = State.PREPARING
            slot.catching_up = True
            slot.busy_since = asyncio.get_running_loop().time()
            self._crew.tell(slot, Prepare(self.generation), self.snapshot.image_fd)

    def on_vote(self, slot: Slot, generation: int, refusal: str | None) -> None:
        """A worker has prepared a snapshot, or cannot: all were asked, or it catches up."""
        if generation == self._offered:
            self._vote(slot, refusal)
        elif slot.catching_up and slot.state in (State.PREPARING, State.READY) and self.snapshot is not None:
            if self._life.has_doors_closed:
                return
            if refusal is not None and not self._life.is_started:
                self._life.fail(StartError(f"workers cannot use the configuration: {refusal}"))  # nor could the next ones
            elif refusal is not None:
                report(f"worker {slot.number} ({slot.pid}) cannot use the configuration: {refusal}: killed")
                slot.kill()
            elif generation != self.generation:
                self.bring_up_to_date(slot)  # another one has been put in force meanwhile
            else:
                self._commit(slot)

    def on_committed(self, slot: Slot, generation: int) -> None:
        """A worker uses a snapshot."""
        slot.state = State.READY
        slot.pinged_ms = 0
        if self.snapshot is not None and generation != self.generation:
            self.bring_up_to_date(slot)  # another one has been put in force while it was told of this one

    def on_gone(self, slot: Slot) -> None:
        """A worker has ended: nobody waits for its vote."""
        self._vote(slot, None)

    def _vote(self, slot: Slot, refusal: str | None) -> None:
        vote = self._votes.pop(slot.number, None)
        if vote is not None and not vote.done():
            vote.set_result(refusal)

    def _commit(self, slot: Slot) -> None:
        """Tells a worker to change to the snapshot in force, with the sockets that are its own or lent to it."""
        assert self.snapshot is not None
        slot.state = State.COMMITTING
        slot.catching_up = False
        slot.busy_since = asyncio.get_running_loop().time()
        slot.generation = self.generation
        self._parent.assign(slot)
        apply = self.snapshot.apply
        self._crew.tell(
            slot, Commit(apply.generation, slot.assigned, apply.drain_timeout_ms, apply.drain_idle_grace_ms, apply.weights, apply.endpoints)
        )
        self._parent.send_logs(slot)


def _describe(numbers: list[int], refusal: str) -> str:
    """What is the same for all is said once."""
    who = f"worker {numbers[0]}" if len(numbers) == 1 else f"workers {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
    return f"{who} refused the configuration: {refusal}"
