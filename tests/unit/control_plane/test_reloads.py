"""Who waits for a reload, and what it is told; the supervisor and the applying are the test's."""

import asyncio
import os
import pickle
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from fastlb import FastlbError
from fastlb.control_plane.config.loader import load_text
from fastlb.control_plane.config.schema import Config
from fastlb.control_plane.reading import Reading, warn_of_settings_that_stay, write_reading
from fastlb.control_plane.reloads import Outcome, Reloads
from fastlb.control_plane.sticky_key import StickyKey
from fastlb.control_plane.tls.files import TlsFiles
from fastlb.control_plane.tls.material import Material
from fastlb.processes.messages import FromController, Reload, Reloaded, Reread

CONFIG = load_text('[[listeners]]\nname = "web"\nbind = ":80"\n[pools.p]\nbackends = "127.0.0.1:1"\n', "f").config
KEY = StickyKey(("", "", ""), b"k" * 32)


class Case:
    """The supervisor's and the controller's side of it."""

    def __init__(self) -> None:
        self.said: list[FromController] = []
        self.applied: list[tuple[Config, StickyKey | None]] = []
        self.refusal = ""
        self.mistake: Exception | None = None
        self.generation = 0
        self.renewed: list[Material] = []
        self.reloads = Reloads(self.said.append, self.use, CONFIG.settings)

    async def use(self, reading: Reading) -> tuple[int, tuple[str, ...]]:
        if self.refusal:
            raise FastlbError(self.refusal)
        if self.mistake is not None:
            raise self.mistake
        if reading.config is None:
            self.renewed.append(reading.tls)
            return self.generation, ()
        assert pickle.loads(reading.frozen) == reading.config
        self.applied.append((reading.config, reading.sticky_key))
        return len(self.applied) + 1, ()

    def ask(self) -> "asyncio.Task[Outcome]":
        return asyncio.create_task(self.reloads.ask())

    def read(self, number: int, ticket: int, reading: Reading) -> None:
        """The supervisor passes on what a loader left."""
        self.reloads.take(Reread(number, ticket, ""), [write_reading(reading)])


def run(test: Callable[[Case], Awaitable[Any]]) -> None:
    async def go() -> None:
        async with asyncio.timeout(20):
            await test(Case())

    asyncio.run(go())


def test_who_asks_is_answered_when_it_is_applied(capsys: pytest.CaptureFixture[str]) -> None:
    async def go(case: Case) -> None:
        asked = case.ask()
        await asyncio.sleep(0)
        assert case.said == [Reload(1)]
        case.read(1, 1, Reading(CONFIG, KEY, ("f:1:1: odd",)))
        outcome = await asked
        assert (outcome.generation, outcome.warnings, outcome.errors) == (2, ("f:1:1: odd",), ())
        assert outcome.milliseconds >= outcome.apply_milliseconds >= 0
        assert case.applied == [(CONFIG, KEY)]
        await asyncio.sleep(0)
        assert case.said == [Reload(1), Reloaded(1)]

    run(go)
    told = capsys.readouterr()
    assert told.out == "fastlb: reloaded (generation 2)\n"
    assert told.err == "fastlb: warning: f:1:1: odd\n"


def test_who_asks_after_the_file_was_read_waits_for_the_next_reload() -> None:
    async def go(case: Case) -> None:
        first, second = case.ask(), case.ask()
        await asyncio.sleep(0)
        case.read(1, 1, Reading(CONFIG))  # begun before the second asked
        assert (await first).generation == 2
        assert not second.done()
        case.read(2, 2, Reading(CONFIG))
        assert (await second).generation == 3

    run(go)


def test_a_reload_that_nobody_asked_for_is_applied_too() -> None:
    async def go(case: Case) -> None:
        case.read(1, 0, Reading(CONFIG))
        while not case.said:
            await asyncio.sleep(0)
        assert case.said == [Reloaded(1)]
        assert case.applied == [(CONFIG, None)]

    run(go)


@pytest.mark.parametrize(
    ("reading", "refusal", "errors"),
    [
        (Reading(errors=("f:1:1: wrong", "f:2:1: wrong, too")), "", ["f:1:1: wrong", "f:2:1: wrong, too"]),
        (Reading(CONFIG), "worker 0 refused\nworker 1 refused", ["worker 0 refused", "worker 1 refused"]),
    ],
)
def test_errors_are_answered_and_said(capsys: pytest.CaptureFixture[str], reading: Reading, refusal: str, errors: list[str]) -> None:
    async def go(case: Case) -> None:
        case.refusal = refusal
        asked = case.ask()
        await asyncio.sleep(0)
        case.read(1, 1, reading)
        assert (await asked).as_json() == {"errors": errors}
        await asyncio.sleep(0)
        assert case.said[-1] == Reloaded(1, applied=False)

    run(go)
    said = capsys.readouterr().err.splitlines()
    assert said == [f"fastlb: {line}" for line in ("the configuration was not reloaded, and the one in force stays:", *errors)]


@pytest.mark.parametrize(
    ("mistake", "errors"),
    [
        (MemoryError(), ["a mistake in fastlb: MemoryError: "]),
        (ZeroDivisionError("by\nnothing"), ["a mistake in fastlb: ZeroDivisionError: by", "nothing"]),
    ],
)
def test_a_mistake_of_ours_ends_its_reload_and_the_next_one_is_made(
    capsys: pytest.CaptureFixture[str], mistake: Exception, errors: list[str]
) -> None:
    async def go(case: Case) -> None:
        asked = case.ask()
        await asyncio.sleep(0)
        case.mistake = mistake
        case.read(1, 1, Reading(CONFIG))
        assert list((await asked).errors) == errors
        while case.said[-1] != Reloaded(1, applied=False):
            await asyncio.sleep(0)
        case.mistake = None
        case.read(2, 1, Reading(CONFIG))
        while case.said[-1] != Reloaded(2):
            await asyncio.sleep(0)

    run(go)
    told = capsys.readouterr()
    head = "the reload did not come to its end; `fastlb status` says which generation is in force:"
    assert told.err.splitlines() == [f"fastlb: {line}" for line in (head, *errors)]
    assert told.out == "fastlb: reloaded (generation 2)\n"


def test_what_a_loader_left_and_nobody_can_read_ends_its_reload_too() -> None:
    async def go(case: Case) -> None:
        asked = case.ask()
        await asyncio.sleep(0)
        case.reloads.take(Reread(1, 1, ""), [os.memfd_create("nothing")])
        (error,) = (await asked).errors
        assert error.startswith("a mistake in fastlb: EOFError: ")
        while case.said[-1] != Reloaded(1, applied=False):
            await asyncio.sleep(0)

    run(go)


@pytest.mark.parametrize(("generation", "says"), [(0, ""), (7, "fastlb: certificates reloaded (generation 7)\n")])
def test_files_of_tls_that_were_read_alone_change_no_configuration_and_answer_nobody(
    capsys: pytest.CaptureFixture[str], generation: int, says: str
) -> None:
    async def go(case: Case) -> None:
        asked = case.ask()
        await asyncio.sleep(0)
        case.generation = generation
        case.read(1, 0, Reading(tls=Material(TlsFiles("/etc"))))
        while case.said[-1] != Reloaded(1):
            await asyncio.sleep(0)
        assert case.renewed == [Material(TlsFiles("/etc"))]
        assert (case.applied, asked.done()) == ([], False)
        asked.cancel()

    run(go)
    assert capsys.readouterr() == (says, "")


def test_files_of_tls_that_cannot_be_put_in_force_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    async def go(case: Case) -> None:
        case.refusal = "worker 0 refused"
        case.read(1, 0, Reading(tls=Material()))
        while not case.said:
            await asyncio.sleep(0)
        assert case.said == [Reloaded(1, applied=False)]

    run(go)
    head = "fastlb: the files of TLS were not put in force, and what they held before stays:"
    assert capsys.readouterr() == ("", f"{head}\nfastlb: worker 0 refused\n")


def test_what_kept_the_file_from_being_read_is_an_error() -> None:
    async def go(case: Case) -> None:
        asked = case.ask()
        await asyncio.sleep(0)
        case.reloads.take(Reread(1, 1, "there is nothing to reload"), [])
        assert (await asked).errors == ("there is nothing to reload",)

    run(go)


def test_at_the_end_nobody_is_left_waiting() -> None:
    async def go(case: Case) -> None:
        asked = case.ask()
        await asyncio.sleep(0)
        case.reloads.close()
        assert (await asked).errors
        assert (await case.reloads.ask()).errors

    run(go)


def test_settings_that_stay_are_named() -> None:
    started = CONFIG.settings
    wanted = replace(started, user="www-data", max_descriptors=4096, drain_timeout_ms=1)
    assert list(warn_of_settings_that_stay(started, wanted)) == [
        'user is read once, at the start: it stays "" until fastlb is started again with "www-data"',
        "max_descriptors is read once, at the start: it stays 0 until fastlb is started again with 4096",
    ]


@pytest.mark.parametrize(("before", "after", "warned"), [(0, 100, False), (100, 50, False), (100, 200, True), (100, 0, True)])
def test_room_for_connections_can_only_be_made_less(before: int, after: int, warned: bool) -> None:
    started, wanted = (replace(CONFIG.settings, max_connections=count) for count in (before, after))
    assert bool(list(warn_of_settings_that_stay(started, wanted))) is warned
