"""Mistakes in what a route does, each at its place."""

import pytest

from fastlb.control_plane.config.errors import ConfigError
from fastlb.control_plane.config.loader import load_text
from fastlb.control_plane.config.schema import Route

HEAD = '[[listeners]]\nname = "web"\nbind = ":80"\n[pools.a]\nbackends = ["10.0.0.1:80"]\n[pools.b]\nbackends = ["10.0.0.2:80"]\n'
ALL = '[[routes]]\npath = "/all/"\npool = { a = 1, b = 1 }\n[[routes]]\n'


def problems(route: str) -> list[str]:
    """What is wrong with a route, which begins in line 12."""
    try:
        loaded = load_text(HEAD + ALL + route, "f")
    except ConfigError as error:
        return [str(problem).removeprefix("f:") for problem in error.problems]
    return [f"warning {str(problem).removeprefix('f:')}" for problem in loaded.warnings]


def route(text: str) -> Route:
    return load_text(HEAD + ALL + text, "f").config.routes[-1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('path = "/x"', '11:1: "pool" is missing; a route has a pool, or redirect'),
        ('pool = "a"\nredirect = "/x"', "13:1: the route has pool and redirect; it forwards, redirects or responds: keep one of them"),
        ('redirect = "/x"\nrespond = { status = 200 }', "13:1: the route has redirect and respond"),
        ('pool = "c"', '12:8: there is no pool "c"; the pools are "a" or "b"'),
        ("pool = { a = 1, c = 2 }", '12:8: there is no pool "c"'),
        ("pool = { a = -1 }", "12:14: found -1; a weight is a number from 0 to 1000000"),
        ("pool = { a = 0 }", "12:8: every weight is 0; one pool at least gets requests"),
        ("pool = {}", "12:8: found an empty table"),
        ("pool = 5", "12:8: found 5; pool is a pool's name, or a table of weights"),
        ('pool = "a"\nsplit_by = "{client}"', "warning 13:1: split_by of a route with one pool"),
        ('redirect = { to = "/x", status = 200 }', "12:34: found 200; a number without quotes, 301, 302, 303, 307 or 308"),
        (
            'redirect = "/x"\nstrip_prefix = "/"',
            "warning 13:1: strip_prefix of a route that forwards nothing; redirect does not look at it",
        ),
        ("respond = { status = 100 }", '12:22: found 100; "none", "close" or 200 … 599'),
        ('respond = { status = "200" }', '12:22: found "200"; "none", "close" or 200 … 599, a number without quotes'),
        ("respond = { status = 444.0 }", "12:22: found 444.0"),
        ('respond = { status = "closed" }', '12:22: found "closed"; "none", "close" or 200 … 599; did you mean "close"?'),
        ('respond = { status = 204, body = "x" }', "12:34: an answer 204 has no body"),
        ('respond = { body = "x" }', '12:1: respond without a status; status = 200 … 599, or "close"'),
        ('respond = { status = 200, body = "{client}", content_type = "text/html" }', '12:34: a value in a body of the type "text/html"'),
        ('respond = { status = 200, content_type = "html" }', '12:42: "html" is no media type; such as "text/plain; charset=utf-8"'),
        ('path = "/x/"\npool = "a"\nstrip_prefix = "/y"', '14:16: strip_prefix "/y" is no prefix of the path "/x/"'),
        ('path = "~^/x/(.*)"\npool = "a"\nstrip_prefix = "/x/y"', '14:16: strip_prefix "/x/y" is no prefix of the path "~^/x/(.*)"'),
        ('path = "~^/x/(.*)"\npool = "a"\nreplace_prefix = "/y"', "14:1: replace_prefix of a route whose path is a regular expression"),
        ('pool = "a"\nrewrite = "/x"\nstrip_prefix = "/"', "14:1: the route has rewrite and strip_prefix"),
        ('pool = "a"\nstrip_prefix = "x"', '13:16: "x" does not start with a slash; a prefix is a path such as "/api"; did you mean "/x"?'),
        ('pool = "a"\nreplace_prefix = "/a b"', '13:18: "/a b" holds " "'),
        ('pool = "a"\nreplace_prefix = "/a/../b"', '13:18: "/a/../b" is not normal'),
        (
            'pool = "a"\nrewrite = "/{capture.1}"',
            '13:11: the path of this route has no group "1"; a path with groups is a regular expression',
        ),
        (
            'path = "~^/x/(?<name>.*)"\nredirect = "/{capture.nam}"',
            '13:12: the path of this route has no group "nam"; its groups are "0", "1" or',
        ),
        ('pool = "a"\nrequest_headers = { set = { Connection = "x" } }', '13:29: "Connection" says how the message is framed'),
        ('pool = "a"\nrequest_headers = { add = { Host = "x" } }', '13:29: "Host" can be set and nothing else'),
        ('pool = "a"\nresponse_headers = { remove = ["content-length"] }', '13:32: "content-length" says how the message is framed'),
        ('pool = "a"\nrequest_headers = { set = { "A B" = "x" } }', '13:29: "A B" is not a header name; a header name is made'),
        ('pool = "a"\nrequest_headers = { set = { A = "x", a = "y" } }', '13:38: "a" is "A" again'),
        ('pool = "a"\nrequest_headers = { set = { A = "x" }, remove = ["a"] }', '13:50: "a" is removed and set'),
        ('pool = "a"\nrequest_headers = { set = { A = "{status}" } }', "13:33: there is no status yet"),
        ('pool = "a"\nrequest_headers = { set = "A" }', '13:27: found "A"; set is a table of fields'),
        ('pool = "a"\nresponse_headers = { add = { A = [] } }', "13:34: found an empty array"),
        ('pool = "a"\ntimeouts = { connect = 5 }', "13:24: found 5 without a unit"),
        ('pool = "a"\nlimits = { body = "inherits" }', '13:19: "inherits" is not a size'),
        ('pool = "a"\nname = "a\\nb"', '13:8: "a\\nb" is no name of a route'),
    ],
)
def test_a_mistake_is_named_at_its_place(text: str, expected: str) -> None:
    found = problems(text)
    assert found, "nothing was found"
    assert found[0].startswith(expected), found


def test_what_is_not_said_is_inherited() -> None:
    plain = route('pool = "a"')
    assert plain.pool.shares == (("a", 1),)
    assert (plain.timeouts.connect_ms, plain.timeouts.exchange_ms, plain.limits.body_bytes) == (0, 0, -1)
    assert list(filter(None, plain.templates())) == []


def test_limit_may_be_lifted() -> None:
    assert route('pool = "a"\nlimits = { body = 0 }').limits.body_bytes == 0
    assert route('pool = "a"\nlimits = { body = "1KiB" }\ntimeouts = { tunnel = "2s" }').timeouts.tunnel_ms == 2000


def test_keys_of_pools_have_no_captures() -> None:
    text = HEAD.replace("[pools.b]", 'algorithm = "maglev"\nhash_key = "{capture.1}"\n[pools.b]')
    with pytest.raises(ConfigError, match=r"7:12: there is no {capture.1} here"):
        load_text(text + ALL.removesuffix("[[routes]]\n"), "f")
