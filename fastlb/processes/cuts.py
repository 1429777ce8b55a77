"""What workers were told to end at one backend, and how many exchanges that were in all.

One cut at a time: a later one takes the place of an earlier one that nobody waits for any more.
"""

from collections.abc import Iterable

from fastlb.processes.messages import CutDone

# In the place of a slot: the fastlb that this one takes over from, which answers for its workers.
ELDER = -1


class Cuts:
    """Adds up the answers of the workers."""

    def __init__(self) -> None:
        self._ticket = 0
        self._owing: set[int] = set()  # slots
        self._exchanges = 0

    def begin(self, ticket: int, slots: Iterable[int]) -> CutDone | None:
        """These were told. The answer for the controller, if there is nobody to wait for."""
        self._ticket, self._exchanges = ticket, 0
        self._owing = set(slots)
        return None if self._owing else CutDone(ticket, 0)

    def add(self, slot: int, done: CutDone) -> CutDone | None:
        """A worker's answer; the one for the controller, if it was the last."""
        if done.ticket != self._ticket or slot not in self._owing:
            return None
        self._exchanges += done.exchanges
        return self.forget(slot)

    def forget(self, slot: int) -> CutDone | None:
        """A worker that has ended, and its exchanges with it, owes nothing."""
        if slot not in self._owing:
            return None
        self._owing.discard(slot)
        return None if self._owing else CutDone(self._ticket, self._exchanges)
