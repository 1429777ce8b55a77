"""`fastlb status`: what it shows of a fastlb that says less than this one would. The rest is in tests/integration/test_backends.py."""

import json
from typing import Any

import pytest
from click.testing import CliRunner

from fastlb.cli import client
from fastlb.cli.status import EXIT_NO_BACKEND, status

BACKEND = {
    "display": "10.0.0.1:80",
    "weight": 2,
    "configured_weight": 1,
    "admin": "ready",
    "health": "up",
    "health_since_ms": 3000,
    "ejected": False,
    "last_error": "",
    "listed": True,
    "resolved": True,
    "drain": None,
    "in_flight": 5,
    "idle": 6,
    "requests": 7,
    "failures": 8,
}
SHOWN = {
    "version": "1.2",
    "build": "x",
    "generation": 3,
    "connections": 4,
    "processes": [{"role": "worker", "slot": 0, "pid": 9, "state": "ready", "restarts": 0, "generation": 3, "connections": 4}],
    "listeners": [{"name": "web", "bind": ["127.0.0.1:80"]}],
    "pools": [{"name": "api", "algorithm": "round_robin", "waiting": 1, "backends": [BACKEND]}],
}


def run(monkeypatch: pytest.MonkeyPatch, shown: dict[str, Any], *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(client.Client, "request", lambda *asked, **more: shown)
    result = CliRunner().invoke(status, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_all_that_is_said_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    code, output = run(monkeypatch, SHOWN)
    assert code == 0
    assert "fastlb 1.2, generation 3, 4 connections\n" in output
    assert "pool api (round_robin), 1 waiting\n" in output
    (line,) = (line for line in output.splitlines() if line.startswith("10.0.0.1:80"))
    assert " ".join(line.split()) == "10.0.0.1:80 2 (configured: 1) ready up for 3s 5 6 7 8"


@pytest.mark.parametrize("missing", [key for key in BACKEND if key != "display"])
def test_what_an_older_fastlb_does_not_say_of_a_backend_is_left_out(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    row = {key: value for key, value in BACKEND.items() if key != missing}
    code, output = run(monkeypatch, {**SHOWN, "pools": [{**SHOWN["pools"][0], "backends": [row]}]})  # type: ignore[index]
    assert code == 0
    assert "10.0.0.1:80" in output
    assert "None" not in output


@pytest.mark.parametrize("missing", list(SHOWN))
def test_what_an_older_fastlb_does_not_say_of_itself_is_left_out(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    code, output = run(monkeypatch, {key: value for key, value in SHOWN.items() if key != missing})
    assert code == 0
    assert output.startswith("fastlb ")
    assert ("10.0.0.1:80" in output) is (missing != "pools")


def test_pool_whose_backends_may_not_be_picked_has_an_exit_code_also_where_little_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    pools = [{"name": "api", "backends": [{"display": "10.0.0.1:80", "health": "down"}]}]
    assert run(monkeypatch, {"pools": pools})[0] == EXIT_NO_BACKEND
    code, output = run(monkeypatch, {"pools": pools}, "--json")
    assert (code, json.loads(output)) == (EXIT_NO_BACKEND, {"pools": pools})
