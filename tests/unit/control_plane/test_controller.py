"""The controller with the supervisor's end of its channel in the test's hands, over real shared memory."""

import asyncio
import json
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop

from fastlb import BUILD_ID, _core
from fastlb.control_plane import controller, names
from fastlb.control_plane.backend_states import AdminState
from fastlb.control_plane.config.loader import Loaded, load_text
from fastlb.control_plane.config.schema import Config
from fastlb.control_plane.controller import ApplyError, Controller, ControllerOptions, State, run_controller
from fastlb.control_plane.health.authorities import read_authorities
from fastlb.control_plane.names import Names
from fastlb.control_plane.reading import Reading, write_reading
from fastlb.control_plane.resolver import Answer, Endpoint, LookupFailure
from fastlb.control_plane.snapshot import build_image
from fastlb.processes.channel import Channel, open_pair
from fastlb.processes.messages import (
    AdminSocket,
    Applied,
    Apply,
    DrainAll,
    FromController,
    Hello,
    LeaveAdmin,
    ListenerBinds,
    Message,
    Ping,
    Pong,
    Processes,
    ProcessState,
    Rejected,
    Reloaded,
    Reread,
    Stop,
    ToController,
)
from tests.support.certificates import make_certificates
from tests.support.descriptors import descriptors


def config(*backends: str, head: str = "") -> Config:
    text = (
        f'[global]\nworkers = 2\n{head}\n[[listeners]]\nname = "web"\nbind = "127.0.0.1:0"\n[pools.p]\nbackends = {json.dumps(backends)}\n'
    )
    return load_text(text, "f").config


FIRST = config("127.0.0.1:1")


class Case:
    """A running controller, and what it wants from its supervisor."""

    def __init__(self, made: Controller, supervisor: Channel[Any], shared: _core.SharedMemory, control: Path) -> None:
        self.controller = made
        self.supervisor = supervisor
        self.shared = shared
        self.control = control
        self.running: asyncio.Task[None] | None = None
        self.state = -1  # of the last Apply, owned

    def send(self, message: Message) -> None:
        self.supervisor.send(message)

    async def hear(self) -> Message:
        """What the controller says next."""
        loop = asyncio.get_running_loop()
        while True:
            received = self.supervisor.receive()
            if received is not None:
                message, descriptors = received
                if isinstance(message, Apply):
                    image, state = descriptors
                    _core.Image(image)  # one that workers can use
                    os.close(image)
                    self.forget_state()
                    self.state = state
                else:
                    assert descriptors == []
                return message  # type: ignore[no-any-return]
            readable = asyncio.Event()
            loop.add_reader(self.supervisor.fileno(), readable.set)
            await readable.wait()
            loop.remove_reader(self.supervisor.fileno())

    async def begin(self) -> Apply:
        """The first snapshot is put in force."""
        assert await self.hear() == Hello(BUILD_ID)
        apply = await self.hear()
        assert isinstance(apply, Apply)
        self.send(Applied(apply.generation))
        return apply

    async def ask(self, method: str, path: str, **content: Any) -> tuple[int, dict[str, Any]]:
        """Status and answer of the admin API, which listens from the first time on."""
        if not self.control.exists():
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(str(self.control))
                listening.listen()
                self.supervisor.send(AdminSocket(), listening.fileno())
        reader, writer = await asyncio.open_unix_connection(str(self.control))
        body = json.dumps(content) if content else ""
        fields = f"Host: localhost\r\nContent-Length: {len(body)}\r\nConnection: close"
        writer.write(f"{method} {path} HTTP/1.1\r\n{fields}\r\n\r\n{body}".encode())
        head, _, raw = (await reader.read()).partition(b"\r\n\r\n")
        answer: dict[str, Any] = json.loads(raw)
        writer.close()
        await writer.wait_closed()
        return int(head.split()[1]), answer

    async def ended(self) -> None:
        assert self.running is not None
        await asyncio.wait_for(self.running, 20)

    def forget_state(self) -> None:
        if self.state >= 0:
            os.close(self.state)
            self.state = -1


Test = Callable[[Case], Awaitable[None]]
Serve = Callable[..., None]


def resolver_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "fastlb-names"]


class Resolver:
    """Names with answers that a test sets."""

    def __init__(self) -> None:
        self.answers: dict[str, list[str]] = {}

    async def resolve(self, name: str) -> Answer:
        if name not in self.answers:
            raise LookupFailure("there is no such name")
        return Answer(tuple(Endpoint(ip) for ip in self.answers[name]))


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    made = Resolver()
    monkeypatch.setattr(controller, "Names", lambda loop, on_change, report, _: Names(loop, on_change, report, made.resolve))
    monkeypatch.setattr(controller, "RETRY_SECONDS", 0.01)
    for wait in ("RETRY_SECONDS", "MIN_TTL_SECONDS", "MAX_TTL_SECONDS", "SETTLE_SECONDS"):
        monkeypatch.setattr(names, wait, 0.01)
    return made


@pytest.fixture
def serve(tmp_path: Path, resolver: Resolver) -> Iterator[Serve]:
    """Runs a controller while a test plays its supervisor; in the end it has ended, and left nothing."""
    uvloop.new_event_loop().close()  # the first one opens what stays

    def run(
        test: Test,
        first: Config = FIRST,
        left: State | None = None,
        prepare: Callable[[_core.SharedMemory], None] = lambda shared: None,
        **options: Any,
    ) -> None:
        before = descriptors()
        loop = uvloop.new_event_loop()
        ours, theirs = open_pair()
        channel: Channel[ToController] = Channel(theirs, ToController)
        control = tmp_path / "control"
        with_shared = _core.SharedMemory.create()
        prepare(with_shared)

        async def main() -> None:
            made = Controller(loop, channel, with_shared, ControllerOptions(first, **options))
            case = Case(made, Channel(ours, FromController), with_shared, control)
            case.running = asyncio.create_task(made.run(left))
            try:
                await asyncio.wait_for(test(case), 30)
            finally:
                if not case.running.done():
                    case.send(Stop())
                await case.ended()
                case.forget_state()

        try:
            loop.run_until_complete(main())
        finally:
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()
            ours.close()
            channel.close()
            with_shared.close()
        control.unlink(missing_ok=True)  # the supervisor's
        for thread in resolver_threads():
            thread.join(10)
        assert resolver_threads() == []
        assert descriptors() == before

    yield run


def test_the_first_configuration_is_offered_and_put_in_force(serve: Serve) -> None:
    async def test(case: Case) -> None:
        apply = await case.begin()
        assert apply == Apply(
            1,
            2,
            (ListenerBinds("web", (("127.0.0.1", 0, ""),), FIRST.listeners[0].backlog, True),),
            (),
            30_000,
            FIRST.settings.drain_idle_grace_ms,
        )
        while (await case.ask("GET", "/v1/counters"))[1]["generation"] != 1:
            pass
        assert [row["identity"] for row in case.shared.backends()] == ["p|127.0.0.1:1"]

    serve(test, FIRST)


def test_a_first_configuration_that_is_rejected_ends_it(serve: Serve) -> None:
    async def test(case: Case) -> None:
        assert await case.hear() == Hello(BUILD_ID)
        await case.hear()
        case.send(Rejected(1, "cannot bind"))
        await case.ended()

    serve(test)


def test_a_rejection_changes_nothing_and_its_number_is_not_used_again(serve: Serve) -> None:
    async def test(case: Case) -> None:
        await case.begin()
        applying = asyncio.create_task(case.controller.apply(config("127.0.0.1:2")))
        offered = await case.hear()
        assert isinstance(offered, Apply)
        assert offered.generation == 2
        case.send(Rejected(2, "worker 1: no memory"))
        with pytest.raises(ApplyError, match="worker 1: no memory"):
            await applying
        assert (await case.ask("GET", "/v1/counters"))[1]["generation"] == 1
        applying = asyncio.create_task(case.controller.apply(config("127.0.0.1:3")))
        offered = await case.hear()
        assert isinstance(offered, Apply)
        case.send(Applied(offered.generation))
        assert await applying == offered.generation == 3

    serve(test)


def test_an_answer_to_another_offer_is_no_answer(serve: Serve) -> None:
    async def test(case: Case) -> None:
        await case.begin()
        applying = asyncio.create_task(case.controller.apply(config("127.0.0.1:2")))
        await case.hear()
        case.send(Rejected(1, "late"))
        case.send(Ping())
        assert await case.hear() == Pong()
        assert not applying.done()
        case.send(Applied(2))
        assert await applying == 2
        case.send(Applied(2))  # once more: nobody waits for it
        case.send(Ping())
        assert await case.hear() == Pong()

    serve(test)


def test_offers_wait_for_each_other(serve: Serve) -> None:
    async def test(case: Case) -> None:
        await case.begin()
        both = [asyncio.create_task(case.controller.apply(config(f"127.0.0.1:{port}"))) for port in (2, 3)]
        for generation in (2, 3):
            offered = await case.hear()
            assert isinstance(offered, Apply)
            assert offered.generation == generation
            assert case.supervisor.receive() is None
            case.send(Applied(generation))
        assert [await one for one in both] == [2, 3]

    serve(test)


def test_a_key_of_sticky_cookies_that_cannot_be_had_changes_nothing(serve: Serve, tmp_path: Path) -> None:
    def sticky(file: Path) -> Config:
        changed = config("127.0.0.1:2", head=f'sticky_key_file = "{file}"')
        return replace(changed, pools=(replace(changed.pools[0], sticky=replace(changed.pools[0].sticky, cookie="ID")),))

    (tmp_path / "key").write_text("0123456789abcdef")
    (tmp_path / "key").chmod(0o600)

    async def test(case: Case) -> None:
        await case.begin()
        with pytest.raises(ApplyError, match="cannot read sticky_key_file"):
            await case.controller.apply(sticky(tmp_path / "none"))
        assert (await case.ask("GET", "/v1/counters"))[1]["generation"] == 1
        for generation in (2, 3):
            applying = asyncio.create_task(case.controller.apply(sticky(tmp_path / "key")))
            assert isinstance(await case.hear(), Apply)
            case.send(Applied(generation))
            assert await applying == generation
            (tmp_path / "key").unlink(missing_ok=True)  # it is known from now on

    serve(test)


def test_rows_of_backends_that_are_gone_are_given_back_once_the_change_is_made(serve: Serve) -> None:
    async def test(case: Case) -> None:
        def rows() -> list[Any]:
            return sorted(str(row["identity"]) for row in case.shared.backends())

        await case.begin()
        applying = asyncio.create_task(case.controller.apply(config("127.0.0.1:2")))
        await case.hear()
        assert rows() == ["p|127.0.0.1:1", "p|127.0.0.1:2"]  # both may be in use
        case.send(Applied(2))
        await applying
        assert rows() == ["p|127.0.0.1:2"]

    serve(test)


def test_a_name_with_new_addresses_makes_a_new_generation(serve: Serve, resolver: Resolver) -> None:
    async def resolved(case: Case) -> list[bool]:
        _, answer = await case.ask("GET", "/v1/backends")
        return [row["resolved"] for row in answer["backends"] if row["listed"]]

    async def test(case: Case) -> None:
        await case.begin()
        assert await resolved(case) == [False]
        resolver.answers["app.example"] = ["10.0.0.1"]
        offered = await case.hear()
        assert isinstance(offered, Apply)
        case.send(Applied(offered.generation))
        assert offered.generation == 2
        assert "p|app.example:80|10.0.0.1" in [row["identity"] for row in case.shared.backends()]
        assert await resolved(case) == [True]

    serve(test, config("app.example:80"))


def test_what_a_name_stands_for_is_offered_again_where_it_could_not_be_used(serve: Serve, resolver: Resolver) -> None:
    async def test(case: Case) -> None:
        await case.begin()
        resolver.answers["app.example"] = ["10.0.0.1"]
        for generation in (2, 3):
            offered = await case.hear()
            assert isinstance(offered, Apply)
            assert offered.generation == generation
            case.send(Rejected(generation, "no memory") if generation == 2 else Applied(generation))
        assert "p|app.example:80|10.0.0.1" in [row["identity"] for row in case.shared.backends()]

    serve(test, config("app.example:80"))


def test_what_names_stood_for_when_another_fastlb_ran_is_used_while_nobody_answers(serve: Serve, resolver: Resolver) -> None:
    told = {
        "app.example": [("10.0.0.1", 0, 0, 0), ("2001:db8::1", 0, 0, 0)],
        "b.example": [("10.0.0.1", 0, 0, 0), ("no address", 0, 0, 0)],
        "c.example": [("10.0.0.1", 65536, 0, 0)],
        "d.example": [("10.0.0.9", 0, 0, 0)],
    }
    resolver.answers["d.example"] = ["10.0.0.4"]

    async def test(case: Case) -> None:
        assert await case.hear() == Hello(BUILD_ID)
        offered = await case.hear()
        assert isinstance(offered, Apply)
        assert offered.endpoints == {
            "app.example": (("10.0.0.1", 0, 0, 0), ("2001:db8::1", 0, 0, 0)),
            "d.example": (("10.0.0.4", 0, 0, 0),),
        }
        found = {str(row["identity"]) for row in case.shared.backends()}
        assert {"p|app.example:80|10.0.0.1", "p|app.example:80|2001:db8::1", "p|b.example:80", "p|c.example:80"} <= found
        case.send(Applied(1))

    serve(test, config("app.example:80", "b.example:80", "c.example:80", "d.example:80"), endpoints=told)


def test_what_a_controller_leaves_is_taken_up_without_another_offer(serve: Serve, resolver: Resolver) -> None:
    resolver.answers["app.example"] = ["10.0.0.1"]
    left: list[State] = []

    async def leave(case: Case) -> None:
        await case.begin()
        state = controller._read_state(os.dup(case.state))
        assert state is not None
        left.append(state)

    serve(leave, config("app.example:80"))
    (state,) = left
    assert (state.config, state.generation) == (config("app.example:80"), 1)

    async def take_up(case: Case) -> None:
        assert await case.hear() == Hello(BUILD_ID)
        assert (await case.ask("GET", "/v1/counters"))[1]["generation"] == 1
        assert case.controller.endpoints == {"app.example": (Endpoint("10.0.0.1"),)}, "it knows what the last one knew"
        resolver.answers["app.example"] = ["10.0.0.2"]
        offered = await case.hear()
        assert isinstance(offered, Apply)
        case.send(Applied(offered.generation))
        assert offered.generation == 2

    serve(take_up, FIRST, state)

    async def take_up_without_names(case: Case) -> None:
        assert await case.hear() == Hello(BUILD_ID)
        case.send(Ping())
        assert await case.hear() == Pong()

    serve(take_up_without_names, config("127.0.0.1:9"), State(FIRST, 5))


def test_requests_to_the_admin_api_are_answered(serve: Serve) -> None:
    async def test(case: Case) -> None:
        await case.begin()
        case.send(Processes((ProcessState("worker", 0, 12, "ready", 1), ProcessState("controller", -1, 13, "ready", 0))))
        case.send(Ping())
        assert await case.hear() == Pong()
        status, shown = await case.ask("GET", "/v1/processes")
        assert status == 200
        assert shown["processes"] == [
            {"role": "worker", "slot": 0, "pid": 12, "state": "ready", "restarts": 1, "generation": 0, "connections": 0},
            {"role": "controller", "slot": -1, "pid": 13, "state": "ready", "restarts": 0},
        ]
        status, shown = await case.ask("GET", "/v1/counters")
        assert status == 200
        assert shown["connections"] == shown["counters"]["clients"] == 0
        _, shown = await case.ask("GET", "/v1/backends")
        assert [row["identity"] for row in shown["backends"]] == ["p|127.0.0.1:1"]
        assert await case.ask("GET", "/v1/queues") == (200, {"queues": []})
        assert await case.ask("GET", "/v1/verify") == (200, {"rows": []})
        assert await case.ask("POST", "/v1/apply") == (400, {"errors": ['"config" is missing: the path of a file']})
        assert await case.ask("POST", "/v1/apply", config=3) == (400, {"errors": ['"config" has to be a text']})
        assert await case.ask("POST", "/v1/drain") == (202, {})
        assert await case.hear() == DrainAll()

    serve(test)


def test_a_file_is_applied_with_what_the_command_line_said(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "f.toml"
    path.write_text('[[listeners]]\nname = "web"\nbind = "127.0.0.1:0"\n[pools.q]\nbackends = "127.0.0.1:2"\n')
    seen: list[Loaded] = []

    def override(loaded: Loaded) -> Loaded:
        seen.append(loaded)
        return Loaded(FIRST, ())

    async def test(case: Case) -> None:
        await case.begin()
        asking = asyncio.create_task(case.ask("POST", "/v1/apply", config=str(path)))
        offered = await case.hear()
        assert isinstance(offered, Apply)
        assert offered.n_workers == 2  # as the override has it
        case.send(Applied(2))
        assert await asking == (200, {"generation": 2})
        asking = asyncio.create_task(case.ask("POST", "/v1/apply", config=str(path)))
        await case.hear()
        case.send(Rejected(3, "one\ntwo"))
        assert await asking == (422, {"errors": ["one", "two"]})
        path.write_text("nonsense")
        status, answer = await case.ask("POST", "/v1/apply", config=str(path))
        assert status == 422
        assert answer["errors"][0].startswith(f"{path}:1:")

    serve(test, override=override)
    assert [loaded.config.pools[0].name for loaded in seen] == ["q", "q"]


def test_a_supervisor_that_is_gone_ends_it_and_what_waits_for_an_answer_fails(serve: Serve) -> None:
    async def test(case: Case) -> None:
        await case.begin()
        applying = asyncio.create_task(case.controller.apply(config("127.0.0.1:2")))
        await case.hear()
        case.supervisor.close()
        with pytest.raises(ApplyError, match="fastlb is ending"):
            await applying
        await case.ended()

    serve(test)


def test_a_message_that_is_none_ends_it_and_the_supervisor_starts_another(serve: Serve, capfd: pytest.CaptureFixture[str]) -> None:
    async def test(case: Case) -> None:
        await case.begin()
        applying = asyncio.create_task(case.controller.apply(config("127.0.0.1:2")))
        await case.hear()
        case.supervisor._end.send(b"inonsense")
        with pytest.raises(ApplyError, match="the controller is ending"):
            await applying
        await case.ended()

    serve(test)
    assert f"fastlb: controller {os.getpid()}: not a message: " in capfd.readouterr().err


def test_a_mistake_after_a_reload_leaves_what_is_in_force(serve: Serve) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    async def test(case: Case) -> None:
        await case.begin()
        while case.controller.generation != 1:
            await asyncio.sleep(0)
        wanted = config("127.0.0.1:2")
        descriptor = write_reading(Reading(wanted))
        case.controller.health.follow = fail  # type: ignore[method-assign]
        case.supervisor.send(Reread(1, 0, ""), descriptor)
        os.close(descriptor)
        assert isinstance(await case.hear(), Apply)
        case.send(Applied(2))
        assert await case.hear() == Reloaded(1, applied=False)
        assert (case.controller.config, case.controller.generation) == (wanted, 2)

    serve(test)


def test_it_stops_when_it_is_told_to_though_the_first_offer_is_not_answered(serve: Serve) -> None:
    async def test(case: Case) -> None:
        assert await case.hear() == Hello(BUILD_ID)
        await case.hear()
        case.send(Stop())
        await case.ended()

    serve(test)


def test_sigterm_ends_the_process_whatever_was_inherited(tmp_path: Path) -> None:
    """In a process of its own, as the zygote starts it."""
    ours, theirs = open_pair()
    shared = _core.SharedMemory.create()
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            run_controller(Channel(theirs, ToController), shared, None, ControllerOptions(FIRST))
        finally:
            os._exit(9)
    theirs.close()
    supervisor: Channel[Any] = Channel(ours, FromController)
    try:
        assert supervisor.receive(wait=True) == (Hello(BUILD_ID), [])
        os.kill(pid, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
    finally:
        while True:
            try:
                received = supervisor.receive(wait=True)
            except EOFError:
                break
            assert received is not None
            for descriptor in received[1]:
                os.close(descriptor)
        supervisor.close()
        shared.close()


def probed(*backends: str, health: str = '{ type = "tcp", interval = "100ms", fast_interval = "100ms" }') -> Config:
    made = config(*backends)
    pool = load_text(f'[[listeners]]\nname = "w"\nbind = ":0"\n[pools.p]\nbackends = "127.0.0.1:1"\nhealth = {health}\n', "f").config.pools[
        0
    ]
    return replace(made, pools=(replace(made.pools[0], health=pool.health),))


def test_what_is_probed_follows_what_is_in_force(serve: Serve) -> None:
    async def known(case: Case) -> dict[str, str]:
        _, answer = await case.ask("GET", "/v1/health")
        return {one["backend"]: one["verdict"] for one in answer["backends"]}

    async def test(case: Case) -> None:
        await case.begin()
        while await known(case) != {"127.0.0.1:1": "down"}:  # nobody listens there
            pass
        assert not case.controller.states.get("p|127.0.0.1:1").up
        applying = asyncio.create_task(case.controller.apply(probed("127.0.0.1:1", "127.0.0.1:2")))
        await case.hear()
        assert await known(case) == {"127.0.0.1:1": "down"}  # not in force yet
        case.send(Applied(2))
        await applying
        assert set(await known(case)) == {"127.0.0.1:1", "127.0.0.1:2"}

    serve(test, probed("127.0.0.1:1"))


def test_certificates_that_are_none_change_nothing(serve: Serve, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("none")
    wanted = read_authorities(probed("127.0.0.1:1", health=f'{{ type = "tcp", tls = true, tls_ca_file = "{file}" }}'))

    async def test(case: Case) -> None:
        await case.begin()
        with pytest.raises(ApplyError, match=r'pool "p": cannot read the certificates in .*/ca\.pem: '):
            await case.controller.apply(wanted)
        case.send(Ping())
        assert await case.hear() == Pong()  # nothing was offered

    serve(test)


def test_what_is_in_force_needs_its_files_no_more(serve: Serve, tmp_path: Path) -> None:
    make_certificates(tmp_path, "a.example")
    file = tmp_path / "authority.pem"
    wanted = read_authorities(probed("127.0.0.1:1", health=f'{{ type = "tcp", tls = true, tls_ca_file = "{file}" }}'))

    async def test(case: Case) -> None:
        await case.begin()
        applying = asyncio.create_task(case.controller.apply(wanted))
        await case.hear()
        case.send(Applied(2))
        await applying
        file.unlink()
        changing = asyncio.create_task(case.controller.set_weight("p|127.0.0.1:1", 3))
        assert isinstance(await case.hear(), Apply)
        case.send(Applied(3))
        assert await changing == 3
        assert [one["backend"] for one in case.controller.health.describe()["backends"]] == ["127.0.0.1:1"]

    serve(test)


def test_the_next_controller_probes_on_from_what_it_finds(serve: Serve, capfd: pytest.CaptureFixture[str]) -> None:
    wanted = probed("127.0.0.1:1")
    image = build_image(wanted, {}, 1)

    async def test(case: Case) -> None:
        assert await case.hear() == Hello(BUILD_ID)
        while not (found := case.controller.health.describe()["backends"]) or found[0]["in_a_row"] < 4:
            await asyncio.sleep(0.01)
        assert found[0]["verdict"] == "down"
        assert "down" not in capfd.readouterr().err  # which is no news

    def prepare(shared: _core.SharedMemory) -> None:
        shared.add_rows(image)
        shared.set_state("p|127.0.0.1:1", _core.ROW_STATES["down"])

    serve(test, left=State(wanted, 1, None), prepare=prepare)
    os.close(image)


@pytest.mark.parametrize("shares_memory", [True, False])
def test_what_the_fastlb_before_this_one_began_to_drain_has_a_clock_again(serve: Serve, shares_memory: bool) -> None:
    name, draining = "p|127.0.0.1:1", _core.ROW_STATES["drain"]

    def prepare(shared: _core.SharedMemory) -> None:
        image = build_image(FIRST, {}, 1)
        shared.add_rows(image)
        shared.set_state(name, draining)
        os.close(image)

    async def test(case: Case) -> None:
        await case.begin()
        while (drain := case.controller.drains.get(name)) is None:
            await asyncio.sleep(0)
        assert drain.timeout_ms == FIRST.settings.drain_timeout_ms

    if shares_memory:
        serve(test, prepare=prepare)
    else:
        serve(test, states={name: draining})


def test_while_a_new_fastlb_works_on_the_same_memory_nothing_is_said_of_backends(serve: Serve) -> None:
    wanted = probed("127.0.0.1:1", health='{ type = "tcp", interval = "1h", fast_interval = "1h" }')
    name = "p|127.0.0.1:1"

    def says(case: Case) -> tuple[bool, bool]:
        return bool(case.controller.health.describe()["backends"]), case.controller.drains.get(name) is not None

    async def handled(case: Case) -> None:
        case.send(Ping())
        assert await case.hear() == Pong()

    async def test(case: Case) -> None:
        await case.begin()
        await handled(case)
        case.controller.set_admin(name, AdminState.DRAIN)
        assert says(case) == (True, True)
        case.send(LeaveAdmin(shares_memory=False))
        await handled(case)
        assert says(case) == (True, True)
        case.send(LeaveAdmin(shares_memory=True))
        await handled(case)
        assert says(case) == (False, False)
        changing = asyncio.create_task(case.controller.set_weight(name, 3))  # it was on its way
        assert isinstance(await case.hear(), Apply)
        case.send(Applied(2))
        await changing
        assert says(case) == (False, False)
        case.controller.states.set_health(name, False)  # by the new one, which is gone now
        case.send(AdminSocket())
        await handled(case)
        assert says(case) == (True, True)
        (found,) = case.controller.health.describe()["backends"]
        assert found["verdict"] == "down"

    serve(test, wanted)
