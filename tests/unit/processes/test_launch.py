"""From a configuration to what the supervisor is told, and what is said and left behind on the way."""

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fastlb import FastlbError
from fastlb.control_plane.config.errors import Place, Problem
from fastlb.control_plane.config.loader import Loaded, load_text
from fastlb.processes import launch as module
from fastlb.processes.descriptors import ConnectionLimits
from fastlb.processes.launch import LaunchOptions, launch
from fastlb.processes.pid_file import PidFileError
from fastlb.processes.privileges import Identity, PrivilegeError
from fastlb.processes.supervisor_options import SupervisorOptions

NOBODY = Identity(65534, 65534, (65534,), "nobody")


class World:
    """What the system says when it is asked, and what the supervisor was told."""

    def __init__(self) -> None:
        self.identity: Identity | None = None
        self.identity_warnings: list[str] = []
        self.limits = ConnectionLimits(1024, 400, 800, "room for everybody")
        self.wanted: list[tuple[object, ...]] = []
        self.told: list[SupervisorOptions] = []
        self.run: Callable[[SupervisorOptions], None] = lambda _: None

    def choose_identity(self, user: str, group: str) -> tuple[Identity | None, list[str]]:
        self.wanted.append((user, group))
        return self.identity, self.identity_warnings

    def set_limits(self, max_connections: int, max_descriptors: int, workers: int) -> ConnectionLimits:
        self.wanted.append((max_connections, max_descriptors, workers))
        return self.limits

    def run_supervisor(self, options: SupervisorOptions) -> None:
        self.told.append(options)
        self.run(options)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "runtime"))
    made = World()
    for name in ("choose_identity", "set_limits", "run_supervisor"):
        monkeypatch.setattr(module, name, getattr(made, name))
    monkeypatch.setattr(module, "inherited_sockets", lambda: ([], ["LISTEN_FDS is odd"]))
    return made


def load(head: str = "") -> Loaded:
    text = f'[global]\n{head}\n[[listeners]]\nname = "web"\nbind = "127.0.0.1:0"\n[pools.p]\nbackends = "127.0.0.1:1"\n'
    return load_text(text, "f")


def test_the_supervisor_is_told_what_the_configuration_and_the_command_line_say(world: World) -> None:
    world.identity = NOBODY
    loaded = load('workers = 3\nuser = "somebody"\ngroup = "people"\nmax_connections = 500\nmax_descriptors = 1000')

    def greet(_: list[str]) -> str:
        return "hello"

    def override(loaded: Loaded) -> Loaded:
        return loaded

    launch(loaded, LaunchOptions("/counters", 7, greet, frozenset((12,)), override))
    assert world.wanted == [("somebody", "people"), (500, 1000, 3)]
    (told,) = world.told
    assert (told.controller.config, told.controller.override) == (loaded.config, override)
    assert (told.identity, told.n_workers, told.max_connections, told.max_descriptors) == (NOBODY, 3, 400, 1024)
    assert (told.pump_budget, told.counters_path, told.greet, told.spared, told.inherited) == (7, "/counters", greet, frozenset((12,)), ())


def test_without_a_number_there_is_one_worker_for_each_processor(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastlb.control_plane.controller.usable_cpus", lambda: 5)
    launch(load(), LaunchOptions())
    assert world.told[0].n_workers == 5
    assert world.wanted[1] == (0, 0, 5)


def test_what_the_command_line_overrides_holds_from_the_start(world: World) -> None:
    def override(loaded: Loaded) -> Loaded:
        settings = replace(loaded.config.settings, workers=9)
        return replace(loaded, config=replace(loaded.config, settings=settings))

    launch(load("workers = 2"), LaunchOptions(override=override))
    assert world.told[0].n_workers == world.told[0].controller.config.settings.workers == 9


def test_every_warning_is_said_before_anything_runs(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.identity_warnings = ["the group is strange"]
    world.limits = replace(world.limits, warnings=("few descriptors",))
    problem = Problem(Place(3, 1, "f"), "this is odd", "that would be right")
    said: list[str] = []
    world.run = lambda _: said.extend(capsys.readouterr().err.splitlines())
    launch(replace(load(), warnings=(problem,)), LaunchOptions())
    assert said == [f"fastlb: warning: {text}" for text in (problem, "the group is strange", "few descriptors", "LISTEN_FDS is odd")]


@pytest.mark.parametrize(
    ("workers", "identity", "sentence"),
    [(1, None, "fastlb: 1 worker, room for everybody\n"), (2, NOBODY, "fastlb: 2 workers as nobody, room for everybody\n")],
)
def test_one_line_says_what_is_started(
    world: World, capsys: pytest.CaptureFixture[str], workers: int, identity: Identity | None, sentence: str
) -> None:
    world.identity = identity
    launch(load(f"workers = {workers}"), LaunchOptions())
    assert capsys.readouterr().out == sentence


def test_the_pid_file_is_there_while_it_runs_and_gone_afterwards(world: World, tmp_path: Path) -> None:
    path = tmp_path / "fastlb.pid"
    seen: list[str] = []
    world.run = lambda _: seen.append(path.read_text())
    launch(load(f'pid_file = "{path}"'), LaunchOptions())
    assert seen == [f"{os.getpid()}\n"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failure", [FastlbError("cannot bind"), KeyError("mistake"), KeyboardInterrupt()])
def test_the_pid_file_goes_when_it_could_not_start_and_the_failure_is_told(world: World, tmp_path: Path, failure: BaseException) -> None:
    def fail(_: SupervisorOptions) -> None:
        raise failure

    world.run = fail
    with pytest.raises(type(failure)) as told:
        launch(load(f'pid_file = "{tmp_path / "fastlb.pid"}"'), LaunchOptions())
    assert told.value is failure
    assert list(tmp_path.iterdir()) == []


def test_a_pid_file_that_cannot_be_written_ends_the_start_before_anything_runs(world: World, tmp_path: Path) -> None:
    with pytest.raises(PidFileError):
        launch(load(f'pid_file = "{tmp_path / "missing" / "fastlb.pid"}"'), LaunchOptions())
    assert world.told == []


def test_an_account_that_does_not_exist_ends_the_start_and_leaves_no_pid_file(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: str) -> None:
        raise PrivilegeError("there is no user")

    monkeypatch.setattr(module, "choose_identity", refuse)
    with pytest.raises(PrivilegeError):
        launch(load(f'pid_file = "{tmp_path / "fastlb.pid"}"'), LaunchOptions())
    assert world.told == []
    assert list(tmp_path.iterdir()) == []


def test_the_key_of_sticky_cookies_is_read_before_anything_gives_up_its_rights(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "key"
    file.write_text("0123456789abcdef")
    file.chmod(0o644)
    head = f'sticky_key_file = "{file}"\n[pools.q]\nbackends = "127.0.0.1:2"\nsticky = {{ cookie = "ID" }}\n'
    head += '[[routes]]\npath = "/q"\npool = "q"\n[[routes]]\npath = "/p"\npool = "p"\n'
    loaded = load(head)
    launch(loaded, LaunchOptions())
    (told,) = world.told
    assert told.controller.sticky_key is not None
    assert told.controller.sticky_key.is_for(loaded.config.settings)
    assert f"fastlb: warning: {file} can be read or written by others" in capsys.readouterr().err
    file.unlink()
    with pytest.raises(FastlbError, match="cannot read sticky_key_file"):
        launch(loaded, LaunchOptions())
    assert world.told == [told]


def test_without_a_sticky_cookie_no_key_is_made(world: World, tmp_path: Path) -> None:
    launch(load(f'state_dir = "{tmp_path}/state"'), LaunchOptions())
    assert world.told[0].controller.sticky_key is None
    assert not (tmp_path / "state").exists()


def test_the_admin_socket_is_there_for_as_long_as_the_supervisor_and_its_owners_alone(world: World, tmp_path: Path) -> None:
    path = tmp_path / "runtime" / "fastlb.sock"
    modes: list[int] = []
    world.run = lambda options: modes.append(path.stat().st_mode)
    launch(load(), LaunchOptions())
    assert [str(bound.address) for bound in world.told[0].admin] == [f"unix:{path}"]
    assert [stat.filemode(mode) for mode in modes] == ["srw-------"]
    assert not path.parent.exists()


def test_without_a_runtime_directory_it_serves_all_the_same_and_says_what_is_missing(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "not" / "there"))
    launch(load(), LaunchOptions())
    assert world.told[0].admin == ()
    said = capsys.readouterr().err
    assert f"cannot use the runtime directory {tmp_path}/not/there: no such file or directory" in said
    assert "`fastlb status` and the like will not find this one" in said


def test_an_admin_port_is_said_and_closed_in_the_end(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    launch(load('admin = "127.0.0.1:0"'), LaunchOptions())
    (bound,) = world.told[0].admin
    assert bound.sockets[0].socket.fileno() == -1
    assert "fastlb: admin API on http://127.0.0.1:" in capsys.readouterr().out


def test_a_named_admin_address_that_cannot_be_bound_is_the_end(world: World, tmp_path: Path) -> None:
    (tmp_path / "lb.pid").write_text("x")
    with pytest.raises(FastlbError, match=f"cannot open the admin API at unix:{tmp_path}/lb.pid: exists and is not a socket"):
        launch(load(f'admin = ["127.0.0.1:0", "unix:{tmp_path}/lb.pid"]'), LaunchOptions())
    assert world.told == []


def test_without_an_admin_api_nothing_is_opened(world: World, tmp_path: Path) -> None:
    launch(load('admin = "off"'), LaunchOptions())
    assert world.told[0].admin == ()
    assert not (tmp_path / "runtime").exists()
