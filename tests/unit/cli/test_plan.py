"""`fastlb plan` with two files; with a running fastlb: tests/integration/test_reload.py."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fastlb.cli import main

TEXT = '[[listeners]]\nname = "web"\nbind = ":80"\n[pools.p]\nalgorithm = "consistent_hash"\nbackends = [{}]\n'


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    old, new = tmp_path / "old.toml", tmp_path / "new.toml"
    old.write_text(TEXT.format('"10.0.0.1:80"'))
    new.write_text(TEXT.format('"10.0.0.1:80", "10.0.0.2:80"'))
    return str(old), str(new)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["plan", *arguments], prog_name="fastlb")


def test_changes_are_for_people_and_the_exit_code_for_scripts(files: tuple[str, str]) -> None:
    old, new = files
    result = run(new, "--against", old)
    assert result.exit_code == 4
    lines = result.stdout.splitlines()
    assert lines[0] == "~ pool p (changed)"
    assert lines[1].endswith(" % of keys go to another backend")
    assert lines[2:] == ["+ backend 10.0.0.2:80 of pool p (added)", "    weight 1", "2 changes"]


def test_the_same_is_no_change(files: tuple[str, str]) -> None:
    result = run(files[0], "--against", files[0])
    assert (result.exit_code, result.stdout) == (0, "nothing changes\n")


def test_json_says_the_same(files: tuple[str, str]) -> None:
    old, new = files
    result = run(new, "--against", old, "--json")
    assert result.exit_code == 4
    pool, backend = json.loads(result.stdout)["changes"]
    assert (pool["what"], pool["name"]) == ("pool", "p")
    assert 0.3 < pool["remapped"] < 0.7
    assert backend["how"] == "added"


def test_a_wrong_file_is_told_as_check_tells_it(files: tuple[str, str], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("a = \n")
    for arguments in ((str(wrong), "--against", files[0]), (files[0], "--against", str(wrong))):
        result = run(*arguments)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"{wrong}:1:5: ")


def test_nobody_who_answers_is_told(files: tuple[str, str], tmp_path: Path) -> None:
    result = run(files[0], "--admin", f"unix:{tmp_path}/no.sock")
    assert result.exit_code == 3
    assert "no fastlb was found" in result.stderr
