"""fastlb/data_plane/regex.pyx. Subjects end at an unmapped page; each test runs compiled to machine code and interpreted."""

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
