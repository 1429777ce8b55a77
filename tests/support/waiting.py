"""Waiting for what cannot be had as an event: a condition, looked at until it holds or a generous deadline has passed."""

import os
import select
import time
from collections.abc import Callable
from typing import TypeVar

SANITIZED = os.environ.get("FASTLB_SANITIZE") == "1"
# No test passes or fails by how long something takes: this only ends one that hangs. Sanitizers cost a factor of ten at worst.
DEADLINE_SECONDS = 60.0 if SANITIZED else 15.0

Result = TypeVar("Result")


def wait_until(look: Callable[[], Result], what: str, seconds: float = DEADLINE_SECONDS) -> Result:
    """Calls `look` until it returns something true, and returns that."""
    deadline = time.monotonic() + seconds
    while True:
        result = look()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s in vain until {what}; the last look gave {result!r}")
        select.select([], [], [], 0.002)


def deadline_in(seconds: float = DEADLINE_SECONDS) -> Callable[[], bool]:
    """A clock for loops that another event ends: true while there is time left."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() < end
