"""fastlb/data_plane/conditions.pyx: rules of one location. Requests are whole heads that end at an unmapped page."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import pytest

from fastlb._core import MATCH_LIMITS
from tests.support._probe import Plane
from tests.support.images import Writer

if TYPE_CHECKING:
    from fastlb._core import RuleCondition, RuleValue


def request(target: str = "/", *lines: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: a", *lines, "", ""]).encode("latin-1")


def make_plane(*conditions: RuleCondition, regex: tuple[bytes, bool] | None = None) -> Plane:
    """Pool 1 where all conditions hold, else pool 0."""
    writer = Writer()
    writer.add_route(pool=writer.pool())
    writer.add_route(pool=writer.pool(), rule={"conditions": conditions, "regex": regex})
    return writer.plane()


def holds(plane: Plane, head: bytes, client: bytes = b"192.0.2.7") -> bool:
    answer = plane.route(head, client=client)
    assert answer in (0, 1)
    return answer == 1


def condition(kind: str, name: str, *values: RuleValue, negated: bool = False) -> RuleCondition:
    return kind, negated, name, values


def header(*values: RuleValue, negated: bool = False) -> RuleCondition:
    return condition("header", "X-Canary", *values, negated=negated)


def exact(text: str) -> tuple[str, bytes]:
    return "exact", text.encode()


# ---------------------------------------------------------------------------------------------------------- rules
def test_first_rule_that_holds_wins_and_the_unconditional_one_comes_last() -> None:
    writer = Writer()
    writer.add_route(pool=writer.pool())
    writer.add_route(pool=writer.pool(), rule={"conditions": [header(exact("1"), exact("2"))]})
    writer.add_route(pool=writer.pool(), rule={"conditions": [header(exact("2"), exact("3"))]})
    plane = writer.plane()
    assert [plane.route(request("/", f"X-Canary: {value}")) for value in (1, 2, 3, 4)] == [1, 1, 2, 0]


def test_all_conditions_of_a_rule_have_to_hold() -> None:
    plane = make_plane(header(exact("1")), condition("method", "", "POST"))
    for method, value, wanted in (("GET", "1", False), ("POST", "0", False), ("POST", "1", True)):
        assert holds(plane, request("/", f"X-Canary: {value}", method=method)) == wanted


def test_location_without_a_rule_that_holds_leaves_the_request_to_the_next_shorter_one() -> None:
    writer = Writer()
    for path, exactly, conditions in (
        ("/a/b", True, [header(exact("3"))]),
        ("/a/b", False, [header(exact("2"), exact("3"))]),
        ("/a/", False, [header(exact("1"))]),
        ("/", False, []),
    ):
        writer.add_route(path_prefix=path, pool=writer.pool(), rule={"exact": exactly, "conditions": conditions})
    plane = writer.plane()
    assert [plane.route(request("/a/b", f"X-Canary: {value}")) for value in (3, 2, 1, 0)] == [0, 1, 2, 3]
    assert plane.route(request("/a/b/", "X-Canary: 3")) == 1
    assert plane.route(request("/a/c", "X-Canary: 3")) == 3


def test_host_without_a_rule_that_holds_leaves_the_request_to_less_specific_ones() -> None:
    writer = Writer()
    for host in ("a", "*.a", ""):
        writer.add_route(host=host, pool=writer.pool(), rule={"conditions": [header(exact(host))] if host else []})
    plane = writer.plane()
    assert [plane.route(request("/", f"X-Canary: {value}")) for value in ("a", "*.a", "")] == [0, 2, 2]


def test_without_any_rule_that_holds_there_is_no_route() -> None:
    writer = Writer()
    writer.add_route(pool=writer.pool(), rule={"conditions": [header()]})
    assert writer.plane().route(request()) == "no_route"


# ---------------------------------------------------------------------------------------------------------- methods
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "PURGE", "get", "GETS"])
def test_method_is_one_of_those_named(method: str) -> None:
    plane = make_plane(condition("method", "", "HEAD", "PUT", "PURGE"))
    assert holds(plane, request(method=method)) == (method in ("HEAD", "PUT", "PURGE"))
    assert holds(make_plane(condition("method", "", "HEAD", negated=True)), request(method=method)) == (method != "HEAD")
    assert holds(make_plane(condition("method", "", "PURGE", negated=True)), request(method=method)) == (method != "PURGE")


# ---------------------------------------------------------------------------------------------------------- clients
NETWORKS = [ipaddress.ip_network(text) for text in ("10.0.0.0/8", "192.0.2.7/32", "2001:db8::/33")]
CLIENTS = {
    b"10.255.0.1": True,
    b"11.0.0.1": False,
    b"192.0.2.7": True,
    b"192.0.2.6": False,
    b"2001:db8:7fff::1": True,
    b"2001:db8:8000::1": False,
    b"unix:": False,
}


@pytest.mark.parametrize("client", CLIENTS)
def test_client_lies_in_a_network(client: bytes) -> None:
    assert holds(make_plane(condition("client", "", *NETWORKS)), request(), client) == CLIENTS[client]
    assert holds(make_plane(condition("client", "", *NETWORKS, negated=True)), request(), client) != CLIENTS[client]


def test_whole_of_ipv6_holds_no_ipv4_client() -> None:
    plane = make_plane(condition("client", "", ipaddress.ip_network("::/0")))
    assert [holds(plane, request(), client) for client in (b"::1", b"127.0.0.1", b"unix:")] == [True, False, False]


# ---------------------------------------------------------------------------------------------------------- header fields
TEXTS = ["", "b", "beta", "beta!", "alphabeta", "xbetax", "BETA", "bet"]


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (("exact", b"beta"), {"beta"}),
        (("exact", b""), {""}),
        (("prefix", b"beta"), {"beta", "beta!"}),
        (("suffix", b"beta"), {"beta", "alphabeta"}),
        (("part", b"beta"), {"beta", "beta!", "alphabeta", "xbetax"}),
        (("prefix", b""), set(TEXTS)),
        (("regex", b"^b.?"), {"b", "bet", "beta", "beta!"}),
        (("regex_caseless", b"^beta$"), {"beta", "BETA"}),
    ],
)
def test_value_is_compared_as_it_says(value: tuple[str, bytes], wanted: set[str]) -> None:
    plane = make_plane(header(value))
    assert {text for text in TEXTS if holds(plane, request("/", f"X-Canary: {text}"))} == wanted
    opposite = make_plane(header(value, negated=True))
    assert {text for text in TEXTS if not holds(opposite, request("/", f"X-Canary: {text}"))} == wanted


def test_field_is_found_by_its_name_alone() -> None:
    plane = make_plane(header())
    for line in ("x-canary: 1", "X-CANARY:", "X-Canary: "):
        assert holds(plane, request("/", line))
    for line in ("X-Canar: 1", "X-Canary2: 1", "X_Canary: 1", "X: X-Canary"):
        assert not holds(plane, request("/", line))
        assert holds(make_plane(header(negated=True)), request("/", line))


@pytest.mark.parametrize("name", ["X_a", "x^b", "x~b", "x|b", "x`b", "x'b", "0", "content-type", "Cookie"])
def test_every_character_of_a_name_counts(name: str) -> None:
    plane = make_plane(condition("header", name, exact("a")))
    assert holds(plane, request("/", f"{name}: a"))
    for other in ("X-a", "x^b", "x~b", "x|b", "x`b", "x'b"):
        assert other == name or not holds(plane, request("/", f"{other}: a"))


def test_each_field_of_a_name_is_compared_by_itself() -> None:
    head = request("/", "X-Canary: a", "Other: c", "X-Canary: b")
    for text, wanted in (("a", True), ("b", True), ("c", False), ("a, b", False)):
        assert holds(make_plane(header(exact(text))), head) == wanted
        assert holds(make_plane(header(exact(text), negated=True)), head) != wanted


# ---------------------------------------------------------------------------------------------------------- queries
def parameter(name: str, *values: RuleValue, negated: bool = False) -> RuleCondition:
    return condition("query", name, *values, negated=negated)


QUERIES = {
    "?beta=1": True,
    "?a=2&beta=1": True,
    "?beta=1&a=2": True,
    "?&&beta=1&&": True,
    "?beta=0&beta=1": True,
    "?%62%65ta=%31": True,
    "?beta=%31": True,
    "?b%65t%61=1": True,
    "": False,
    "?": False,
    "?beta": False,
    "?beta=": False,
    "?beta=11": False,
    "?beta=1=": False,
    "?bet=1": False,
    "?betas=1": False,
    "?Beta=1": False,
    "?a=beta=1": False,
    "?=beta=1": False,
    "?beta%3D1": False,
    "?a%26beta=1": False,
    "?beta=1;": False,
    "?beta=%3": False,
    "?bet%6=1": False,
    "?beta=1%00": False,
}


@pytest.mark.parametrize("query", QUERIES)
def test_parameter_is_compared_decoded(query: str) -> None:
    assert holds(make_plane(parameter("beta", exact("1"))), request(f"/{query}")) == QUERIES[query]
    assert holds(make_plane(parameter("beta", exact("1"), negated=True)), request(f"/{query}")) != QUERIES[query]


@pytest.mark.parametrize("query", ["beta", "beta=", "beta=x", "a&beta", "%62eta"])
def test_parameter_is_there_with_and_without_a_value(query: str) -> None:
    assert holds(make_plane(parameter("beta")), request(f"/?{query}"))
    assert not holds(make_plane(parameter("alpha")), request(f"/?{query}"))


DECODED = [("a+b", "a b"), ("a%2Bb", "a+b"), ("%", "%"), ("%4", "%4"), ("%zz", "%zz"), ("%C3%a4", "ä"), ("%00", "\0")]


@pytest.mark.parametrize(("written", "value"), DECODED)
def test_plus_is_a_space_and_no_escape_stays_as_it_is(written: str, value: str) -> None:
    assert holds(make_plane(parameter("q", exact(value))), request(f"/?q={written}"))
    assert holds(make_plane(parameter(value, exact("1"))), request(f"/?{written}=1"))


def test_value_of_a_parameter_can_be_a_part_or_a_pattern() -> None:
    for value in (("part", b"a b"), ("prefix", b"xa"), ("suffix", b"by"), ("regex", b"^xa b")):
        assert holds(make_plane(parameter("q", value)), request("/?q=xa+by"))
        assert not holds(make_plane(parameter("q", value)), request("/?q=x+a++b+y"))


def test_query_of_an_absolute_target_counts() -> None:
    plane = make_plane(parameter("beta", exact("1")))
    assert holds(plane, request("http://a/x?beta=1"))


def test_only_so_many_parameters_are_looked_at() -> None:
    # What is not looked at could be what a rule is about.
    plane = make_plane(parameter("beta"))
    assert plane.route(request("/?" + "a&" * 999 + "beta")) == 1
    assert plane.route(request("/?" + "a&" * 1000 + "beta")) == "client:too_many_parameters"
    assert plane.route(request("/?" + "a&" * 1001)) == "client:too_many_parameters"


# ---------------------------------------------------------------------------------------------------------- cookies
def cookie(name: str, *values: RuleValue, negated: bool = False) -> RuleCondition:
    return condition("cookie", name, *values, negated=negated)


COOKIES = {
    "group=b": True,
    "a=1; group=b": True,
    "a=1;group=b": True,
    "group=b; a=1": True,
    " group=b ;": True,
    "group = b": True,
    'group="b"': True,
    "junk; group=b": True,
    "group=a; group=b": True,
    "": False,
    ";;": False,
    "group": False,
    "group=": False,
    "Group=b": False,
    "group=B": False,
    "group=bb": False,
    "xgroup=b": False,
    "a=group=b": False,
    'group="b': False,
    'group=""b""': False,
    'group="': False,
    "group=%62": False,
    "a=1, group=b": False,
}


@pytest.mark.parametrize("text", COOKIES)
def test_cookie_is_compared_without_its_quotes(text: str) -> None:
    assert holds(make_plane(cookie("group", exact("b"))), request("/", f"Cookie: {text}")) == COOKIES[text]
    assert holds(make_plane(cookie("group", exact("b"), negated=True)), request("/", f"cookie: {text}")) != COOKIES[text]


def test_cookies_of_every_field_are_looked_at() -> None:
    plane = make_plane(cookie("group", exact("b")))
    assert holds(plane, request("/", "Cookie: group=a", "COOKIE: group=b"))
    assert not holds(plane, request("/", "Cookies: group=b"))
    assert not holds(plane, request())


def test_cookie_is_there_with_and_without_a_value() -> None:
    for text in ("group=", "group=x", 'group=""'):
        assert holds(make_plane(cookie("group")), request("/", f"Cookie: {text}"))
    assert holds(make_plane(cookie("group", exact(""))), request("/", 'Cookie: group=""'))


def test_only_so_many_cookies_are_looked_at() -> None:
    plane = make_plane(cookie("group"))
    assert plane.route(request("/", "Cookie: " + "a=;" * 500, "Cookie: " + "a=;" * 499 + "group=")) == 1
    assert plane.route(request("/", "Cookie: " + "a=;" * 500, "Cookie: " + "a=;" * 500 + "group=")) == "client:too_many_parameters"


# ---------------------------------------------------------------------------------------------------------- patterns
def test_path_has_to_match_and_leaves_its_groups() -> None:
    plane = make_plane(regex=(rb"^/v(\d+)/(x)?(?<name>.*)$", False))
    assert holds(plane, request("/v12/ab"))
    assert plane.groups(request("/v12/ab")) == [b"/v12/ab", b"12", None, b"ab"]
    assert plane.groups(request("/%7612//a%20b")) == [b"/v12/a b", b"12", None, b"a b"]
    assert not holds(plane, request("/V12/"))
    assert plane.groups(request("/V12/")) == []
    assert holds(make_plane(regex=(b"^/v", True)), request("/V12/"))


def test_groups_beyond_what_is_kept_are_dropped() -> None:
    groups = MATCH_LIMITS["groups"]
    plane = make_plane(regex=(b"^" + b"(.)" * (groups + 3), False))
    path = "/" + "abcdefghijklmnopqrstuvwxyz"
    assert plane.groups(request(path)) == [path[: groups + 3].encode(), *(letter.encode() for letter in path[:groups])]


def test_path_and_conditions_have_to_hold_together() -> None:
    plane = make_plane(header(exact("1")), regex=(rb"\.php$", False))
    for target, value, wanted in (("/a.php", "0", False), ("/a.html", "1", False), ("/a.php", "1", True)):
        assert holds(plane, request(target, f"X-Canary: {value}")) == wanted


@pytest.mark.parametrize("where", ["path", "header", "query"])
def test_pattern_that_takes_too_long_is_an_answer_of_its_own(where: str) -> None:
    pattern, subject = b"(a+)+$", "a" * 3000 + "!"
    conditions: list[RuleCondition] = {
        "path": [],
        "header": [header(("regex", pattern), negated=True)],
        "query": [parameter("q", ("regex", pattern))],
    }[where]
    plane = make_plane(*conditions, regex=(pattern, False) if where == "path" else None)
    assert plane.route(request(f"/{subject}?q={subject}", f"X-Canary: {subject}")) == "regex_limit"


# ---------------------------------------------------------------------------------------------------------- listeners
def test_listener_knows_the_hosts_of_its_set() -> None:
    writer = Writer(n_host_sets=3)
    writer.add_route(host="a", pool=writer.pool(), rule={"host_sets": (0, 1)})
    writer.add_route(host="a", pool=writer.pool(), rule={"host_sets": (2,)})
    writer.add_route(host="", pool=writer.pool(), rule={"host_sets": (1, 2)})
    plane = writer.plane()
    assert [plane.route(request(), host_set=number) for number in range(3)] == [0, 0, 1]
    other = request().replace(b"Host: a", b"Host: b")
    assert [plane.route(other, host_set=number) for number in range(3)] == ["no_route", 2, 2]
