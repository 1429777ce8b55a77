"""docs/options/ has a page for every option, with its kind, default and range; examples/ can be used as they are."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fastlb.control_plane.config.errors import Place, Problem
from fastlb.control_plane.config.kind import ListOf
from fastlb.control_plane.config.loader import load_file
from fastlb.control_plane.config.option import Option, TextOrTable, read_table, walk_options
from fastlb.control_plane.config.reader import Reader
from fastlb.control_plane.config.schema import Config
from fastlb.control_plane.config.toml import KeyPath

ROOT = Path(__file__).parents[4]
PAGES = ROOT / "docs" / "options"
EXAMPLES = sorted((ROOT / "examples").glob("*.toml"))


def is_value(option: Option) -> bool:
    """Whether something is written behind the key itself, and not only below it."""
    return option.inner is None or (isinstance(option.kind, ListOf) and isinstance(option.kind.kind, TextOrTable))


OPTIONS = {".".join(keys): option for keys, option in walk_options(Config) if is_value(option)}


def test_there_are_pages_for_all_options_and_for_nothing_else() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} == {*OPTIONS, "README"}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_page_says_what_the_schema_says(name: str) -> None:
    option = OPTIONS[name]
    text = (PAGES / f"{name}.md").read_text()
    assert text.startswith(f"# {name}\n")
    rows = dict(re.findall(r"^\| (\w+) \| (.*) \|$", text, re.MULTILINE))
    assert rows["Kind"] == option.kind.unit
    assert rows["Default"] == (f"`{option.default}`" if option.default else "none: it has to be given")
    assert rows["Values"].replace("`", "") == option.kind.range_text()
    assert "**What it costs.** " in text


class Fragment:
    """A source that is a part of a configuration: what is missing is elsewhere."""

    complete = False

    def __init__(self, text: str) -> None:
        self.values: dict[str, Any] = tomllib.loads(text)

    def key_place(self, path: KeyPath) -> Place:
        return Place(1, 1, ".".join(str(key) for key in path))

    value_place = key_place


@pytest.mark.parametrize("name", OPTIONS)
def test_the_example_of_a_page_can_be_used_and_shows_the_option(name: str) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", (PAGES / f"{name}.md").read_text(), re.DOTALL)
    reader = Reader(Fragment(example), Config)
    read_table(Config, reader.source.values, (), reader)
    no_problems: list[Problem] = []
    assert reader.problems == no_problems
    assert name.rpartition(".")[2] in example


def test_links_between_pages_lead_somewhere() -> None:
    for path in PAGES.glob("*.md"):
        for target in re.findall(r"\]\(([^):]+)\)", path.read_text()):
            assert (PAGES / target).exists(), f"{path.name}: {target}"


def test_the_index_lists_every_option_with_its_default() -> None:
    rows = dict(re.findall(r"^\| \[([\w.]+)\]\(\1\.md\) \| (`[^`]*`|none) \| .+ \|$", (PAGES / "README.md").read_text(), re.MULTILINE))
    assert rows == {name: f"`{option.default}`" if option.default else "none" for name, option in OPTIONS.items()}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_a_good_configuration(path: Path) -> None:
    assert load_file(str(path)).warnings == ()


def test_the_example_with_every_option_has_them_all_at_their_defaults() -> None:
    values = tomllib.loads((ROOT / "examples" / "every-option.toml").read_text())
    for name, option in OPTIONS.items():
        at: Any = values
        for key in name.replace("pools", "pools.app").split("."):
            at = next(one[key] for one in at if key in one) if isinstance(at, list) else at[key]
        if option.default and name != "routes.pool":  # one of three that has to be given
            assert at == tomllib.loads(f"x = {option.default}")["x"], name
