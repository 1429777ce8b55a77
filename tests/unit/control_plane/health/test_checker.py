"""fastlb/control_plane/health/checker.py with a played clock and played probes, over real shared memory."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fastlb import _core
from fastlb.control_plane.backend_states import AdminState, BackendStates
from fastlb.control_plane.config.loader import load_text
from fastlb.control_plane.config.schema import Config
from fastlb.control_plane.health import checker as module
from fastlb.control_plane.health.authorities import read_authorities
from fastlb.control_plane.health.checker import Checker, HealthError, Wish, read_address
from fastlb.control_plane.health.result import Outcome, Result
from fastlb.control_plane.resolver import Endpoint
from fastlb.control_plane.snapshot import build_image
from tests.support.certificates import make_certificates
from tests.support.played_loop import PlayedLoop

PASSED, FAILED, UNKNOWN = Outcome.PASSED, Outcome.FAILED, Outcome.UNKNOWN
REFUSED = Result(FAILED, "connection refused")
FINE = Result(PASSED, "connected")
Addresses = Mapping[str, Sequence[str]]  # of names


def config(*backends: str, health: str = '"tcp"', more: str = "", above: str = "") -> Config:
    text = f'{above}[[listeners]]\nname = "web"\nbind = "127.0.0.1:0"\n[[routes]]\npool = "api"\n'
    return load_text(f"{text}[pools.api]\nbackends = {json.dumps(backends)}\nhealth = {health}\n{more}", "f").config


ONE = config("10.0.0.1:80")
TWO = config("10.0.0.1:80", "10.0.0.2:80")
A, B = "api|10.0.0.1:80", "api|10.0.0.2:80"


class PlayedProbe:
    """Gives what its world says of its backend, after its latency; None: never."""

    def __init__(self, world: "World", identity: str, done: Any) -> None:
        self.world, self.identity, self.done = world, identity, done

    def start(self) -> None:
        self.world.starts.append((self.world.loop.now, self.identity))
        self.world.running.add(self)
        self.world.loop.call_later(self.world.latency, self.answer)

    def answer(self) -> None:
        result = self.world.results.get(self.identity, FINE)
        if self in self.world.running and result is not None:
            self.world.running.discard(self)
            self.done(result)

    def cancel(self) -> None:
        self.world.running.discard(self)


class World:
    """A node's shared memory, its prober, and backends that are as the test wants."""

    def __init__(self, shared: _core.SharedMemory, loop: PlayedLoop) -> None:
        self.loop = loop
        self.shared = shared
        self.lines: list[str] = []
        self.starts: list[tuple[float, str]] = []
        self.results: dict[str, Result | None] = {}
        self.wishes: dict[str, Wish] = {}  # of the last probe
        self.latency = 0.01
        self.running: set[PlayedProbe] = set()
        self.states = BackendStates(shared)
        untyped: Any = loop
        self.checker = Checker(untyped, self.states, self.lines.append, loop.time)
        self.generation = 0

    def follow(self, wanted: Config, addresses: Addresses | None = None) -> None:
        """What the controller does with a configuration that is put in force."""
        self.checker.prepare(wanted)
        self.generation += 1
        endpoints = {name: tuple(Endpoint(ip) for ip in ips) for name, ips in (addresses or {}).items()}
        image = build_image(wanted, endpoints, self.generation)
        self.shared.add_rows(image)
        self.shared.sweep(image)
        os.close(image)
        self.checker.follow(wanted, endpoints)

    def play(self, seconds: float) -> list[str]:
        """Lets time pass; returns what was reported meanwhile."""
        self.lines.clear()
        self.loop.play(seconds)
        return list(self.lines)

    def is_up(self, identity: str) -> bool:
        return self.states.get(identity).up

    def row(self, identity: str) -> dict[str, Any]:
        return next(row for row in self.shared.backends() if row["identity"] == identity)

    def known(self, identity: str) -> dict[str, Any]:
        (found,) = (one for one in self.checker.describe()["backends"] if one["identity"] == identity)
        assert isinstance(found, dict)
        return found

    def times(self, identity: str) -> list[float]:
        return [at for at, whose in self.starts if whose == identity]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    shared = _core.SharedMemory.create()
    made = World(shared, PlayedLoop())

    def make_maker(loop: object, wish: Wish, wanted: object) -> Any:
        made.wishes[wish.row.identity] = wish
        return lambda done: PlayedProbe(made, wish.row.identity, done)

    monkeypatch.setattr(module, "make_maker", make_maker)
    yield made
    made.checker.close()
    assert not made.running
    shared.close()


# ---------------------------------------------------------------------------------------------------------- verdicts
def test_a_backend_that_fails_three_times_is_down_and_one_that_passes_twice_is_up_again(world: World) -> None:
    world.follow(TWO)
    assert world.play(20) == []
    world.results[A] = REFUSED
    assert world.play(20) == ['backend 10.0.0.1:80 of pool "api" is down: 3 of 3 checks failed, last: connection refused']
    assert (world.is_up(A), world.is_up(B)) == (False, True)
    world.results[A] = FINE
    assert world.play(20) == ['backend 10.0.0.1:80 of pool "api" is up again: 2 of 2 checks passed, last: connected']
    assert world.is_up(A)
    row = world.row(A)
    assert (row["ups"], row["downs"]) == (1, 1)
    assert row["changed_ms"] > 0
    assert row["up_since_ms"] > 0, "slow start begins"


def test_a_new_backend_counts_as_up_until_it_is_decided_about(world: World) -> None:
    world.results[A] = REFUSED
    world.follow(TWO)
    while len(world.times(A)) < 3:
        assert world.is_up(A)
        world.loop.play(0.005)
    world.loop.play(0.1)
    assert not world.is_up(A)
    assert world.known(A)["verdict"] == "down"
    assert world.known(B)["verdict"] in ("undecided", "up")


def test_the_operators_word_is_not_touched(world: World) -> None:
    world.follow(ONE)
    world.states.set_admin(A, AdminState.DRAIN)
    world.results[A] = REFUSED
    world.play(20)
    world.results[A] = FINE
    world.play(20)
    assert world.states.get(A).admin is AdminState.DRAIN
    assert world.row(A)["downs"] == 1


def test_what_somebody_else_has_written_since_is_put_right_by_the_next_result(world: World) -> None:
    world.follow(TWO)
    world.results[B] = REFUSED
    world.play(20)
    world.states.set_health(A, False)  # the prober of a fastlb that was about to end
    world.states.set_health(B, True)
    assert world.play(10) == []
    assert (world.is_up(A), world.is_up(B)) == (True, False)


def test_what_was_written_before_the_first_verdict_is_put_right_by_that(world: World) -> None:
    world.follow(ONE)
    world.states.set_health(A, False)
    assert world.play(20) == []
    assert (world.is_up(A), world.known(A)["verdict"]) == (True, "up")


def test_a_backend_whose_row_is_gone_is_probed_on(world: World) -> None:
    world.follow(TWO)
    world.results[B] = REFUSED
    image = build_image(ONE, {}, 2)
    world.shared.sweep(image)
    os.close(image)
    world.play(20)
    assert world.known(B)["verdict"] == "down"
    before = len(world.times(B))
    world.play(20)
    assert len(world.times(B)) > before + 2


def test_flapping_changes_nothing_but_is_looked_at_more_often(world: World) -> None:
    world.follow(ONE)
    world.play(20)
    n = len(world.starts)
    for turn in range(200):
        world.results[A] = REFUSED if turn % 3 else FINE  # two failures, one pass
        before = len(world.starts)
        while len(world.starts) == before:
            world.loop.play(0.05)
        world.loop.play(world.latency)
    assert world.lines == []
    assert world.is_up(A)
    assert world.row(A)["downs"] == 0
    assert len(world.starts) >= n + 200


def test_what_this_machine_cannot_probe_stays_what_it_is_and_is_said_once(world: World) -> None:
    world.follow(TWO)
    world.play(20)
    world.results[A] = world.results[B] = Result(UNKNOWN, "too many open files")
    assert world.play(100) == ['backends of pool "api" cannot be probed, and stay what they are: too many open files']
    assert world.is_up(A)
    assert world.known(A)["last"] == "unknown"
    world.results[A] = REFUSED
    world.play(20)
    world.results[A] = Result(UNKNOWN, "too many open files")
    assert world.play(100) == []
    assert not world.is_up(A)


def test_the_output_of_a_script_stands_in_the_line(world: World) -> None:
    world.results[A] = Result(FAILED, "exit code 2", output="disk full")
    world.follow(TWO)
    (line,) = world.play(20)
    assert line.endswith("last: exit code 2, which wrote: disk full")


def test_the_last_backend_going_down_is_said_aloud(world: World) -> None:
    world.follow(TWO)
    world.play(10)
    world.results[A] = REFUSED
    assert len(world.play(20)) == 1
    world.results[B] = REFUSED
    lines = world.play(20)
    assert lines[1:] == ['pool "api" has NO BACKEND LEFT: all 2 are down']
    world.results[A] = FINE
    lines = world.play(20)
    assert lines[1:] == ['pool "api" has a backend again']


def test_a_pool_whose_last_backend_leaves_with_a_reload_is_said_aloud(world: World) -> None:
    world.follow(TWO)
    world.results[A] = REFUSED
    world.play(20)
    world.lines.clear()
    world.follow(ONE)
    assert world.lines == ['pool "api" has NO BACKEND LEFT: its only one is down']
    world.follow(TWO)
    assert world.lines[1:] == ['pool "api" has a backend again']


# ---------------------------------------------------------------------------------------------------------- times
def test_probes_come_every_interval_with_jitter_and_in_haste_until_all_is_well(world: World) -> None:
    world.follow(ONE)
    world.play(1000)
    times = world.times(A)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert times[0] - 1000 <= 1
    assert 0.9 <= gaps[0] <= 1.1  # undecided
    assert all(4.5 <= gap <= 5.5 for gap in gaps[1:])
    assert max(gaps[1:]) - min(gaps[1:]) > 0.3
    assert abs(sum(gaps[1:]) / len(gaps[1:]) - 5) < 0.1
    world.results[A] = REFUSED
    world.play(10)
    before = len(world.times(A))
    world.play(100)
    assert 90 <= len(world.times(A)) - before <= 112


def test_a_fast_interval_is_never_slower_than_the_interval(world: World) -> None:
    world.results[A] = REFUSED
    world.follow(config("10.0.0.1:80", health='{ type = "tcp", interval = "500ms" }'))
    world.play(100)
    assert 180 <= len(world.starts) <= 225


def test_a_probe_that_takes_longer_than_the_interval_is_followed_at_once(world: World) -> None:
    world.latency = 7.0
    world.follow(ONE)
    world.play(100)
    times = world.times(A)
    assert all(abs(later - earlier - 7) < 1e-6 for earlier, later in pairwise(times))


def test_backends_do_not_march_in_step(world: World) -> None:
    many = config(*(f"10.0.0.{i}:80" for i in range(1, 201)), health='{ type = "tcp", interval = "5s", fast_interval = "5s" }')
    world.follow(many)
    world.play(300)
    late = [at for at, _ in world.starts if at > 1200]
    busiest = max(sum(1 for at in late if low <= at < low + 0.5) for low in (1200 + k * 0.5 for k in range(190)))
    assert busiest < 60, "of 200 in 5 seconds, 20 in half a second would be even"


def test_no_more_probes_run_than_are_allowed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.checker._connections, "_limit", 5)
    world.latency = 0.5
    world.follow(config(*(f"10.0.0.{i}:80" for i in range(1, 41))))
    for _ in range(200):
        world.loop.play(0.05)
        assert len(world.running) <= 5
    probes = world.checker.describe()["probes"]
    assert probes["running"] == 5
    assert probes["waiting"] > 0
    assert probes["latest_ms"] > 1000
    assert len({identity for _, identity in world.starts}) == 40


def test_a_reload_while_probes_wait_for_others_to_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.checker._connections, "_limit", 2)
    world.latency = 5.0
    names = [f"10.0.0.{i}:80" for i in range(1, 21)]
    world.follow(config(*names))
    world.play(3)
    assert world.checker.describe()["probes"]["waiting"] == 18
    world.follow(config(*names[10:], health='{ type = "tcp", rise = 3 }'))
    probes = world.checker.describe()["probes"]
    assert (probes["running"], probes["waiting"]) == (0, 0)
    world.play(60)
    assert {identity for at, identity in world.starts if at > 1003} == {f"api|{name}" for name in names[10:]}


# ---------------------------------------------------------------------------------------------------------- configurations
def test_a_reload_keeps_what_is_known_of_backends_that_stay(world: World) -> None:
    world.follow(TWO)
    world.results[A] = REFUSED
    world.play(20)
    before = world.known(A)
    starts = len(world.starts)
    world.follow(config("10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"))
    assert world.known(A) == before
    assert len(world.starts) == starts
    assert not world.is_up(A)
    world.play(2)
    assert "api|10.0.0.3:80" in {identity for _, identity in world.starts[starts:]}


def test_a_reload_with_other_settings_keeps_the_verdict_and_uses_them(world: World) -> None:
    world.follow(ONE)
    world.results[A] = REFUSED
    world.play(20)
    world.results[A] = FINE
    world.follow(config("10.0.0.1:80", health='{ type = "tcp", rise = 4 }'))
    (down,) = world.checker.describe()["backends"]
    assert down["verdict"] == "down"
    lines = world.play(20)
    assert lines[0] == 'backend 10.0.0.1:80 of pool "api" is up again: 4 of 4 checks passed, last: connected'


def test_another_weight_or_priority_leaves_the_probe_that_runs_alone(world: World) -> None:
    def weighing(weight: int) -> Config:
        above = f'[[pools.api.backends]]\naddress = "10.0.0.1:80"\nweight = {weight}\npriority = {weight}\n'
        text = '[[listeners]]\nname = "web"\nbind = "127.0.0.1:0"\n[[routes]]\npool = "api"\n'
        return load_text(f'{text}[pools.api]\nhealth = "tcp"\n{above}', "f").config

    world.latency = 2.0  # until a probe of who hangs has failed
    world.results[A] = REFUSED
    for weight in range(1, 41):  # one a second
        world.follow(weighing(weight))
        world.loop.play(1)
    assert not world.is_up(A)
    assert world.lines[0] == 'backend 10.0.0.1:80 of pool "api" is down: 3 of 3 checks failed, last: connection refused'
    world.play(3)
    assert world.wishes[A].row.backend.weight == 40, "the next probe knows"


def test_probes_of_backends_that_go_are_cancelled(world: World) -> None:
    world.latency = 1.0
    world.results[B] = None  # never answers
    world.follow(TWO)
    world.play(5)
    assert any(probe.identity == B for probe in world.running)
    world.follow(ONE)
    assert not any(probe.identity == B for probe in world.running)
    before = len(world.times(B))
    world.play(20)
    assert len(world.times(B)) == before
    assert [one["identity"] for one in world.checker.describe()["backends"]] == [A]
    assert world.checker.describe()["probes"]["running"] <= 1


def test_a_backend_that_comes_back_is_new(world: World) -> None:
    world.follow(TWO)
    world.results[B] = REFUSED
    world.play(20)
    world.follow(ONE)
    world.follow(TWO)
    assert world.is_up(B)
    assert world.known(B)["verdict"] == "undecided"


def test_a_pool_that_is_not_probed_any_more_has_nothing_down(world: World) -> None:
    world.follow(TWO)
    world.results[A] = REFUSED
    world.play(20)
    world.lines.clear()
    world.follow(config("10.0.0.1:80", "10.0.0.2:80", health='"off"'))
    assert world.lines == ['backend 10.0.0.1:80 of pool "api" is not probed any more, and counts as up']
    assert world.is_up(A)
    assert world.checker.describe()["backends"] == []


def test_the_next_prober_goes_on_from_what_it_finds(world: World) -> None:
    world.follow(TWO)
    world.results[A] = REFUSED
    world.play(20)
    world.checker.close()
    untyped: Any = world.loop
    world.checker = Checker(untyped, world.states, world.lines.append, world.loop.time)
    world.checker.follow(TWO, {})
    assert world.known(A)["verdict"] == "down"
    assert world.known(B)["verdict"] == "undecided"
    assert world.play(20) == []
    assert not world.is_up(A)
    world.results[A] = FINE
    assert len(world.play(20)) == 1
    assert world.is_up(A)
    assert (world.row(A)["ups"], world.row(A)["downs"]) == (1, 1)


def test_each_address_of_a_name_is_a_backend_and_a_name_without_any_is_none(world: World) -> None:
    named = config("app.example:80")
    world.follow(named)
    assert world.checker.describe()["backends"] == []
    world.follow(named, {"app.example": ["10.0.0.1", "10.0.0.2"]})
    one, two = "api|app.example:80|10.0.0.1", "api|app.example:80|10.0.0.2"
    world.results[two] = REFUSED
    assert world.play(20) == ['backend app.example:80 (10.0.0.2) of pool "api" is down: 3 of 3 checks failed, last: connection refused']
    world.follow(named, {"app.example": ["10.0.0.2", "10.0.0.3"]})
    assert [backend["identity"] for backend in world.checker.describe()["backends"]] == [two, "api|app.example:80|10.0.0.3"]
    assert not world.is_up(two)
    world.play(5)
    assert one not in {identity for at, identity in world.starts if at > world.loop.now - 5}


def test_backends_outside_the_subset_are_not_probed(world: World) -> None:
    world.follow(config(*(f"10.0.0.{i}:80" for i in range(1, 9)), more="subset = 3\n", above='[global]\nnode = "n"\n'))
    assert len(world.checker.describe()["backends"]) == 3


def test_a_backend_without_a_row_is_left_for_the_next_configuration(world: World) -> None:
    world.follow(ONE)
    world.checker.follow(TWO, {})  # as if another snapshot were in force
    assert [one["identity"] for one in world.checker.describe()["backends"]] == [A]


def test_after_the_end_nothing_begins(world: World) -> None:
    world.follow(TWO)
    world.play(10)
    world.checker.close()
    before = len(world.starts)
    world.play(100)
    assert len(world.starts) == before


# ---------------------------------------------------------------------------------------------------------- certificates
def test_certificates_are_looked_at_before_a_configuration_is_put_in_force(world: World, tmp_path: Path) -> None:
    path = tmp_path / "authority.pem"
    wanted = config("10.0.0.1:80", health=f'{{ type = "tcp", tls = true, tls_ca_file = "{path}" }}')
    path.write_text("no certificate\n")
    with pytest.raises(HealthError, match=r'pool "api": cannot read the certificates in .*authority.pem: '):
        world.checker.prepare(read_authorities(wanted))
    make_certificates(tmp_path, "a.example")
    first = read_authorities(wanted)
    world.follow(first)
    (context,) = world.checker._contexts.values()
    path.unlink()
    world.follow(first)
    assert list(world.checker._contexts.values()) == [context], "the file is not needed any more"
    make_certificates(tmp_path, "b.example")
    world.follow(read_authorities(wanted))
    assert len(world.checker._contexts) == 1
    assert context not in world.checker._contexts.values()


def two_pools(tmp_path: Path) -> Config:
    """Two that are asked over TLS; each has a file of authorities."""
    text = '[[listeners]]\nname = "web"\nbind = "127.0.0.1:0"\n'
    for name in ("broken", "fine"):
        health = f'{{ type = "tcp", tls = true, tls_ca_file = "{tmp_path / name / "authority.pem"}" }}'
        text += f'[[routes]]\nhost = "{name}"\npool = "{name}"\n[pools.{name}]\nbackends = "10.0.0.1:80"\nhealth = {health}\n'
        (tmp_path / name).mkdir()
        make_certificates(tmp_path / name, "a.example")
    return load_text(text, "f").config


def test_certificates_that_are_none_keep_no_other_pool_from_being_probed(world: World, tmp_path: Path) -> None:
    wanted = two_pools(tmp_path)
    (tmp_path / "broken" / "authority.pem").write_text("none")
    wanted = read_authorities(wanted)
    with pytest.raises(HealthError, match='pool "broken": cannot read the certificates in '):
        world.follow(wanted)
    image = build_image(wanted, {}, 1)
    world.shared.add_rows(image)
    os.close(image)
    world.checker.follow(wanted, {})  # it is in force already, and this is the next controller
    assert [one["pool"] for one in world.checker.describe()["backends"]] == ["fine"]


def test_a_pool_whose_certificates_cannot_be_read_is_not_probed(world: World, tmp_path: Path) -> None:
    world.follow(ONE)
    missing = config("10.0.0.1:80", health=f'{{ type = "tcp", tls = true, tls_ca_file = "{tmp_path / "no.pem"}" }}')
    (tmp_path / "no.pem").write_text("none")
    missing = read_authorities(missing)
    world.play(0.5)
    world.checker.follow(missing, {})
    assert world.checker.describe()["backends"] == []
    before = len(world.starts)
    world.play(20)
    assert len(world.starts) == before


# ---------------------------------------------------------------------------------------------------------- addresses
@pytest.mark.parametrize(
    ("packed", "expected"),
    [
        (_core.pack_address("10.1.2.3", 8080), ("10.1.2.3", 8080)),
        (_core.pack_address("2001:db8::1", 65535), ("2001:db8::1", 65535)),
        (_core.pack_unix("/run/app.sock"), "/run/app.sock"),
    ],
)
def test_an_address_is_read_as_it_was_packed(packed: bytes, expected: object) -> None:
    assert read_address(packed).address == expected
