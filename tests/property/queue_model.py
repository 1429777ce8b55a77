"""Waiting for a place and giving one back, one load or store at a time: what queue.pyx and release_claim do, in the same order.

As in settlement_model.py each operation is a generator that yields before every access to shared memory. All accesses here are in one order
that every processor sees, as the fences of the C code make it. Change both or neither.
"""

from collections.abc import Generator
from dataclasses import dataclass, field

Steps = Generator[None, None, None]


@dataclass
class Memory:
    """One backend with a cap, and the bits of its pool's queue."""

    cap: int
    in_flight: int
    waiting: set[int] = field(default_factory=set)
    # Not part of the memory: who sleeps with somebody waiting, and who has been told to look.
    asleep: set[int] = field(default_factory=set)
    told: set[int] = field(default_factory=set)

    def tell_first(self, but: int = -1) -> None:
        """wake_first: one of those whose bit was seen. The lowest number has waited longest."""
        first = min(self.waiting - {but}, default=None)
        if first is not None:
            self.told.add(first)

    def is_forgotten(self) -> bool:
        """Somebody waits, a place is free, and nobody who waits has been told to look."""
        return bool(self.asleep) and self.in_flight < self.cap and not self.told & self.asleep


def take(memory: Memory) -> Generator[None, None, bool]:
    """claim_row, whose compare-and-exchange is one access here."""
    yield
    if memory.in_flight < memory.cap:
        memory.in_flight += 1
        return True
    return False


def enter(memory: Memory, worker: int, *, bit_first: bool = True, look_again: bool = True) -> Steps:
    """begin_waiting after a pick that found the pool full, and the look at the end of the batch. The last two leave a part out."""
    if (yield from take(memory)):
        return
    if bit_first:
        yield
        memory.waiting.add(worker)
    if look_again and (yield from take(memory)):
        yield from leave(memory, worker, waits=False)
        return
    if not bit_first:
        yield
        memory.waiting.add(worker)
    memory.asleep.add(worker)


def leave(memory: Memory, worker: int, *, waits: bool = True, pass_on: bool = True) -> Steps:
    """end_waiting: a client that gave up, or was served."""
    if waits:
        memory.asleep.discard(worker)
    yield
    memory.waiting.discard(worker)
    yield
    others = set(memory.waiting)
    if others and pass_on:
        yield
        if memory.in_flight < memory.cap:
            memory.told.add(min(others))


def release(memory: Memory) -> Steps:
    """release_row and note_release, in a worker in which nobody waits."""
    yield
    memory.in_flight -= 1
    yield
    memory.tell_first()


def look(memory: Memory, worker: int) -> Steps:
    """serve_queue for the one who waits in a worker that has been told."""
    memory.told.discard(worker)
    if worker in memory.asleep and (yield from take(memory)):
        yield from leave(memory, worker)


def run(steps: Steps) -> None:
    for _ in steps:
        pass
