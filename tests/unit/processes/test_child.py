"""A watched child: what is sent waits for it, signals reach it and nobody else, and its end is told in words."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fastlb.processes import child as module
from fastlb.processes.channel import Channel, open_pair
from fastlb.processes.child import Child
from fastlb.processes.messages import FromWorker, Lend, Prepare, ToWorker
from tests.support.descriptors import descriptors

Make = Callable[[Callable[[socket.socket], int]], Child]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() == before


@pytest.fixture
def make() -> Iterator[Make]:
    """Forks a child that runs a function with its end of the channel and exits with what that returns."""
    made: list[Child] = []

    def fork(work: Callable[[socket.socket], int]) -> Child:
        ours, theirs = open_pair()
        pid = os.fork()
        if pid == 0:
            status = 99
            try:
                ours.close()
                status = work(theirs)
            finally:
                os._exit(status)
        theirs.close()
        child = Child(pid, Channel(ours, FromWorker))
        made.append(child)
        return child

    yield fork
    for child in made:
        child.signal(signal.SIGKILL)
        child.reap()
        with pytest.raises(ChildProcessError):
            os.waitpid(child.pid, os.WNOHANG)


def wait_for_end(end: socket.socket) -> int:
    """A child that lives until the other end is closed or it is killed."""
    end.recv(1)
    return 0


@pytest.fixture
def ends() -> Iterator[tuple[Child, Channel[Any]]]:
    """A child that is this very process, so that a test decides when it reads."""
    ours, theirs = open_pair()
    child, other = Child(os.getpid(), Channel(ours, FromWorker)), Channel[Any](theirs, ToWorker)
    yield child, other
    child.release()
    other.close()


@pytest.mark.parametrize(("status", "how"), [(0, ""), (1, "exit code 1"), (77, "exit code 77")])
def test_it_says_how_a_child_ended(make: Make, status: int, how: str) -> None:
    assert make(lambda _: status).reap() == how


@pytest.mark.parametrize(
    ("number", "how"),
    [(signal.SIGKILL, "killed by SIGKILL"), (signal.SIGTERM, "killed by SIGTERM"), (signal.SIGRTMIN + 3, "killed by signal ")],
)
def test_it_says_which_signal_killed_a_child(make: Make, number: int, how: str) -> None:
    child = make(wait_for_end)
    signal.pidfd_send_signal(child.pidfd, number)
    assert child.reap().startswith(how)


def test_an_ended_child_is_sent_no_signal_and_no_message(make: Make) -> None:
    child = make(lambda _: 0)
    os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOWAIT)
    child.signal(signal.SIGKILL)
    assert child.send(Prepare(1)) is False
    assert child.reap() == ""
    child.signal(signal.SIGKILL)  # the number may be somebody else's by now
    assert child.reap() == ""


def test_a_process_that_is_gone_and_reaped_has_ended_in_order(make: Make) -> None:
    gone = make(lambda _: 0)
    gone.reap()
    ours, theirs = open_pair()
    child = Child(gone.pid, Channel(ours, FromWorker))
    assert child.pidfd == -1
    assert child.is_ours()
    child.signal(signal.SIGKILL)
    assert child.reap() == ""
    assert ours.fileno() == -1
    theirs.close()


def test_only_children_are_ours(make: Make, ends: tuple[Child, Channel[Any]]) -> None:
    child = make(wait_for_end)
    assert child.is_ours()
    child.signal(signal.SIGKILL)
    os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOWAIT)
    assert child.is_ours()
    assert not ends[0].is_ours()


def fill(child: Child, other: Channel[Any]) -> int:
    """Sends until the other end has no room and something waits; how many messages that took."""
    sent = 0
    while not child._waiting:
        assert child.send(Prepare(sent))
        sent += 1
    return sent


def test_what_finds_no_room_is_sent_in_order_with_its_descriptors_once_there_is(ends: tuple[Child, Channel[Any]]) -> None:
    child, other = ends

    async def main() -> list[int]:
        sent = fill(child, other)
        readable, writable = os.pipe()
        assert child.send(Lend((5,)), readable)
        os.close(readable)  # a copy waits
        got: list[int] = []
        arrived = asyncio.get_running_loop().create_future()

        def read() -> None:
            while (received := other.receive()) is not None:
                message, passed = received
                if isinstance(message, Lend):
                    os.write(writable, b"x")
                    assert os.read(passed[0], 1) == b"x"
                    os.close(passed[0])
                    arrived.set_result(None)
                else:
                    got.append(message.generation)

        asyncio.get_running_loop().add_reader(other.fileno(), read)
        await asyncio.wait_for(arrived, 10)
        os.close(writable)
        assert not child._waiting
        assert asyncio.get_running_loop().remove_writer(child.channel.fileno()) is False
        assert got == list(range(sent))
        return got

    assert asyncio.run(main())


def test_a_child_that_never_reads_is_taken_for_dead(ends: tuple[Child, Channel[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    child, other = ends

    async def main() -> None:
        fill(child, other)
        assert [child.send(Prepare(0)) for _ in range(3)] == [True, True, False]
        child.release()

    asyncio.run(main())


def test_what_waits_for_a_child_is_let_go_when_it_ends(ends: tuple[Child, Channel[Any]]) -> None:
    child, other = ends

    async def main() -> None:
        fill(child, other)
        before = descriptors()
        assert child.send(Lend((1,)), child.pidfd)
        assert descriptors() == before + 1
        other.close()
        async with asyncio.timeout(10):
            while child._waiting:
                await asyncio.sleep(0)
        assert descriptors() == before - 1  # the other end, and not the copy
        assert child.send(Prepare(1)) is False

    asyncio.run(main())


def test_release_lets_go_of_all_without_waiting_for_the_end(make: Make) -> None:
    child = make(wait_for_end)

    async def main() -> None:
        before = descriptors()
        child.release()
        assert descriptors() == before - 2

    asyncio.run(main())
    os.waitpid(child.pid, 0)  # it ends because its channel did
