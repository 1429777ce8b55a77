"""fastlb/data_plane/route_table.pyx against a model that tries every route."""

import re

from hypothesis import given
from hypothesis import strategies as st

from tests.property.examples import examples
from tests.support.images import Writer, load

labels = st.sampled_from(["a", "b", "ab", "www", "example", "com"])
names = st.lists(labels, min_size=1, max_size=4).map(".".join)
hosts = st.one_of(st.just(""), names, names.map("*.{}".format), st.sampled_from(["[::1]", "*", "A.Example"]))
prefixes = st.lists(st.sampled_from(["a", "b", "ab", "api", ""]), max_size=3).map(lambda parts: "/" + "/".join(parts))
routes = st.lists(st.tuples(hosts, prefixes), max_size=12)
ports = st.sampled_from(["", ":80", ":", "."])
asked_hosts = st.one_of(names, names.map(str.upper), st.sampled_from(["", ".", "..", "[::1]", "[::1", "*.com", ".com", "a..com", ".b.com"]))
paths = st.lists(st.sampled_from(["a", "b", "abc", "api", "x", ""]), max_size=4).map(lambda parts: "/" + "/".join(parts))


def model(table: list[tuple[str, str]], host: str, path: str) -> int | None:
    """Exact host before wildcards, the longest first, before any host; in each the longest prefix, the first of equal ones."""
    name = host.lower()
    bracketed = re.match(r"\[.*?\]|\[.*", name)
    name = bracketed[0] if bracketed else name.partition(":")[0]
    name = name.removesuffix(".")

    def rank(pattern: str) -> int | None:
        pattern = "" if pattern == "*" else pattern.lower()
        if pattern == "":
            return 0
        if pattern.startswith("*."):
            return len(pattern) if name.endswith(pattern[1:]) and len(name) > len(pattern) - 1 else None
        return 10_000 if name == pattern else None

    found = [
        (rank(pattern), len(prefix), -number)
        for number, (pattern, prefix) in enumerate(table)
        if rank(pattern) is not None and path.startswith(prefix)
    ]
    return -max(found)[2] if found else None  # type: ignore[type-var]


@examples(1000)
@given(routes, st.lists(st.tuples(asked_hosts, ports, paths), min_size=1, max_size=6))
def test_route_is_the_one_the_model_finds(table: list[tuple[str, str]], asked: list[tuple[str, str, str]]) -> None:
    writer = Writer()
    for host, prefix in table:
        writer.add_route(host=host, path_prefix=prefix, pool=writer.pool())
    plane = load(writer.image())  # without a route, if there is none
    for name, port, path in asked:
        host = name + port
        assert plane.find_route(host.encode(), path.encode()) == model(table, host, path), (host, path)


@examples(300)
@given(routes, st.binary(max_size=300), st.binary(min_size=1, max_size=50))
def test_any_bytes_can_be_looked_up(table: list[tuple[str, str]], host: bytes, path: bytes) -> None:
    writer = Writer()
    for pattern, prefix in table:
        writer.add_route(host=pattern, path_prefix=prefix, pool=writer.pool())
    pool = writer.plane().find_route(host, path)
    assert pool is None or pool < len(table)
