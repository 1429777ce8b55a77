"""Finding the route of a request, in a C loop: milliseconds are nanoseconds a request (a million of them are timed a round).

Exact paths and prefixes by their number: one that is asked for again and again, and all of them in random order, which is what a cache
makes of it. Rules of one location by their number, where only the last one matches.
"""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tests.support.images import Writer

if TYPE_CHECKING:
    from fastlb._core import RuleCondition

probe = pytest.importorskip("tests.support._probe", reason="built by ./dev build")

REQUESTS = 1_000_000
HOST = b"shop.example.com"
NUMBERS = pytest.mark.parametrize("n_routes", [10, 100, 1000, 10_000])


def make_paths(n_routes: int) -> list[str]:
    """Alternately exact ones and prefixes, of five sizes whatever their number."""
    return [f"/service-{number:05}{'/v1' * (number % 5)}/" for number in range(n_routes)]


def make_plane(n_routes: int) -> "probe.Plane":
    writer = Writer()
    pool = writer.pool()
    writer.add_route(host=HOST.decode(), pool=pool)
    for number, path in enumerate(make_paths(n_routes)):
        writer.add_route(host=HOST.decode(), path_prefix=path, pool=pool, rule={"exact": number % 2 == 0})
    return writer.plane()


def asked(n_routes: int) -> list[bytes]:
    paths = [f"{path}items/42" if number % 2 else path for number, path in enumerate(make_paths(n_routes))]
    random.Random(1).shuffle(paths)
    return [path.encode() for path in paths]


def time_paths(benchmark: BenchmarkFixture, n_routes: int, paths: list[bytes]) -> None:
    plane = make_plane(n_routes)
    benchmark(plane.time_paths, HOST, paths, REQUESTS // len(paths))


@NUMBERS
def test_one_route_of_so_many(benchmark: BenchmarkFixture, n_routes: int) -> None:
    benchmark.group = "one of n exact paths and prefixes"
    time_paths(benchmark, n_routes, [path for path in asked(n_routes) if path.startswith((b"/service-00007", b"/service-00006"))])


@NUMBERS
def test_all_routes_of_so_many(benchmark: BenchmarkFixture, n_routes: int) -> None:
    benchmark.group = "all of n exact paths and prefixes"
    time_paths(benchmark, n_routes, asked(n_routes))


@pytest.mark.parametrize("n_routes", [10, 100, 1000])
def test_naive_prefixes(benchmark: BenchmarkFixture, n_routes: int) -> None:
    """The obvious Python, longest first, for a thousandth of the requests: microseconds are nanoseconds a request."""
    benchmark.group = "all of n exact paths and prefixes, in Python (us)"
    table = sorted(make_paths(n_routes), key=len, reverse=True)
    paths = [path.decode() for path in asked(n_routes)]

    def find() -> int:
        return sum(next(number for number, prefix in enumerate(table) if path.startswith(prefix)) for path in paths[:10])

    benchmark(find)


def header(number: int) -> "RuleCondition":
    return "header", False, "X-Canary", [("exact", str(number).encode())]


def query(number: int) -> "RuleCondition":
    return "query", False, "variant", [("exact", str(number).encode())]


def cookie(number: int) -> "RuleCondition":
    return "cookie", False, "variant", [("exact", str(number).encode())]


@pytest.mark.parametrize("n_rules", [1, 10, 50, 200])
@pytest.mark.parametrize("condition", [header, query, cookie])
def test_rules_of_one_location(benchmark: BenchmarkFixture, condition: "Callable[[int], RuleCondition]", n_rules: int) -> None:
    benchmark.group = f"rules by {condition.__name__}"
    writer = Writer()
    pool = writer.pool()
    for number in range(n_rules):
        writer.add_route(pool=pool, rule={"conditions": [condition(number)]})
    last = n_rules - 1
    head = (
        f"GET /items?page=3&sort=name&variant={last} HTTP/1.1\r\nHost: a\r\nUser-Agent: Mozilla/5.0\r\nAccept: */*\r\n"
        f"Accept-Language: en\r\nAccept-Encoding: gzip\r\nCookie: session=0123456789abcdef; theme=dark; variant={last}\r\n"
        f"Cache-Control: no-cache\r\nX-Canary: {last}\r\n\r\n"
    )
    benchmark(writer.plane().time_head, head.encode(), REQUESTS)


@pytest.mark.parametrize("n_rules", [1, 10, 50, 200])
def test_regular_expressions_of_one_location(benchmark: BenchmarkFixture, n_rules: int) -> None:
    benchmark.group = "rules by regular expression"
    writer = Writer()
    pool = writer.pool()
    for number in range(n_rules):
        writer.add_route(pool=pool, rule={"regex": (rf"^/item-{number}/([0-9]+)$".encode(), False)})
    benchmark(writer.plane().time_head, f"GET /item-{n_rules - 1}/4711 HTTP/1.1\r\nHost: a\r\n\r\n".encode(), REQUESTS)
