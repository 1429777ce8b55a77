"""The worker around an engine that only notes what it is told, with the supervisor's end of the channel in the test's hands."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import uvloop

from fastlb import BUILD_ID, _core
from fastlb.processes import worker
from fastlb.processes.channel import Channel, open_pair
from fastlb.processes.handover import open_door
from fastlb.processes.messages import (
    Abort,
    Assign,
    Commit,
    Committed,
    Drain,
    Drained,
    FromOrphan,
    FromWorker,
    Hello,
    Lend,
    Message,
    Outlived,
    Prepare,
    Prepared,
    Refused,
    Siblings,
    Stop,
    ToWorker,
)
from fastlb.processes.worker import Estate, Worker, WorkerOptions
from tests.support.descriptors import descriptors
from tests.support.pickers import LAST


class FakeEngine:
    """Stands for _core.Engine."""

    def __init__(self) -> None:
        self.readable, self.writable = os.pipe()
        self.prepared: Any = None
        self.current = 0
        self.sockets: list[tuple[int, int]] = []
        self.clients = 0
        self.pumped: list[int] = []
        self.siblings: list[int] = []
        self.ended_idle = False

    def fileno(self) -> int:
        return self.readable

    def pump(self, budget: int = 0) -> int:
        os.read(self.readable, 100)
        self.pumped.append(budget)
        return 0

    def generation(self) -> int:
        return self.current

    def prepare(self, image: Any, pickers: dict[int, int]) -> None:
        self.prepared = image
        self.pickers = pickers

    def abort(self) -> None:
        self.prepared = None

    def commit(self, sockets: Sequence[tuple[int, int]]) -> list[int]:
        self.current += 1
        return self.assign(sockets)

    def assign(self, sockets: Sequence[tuple[int, int]]) -> list[int]:
        kept = {descriptor for descriptor, _ in sockets}
        released = [descriptor for descriptor, _ in self.sockets if descriptor not in kept]
        self.sockets = list(sockets)
        return released

    def drain(self, idle_grace_ms: int) -> list[int]:
        released, self.sockets = [descriptor for descriptor, _ in self.sockets], []
        return released

    def end_idle(self) -> None:
        self.ended_idle = True

    def connections(self) -> int:
        return self.clients

    def set_sibling(self, slot: int, event_fd: int) -> None:
        os.eventfd_write(event_fd, slot)
        self.siblings.append(slot)

    def close(self) -> None:
        os.close(self.readable)
        os.close(self.writable)


class FakeImage:
    """Stands for _core.Image, with the pickers that a test wants it to name."""

    named: ClassVar[list[tuple[int, str]]] = []

    def __init__(self, fd: int) -> None:
        os.fstat(fd)

    def compile(self) -> None:
        pass

    def pickers(self) -> list[tuple[int, str]]:
        return self.named

    def python_path(self) -> list[str]:
        return []


class Case:
    """A running worker and the supervisor's end of its channel."""

    def __init__(self, served: Worker, engine: FakeEngine, supervisor: Channel[Any]) -> None:
        self.worker = served
        self.engine = engine
        self.supervisor = supervisor
        self.running: asyncio.Task[None] | None = None

    def send(self, message: Message, *descriptors: int) -> None:
        self.supervisor.send(message, *descriptors)

    def send_image(self, generation: int) -> None:
        fd = os.memfd_create("image")
        self.send(Prepare(generation), fd)
        os.close(fd)

    def lend(self, number: int) -> None:
        with socket.socket() as lent:
            self.send(Lend((number,)), lent.fileno())

    async def hear(self) -> Message:
        """What the worker says next."""
        while True:
            received = self.supervisor.receive()
            if received is not None:
                message: Message = received[0]
                for descriptor in received[1]:
                    os.close(descriptor)
                return message
            await asyncio.sleep(0.001)

    async def begin(self, *numbers: int) -> None:
        """The first snapshot, with these sockets."""
        assert await self.hear() == Hello(BUILD_ID)
        self.send_image(1)
        assert await self.hear() == Prepared(1)
        for number in numbers:
            self.lend(number)
        self.send(Commit(1, tuple((number, 0) for number in numbers), 50, 2000))
        assert await self.hear() == Committed(1)

    async def ended(self) -> None:
        assert self.running is not None
        await asyncio.wait_for(self.running, 20)


Test = Callable[[Case], Awaitable[None]]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Test], None]]:
    """Runs a worker while a test talks to it; in the end it has ended, and every descriptor is closed."""

    monkeypatch.setattr(worker._core, "Image", FakeImage)

    uvloop.new_event_loop().close()  # the first one opens what stays

    def run(test: Test, estate: Estate | None = None) -> None:
        before = descriptors()
        loop = uvloop.new_event_loop()
        engine = FakeEngine()
        ours, theirs = open_pair()
        served = Worker(loop, engine, Channel(theirs, ToWorker), WorkerOptions(10, 20, 1, 7), estate)  # type: ignore[arg-type]
        case = Case(served, engine, Channel(ours, FromWorker))

        async def main() -> None:
            case.running = asyncio.create_task(served.serve())
            try:
                await asyncio.wait_for(test(case), 30)
            finally:
                if not case.running.done():
                    case.send(Stop())
                    await case.ended()

        try:
            loop.run_until_complete(main())
        finally:
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()
        case.supervisor.close()
        served._channel.close()
        engine.close()
        assert descriptors() == before

    yield run


def close_what_is_lent(case: Case) -> None:
    for descriptor, _ in case.engine.sockets:
        os.close(descriptor)


def test_it_says_hello_prepares_commits_and_pumps(serve: Callable[[Test], None]) -> None:
    async def test(case: Case) -> None:
        await case.begin(5)
        assert [listener for _, listener in case.engine.sockets] == [0]
        os.write(case.engine.writable, b"x")
        while not case.engine.pumped:
            await asyncio.sleep(0.001)
        assert case.engine.pumped == [7]
        close_what_is_lent(case)

    serve(test)


def test_the_engine_is_given_what_wakes_its_siblings(serve: Callable[[Test], None]) -> None:
    async def test(case: Case) -> None:
        assert await case.hear() == Hello(BUILD_ID)
        event_fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)]
        case.send(Siblings((3, 5)), *event_fds)
        while len(case.engine.siblings) != 2:
            await asyncio.sleep(0.001)
        assert case.engine.siblings == [3, 5]
        assert [os.eventfd_read(event_fd) for event_fd in event_fds] == [3, 5]
        for event_fd in event_fds:
            os.close(event_fd)

    serve(test)


def test_sockets_that_are_named_no_more_are_closed(serve: Callable[[Test], None]) -> None:
    async def test(case: Case) -> None:
        await case.begin(5, 6)
        first, second = (descriptor for descriptor, _ in case.engine.sockets)
        case.lend(7)
        case.send(Assign(((6, 0), (7, 1))))
        while len(case.engine.sockets) != 2 or case.engine.sockets[0][0] != second:
            await asyncio.sleep(0.001)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(first)
        case.send_image(2)
        assert await case.hear() == Prepared(2)
        case.send(Commit(2, ((7, 0),), 50, 2000))
        assert await case.hear() == Committed(2)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(second)
        close_what_is_lent(case)

    serve(test)


def test_an_image_that_cannot_be_used_is_refused(serve: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(case: Case) -> None:
        await case.begin()

        def refuse(fd: int) -> None:
            raise ValueError("the snapshot image is damaged")

        monkeypatch.setattr(worker._core, "Image", refuse)
        case.send_image(2)
        assert await case.hear() == Refused(2, "the snapshot image is damaged")
        assert case.engine.current == 1

    serve(test)


def test_pickers_are_loaded_before_the_engine_prepares(serve: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(case: Case) -> None:
        await case.begin()
        assert case.engine.pickers == {}
        monkeypatch.setattr(FakeImage, "named", [(3, "tests.support.pickers:LAST")])
        case.send_image(2)
        assert await case.hear() == Prepared(2)
        assert case.engine.pickers == {3: LAST.address}

    serve(test)


def test_a_picker_that_cannot_be_loaded_refuses_its_snapshot(serve: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(case: Case) -> None:
        await case.begin()
        monkeypatch.setattr(FakeImage, "named", [(0, "not_there_at_all:pick")])
        case.send_image(2)
        refused = await case.hear()
        assert refused == Refused(
            2, "the picker not_there_at_all:pick cannot be imported: ModuleNotFoundError: No module named 'not_there_at_all'"
        )
        assert case.engine.current == 1

    serve(test)


def test_without_a_thread_the_loop_maps_the_image_itself(serve: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_thread(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    async def test(case: Case) -> None:
        await case.begin()
        monkeypatch.setattr(asyncio, "to_thread", no_thread)
        case.send_image(2)
        assert await case.hear() == Prepared(2)

    serve(test)


def test_what_is_aborted_while_it_is_prepared_is_not_kept(serve: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(case: Case) -> None:
        await case.begin()
        go_on = asyncio.Event()

        async def slow(make: Callable[[int], Any], fd: int) -> Any:
            await go_on.wait()
            return make(fd)

        monkeypatch.setattr(asyncio, "to_thread", slow)
        case.engine.prepared = None
        case.send_image(2)
        case.send(Abort())
        case.send_image(3)
        while not case.worker._n_aborted:
            await asyncio.sleep(0.001)
        go_on.set()
        assert await case.hear() == Prepared(3)

    serve(test)


def test_a_commit_of_what_is_not_prepared_ends_the_worker(serve: Callable[[Test], None]) -> None:
    async def test(case: Case) -> None:
        await case.begin()
        case.send(Commit(2, (), 50, 2000))
        with pytest.raises(ValueError, match="generation 2 is to be committed and 1 is prepared"):
            await case.ended()

    serve(test)


def test_it_drains_and_ends_when_the_last_client_is_gone(serve: Callable[[Test], None]) -> None:
    async def test(case: Case) -> None:
        await case.begin(5)
        case.engine.clients = 1
        case.send(Drain())
        assert await case.hear() == Drained()
        assert case.engine.sockets == []
        assert case.running is not None
        assert not case.running.done()
        case.engine.clients = 0
        await case.ended()

    serve(test)


@pytest.mark.parametrize("clients", [0, 1])
def test_without_a_supervisor_it_drains_for_drain_timeout_at_most(
    serve: Callable[[Test], None], capfd: pytest.CaptureFixture[str], clients: int
) -> None:
    async def test(case: Case) -> None:
        await case.begin(5)
        case.engine.clients = clients
        case.supervisor.close()
        await case.ended()
        assert case.engine.sockets == []

    serve(test)
    assert "the supervisor is gone: draining" in capfd.readouterr().err


@pytest.fixture
def estate(tmp_path: Path) -> Iterator[Estate]:
    shared, event_fd = _core.SharedMemory.create(), os.eventfd(0)
    with open_door(tmp_path / "door") as door:
        yield Estate(2, shared, event_fd, door, os.geteuid())
    shared.close()
    os.close(event_fd)


def visit(case: Case, estate: Estate) -> None:
    """Goes to the door; the supervisor's end of the channel is the visitor's from now on."""
    visitor = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    visitor.connect(estate.door.getsockname())
    case.supervisor = Channel(visitor, FromOrphan)


async def orphaned(case: Case, capfd: pytest.CaptureFixture[str]) -> None:
    case.supervisor.close()
    err = ""
    while "the supervisor is gone: serving on" not in err:
        err += capfd.readouterr().err
        await asyncio.sleep(0.001)


def test_it_serves_on_without_a_supervisor_and_hands_over_what_it_has(
    serve: Callable[..., None], estate: Estate, capfd: pytest.CaptureFixture[str]
) -> None:
    async def test(case: Case) -> None:
        await case.begin(5, 6)
        case.engine.clients = 1
        await orphaned(case, capfd)
        assert len(case.engine.sockets) == 2
        os.write(case.engine.writable, b"x")
        while not case.engine.pumped:
            await asyncio.sleep(0.001)
        for _ in range(2):  # the first visitor leaves without a word
            visit(case, estate)
            assert await case.hear() == Outlived(BUILD_ID, 2, 2)
            assert await case.hear() == Lend((5, 6))
            if case.engine.siblings == []:
                case.supervisor.close()
                case.engine.siblings.append(0)
        event_fd = os.eventfd(0)
        case.send(Siblings((4,)), event_fd)
        case.send(Drain())
        assert await case.hear() == Drained()
        assert case.engine.siblings == [0, 4]
        assert case.engine.sockets == []
        os.close(event_fd)
        case.engine.clients = 0
        await case.ended()

    serve(test, estate)


def test_what_only_a_supervisor_may_say_is_not_heard_from_a_visitor(
    serve: Callable[..., None], estate: Estate, capfd: pytest.CaptureFixture[str]
) -> None:
    async def test(case: Case) -> None:
        await case.begin(5)
        await orphaned(case, capfd)
        visit(case, estate)
        assert isinstance(await case.hear(), Outlived)
        case.send(Assign(()))
        with pytest.raises(EOFError):
            while True:
                await case.hear()
        assert len(case.engine.sockets) == 1
        case.supervisor.close()
        visit(case, estate)  # whoever comes next is heard
        case.send(Stop())
        await case.ended()
        close_what_is_lent(case)

    serve(test, estate)


def test_draining_worker_answers_at_its_door_while_it_lasts(
    serve: Callable[..., None], estate: Estate, capfd: pytest.CaptureFixture[str]
) -> None:
    async def test(case: Case) -> None:
        await case.begin(5)
        case.engine.clients = 1
        case.send(Drain())
        assert await case.hear() == Drained()
        case.worker._drain_timeout_ms = 60_000
        case.supervisor.close()
        visit(case, estate)
        assert await case.hear() == Outlived(BUILD_ID, 2, 0)
        case.engine.clients = 0
        await case.ended()

    serve(test, estate)


def test_a_real_engine_takes_what_a_worker_gives_it() -> None:
    """The fake one above has the methods that the real one has."""
    for name in ("fileno", "pump", "generation", "prepare", "abort", "commit", "assign", "drain", "connections", "set_sibling", "close"):
        assert callable(getattr(_core.Engine, name))
