"""One reload after the other, with a loader that really is forked and a controller that the test plays."""

import asyncio
import errno
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn, cast

import pytest

from fastlb.control_plane.reading import Reading, read_again, take_reading
from fastlb.control_plane.tls.files import NO_FILES, TlsFiles
from fastlb.control_plane.tls.material import reread_material
from fastlb.processes import reloading
from fastlb.processes.child import Child
from fastlb.processes.loader import start_loader
from fastlb.processes.messages import Reread, ToController
from fastlb.processes.nursery import Nursery
from fastlb.processes.reloading import Reloading, WatchedFile, WatchedFiles
from fastlb.processes.zygote import ZygoteOptions
from tests.support.authority import Authority

AUTHORITY = Authority()
FOUND = Reading(errors=("f:1:1: nonsense",))


class Supervisor:
    """What a reload needs of one."""

    def __init__(self) -> None:
        self.is_started = True
        self.is_ending = False
        self.is_watching = True
        self.controller: Child | None = cast(Child, object())
        self.told: asyncio.Queue[tuple[Reread, Reading | None]] = asyncio.Queue()
        self.changed = asyncio.Event()

    def tell_controller(self, message: ToController, *descriptors: int) -> None:
        assert isinstance(message, Reread)
        self.told.put_nowait((message, take_reading(os.dup(descriptors[0])) if descriptors else None))

    async def wait_for(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self.changed.clear()
            await self.changed.wait()


class Case:
    def __init__(self, read: Callable[[], Reading], path: str, tls_files: TlsFiles) -> None:
        self.supervisor = Supervisor()
        nursery = Nursery(cast(Any, self.supervisor), ZygoteOptions(lambda: None, lambda *_: None), frozenset())
        self.reloading = Reloading(self.supervisor, nursery, path, read, tls_files)

    async def hear(self) -> tuple[Reread, Reading | None]:
        """What the controller is told next."""
        return await asyncio.wait_for(self.supervisor.told.get(), 20)

    def finish(self, number: int, applied: bool = True) -> None:
        """The controller has done it."""
        self.reloading.on_done(number, applied)
        self.supervisor.changed.set()


@asynccontextmanager
async def run(read: Callable[[], Reading] = lambda: FOUND, path: str = "f", tls_files: TlsFiles = NO_FILES) -> AsyncIterator[Case]:
    case = Case(read, path, tls_files)
    task = asyncio.create_task(case.reloading.run())
    yield case
    case.reloading.close()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


def test_what_the_loader_found_reaches_the_controller() -> None:
    async def go() -> None:
        async with run() as case:
            case.reloading.request(7)
            assert await case.hear() == (Reread(1, 7, ""), FOUND)

    asyncio.run(go())


def test_the_loader_is_a_process_of_its_own() -> None:
    async def go() -> None:
        async with run(lambda: Reading(errors=(str(os.getpid()),))) as case:
            case.reloading.request()
            _, reading = await case.hear()
            assert reading is not None
            assert reading.errors != (str(os.getpid()),)

    asyncio.run(go())


def test_who_asks_during_a_reload_gets_one_more_afterwards_once_for_all() -> None:
    async def go() -> None:
        async with run() as case:
            case.reloading.request(1)
            first, _ = await case.hear()
            for ticket in (2, 3, 4):
                case.reloading.request(ticket)
            case.reloading.request()
            for wrong in (0, first.number + 1, 1 << 40):
                case.finish(wrong)
                await asyncio.sleep(0)
            assert case.supervisor.told.empty()
            case.finish(first.number)
            second, _ = await case.hear()
            assert (second.number, second.ticket) == (2, 4)
            case.finish(second.number)
            case.reloading.request(5)
            assert (await case.hear())[0] == Reread(3, 5, "")

    asyncio.run(go())


def test_a_controller_that_dies_ends_the_reload_and_the_next_one_begins(capsys: pytest.CaptureFixture[str]) -> None:
    async def go() -> None:
        async with run() as case:
            case.reloading.request()
            await case.hear()
            case.supervisor.controller = cast(Child, object())
            case.supervisor.changed.set()
            case.reloading.request()
            assert (await case.hear())[0].number == 2

    asyncio.run(go())
    assert "the controller ended during a reload" in capsys.readouterr().err


def test_a_reload_waits_for_the_start_and_for_a_controller() -> None:
    async def go() -> None:
        async with run() as case:
            case.supervisor.is_started, case.supervisor.controller = False, None
            case.reloading.request()
            case.supervisor.changed.set()
            await asyncio.sleep(0)
            assert case.supervisor.told.empty()
            case.supervisor.is_started, case.supervisor.controller = True, cast(Child, object())
            case.supervisor.changed.set()
            assert (await case.hear())[1] == FOUND

    asyncio.run(go())


def test_without_a_file_there_is_nothing_to_reload() -> None:
    async def go() -> None:
        async with run(path="") as case:
            case.reloading.request(1)
            told, reading = await case.hear()
            assert reading is None
            assert told.error == "there is nothing to reload: fastlb was started without a configuration file (fastlb serve -c FILE)"

    asyncio.run(go())


def test_while_fastlb_ends_nothing_is_read() -> None:
    async def go() -> None:
        async with run() as case:
            case.supervisor.is_ending = True
            case.reloading.request(1)
            assert (await case.hear())[0].error == "fastlb is ending and takes no configuration any more"

    asyncio.run(go())


def test_a_loader_that_is_killed_is_an_error_and_the_next_reload_works(tmp_path: Path) -> None:
    def die_once() -> Reading:
        if (tmp_path / "died").exists():
            return FOUND
        (tmp_path / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("it is dead")

    async def go() -> None:
        async with run(die_once) as case:
            case.reloading.request(1)
            told, reading = await case.hear()
            assert (told.error, reading) == ("the process that reads the configuration ended (killed by SIGKILL)", None)
            case.finish(told.number)
            case.reloading.request(2)
            assert (await case.hear())[1] == FOUND

    asyncio.run(go())


def test_a_mistake_in_the_loader_is_an_error() -> None:
    def fail() -> NoReturn:
        raise KeyError("mistake")

    async def go() -> None:
        async with run(fail) as case:
            case.reloading.request(1)
            assert (await case.hear())[0].error == "the process that reads the configuration ended (exit code 1)"

    asyncio.run(go())


def test_a_loader_that_takes_too_long_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(reloading, "LOAD_SECONDS", 0.05)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def hang() -> NoReturn:
        with fifo.open():  # nobody writes
            raise AssertionError("it was opened")

    async def go() -> None:
        async with run(hang) as case:
            case.reloading.request(1)
            assert (await case.hear())[0].error == "f: reading it took more than 0.05 s, and was given up"

    asyncio.run(go())


class Pair:
    """A certificate with its key, in two files."""

    def __init__(self, directory: Path, name: str = "shop") -> None:
        self.directory, self.name = directory, name
        self.files = TlsFiles(str(directory), ((f"{name}.pem", f"{name}.key"),))
        self.write("a.example")

    def write(self, host: str) -> None:
        AUTHORITY.issue(host).write(self.directory, self.name)

    def names(self, reading: Reading | None) -> tuple[str, ...]:
        """What was read there, which is all that was read."""
        assert reading is not None and reading.config is None
        (certificate,) = reading.tls.certificates.values()
        return certificate.names


def test_a_changed_certificate_is_read_and_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(reloading, "WATCH_SECONDS", 0.01)
    pair = Pair(tmp_path)

    async def go() -> None:
        async with run(path="", tls_files=pair.files) as case:
            case.supervisor.is_watching = False  # which is about the configuration file
            watching = asyncio.create_task(case.reloading.watch())
            for number, host in ((1, "b.example"), (2, "c.example")):
                pair.write(host)
                message, reading = await case.hear()
                assert (message, pair.names(reading)) == (Reread(number, 0, ""), (host,))
                case.finish(number)
            watching.cancel()

    asyncio.run(go())


def test_a_changed_certificate_that_could_not_be_put_in_force_is_read_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(reloading, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(reloading, "RETRY_SECONDS", 0.01)
    pair = Pair(tmp_path)

    async def go() -> None:
        async with run(path="", tls_files=pair.files) as case:
            watching = asyncio.create_task(case.reloading.watch())
            pair.write("b.example")
            for number in (1, 2, 3):
                message, reading = await case.hear()
                assert (message.number, pair.names(reading)) == (number, ("b.example",))
                if number == 2:  # the controller dies
                    case.supervisor.controller = cast(Child, object())
                    case.supervisor.changed.set()
                else:
                    case.finish(number, applied=number == 3)
            await asyncio.sleep(0.05)  # long enough for another one, which must not come
            assert case.supervisor.told.empty()
            watching.cancel()

    asyncio.run(go())


def test_what_is_watched_is_what_the_configuration_in_force_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(reloading, "WATCH_SECONDS", 0.01)
    first, second = Pair(tmp_path, "first"), Pair(tmp_path, "second")

    async def go() -> None:
        async with run(lambda: Reading(tls=reread_material(second.files)), tls_files=first.files) as case:
            number = 0
            for applied, watched in ((False, first), (True, second)):
                case.reloading.request()
                await case.hear()
                number += 1
                case.finish(number, applied)
                if applied:  # they may have changed since they were read
                    _, reading = await case.hear()
                    assert watched.names(reading) == ("a.example",)
                    number += 1
                    case.finish(number)
                watching = asyncio.create_task(case.reloading.watch())
                watched.write("new.example")
                message, reading = await case.hear()
                number += 1
                assert (message.number, watched.names(reading)) == (number, ("new.example",))
                case.finish(number)
                watching.cancel()


def test_a_change_is_not_lost_when_a_reload_comes_between_and_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(reloading, "WATCH_SECONDS", 0.01)
    pair = Pair(tmp_path)

    async def go() -> None:
        async with run(tls_files=pair.files) as case:
            pair.write("b.example")
            case.reloading.request()
            assert (await case.hear())[1] == FOUND
            case.finish(1, applied=False)
            watching = asyncio.create_task(case.reloading.watch())
            message, reading = await case.hear()
            assert (message.number, pair.names(reading)) == (2, ("b.example",))
            watching.cancel()

    asyncio.run(go())

    asyncio.run(go())


def test_a_system_that_does_not_fork_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(reloading, "start_loader", refuse)

    async def go() -> None:
        async with run() as case:
            case.reloading.request(1)
            said = (await case.hear())[0].error
            assert said == "cannot fork the process that reads the configuration: resource temporarily unavailable"

    asyncio.run(go())


@pytest.mark.parametrize("step", ["open_pair", "Child"])
def test_a_lack_of_descriptors_is_an_error_and_leaves_no_process(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")

    started: list[int] = []

    def start(end: socket.socket, read: Callable[[], Reading]) -> int:
        started.append(start_loader(end, read))
        return started[-1]

    monkeypatch.setattr(reloading, "start_loader", start)

    async def go() -> None:
        async with run() as case:
            with monkeypatch.context() as patched:
                patched.setattr(reloading, step, refuse)
                case.reloading.request(1)
                said = (await case.hear())[0]
                assert said.error == "cannot fork the process that reads the configuration: too many open files"
            case.finish(said.number)
            case.reloading.request(2)
            assert (await case.hear())[1] == FOUND

    asyncio.run(go())
    assert not any(Path(f"/proc/{pid}").exists() for pid in started[:-1]), "what was forked in vain is killed and reaped"


def test_a_wrong_file_is_told_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "f.toml"
    path.write_text("a = \n")
    reading = read_again(str(path), lambda loaded: loaded)
    assert reading.config is None
    assert reading.errors[0].startswith(f"{path}:1:5: ")


# ---------------------------------------------------------------------------------------------- the watched file
@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "f.toml"
    made.write_text("one")
    return made


def test_a_file_that_stays_has_not_changed(file: Path) -> None:
    watched = WatchedFile(str(file))
    assert not any(watched.has_changed() for _ in range(3))


def test_a_change_counts_when_the_file_looks_the_same_twice(file: Path) -> None:
    watched = WatchedFile(str(file))
    file.write_text("one two")
    assert not watched.has_changed()
    file.write_text("one two three")
    assert not watched.has_changed()
    assert watched.has_changed()
    watched.note()
    assert not watched.has_changed()


def test_a_file_moved_over_it_is_a_change(file: Path) -> None:
    watched = WatchedFile(str(file))
    other = file.with_name("g")
    other.write_text("two")
    other.rename(file)
    assert [watched.has_changed() for _ in range(2)] == [False, True]


def test_another_file_behind_the_same_links_is_a_change(tmp_path: Path) -> None:
    """A ConfigMap: the file is a link into `..data`, which is a link that is replaced."""
    for name in ("v1", "v2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text("same size")
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "f").symlink_to("..data/f")
    watched = WatchedFile(str(tmp_path / "f"))
    (tmp_path / "next").symlink_to("v2")
    (tmp_path / "next").rename(tmp_path / "..data")
    assert [watched.has_changed() for _ in range(2)] == [False, True]


def test_a_file_that_is_gone_is_no_change_until_another_one_is_there(file: Path) -> None:
    watched = WatchedFile(str(file))
    file.unlink()
    assert not any(watched.has_changed() for _ in range(3))
    file.write_text("another one")
    assert [watched.has_changed() for _ in range(2)] == [False, True]


def test_a_file_that_came_back_as_it_was_is_no_change(file: Path) -> None:
    watched = WatchedFile(str(file))
    away = file.rename(file.with_name("away"))
    assert not watched.has_changed()
    away.rename(file)
    assert not any(watched.has_changed() for _ in range(3))


def test_many_files_are_looked_at_in_turns_and_one_that_differs_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reloading, "FILES_PER_LOOK", 2)
    paths = [tmp_path / str(number) for number in range(5)]
    for path in paths:
        path.write_text("before")
    files = WatchedFiles(map(str, paths))
    assert not any(files.has_changed() for _ in range(6))
    for path in (paths[0], paths[4]):
        path.write_text("afterwards")
        assert [files.has_changed() for _ in range(4)].count(True) >= 1  # at the latest in the look behind the round of three
        assert files.has_changed()
        files.note()
        assert not any(files.has_changed() for _ in range(6))
    assert not WatchedFiles(()).has_changed()
