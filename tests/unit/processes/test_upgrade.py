"""An upgrade that nobody looks after, over a supervisor and an heir that the test plays."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from fastlb.processes.child import Child
from fastlb.processes.nursery import Nursery
from fastlb.processes.upgrade import Upgrading


class Heir:
    pid = 7

    def signal(self, number: int) -> None:
        raise AssertionError("it has ended")


class Undertaker:
    def bury(self, _: object) -> str:
        return "signal 9"


class Supervisor:
    """What an upgrade needs of one; `on_wait` is what happens whenever it waits."""

    def __init__(self) -> None:
        self.is_drained = self.is_ending = False
        self.done: list[str] = []
        self.on_wait: Callable[[], None] = lambda: None

    def on_heir_gone(self, was_ready: bool) -> None:
        self.done.append(f"gone, {'' if was_ready else 'not '}ready")

    def rest(self) -> None:
        self.done.append("rest")

    def finish(self) -> None:
        self.done.append("finish")

    async def wait_for(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self.on_wait()


def begin(supervisor: Supervisor) -> Upgrading:
    upgrading = Upgrading(cast(Any, supervisor), cast(Nursery, None))
    upgrading._heir = cast(Child, Heir())
    return upgrading


def test_it_ends_only_when_all_that_drained_have_ended() -> None:
    supervisor = Supervisor()
    upgrading = begin(supervisor)
    upgrading.is_ready = True

    def drain() -> None:
        assert supervisor.done == ["rest"]
        supervisor.is_drained = True

    supervisor.on_wait = drain
    asyncio.run(upgrading.go_over())
    assert supervisor.done == ["rest", "finish"]


def test_an_heir_that_ends_just_when_its_time_is_over_is_no_mistake() -> None:
    supervisor = Supervisor()
    upgrading = begin(supervisor)

    def end_too_late() -> None:
        upgrading._heir = None
        raise TimeoutError

    supervisor.on_wait = end_too_late
    asyncio.run(upgrading.go_over())
    assert supervisor.done == []


@pytest.mark.parametrize(
    ("is_ending", "given_up", "then"),
    [(False, False, "this one goes on"), (True, False, "this one is ending already"), (True, True, "this one ends, too")],
)
def test_what_becomes_of_this_one_is_said_when_its_heir_ends(
    capsys: pytest.CaptureFixture[str], is_ending: bool, given_up: bool, then: str
) -> None:
    supervisor = Supervisor()
    upgrading = begin(supervisor)
    upgrading._nursery = cast(Nursery, Undertaker())
    upgrading.is_ready, upgrading._is_given_up, supervisor.is_ending = True, given_up, is_ending
    upgrading._on_exit()
    assert capsys.readouterr().err == f"fastlb: the new fastlb, process 7, ended (signal 9): {then}\n"
    assert supervisor.done == ["gone, ready"]
