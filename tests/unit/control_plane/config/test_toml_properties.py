"""Generated TOML: the scanner's places agree with tomllib's values, and no text does harm."""

import contextlib
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from fastlb.control_plane.config.errors import ConfigError, Place, Problem
from fastlb.control_plane.config.loader import load_text, read_config
from fastlb.control_plane.config.schema import Config
from fastlb.control_plane.config.toml import KeyPath, TomlDocument

Draw = Callable[[st.SearchStrategy[Any]], Any]
# What a scanner could take for structure, in texts and comments.
DECOYS = st.text(st.sampled_from("[]{}=,# .ü𝄞"), max_size=6)
BLANKS = st.sampled_from(["", " ", "  ", "\t"])


class Writer:
    """Writes a TOML document in which every key is `kN` and every value contains `N`, each N once, so that each can be found again."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.n = 0

    def number(self) -> int:
        self.n += 1
        return self.n

    def key(self) -> str:
        name = f"k{self.number()}"
        return str(self.draw(st.sampled_from([name, f'"{name}"', f"'{name}'", f'"\\u006b{name[1:]}"'])))

    def dotted_key(self) -> str:
        return f"{self.draw(BLANKS)}.{self.draw(BLANKS)}".join(self.key() for _ in range(self.draw(st.integers(1, 3))))

    def comment(self) -> str:
        return str(self.draw(BLANKS)) + str(self.draw(st.sampled_from(["", "#" + self.draw(DECOYS)])))

    def space(self) -> str:
        """What may stand between the elements of an array."""
        return str(self.draw(st.sampled_from(["", " ", "\n", f"{self.comment()}\n", f"\n\n{self.draw(BLANKS)}"])))

    def value(self, depth: int, one_line: bool) -> str:
        kinds = ["int", "float", "basic", "literal", "date"]
        if not one_line:
            kinds += ["block", "literal block"]
        if depth < 3:
            kinds += ["array", "table"]
        kind, n, decoy = self.draw(st.sampled_from(kinds)), self.number(), self.draw(DECOYS)
        if kind == "array":
            space = (lambda: str(self.draw(BLANKS))) if one_line else self.space
            elements = [space() + self.value(depth + 1, one_line) + space() for _ in range(self.draw(st.integers(0, 3)))]
            closing = space() if not elements else self.draw(st.sampled_from(["", "," + space()]))
            return f"[{','.join(elements)}{closing}]"
        if kind == "table":
            blank = str(self.draw(BLANKS))
            pairs = [f"{blank}{self.dotted_key()} = {self.value(depth + 1, True)}{blank}" for _ in range(self.draw(st.integers(0, 3)))]
            return f"{{{','.join(pairs)}{blank}}}" if pairs else f"{{{blank}}}"
        written = {
            "int": f"{n}",
            "float": f"{n}.5",
            "basic": f'"{n}{decoy}\\" \\\\"',
            "literal": f"'{n}{decoy}\"'",
            "date": f"{2000 + n % 8000}-01-01 10:00:00",
            "block": f'"""{n}\n{decoy}"" \\""" \\\\"""',
            "literal block": f"'''{n}{decoy}\n'' x'''''",
        }
        return written[kind]

    def document(self) -> str:
        lines: list[str] = []
        tables: list[str] = []
        for _ in range(self.draw(st.integers(0, 4))):
            header = self.draw(st.sampled_from(["none", "table", "array", "again", "below"]))
            if header in ("again", "below") and not tables:
                header = "array"
            if header == "table":
                lines.append(f"[{self.dotted_key()}]{self.comment()}")
            elif header == "array":
                tables.append(self.key())
                lines.append(f"[[{tables[-1]}]]{self.comment()}")
            elif header == "again":
                lines.append(f"[[ {self.draw(st.sampled_from(tables))} ]]{self.comment()}")
            elif header == "below":
                lines.append(f"{self.draw(BLANKS)}[{self.draw(st.sampled_from(tables))}.{self.dotted_key()}]{self.comment()}")
            for _ in range(self.draw(st.integers(0, 3))):
                pair = (
                    f"{self.draw(BLANKS)}{self.dotted_key()}{self.draw(BLANKS)}={self.draw(BLANKS)}{self.value(0, False)}{self.comment()}"
                )
                lines.append(self.draw(st.sampled_from([pair, f"{self.comment()}\n{pair}"])))
        return str(self.draw(st.sampled_from(["\n", "\r\n"]))).join(lines) + str(self.draw(st.sampled_from(["", "\n", "\n\n # end"])))


@st.composite
def documents(draw: Draw) -> str:
    return Writer(draw).document()


def walk(value: object, path: KeyPath = ()) -> Iterator[tuple[KeyPath, object]]:
    if path:
        yield path, value
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from walk(one, (*path, key))


def text_at(text: str, place: Place) -> str:
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join([lines[place.line - 1][place.column - 1 :], *lines[place.line :]])


@given(documents())
def test_places_agree_with_the_values_of_tomllib(text: str) -> None:
    document = TomlDocument(text, "f")
    values = tomllib.loads(text)
    assert document.values == values
    assert document.problems == ()
    layout = document.layout()
    assert layout.keys.keys() | layout.values.keys() == {path for path, _ in walk(values)}
    for path, value in walk(values):
        if isinstance(path[-1], str):
            there = text_at(text, document.key_place(path)).lstrip("\"'").replace("\\u006b", "k")
            assert there.startswith(path[-1])
        there = text_at(text, document.value_place(path))
        if isinstance(value, list) and path in layout.values:
            assert there.startswith("[")
        elif isinstance(value, str):
            assert there.lstrip("\"'").startswith(value[:1])
        elif not isinstance(value, list | dict):
            assert there.startswith(str(value))


# Pieces of TOML in any order: far more likely than random characters to be almost right.
# fmt: off
PIECES = st.sampled_from([
    "a", "b.c", "=", " = ", '"', "'", '"""', "'''", "[", "]", "[[", "]]", "{", "}", ",", "\n", "\n\n", "#", "1", "1.5", "true", "inf",
    "\\", "\\u00e9", "\\q", "\r", "\0", "2020-01-01", "0x", "ü", "\ufeff", "[listeners]", "[[listeners]]", "[pools.a]\n", "[global]\n",
    "bind", "backends", "name", "timeouts", '"5s"', '"127.0.0.1:80"', '["x:1"]', "pool", "[[routes]]\n", "host", "{ address = ", "weight",
])
# fmt: on
NEARLY_TOML = st.lists(PIECES, max_size=40).map("".join)


@st.composite
def damaged_documents(draw: Draw) -> str:
    text = draw(documents())
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        cut = draw(st.integers(0, 3))
        text = text[:at] + draw(st.sampled_from(["", '"', "[", "]", "{", "\n", "=", "#", ",", "\\"])) + text[at + cut :]
    return str(text)


ANY_TEXT = st.one_of(st.text(), NEARLY_TOML, damaged_documents())


@given(ANY_TEXT)
@example("\r\r\n")
def test_a_document_has_problems_exactly_if_tomllib_refuses_it(text: str) -> None:
    document = TomlDocument(text, "f")
    try:
        values = tomllib.loads(text)
    except ValueError:
        assert document.problems
        lines = text.replace("\r\n", "\n").split("\n")
        for problem in document.problems:
            assert 1 <= problem.place.line <= len(lines)
            assert 1 <= problem.place.column <= len(lines[problem.place.line - 1]) + 1
            assert "\n" not in str(problem)
    else:
        assert document.problems == ()
        assert document.values == values
        assert document.layout().keys.keys() | document.layout().values.keys() == {path for path, _ in walk(values)}


@given(ANY_TEXT)
def test_any_text_is_a_configuration_or_a_config_error(text: str) -> None:
    try:
        assert isinstance(load_text(text, "f").config, Config)
    except ConfigError as error:
        assert error.problems
        assert [problem.place for problem in error.problems] == sorted(problem.place for problem in error.problems)
        assert all(line.startswith("f:") for line in error.lines() if not line.startswith("…"))


SCALARS = st.one_of(
    st.booleans(),
    st.integers(-10, 70_000),
    st.floats(allow_nan=False, allow_infinity=False, width=16),
    st.sampled_from(
        ["", "5s", "0s", "64KiB", "127.0.0.1:80", ":80", "a", "api", "/", "*", "round_robin", "http", "10.0.0.0/8", "unix:/x", "99999d"]
    ),
)
# fmt: off
KEYS = st.sampled_from([
    "global", "listeners", "routes", "pools", "name", "bind", "protocol", "timeouts", "limits", "backlog", "head", "body", "target",
    "host", "path", "pool", "algorithm", "backends", "retry", "keepalive", "max_idle", "idle", "address", "weight", "drain_timeout",
    "trusted_networks", "reason_header", "max_connections", "workers", "user", "pid_file", "headers", "api", "nonsense",
])
# fmt: on
TREES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=20)


class Tree:
    """A source without places, for values of any shape."""

    def __init__(self, values: dict[str, Any], complete: bool) -> None:
        self.values = values
        self.complete = complete

    def key_place(self, path: KeyPath) -> Place:
        return Place(1, 1, "f")

    value_place = key_place


@given(st.dictionaries(KEYS, TREES, max_size=5), st.booleans())
def test_values_of_any_shape_are_a_configuration_or_a_config_error(values: dict[str, Any], complete: bool) -> None:
    with contextlib.suppress(ConfigError):
        read_config(Tree(values, complete), () if complete else [Problem(Place(1, 1, "f"), "a damaged line", "a sound one")])
