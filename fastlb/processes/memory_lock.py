"""Locks between the two fastlbs that work on one shared memory during an upgrade.

Each has a supervisor that settles and a controller that adds and sweeps rows, and two must not do either at the same moment.
They are record locks (fcntl(2)) on bytes of the memory's file: a process that dies holds none. Workers never lock.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from fastlb import _core

# Bytes of the file; what they hold means nothing here.
SETTLING, ROWS = 0, 1


@contextmanager
def try_settling(shared: _core.SharedMemory) -> Iterator[bool]:
    """Whether nobody else settles, until the end of the block: two who take off the same drift take off too much."""
    try:
        fcntl.lockf(shared.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, SETTLING, os.SEEK_SET)
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        fcntl.lockf(shared.fileno(), fcntl.LOCK_UN, 1, SETTLING, os.SEEK_SET)


@contextmanager
def changing_rows(shared: _core.SharedMemory) -> Iterator[None]:
    """Waits until nobody else adds or frees rows, which takes it milliseconds."""
    fcntl.lockf(shared.fileno(), fcntl.LOCK_EX, 1, ROWS, os.SEEK_SET)
    try:
        yield
    finally:
        fcntl.lockf(shared.fileno(), fcntl.LOCK_UN, 1, ROWS, os.SEEK_SET)
