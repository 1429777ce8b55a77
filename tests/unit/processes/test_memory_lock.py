"""Two processes over one shared memory: only one settles, and only one changes rows."""

import os
from collections.abc import Iterator

import pytest

from fastlb import _core
from fastlb.processes.memory_lock import changing_rows, try_settling


@pytest.fixture
def shared() -> Iterator[_core.SharedMemory]:
    made = _core.SharedMemory.create()
    yield made
    made.close()


def other_may_settle(shared: _core.SharedMemory) -> bool:
    pid = os.fork()
    if pid == 0:
        with try_settling(shared) as alone:
            os._exit(0 if alone else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_settling_is_for_one_at_a_time_and_does_not_wait(shared: _core.SharedMemory) -> None:
    with try_settling(shared) as alone:
        assert alone
        assert not other_may_settle(shared)
    assert other_may_settle(shared)


def test_rows_are_changed_by_one_at_a_time_whoever_settles(shared: _core.SharedMemory) -> None:
    readable, writable = os.pipe()
    with changing_rows(shared):
        assert other_may_settle(shared)
        pid = os.fork()
        if pid == 0:
            with changing_rows(shared):
                os.write(writable, b"second")
                os._exit(0)
        os.write(writable, b"first ")
    os.waitpid(pid, 0)
    assert os.read(readable, 100) == b"first second"
    os.close(readable)
    os.close(writable)


def test_lock_ends_with_its_process(shared: _core.SharedMemory) -> None:
    pid = os.fork()
    if pid == 0:
        with try_settling(shared):
            os._exit(0)
    os.waitpid(pid, 0)
    assert other_may_settle(shared)
