"""Hosts and paths of routes."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlb.control_plane.config.errors import Rejected
from fastlb.control_plane.config.route_pattern import ANY_HOST, parse_host, parse_path


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
    assert parse_path(text) == text


@pytest.mark.parametrize(
    ("text", "found", "suggestion"),
    [
        ("", "does not start with a slash", "/"),
        ("api/", "does not start with a slash", "/api/"),
        ("=/exact", "is not a prefix", None),
        ("~ ^/x", "is not a prefix", None),
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
