"""A worker: the thin loop around the engine.

Owns the listening sockets, the engine, the control socket and the names of backends. The loop watches one descriptor for the engine and
otherwise wakes for signals, control requests and names: no client and no backend is ever seen here.
"""

import asyncio
import gc
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import uvloop

from fastlb import FastlbError, _core
from fastlb.control_plane.config.errors import ConfigError, Problem
from fastlb.control_plane.config.loader import Loaded, load_file
from fastlb.control_plane.config.log_destination import LogDestination
from fastlb.control_plane.config.quantity import format_duration
from fastlb.control_plane.config.schema import Config
from fastlb.control_plane.log_plan import log_destinations
from fastlb.control_plane.names import Names
from fastlb.control_plane.snapshot import build_image
from fastlb.processes.control_socket import ControlSocket
from fastlb.processes.log_files import LogFileError, open_destination
from fastlb.processes.sockets import BoundAddress, bind_listeners, end_deferring

# Descriptors that are neither clients nor backends: listeners, pipes for splice, control, logs.
RESERVED_DESCRIPTORS = 200
# Where the descriptor limit is practically none, as in containers. The kernel alone takes 4 KB for an idle connection.
MAX_DEFAULT_CONNECTIONS = 1 << 20
# How long a snapshot waits for names that are new; most answers take a few milliseconds.
FIRST_NAMES_SECONDS = 1.0
# How long clients that have connected and not yet spoken may still be held back by the kernel (TCP_DEFER_ACCEPT): until it has sent its
# answer to their SYN again, after one second.
DEFERRED_SECONDS = 1.1
# How often a drain looks whether the last connection is gone.
DRAIN_POLL_SECONDS = 0.02


class WorkerError(FastlbError):
    """A worker cannot do what it was asked to."""


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What a worker is told besides its configuration.

    Args:
        control_path: of a unix socket to open for requests; "" for none.
        counters_path: of a file that gets the engine's counters as JSON at the end; "" for none.
        greet: makes a text of the URLs that are listened on, for standard output once all is ready.
    """

    control_path: str = ""
    counters_path: str = ""
    greet: Callable[[list[str]], str] | None = None


def run_worker(loaded: Loaded, options: WorkerOptions) -> None:
    """Serves until a signal ends it: SIGTERM and SIGINT at once, SIGQUIT after what is in flight.

    Raises:
        FastlbError: it could not start.
    """
    report_warnings(loaded.warnings)
    loop = uvloop.new_event_loop()
    try:
        engine = _core.Engine(max_connections=choose_max_connections(loaded.config.settings.max_connections))
        loop.run_until_complete(Worker(loop, engine, options).serve(loaded.config))
    except OSError as error:
        raise WorkerError(f"the system refused something that a worker needs: {error.strerror or error}") from error
    finally:
        loop.close()


class Worker:
    """One engine and what surrounds it, from the first socket to the last counter."""

    def __init__(self, loop: asyncio.AbstractEventLoop, engine: _core.Engine, options: WorkerOptions) -> None:
        self._loop = loop
        self._engine = engine
        self._options = options
        self._stopped = asyncio.Event()
        self._draining: asyncio.Task[None] | None = None
        self._applying = asyncio.Lock()
        self._applying_names: asyncio.Task[None] | None = None
        self._config = Config()
        self._bound: list[tuple[int, BoundAddress]] = []  # with the index of the listener, in the order that the engine knows
        self._generation = 0
        self._logs: list[LogDestination] = []  # in the order that the engine knows
        self._names = Names(loop, self._on_names_changed, report)
        self._control = ControlSocket(options.control_path, self._handle_control)

    async def serve(self, config: Config) -> None:
        """Starts, serves and cleans up."""
        self._loop.add_signal_handler(signal.SIGTERM, self._stopped.set)
        self._loop.add_signal_handler(signal.SIGINT, self._stopped.set)
        self._loop.add_signal_handler(signal.SIGQUIT, self.start_drain)
        self._loop.add_signal_handler(signal.SIGUSR1, self.reopen_logs)
        try:
            await self.apply(config)
            self._loop.add_reader(self._engine.fileno(), self._engine.pump)
            if self._options.control_path:
                await self._open_control()
            say(f"ready (pid {os.getpid()}, generation {self._generation})")
            if self._options.greet is not None:
                write_line(sys.stdout, self._options.greet([url for _, bound in self._bound for url in bound.urls()]))
            gc.collect()
            gc.freeze()  # what exists now stays: later collections need not look at it
            await self._stopped.wait()
        finally:
            await self._close()

    async def apply(self, config: Config) -> int:
        """Makes this the configuration of every new request. If that fails, nothing has changed.

        Returns:
            The generation of the snapshot.

        Raises:
            BindError: an address cannot be bound.
            WorkerError: the engine refused the image, or the worker is draining.
        """
        async with self._applying:
            if self._draining is not None:
                raise WorkerError("the worker is draining and takes no configuration any more")
            return await self._apply(config)

    def start_drain(self) -> None:
        """Stops accepting; the worker ends when the last client is gone or drain_timeout is over."""
        if self._draining is None:
            self._draining = self._loop.create_task(self._drain())

    def reopen_logs(self) -> None:
        """Opens every log anew, for a file that was moved away. One that cannot be opened goes on to where it did."""
        opened: list[int | None] = []
        for destination in self._logs:
            try:
                opened.append(open_destination(destination))
            except LogFileError as error:
                report(f"{error}; its lines still go to where they went")
                opened.append(None)
        self._set_logs(opened)

    def _set_logs(self, opened: list[int | None]) -> None:
        """Gives the engine these descriptors, and closes ours: it has its own."""
        try:
            self._engine.set_logs(opened)
        finally:
            for descriptor in opened:
                if descriptor is not None:
                    os.close(descriptor)

    async def _apply(self, config: Config) -> int:
        self._names.watch(names_of(self._config) | names_of(config))
        try:
            await self._names.first_answers(FIRST_NAMES_SECONDS)
            before = [bound for _, bound in self._bound]
            after = bind_listeners(config.listeners, before)
            opened = _without([bound for _, bound in after], before)
            try:
                await self._apply_image(config, after)
            except BaseException:
                for bound in opened:
                    bound.close()
                raise
            self._bound, self._config = after, config
        finally:
            self._names.watch(names_of(self._config))
        for bound in _without(before, [bound for _, bound in after]):
            bound.close()  # the descriptors that engine.apply returned, and with them the file of a unix socket
        for index, bound in after:
            for url in bound.urls() if _without([bound], before) else ():
                say(f'listening on {url} (listener "{config.listeners[index].name}")')
        return self._generation

    async def _apply_image(self, config: Config, bound: list[tuple[int, BoundAddress]]) -> None:
        """Builds the image for these sockets and has the engine change to it."""
        sockets = [(one.fileno(), index) for index, address in bound for one in address.sockets]
        logs = log_destinations(config)
        kept = {str(destination) for destination in self._logs}
        opened: list[int | None] = []
        try:
            for destination in logs:
                opened.append(None if str(destination) in kept else open_destination(destination))
            await self._commit_image(config, sockets)
        except BaseException:
            for descriptor in opened:
                if descriptor is not None:
                    os.close(descriptor)
            raise
        self._logs = logs
        if opened:
            self._set_logs(opened)

    async def _commit_image(self, config: Config, sockets: list[tuple[int, int]]) -> None:
        try:
            if self._generation:  # there are clients by now, and they do not wait while a large image is written
                image = await asyncio.to_thread(build_image, config, self._names.addresses, self._generation + 1)
            else:
                image = build_image(config, self._names.addresses, 1)
            try:
                self._engine.apply(image, sockets)
            finally:
                os.close(image)
        except (ValueError, OSError) as error:
            raise WorkerError(f"the data plane refused the configuration: {error}") from error
        self._generation += 1

    async def _drain(self) -> None:
        async with self._applying:
            settings = self._config.settings
            deadline = self._loop.time() + settings.drain_timeout_ms / 1000
            if end_deferring(one for _, bound in self._bound for one in bound.sockets):
                await asyncio.sleep(min(DEFERRED_SECONDS, settings.drain_timeout_ms / 1000))
            self._engine.drain(settings.drain_idle_grace_ms)
            self._close_listeners()
        report(f"draining, at most {format_duration(settings.drain_timeout_ms)}; connections left: {self._engine.connections()}")
        while self._engine.connections() and self._loop.time() < deadline:
            await asyncio.sleep(DRAIN_POLL_SECONDS)
        left = self._engine.connections()
        report(f"drain_timeout is over; connections closed: {left}" if left else "drained")
        self._stopped.set()

    def _on_names_changed(self) -> None:
        self._applying_names = self._loop.create_task(self._apply_names())

    async def _apply_names(self) -> None:
        async with self._applying:
            if self._draining is None:
                try:
                    await self._apply(self._config)
                except FastlbError as error:
                    report(f"new addresses could not be applied: {error}")

    async def _handle_control(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answers one request of the control socket."""
        engine = self._engine
        match request:
            case {"do": "counters"}:
                return {"ok": True, "counters": engine.counters(), "connections": engine.connections(), "generation": engine.generation()}
            case {"do": "backends"}:
                return {"ok": True, "backends": engine.backends()}
            case {"do": "apply", "config": str(path)}:
                return await self._apply_file(path)
            case {"do": "drain"}:
                self.start_drain()
                return {"ok": True}
            case {"do": "pump_budget", "events": int(events)} if events >= 0:
                self._loop.add_reader(engine.fileno(), engine.pump, events)
                return {"ok": True}
        return {"ok": False, "errors": ['"do" is one of counters, backends, apply (with config), drain, pump_budget (with events)']}

    async def _apply_file(self, path: str) -> dict[str, Any]:
        try:
            loaded = await asyncio.to_thread(load_file, path)
            report_warnings(loaded.warnings)
            return {"ok": True, "generation": await self.apply(loaded.config)}
        except ConfigError as error:
            return {"ok": False, "errors": error.lines()}
        except FastlbError as error:
            return {"ok": False, "errors": str(error).splitlines()}

    async def _open_control(self) -> None:
        try:
            await self._control.open()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise WorkerError(f"cannot open the control socket {self._options.control_path}: {reason}") from error

    def _close_listeners(self) -> None:
        for _, bound in self._bound:
            bound.close()
        self._bound = []

    async def _close(self) -> None:
        """Leaves nothing behind: no task, no socket, no file, no thread that anybody waits for."""
        for task in (self._draining, self._applying_names):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        self._names.close()
        await self._control.close()
        self._loop.remove_reader(self._engine.fileno())
        self._engine.close()
        self._write_counters()  # of the end: every pair of them balances
        self._close_listeners()

    def _write_counters(self) -> None:
        path = self._options.counters_path
        if path:
            try:
                Path(path).write_text(json.dumps(self._engine.counters(), indent=1) + "\n")
            except OSError as error:
                report(f"cannot write the counters to {path}: {(error.strerror or str(error)).lower()}")


def names_of(config: Config) -> set[str]:
    """The names that have to be resolved for a configuration."""
    return {backend.address.host for pool in config.pools for backend in pool.backends if backend.address.is_name}


def choose_max_connections(configured: int) -> int:
    """Raises the soft descriptor limit to the hard one and says how many clients to take: each needs a descriptor, and its backend another
    while it is busy.

    Args:
        configured: `global.max_connections`; 0 for as many as the limit allows.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        hard = 2 * MAX_DEFAULT_CONNECTIONS + RESERVED_DESCRIPTORS
    usable = max(hard - RESERVED_DESCRIPTORS, 2)
    if configured == 0:
        return min(MAX_DEFAULT_CONNECTIONS, usable // 2)
    if configured > usable:
        report(f"max_connections {configured} is over the descriptor limit of {hard} (`ulimit -Hn`): using {usable}")
    elif configured > usable // 2:
        report(
            f"max_connections {configured} leaves {usable - configured} descriptors for backends (the limit is {hard}, `ulimit -Hn`): "
            "enough only while most clients are idle"
        )
    return min(configured, usable)


def say(text: str) -> None:
    """What was asked for, on standard output."""
    write_line(sys.stdout, f"fastlb: {text}")


def report(text: str) -> None:
    """What went otherwise than wanted, on standard error."""
    for line in text.splitlines():
        write_line(sys.stderr, f"fastlb: {line}")


def write_line(stream: TextIO, text: str) -> None:
    """Writes at once. A reader that has gone away is no reason to stop serving: from then on nobody is told."""
    try:
        print(text, file=stream, flush=True)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def report_warnings(warnings: Iterable[Problem]) -> None:
    for warning in warnings:
        report(f"warning: {warning}")


def _without(some: list[BoundAddress], others: list[BoundAddress]) -> list[BoundAddress]:
    """Those that are not among the others, which is a matter of being the same object."""
    known = {id(bound) for bound in others}
    return [bound for bound in some if id(bound) not in known]
