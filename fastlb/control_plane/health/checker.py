"""The prober of the node: probes the backends of the configuration in force and says through `BackendStates` which are down.

Owns what is known of each backend, keyed by its identity: the verdict, the last result, the probe that runs, the start that is planned. A
reload keeps all of that for backends that stay as they are; one whose settings have changed keeps its verdict; those that go are forgotten
and their probes cancelled. What the last prober of this node found down begins down. It never touches a backend's admin state.

Everything happens on the loop's thread. What cannot be probed for a reason that lies with this machine (no descriptor left, no such
program) keeps its verdict.
"""

import os
import resource
import socket
import ssl
import struct
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from fastlb import FastlbError
from fastlb.control_plane.backend_states import BackendStates
from fastlb.control_plane.config.health import GRPC, HTTP, OFF, SCRIPT, UDP, Health, read_payload
from fastlb.control_plane.config.schema import CLIENT_SOURCE, Config, Pool
from fastlb.control_plane.groups import Row
from fastlb.control_plane.health.http import HttpProbe, Wanted, make_request, make_wanted
from fastlb.control_plane.health.result import Outcome, Result
from fastlb.control_plane.health.schedule import Planned, Schedule, first_delay, jittered
from fastlb.control_plane.health.script import ScriptProbe, make_environment
from fastlb.control_plane.health.tcp import Done, Place, TcpProbe, Tls
from fastlb.control_plane.health.udp import UdpProbe
from fastlb.control_plane.health.verdict import Judge, Verdict
from fastlb.control_plane.resolver import Endpoint
from fastlb.control_plane.snapshot import list_groups

# At a time. A connection takes a descriptor, of which probes use no more than half; a program takes a process.
MAX_CONNECTIONS = 1024
MAX_SCRIPTS = 32


class HealthError(FastlbError):
    """Probes cannot be made as the configuration wants them."""


class Probe(Protocol):
    def start(self) -> None: ...
    def cancel(self) -> None: ...


MakeProbe = Callable[[Done], Probe]
ContextKey = tuple[bool, str, bool]


@dataclass(frozen=True, slots=True)
class Wish:
    """What the configuration wants of one backend's probes."""

    row: Row
    health: Health
    context: ssl.SSLContext | None
    header: bytes = b""  # of the PROXY protocol
    source: str = ""  # the address that they come from


class Watch:
    """One backend that is probed.

    Args:
        wanted: what its answers have to be, where anything of them matters; shared by its pool.
    """

    __slots__ = ("due", "judge", "make_probe", "planned", "probe", "result", "schedule", "since", "wanted", "wish")

    def __init__(self, wish: Wish, wanted: Wanted | None, judge: Judge, now: float, schedule: Schedule) -> None:
        self.wish = wish
        self.wanted = wanted
        self.judge = judge
        self.since = now  # of the verdict
        self.schedule = schedule
        self.make_probe: MakeProbe | None = None  # made for the first probe: a thousand at once would make others wait
        self.due = now  # of the last start or the next one
        self.result: Result | None = None
        self.planned: Planned | None = None
        self.probe: Probe | None = None


class PoolWatch:
    """The backends of one pool that are probed."""

    def __init__(self) -> None:
        self.watches: dict[str, Watch] = {}
        self.is_out = False  # all are down, and that was said

    def are_all_down(self) -> bool:
        return bool(self.watches) and all(watch.judge.verdict is Verdict.DOWN for watch in self.watches.values())


class Checker:
    """Probes what `follow` was given last.

    Args:
        report: tells whoever runs fastlb one line.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        loop: AbstractEventLoop,
        states: BackendStates,
        report: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loop = loop
        self._states = states
        self._report = report
        self._clock = clock
        self._connections = Schedule(loop, min(MAX_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2), clock)
        self._scripts = Schedule(loop, MAX_SCRIPTS, clock)
        self._pools: dict[str, PoolWatch] = {}
        self._contexts: dict[ContextKey, ssl.SSLContext] = {}
        self._said: set[tuple[str, str]] = set()  # pools, and what keeps their backends from being probed

    # ------------------------------------------------------------------------------------------------ configurations
    def prepare(self, config: Config) -> None:
        """Makes what the probes of a configuration need and `follow` could only fail at: certificates are looked at here.

        Whatever can be made is made and kept, also where something else cannot.

        Raises:
            HealthError: there are no certificates where there should be some, or a package is missing.
        """
        load_probes(config)
        errors: list[str] = []
        for pool in config.pools:
            health = pool.health
            key = _context_key(health)
            if health.type == OFF or not health.tls or key in self._contexts:
                continue
            try:
                self._contexts[key] = _make_context(health)
            except ssl.SSLError as error:
                reason = (error.reason or "it holds none").lower().replace("_", " ")
                errors.append(f'pool "{pool.name}": cannot read the certificates in {health.tls_ca_file}: {reason}')
        if errors:
            raise HealthError("; ".join(errors))

    def follow(self, config: Config, endpoints: Mapping[str, Sequence[Endpoint]]) -> None:
        """Probes the backends of this configuration from now on, which has been put in force with these endpoints of its names."""
        before, self._pools = self._pools, {}
        self._said.clear()
        for pool in config.pools:
            known = before.get(pool.name)
            rows = [row for group in list_groups(pool, config.settings, endpoints) for row in group if row.address is not None]
            if pool.health.type == OFF:
                self._forget_verdicts(pool, rows)
            else:
                self._follow_pool(pool, rows, known)
        kept = {id(watch) for pool_watch in self._pools.values() for watch in pool_watch.watches.values()}
        for known in before.values():
            for watch in known.watches.values():
                if id(watch) not in kept:
                    self._stop(watch)
        used = {_context_key(pool.health) for pool in config.pools}
        self._contexts = {key: context for key, context in self._contexts.items() if key in used}

    def close(self) -> None:
        """No probe runs or begins any more, until `follow`. What was found stays in shared memory."""
        for pool in self._pools.values():
            for watch in pool.watches.values():
                self._stop(watch)
        self._pools = {}

    def _follow_pool(self, pool: Pool, rows: Sequence[Row], known: PoolWatch | None) -> None:
        self._pools[pool.name] = now = PoolWatch()
        wanted = make_wanted(pool.health) if pool.health.type in (HTTP, UDP) else None
        for row in rows:
            watch = self._follow_backend(pool, row, wanted, known.watches.get(row.identity) if known is not None else None)
            if watch is not None:
                now.watches[row.identity] = watch
        # What the last prober left down is no news.
        now.is_out = known.is_out if known is not None else now.are_all_down()
        self._look_at_pool(pool.name)

    def _follow_backend(self, pool: Pool, row: Row, wanted: Wanted | None, watch: Watch | None) -> Watch | None:
        """Begins to watch a backend, or goes on; None: it is not in the snapshot that is in force, so another one follows soon."""
        health = pool.health
        context = self._contexts.get(_context_key(health)) if health.tls else None
        if health.tls and context is None:
            return None  # prepare has said why
        # Another port is another service, which need not know the protocol.
        wish = Wish(row, health, context, b"" if health.port else pool.proxy_protocol.of_probes, own_source(pool))
        if watch is not None and _asks_the_same(watch.wish, wish):
            # A weight or a priority has changed at most, which may happen more often than a probe of who hangs takes.
            if watch.wish != wish:
                watch.wish, watch.make_probe = wish, None  # a program is told the weight; one that runs goes on
            return watch
        now = self._clock()
        schedule = self._scripts if health.type == SCRIPT else self._connections
        if watch is None:
            try:
                was_up = self._states.get(row.identity).up
            except KeyError:
                return None
            judge = Judge(health.rise, health.fall, Verdict.UNDECIDED if was_up else Verdict.DOWN)
            watch = Watch(wish, wanted, judge, now, schedule)
        else:
            self._stop(watch)
            watch.wish, watch.wanted, watch.schedule, watch.make_probe = wish, wanted, schedule, None
            watch.judge.rise, watch.judge.fall = health.rise, health.fall
        self._plan(watch, now + first_delay(min(health.fast_interval_ms, health.interval_ms) / 1000))
        return watch

    def _forget_verdicts(self, pool: Pool, rows: Sequence[Row]) -> None:
        """Nobody probes this pool, so none of its backends is down for that: the configuration before had probes, perhaps."""
        for row in rows:
            try:
                if self._states.get(row.identity).up:
                    continue
            except KeyError:
                continue
            self._states.set_health(row.identity, True)
            self._report(f'backend {row.display} of pool "{pool.name}" is not probed any more, and counts as up')

    def _stop(self, watch: Watch) -> None:
        if watch.planned is not None:
            watch.schedule.cancel(watch.planned)
            watch.planned = None
        if watch.probe is not None:
            watch.probe.cancel()
            watch.probe = None
            watch.schedule.ended()

    # ------------------------------------------------------------------------------------------------ probes
    def _plan(self, watch: Watch, due: float) -> None:
        watch.due = due
        watch.planned = watch.schedule.plan(due, partial(self._begin, watch))

    def _begin(self, watch: Watch) -> None:
        watch.planned = None
        if watch.make_probe is None:
            watch.make_probe = make_maker(self._loop, watch.wish, watch.wanted)
        watch.probe = watch.make_probe(partial(self._take, watch))
        watch.probe.start()

    def _take(self, watch: Watch, result: Result) -> None:
        watch.probe = None
        watch.schedule.ended()
        watch.result = result
        health = watch.wish.health
        wait_ms = health.interval_ms
        if result.outcome is Outcome.UNKNOWN:
            self._say_unknown(watch, result)
        else:
            before, passed = watch.judge.verdict, result.outcome is Outcome.PASSED
            is_news = watch.judge.note(passed)
            if watch.judge.verdict is (Verdict.UP if passed else Verdict.DOWN):
                self._keep_true(watch.wish.row.identity, passed)
            if is_news:
                self._tell_verdict(watch, before, result)
            if not watch.judge.is_settled:
                wait_ms = min(health.fast_interval_ms, wait_ms)
        # From start to start, so that how long a probe takes makes no difference; one that took longer is followed at once.
        self._plan(watch, max(self._clock(), watch.due + jittered(wait_ms / 1000)))

    def _say_unknown(self, watch: Watch, result: Result) -> None:
        pool = _pool_of(watch.wish.row)
        if (pool, result.text) not in self._said:
            self._said.add((pool, result.text))
            self._report(f'backends of pool "{pool}" cannot be probed, and stay what they are: {result.text}')

    def _keep_true(self, identity: str, is_up: bool) -> None:
        """Has shared memory say what was found, also where somebody else has written since: the prober of a fastlb that is about to end."""
        with suppress(KeyError):  # its row is gone: another configuration follows soon
            if self._states.get(identity).up is not is_up:
                self._states.set_health(identity, is_up)

    def _tell_verdict(self, watch: Watch, before: Verdict, result: Result) -> None:
        watch.since = self._clock()
        is_up = watch.judge.verdict is Verdict.UP
        if is_up and before is Verdict.UNDECIDED:
            return  # that counted as up already
        pool, n = _pool_of(watch.wish.row), watch.judge.in_a_row
        what = f"is up again: {n} of {n} checks passed" if is_up else f"is down: {n} of {n} checks failed"
        output = f", which wrote: {result.output}" if result.output and not is_up else ""
        self._report(f'backend {watch.wish.row.display} of pool "{pool}" {what}, last: {result.text}{output}')
        self._look_at_pool(pool)

    def _look_at_pool(self, name: str) -> None:
        """Says it when the last backend goes down, and when there is one again."""
        pool = self._pools[name]
        n = len(pool.watches)
        is_out = pool.are_all_down()
        if is_out != pool.is_out:
            pool.is_out = is_out
            all_of_them = f"all {n} are down" if n > 1 else "its only one is down"
            self._report(f'pool "{name}" has NO BACKEND LEFT: {all_of_them}' if is_out else f'pool "{name}" has a backend again')

    # ------------------------------------------------------------------------------------------------ for people
    def describe(self) -> dict[str, Any]:
        """What is known, for JSON: of each backend that is probed, and of the probes together."""
        schedules = (self._connections, self._scripts)
        return {
            "backends": list(self._describe_backends()),
            "probes": {
                "started": sum(schedule.started for schedule in schedules),
                "running": sum(schedule.running for schedule in schedules),
                "waiting": sum(schedule.waiting for schedule in schedules),
                # Of the last minute or two: how late the latest start was.
                "latest_ms": round(max(schedule.latest_seconds for schedule in schedules) * 1000, 1),
            },
        }

    def _describe_backends(self) -> Iterator[dict[str, Any]]:
        now = self._clock()
        for name, pool in self._pools.items():
            for identity, watch in pool.watches.items():
                result = watch.result
                yield {
                    "pool": name,
                    "backend": watch.wish.row.display,
                    "identity": identity,
                    "type": watch.wish.health.type,
                    "verdict": str(watch.judge.verdict),
                    "since_seconds": round(now - watch.since, 1),
                    "last": None if result is None else result.outcome.value,
                    "text": "" if result is None else result.text,
                    "output": "" if result is None else result.output,
                    "latency_us": 0 if result is None else result.latency_us,
                    "in_a_row": watch.judge.in_a_row,
                    "next_ms": 0 if watch.probe is not None else max(0, round((watch.due - now) * 1000)),
                }


def _pool_of(row: Row) -> str:
    return row.identity.partition("|")[0]  # a pool's name has no such character


def own_source(pool: Pool) -> str:
    """Where probes of a pool come from: they are nobody's but our own."""
    return pool.source_address if pool.source_address != CLIENT_SOURCE else ""


def _asks_the_same(one: Wish, other: Wish) -> bool:
    """Whether a probe for one of them is as good for the other."""
    return one.row.address == other.row.address and replace(one, row=other.row) == other


def _context_key(health: Health) -> ContextKey:
    assert bool(health.authorities) == bool(health.tls_ca_file), "read_authorities has read the file"
    return health.tls_verify, health.authorities, health.type == GRPC


def _make_context(health: Health) -> ssl.SSLContext:
    if health.tls_verify:
        context = ssl.create_default_context(cadata=health.authorities or None)
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if health.type == GRPC:
        context.set_alpn_protocols(["h2"])
    context.options |= ssl.OP_NO_RENEGOTIATION  # whoever asked for it could keep a probe busy until its time-out
    return context


def load_probes(config: Config) -> None:
    """Imports what the probes of a configuration need and others do without: at the start, before privileges are dropped.

    Raises:
        HealthError: it is not installed.
    """
    if all(pool.health.type != GRPC for pool in config.pools):
        return
    try:
        import fastlb.control_plane.health.grpc  # noqa: F401
    except ImportError as error:
        right = "start fastlb again: it loads it before it drops privileges"
        raise HealthError(f'health type "grpc" needs the package hpack, which cannot be imported ({error}); {right}') from error


def make_maker(loop: AbstractEventLoop, wish: Wish, wanted: Wanted | None) -> MakeProbe:
    """What makes the probes of one backend; everything that is the same for all of them is made here."""
    health, row = wish.health, wish.row
    assert row.address is not None
    place = replace(read_address(row.address), header=wish.header, source=wish.source)
    written = row.backend.address
    if health.type == SCRIPT:
        host, port = (place.address, 0) if isinstance(place.address, str) else place.address
        environment = make_environment(_pool_of(row), row.display, host, port, row.backend.weight)
        return lambda done: ScriptProbe(loop, health.command, environment, health.timeout_ms, done)
    if health.port and not isinstance(place.address, str):
        place = Place(place.family, (place.address[0], health.port), source=wish.source)
    if health.type == UDP:
        assert wanted is not None
        place, payload = replace(place, header=b""), read_payload(health.send)
        return lambda done: UdpProbe(loop, place, health.timeout_ms, done, payload, wanted, health.reply)
    tls = None
    if wish.context is not None:
        asked = health.host.rpartition(":")[0] if health.host.rpartition(":")[2].isdecimal() else health.host
        own = row.table_name.rpartition(":")[0] if written.is_service else written.host
        tls = Tls(wish.context, health.tls_server_name or asked.strip("[]") or own.strip("[]"))
    if wanted is not None:
        request = make_request(health, _host_of(row, health))
        return lambda done: HttpProbe(loop, place, health.timeout_ms, tls, done, request, wanted)
    if health.type == GRPC:
        from fastlb.control_plane.health.grpc import GrpcProbe, make_call

        call = make_call(health, _host_of(row, health))
        return lambda done: GrpcProbe(loop, place, health.timeout_ms, tls, done, call)
    return lambda done: TcpProbe(loop, place, health.timeout_ms, tls, done)


def _host_of(row: Row, health: Health) -> str:
    """What stands in `Host`: the address as it was written, without the port that the scheme implies."""
    written = row.backend.address
    if written.unix_path:
        return "localhost"
    text = row.table_name if written.is_service else str(written)
    return text.removesuffix(":443" if health.tls else ":80")


def read_address(address: bytes) -> Place:
    """A sockaddr, as a snapshot holds it."""
    (family,) = struct.unpack_from("=H", address)
    if family == socket.AF_UNIX:
        return Place(socket.AF_UNIX, os.fsdecode(address[2:].split(b"\0", 1)[0]))
    (port,) = struct.unpack_from(">H", address, 2)
    if family == socket.AF_INET:
        return Place(socket.AF_INET, (socket.inet_ntop(family, address[4:8]), port))
    return Place(socket.AF_INET6, (socket.inet_ntop(socket.AF_INET6, address[8:24]), port))
