"""Hosts and paths of routes."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlb._core import MATCH_LIMITS
from fastlb.control_plane.config.errors import Rejected
from fastlb.control_plane.config.route_pattern import ANY_HOST, MAX_GROUPS, MAX_PATH_BYTES, RoutePath, parse_host, parse_path


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("shop.example.com", "shop.example.com"),
        ("Shop.Example.COM.", "shop.example.com"),
        ("*.example.com", "*.example.com"),
        ("*", ANY_HOST),
        ("localhost", "localhost"),
        ("127.0.0.1", "127.0.0.1"),
        ("[::1]", "[::1]"),
        ("my_host", "my_host"),
    ],
)
def test_hosts_are_names_wildcards_or_any(text: str, host: str) -> None:
    assert parse_host(text) == host


@pytest.mark.parametrize(
    ("text", "found", "suggestion"),
    [
        ("", 'found ""', "*"),
        ("example.com:8080", "has a port", "example.com"),
        (".example.com", "starts with a dot", None),
        ("www.*", "wildcard in a name", None),
        ("*.*.example.com", "wildcard in a name", "*.example.com"),
        ("*example.com", "wildcard in a name", "*.example.com"),
        ("~^www", "regular expression", None),
        ("https://example.com/", "is a URL", "example.com"),
        ("bücher.example", "is not a host", "xn--bcher-kva.example"),
        ("a b", "is not a host", None),
        ("a..b", "is not a host", None),
    ],
)
def test_a_wrong_host_is_rejected_with_what_was_meant(text: str, found: str, suggestion: str | None) -> None:
    with pytest.raises(Rejected) as caught:
        parse_host(text)
    assert found in caught.value.found
    assert caught.value.suggestion == suggestion


@pytest.mark.parametrize("text", ["/", "/api/", "/api", "/.well-known/", "/a b", "/ü", "/a.b", "/100%"])
def test_paths_are_prefixes(text: str) -> None:
    assert parse_path(text) == RoutePath(text, text)
    assert parse_path(f"={text}") == RoutePath(f"={text}", text, exact=True)


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        (r"~^/api/v(?<v>\d+)/", "/api/v"),
        (r"~\.php$", "/"),
        ("~*^/API/", "/"),
        ("~^(/a|/b)", "/"),
        ("~^/a$", "/a"),
        ("~^/", "/"),
    ],
)
def test_regular_expression_belongs_to_what_its_matches_begin_with(text: str, literal: str) -> None:
    path = parse_path(text)
    assert (path.text, path.literal, path.exact) == (text, literal, False)
    assert path.regex is not None
    assert path.regex.caseless == text.startswith("~*")


def test_limits_are_those_of_the_data_plane() -> None:
    assert {"path_bytes": MAX_PATH_BYTES, "groups": MAX_GROUPS} == MATCH_LIMITS


@pytest.mark.parametrize(
    ("text", "found", "suggestion"),
    [
        ("", "does not start with a slash", "/"),
        ("api/", "does not start with a slash", "/api/"),
        ("=", "does not start with a slash", "=/"),
        ("=exact", "does not start with a slash", "=/exact"),
        ("=/a//b", "is not normal", "=/a/b"),
        ("~ ^/x", "space behind the tilde", "~^/x"),
        ("~^api", "matches no path", "~^/api"),
        ("~(", "is no regular expression", None),
        ("~^/" + "(a)" * 16, "has 16 groups", None),
        ("/a?b", "more than a path", "/a"),
        ("/a%20b", "has escapes", "/a b"),
        ("/a%00b", "has escapes", None),
        ("/a//b/", "is not normal", "/a/b/"),
        ("//", "is not normal", "/"),
        ("/a/./b", "is not normal", "/a/b"),
        ("/a/../b/", "is not normal", "/b/"),
        ("/a\nb", "control character", None),
        ("/" + "x" * 5000, "too long", None),
    ],
)
def test_a_wrong_path_is_rejected_with_what_was_meant(text: str, found: str, suggestion: str | None) -> None:
    with pytest.raises(Rejected) as caught:
        parse_path(text)
    assert found in caught.value.found
    assert caught.value.suggestion == suggestion


@given(st.text() | st.from_regex(r"[/.*a-z:\[\]%0-9]{1,20}", fullmatch=True))
def test_any_text_is_a_pattern_or_rejected_and_so_is_what_is_suggested(text: str) -> None:
    for parse in (parse_host, parse_path):
        with contextlib.suppress(Rejected):
            parse(text)
