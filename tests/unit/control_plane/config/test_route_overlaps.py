"""Routes for the same requests: errors and warnings, with their lines."""

import pytest

from fastlb.control_plane.config.errors import ConfigError
from fastlb.control_plane.config.loader import load_text
from fastlb.control_plane.config.route_overlaps import MOST_RULES

BASE = """\
[[listeners]]
name = "web"
bind = ":80"
[[listeners]]
name = "other"
bind = ":81"
[pools]
a = { backends = "a:1" }
b = { backends = "b:1" }
"""


def text_of(*routes: str) -> str:
    """One route a line, from line 2 on."""
    return "routes = [\n" + "".join(f"  {{ {route} }},\n" for route in routes) + "]\n" + BASE


def warnings(*routes: str) -> list[str]:
    return [str(warning) for warning in load_text(text_of(*routes), "f").warnings if "no route leads" not in str(warning)]


@pytest.mark.parametrize(
    "routes",
    [
        ('pool = "a"', 'path = "/api/", pool = "b"'),
        ('path = "/x", pool = "a"', 'path = "=/x", pool = "b"'),
        ('pool = "a"', 'host = "a.example", pool = "b"'),
        ('pool = "a", listener = "web"', 'pool = "b", listener = "other"'),
        ('headers = { A = "1" }, pool = "a"', 'pool = "b"'),
        ('headers = { A = "1" }, pool = "a"', 'headers = { A = "2" }, pool = "b"'),
        ('headers = { A = ["1", "2"] }, pool = "a"', 'headers = { a = "3" }, pool = "b"'),
        ('headers = { A = "1" }, pool = "a"', 'headers = { A = "!1" }, pool = "b"'),
        ('headers = { A = "*" }, pool = "a"', 'headers = { A = "!" }, pool = "b"'),
        ('headers = { A = "1" }, pool = "a"', 'headers = { B = "1" }, pool = "a"'),
        ('method = "GET", pool = "a"', 'method = ["PUT", "POST"], pool = "b"'),
        ('clients = "10.0.0.0/8", pool = "a"', 'clients = ["192.0.2.0/24", "::/0"], pool = "b"'),
        ('headers = { A = "1" }, method = "GET", pool = "a"', 'headers = { A = "1" }, pool = "b"'),
        (r'path = "~\\.php$", pool = "a"', r'path = "~\\.css$", pool = "b"'),
        ('headers = { A = "1" }, pool = "a", listener = "web"', 'cookies = { A = "1" }, pool = "b", listener = "other"'),
    ],
)
def test_routes_that_do_not_meet_are_fine(routes: tuple[str, ...]) -> None:
    assert warnings(*routes) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ('pool = "a"', 'pool = "b"'),
        ('path = "=/x", pool = "a"', 'path = "=/x", pool = "b"'),
        ('host = ["x", "y"], pool = "a"', 'host = ["y", "z"], pool = "b"'),
        ('pool = "a"', 'listener = "web", pool = "b"'),
    ],
)
def test_two_routes_for_the_same_requests_are_an_error(first: str, second: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(text_of(first, second), "f")
    (only,) = caught.value.lines()
    assert "f:3:3: a second route for host" in only
    assert only.endswith("; the first is in line 2: keep one of them")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ('headers = { A = "1" }, pool = "a"', 'headers = { A = "1" }, pool = "b"'),
        ('headers = { A = "1" }, pool = "a"', 'headers = { A = "1" }, method = "GET", pool = "b"'),
        ('method = ["GET", "PUT"], pool = "a"', 'method = ["PUT", "GET"], query = { a = "1" }, pool = "a"'),
        (r'path = "~^/x", pool = "a"', r'path = "~^/x", cookies = { a = "1" }, pool = "b"'),
        ('headers = { A = "1" }, pool = "a"', 'headers = { A = "1" }, listener = "web", pool = "b"'),
    ],
)
def test_a_route_behind_one_that_takes_all_of_its_requests_is_a_warning(first: str, second: str) -> None:
    (warning,) = warnings(first, second)
    assert warning.startswith('f:3:3: this route is never reached: for host "*" and path "/')
    assert warning.endswith("the one in line 2 takes all of its requests; keep one of them, or put the one with more conditions first")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ('headers = { A = "1" }, pool = "a"', 'cookies = { B = "1" }, pool = "b"'),
        ('headers = { A = "1*" }, pool = "a"', 'headers = { A = "*1" }, pool = "b"'),
        ('headers = { A = "1" }, pool = "a"', 'query = { A = "2" }, pool = "b"'),
        ('clients = "10.0.0.0/8", pool = "a"', 'clients = "10.1.0.0/16", pool = "b"'),
        (r'path = "~\\.php$", pool = "a"', 'method = "POST", pool = "b"'),
        ('method = ["GET", "PUT"], pool = "a"', 'method = ["GET", "POST"], pool = "b"'),
    ],
)
def test_routes_whose_order_decides_are_a_warning(first: str, second: str) -> None:
    assert warnings(first, second) == [
        'f:3:3: for host "*" and path "/" some requests match this route and the one in line 2; they take that one, as it comes first'
    ]


def test_many_rules_of_one_location_are_a_warning() -> None:
    routes = [f'headers = {{ A = "{number}" }}, pool = "a"' for number in range(MOST_RULES)]
    assert warnings(*routes) == []
    assert warnings(*routes, 'headers = { A = "x" }, pool = "a"') == [
        f'f:{MOST_RULES + 2}:3: {MOST_RULES + 1} routes with conditions have host "*" and path "/"; '
        f"they are tried one after the other: more than {MOST_RULES} of them take time"
    ]
