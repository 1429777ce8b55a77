"""What a row of results says of one backend: `fall` failures one after the other, and it is down; `rise` passes, and it is up.

A backend that is new is undecided, which counts as up, until either has happened. No verdict comes from one result (config/health.py
accepts nothing below 2 for either).
"""

from enum import StrEnum


class Verdict(StrEnum):
    UNDECIDED = "undecided"
    UP = "up"
    DOWN = "down"


class Judge:
    """The verdict on one backend. It decides and remembers, and does nothing else.

    Args:
        verdict: what to begin with: DOWN where an earlier prober left it so.
    """

    __slots__ = ("fall", "in_a_row", "last_passed", "rise", "verdict")

    def __init__(self, rise: int, fall: int, verdict: Verdict = Verdict.UNDECIDED) -> None:
        self.rise = rise
        self.fall = fall
        self.verdict = verdict
        self.last_passed = True
        self.in_a_row = 0  # results like the last one

    def note(self, passed: bool) -> bool:
        """Takes the next result. Returns whether the verdict is another one now."""
        self.in_a_row = self.in_a_row + 1 if passed == self.last_passed else 1
        self.last_passed = passed
        if self.in_a_row < (self.rise if passed else self.fall):
            return False
        before, self.verdict = self.verdict, Verdict.UP if passed else Verdict.DOWN
        return self.verdict is not before

    @property
    def is_settled(self) -> bool:
        """Up, and nothing speaks against it: there is no hurry."""
        return self.verdict is Verdict.UP and self.last_passed
