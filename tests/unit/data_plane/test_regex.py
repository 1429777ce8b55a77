"""fastlb/data_plane/regex.pyx. Subjects end at an unmapped page; each test runs compiled to machine code and interpreted."""

import re

import pytest

from tests.support._probe import Regex

pytestmark = pytest.mark.parametrize("interpreted", [False, True], ids=["machine_code", "interpreted"])


# ---------------------------------------------------------------------------------------------------------- groups
@pytest.mark.parametrize(
    ("pattern", "subject", "groups"),
    [
        (rb"^/api/v(\d+)/(.*)$", b"/api/v12/users", [b"/api/v12/users", b"12", b"users"]),
        (rb"\.(gif|jpe?g|png)$", b"/a.b/c.jpg", [b".jpg", b"jpg"]),
        (rb"(?<user>[^@]+)@(?<host>.+)", b"me@here", [b"me@here", b"me", b"here"]),
        (rb"(a)|(b)|(c)", b"b", [b"b", None, b"b", None]),
        (rb"x*", b"aaa", [b""]),
        (rb"", b"", [b""]),
        (rb"()", b"a", [b"", b""]),
        (rb"(?i)SHOP", b"/shop", [b"shop"]),
        (rb"a\Kb", b"ab", [b"b"]),
        (rb"(?<=/)\w+$", b"/a/bc", [b"bc"]),
        (rb"\xff.", b"\xff\x00", [b"\xff\x00"]),
    ],
)
def test_groups_of_a_match_are_found(pattern: bytes, subject: bytes, groups: list[bytes | None], interpreted: bool) -> None:
    assert Regex(pattern, interpreted=interpreted).match(subject) == groups
    assert Regex(pattern, interpreted=interpreted).match(subject, before=True) == groups


@pytest.mark.parametrize(
    ("pattern", "subject"),
    [
        (rb"^/api", b"/ap"),
        (rb"a", b""),
        (rb"\.php$", b"/x.php\n"),  # not before a last newline
        (rb"a.b", b"a\nb"),
        (rb"SHOP", b"shop"),
        ("ä.".encode(), "ä".encode()),  # bytes, not characters
    ],
)
def test_subject_that_does_not_match(pattern: bytes, subject: bytes, interpreted: bool) -> None:
    assert Regex(pattern, interpreted=interpreted).match(subject) == "no match"


def test_groups_without_room_are_left_out(interpreted: bool) -> None:
    regex = Regex(rb"(a)(b)?(c)", interpreted=interpreted)
    assert [regex.match(b"ac", max_groups=room) for room in range(6)] == [[b"ac", b"a", None, b"c"][:room] for room in range(6)]


def test_most_groups_fit(interpreted: bool) -> None:
    assert Regex(b"(.)" * 63, interpreted=interpreted).match(b"x" * 63) == [b"x" * 63, *[b"x"] * 63]


def test_flags(interpreted: bool) -> None:
    assert Regex(b"shop", caseless=True, interpreted=interpreted).match(b"/SHOP") == [b"SHOP"]
    assert Regex(b"shop", anchored=True, interpreted=interpreted).match(b"/shop") == "no match"
    assert Regex(b"shop", anchored=True, interpreted=interpreted).match(b"shop/") == [b"shop"]


# ---------------------------------------------------------------------------------------------------------- limits
@pytest.mark.parametrize(
    ("pattern", "subject"),
    [
        (rb"(a+)+$", b"a" * 30 + b"!"),
        (rb"(a|aa)+$", b"a" * 60 + b"!"),
        (rb"^(.*)*[xy]", b"a" * 60),
        (rb"(?=.*[xy]z)", b"a" * 8192),  # few steps from each of many starts
        (rb"^a*(?=[^y]*+[xz])", b"a" * 8192),  # few steps, each along the whole subject
        (rb"^(a)\1*(?=\1*+[xz])", b"a" * 8192),
        (rb"^(?:(?=(?:(?=(?:a|b)*+)a)*+)a)*+[xz]", b"a" * 8192),  # possessive groups, which compiled code would not count
        (rb"^(?=(?=(?=a*)*a*)*a)*a*a*a*a*[xz]", b"a" * 8192),
        (rb"^((?R)|a)*[xz]", b"a" * 100),
        (rb"(?:a{50}b|a{50}c|a{50}d)[xz]", b"a" * 8192 + b"b"),
    ],
)
def test_what_would_take_too_long_is_given_up(pattern: bytes, subject: bytes, interpreted: bool) -> None:
    regex = Regex(pattern, interpreted=interpreted)
    assert regex.match(subject) == "limit"
    assert regex.match(b"") in ("no match", [b""])  # the limits of one match are not those of the next


@pytest.mark.parametrize(
    "pattern",
    [rb"(a|b)*", rb"(a|b)+", rb"(a|b)+?", rb"(a|b){2,}", rb"(a|b)*+", rb"(?x)(a) *", rb"(?x)(a) # c", rb"(?x)(a)(?#c)*", rb"(a)\E*"],
)
def test_pattern_with_a_repeated_group_is_interpreted(pattern: bytes, interpreted: bool) -> None:
    # Compiled code goes through such a group without counting, and could not be stopped.
    assert not Regex(pattern, interpreted=interpreted).is_machine_code


@pytest.mark.parametrize("pattern", [rb"^/(a|b)$", rb"(a|b)?c*[de]++f{2,}?", rb"(a|b){2,5}", rb"a++", rb"(?1)(a)"])
def test_pattern_without_a_repeated_group_becomes_machine_code(pattern: bytes, interpreted: bool) -> None:
    assert Regex(pattern, interpreted=interpreted).is_machine_code is not interpreted


def test_pattern_that_waits_for_nothing_is_given_time_for_a_long_subject(interpreted: bool) -> None:
    for pattern in (rb"^/([^/]+)/(.*)\.(gif|jpg)$", rb"\.(gif|jpg)$", rb"^(?:/[a-z0-9]+){3,40}\.jpg$", rb"(?i)\.JPG"):
        assert isinstance(Regex(pattern, interpreted=interpreted).match(b"/images" * 30 + b".jpg"), list)
    assert isinstance(Regex(rb"\.(gif|jpg)$", interpreted=interpreted).match(b"/images" * 1000 + b".jpg"), list)


@pytest.mark.parametrize("pattern", [rb"^(?:/[a-z0-9_-]+)+$", rb"^(/[^/]+)*/x$"])
def test_long_subject_that_fails_late_is_no_match_yet(pattern: bytes, interpreted: bool) -> None:
    assert Regex(pattern, interpreted=interpreted).match(b"/image-01" * 100 + b"!") == "no match"


def test_much_backtracking_takes_no_memory_but_the_scratch(interpreted: bool) -> None:
    assert Regex(rb"^(?:(a)|(b)|(c))*[xz]", interpreted=interpreted).match(b"abc" * 2000) == "limit"


# ---------------------------------------------------------------------------------------------------------- patterns
@pytest.mark.parametrize(
    ("pattern", "message", "offset"),
    [
        (b"a(", "missing closing parenthesis", 2),
        (b"[z-a]", "range out of order in character class", 3),
        (b"(*UTF)a", "settings and verbs at the start, such as (*UTF), are not supported", 0),
        (b"(*LIMIT_MATCH=4000000000)a", "settings and verbs at the start, such as (*UTF), are not supported", 0),
        (b"a(?C1)b", "callouts are not supported", 0),
        (b"a(?C'x')b", "callouts are not supported", 0),
        (b"(?J)(?<n>a)(?<n>b)", "two groups have the same name", 0),
        (rb"a\X", r"\X is not supported: patterns match bytes", 0),
        (b"(" * 65 + b")" * 65, "parentheses are too deeply nested", 65),
        (b"()" * 64, "more than 63 capturing groups", 0),
        (b"a" * 4097, "longer than 4096 bytes", 4096),
        (b"(?:(?:[a-c]x){1,40}){1,20}", "too large: repeated groups are written out", 0),
        (b"\\", "\\ at end of pattern", 1),
    ],
)
def test_pattern_is_refused(pattern: bytes, message: str, offset: int, interpreted: bool) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        Regex(pattern, interpreted=interpreted)
    assert caught.value.args == (message, offset)


def test_backslash_c_is_refused(interpreted: bool) -> None:
    with pytest.raises(ValueError, match="disabled"):
        Regex(rb"a\Cb", interpreted=interpreted)


def test_longest_pattern_is_taken(interpreted: bool) -> None:
    assert Regex(b"a" * 4096, interpreted=interpreted).match(b"a" * 5000) == [b"a" * 4096]


@pytest.mark.parametrize("pattern", [rb"(a)\\X", rb"[\\X]", rb"(*positive_lookahead:a)a", rb"(?#x)a", rb"(?|(a)|(b))", b"a\0b", b""])
def test_pattern_near_to_what_is_refused_is_taken(pattern: bytes, interpreted: bool) -> None:
    Regex(pattern, interpreted=interpreted)
