"""The controller: makes snapshots of configurations and has the supervisor put them in force.

Owns the configuration, the names of backends and the admin API. It has no privileges and is not needed for serving: when it dies, the
workers go on, and the next one takes up what it left with the supervisor.
"""

import asyncio
import os
import pickle
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import uvloop

from fastlb import BUILD_ID, FastlbError, _core
from fastlb.control_plane.admin.app import make_app
from fastlb.control_plane.admin.server import AdminServer
from fastlb.control_plane.backend_states import AdminState, BackendStates
from fastlb.control_plane.config.loader import Loaded, load_file
from fastlb.control_plane.config.log_destination import LogDestination
from fastlb.control_plane.config.schema import MAX_WEIGHT, UDP, Config, Listener
from fastlb.control_plane.draining import Drains
from fastlb.control_plane.health.authorities import read_authorities
from fastlb.control_plane.health.checker import Checker, HealthError
from fastlb.control_plane.log_plan import log_destinations
from fastlb.control_plane.metrics.meters import Meters
from fastlb.control_plane.names import RETRY_SECONDS, Names
from fastlb.control_plane.reading import Reading
from fastlb.control_plane.reloads import Outcome, Reloads
from fastlb.control_plane.resolver import Endpoint, Resolver, believe_endpoints
from fastlb.control_plane.snapshot import build_image
from fastlb.control_plane.sticky_key import StickyKey, StickyKeyError, load_sticky_key
from fastlb.control_plane.tls.automation import Automation, AutomationError
from fastlb.control_plane.tls.keeper import TlsKeeper
from fastlb.control_plane.tls.material import NO_MATERIAL, Material, load_material
from fastlb.control_plane.tls.tickets import TicketKeys
from fastlb.control_plane.weights import Weights, keep_weights
from fastlb.processes.channel import Channel, ChannelError
from fastlb.processes.cpus import usable_cpus
from fastlb.processes.memory_lock import changing_rows
from fastlb.processes.messages import (
    AdminSocket,
    Applied,
    Apply,
    Cut,
    CutDone,
    DrainAll,
    FromController,
    Hello,
    LeaveAdmin,
    ListenerBinds,
    LogTarget,
    Ping,
    Pong,
    Processes,
    ProcessState,
    Rejected,
    Reread,
    Stop,
    ToController,
    Upgrade,
    Upgraded,
)
from fastlb.processes.output import report, report_warnings

# How long a snapshot waits for names that are new; most answers take a few milliseconds.
FIRST_NAMES_SECONDS = 1.0
# A worker that stands still is killed before that.
CUT_SECONDS = 15.0


class ApplyError(FastlbError):
    """A configuration that could not be put in force; nothing has changed."""


class UpgradeError(FastlbError):
    """A new fastlb that has not taken over; nothing has changed."""


@dataclass(frozen=True, slots=True)
class ControllerOptions:
    """What a controller is told.

    Args:
        config: what to begin with, unless a predecessor left something.
        override: what the command line said holds for every file that is read later, too.
        sticky_key: that of `config`, read with the privileges that fastlb was started with.
        weights: that the operator had put in the place of configured ones when the fastlb before this one ran.
        endpoints: what names stood for then.
        tls: what the files of `config` hold, as it can be used; read likewise.
        ticket_keys: of the fastlb before this one, so that sessions of its clients can be resumed.
        states: of backends, by identity, as a fastlb with another shared memory left them; for their rows when they are made.
    """

    config: Config
    override: Callable[[Loaded], Loaded] = lambda loaded: loaded
    sticky_key: StickyKey | None = None
    states: Mapping[str, int] = field(default_factory=dict)
    weights: Weights = field(default_factory=dict)
    endpoints: Mapping[str, Sequence[tuple[str, int, int, int]]] = field(default_factory=dict)
    tls: Material = NO_MATERIAL
    ticket_keys: TicketKeys = field(default_factory=TicketKeys)


def run_controller(channel: Channel[ToController], shared: _core.SharedMemory, state_fd: int | None, options: ControllerOptions) -> None:
    """Works until the supervisor says otherwise or is gone."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    loop = uvloop.new_event_loop()
    loop.run_until_complete(Controller(loop, channel, shared, options).run(_read_state(state_fd)))


class Controller:
    """One configuration at a time, and what keeps it true."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, channel: Channel[ToController], shared: _core.SharedMemory, options: ControllerOptions
    ) -> None:
        self._loop = loop
        self._channel = channel
        self._shared = shared
        self._options = options
        self._stopped = asyncio.Event()
        self._has_left = False  # another fastlb works on the same memory, and says how backends are
        self._applying = asyncio.Lock()
        self._answer: asyncio.Future[Applied | Rejected] | None = None
        self._applying_names: asyncio.Task[None] | None = None
        self._names_retry: asyncio.TimerHandle | None = None
        self._in_use: dict[str, tuple[Endpoint, ...]] = {}  # what names stand for in the snapshot in force
        self._config = Config()
        self._frozen: tuple[Config, bytes] | None = None  # the pickle of the configuration that was offered last
        self._generation = 0  # of what is in force
        self._tried = 0  # the latest that was offered: a number is never used again
        self._resolver = Resolver()
        self._names = Names(loop, self._on_names_changed, report, self._resolver.resolve)
        self._sticky_key = options.sticky_key
        self.tls = TlsKeeper(loop, self._on_names_changed, report_warnings, keys=options.ticket_keys)
        self._reloads = Reloads(self._send, self._use, options.config.settings)
        self.states = BackendStates(shared)
        self.health = Checker(loop, self.states, report)
        self._meters = Meters(shared, report)
        self.automation = Automation(loop, self._reapply, report)
        self._automating: asyncio.Task[None] | None = None
        self._processes: tuple[ProcessState, ...] = ()
        self._weights: Weights = {key: weight for key, weight in options.weights.items() if weight <= MAX_WEIGHT}
        self.drains = Drains(shared.in_flight, self._cut)
        self._cutting = asyncio.Lock()
        self._n_cuts = 0
        self._cut_answer: asyncio.Future[int] | None = None
        self._upgraded: asyncio.Future[Upgraded] | None = None
        self._admin = AdminServer(loop, make_app(self))

    # -------------------------------------------------------------------------------------------------- for the admin API
    @property
    def shared(self) -> _core.SharedMemory:
        return self._shared

    @property
    def config(self) -> Config:
        """What is in force."""
        return self._config

    @property
    def overridden(self) -> tuple[str, ...]:
        """The keys of [global] that the command line has spoken for, whatever a file says."""
        return self._options.override(Loaded(Config())).overridden

    @property
    def generation(self) -> int:
        """Of the snapshot in force; 0 = none yet."""
        return self._generation

    @property
    def processes(self) -> tuple[ProcessState, ...]:
        """As the supervisor told last."""
        return self._processes

    @property
    def endpoints(self) -> dict[str, tuple[Endpoint, ...]]:
        """What names stand for now."""
        return self._names.endpoints

    @property
    def weights(self) -> Weights:
        """What the operator has put in the place of configured ones."""
        return self._weights

    async def set_weight(self, key: str, weight: int | None) -> int:
        """Puts a weight in the place of the configured one, or takes it back (None); see weights.py for the key. Returns the generation.

        Raises:
            ApplyError: nothing has changed.
        """
        async with self._applying:
            before = self._weights
            others = {name: value for name, value in before.items() if name != key}
            self._weights = others if weight is None else {**others, key: weight}
            try:
                return await self._apply(self._config)
            except BaseException:
                self._weights = before
                raise

    def set_admin(self, identity: str, state: AdminState, timeout_ms: int | None = None) -> None:
        """What the operator wants of a backend.

        Args:
            timeout_ms: how long it may finish what it has, where it is drained; None for drain_timeout.

        Raises:
            KeyError: there is no such backend.
        """
        self.states.set_admin(identity, state)
        if state is AdminState.DRAIN:
            self.drains.begin(identity, self._config.settings.drain_timeout_ms if timeout_ms is None else timeout_ms)
        else:
            self.drains.forget(identity)

    @property
    def meters(self) -> Meters:
        return self._meters

    def drain(self) -> None:
        """Has this fastlb finish what is in flight, and end."""
        self._send(DrainAll())

    async def reload(self) -> Outcome:
        """Has the configuration file read again, with the privileges that fastlb was started with."""
        return await self._reloads.ask()

    async def upgrade(self) -> int:
        """Has the installed fastlb take over; returns its process as soon as that is ready. This one ends when its clients are gone.

        Raises:
            UpgradeError: it could not be started or did not get ready; nothing has changed.
        """
        if self._upgraded is None or self._upgraded.done():
            self._upgraded = self._loop.create_future()
            self._send(Upgrade())
        outcome = await asyncio.shield(self._upgraded)
        if not outcome.pid:
            raise UpgradeError(outcome.text)
        return outcome.pid

    async def apply_file(self, path: str) -> int:
        """Puts the configuration of a file in force, which is read with the rights that the controller has; returns the generation.

        Raises:
            ConfigError, ApplyError: nothing has changed.
        """
        loaded = self._options.override(await asyncio.to_thread(load_file, path))
        report_warnings(loaded.warnings)
        config = await asyncio.to_thread(read_authorities, loaded.config)
        tls, warnings = self.tls.settle(await asyncio.to_thread(load_material, config, path, loaded.places), config)
        report_warnings(warnings)
        return await self.apply(config, tls=tls)

    # -------------------------------------------------------------------------------------------------- life
    async def run(self, left: "State | None") -> None:
        """Takes up what a predecessor left, or puts the first configuration in force; then serves."""
        self._loop.add_reader(self._channel.fileno(), self._on_readable)
        self._send(Hello(BUILD_ID))
        try:
            if left is not None:
                self._config, self._generation, self._tried = left.config, left.generation, left.generation
                self._sticky_key, self._weights = left.sticky_key, left.weights
                self.tls.put_in_force(left.config, left.tls, left.ticket_keys)
                self._in_use = dict(left.endpoints)
                self._names.restore(left.endpoints)
                self._resume_drains()
                self._use_servers(self._config)
                self._names.watch(names_of(self._config))
                self._probe_as_before()
                self._meters.put_in_force(self._meters.assign(left.config), left.generation)
                await self._automate_as_before()
            else:
                # Workers of the fastlb before this one may be there still: no number means two things in one shared memory.
                self._tried = max((self._shared.worker_generation(slot) for slot in self._shared.workers()), default=0)
                self._names.restore(believe_endpoints(self._options.endpoints, names_of(self._options.config)))
                try:
                    await self.apply(self._options.config, tls=self._options.tls)
                except ApplyError:
                    return  # the supervisor knows, and says it
                self._resume_drains()
            await self._stopped.wait()
        finally:
            if self._applying_names is not None:
                self._applying_names.cancel()
            if self._names_retry is not None:
                self._names_retry.cancel()
            self.health.close()
            self._names.close()
            self._reloads.close()
            self._resolver.close()
            self._admin.close()
            self.drains.close()
            self.tls.close()
            self.automation.close()

    async def _use(self, reading: Reading) -> tuple[int, Sequence[str]]:
        """Applies what a loader has read; returns the generation, 0 where nothing had to be changed, and warnings.

        Raises:
            FastlbError: nothing has changed.
        """
        if reading.config is None:
            async with self._applying:
                renewed = self.tls.renew(reading.tls, self._config)
                return await self._apply(self._config, tls=renewed) if renewed is not None else 0, ()
        tls, warnings = self.tls.settle(reading.tls, reading.config)
        return await self.apply(reading.config, reading.sticky_key, reading.frozen, tls), warnings

    async def apply(self, config: Config, sticky_key: StickyKey | None = None, frozen: bytes = b"", tls: Material | None = None) -> int:
        """Makes this the configuration of every new request. If that fails, nothing has changed.

        Args:
            tls: what was read for it; None: what is in force.
            sticky_key: what was read for it; None: one that is known already, or can be read with the rights that the controller has.
            frozen: the pickle of the configuration, where there is one already.

        Returns:
            The generation of the snapshot.

        Raises:
            ApplyError: an address cannot be bound, a worker refused the image, or this fastlb is ending.
        """
        async with self._applying:
            if frozen:
                self._frozen = config, frozen
            return await self._apply(config, sticky_key, tls)

    async def _apply(self, config: Config, sticky_key: StickyKey | None = None, tls: Material | None = None) -> int:
        """The same for who holds the lock."""
        self._use_servers(config)
        self._names.watch(names_of(self._config) | names_of(config))
        try:
            await self._names.first_answers(FIRST_NAMES_SECONDS)
            await self._offer(config, sticky_key, tls if tls is not None else self.tls.material)
        finally:
            self._use_servers(self._config)
            self._names.watch(names_of(self._config))
            self._retry_names()
        return self._generation

    async def _reapply(self) -> int:
        """Has what is in force made anew, of certificates and the like that have changed; raises as `apply`."""
        async with self._applying:
            return await self._apply(self._config)

    def _retry_names(self) -> None:
        """Sees to it that what names stand for by now is used, where it could not be, or came while something else was offered."""
        if self._generation and self._names.endpoints != self._in_use and self._names_retry is None:
            self._names_retry = self._loop.call_later(RETRY_SECONDS, self._on_names_changed)

    def _use_servers(self, config: Config) -> None:
        """Has names looked up where this configuration says."""
        servers = config.settings.resolver
        if servers != self._resolver.servers:
            self._resolver.close()
            self._resolver = Resolver(servers)
            self._names.use(self._resolver.resolve)

    async def _offer(self, config: Config, sticky_key: StickyKey | None, tls: Material) -> None:
        """Has the supervisor put a configuration in force, or not."""
        logs = [await self._describe_log(destination) for destination in log_destinations(config)]
        found = self._find_sticky_key(config, sticky_key or self._sticky_key)
        key = found.key if found is not None else b""
        asked = names_of(config)
        endpoints = {name: known for name, known in self._names.endpoints.items() if name in asked}
        with changing_rows(self._shared):
            meters = self._meters.assign(config)
        generation = self._tried = self._tried + 1
        weights = keep_weights(self._weights, config)
        ticket_keys = self.tls.choose_keys(config, tls)
        try:
            automatic = await self.automation.prepare(config, tls)
        except AutomationError as error:
            raise ApplyError(str(error)) from error
        build = partial(build_image, config, endpoints, generation, key, weights, meters, tls, ticket_keys.keys, automatic)
        try:
            self._prepare_probes(config)
            image = await asyncio.to_thread(build) if self._generation else build()
        except (ValueError, OSError) as error:
            raise ApplyError(f"the snapshot could not be built: {error}") from error
        try:
            with changing_rows(self._shared):
                self._shared.add_rows(image)
            if not self._generation:
                self.states.copy(self._options.states)
            left = State(config, generation, found or self._sticky_key, weights, endpoints, tls, ticket_keys)
            state = _write_state(left, self._freeze(config))
            try:
                self._answer = self._loop.create_future()
                self._send(_describe(config, generation, logs, weights, endpoints, ticket_keys), image, state)
                answer = await self._answer
                if isinstance(answer, Applied):
                    # First of all: whatever comes up below, this is in force.
                    self._config, self._generation, self._in_use = config, generation, endpoints
                    self._sticky_key, self._weights = found or self._sticky_key, weights
                    self._meters.put_in_force(meters, generation)
                    self.tls.put_in_force(config, tls, ticket_keys)
                    with changing_rows(self._shared):
                        self._shared.sweep(image)  # not before: a worker that starts meanwhile loads the one in force
            finally:
                self._answer = None
                os.close(state)
        except (ValueError, OSError) as error:
            raise ApplyError(f"the snapshot does not fit the shared memory: {error}") from error
        finally:
            os.close(image)
        if isinstance(answer, Rejected):
            raise ApplyError(answer.text)
        if not self._has_left:
            self.health.follow(config, endpoints)
            self.automation.follow()

    def _prepare_probes(self, config: Config) -> None:
        """Refuses a configuration whose certificates cannot be read; one that is in force already goes on with what is known."""
        try:
            self.health.prepare(config)
        except HealthError as error:
            if config is not self._config:
                raise ApplyError(str(error)) from error

    def _probe_as_before(self) -> None:
        """What the last controller found is in shared memory; backends of names follow when these are resolved."""
        try:
            self.health.prepare(self._config)
        except HealthError as error:
            report(f"{error}; its backends stay what they are")
        self.health.follow(self._config, self._names.endpoints)

    async def _automate_as_before(self) -> None:
        """What the last controller had is on the disk, but for placeholders."""
        async with self._applying:
            try:
                await self.automation.prepare(self._config, self.tls.material)
            except AutomationError as error:
                report(f"{error}; what is in force stays, and nothing is renewed")
            else:
                self.automation.follow()

    def _freeze(self, config: Config) -> bytes:
        """The pickle of a configuration, made once: addresses that change offer the same one again."""
        if self._frozen is None or self._frozen[0] is not config:
            self._frozen = config, pickle.dumps(config)
        return self._frozen[1]

    def _find_sticky_key(self, config: Config, known: StickyKey | None) -> StickyKey | None:
        """The key of a configuration's sticky cookies; None where it has none. One that is not known is read with the rights that the
        controller has."""
        try:
            found, warnings = load_sticky_key(config, known)
        except StickyKeyError as error:
            raise ApplyError(str(error)) from error
        report_warnings(warnings)
        return found

    async def _describe_log(self, destination: LogDestination) -> LogTarget:
        """A log for the supervisor, which opens it and asks no name server: names are resolved here."""
        host = destination.host
        if host:
            try:
                found = await self._loop.getaddrinfo(host, destination.port, type=socket.SOCK_DGRAM)
            except OSError as error:
                raise ApplyError(f"cannot find the syslog server {host}: {(error.strerror or str(error)).lower()}") from error
            host = str(found[0][4][0])
        return LogTarget(destination.kind, destination.path, destination.stream, host, destination.port)

    def _on_readable(self) -> None:
        try:
            while (received := self._channel.receive()) is not None:
                self._handle(*received)
        except EOFError:
            self._loop.remove_reader(self._channel.fileno())
            self._stop()
        except ChannelError as error:  # the supervisor may wait for what it said there: the next controller begins anew
            report(f"controller {os.getpid()}: {error}")
            self._loop.remove_reader(self._channel.fileno())
            self._stop("the controller is ending")

    def _handle(self, message: ToController, descriptors: list[int]) -> None:
        match message:
            case AdminSocket():
                for descriptor in descriptors:
                    self._admin.open(socket.socket(fileno=descriptor))
                if self._has_left:  # that other fastlb is gone
                    self._has_left = False
                    self._resume_drains()
                    self._probe_as_before()
                    self._automating = self._loop.create_task(self._automate_as_before())
            case LeaveAdmin(shares_memory):
                self._admin.leave()
                if shares_memory:
                    self._has_left = True
                    self.health.close()
                    self.automation.close()
                    self.drains.close()
            case Upgraded():
                if self._upgraded is not None and not self._upgraded.done():
                    self._upgraded.set_result(message)
            case Ping():
                self._send(Pong())
            case Applied(generation) | Rejected(generation):
                if self._answer is not None and not self._answer.done() and generation == self._tried:
                    self._answer.set_result(message)
            case CutDone(ticket, exchanges):
                if self._cut_answer is not None and not self._cut_answer.done() and ticket == self._n_cuts:
                    self._cut_answer.set_result(exchanges)
            case Reread():
                self._reloads.take(message, descriptors)
            case Processes(processes):
                self._processes = processes
            case Stop():
                self._stop()

    def _stop(self, why: str = "fastlb is ending") -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Rejected(self._tried, why))
        self._stopped.set()

    def _resume_drains(self) -> None:
        """What a predecessor began, or the fastlb before this one."""
        for identity, state in self.states.restore().items():
            if state.admin is AdminState.DRAIN and self.drains.get(identity) is None:
                self.drains.begin(identity, self._config.settings.drain_timeout_ms)

    async def _cut(self, identity: str) -> int:
        """Ends what is in flight at a backend, in every worker; returns how many exchanges that were."""
        async with self._cutting:
            self._n_cuts += 1
            self._cut_answer = self._loop.create_future()
            self._send(Cut(self._n_cuts, identity))
            try:
                return await asyncio.wait_for(self._cut_answer, CUT_SECONDS)
            except TimeoutError:
                raise ApplyError(f"not every worker answered within {CUT_SECONDS:g} s") from None
            finally:
                self._cut_answer = None

    def _on_names_changed(self) -> None:
        if self._names_retry is not None:
            self._names_retry.cancel()
            self._names_retry = None
        self._applying_names = self._loop.create_task(self._apply_names())

    async def _apply_names(self) -> None:
        try:
            async with self._applying:
                await self._apply(self._config)  # the one that is in force by now
        except FastlbError as error:
            report(f"new addresses could not be applied: {error}")

    def _send(self, message: FromController, *descriptors: int) -> None:
        try:
            self._channel.send(message, *descriptors)
        except ConnectionError:
            pass  # the supervisor is gone: the channel's end will tell


@dataclass(frozen=True, slots=True)
class State:
    """What a controller leaves with the supervisor, for the next one. Written and read by controllers only: the supervisor, which has
    privileges, never looks inside."""

    config: Config
    generation: int
    sticky_key: StickyKey | None = None
    weights: Weights = field(default_factory=dict)
    endpoints: Mapping[str, tuple[Endpoint, ...]] = field(default_factory=dict)
    tls: Material = NO_MATERIAL
    ticket_keys: TicketKeys = field(default_factory=TicketKeys)


def names_of(config: Config) -> set[str]:
    """What a resolver has to be asked for a configuration."""
    return {backend.address.question for pool in config.pools for backend in pool.backends if backend.address.is_name}


def choose_workers(configured: int) -> int:
    """The number of workers: as configured, or one for each processor that may be used."""
    return configured or usable_cpus()


def _describe(
    config: Config,
    generation: int,
    logs: Sequence[LogTarget],
    weights: Weights,
    endpoints: Mapping[str, tuple[Endpoint, ...]],
    ticket_keys: TicketKeys,
) -> Apply:
    """What the supervisor has to know of a configuration."""
    settings = config.settings
    listeners = tuple(_describe_listener(listener) for listener in config.listeners)
    return Apply(
        generation,
        choose_workers(settings.workers),
        listeners,
        tuple(logs),
        settings.drain_timeout_ms,
        settings.drain_idle_grace_ms,
        settings.watch,
        dict(weights),
        endpoints={**endpoints},
        ticket_keys=ticket_keys.keys if ticket_keys.born else (),
        ticket_keys_born=int(ticket_keys.born),
    )


def _describe_listener(listener: Listener) -> ListenerBinds:
    bind = tuple((address.host, address.port, address.unix_path) for address in listener.bind)
    return ListenerBinds(
        listener.name,
        bind,
        listener.backlog,
        listener.defers_accept(),
        listener.scheme(),
        listener.protocol == UDP,
        listener.keepalive,
    )


def _write_state(state: State, frozen: bytes) -> int:
    """A memfd that holds it; `frozen`: the pickle of its configuration."""
    descriptor = os.memfd_create("fastlb-state", os.MFD_CLOEXEC)
    view = memoryview(pickle.dumps((replace(state, config=Config()), frozen)))
    while view:
        view = view[os.write(descriptor, view) :]
    return descriptor


def _read_state(descriptor: int | None) -> State | None:
    if descriptor is None:
        return None
    try:
        left = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    finally:
        os.close(descriptor)
    state, frozen = pickle.loads(left)  # noqa: S301  only controllers of this fastlb write it
    assert isinstance(state, State)
    return replace(state, config=pickle.loads(frozen))  # noqa: S301  as above
