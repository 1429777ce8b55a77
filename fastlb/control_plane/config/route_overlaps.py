"""Routes that meet: those that can never be reached, and those whose order decides.

Routes meet in a location: a host with the literal part of a path. There the first one that matches wins, whatever the file has between
them, and one without conditions comes last.
"""

from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations
from typing import TypeVar

from fastlb.control_plane.config.errors import Place, quote
from fastlb.control_plane.config.reader import Reader
from fastlb.control_plane.config.request_condition import NamedCondition, Wanted
from fastlb.control_plane.config.schema import Listener, Route
from fastlb.control_plane.config.toml import KeyPath

# Rules of one location are tried one after the other: some 20 to 100 ns each.
MOST_RULES = 50

# Beyond this many in one location, comparing each with each would be felt.
MOST_COMPARED = 500

T = TypeVar("T")
Entry = tuple[KeyPath, Route]


def check_overlaps(reader: Reader) -> None:
    """Two routes for the same requests are an error; what else is probably not meant is a warning."""
    locations: dict[tuple[str, str, bool], list[Entry]] = {}
    listeners = [listener for _, listener in reader.all_read(Listener)]
    others = tuple(listener.name for listener in listeners if not listener.redirect_https)
    for path, read in reader.all_read(Route):
        # A listener that redirects knows the routes that name it, and no others.
        route = replace(read, listeners=others) if others and not read.listeners and len(others) < len(listeners) else read
        for host in route.hosts:
            locations.setdefault((host, route.path.literal, route.path.exact), []).append((path, route))
    warned: set[KeyPath] = set()
    for (host, literal, exact), entries in locations.items():
        where = f"host {quote(host or '*')} and path {quote(('=' if exact else '') + literal)}"
        _check_unconditional(reader, where, [entry for entry in entries if entry[1].is_unconditional()])
        rules = [entry for entry in entries if not entry[1].is_unconditional()]
        _check_rules(reader, where, rules[:MOST_COMPARED], warned)
        if len(rules) > MOST_RULES and rules[MOST_RULES][0] not in warned:
            warned.add(rules[MOST_RULES][0])
            found = f"{len(rules)} routes with conditions have {where}"
            reader.warn(rules[MOST_RULES][0], found, f"they are tried one after the other: more than {MOST_RULES} of them take time")


def find_shadowed(routes: Iterable[Route]) -> list[tuple[Route, Route]]:
    """Routes that no request reaches, each with the one that takes its requests in some location."""
    locations: dict[tuple[str, str, bool], list[Route]] = {}
    for route in routes:
        if not route.is_unconditional():
            for host in route.hosts:
                locations.setdefault((host, route.path.literal, route.path.exact), []).append(route)
    shadowed: dict[int, tuple[Route, Route]] = {}
    for rules in locations.values():
        for earlier, later in combinations(rules[:MOST_COMPARED], 2):
            if earlier is not later and _share_listeners(earlier, later) and _covers(earlier, later):
                shadowed.setdefault(id(later), (later, earlier))
    return list(shadowed.values())


def _check_unconditional(reader: Reader, where: str, entries: list[Entry]) -> None:
    for index, (path, route) in enumerate(entries):
        for first, other in entries[:index]:
            if _share_listeners(route, other):
                found = f"a second route for {where}"
                reader.reject_key(path, found, f"the first is {_at(reader, first)}: keep one of them")
                break


def _check_rules(reader: Reader, where: str, rules: list[Entry], warned: set[KeyPath]) -> None:
    for (first, earlier), (path, later) in combinations(rules, 2):
        if path in warned or first == path or not _share_listeners(earlier, later):
            continue
        if _covers(earlier, later):
            warned.add(path)
            found = f"this route is never reached: for {where} the one {_at(reader, first)} takes all of its requests"
            reader.warn(path, found, "keep one of them, or put the one with more conditions first")
        elif not _covers(later, earlier) and not _does_the_same(earlier, later) and _may_both_match(earlier, later):
            warned.add(path)
            found = f"for {where} some requests match this route and the one {_at(reader, first)}"
            reader.warn(path, found, "they take that one, as it comes first")


def _covers(earlier: Route, later: Route) -> bool:
    """Whether whatever the later one matches the earlier one does too, as far as their texts tell."""
    everywhere = not earlier.listeners or (bool(later.listeners) and set(later.listeners) <= set(earlier.listeners))
    same_path = earlier.path.regex is None or earlier.path.regex == later.path.regex
    return everywhere and same_path and _conditions(earlier) <= _conditions(later)


def _does_the_same(one: Route, other: Route) -> bool:
    """Whether both do the same with a request: then it makes no difference which one takes it."""
    matching = {
        name: getattr(one, name) for name in ("hosts", "path", "methods", "headers", "query", "cookies", "clients", "listeners", "name")
    }
    return replace(other, **matching) == one


def _conditions(route: Route) -> set[tuple[str, object]]:
    named = {(kind, one) for kind in ("headers", "query", "cookies") for one in getattr(route, kind)}
    plain = {(kind, frozenset(getattr(route, kind))) for kind in ("methods", "clients") if getattr(route, kind)}
    return {*named, *plain}


def _may_both_match(one: Route, other: Route) -> bool:
    """Whether some request may match both. Of two regular expressions nobody can tell; that is no reason to warn."""
    if one.path.regex is not None and other.path.regex is not None:
        return False
    if _are_apart(_plain(one.methods), _plain(other.methods)):
        return False
    clients, others = _plain(one.clients), _plain(other.clients)
    if clients and others and not any(a.version == b.version and a.overlaps(b) for a in clients for b in others):
        return False
    return not any(_exclude(getattr(one, kind), getattr(other, kind)) for kind in ("headers", "query", "cookies"))


def _exclude(ones: Iterable[NamedCondition], others: Iterable[NamedCondition]) -> bool:
    """Whether some name would need two different values at once."""
    for one in ones:
        for other in others:
            if one.name.casefold() != other.name.casefold():
                continue
            first, second = _plain(one.values), _plain(other.values)
            if all(pattern.kind == "exact" for pattern in (*first, *second)) and _are_apart(first, second):
                return True
            if any(value.negated for value in one.values) != any(value.negated for value in other.values) and (
                {value.value for value in one.values} == {value.value for value in other.values}
            ):
                return True
    return False


def _plain(values: Iterable[Wanted[T]]) -> list[T]:
    return [one.value for one in values if not one.negated]


def _are_apart(ones: list[T], others: list[T]) -> bool:
    return bool(ones) and bool(others) and not set(ones) & set(others)


def _share_listeners(one: Route, other: Route) -> bool:
    return not one.listeners or not other.listeners or bool(set(one.listeners) & set(other.listeners))


def _at(reader: Reader, path: KeyPath) -> str:
    place: Place = reader.source.key_place(path)
    return f"in line {place.line}" if place.line else str(place)
