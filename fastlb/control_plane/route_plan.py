"""From the routes of a configuration to the route table of a snapshot: which request takes which of them.

Listeners that know the same routes share a set of hosts. The first set has the routes of no particular listener; clients of a listener that
is gone use it.
"""

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import TypeVar

from fastlb import _core
from fastlb.control_plane.config.regex_pattern import encode
from fastlb.control_plane.config.request_condition import NamedCondition, TextPattern, Wanted
from fastlb.control_plane.config.schema import Config, Route

T = TypeVar("T")

Value = str | IPv4Network | IPv6Network | tuple[str, bytes]
Condition = tuple[str, bool, str, Sequence[Value]]


def choose_host_sets(config: Config) -> list[int]:
    """Of each listener the number of its host set."""
    common = _routes_of(config, None)
    sets = [common]
    numbers = []
    for listener in config.listeners:
        known = _routes_of(config, listener.name)
        if known not in sets:
            sets.append(known)
        numbers.append(sets.index(known))
    return numbers


def build_route_table(config: Config, indexes: Sequence[int]) -> bytes:
    """Compiles what routes match.

    Args:
        indexes: of each route what SnapshotWriter.add_route returned.
    """
    host_sets = choose_host_sets(config)
    listeners = {listener.name: number for listener, number in zip(config.listeners, host_sets, strict=True)}
    everywhere = range(max(host_sets, default=0) + 1)
    writer = _core.RouteTableWriter(len(everywhere))
    for route, index in zip(config.routes, indexes, strict=True):
        regex = route.path.regex
        for host in route.hosts:
            writer.add_rule(
                index,
                host=host,
                path=encode(route.path.literal),
                exact=route.path.exact,
                regex=None if regex is None else (regex.encode(), regex.caseless),
                conditions=list(compile_conditions(route)),
                host_sets=sorted({listeners[name] for name in route.listeners}) if route.listeners else everywhere,
            )
    return writer.finish()


def _routes_of(config: Config, listener: str | None) -> tuple[int, ...]:
    return tuple(number for number, route in enumerate(config.routes) if not route.listeners or listener in route.listeners)


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
