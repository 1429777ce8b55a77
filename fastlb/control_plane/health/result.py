"""What one probe found."""

import errno
import re
from dataclasses import dataclass
from enum import Enum

MAX_TEXT = 200
# What the machine that probes has run out of: it says nothing about the backend.
OURS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL, errno.EAGAIN, errno.EPERM))


class Outcome(Enum):
    PASSED = "passed"
    FAILED = "failed"
    UNKNOWN = "unknown"  # it could not be made; the backend is what it was


@dataclass(frozen=True, slots=True)
class Result:
    """One result.

    Args:
        text: a few words for people; no control characters, at most MAX_TEXT characters.
        output: what a script wrote, its end.
    """

    outcome: Outcome
    text: str
    latency_us: int = 0
    output: str = ""


def clean(text: str) -> str:
    """What somebody else has said, as a part of one line of ours."""
    return re.sub(r"[^\x20-\x7e]+", " ", text).strip()[:MAX_TEXT]


def describe_error(error: OSError) -> str:
    return clean((error.strerror or str(error)).lower())
