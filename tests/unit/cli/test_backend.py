"""`fastlb backend drain`: when it is over, and what its exit code says. The rest is in tests/integration/test_backends.py."""

import json

import pytest
from click.testing import CliRunner

from fastlb.cli import backend as module
from fastlb.cli import client
from fastlb.cli.backend import backend


@pytest.fixture
def drain(monkeypatch):
    """Runs the command against a fastlb that gives these answers one after the other, and the last one for ever."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 0)
    monkeypatch.setattr(module, "SHOW_SECONDS", 0)

    def run(*rows, arguments=()):
        answers = list(rows)
        monkeypatch.setattr(
            client.Client, "request", lambda *asked, **more: {"backends": [answers.pop(0) if len(answers) > 1 else answers[0]]}
        )
        return CliRunner().invoke(backend, ["drain", "api", "10.0.0.1:80", *arguments])

    return run


def row(in_flight, *, over=False, cut=0, clock=True, admin="drain"):
    clocked = {"timeout_ms": 5000, "left_ms": 0 if over else 3000, "over": over, "cut": cut}
    return {"admin": admin, "in_flight": in_flight, "drain": clocked if clock else None}


def test_it_waits_until_it_is_over(drain):
    done = drain(row(2), row(1), row(0, over=True, cut=1))
    assert (done.exit_code, done.output.splitlines()[-1]) == (0, "api 10.0.0.1:80: drained; exchanges cut: 1")
    assert "draining: 2 in flight, at most 3s more\n" in done.output


def test_a_drain_whose_clock_has_not_begun_is_not_over(drain):
    done = drain(row(2), row(2, clock=False), row(1), row(0, over=True))
    assert (done.exit_code, done.output.splitlines()[-1]) == (0, "api 10.0.0.1:80: drained")
    assert drain(row(2, clock=False), row(0, over=True)).output.startswith("draining: 2 in flight\n")


def test_what_is_in_flight_when_it_is_over_is_a_failure(drain):
    done = drain(row(3), row(3, over=True))
    assert done.exit_code == 1
    assert "api 10.0.0.1:80: the drain is over, and 3 in flight still" in done.output
    assert "drained" not in done.output
    done = drain(row(3), row(3, over=True), arguments=["--json"])
    assert (done.exit_code, json.loads(done.output)["backends"][0]["in_flight"]) == (1, 3)


def test_what_ends_soon_afterwards_is_none(drain):
    assert drain(row(3), row(1, over=True), row(0, over=True)).exit_code == 0


def test_what_is_in_flight_is_no_failure_where_nobody_waits_or_it_drains_no_more(drain):
    assert drain(row(3), arguments=["--no-wait"]).output == "api 10.0.0.1:80: draining, 3 in flight\n"
    done = drain(row(3), row(3, clock=False, admin="ready"))
    assert (done.exit_code, done.output.splitlines()[-1]) == (0, "api 10.0.0.1:80: not draining any more; somebody else has said otherwise")
