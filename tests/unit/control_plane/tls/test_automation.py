"""What a snapshot has besides what files hold: when it is made, and that nothing is paid for where it is not used."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable

import pytest

from fastlb import FastlbError
from fastlb.control_plane.config.acme import AcmeOptions, OcspOptions
from fastlb.control_plane.config.schema import Config
from fastlb.control_plane.tls import automation as automation_module
from fastlb.control_plane.tls.automation import NOTHING, Automation, needs_stapling, wants_state
from fastlb.control_plane.tls.material import NO_MATERIAL
from tests.unit.control_plane.config.test_acme import PLAIN, load


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))  # type: ignore[arg-type]


def test_a_configuration_without_tls_imports_and_makes_nothing() -> None:
    code = (
        "import sys, asyncio, fastlb.control_plane.controller, fastlb.processes.launch\n"
        "from fastlb.control_plane.tls.automation import NOTHING, Automation, load_what_is_needed\n"
        "from fastlb.control_plane.tls.material import NO_MATERIAL\n"
        "from fastlb.control_plane.config.schema import Config\n"
        "load_what_is_needed(Config(), NO_MATERIAL)\n"
        "async def go():\n"
        "    assert await Automation(asyncio.get_running_loop(), None, None).prepare(Config(), NO_MATERIAL) == NOTHING\n"
        "asyncio.run(go())\n"
        "print(sorted({'acme', 'cryptography', 'josepy', 'requests'} & set(sys.modules)))\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout == "[]\n"


def test_a_change_becomes_a_snapshot_and_one_that_comes_meanwhile_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(automation_module, "RETRY_SECONDS", 0.01)

    async def test() -> None:
        applied = asyncio.Queue[str]()
        go_on = asyncio.Event()
        answers: list[FastlbError | None] = [None, FastlbError("a worker has refused it"), None]
        lines: list[str] = []

        async def reapply() -> None:
            applied.put_nowait("begun")
            await go_on.wait()
            if (error := answers.pop(0)) is not None:
                raise error
            applied.put_nowait("done")

        automation = Automation(asyncio.get_running_loop(), reapply, lines.append)
        automation._on_change()
        assert await applied.get() == "begun"
        automation._on_change()
        automation._on_change()
        go_on.set()
        assert [await applied.get() for _ in range(4)] == ["done", "begun", "begun", "done"]
        assert lines == ["warning: certificates or OCSP responses that have changed are not in force yet: a worker has refused it"]
        assert automation._applying is not None
        await automation._applying
        assert applied.empty()
        automation.close()

    run(test)


def test_one_that_waits_for_a_snapshot_is_told_when_it_fails_and_it_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(automation_module, "RETRY_SECONDS", 0.01)

    async def test() -> None:
        answers: list[FastlbError | None] = [FastlbError("a worker has refused it"), None]
        done = asyncio.Event()

        async def reapply() -> None:
            if (error := answers.pop(0)) is not None:
                raise error
            done.set()

        automation = Automation(asyncio.get_running_loop(), reapply, lambda line: None)
        with pytest.raises(FastlbError, match="has refused it"):
            await automation._publish()
        await done.wait()
        automation.close()

    run(test)


def test_placeholders_are_served_until_a_ca_has_answered() -> None:
    config = load({"acme": {"domains": "a.example.com", "key_type": "ecdsa-p384"}}, PLAIN)

    async def test() -> None:
        automation = Automation(asyncio.get_running_loop(), lambda: asyncio.sleep(0), lambda line: None)
        first = await automation.prepare(config, NO_MATERIAL)
        (options,) = first.certificates
        assert options == AcmeOptions(domains=("a.example.com",), key_type="ecdsa-p384")
        certificate = first.certificates[options]
        assert (certificate.names, certificate.key_type, certificate.not_after) == (("a.example.com",), "ECDSA", 0)
        assert (first.staples, first.challenges) == ({}, ())
        assert await automation.prepare(Config(), NO_MATERIAL) == NOTHING
        automation.close()

    run(test)


def test_what_has_to_do_with_ocsp() -> None:
    alpn = {"domains": "a.example.com", "challenge": "tls-alpn-01"}
    assert not needs_stapling(load({"certificates": "shop.pem"}), NO_MATERIAL)
    assert needs_stapling(load({"certificates": "shop.pem", "ocsp": {"responder": "http://ocsp.example.com"}}), NO_MATERIAL)
    assert needs_stapling(load({"acme": alpn}), NO_MATERIAL)
    assert not needs_stapling(load({"acme": alpn, "ocsp": False}), NO_MATERIAL)
    assert wants_state(load({"acme": alpn, "ocsp": False}), NO_MATERIAL)
    assert not wants_state(load({"certificates": "shop.pem"}), NO_MATERIAL)
    assert OcspOptions().staple


def test_stapling_that_cannot_be_loaded_is_said_once_and_keeps_nothing_from_being_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a reload is the first to need it, and the account may not read where Python lives."""
    config = load({"certificates": "shop.pem", "ocsp": {"responder": "http://ocsp.example.com"}})
    lines: list[str] = []

    def fail() -> None:
        raise automation_module.AutomationError("it cannot be imported")

    monkeypatch.setattr(automation_module, "load_stapling", fail)

    async def test() -> None:
        automation = Automation(asyncio.get_running_loop(), lambda: asyncio.sleep(0), lines.append)
        for _ in range(2):
            assert await automation.prepare(config, NO_MATERIAL) == NOTHING
            automation.follow()
        assert lines == ["warning: it cannot be imported"]

    run(test)
