"""A configuration that is written and read again is the same one, whatever it says."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fastlb.control_plane.config.loader import load_file, load_text, read_config
from fastlb.control_plane.config.option import read_table
from fastlb.control_plane.config.reader import Reader
from fastlb.control_plane.config.request_condition import TextPattern, Wanted, parse_value
from fastlb.control_plane.config.schema import Config
from fastlb.control_plane.config.writer import SECRETS, WrittenConfig, show, write_config

ROOT = Path(__file__).parents[4]
EXAMPLES = sorted((ROOT / "examples").glob("*.toml"))
PAGES = sorted((ROOT / "docs" / "options").glob("*.*.md"))
HEAD = '[[listeners]]\nname = "web"\nbind = ":80"\n[pools.p]\nbackends = "127.0.0.1:1"\n'


class Part(WrittenConfig):
    """What is missing is elsewhere."""

    complete = False


def again(config: Config) -> Config:
    return read_config(WrittenConfig(write_config(config), "written")).config


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_survives_being_written(path: Path) -> None:
    config = load_file(str(path)).config
    assert again(config) == config


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_option_survives_being_written(path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", path.read_text(), re.DOTALL)
    values: dict[str, Any] = tomllib.loads(example)
    for listener in values.get("listeners", ()):
        listener.setdefault("name", "web")
        listener.setdefault("bind", ":80")
    for pool in values.get("pools", {}).values():
        pool.setdefault("backends", ["127.0.0.1:1"])

    def read(written: dict[str, Any]) -> Config | None:
        return read_table(Config, written, (), Reader(Part(written, "written"), Config))

    config = read(values)
    assert config is not None
    if not any(re.search(rf"(?m)^{key} = ", example) for key in SECRETS):  # which are hidden
        assert read(write_config(config)) == config


def test_what_is_default_is_left_out() -> None:
    assert write_config(load_text(HEAD, "f").config) == {
        "listeners": [{"name": "web", "bind": [":80"]}],
        "pools": {"p": {"backends": [{"address": "127.0.0.1:1"}]}},
        "routes": [{"pool": "p"}],
    }


@pytest.mark.parametrize("text", ["a", "=a*b", "=!a", "=~a", "==", "a*", "*a", "*a*", "*", "!a", "!", "!=~x", "~^a.b$", "~*A", "!~a", ""])
def test_every_condition_on_a_text_survives(text: str) -> None:
    config = load_text(HEAD + f"[[routes]]\nheaders = {{ X = '{text}' }}\npool = \"p\"\n", "f").config
    ((condition,),) = (route.headers for route in config.routes)
    assert condition.values == (parse_value(text),)
    assert again(config) == config


def test_a_header_that_is_missing_is_written_with_the_mark_alone() -> None:
    assert parse_value("!") == Wanted(TextPattern("any"), negated=True)
    config = load_text(HEAD + '[[routes]]\nheaders = { X = "!" }\npool = "p"\n', "f").config
    assert write_config(config)["routes"][0]["headers"] == {"X": ["!"]}


def test_a_secret_is_not_written_and_a_change_of_it_is_seen() -> None:
    def written(secret: str) -> str:
        config = load_text(f'[global]\nsticky_key = "{secret}"\n{HEAD}', "f").config
        return str(write_config(config)["global"]["sticky_key"])

    one = written("0123456789abcdef")
    assert "0123456789abcdef" not in one
    assert one == written("0123456789abcdef") != written("0123456789abcdeg")
    assert written(one) == one  # a written configuration compares with a file


def test_a_value_is_shown_as_toml() -> None:
    assert show({"a-b": [1, True, 0.5], "c d": 'x"y'}) == '{ a-b = [1, true, 0.5], "c d" = "x\\"y" }'
    assert tomllib.loads(f"x = {show({'a': {'b': ['c']}})}")["x"] == {"a": {"b": ["c"]}}
