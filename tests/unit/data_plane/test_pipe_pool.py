"""fastlb/data_plane/pipe_pool.pyx: pipes are lent, and none with bytes left in it is lent again."""

import fcntl
import os

import pytest

from tests.support._probe import Pipes


def test_lent_pipes_are_different_and_carry_bytes() -> None:
    pipes = Pipes(4)
    first, second = pipes.take(), pipes.take()
    assert first != second
    read, write = pipes.descriptors(first)
    os.write(write, b"abc")
    assert os.read(read, 10) == b"abc"


def test_pipe_is_large_non_blocking_and_closed_on_exec() -> None:
    pipes = Pipes(1)
    read, write = pipes.descriptors(pipes.take())
    assert fcntl.fcntl(write, fcntl.F_GETPIPE_SZ) >= 65536
    for fd in (read, write):
        assert not os.get_blocking(fd)
        assert not os.get_inheritable(fd)


def test_returned_pipe_is_lent_again() -> None:
    pipes = Pipes(4)
    pipe = pipes.take()
    pipes.give_back(pipe)
    assert pipes.take() == pipe
    assert pipes.counts["made"] == 1


def test_no_more_pipes_than_its_capacity_are_lent() -> None:
    pipes = Pipes(2)
    assert None not in (pipes.take(), pipes.take())
    assert pipes.take() is None
    pipes.give_back(1)
    assert pipes.take() == 1


def test_pool_without_capacity_lends_nothing() -> None:
    assert Pipes(0).take() is None


def test_bytes_of_a_failed_relay_never_reach_the_next_one() -> None:
    pipes = Pipes(1)
    pipe = pipes.take()
    os.write(pipes.descriptors(pipe)[1], b"secret")
    pipes.give_back(pipe, fill=6)
    assert pipes.take() == pipe
    read, write = pipes.descriptors(pipe)
    os.write(write, b"new")
    assert os.read(read, 10) == b"new"


def test_lending_balances() -> None:
    pipes = Pipes(3)
    lent = [pipes.take() for _ in range(3)]
    for pipe in lent:
        pipes.give_back(pipe)
    assert pipes.counts == {"made": 3, "idle": 3, "taken": 3, "returned": 3}


def test_closing_the_pool_closes_its_pipes() -> None:
    pipes = Pipes(1)
    descriptors = pipes.descriptors(pipes.take())
    for fd in descriptors:
        os.fstat(fd)
    del pipes
    for fd in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
