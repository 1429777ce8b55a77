"""The clocks of draining backends: over when nothing is in flight, cut when the time is over."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from fastlb import FastlbError
from fastlb.control_plane import draining
from fastlb.control_plane.draining import Drains

NAME = "api|10.0.0.1:80"


class World:
    """What is in flight, and what was cut."""

    def __init__(self) -> None:
        self.in_flight = {NAME: 3}
        self.cut: list[str] = []
        self.failure: FastlbError | None = None
        self.drains = Drains(lambda identity: self.in_flight[identity], self.end)

    async def end(self, identity: str) -> int:
        if self.failure is not None:
            raise self.failure
        self.cut.append(identity)
        n, self.in_flight[identity] = self.in_flight[identity], 0
        return n

    async def over(self) -> None:
        while (drain := self.drains.get(NAME)) is not None and not drain.is_over:
            await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "LOOK_SECONDS", 0.001)


def run(test: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        world = World()
        try:
            await asyncio.wait_for(test(world), 20)
        finally:
            world.drains.close()
        assert len(asyncio.all_tasks()) <= 2  # this one and the test's: every clock has stopped

    asyncio.run(main())


def test_it_is_over_when_nothing_is_in_flight_and_nothing_is_cut() -> None:
    async def test(world: World) -> None:
        world.drains.begin(NAME, 3_600_000)
        await asyncio.sleep(0.01)
        drain = world.drains.get(NAME)
        assert drain is not None
        assert not drain.is_over
        assert 3_500_000 < drain.as_json()["left_ms"] <= 3_600_000
        world.in_flight[NAME] = 0
        await world.over()
        assert drain.as_json() == {"timeout_ms": 3_600_000, "left_ms": 0, "over": True, "cut": 0}
        assert world.cut == []

    run(test)


@pytest.mark.parametrize(("timeout_ms", "written"), [(0, "0s"), (5, "5ms")])
def test_what_is_in_flight_when_the_time_is_over_is_cut_and_told(timeout_ms: int, written: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def test(world: World) -> None:
        world.drains.begin(NAME, timeout_ms)
        await world.over()
        drain = world.drains.get(NAME)
        assert drain is not None
        assert (drain.cut, world.cut) == (3, [NAME])

    run(test)
    assert capsys.readouterr().err == f"fastlb: backend api 10.0.0.1:80: drained for {written}; exchanges cut: 3\n"


def test_forgetting_it_stops_the_clock() -> None:
    async def test(world: World) -> None:
        world.drains.begin(NAME, 5)
        world.drains.forget(NAME)
        await asyncio.sleep(0.02)
        assert world.drains.get(NAME) is None
        assert world.cut == []

    run(test)


def test_beginning_again_starts_the_clock_anew() -> None:
    async def test(world: World) -> None:
        world.drains.begin(NAME, 3_600_000)
        world.drains.begin(NAME, 1)
        await world.over()
        assert world.cut == [NAME]

    run(test)


def test_a_backend_that_is_listed_no_more_is_forgotten() -> None:
    async def test(world: World) -> None:
        world.drains.begin(NAME, 3_600_000)
        del world.in_flight[NAME]
        while world.drains.get(NAME) is not None:
            await asyncio.sleep(0)
        assert world.cut == []

    run(test)


def test_a_cut_that_fails_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    async def test(world: World) -> None:
        world.failure = FastlbError("nobody answers")
        world.drains.begin(NAME, 0)
        await world.over()

    run(test)
    assert capsys.readouterr().err == "fastlb: backend api 10.0.0.1:80: what is in flight could not be cut: nobody answers\n"
