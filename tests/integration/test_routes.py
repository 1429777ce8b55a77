"""Routes: the longest path prefix of the most specific host wins, whatever their order; they match the normalised path."""

import pytest

from tests.support.message import Message, request, response

POOLS = ["exact", "exact_api", "exact_deep", "wild", "wild_api", "far", "any", "any_api"]
ROUTES = [
    {"path": "/", "pool": "any"},
    {"path": "/api/", "pool": "any_api"},
    {"host": "*.shop.example", "path": "/", "pool": "wild"},
    {"host": "*.shop.example", "path": "/api/", "pool": "wild_api"},
    {"host": "*.example", "path": "/", "pool": "far"},
    {"host": ["www.shop.example", "Shop.Example"], "path": "/", "pool": "exact"},
    {"host": ["www.shop.example", "Shop.Example"], "path": "/api/", "pool": "exact_api"},
    {"host": ["www.shop.example", "Shop.Example"], "path": "/api/v2", "pool": "exact_deep"},
    {"host": "only.example", "path": "/only/", "pool": "exact"},
]

HOSTS = {
    "shop.example": "exact",
    "SHOP.example": "exact",
    "shop.example.": "exact",
    "shop.example:8080": "exact",
    "www.shop.example": "exact",
    "eu.shop.example": "wild",
    "a.b.shop.example:80": "wild",
    "shop.example.com": "any",
    "myshop.example": "far",
    "example": "any",
    ".example": "any",
    "[::1]:8080": "any",
    "": "any",
    "x" * 300: "any",
}

PATHS = {
    "/": "exact",
    "/api": "exact",
    "/api/": "exact_api",
    "/api/x": "exact_api",
    "/api/v2": "exact_deep",
    "/api/v20?x=/": "exact_deep",
    "/API/": "exact",
    "/x/../api/": "exact_api",
    "/./api/": "exact_api",
    "//api//v2": "exact_deep",
    "/%61pi/": "exact_api",
    "/api%2Fv2": "exact_deep",
    "/x/%2e%2E/api/v2": "exact_deep",
    "/api/v2/%2e%2e/": "exact_api",
    "/api/..": "exact",
    "/api/../x": "exact",
    "/?/api/": "exact",
    "/x?/../api/": "exact",
    "http://shop.example/api/v2": "exact_deep",
    "http://eu.shop.example/api/v2": "wild_api",
    "http://shop.example": "exact",
}


def echo_pool(name):
    def answer(received: Message) -> bytes:
        return response(received.target.encode(), f"X-Pool: {name}")

    return answer


@pytest.fixture
def client(fastlb, instant):
    lb = fastlb(pools={name: {"backends": [instant(echo_pool(name))]} for name in POOLS}, routes=ROUTES)
    return lb.connect()


def test_most_specific_host_wins(client):
    got = {host: client.ask(request("/", host=host)).get("X-Pool") for host in HOSTS}
    assert got == HOSTS


def test_longest_prefix_of_the_normalised_path_wins_and_the_raw_target_is_forwarded(client):
    for target, pool in PATHS.items():
        answer = client.ask(request(target, host="shop.example"))
        raw = (
            "/" + target.split("/", 3)[3] if target.startswith("http://") and target.count("/") > 2 else "/" if "://" in target else target
        )
        assert (answer.get("X-Pool"), answer.body.decode()) == (pool, raw), target


def test_host_without_a_matching_path_falls_back_to_less_specific_hosts(client):
    assert client.ask(request("/only/x", host="only.example")).get("X-Pool") == "exact"
    assert client.ask(request("/other", host="only.example")).get("X-Pool") == "far"


def test_nothing_that_matches_is_a_404_and_the_connection_lives_on(fastlb, instant):
    lb = fastlb(pools={"main": {"backends": [instant()]}}, routes=[{"host": "shop.example", "path": "/api/", "pool": "main"}])
    client = lb.connect()
    for host, target in (("other.example", "/api/"), ("shop.example", "/"), ("shop.example", "/api/..")):
        answer = client.ask(request(target, host=host))
        assert (answer.status, answer.reason, answer.closes) == (404, "no_route", False)
    assert client.ask(request("/api/", host="shop.example")).status == 200
    assert lb.reasons() == {"no_route": 3}


@pytest.mark.parametrize("target", ["/..", "/../api", "/x/../..", "/%2e%2e/", "/x/%2E./../", "/a%00b", "/%", "/%4", "/%zz", "/%-1"])
def test_paths_that_leave_the_root_or_cannot_be_decoded_are_refused(fastlb, backend, target):
    lb = fastlb([backend])
    answer = lb.get(target)
    assert (answer.status, answer.reason, answer.closes) == (400, "client:bad_target", True)
    assert backend.saw_nothing()


TWO_LISTENERS = [{"name": "web"}, {"name": "other"}]
CONDITIONS = [
    {"path": "=/api/login", "pool": "exact"},
    {"path": r"~^/api/v[0-9]+/", "pool": "exact_deep"},
    {"path": "/api/", "headers": {"X-Canary": ["true", "!false"]}, "cookies": {"group": "b*"}, "pool": "wild"},
    {"path": "/api/", "method": ["POST", "PURGE"], "query": {"q": "a b"}, "pool": "wild_api"},
    {"path": "/api/", "clients": ["192.0.2.0/24", "!127.0.0.0/8"], "pool": "far"},
    {"path": "/api/", "clients": "127.0.0.0/8", "headers": {"X-Local": "*"}, "pool": "far"},
    {"path": "/", "pool": "any"},
    {"path": "/x/", "listener": "other", "pool": "any_api"},
]

ASKED = [
    ("GET", "/api/login?x", (), "exact"),
    ("GET", "/api/login/", (), "any"),
    ("GET", "/api/v12/x", (), "exact_deep"),
    ("GET", "/api/%7612/x", (), "exact_deep"),
    ("GET", "/api/v/x", (), "any"),
    ("GET", "/api/", ("X-Canary: true", "Cookie: group=beta"), "wild"),
    ("GET", "/api/", ("X-Canary: true", "X-Canary: false", "Cookie: group=beta"), "any"),
    ("GET", "/api/", ("X-Canary: true", "Cookie: group=a"), "any"),
    ("POST", "/api/?q=a+b", ("Content-Length: 0",), "wild_api"),
    ("PURGE", "/api/?p&%71=a%20b", (), "wild_api"),
    ("GET", "/api/?q=a+b", (), "any"),
    ("GET", "/api/", ("X-Local:",), "far"),
    ("GET", "/x/", (), "any"),
]


def test_conditions_choose_among_routes_of_one_path(fastlb, instant):
    pools = {name: {"backends": [instant(echo_pool(name))]} for name in POOLS}
    lb = fastlb(pools=pools, routes=CONDITIONS, listeners=TWO_LISTENERS)
    client = lb.connect(0)
    for method, target, lines, pool in ASKED:
        answer = client.ask(request(target, *lines, host="shop.example", method=method))
        assert answer.get("X-Pool") == pool, (method, target, lines)
    assert lb.connect(1).ask(request("/x/")).get("X-Pool") == "any_api"


def test_what_takes_too_long_is_answered_with_the_reason(fastlb, instant):
    routes = [{"path": "~(a+)+$", "pool": "main"}, {"query": {"q": "1"}, "pool": "main"}, {"pool": "main"}]
    lb = fastlb(pools={"main": {"backends": [instant()]}}, routes=routes)
    client = lb.connect()
    answer = client.ask(request("/" + "a" * 3000 + "!"))
    assert (answer.status, answer.reason, answer.closes) == (500, "regex_limit", False)
    answer = client.ask(request("/?" + "p&" * 1001))
    assert (answer.status, answer.reason, answer.closes) == (400, "client:too_many_parameters", True)
    assert lb.reasons() == {"regex_limit": 1, "client:too_many_parameters": 1}
