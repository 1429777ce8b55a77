"""fastlb/data_plane/route_table.pyx and conditions.pyx against a model that tries every rule."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote_plus

from hypothesis import given
from hypothesis import strategies as st

from fastlb.control_plane.config.regex_pattern import find_literal_prefix
from tests.property.examples import examples
from tests.support.images import Writer, load

if TYPE_CHECKING:
    from fastlb._core import RuleCondition


class Rule(NamedTuple):
    host: str
    path: str
    exact: bool
    regex: str | None
    conditions: tuple[RuleCondition, ...]


class Request(NamedTuple):
    host: str
    path: str
    method: str
    query: str
    headers: tuple[str, ...]
    cookies: tuple[str, ...]
    client: str

    def head(self) -> bytes:
        lines = [f"{self.method} {self.path}{self.query} HTTP/1.1", f"Host: {self.host}"]
        lines += [f"x-a: {value}" for value in self.headers] + [f"Cookie: {value}" for value in self.cookies]
        return "\r\n".join([*lines, "", ""]).encode()


labels = st.sampled_from(["a", "b", "ab", "www", "example", "com"])
names = st.lists(labels, min_size=1, max_size=4).map(".".join)
hosts = st.one_of(st.just(""), names, names.map("*.{}".format), st.sampled_from(["[::1]", "*", "A.Example"]))
paths = st.lists(st.sampled_from(["a", "b", "ab", "api", "x", ""]), max_size=3).map(lambda parts: re.sub("/+", "/", "/" + "/".join(parts)))
regexes = st.sampled_from([r"^/a", r"^/api/(\w)", r"b$", r"^/a/?b", r"/x", r"^/(a|b)/", r"^/ab"])
values = st.sampled_from(["", "a", "b", "ab", "aba", "b a"])
texts = st.lists(st.tuples(st.sampled_from(["exact", "prefix", "suffix", "part"]), values.map(str.encode)), max_size=2)
patterns = st.lists(st.tuples(st.just("regex"), st.sampled_from([b"^a", b"b$", b"^$", b"a b|ba"])), max_size=1)
networks = st.lists(
    st.sampled_from(["10.0.0.0/8", "10.1.0.0/16", "0.0.0.0/0", "::/0", "2001:db8::/33"]).map(ipaddress.ip_network), min_size=1
)
conditions = st.one_of(
    st.tuples(st.just("method"), st.booleans(), st.just(""), st.lists(st.sampled_from(["GET", "PUT", "PURGE"]), min_size=1, max_size=2)),
    st.tuples(st.just("client"), st.booleans(), st.just(""), networks),
    st.tuples(st.just("header"), st.booleans(), st.sampled_from(["X-A", "X-B"]), st.builds(lambda a, b: a + b, texts, patterns)),
    st.tuples(st.just("query"), st.booleans(), st.sampled_from(["a", "b", "a b"]), st.builds(lambda a, b: a + b, texts, patterns)),
    st.tuples(st.just("cookie"), st.booleans(), st.sampled_from(["a", "b"]), st.builds(lambda a, b: a + b, texts, patterns)),
)
plain = st.builds(Rule, hosts, paths, st.just(False), st.none(), st.just(()))
every = st.builds(Rule, hosts, paths, st.booleans(), st.none() | regexes, st.lists(conditions, max_size=2).map(tuple))
rules = st.lists(st.one_of(plain, every), max_size=12)
ports = st.sampled_from(["", ":80", ":", "."])
asked_hosts = st.one_of(names, names.map(str.upper), st.sampled_from([".", "..", "[::1]", "*.com", ".com", "a..com", ".b.com"]))
parts = st.sampled_from(["a", "b", "a=", "a=a", "a=ab", "b=a", "b=b+a", "a=%61b", "%61=b", "a+b=a", "a%20b", "=a", "", "a==", "b=%"])
queries = st.lists(parts, max_size=4).map(lambda found: "?" + "&".join(found) if found else "")
cookies = st.lists(st.sampled_from(["a", "a=", "a=a", 'a="ab"', "b=b a", " b = a", "b=aba", "=a", "", 'a="']), max_size=3).map("; ".join)
requests = st.builds(
    Request,
    st.builds(lambda name, port: name + (port if port != "." or name[0] != "[" else ""), asked_hosts, ports),
    paths,
    st.sampled_from(["GET", "PUT", "HEAD", "PURGE", "put"]),
    queries,
    st.lists(values.map(str.strip), max_size=2).map(tuple),
    st.lists(cookies, max_size=2).map(tuple),
    st.sampled_from(["10.1.2.3", "10.2.0.1", "192.0.2.1", "2001:db8::1", "2001:db8:8000::1", "unix:"]),
)


def normal_host(host: str) -> str:
    name = host.lower()
    bracketed = re.match(r"\[.*?\]|\[.*", name)
    return (bracketed[0] if bracketed else name.partition(":")[0]).removesuffix(".")


def host_rank(pattern: str, name: str) -> int | None:
    pattern = "" if pattern == "*" else pattern.lower()
    if pattern == "":
        return 0
    if pattern.startswith("*."):
        return len(pattern) if name.endswith(pattern[1:]) and len(name) > len(pattern) - 1 else None
    return 10_000 if name == pattern else None


def path_rank(rule: Rule, path: str) -> tuple[int, bool] | None:
    """How long its literal part is; None where the path does not lie in it."""
    fits = path == rule.path if rule.exact else path.startswith(rule.path)
    return (len(rule.path), rule.exact) if fits else None


def found_values(kind: str, name: str, request: Request) -> list[bytes]:
    """The values that the request has under this name."""
    if kind == "header":
        return [value.encode() for value in request.headers] if name == "X-A" else []
    found = []
    if kind == "query":
        for part in request.query.removeprefix("?").split("&"):
            key, _, value = part.partition("=")
            if part and unquote_plus(key) == name:
                found.append(unquote_plus(value).encode())
        return found
    for field in request.cookies:
        for part in field.split(";"):
            key, equals, value = part.partition("=")
            value = value.strip()
            if equals and key.strip() and key.strip() == name:
                found.append((value[1:-1] if re.fullmatch('".*"', value) else value).encode())
    return found


def compares(how: str, wanted: bytes, value: bytes) -> bool:
    match how:
        case "exact":
            return value == wanted
        case "prefix":
            return value.startswith(wanted)
        case "suffix":
            return value.endswith(wanted)
        case "part":
            return wanted in value
    return re.search(wanted, value) is not None


def holds(condition: RuleCondition, request: Request) -> bool:
    kind, negated, name, wanted = condition
    if kind == "method":
        result = request.method in wanted
    elif kind == "client":
        client = None if request.client == "unix:" else ipaddress.ip_address(request.client)
        result = client is not None and any(client.version == network.version and client in network for network in wanted)  # type: ignore[union-attr,operator]
    else:
        values = found_values(kind, name, request)
        result = any(compares(how, text, value) for value in values for how, text in wanted) if wanted else bool(values)  # type: ignore[misc,str-unpack]
    return result != negated


def model(table: list[Rule], request: Request) -> int | None:
    """The most specific host that has a rule; in it the longest literal path; in that the first with conditions, then the first without."""
    name = normal_host(request.host)
    best: tuple[tuple[int, tuple[int, bool], bool, int], int] | None = None
    for number, rule in enumerate(table):
        host, path = host_rank(rule.host, name), path_rank(rule, request.path)
        if host is None or path is None or (rule.regex and not re.search(rule.regex, request.path)):
            continue
        if all(holds(condition, request) for condition in rule.conditions):
            rank = (host, path, bool(rule.regex or rule.conditions), -number)
            if best is None or rank > best[0]:
                best = rank, number
    return None if best is None else best[1]


def write(table: list[Rule]) -> bytes:
    writer = Writer()
    for rule in table:
        regex = None if rule.regex is None else (rule.regex.encode(), False)
        more = {"exact": rule.exact, "regex": regex, "conditions": rule.conditions}
        writer.add_route(host=rule.host, path_prefix=rule.path, pool=writer.pool(), rule=more)
    return writer.image()  # without a route, if there is none


@examples(800)
@given(rules, st.lists(requests, min_size=1, max_size=6))
def test_route_is_the_one_the_model_finds(table: list[Rule], asked: list[Request]) -> None:
    plane = load(write(table))
    for request in asked:
        answer = plane.route(request.head(), client=request.client.encode())
        assert answer == ("no_route" if model(table, request) is None else model(table, request)), request


@examples(500)
@given(regexes, paths)
def test_regular_expression_is_asked_wherever_it_can_match(regex: str, path: str) -> None:
    # It belongs to its literal prefix: nothing that it matches lies elsewhere.
    if re.search(regex, path):
        assert path.startswith(find_literal_prefix(regex) or "/")


@examples(300)
@given(rules, st.binary(max_size=300), st.binary(min_size=1, max_size=50))
def test_any_bytes_can_be_looked_up(table: list[Rule], host: bytes, path: bytes) -> None:
    pool = load(write(table)).find_route(host, path)
    assert pool is None or pool < len(table)
