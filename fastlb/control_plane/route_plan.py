"""From the routes of a configuration to the route table of a snapshot: which request takes which of them.

Listeners that know the same routes, and have the same HSTS field, share a set of hosts. The first set has the routes of no particular
listener; clients of a listener that is gone use it. A route that is known with several HSTS fields is there once for each.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network
from typing import TypeVar

from fastlb import _core
from fastlb.control_plane.config.regex_pattern import encode
from fastlb.control_plane.config.request_condition import NamedCondition, TextPattern, Wanted
from fastlb.control_plane.config.route_options import Redirect
from fastlb.control_plane.config.route_pattern import ANY_HOST
from fastlb.control_plane.config.schema import HTTP, Config, Listener, Route
from fastlb.control_plane.config.template import parse_redirect

T = TypeVar("T")

Value = str | IPv4Network | IPv6Network | tuple[str, bytes]
Condition = tuple[str, bool, str, Sequence[Value]]


@dataclass(frozen=True, slots=True)
class HostSet:
    """What some listeners have in common.

    Args:
        routes: by their numbers in the configuration.
        hsts: the Strict-Transport-Security field of their answers, "" for none.
    """

    routes: frozenset[int]
    hsts: str = ""


def add_redirects(config: Config) -> Config:
    """With a route for each listener that sends its clients to HTTPS. 308 keeps the method, and browsers remember it."""
    names = tuple(listener.name for listener in config.listeners if listener.redirect_https)
    if not names:
        return config
    redirect = Redirect(to=parse_redirect("https://{host}{uri}"), status=308)
    return replace(config, routes=(*config.routes, Route(hosts=(ANY_HOST,), listeners=names, name="redirect_https", redirect=redirect)))


def choose_host_sets(config: Config) -> tuple[list[HostSet], list[int]]:
    """All sets, and of each listener the number of its own; one that takes TCP sessions knows no routes, and has the first."""
    fields = {listener.hsts.text for listener in config.listeners if listener.protocol == HTTP and not listener.redirect_https}
    sets = [HostSet(_routes_of(config, None), fields.pop() if len(fields) == 1 else "")]
    numbers = []
    for listener in config.listeners:
        if listener.protocol != HTTP:
            numbers.append(0)
            continue
        known = HostSet(_routes_of(config, listener), listener.hsts.text)
        if known not in sets:
            sets.append(known)
        numbers.append(sets.index(known))
    return sets, numbers


def list_variants(config: Config, sets: Sequence[HostSet]) -> list[tuple[int, str]]:
    """The routes that the snapshot has: numbers in the configuration, each with the HSTS field of its answers."""
    fields = list(dict.fromkeys(one.hsts for one in sets))
    known = [frozenset().union(*(one.routes for one in sets if one.hsts == field)) for field in fields]
    return [
        (number, field) for number in range(len(config.routes)) for field, routes in zip(fields, known, strict=True) if number in routes
    ]


def build_route_table(
    config: Config, sets: Sequence[HostSet], indexes: Mapping[tuple[int, str], int], first: Sequence[tuple[int, str, str]] = ()
) -> bytes:
    """Compiles what routes match.

    Args:
        indexes: of each of `list_variants` what SnapshotWriter.add_route returned.
        first: routes that go before all of these, on every listener: index, host and exact path.
    """
    writer = _core.RouteTableWriter(len(sets))
    for index, host, path in first:
        writer.add_rule(index, host=host, path=encode(path), exact=True, host_sets=range(len(sets)))
    for (number, hsts), index in indexes.items():
        route = config.routes[number]
        regex = route.path.regex
        host_sets = [at for at, one in enumerate(sets) if one.hsts == hsts and number in one.routes]
        for host in route.hosts:
            writer.add_rule(
                index,
                host=host,
                path=encode(route.path.literal),
                exact=route.path.exact,
                regex=None if regex is None else (regex.encode(), regex.caseless),
                conditions=list(compile_conditions(route)),
                host_sets=host_sets,
            )
    return writer.finish()


def _routes_of(config: Config, listener: Listener | None) -> frozenset[int]:
    """Those that name the listener, and those that name none, which are not for a listener that only redirects."""
    name = listener.name if listener is not None else None
    has_common = listener is None or not listener.redirect_https
    return frozenset(number for number, route in enumerate(config.routes) if (name in route.listeners if route.listeners else has_common))


def compile_conditions(route: Route) -> Iterator[Condition]:
    """What a request has to be besides its host and path, as RouteTableWriter.add_rule takes it."""
    if not (route.methods or route.clients or route.headers or route.cookies or route.query):
        return
    for negated, methods in _split(route.methods):
        yield "method", negated, "", list(dict.fromkeys(methods))
    for negated, networks in _split(route.clients):
        yield "client", negated, "", list(dict.fromkeys(networks))
    for kind, conditions in (("header", route.headers), ("cookie", route.cookies), ("query", route.query)):
        for condition in conditions:
            yield from _compile_named(kind, condition)


def _compile_named(kind: str, condition: NamedCondition) -> Iterator[Condition]:
    for negated, patterns in _split(condition.values):
        if any(pattern.kind == "any" for pattern in patterns):
            yield kind, negated, condition.name, []
        else:
            yield kind, negated, condition.name, [_compile_text(pattern) for pattern in patterns]


def _compile_text(pattern: TextPattern) -> tuple[str, bytes]:
    if pattern.regex is None:
        return pattern.kind, encode(pattern.text)
    return "regex_caseless" if pattern.regex.caseless else "regex", pattern.regex.encode()


def _split(wanted: Iterable[Wanted[T]]) -> Iterator[tuple[bool, list[T]]]:
    """The plain values and the negated ones, each where there are any."""
    for negated in (False, True):
        values = [one.value for one in wanted if one.negated == negated]
        if values:
            yield negated, values
