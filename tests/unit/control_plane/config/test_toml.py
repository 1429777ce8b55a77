"""Places of keys and values, and syntax errors: what the scanner of TOML statements finds."""

import tomllib
from typing import Any

import pytest

from fastlb.control_plane.config.errors import Place
from fastlb.control_plane.config.toml import TomlDocument

GOOD = """\
# a comment = "with" [everything]
top = 1
[global]
  name = "x"   # behind
"quoted key".inner = 'a'

[[listeners]]
bind = [
    "a",   # [ ] , "
    'b', [ 1, 2 ],
]
text = \"\"\"
[[not.a.table]]
key = 1
\"\"\"
[[listeners]]
timeouts = { head = "10s", nested.deep = [1, { x = 2 }] }
[listeners.limits]
body = 0
[pools.api]
backends = ["u"]
"""


def place(line: int, column: int) -> Place:
    return Place(line, column, "f")


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        (("top",), (2, 1), (2, 7)),
        (("global",), (3, 2), (3, 2)),
        (("global", "name"), (4, 3), (4, 10)),
        (("global", "quoted key"), (5, 1), (5, 1)),
        (("global", "quoted key", "inner"), (5, 14), (5, 22)),
        (("listeners",), (7, 3), (7, 3)),
        (("listeners", 0), (7, 1), (7, 1)),
        (("listeners", 0, "bind"), (8, 1), (8, 8)),
        (("listeners", 0, "bind", 1), (10, 5), (10, 5)),
        (("listeners", 0, "bind", 2, 1), (10, 15), (10, 15)),
        (("listeners", 0, "text"), (12, 1), (12, 8)),
        (("listeners", 1), (16, 1), (16, 1)),
        (("listeners", 1, "timeouts"), (17, 1), (17, 12)),
        (("listeners", 1, "timeouts", "head"), (17, 14), (17, 21)),
        (("listeners", 1, "timeouts", "nested", "deep", 1, "x"), (17, 48), (17, 52)),
        (("listeners", 1, "limits"), (18, 12), (18, 12)),
        (("listeners", 1, "limits", "body"), (19, 1), (19, 8)),
        (("pools", "api"), (20, 8), (20, 8)),
        (("pools", "api", "backends", 0), (21, 13), (21, 13)),
    ],
)
def test_every_key_and_value_has_its_place(path: tuple[Any, ...], key: tuple[int, int], value: tuple[int, int]) -> None:
    document = TomlDocument(GOOD, "f")
    assert document.complete
    assert document.values == tomllib.loads(GOOD)
    assert document.key_place(path) == place(*key)
    assert document.value_place(path) == place(*value)


def test_what_has_no_place_of_its_own_is_where_its_table_is() -> None:
    document = TomlDocument(GOOD, "f")
    assert document.key_place(("pools", "api", "absent", 3)) == place(20, 8)
    assert document.key_place(("absent",)) == place(1, 1)
    assert document.key_place(()) == place(1, 1)


def test_columns_count_characters_and_windows_line_ends_do_not_count() -> None:
    document = TomlDocument('ä = 1\r\nk = ["ü", "x"]\r\n'.replace("ä", '"ä"'), "f")
    assert document.value_place(("k", 1)) == place(2, 11)


def problems(text: str) -> list[tuple[int, int, str]]:
    return [(problem.place.line, problem.place.column, str(problem).partition(": ")[2]) for problem in TomlDocument(text, "f").problems]


@pytest.mark.parametrize(
    ("text", "line", "column", "says"),
    [
        ("a = 10s", 1, 5, 'found 10s without quotes; a text is written in quotes; did you mean "10s"?'),
        ("a = /api/ # x", 1, 5, 'found /api/ without quotes; a text is written in quotes; did you mean "/api/"?'),
        ("a = True", 1, 5, 'found True without quotes; true and false are written in lower case; did you mean "true"?'),
        ("a = ", 1, 5, "found the end of the line; a value stands here"),
        ("a = # x", 1, 5, "found a comment; a value stands here"),
        ("a", 1, 2, 'found the end of the line; a key is followed by "="'),
        ("a: 1", 1, 2, 'found ":"; a key is followed by "="'),
        ("a b = 1", 1, 3, 'found "b"; a key is followed by "="'),
        ("= 1", 1, 1, 'found "="; a key is made of letters'),
        ("ä = 1", 1, 1, 'found "ä"; a key is made of letters'),
        ("a. = 1", 1, 4, 'found "="; a key is made of letters'),
        ('a = "x', 1, 5, 'this text has no closing " on this line'),
        ("a = 'x", 1, 5, "this text has no closing ' on this line"),
        ('a = """x', 1, 5, 'this text has no closing """ in this file'),
        (r'a = "C:\path"', 1, 8, "a backslash that starts no escape; double it"),
        ("a = 1 2", 1, 5, "found 1 2 without quotes"),
        ('a = "x" y', 1, 9, 'found "y"; nothing but a comment may follow'),
        ("[a] b", 1, 5, 'found "b"; nothing but a comment may follow'),
        ("[a", 1, 3, 'found the end of the line; "]" closes this table header'),
        ("[[a]", 1, 4, 'found "]"; "]]" closes this table header'),
        ("[]", 1, 2, 'found "]"; a key is made of letters'),
        ("[a b]", 1, 4, 'found "b"; "]" closes this table header'),
        ("a = [1", 1, 5, 'this array is not closed; put "]" after its last element'),
        ("a = [1\nb = 2", 1, 5, 'this array is not closed; put "]" after its last element'),
        ("a = [1\n[b]\nc = 2", 1, 5, 'this array is not closed; put "]" after its last element'),
        ("a = [1 # [\n[[b]] # x\nc = 2", 1, 5, 'this array is not closed; put "]" after its last element'),
        ('a = ["x" "y"]', 1, 10, "a comma stands between the elements"),
        ("a = [x]", 1, 6, "found x without quotes"),
        ("a = [,]", 1, 6, 'found ","; a value stands here'),
        ("a = [1}]", 1, 7, "a comma stands between the elements"),
        ("a = { b = 1", 1, 5, 'this table is not closed on its line; put "}" after its last value'),
        ("a = { b 1 }", 1, 9, 'a key is followed by "="'),
        ("a = { b = 1 c = 2 }", 1, 11, "found 1 c = 2 without quotes"),
        ('a = { b = "1" c = 2 }', 1, 15, "a comma stands between the pairs"),
        ("a = { = 1 }", 1, 7, "a key is made of letters"),
        ("a = { b = 1, b = 2 }", 1, 19, "a key is given twice in this inline table"),
        ("a = 1\na = 2", 2, 1, 'the key "a" is given a second time; the first is in line 1: keep one of them'),
        ("a = 1\n[a]", 2, 2, "the table [a] is given a second time; the first is in line 1"),
        ("[a]\n[b]\n[a]", 3, 2, "the table [a] is given a second time; the first is in line 1"),
        ("a = 1\na.b = 2", 2, 1, 'the key "a.b" contradicts line 1'),
        ("a = []\n[[a]]", 2, 3, "the table [[a]] is given a second time"),
        ("a = 2021-13-01", 1, 5, "found 2021-13-01 without quotes"),
        ("a = 080", 1, 5, "found 080 without quotes"),
        ("a = 1\rb = 2", 1, 6, "the control character U+000D; a TOML file has none"),
        ("# \x00", 1, 3, "the control character U+0000; a TOML file has none"),
        ("a = " + "[" * 1000, 1, 69, "brackets are nested too deeply; at most 64 levels"),
        ("a = " + "9" * 5000, 1, 5, "without quotes"),
    ],
)
def test_a_syntax_error_is_named_at_its_place(text: str, line: int, column: int, says: str) -> None:
    found = problems(text)
    assert [(at_line, at_column) for at_line, at_column, _ in found] == [(line, column)], found
    assert says in found[0][2]


def test_every_damaged_line_is_reported_and_the_others_are_read() -> None:
    text = '[global]\na = 10s\nb = "fine"\nc = [\n  x,\n  "y" "z",\n]\n[[l]\nd = 1\n[m]\ne = oops\nf = { g = "h" }\n'
    document = TomlDocument(text, "f")
    assert [problem.place.line for problem in document.problems] == [2, 5, 6, 8, 11]
    assert document.values == {"global": {"b": "fine"}, "m": {"f": {"g": "h"}}}
    assert not document.complete
    assert document.value_place(("m", "f", "g")) == place(12, 11)


def test_what_follows_from_a_misleading_mistake_on_the_same_line_is_not_reported() -> None:
    assert [column for _, column, _ in problems('bind = ["127.0.0.1:80, "[::1]:80"]')] == [25]


def test_an_unclosed_array_costs_only_itself() -> None:
    document = TomlDocument('a = [\n  "x",\n  "y"\n\nb = 1\n[c]\nd = [ 1,\n[[e]]\nf = 2\n', "f")
    assert [(p.place.line, p.place.column) for p in document.problems] == [(1, 5), (7, 5)]
    assert document.values == {"b": 1, "c": {}, "e": [{"f": 2}]}


def test_a_thousand_conflicts_end_soon() -> None:
    document = TomlDocument("a = 1\n" * 1000, "f")
    assert 40 < len(document.problems) < 60
