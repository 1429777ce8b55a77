"""fastlb/data_plane/target.pxd. Input ends at an unmapped page, and so does the room for the result."""

import pytest

from tests.support._probe import normalise_path


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"/", b"/"),
        (b"/a", b"/a"),
        (b"/a/b/", b"/a/b/"),
        (b"/a.b/..c/.d/e..", b"/a.b/..c/.d/e.."),
        (b"/.../...", b"/.../..."),
        # slashes are merged
        (b"//", b"/"),
        (b"//a///b//", b"/a/b/"),
        # dot segments are resolved, and a directory keeps its slash
        (b"/.", b"/"),
        (b"/./", b"/"),
        (b"/a/.", b"/a/"),
        (b"/a/./b", b"/a/b"),
        (b"/a/..", b"/"),
        (b"/a/../", b"/"),
        (b"/a/b/..", b"/a/"),
        (b"/a/b/../c", b"/a/c"),
        (b"/a/b/../../c", b"/c"),
        (b"/a//../b", b"/b"),  # slashes first, as nginx does: ".." removes "a" and not an empty segment
        # percent is decoded, once
        (b"/%61%62", b"/ab"),
        (b"/%7E%7e", b"/~~"),
        (b"/%2561", b"/%61"),
        (b"/%252e%252e/x", b"/%2e%2e/x"),
        (b"/a%20b%3f%23", b"/a b?#"),
        (b"/%ff%01", b"/\xff\x01"),
        # and what it decodes to counts
        (b"/a%2fb", b"/a/b"),
        (b"/a%2F%2Fb", b"/a/b"),
        (b"/a/%2e%2E/b", b"/b"),
        (b"/a/.%2e/b", b"/b"),
        (b"/a/%2e", b"/a/"),
        (b"/a%2f..%2fb", b"/b"),
    ],
)
def test_path_is_normalised(raw: bytes, path: bytes) -> None:
    assert normalise_path(raw) == path


@pytest.mark.parametrize(
    "raw", [b"/..", b"/../", b"/../a", b"/a/../..", b"/a/../../b", b"//..", b"/./..", b"/%2e%2e", b"/%2e./", b"/a%2f..%2f.."]
)
def test_climbing_above_the_root_is_refused(raw: bytes) -> None:
    assert normalise_path(raw) is None


@pytest.mark.parametrize("raw", [b"/%00", b"/a%00b", b"/%", b"/a%2", b"/%2", b"/%g0", b"/%0g", b"/%%30", b"/% 1", b"/%-1", b"/%2\xff"])
def test_bad_escape_and_nul_are_refused(raw: bytes) -> None:
    assert normalise_path(raw) is None


def test_long_paths_need_no_more_room_than_they_have() -> None:
    assert normalise_path(b"/a" * 30_000) == b"/a" * 30_000
    assert normalise_path(b"/" * 60_000) == b"/"
    assert normalise_path(b"/a/.." * 10_000) == b"/"
    assert normalise_path(b"/" + b"a" * 60_000) == b"/" + b"a" * 60_000
    assert normalise_path(b"/a" * 5000 + b"/.." * 5000) == b"/"
    assert normalise_path(b"/a" * 5000 + b"/.." * 5001) is None
