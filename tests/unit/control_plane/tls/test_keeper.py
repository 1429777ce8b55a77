"""What the controller keeps of TLS, and its two clocks."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from fastlb.control_plane.config.loader import load_text
from fastlb.control_plane.tls import keeper as module
from fastlb.control_plane.tls.keeper import DAY_SECONDS, RETRY_SECONDS, TlsKeeper
from fastlb.control_plane.tls.material import NO_MATERIAL, load_material, reread_material
from fastlb.control_plane.tls.tickets import TicketKeys
from tests.support.authority import Authority, key_pem, make_key, put

ROOT = Authority()
TEXT = (
    '[[listeners]]\nname = "web"\nbind = ":1"\ntls = { certificates = { cert = "a.pem", key = "a.key" } }\n'
    '[pools.p]\nbackends = "127.0.0.1:1"\n'
)
CONFIG = load_text(TEXT, "f").config
HOURS_12 = 12 * 3600


class Timer:
    def __init__(self, loop: "Loop", delay: float, do: Any, arguments: Any) -> None:
        self.loop, self.delay, self.do, self.arguments = loop, delay, do, arguments
        loop.timers.append(self)

    def cancel(self) -> None:
        if self in self.loop.timers:
            self.loop.timers.remove(self)

    def ring(self) -> None:
        self.cancel()
        self.do(*self.arguments)


class Loop:
    """Stands for the event loop: timers that the test rings."""

    def __init__(self) -> None:
        self.timers: list[Timer] = []

    def call_later(self, delay: float, do: Any, *arguments: Any) -> Timer:
        return Timer(self, delay, do, arguments)

    def delays(self) -> list[float]:
        return sorted(timer.delay for timer in self.timers)


class Case:
    def __init__(self, directory: Path) -> None:
        self.loop: Any = Loop()
        self.reapplied = 0
        self.warned: list[str] = []
        self.directory = directory
        ROOT.issue("a.example").write(directory, "a")
        self.keeper = TlsKeeper(self.loop, self.reapply, self.warn)

    def reapply(self) -> None:
        self.reapplied += 1

    def warn(self, warnings: Iterable[object]) -> None:
        self.warned += map(str, warnings)

    def put_in_force(self) -> None:
        material, _ = self.keeper.settle(load_material(CONFIG, str(self.directory / "f")), CONFIG)
        self.keeper.put_in_force(CONFIG, material, self.keeper.choose_keys(CONFIG, material))


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which the test sets."""
    clock = [module.time.time()]
    monkeypatch.setattr(module.time, "time", lambda: clock[0])
    return clock


def test_without_tls_there_are_no_keys_and_no_clocks(case: Case) -> None:
    plain = load_text('[[listeners]]\nname = "web"\nbind = ":1"\n[pools.p]\nbackends = "127.0.0.1:1"\n', "f").config
    keys = case.keeper.choose_keys(plain, NO_MATERIAL)
    case.keeper.put_in_force(plain, NO_MATERIAL, keys)
    assert (keys.keys, case.loop.timers) == ((), [])


def test_keys_stay_until_it_is_time_and_then_there_is_a_new_one(case: Case, now: list[float]) -> None:
    case.put_in_force()
    (first,) = case.keeper.keys.keys
    assert case.loop.delays() == [HOURS_12 + 1, DAY_SECONDS]
    case.put_in_force()
    assert case.keeper.keys.keys == (first,)
    now[0] += HOURS_12 + 1
    min(case.loop.timers, key=lambda timer: timer.delay).ring()
    assert case.reapplied == 1
    assert case.loop.delays() == [RETRY_SECONDS, DAY_SECONDS]  # unless it is put in force
    case.put_in_force()
    assert case.keeper.keys.keys[1:] == (first,)
    assert case.loop.delays() == [HOURS_12 + 1, DAY_SECONDS]


def test_keys_of_the_fastlb_before_are_used(case: Case, now: list[float]) -> None:
    left = TicketKeys((b"k" * 80,), now[0] - 3600)
    case.keeper = TlsKeeper(case.loop, case.reapply, case.warn, keys=left)
    case.put_in_force()
    assert case.keeper.keys == left
    assert case.loop.delays()[0] == HOURS_12 - 3600 + 1


def test_keys_of_a_file_are_used_as_they_are(case: Case) -> None:
    case.put_in_force()
    material = module.Material(ticket_keys=(b"f" * 80,))
    keys = case.keeper.choose_keys(CONFIG, material)
    assert keys == TicketKeys((b"f" * 80,))
    case.keeper.put_in_force(CONFIG, material, keys)
    assert case.loop.delays() == [DAY_SECONDS]
    ours = case.keeper.choose_keys(CONFIG, NO_MATERIAL)  # the file is gone: what others know is not used for ever
    assert b"f" * 80 not in ours.keys


def test_a_changed_certificate_is_used_and_the_same_one_is_not_put_in_force_again(case: Case) -> None:
    case.put_in_force()
    files = case.keeper.material.files
    assert case.keeper.renew(reread_material(files), CONFIG) is None
    ROOT.issue("new.example", number=2).write(case.directory, "a")
    renewed = case.keeper.renew(reread_material(files), CONFIG)
    assert renewed is not None
    assert [one.names for one in renewed.certificates.values()] == [("new.example",)]
    assert case.warned == []


def test_what_is_wrong_is_told_once_and_seen_until_it_is_right(case: Case) -> None:
    case.put_in_force()
    files = case.keeper.material.files
    good = (case.directory / "a.key").read_bytes()
    put(case.directory / "a.key", key_pem(make_key("ec", 4)))
    for _ in range(3):
        assert case.keeper.renew(reread_material(files), CONFIG) is None
    (said,) = case.warned
    assert said.startswith("a.pem: the private key a.key does not belong to the certificate; ")
    (kept,) = case.keeper.list_kept()
    assert kept.failure is not None
    assert kept.certificate.names == ("a.example",)
    put(case.directory / "a.key", good)
    assert case.keeper.renew(reread_material(files), CONFIG) is None  # it is what was served all the time
    (kept,) = case.keeper.list_kept()
    assert kept.failure is None


def test_files_of_another_configuration_change_nothing(case: Case, tmp_path: Path) -> None:
    case.put_in_force()
    other = load_material(CONFIG, str(tmp_path / "elsewhere" / "f"))
    assert case.keeper.renew(other, CONFIG) is None
    assert case.warned == []


def test_once_a_day_it_is_said_what_expires(case: Case, now: list[float]) -> None:
    case.put_in_force()
    day = next(timer for timer in case.loop.timers if timer.delay == DAY_SECONDS)
    day.ring()
    assert case.warned == []
    now[0] += 80 * DAY_SECONDS
    next(timer for timer in case.loop.timers if timer.delay == DAY_SECONDS).ring()
    (said,) = case.warned
    assert said.startswith("a.pem: the certificate expires in 9 days, at ")
    case.keeper.close()
    assert case.loop.timers == []
