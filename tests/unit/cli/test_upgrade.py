"""`fastlb upgrade`, as far as it can be told without a second build."""

import json

import pytest
from click.testing import CliRunner

from fastlb.cli import client
from fastlb.cli.upgrade import upgrade


@pytest.fixture
def answer(monkeypatch):
    """What the running fastlb answers; what it was asked."""
    asked = []

    def give(status, content):
        def request(self, method, path, content_asked=None, timeout=0.0):
            asked.append((method, path))
            if status >= 300:
                raise client.Refused(status, content["errors"])
            return content

        monkeypatch.setattr(client.Client, "request", request)
        return asked

    return give


def test_it_says_who_has_taken_over(answer):
    asked = answer(200, {"pid": 4800})
    done = CliRunner().invoke(upgrade, [])
    assert done.exit_code == 0
    assert done.output == "upgraded: process 4800 has taken over; the old one ends when its clients are gone\n"
    assert asked == [("POST", "/v1/upgrade")]
    assert json.loads(CliRunner().invoke(upgrade, ["--json"]).output) == {"pid": 4800}


def test_new_one_that_does_not_start_is_an_error(answer):
    text = "the new fastlb, process 4800, ended before it was ready (exit code 1)"
    answer(409, {"errors": [text]})
    done = CliRunner().invoke(upgrade, [])
    assert done.exit_code == 1
    assert text in done.output + (done.stderr if done.stderr_bytes else "")
    done = CliRunner().invoke(upgrade, ["--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout) == {"errors": [text]}
