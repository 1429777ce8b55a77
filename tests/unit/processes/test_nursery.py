"""Real forks: processes are born, die, are lost with their zygote, and none is left over."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from fastlb import FastlbError
from fastlb.processes import _system, nursery
from fastlb.processes.channel import Channel
from fastlb.processes.child import Child
from fastlb.processes.messages import Fork, FromWorker, Hello, Stop, ToWorker
from fastlb.processes.nursery import Nursery
from fastlb.processes.zygote import ZygoteOptions
from tests.support.descriptors import descriptors


def obey(fork: Fork, descriptors: list[int]) -> None:
    """What a forked process does here: says who it is, waits for the word to stop."""
    import socket

    channel: Channel[ToWorker] = Channel(socket.socket(fileno=descriptors[0]), ToWorker)
    channel.send(Hello(f"{fork.role} {os.getpid()} {len(descriptors)}"))
    try:
        channel.receive(wait=True)
    except EOFError:
        pass


class Family:
    """The parent, and what it was told."""

    def __init__(self, options: ZygoteOptions, spared: frozenset[int] = frozenset()) -> None:
        self.nursery = Nursery(self, options, spared)
        self.children: dict[int, Child] = {}
        self.said: list[str] = []
        self.ended: list[str] = []
        self.not_born: list[tuple[int, str]] = []
        self.replaced = 0
        self.failed = False

    def on_born(self, role: int, child: Child) -> None:
        self.children[role] = child
        self.nursery.watch(child, lambda: self.on_exit(role), lambda message, _: self.said.append(message.build_id))

    def on_exit(self, role: int) -> None:
        self.ended.append(self.nursery.bury(self.children.pop(role)))

    def on_not_born(self, role: int, why: str) -> None:
        self.not_born.append((role, why))

    def on_zygote_replaced(self) -> None:
        self.replaced += 1

    def on_zygote_failed(self) -> None:
        self.failed = True

    async def until(self, holds: Callable[[], Any]) -> None:
        async with asyncio.timeout(30):
            while not holds():
                await asyncio.sleep(0.001)


def kin() -> list[int]:
    return nursery._children()


def nothing() -> None:
    pass


def run(test: Callable[[Family], Awaitable[None]], options: ZygoteOptions | None = None, spared: frozenset[int] = frozenset()) -> None:
    """In the end no process and no descriptor is left."""
    _system.set_child_subreaper()
    before = set(kin())
    family = Family(options or ZygoteOptions(nothing, obey), spared)

    async def main() -> None:
        held = descriptors()
        family.nursery.open()
        family.nursery.start()
        await test(family)
        for child in family.children.values():
            child.send(Stop())
        await family.until(lambda: not family.children and not family.nursery.is_expecting)
        gone = asyncio.Event()
        family.nursery.close(gone.set)
        if family.nursery.zygote_pid:
            await gone.wait()
        assert descriptors() == held

    asyncio.run(main())
    assert set(kin()) <= before  # what an earlier test had left may have gone meanwhile


def test_a_process_that_is_asked_for_is_our_child_and_has_its_descriptors() -> None:
    async def test(family: Family) -> None:
        extra = os.open(os.devnull, os.O_RDONLY)
        family.nursery.fork(3, 4, FromWorker, extra)
        os.close(extra)
        await family.until(lambda: family.said)
        role, pid, n_descriptors = (int(word) for word in family.said[0].split())
        assert (role, pid, n_descriptors) == (3, family.children[3].pid, 2)
        assert pid in kin()

    run(test)


def test_it_is_told_how_a_child_ended() -> None:
    async def test(family: Family) -> None:
        for role in (0, 1):
            family.nursery.fork(role, 2, FromWorker)
        await family.until(lambda: len(family.said) == 2)
        family.children[0].signal(signal.SIGKILL)
        family.children[1].send(Stop())
        await family.until(lambda: len(family.ended) == 2)
        assert sorted(family.ended) == ["", "killed by SIGKILL"]

    run(test)


def test_a_killed_zygote_is_replaced_and_what_it_owed_is_not_born() -> None:
    async def test(family: Family) -> None:
        family.nursery.fork(0, 1, FromWorker)
        await family.until(lambda: family.said)
        first = family.nursery.zygote_pid
        os.kill(first, signal.SIGSTOP)  # so that it cannot do it
        family.nursery.fork(1, 2, FromWorker)
        os.kill(first, signal.SIGKILL)
        await family.until(lambda: family.not_born)
        assert family.not_born == [(1, "the zygote ended")]
        assert family.replaced == 1
        assert family.nursery.zygote_pid != first
        family.nursery.fork(1, 2, FromWorker)
        await family.until(lambda: len(family.said) == 2)
        assert set(family.children) == {0, 1}

    run(test)


def test_a_zygote_that_does_not_answer_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(family: Family) -> None:
        family.nursery.fork(0, 1, FromWorker)
        await family.until(lambda: family.said)
        os.kill(family.nursery.zygote_pid, signal.SIGSTOP)
        family.nursery.fork(1, 2, FromWorker)
        monkeypatch.setattr(nursery, "FORK_SECONDS", 0.0)
        await asyncio.sleep(0.001)
        family.nursery.look_around()
        await family.until(lambda: family.not_born)
        assert family.replaced == 1

    run(test)


def test_a_zygote_that_cannot_be_forked_is_tried_again(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    async def test(family: Family) -> None:
        family.nursery.fork(0, 1, FromWorker)
        await family.until(lambda: family.said)

        def refuse(*_: object) -> int:
            raise OSError(11, "Resource temporarily unavailable")

        monkeypatch.setattr(nursery, "RETRY_SECONDS", 0.01)
        with monkeypatch.context() as patched:
            patched.setattr(nursery, "start_zygote", refuse)
            os.kill(family.nursery.zygote_pid, signal.SIGKILL)
            await family.until(lambda: not family.nursery.zygote_pid)
            family.nursery.fork(1, 2, FromWorker)  # while there is none
        await family.until(lambda: family.not_born)
        assert family.not_born == [(1, "the zygote ended")]
        assert family.nursery.zygote_pid

    run(test)
    assert "cannot fork a zygote: resource temporarily unavailable; trying again" in capfd.readouterr().err


def test_a_first_zygote_that_cannot_drop_privileges_is_the_end() -> None:
    def refuse() -> None:
        raise FastlbError("cannot become nobody: not allowed")

    async def test(family: Family) -> None:
        family.nursery.fork(0, 1, FromWorker)
        await family.until(lambda: family.failed)
        assert not family.nursery.is_expecting
        assert not family.replaced

    run(test, ZygoteOptions(refuse, obey))


def fork_dead() -> int:
    """A child that has ended."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def test_strangers_are_reaped() -> None:
    async def test(family: Family) -> None:
        stranger = fork_dead()
        family.nursery.look_around()
        assert stranger not in kin()

    run(test)


def test_spared_children_are_left_to_whom_they_belong() -> None:
    spared = fork_dead()

    async def test(family: Family) -> None:
        family.nursery.look_around()
        assert spared in kin()

    run(test, spared=frozenset((spared,)))
    assert os.waitpid(spared, 0)[0] == spared
