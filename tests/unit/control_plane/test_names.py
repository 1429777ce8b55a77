"""Names of backends: looked up in the background, asked for again, never in the way."""

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from fastlb.control_plane import names
from fastlb.control_plane.names import Names
from fastlb.control_plane.resolver import Answer, Endpoint, LookupFailure


class World:
    """Names with answers that a test sets, and what they reported."""

    def __init__(self) -> None:
        self.answers: dict[str, list[str] | Answer | LookupFailure] = {}
        self.held = asyncio.Event()  # while cleared, name servers take their time
        self.held.set()
        self.asked: list[str] = []
        self.messages: list[str] = []
        self.changes = 0
        self.changed = asyncio.Event()
        self.names = Names(asyncio.get_running_loop(), self._on_change, self.messages.append, self._resolve)

    def _on_change(self) -> None:
        self.changes += 1
        self.changed.set()

    async def _resolve(self, name: str) -> Answer:
        self.asked.append(name)
        await self.held.wait()
        answer = self.answers.get(name, LookupFailure("there is no such name"))
        if isinstance(answer, LookupFailure):
            raise answer
        return answer if isinstance(answer, Answer) else Answer(tuple(Endpoint(ip) for ip in answer))

    def known(self) -> dict[str, tuple[str, ...]]:
        return {name: tuple(one.ip for one in endpoints) for name, endpoints in self.names.endpoints.items()}

    async def first(self, *watched: str, timeout: float = 10) -> dict[str, tuple[str, ...]]:
        self.names.watch(watched)
        await self.names.first_answers(timeout)
        return self.known()

    async def next_change(self) -> dict[str, tuple[str, ...]]:
        await asyncio.wait_for(self.changed.wait(), 10)
        self.changed.clear()
        return self.known()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for wait in ("RETRY_SECONDS", "MIN_TTL_SECONDS", "MAX_TTL_SECONDS", "SETTLE_SECONDS"):
        monkeypatch.setattr(names, wait, 0.01)


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long names wait before they are asked for again, which they then do not; the real limits hold."""
    monkeypatch.undo()
    found: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        if seconds:
            found.append(seconds)
            await asyncio.Event().wait()
        await sleep(0)

    monkeypatch.setattr(names.asyncio, "sleep", note)
    return found


def run(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs a test in a loop of its own, with a world that is closed at the end."""

    def runner(**fixtures: Any) -> None:
        async def main() -> None:
            world = World()
            try:
                await test(world, **fixtures)
            finally:
                world.held.set()
                world.names.close()

        asyncio.run(main())

    runner.__name__ = test.__name__
    asked = list(inspect.signature(test).parameters.values())[1:]
    runner.__signature__ = inspect.Signature(asked)  # type: ignore[attr-defined]
    return runner


@run
async def test_the_first_answers_are_there_when_they_were_waited_for(world: World) -> None:
    world.answers = {"a": ["10.0.0.1"], "b": ["10.0.0.2", "10.0.0.3"]}
    assert await world.first("a", "b") == {"a": ("10.0.0.1",), "b": ("10.0.0.2", "10.0.0.3")}
    await asyncio.sleep(0.05)
    assert world.changes == 0
    assert world.messages == []


@run
async def test_without_names_nothing_waits(world: World) -> None:
    assert await world.first() == {}
    assert world.asked == []


@run
async def test_a_slow_name_server_holds_up_nothing_longer_than_allowed(world: World) -> None:
    world.held.clear()
    world.answers = {"slow": ["10.0.0.1"]}
    assert await world.first("slow", timeout=0.01) == {}
    assert world.messages == ["still resolving slow; backends join when they are found"]
    world.held.set()
    assert await world.next_change() == {"slow": ("10.0.0.1",)}


@run
async def test_a_name_that_does_not_resolve_is_said_once_and_asked_for_again(world: World) -> None:
    assert await world.first("lost") == {}
    while len(world.asked) < 5:
        await asyncio.sleep(0.01)
    assert world.messages == ['cannot resolve "lost": there is no such name; its backends get no requests; trying again every 0 s']
    world.answers["lost"] = ["10.0.0.1"]
    assert await world.next_change() == {"lost": ("10.0.0.1",)}
    assert world.messages[1:] == ['"lost" resolves to 10.0.0.1']


@run
async def test_a_name_that_stops_resolving_keeps_its_addresses(world: World) -> None:
    world.answers["a"] = ["10.0.0.1"]
    await world.first("a")
    world.answers["a"] = LookupFailure("the name server answers SERVFAIL")
    while not world.messages:
        await asyncio.sleep(0.01)
    assert "keeping 10.0.0.1" in world.messages[0]
    assert world.known() == {"a": ("10.0.0.1",)}
    assert world.changes == 0


@run
async def test_new_addresses_are_a_change_and_the_same_ones_are_not(world: World) -> None:
    world.answers["a"] = ["10.0.0.1"]
    await world.first("a")
    while len(world.asked) < 5:
        await asyncio.sleep(0.01)
    assert world.changes == 0
    world.answers["a"] = ["10.0.0.2"]
    assert await world.next_change() == {"a": ("10.0.0.2",)}


@run
async def test_a_name_that_is_not_watched_any_more_is_not_asked_for(world: World) -> None:
    world.answers = {"a": ["10.0.0.1"], "b": ["10.0.0.2"]}
    await world.first("a", "b")
    assert await world.first("b") == {"b": ("10.0.0.2",)}
    await asyncio.sleep(0.05)
    asked = world.asked.count("a")
    await asyncio.sleep(0.05)
    assert world.asked.count("a") == asked


@run
async def test_a_family_without_an_answer_keeps_its_addresses(world: World) -> None:
    world.answers["a"] = ["10.0.0.1", "::1"]
    await world.first("a")
    world.answers["a"] = Answer((Endpoint("10.0.0.2"),), missing=frozenset({6}))
    assert await world.next_change() == {"a": ("10.0.0.2", "::1")}
    world.answers["a"] = Answer((Endpoint("10.0.0.2"),))
    assert await world.next_change() == {"a": ("10.0.0.2",)}


@run
async def test_answers_that_come_together_are_one_change(world: World) -> None:
    world.answers = {str(number): ["10.0.0.1"] for number in range(20)}
    await world.first(*world.answers)
    world.answers = {name: ["10.0.0.2"] for name in world.answers}
    while (await world.next_change())["19"] != ("10.0.0.2",):
        pass
    assert world.changes < 20


@run
async def test_an_answer_is_asked_for_again_when_it_has_expired_and_not_before(world: World, sleeps: list[float]) -> None:
    world.answers = {"short": Answer((Endpoint("10.0.0.1"),), 20), "long": Answer((Endpoint("10.0.0.1"),), 1e9), "none": Answer((), 0)}
    world.names.watch(world.answers)
    while len(sleeps) < 3:
        await asyncio.sleep(0)
    none, short, long = sorted(sleeps)
    assert 1 <= none <= 1.1
    assert 20 <= short <= 22
    assert 300 <= long <= 330


@run
async def test_other_name_servers_are_asked_at_once_and_what_was_known_holds_meanwhile(world: World) -> None:
    world.answers["a"] = ["10.0.0.1"]
    await world.first("a")
    held = asyncio.Event()

    async def slow(name: str) -> Answer:
        await held.wait()
        return Answer((Endpoint("10.0.0.9"),))

    world.names.use(slow)
    assert world.known() == {"a": ("10.0.0.1",)}
    held.set()
    assert await world.next_change() == {"a": ("10.0.0.9",)}


@run
async def test_many_names_are_not_all_asked_for_at_once(world: World) -> None:
    world.held.clear()
    world.names.watch(str(number) for number in range(200))
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(world.asked) == names.MAX_QUESTIONS
    world.held.set()
    await world.names.first_answers(10)
    assert len(set(world.asked)) == 200


@run
async def test_what_an_earlier_controller_knew_holds_until_there_is_an_answer(world: World) -> None:
    world.names.restore({"a": (Endpoint("10.0.0.1"),)})
    assert await world.first("a") == {"a": ("10.0.0.1",)}
    assert "keeping 10.0.0.1" in world.messages[0]
    world.answers["a"] = ["10.0.0.2"]
    assert await world.next_change() == {"a": ("10.0.0.2",)}


@run
async def test_the_same_in_another_order_is_no_change(world: World) -> None:
    world.answers["a"] = ["10.0.0.1", "10.0.0.2"]
    await world.first("a")
    world.answers["a"] = ["10.0.0.2", "10.0.0.1"]
    asked = len(world.asked)
    while len(world.asked) < asked + 3:
        await asyncio.sleep(0.01)
    assert world.changes == 0
