"""The worker around an engine that only notes what it is told: start, apply, drain, control socket, cleaning up."""

import asyncio
import json
import os
import resource
import signal
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop

from fastlb.control_plane import snapshot
from fastlb.control_plane.config.loader import load_text
from fastlb.control_plane.config.schema import Config
from fastlb.control_plane.names import Names
from fastlb.processes import worker
from fastlb.processes.sockets import BindError
from fastlb.processes.worker import Worker, WorkerError, WorkerOptions, choose_max_connections


class FakeEngine:
    """Stands for _core.Engine. Refuses an image when told to; forgets its connections when told to."""

    def __init__(self) -> None:
        self.readable, self.writable = os.pipe()  # a descriptor to watch
        self.sockets: list[int] = []
        self.applied = 0
        self.refuses = False
        self.clients = 0
        self.drained: int | None = None
        self.closed = False
        self.budgets: list[int] = []

    def fileno(self) -> int:
        return self.readable

    def pump(self, budget: int = 0) -> int:
        os.read(self.readable, 100)
        self.budgets.append(budget)
        return 0

    def apply(self, image: int, sockets: Sequence[int]) -> list[int]:
        os.fstat(image)
        if self.refuses:
            raise ValueError("the image is damaged")
        released = [descriptor for descriptor in self.sockets if descriptor not in sockets]
        self.sockets = list(sockets)
        self.applied += 1
        return released

    def drain(self, idle_grace_ms: int) -> list[int]:
        self.drained = idle_grace_ms
        released, self.sockets = self.sockets, []
        return released

    def connections(self) -> int:
        return self.clients

    def generation(self) -> int:
        return self.applied

    def counters(self) -> dict[str, int]:
        return {"clients_opened": 5}

    def backends(self) -> list[dict[str, str | int]]:
        return [{"identity": "p|127.0.0.1:1"}]

    def close(self) -> None:
        self.closed = True
        os.close(self.readable)
        os.close(self.writable)


class Case:
    """A running worker, and what it printed."""

    def __init__(self, served: Worker, engine: FakeEngine, directory: Path, output: pytest.CaptureFixture[str]) -> None:
        self.worker = served
        self.engine = engine
        self.directory = directory
        self._output = output
        self.open: Any = None  # what a test wants to be open at the end
        self._seen = ""
        self._errors = ""

    def config(self, *binds: str, head: str = "", backend: str = "127.0.0.1:1") -> Config:
        bind = json.dumps(binds)
        return load_text(f'{head}\n[[listeners]]\nname = "web"\nbind = {bind}\n[pools.p]\nbackends = "{backend}"\n', "f").config

    def file(self, text: str) -> str:
        path = self.directory / "f.toml"
        path.write_text(text)
        return str(path)

    def printed(self) -> tuple[str, str]:
        """All of standard output and of standard error so far."""
        out, error = self._output.readouterr()
        self._seen += out
        self._errors += error
        return self._seen, self._errors

    async def ready(self) -> None:
        while "ready" not in self.printed()[0]:
            await asyncio.sleep(0.005)

    async def ask(self, **request: Any) -> dict[str, Any]:
        reader, writer = await asyncio.open_unix_connection(str(self.directory / "control"))
        writer.write(json.dumps(request).encode() + b"\n")
        answer: dict[str, Any] = json.loads(await reader.readline())
        writer.close()
        return answer


Test = Callable[[Case], Coroutine[Any, Any, None]]
Serve = Callable[..., Case]


@pytest.fixture
def serve(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Serves a configuration while a test runs, then stops, and looks whether anything is left."""
    monkeypatch.setattr(snapshot, "build_image", lambda *_: None)
    monkeypatch.setattr(worker, "build_image", lambda *_: os.memfd_create("image"))

    def run(test: Test, *binds: str, **options: Any) -> Case:
        loop = uvloop.new_event_loop()
        engine = FakeEngine()
        before = set(Path("/proc/self/fd").iterdir())
        wanted = WorkerOptions(str(tmp_path / "control"), str(tmp_path / "counters"))
        case = Case(Worker(loop, engine, wanted), engine, tmp_path, capsys)  # type: ignore[arg-type]

        async def main() -> None:
            serving = asyncio.create_task(case.worker.serve(case.config(*(binds or ("127.0.0.1:0",)), **options)))
            await asyncio.wait([asyncio.create_task(case.ready()), serving], return_when=asyncio.FIRST_COMPLETED)
            if not serving.done():
                try:
                    await test(case)
                finally:
                    if not serving.done():
                        os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait_for(serving, 10)

        try:
            loop.run_until_complete(main())
        finally:
            loop.close()
        case.printed()
        assert engine.closed
        assert not (tmp_path / "control").exists()
        assert json.loads((tmp_path / "counters").read_text()) == {"clients_opened": 5}
        left = set(Path("/proc/self/fd").iterdir()) - before
        assert len(left) <= 1, left  # the directory that is being listed
        return case

    return run


async def nothing(case: Case) -> None:
    pass


def test_it_says_where_it_listens_and_then_that_it_is_ready(serve: Serve, tmp_path: Path) -> None:
    lines = serve(nothing, "127.0.0.1:0", f"unix:{tmp_path}/s").printed()[0].splitlines()
    assert lines[0].startswith("fastlb: listening on http://127.0.0.1:")
    assert lines[0].endswith('(listener "web")')
    assert lines[1] == f'fastlb: listening on unix:{tmp_path}/s (listener "web")'
    assert lines[2] == f"fastlb: ready (pid {os.getpid()}, generation 1)"
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_at_once(serve: Serve, number: signal.Signals) -> None:
    async def test(case: Case) -> None:
        case.engine.clients = 3
        os.kill(os.getpid(), number)
        await asyncio.sleep(0.05)
        assert case.engine.closed

    assert serve(test).engine.drained is None


def test_the_engine_is_pumped_when_its_descriptor_is_readable_with_the_budget_that_was_set(serve: Serve) -> None:
    async def test(case: Case) -> None:
        for budget in (0, 3):
            if budget:
                assert await case.ask(do="pump_budget", events=budget) == {"ok": True}
            os.write(case.engine.writable, b"x")
            while budget not in case.engine.budgets:
                await asyncio.sleep(0.005)

    assert serve(test).engine.budgets == [0, 3]


def test_apply_keeps_what_stays_opens_what_is_new_and_closes_the_rest(serve: Serve, tmp_path: Path) -> None:
    async def test(case: Case) -> None:
        first = list(case.engine.sockets)
        assert await case.worker.apply(case.config("127.0.0.1:0", f"unix:{tmp_path}/b")) == 2
        assert case.engine.sockets[0] == first[0]
        assert len(case.engine.sockets) == 2
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(first[1])
        assert not (tmp_path / "a").exists()
        assert (tmp_path / "b").exists()

    lines = serve(test, "127.0.0.1:0", f"unix:{tmp_path}/a").printed()[0].splitlines()
    assert [line for line in lines if "unix:" in line] == [
        f'fastlb: listening on unix:{tmp_path}/{name} (listener "web")' for name in ("a", "b")
    ]
    assert sum("127.0.0.1" in line for line in lines) == 1


@pytest.mark.parametrize("failure", ["bind", "image"])
def test_an_apply_that_fails_changes_nothing(serve: Serve, tmp_path: Path, failure: str) -> None:
    async def test(case: Case) -> None:
        sockets = list(case.engine.sockets)
        case.engine.refuses = failure == "image"
        other = "192.0.2.1:0" if failure == "bind" else "127.0.0.1:0"
        with pytest.raises(BindError if failure == "bind" else WorkerError):
            await case.worker.apply(case.config(f"unix:{tmp_path}/new", other))
        assert case.engine.sockets == sockets
        for descriptor in sockets:
            os.fstat(descriptor)
        assert not (tmp_path / "new").exists()
        case.engine.refuses = False
        assert await case.worker.apply(case.config("127.0.0.1:0")) == 2
        assert case.engine.sockets == sockets

    serve(test)


def test_a_configuration_is_applied_through_the_control_socket(serve: Serve) -> None:
    async def test(case: Case) -> None:
        text = '[[listeners]]\nname = "web"\nbind = "127.0.0.1:0"\n[pools.p]\nbackends = "127.0.0.1:1"\n'
        assert await case.ask(do="apply", config=case.file(text)) == {"ok": True, "generation": 2}
        path = case.file("nonsense")
        assert await case.ask(do="apply", config=path) == {
            "ok": False,
            "errors": [f'{path}:1:9: found the end of the line; a key is followed by "=" and its value'],
        }
        answer = await case.ask(do="apply", config=case.file(text.replace("127.0.0.1:0", "192.0.2.1:80")))
        assert not answer["ok"]
        assert answer["errors"][0].startswith('cannot bind 192.0.2.1:80 (listener "web"): cannot assign requested address')
        assert case.engine.applied == 2

    serve(test)


def test_the_control_socket_answers_and_survives_nonsense(serve: Serve) -> None:
    async def test(case: Case) -> None:
        case.engine.clients = 3
        assert await case.ask(do="counters") == {"ok": True, "counters": {"clients_opened": 5}, "connections": 3, "generation": 1}
        assert await case.ask(do="backends") == {"ok": True, "backends": [{"identity": "p|127.0.0.1:1"}]}
        for request in ({}, {"do": "x"}, {"do": "apply"}, {"do": "pump_budget", "events": -1}):
            answer = await case.ask(**request)
            assert answer["ok"] is False
            assert '"do" is one of' in answer["errors"][0]
        reader, writer = await asyncio.open_unix_connection(str(case.directory / "control"))
        writer.write(b"junk\n[]\n" + json.dumps({"do": "counters"}).encode() + b"\n")
        assert [json.loads(await reader.readline())["ok"] for _ in range(3)] == [False, False, True]
        writer.write(b"x" * 200_000)
        assert await reader.read() == b""
        assert (case.directory / "control").stat().st_mode & 0o777 == 0o600

    serve(test)


def test_open_conversations_on_the_control_socket_end_quietly(serve: Serve) -> None:
    async def test(case: Case) -> None:
        case.open = await asyncio.open_unix_connection(str(case.directory / "control"))
        case.open[1].write(b'{"do": ')
        assert (await case.ask(do="counters"))["ok"]

    assert serve(test).printed()[1] == ""


def test_a_drain_closes_the_listeners_and_ends_with_the_last_client(serve: Serve, tmp_path: Path) -> None:
    async def test(case: Case) -> None:
        case.engine.clients = 1
        sockets = list(case.engine.sockets)
        os.kill(os.getpid(), signal.SIGQUIT)
        while case.engine.drained is None:
            await asyncio.sleep(0.005)
        for descriptor in sockets:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(descriptor)
        assert not (tmp_path / "s").exists()
        with pytest.raises(WorkerError, match="draining"):
            await case.worker.apply(case.config("127.0.0.1:0"))
        await asyncio.sleep(0.05)
        assert not case.engine.closed
        case.engine.clients = 0
        await asyncio.sleep(0.1)
        assert case.engine.closed

    case = serve(test, "127.0.0.1:0", f"unix:{tmp_path}/s", head='[global]\ndrain_idle_grace = "1s"')
    assert case.engine.drained == 1000
    assert "fastlb: draining, at most 30s; connections left: 1\nfastlb: drained\n" in case.printed()[1]


def test_a_drain_ends_when_drain_timeout_is_over(serve: Serve) -> None:
    async def test(case: Case) -> None:
        case.engine.clients = 2
        assert await case.ask(do="drain") == {"ok": True}
        await asyncio.sleep(0.3)
        assert case.engine.closed

    assert "drain_timeout is over; connections closed: 2" in serve(test, head='[global]\ndrain_timeout = "50ms"').printed()[1]


def test_a_second_signal_during_a_drain_stops_it(serve: Serve) -> None:
    async def test(case: Case) -> None:
        case.engine.clients = 2
        os.kill(os.getpid(), signal.SIGQUIT)
        while case.engine.drained is None:
            await asyncio.sleep(0.005)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.05)
        assert case.engine.closed

    serve(test)


def test_an_address_that_cannot_be_bound_ends_the_start_and_leaves_nothing(serve: Serve) -> None:
    with pytest.raises(BindError):
        serve(nothing, "192.0.2.1:80")


def test_a_name_that_resolves_later_is_applied(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, list[str]] = {}
    seen: list[dict[str, tuple[str, ...]]] = []

    def build(config: Config, binds: Sequence[int], addresses: dict[str, tuple[str, ...]], generation: int) -> int:
        seen.append(addresses)
        return os.memfd_create("image")

    def resolve(name: str) -> list[str]:
        if name not in answers:
            raise OSError(-2, "Name or service not known")
        return answers[name]

    monkeypatch.setattr(worker, "build_image", build)
    monkeypatch.setattr(worker, "Names", lambda *arguments: Names(*arguments, resolve))
    monkeypatch.setattr("fastlb.control_plane.names.RETRY_SECONDS", 0.01)

    async def test(case: Case) -> None:
        answers["app.example"] = ["10.0.0.1"]
        while case.engine.applied < 2:
            await asyncio.sleep(0.01)

    serve(test, backend="app.example:80")
    assert seen == [{}, {"app.example": ("10.0.0.1",)}]


@pytest.mark.parametrize(
    ("hard", "configured", "most"),
    [
        (1024, 0, 412),
        (1024, 100, 100),
        (1024, 500, 500),
        (1024, 1000, 824),
        (100, 0, 1),
        (1 << 30, 0, 1 << 20),
        (resource.RLIM_INFINITY, 0, 1 << 20),
        (resource.RLIM_INFINITY, 2000, 2000),
    ],
)
def test_as_many_connections_as_descriptors_allow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], hard: int, configured: int, most: int
) -> None:
    raised: list[tuple[int, int]] = []
    limits = SimpleNamespace(
        RLIMIT_NOFILE=resource.RLIMIT_NOFILE,
        RLIM_INFINITY=resource.RLIM_INFINITY,
        getrlimit=lambda _: (256, hard),
        setrlimit=lambda _, limit: raised.append(limit),
    )
    monkeypatch.setattr(worker, "resource", limits)
    assert choose_max_connections(configured) == most
    assert raised == [(hard, hard)]
    assert ("descriptor" in capsys.readouterr().err) is (configured > 412 and hard == 1024)
