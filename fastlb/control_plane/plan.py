"""What a reload would change, before it does: `fastlb plan`.

A pure function of two configurations. It compares what they do and not how they are written: order, comments and defaults that are spelled
out make no difference. For pools whose algorithm hashes, the real pickers tell which share of keys would go to another backend.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from itertools import pairwise
from typing import Any

from fastlb.balancer import Balancer
from fastlb.control_plane.config.option import InnerTable, TextOrTable
from fastlb.control_plane.config.route_options import Fields
from fastlb.control_plane.config.route_overlaps import find_shadowed
from fastlb.control_plane.config.schema import CONSISTENT_HASH, HASH, IP_HASH, MAGLEV, Backend, Config, GlobalSettings, Pool, Route
from fastlb.control_plane.config.writer import SECRETS, hide, show, write_table, write_value
from fastlb.control_plane.groups import Row, order_rows
from fastlb.control_plane.reading import READ_ONCE, needs_more_room

HASHING = frozenset((IP_HASH, HASH, CONSISTENT_HASH, MAGLEV))
# So many tell a share to within one percent, 99 times of 100.
KEYS_TRIED = 10_000

# Which requests a route takes; the rest of it is what happens to them.
_MATCHING = ("hosts", "path", "methods", "headers", "query", "cookies", "clients", "listeners")
_MARKS = {"added": "+", "removed": "-", "changed": "~", "shadowed": "!", "reached": "~", "reordered": "~"}
NOTHING = "nothing"  # where there was, or is, no such field


@dataclass(frozen=True, slots=True)
class Difference:
    """One option of something that changes, its values as TOML."""

    key: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that differs.

    Args:
        what: global, access_log, listener, route, pool, backend or certificate.
        name: of it; of a certificate its file, of a backend its address, of a route its name, or hosts and path.
        how: added, removed, changed; of a route also shadowed (no request reaches it any more), reached (again) and reordered.
        pool: of a backend.
        notes: what it means, where that is not plain.
        remapped: of a pool that hashes: the share of keys that go to another backend.
    """

    what: str
    name: str
    how: str
    differences: tuple[Difference, ...] = ()
    notes: tuple[str, ...] = ()
    pool: str = ""
    remapped: float | None = None

    def lines(self) -> list[str]:
        """For people."""
        title = f"{_MARKS[self.how]} {self.what} {self.name}".rstrip() + (f" of pool {self.pool}" if self.pool else "")
        told = [f"{one.key}: {one.before} → {one.after}" for one in self.differences]
        if self.remapped is not None:
            told.append(f"{self.remapped:.1%} of keys go to another backend".replace("%", " %"))
        return [f"{title} ({self.how})", *(f"    {line}" for line in (*told, *self.notes))]

    def as_json(self) -> dict[str, Any]:
        written: dict[str, Any] = {"what": self.what, "name": self.name, "how": self.how}
        written["differences"] = [{"key": one.key, "before": one.before, "after": one.after} for one in self.differences]
        written["notes"] = list(self.notes)
        if self.pool:
            written["pool"] = self.pool
        if self.remapped is not None:
            written["remapped"] = round(self.remapped, 4)
        return written


def make_plan(old: Config, new: Config, keys: int = KEYS_TRIED) -> list[Change]:
    """What changes from one configuration to the next; nothing where they do the same.

    Args:
        keys: how many are tried with each pool that hashes.
    """
    return [
        *_plan_settings(old, new),
        *_plan_listeners(old, new),
        *_plan_routes(old, new),
        *_plan_pools(old, new, keys),
    ]


def _plan_settings(old: Config, new: Config) -> Iterator[Change]:
    differences = _compare(old.settings, new.settings)
    if differences:
        keys = {one.key for one in differences}
        notes = [f"{key} is read once, at the start: it waits for the next one" for key in READ_ONCE if key in keys]
        if needs_more_room(old.settings.max_connections, new.settings.max_connections):
            notes.append("max_connections can only be lowered while fastlb runs: more than at the start waits for the next one")
        if keys & {"sticky_key", "sticky_key_file"}:
            notes.append("with another key all sticky cookies are void, and their clients are picked a backend anew")
        yield Change("global", "", "changed", differences, tuple(notes))
    if old.access_log != new.access_log:
        kind = _kind_of(Config, "access_log")
        before, after = (show(write_value(config.access_log, kind)) for config in (old, new))
        yield Change("access_log", "", "changed", (Difference("access_log", before, after),))


def _plan_listeners(old: Config, new: Config) -> Iterator[Change]:
    before = {listener.name: listener for listener in old.listeners}
    after = {listener.name: listener for listener in new.listeners}
    for name, listener in before.items():
        if name not in after:
            binds = ", ".join(map(str, listener.bind))
            yield Change(
                "listener", name, "removed", notes=(f"{binds}: closed; its clients get one more answer and are told to come again",)
            )
    for name, listener in after.items():
        if name not in before:
            yield Change("listener", name, "added", notes=(f"accepts at {', '.join(map(str, listener.bind))}",))
        elif differences := _compare(before[name], listener):
            yield Change("listener", name, "changed", differences)


# ---------------------------------------------------------------------------------------------------- routes
def _plan_routes(old: Config, new: Config) -> Iterator[Change]:
    pairs, removed, added = _pair(old.routes, new.routes)
    for route in removed:
        yield Change("route", _title(route), "removed", notes=("its requests go to the next route that fits, or are answered with 404",))
    for route in added:
        yield Change("route", _title(route), "added", notes=(_say_what_happens(route),))
    for before, after in pairs:
        if differences := _compare(before, after):
            yield Change("route", _title(after), "changed", differences)
    yield from _plan_order(old, new, pairs)
    was = {_match_of(route) for route, _ in find_shadowed(old.routes)}
    now = {_match_of(route): (route, other) for route, other in find_shadowed(new.routes)}
    for key, (route, other) in now.items():
        if key not in was:
            yield Change("route", _title(route), "shadowed", notes=(f"never reached: {_title(other)} takes all of its requests",))
    for _, after in pairs:
        if _match_of(after) in was and _match_of(after) not in now:
            yield Change("route", _title(after), "reached", notes=("no other route takes all of its requests any more",))


def _pair(old: Iterable[Route], new: Iterable[Route]) -> tuple[list[tuple[Route, Route]], list[Route], list[Route]]:
    """Routes that are the same, by what they match, else by their name; and those that are there only before or only after."""
    pairs: list[tuple[Route, Route]] = []
    left, right = list(old), list(new)
    for key_of in (_match_of, lambda route: route.name or id(route)):
        waiting: dict[Any, list[Route]] = defaultdict(list)
        for route in left:
            waiting[key_of(route)].append(route)
        unpaired = []
        for route in right:
            same = waiting.get(key_of(route))
            if same:
                pairs.append((same.pop(0), route))
            else:
                unpaired.append(route)
        left = [route for routes in waiting.values() for route in routes]
        right = unpaired
    return pairs, left, right


def _plan_order(old: Config, new: Config, pairs: Iterable[tuple[Route, Route]]) -> Iterator[Change]:
    """Routes with conditions whose order within their location is another one: the first that fits takes a request."""
    was = {id(route): number for number, route in enumerate(old.routes)}
    now = {id(route): number for number, route in enumerate(new.routes)}
    locations: dict[tuple[str, str, bool], list[tuple[Route, Route]]] = defaultdict(list)
    for before, after in sorted(pairs, key=lambda pair: now[id(pair[1])]):
        for host in after.hosts if not after.is_unconditional() else ():
            locations[host, after.path.literal, after.path.exact].append((before, after))
    told: set[int] = set()
    for rules in locations.values():
        for (before, after), (next_before, next_after) in pairwise(rules):
            if was[id(before)] > was[id(next_before)] and id(after) not in told:
                told.add(id(after))
                yield Change("route", _title(after), "reordered", notes=(f"tried before {_title(next_after)} now",))


def _match_of(route: Route) -> tuple[Any, ...]:
    return tuple(getattr(route, name) for name in _MATCHING)


def _title(route: Route) -> str:
    """What people call a route."""
    where = ", ".join(f"{host or '*'}{route.path}" for host in route.hosts)
    matching = write_table(route)
    conditions = [
        f"{key} = {show(matching[key])}" for key in ("method", "headers", "query", "cookies", "clients", "listener") if key in matching
    ]
    told = " ".join((where, *conditions))
    return f"{route.name} ({told})" if route.name else told


def _say_what_happens(route: Route) -> str:
    shares = route.pool.shares
    if len(shares) == 1:
        return f"goes to pool {shares[0][0]}"
    if shares:
        return f"goes to the pools {', '.join(f'{name} (weight {weight})' for name, weight in shares)}"
    return f"redirects to {route.redirect.to}" if route.redirect.to else "is answered here"


# ---------------------------------------------------------------------------------------------------- pools
def _plan_pools(old: Config, new: Config, keys: int) -> Iterator[Change]:
    before, after = ({pool.name: pool for pool in config.pools} for config in (old, new))
    for name, pool in before.items():
        if name not in after:
            yield Change("pool", name, "removed", notes=(f"{_count(pool)}: no new requests; what is in flight there ends",))
    for name, pool in after.items():
        if name not in before:
            yield Change("pool", name, "added", notes=(f"{_count(pool)}, {pool.algorithm}",))
            continue
        was = before[name]
        differences = _compare(was, pool)
        moved = _measure(was, old.settings, pool, new.settings, keys)
        notes = _note_sticky(was, pool)
        if was.hash_key != pool.hash_key and pool.algorithm in HASHING:
            notes += ("hashed by something else, requests keep no backend",)
        if differences or moved:
            yield Change("pool", name, "changed", differences, notes, remapped=moved)
        yield from _plan_backends(was, pool)


def _note_sticky(was: Pool, now: Pool) -> tuple[str, ...]:
    keys = ("cookie", "learn", "source")
    if any(getattr(was.sticky, key) != getattr(now.sticky, key) for key in keys) and any(getattr(was.sticky, key) for key in keys):
        return ("clients that stick to a backend are picked one anew",)
    return ()


def _plan_backends(was: Pool, now: Pool) -> Iterator[Change]:
    before, after = ({str(backend.address): backend for backend in pool.backends} for pool in (was, now))
    for address in before:
        if address not in after:
            yield Change("backend", address, "removed", notes=("no new requests; what is in flight there ends",), pool=now.name)
    for address, backend in after.items():
        if address not in before:
            yield Change("backend", address, "added", notes=(f"weight {backend.weight}",), pool=now.name)
        elif differences := _compare(before[address], backend):
            yield Change("backend", address, "changed", differences, pool=now.name)


def _measure(was: Pool, was_settings: GlobalSettings, now: Pool, now_settings: GlobalSettings, keys: int) -> float | None:
    """The share of keys that go to another backend; None where the pool hashes no keys, now or before, or nothing of it has changed."""
    if was.algorithm not in HASHING or now.algorithm not in HASHING:
        return None
    before, after = _first_group(was, was_settings), _first_group(now, now_settings)
    if (was.algorithm, before) == (now.algorithm, after) or not before or not after:
        return None
    old, new = Balancer(before, was.algorithm), Balancer(after, now.algorithm)
    moved = 0
    for number in range(keys):
        key = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"  # an address, as ip_hash wants one
        moved += old.pick(key) != new.pick(key)
    return moved / keys


def _first_group(pool: Pool, settings: GlobalSettings) -> dict[str, int]:
    """The weights of the backends that get requests while all are well."""
    rows = [Row(backend, f"{pool.name}|{backend.address}", "", str(backend.address), b"") for backend in pool.backends if backend.weight]
    groups = order_rows(rows, pool, settings)
    return {row.table_name: row.backend.weight for row in groups[0]} if groups else {}


def _count(pool: Pool) -> str:
    return f"{len(pool.backends)} backend{'' if len(pool.backends) == 1 else 's'}"


# ---------------------------------------------------------------------------------------------------- options
def _compare(before: Any, after: Any) -> tuple[Difference, ...]:
    """The options of two tables of one class that differ. Backends are compared by themselves."""
    if before == after:
        return ()
    old, new = dict(_flatten(before)), dict(_flatten(after))
    keys = dict.fromkeys((*old, *new))
    return tuple(Difference(key, old.get(key, NOTHING), new.get(key, NOTHING)) for key in keys if old.get(key) != new.get(key))


def _flatten(table: Any, above: str = "") -> Iterator[tuple[str, str]]:
    """Every option with its value as TOML, defaults too."""
    for field in fields(table):
        if "key" not in field.metadata or field.metadata["inner"] is Backend:
            continue
        kind, value = field.metadata["kind"], getattr(table, field.name)
        key = f"{above}{field.metadata['key']}"
        if isinstance(kind, InnerTable | TextOrTable) and is_dataclass(value):
            yield from _flatten(value, f"{key}.")
        elif isinstance(kind, Fields):
            yield from ((f"{key}.{name}", show(text)) for name, text in write_value(value, kind).items())
        else:
            yield key, show(hide(value) if field.metadata["key"] in SECRETS else write_value(value, kind))


def _kind_of(cls: type, name: str) -> Any:
    return next(field.metadata["kind"] for field in fields(cls) if field.name == name)
