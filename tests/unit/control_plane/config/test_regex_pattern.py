"""fastlb/control_plane/config/regex_pattern.py"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlb.control_plane.config.errors import Rejected
from fastlb.control_plane.config.regex_pattern import RegexPattern, encode, find_literal_prefix, parse_regex
from tests.support._probe import Regex


def test_pattern_is_described() -> None:
    assert parse_regex(r"~^/users/(?<id>\d+)/(.*)$") == RegexPattern(r"^/users/(?<id>\d+)/(.*)$", False, 2, (("id", 1),), "/users/")


def test_names_come_in_order() -> None:
    assert parse_regex("~(?<b>b)(?<a>a)").names == (("a", 2), ("b", 1))


def test_pattern_for_any_case_promises_no_prefix() -> None:
    assert parse_regex("~*^/Api") == RegexPattern("^/Api", True, 0, (), "")


def test_pattern_is_bytes() -> None:
    assert parse_regex("~^/ä$").encode() == b"^/\xc3\xa4$"
    assert parse_regex("~\udcff").encode() == b"\xff"


@pytest.mark.parametrize(
    ("text", "found", "suggestion"),
    [
        ("/x", '"/x" does not start with a tilde', "~/x"),
        ("~", '"~" is empty', None),
        ("~*", '"~*" is empty', None),
        ("~ ^/x", '"~ ^/x" has a space behind the tilde', "~^/x"),
        ("~* ^/x", '"~* ^/x" has a space behind the tilde', "~*^/x"),
        ("~^/(x", '"~^/(x" is no regular expression: missing closing parenthesis (at its end)', None),
        ("~ä[z-a]", '"~ä[z-a]" is no regular expression: range out of order in character class (at its character 6)', None),
        (
            "~(*UTF)x",
            '"~(*UTF)x" is no regular expression: settings and verbs at the start, such as (*UTF), are not supported (at its ch',
            None,
        ),
        (r"~a\X", r'"~a\\X" is no regular expression: \X is not supported: patterns match bytes (at its character 2)', None),
    ],
)
def test_what_is_no_pattern_is_refused(text: str, found: str, suggestion: str | None) -> None:
    with pytest.raises(Rejected) as caught:
        parse_regex(text)
    assert caught.value.found.startswith(found)
    assert caught.value.suggestion == suggestion


# ---------------------------------------------------------------------------------------------------------- the literal prefix
@pytest.mark.parametrize(
    ("pattern", "prefix"),
    [
        (r"^/api/v(\d+)", "/api/v"),
        (r"\A/api", "/api"),
        (r"^/a\.b\/c$", "/a.b/c"),
        (r"^/ab?c", "/a"),
        (r"^/ab+c", "/a"),
        (r"^/ab*", "/a"),
        (r"^/ab{0}", "/a"),
        (r"^/a.b", "/a"),
        (r"^/a\dz", "/a"),
        (r"^/a[bc]", "/a"),
        (r"^/a(b|c)d", "/a"),
        (r"^/a[|]b", "/a"),
        (r"^/a[]|]b", "/a"),
        (r"^/a[[:alpha:]|]b", "/a"),
        (r"^/ä?", "/"),
        (r"^", ""),
        (r"^$", ""),
        # nothing is certain
        (r"/api", ""),
        (r"(?i)^/api", ""),
        (r"(^/api)", ""),
        (r"^/api|^/x", ""),
        (r"^/api[(]|^/x", ""),
        (r"^/api[])(]|^/x", ""),
        (r"^/api\[(x)|^/y", ""),
        (r"^/api(x)|/y", ""),
        (r"^/a\Qb|c\E", ""),
        (r"^/a(?x) b | c", ""),
        (r"^/a(?#()|c", ""),
        (r"^/a(*ACCEPT)b|c", ""),
        (r"^/a\c(|b", ""),
    ],
)
def test_literal_prefix(pattern: str, prefix: str) -> None:
    assert find_literal_prefix(pattern) == prefix


PIECES = [
    "^",
    "/",
    "a",
    "b",
    "ä",
    ".",
    "*",
    "+",
    "?",
    "{0,1}",
    "{2}",
    "(",
    ")",
    "(?:",
    "(?=",
    "(?i)",
    "(?x)",
    "(?m)",
    "(?#",
    "[",
    "]",
    "[^",
]
PIECES += ["[:alpha:]", "|", "\\", r"\Q", r"\E", r"\.", r"\d", r"\c", r"\K", r"\|", r"\(", "#", " ", "\n", "$", "(*ACCEPT)", "-", r"\A"]


@given(
    st.lists(st.sampled_from(PIECES), max_size=12), st.lists(st.sampled_from(["/", "a", "b", "ä", "|", "(", ".", "\n", "A"]), max_size=8)
)
def test_whatever_matches_starts_with_the_literal_prefix(pieces: list[str], characters: list[str]) -> None:
    pattern = "^" + "".join(pieces)
    try:
        regex = Regex(encode(pattern))
    except ValueError:
        return
    prefix = find_literal_prefix(pattern)
    subject = encode("".join(characters))
    for text in (subject, encode(prefix)[:-1] + subject, encode(prefix)[1:] + subject):
        if isinstance(regex.match(text), list):
            assert text.startswith(encode(prefix)), (pattern, text)
