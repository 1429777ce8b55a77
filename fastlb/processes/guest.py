"""Another fastlb's counts in ours: during an upgrade between two that lay out their memory otherwise.

Each has a memory of its own. Here the other one is a *guest*: one more worker of our memory, in a slot that no worker of ours has. What
its memory says is carried over several times a second, so that totals, histograms and in-flight counts are the sums of both, and both see
when a backend is full. Nobody but us writes in that slot.

What the guest claims on a row is claimed on ours a moment later. So a cap (max_in_flight, a pool's limits, max_connections) holds over both
except for what both claim within that moment. When the guest has gone its slot is settled as any worker's, and its counts stay.
"""

from collections.abc import Mapping
from typing import TypeVar

from fastlb import _core
from fastlb.processes.foreign_memory import ForeignMemory, MeterChange, RowChange

# How often it is carried over.
SYNC_SECONDS = 0.2
# Of those that our memory has no row or meter for, so many are remembered, should it get one: as many as it can have.
MAX_PENDING = 1 << 16

Change = TypeVar("Change", MeterChange, RowChange)


class Guest:
    """What another fastlb counts, in one slot of our memory.

    Args:
        shared: our memory; borrowed.
        slot: of it, that never had a worker.
        pid: of its supervisor.
        memory_fd: its memory; borrowed.

    Raises:
        ForeignMemoryError: that memory does not say what is where. ValueError: the slot is in use. OSError.
    """

    def __init__(self, shared: _core.SharedMemory, slot: int, pid: int, memory_fd: int) -> None:
        self._shared = shared
        self.slot = slot
        self._memory = ForeignMemory(memory_fd)
        self._rows: dict[bytes, RowChange] = {}  # not carried over yet
        self._meters: dict[bytes, MeterChange] = {}
        self._open: dict[bytes, int] = {}  # claims of it on our rows, by identity
        try:
            shared.open_guest(slot, pid, self._memory.identity)
        except ValueError:
            self._memory.close()
            raise

    def sync(self, whole: bool = False) -> None:
        """Carries over what has happened since the last time. `whole`: nobody works there any more."""
        changes = self._memory.read(self._shared.identity(), whole)
        self._shared.add_to_guest(self.slot, "header", 0, changes.header)
        self._shared.add_to_guest(self.slot, "worker", 0, changes.worker)
        _remember(self._rows, changes.rows)
        _remember(self._meters, changes.meters)
        self._carry_rows()
        self._carry_meters()

    def close(self) -> None:
        """It is gone. The slot is to be settled: whatever it had in flight is not any more."""
        self._shared.end_guest(self.slot)
        self._memory.close()

    def _carry_rows(self) -> None:
        for identity, change in list(self._rows.items()):
            is_open = self._open.get(identity, 0)
            # Its numbers are not read at one moment: what seems to be released before it was claimed is, the next time.
            releases = min(change.releases, is_open + change.claims)
            done = self._shared.change_guest_row(
                self.slot,
                identity,
                change.claims,
                releases,
                change.failures,
                change.idle,
                change.meter,
                (change.ups, change.downs, change.ejections),
            )
            if not done:  # we have no such row, yet
                continue
            self._open[identity] = is_open + change.claims - releases
            if releases < change.releases:
                self._rows[identity] = RowChange(releases=change.releases - releases)
            else:
                del self._rows[identity]

    def _carry_meters(self) -> None:
        if not self._meters:
            return
        numbers = {name: number for number, name in self._shared.meters().items()}
        for name in self._meters.keys() & numbers.keys():
            change = self._meters.pop(name)
            self._shared.add_to_guest(self.slot, "meter", numbers[name], change.meter)
            self._shared.add_to_guest(self.slot, "meter_details", numbers[name], change.details)


def _remember(pending: dict[bytes, Change], changes: Mapping[bytes, Change]) -> None:
    for key, change in changes.items():
        if key in pending:
            pending[key].add(change)
        elif len(pending) < MAX_PENDING:
            pending[key] = change
