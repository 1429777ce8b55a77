"""Methods, clients and values of header fields, parameters and cookies, as a file has them."""

import contextlib
from collections.abc import Callable
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlb.control_plane.config.errors import ConfigError, Rejected
from fastlb.control_plane.config.loader import load_text
from fastlb.control_plane.config.request_condition import (
    NamedCondition,
    TextPattern,
    Wanted,
    parse_client,
    parse_cookie,
    parse_header,
    parse_method,
    parse_parameter,
    parse_value,
)
from fastlb.control_plane.config.schema import Route

BASE = '[[listeners]]\nname = "web"\nbind = ":80"\n[pools.a]\nbackends = "a:1"\n[[routes]]\npool = "a"\n'


def read(line: str) -> Route:
    (route,) = load_text(BASE + line, "f").config.routes
    return route


def problem(line: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_text(BASE + line, "f")
    (only,) = caught.value.lines()
    return only


@pytest.mark.parametrize(
    ("text", "kind", "rest"),
    [
        ("true", "exact", "true"),
        ("", "exact", ""),
        ("*", "any", ""),
        ("a*", "prefix", "a"),
        ("*a", "suffix", "a"),
        ("*a*", "part", "a"),
        ("=", "exact", ""),
        ("=*", "exact", "*"),
        ("=~a", "exact", "~a"),
        ("=!a", "exact", "!a"),
        ("==a", "exact", "=a"),
        ("=a*", "exact", "a*"),
        ("a=b", "exact", "a=b"),
        ("a!b~c", "exact", "a!b~c"),
        ("ü*", "prefix", "ü"),
    ],
)
def test_values_are_written_as_they_are_compared(text: str, kind: str, rest: str) -> None:
    assert parse_value(text) == Wanted(TextPattern(kind, rest))
    if text:
        assert parse_value(f"!{text}") == Wanted(TextPattern(kind, rest), negated=True)


def test_a_single_exclamation_mark_is_for_what_is_not_there() -> None:
    assert parse_value("!") == Wanted(TextPattern("any"), negated=True)


@pytest.mark.parametrize(("text", "caseless"), [("~^a|b$", False), ("~*bot", True)])
def test_a_tilde_begins_a_regular_expression(text: str, caseless: bool) -> None:
    for written, negated in ((text, False), (f"!{text}", True)):
        value = parse_value(written)
        assert value.value.regex is not None
        assert (value.negated, value.value.kind, value.value.regex.caseless) == (negated, "regex", caseless)


@pytest.mark.parametrize(
    ("parse", "text", "found", "suggestion"),
    [
        (parse_value, "a*b", 'has a "*" in it', None),
        (parse_value, "*a*b", 'has a "*" in it', None),
        (parse_value, "**", 'has a "*" in it', None),
        (parse_value, "!!a", 'has two "!"', None),
        (parse_value, "a\rb", "has a control character", None),
        (parse_value, "~(", "is no regular expression", None),
        (parse_method, "get", "is not a method", "GET"),
        (parse_method, "!get", "is not a method", "!GET"),
        (parse_method, "GET POST", "is not a method", None),
        (parse_method, "", "is not a method", None),
        (parse_method, "X" * 65, "is not a method", None),
        (parse_method, "CONNECT", "CONNECT is answered with 501", None),
        (parse_client, "10.0.0.1/8", "bits set", "10.0.0.0/8"),
        (parse_client, "!web", "is not a network", None),
        (parse_header, "X Y", "is not a header name", None),
        (parse_header, "HOST", "has a key of its own", None),
        (parse_header, "cookie", "has a key of its own", None),
        (parse_cookie, "a=b", "is not the name of a cookie", None),
        (parse_parameter, "", "without a name", None),
    ],
)
def test_a_wrong_text_is_rejected_with_what_was_meant(
    parse: Callable[[str], object], text: str, found: str, suggestion: str | None
) -> None:
    with pytest.raises(Rejected) as caught:
        parse(text)
    assert found in caught.value.found
    assert caught.value.suggestion == suggestion


@given(st.text())
def test_any_text_is_a_value_or_rejected(text: str) -> None:
    for parse in (parse_value, parse_method, parse_client, parse_header, parse_cookie, parse_parameter):
        with contextlib.suppress(Rejected):
            parse(text)


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])))
def test_any_text_can_be_compared_exactly(text: str) -> None:
    assert parse_value(f"={text}") == Wanted(TextPattern("exact", text))


def test_methods_and_clients_are_lists_with_exceptions() -> None:
    route = read('method = ["GET", "!HEAD", "PURGE"]\nclients = ["10.0.0.0/8", "!10.1.0.0/16", "::1"]')
    assert route.methods == (Wanted("GET"), Wanted("HEAD", True), Wanted("PURGE"))
    networks = [Wanted(ip_network("10.0.0.0/8")), Wanted(ip_network("10.1.0.0/16"), True), Wanted(ip_network("::1/128"))]
    assert list(route.clients) == networks


@pytest.mark.parametrize("key", ["headers", "query", "cookies"])
def test_tables_have_a_value_or_a_list_for_each_name(key: str) -> None:
    route = read(f'{key} = {{ a = "1", b = ["x*", "!xy"] }}')
    assert getattr(route, key) == (
        NamedCondition("a", (Wanted(TextPattern("exact", "1")),)),
        NamedCondition("b", (Wanted(TextPattern("prefix", "x")), Wanted(TextPattern("exact", "xy"), True))),
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('headers = "X-A"', 'f:8:11: found "X-A"; headers is a table, such as { X-Canary = "true" }'),
        ("headers = { X-A = true }", 'f:8:19: found true; a value is a text, such as "true"'),
        ("query = { a = 1 }", 'f:8:15: found 1; a value is a text, such as "true"'),
        ('query = { a = [] }', 'f:8:15: found an empty array; at least one is needed, such as "true"'),
        ('headers = { Host = "a" }', 'f:8:13: "Host" has a key of its own; write host = "shop.example.com"'),
        ('cookies = { "a b" = "c" }', 'f:8:13: "a b" is not the name of a cookie; that is made of letters, digits, - and _'),
        (
            'cookies = { a = ["!", "b"] }',
            'f:8:17: "!" stands beside other values of "a"; a request without "a" has no other value of it: leave one out',
        ),
        ('method = "get"', 'f:8:10: "get" is not a method; upper and lower case differ; a method is a word such as "GET", '
         '"!" before it means any other; did you mean "GET"?'),
        ('listener = "wep"', 'f:8:12: there is no listener "wep"; the listeners are "web"; did you mean "web"?'),
        ('listener = ["web", "x"]', 'f:8:20: there is no listener "x"; the listeners are "web"'),
    ],
)  # fmt: skip
def test_a_mistake_is_reported_at_its_place(line: str, expected: str) -> None:
    assert problem(line) == expected
