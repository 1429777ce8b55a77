"""Names of backends: looked up in the background, asked for again, never in the way."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import pytest

from fastlb.control_plane import names
from fastlb.control_plane.names import Names, resolve_name


class World:
    """Names with answers that a test sets, and what they reported."""

    def __init__(self) -> None:
        self.answers: dict[str, list[str] | OSError] = {}
        self.held = threading.Event()  # while cleared, name servers take their time
        self.held.set()
        self.asked: list[str] = []
        self.messages: list[str] = []
        self.changes = 0
        self.changed = asyncio.Event()
        self.names = Names(asyncio.get_running_loop(), self._on_change, self.messages.append, self._resolve)

    def _on_change(self) -> None:
        self.changes += 1
        self.changed.set()

    def _resolve(self, name: str) -> list[str]:
        self.asked.append(name)
        self.held.wait(10)
        answer = self.answers.get(name, OSError(-2, "Name or service not known"))
        if isinstance(answer, OSError):
            raise answer
        return answer

    async def first(self, *watched: str, timeout: float = 10) -> dict[str, tuple[str, ...]]:
        self.names.watch(watched)
        await self.names.first_answers(timeout)
        return self.names.addresses

    async def next_change(self) -> dict[str, tuple[str, ...]]:
        await asyncio.wait_for(self.changed.wait(), 10)
        self.changed.clear()
        return self.names.addresses


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for wait in ("RETRY_SECONDS", "REFRESH_SECONDS", "SETTLE_SECONDS"):
        monkeypatch.setattr(names, wait, 0.01)


def run(test: Callable[[World], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Runs a test in a loop of its own, with a world that is closed at the end."""

    def runner() -> None:
        async def main() -> None:
            world = World()
            try:
                await test(world)
            finally:
                world.held.set()
                world.names.close()

        asyncio.run(main())

    runner.__name__ = test.__name__
    return runner


def test_a_name_has_addresses_of_its_own_in_a_stable_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(ips: Iterable[str]) -> Callable[..., list[Any]]:
        return lambda *arguments, **options: [(0, 0, 0, "", (ip, 0)) for ip in ips]

    monkeypatch.setattr(names.socket, "getaddrinfo", answer(["::2", "10.0.0.10", "10.0.0.9", "10.0.0.9", "fe80::1%eth0"]))
    assert resolve_name("x") == ["10.0.0.9", "10.0.0.10", "::2"]
    monkeypatch.setattr(names.socket, "getaddrinfo", answer(["fe80::1%eth0"]))
    with pytest.raises(OSError, match="link-local"):
        resolve_name("x")


@run
async def test_the_first_answers_are_there_when_they_were_waited_for(world: World) -> None:
    world.answers = {"a": ["10.0.0.1"], "b": ["10.0.0.2", "10.0.0.3"]}
    assert await world.first("a", "b") == {"a": ("10.0.0.1",), "b": ("10.0.0.2", "10.0.0.3")}
    await asyncio.sleep(0.05)
    assert world.changes == 0
    assert world.messages == []


@run
async def test_without_names_nothing_waits_and_no_thread_starts(world: World) -> None:
    before = threading.active_count()
    assert await world.first() == {}
    assert threading.active_count() == before


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
    assert world.messages == ['cannot resolve "lost": name or service not known; its backends get no requests; trying again every 0 s']
    world.answers["lost"] = ["10.0.0.1"]
    assert await world.next_change() == {"lost": ("10.0.0.1",)}
    assert world.messages[1:] == ['"lost" resolves to 10.0.0.1']


@run
async def test_a_name_that_stops_resolving_keeps_its_addresses(world: World) -> None:
    world.answers["a"] = ["10.0.0.1"]
    await world.first("a")
    world.answers["a"] = OSError(-3, "Temporary failure in name resolution")
    while not world.messages:
        await asyncio.sleep(0.01)
    assert "keeping 10.0.0.1" in world.messages[0]
    assert world.names.addresses == {"a": ("10.0.0.1",)}
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
async def test_a_loop_that_ends_does_not_wait_for_a_name_server(world: World) -> None:
    world.held.clear()
    world.names.watch(["slow"])
    while not world.asked:
        await asyncio.sleep(0.01)
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "fastlb-names")
