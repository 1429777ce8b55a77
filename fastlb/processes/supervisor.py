"""The supervisor: binds sockets, forks and watches, and decides which snapshot is in force.

Owns the listening sockets, the shared memory's life, the children and the committed snapshot. It is the only process that keeps
privileges, so it parses nothing from the network and nothing from its children but small typed messages.

A snapshot is put in force in two steps: every worker prepares it and says so, then all are told to change. One refusal, and all forget it
and the old one stays. A worker that starts in between gets the one in force, and the next as soon as that is.

When a worker dies, three things happen at once: its sockets go to siblings, so that nobody who connects has to wait; its share of the
counts in shared memory is taken back; and another one is forked, which gets the sockets back when it is ready.
"""

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fastlb import BUILD_ID, FastlbError, _core
from fastlb.control_plane.config.address import BindAddress
from fastlb.control_plane.config.log_destination import LogDestination
from fastlb.control_plane.config.quantity import format_duration
from fastlb.control_plane.controller import ControllerOptions, run_controller
from fastlb.processes import _system
from fastlb.processes.channel import MAX_DESCRIPTORS, Channel
from fastlb.processes.child import Child
from fastlb.processes.lending import Lending, Place
from fastlb.processes.log_files import LogFiles
from fastlb.processes.messages import (
    CONTROLLER,
    Abort,
    Applied,
    Apply,
    Assign,
    Commit,
    Committed,
    Drain,
    DrainAll,
    Drained,
    Fork,
    FromController,
    FromWorker,
    Hello,
    Lend,
    Log,
    Ping,
    Pong,
    Prepare,
    Prepared,
    Processes,
    ProcessState,
    Refused,
    Rejected,
    Siblings,
    Stop,
    ToController,
    ToWorker,
)
from fastlb.processes.nursery import Nursery
from fastlb.processes.output import report, report_warnings, say, write_line
from fastlb.processes.privileges import Identity, drop
from fastlb.processes.roster import ACCEPTING, COMMITTED, Slot, State, make_slot
from fastlb.processes.sockets import BoundAddress, adopt_sockets, bind_listeners, end_deferring, update_listening
from fastlb.processes.systemd import InheritedSocket, hand_over, notify, watchdog_interval
from fastlb.processes.worker import WorkerOptions, run_worker
from fastlb.processes.zygote import ZygoteOptions

# A worker is asked for a sign of life this often and killed when none comes for so long.
HEARTBEAT_SECONDS = 1.0
WATCHDOG_SECONDS = 5.0
# The longest that a worker takes for one step: saying hello, preparing a snapshot, changing to it.
START_SECONDS = 10.0
# After a fork that the system refused.
RETRY_SECONDS = 1.0
# How long processes have to end by themselves after SIGTERM.
STOP_SECONDS = 5.0
# How often what a dead worker left behind is looked at again, where a live one stood still in the middle of the same count.
SETTLE_SECONDS = 0.05
# How long clients that have connected and not yet spoken may still be held back by the kernel (TCP_DEFER_ACCEPT): until it has sent its
# answer to their SYN again, after one second.
DEFERRED_SECONDS = 1.1
# Changes of the list of processes within this time are one message.
TELL_SECONDS = 0.01
# A controller offers one configuration at a time; its successor may offer one while the last of a dead one is looked at.
MAX_OFFERS = 2
# Of a worker's descriptors these are never a client's or a backend's: what it is lent and told must reach it at full load, too.
SPARE_DESCRIPTORS = 100
# The kernel gives an account 256 pipes of full size over all its processes.
PIPES_IN_ALL = 192


class StartError(FastlbError):
    """fastlb could not start; the text says why."""


@dataclass(frozen=True, slots=True)
class SupervisorOptions:
    """What a supervisor is told besides the configuration.

    Args:
        controller: what the controller begins with.
        identity: whose account controller and workers run under; None to stay what this is.
        max_connections: clients that the descriptors of one worker allow.
        max_descriptors: that a process may have.
        pump_budget: events that one pump of a worker handles; 0 for the default.
        counters_path: of a file that gets the counters as JSON at the end; "" for none.
        greet: makes a text of the URLs that are listened on, for standard output once all is ready.
        spared: children that were there before and are not the supervisor's to reap.
        inherited: listening sockets that the service manager opened.
    """

    controller: ControllerOptions
    identity: Identity | None
    max_connections: int
    max_descriptors: int
    n_workers: int
    pump_budget: int = 0
    counters_path: str = ""
    greet: Callable[[list[str]], str] | None = None
    spared: frozenset[int] = frozenset()
    inherited: tuple[InheritedSocket, ...] = ()


@dataclass(slots=True)
class Snapshot:
    """The configuration in force. Owns both descriptors."""

    apply: Apply
    image_fd: int
    state_fd: int

    def close(self) -> None:
        os.close(self.image_fd)
        os.close(self.state_fd)


@dataclass(frozen=True, slots=True)
class WantedListener:
    """A listener as the controller described it; see `sockets.Binds`."""

    name: str
    bind: tuple[BindAddress, ...]
    backlog: int
    defer_accept: bool


def run_supervisor(options: SupervisorOptions) -> None:
    """Serves until a signal ends it: SIGTERM and SIGINT at once, SIGQUIT after what is in flight.

    Raises:
        FastlbError: it could not start.
    """
    _system.set_child_subreaper()
    shared = _core.SharedMemory.create()
    try:
        supervisor = Supervisor(options, shared)
        supervisor.open_nursery()  # before there is a loop, or anything else that a fork should not copy
        asyncio.run(supervisor.run())
    finally:
        shared.close()


class Supervisor:
    """All of a running fastlb, seen from above."""

    def __init__(self, options: SupervisorOptions, shared: _core.SharedMemory) -> None:
        self._options = options
        self._shared = shared
        kept = frozenset((shared.fileno(),))
        zygote = ZygoteOptions(partial(drop, options.identity), partial(_run_forked, options, shared), kept)
        self._nursery = Nursery(self, zygote, options.spared)
        self._controller: Child | None = None
        self._controller_restarts = -1
        self._controller_born = 0.0
        self._controller_owes = 0.0  # since when an answer to a ping has been missing
        self._slots: list[Slot] = []
        self._bound: list[tuple[int, BoundAddress]] = []  # with the index of the listener
        self._lending = Lending()
        self._logs = LogFiles()
        self._snapshot: Snapshot | None = None
        self._changing = asyncio.Lock()
        self._telling = False  # the list of processes is about to be sent
        self._n_offers = 0  # configurations that wait for their turn
        self._offered = 0  # the generation that is voted on; 0 = none
        self._votes: dict[int, asyncio.Future[str | None]] = {}  # by slot: None = yes or gone, a text = why not
        self._finished = asyncio.Event()
        self._changed = asyncio.Event()  # set whenever a child moved on; whoever waits for something looks again
        self._announced = False
        self._ending = False
        self._draining = False
        self._doors_closed = False  # nothing is accepted any more, and nobody is started to accept
        self._failure: FastlbError | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    # -------------------------------------------------------------------------------------------------- life
    def open_nursery(self) -> None:
        """Forks the zygote."""
        self._nursery.open()

    async def run(self) -> None:
        """Starts everything, serves, and leaves nothing behind.

        Raises:
            FastlbError: it could not start.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._finished.set)
        loop.add_signal_handler(signal.SIGQUIT, self.start_drain)
        loop.add_signal_handler(signal.SIGUSR1, self.reopen_logs)
        loop.add_signal_handler(signal.SIGHUP, report, "SIGHUP: reloading is not there yet; nothing has changed")
        loop.set_exception_handler(lambda _, context: report(f"a mistake in fastlb: {context.get('exception') or context['message']}"))
        try:
            self._nursery.start()
            self._slots = [make_slot(number) for number in range(self._options.n_workers)]
            self._fork(CONTROLLER)
            for slot in self._slots:
                self._fork_worker(slot)
            self._start(self._beat())
            await self._finished.wait()
        finally:
            await self._stop()
        if self._failure is not None:
            raise self._failure

    def start_drain(self) -> None:
        """Stops accepting; ends when the last client is gone or drain_timeout is over."""
        if not self._draining and not self._ending:
            self._draining = True
            notify("STOPPING=1", "STATUS=finishing what is in flight")
            self._start(self._drain())

    def reopen_logs(self) -> None:
        """Opens every log anew, for files that were moved away. One that cannot be opened goes on to where it did."""
        for error in self._logs.reopen():
            report(f"{error}; its lines still go to where they went")
        for slot in self._slots:
            if slot.state in COMMITTED:
                self._send_logs(slot)

    async def _stop(self) -> None:
        """Ends all children, in order or by force, and gives everything back."""
        self._ending = True
        notify("STOPPING=1", "STATUS=stopping")
        for task in list(self._tasks):
            task.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                for child in self._children():
                    child.send(Stop())
                await self._wait_for(lambda: not self._children() and not self._nursery.is_expecting)
        for child in self._children():
            report(f"process {child.pid} does not end: killed")
            child.signal(signal.SIGKILL)
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await self._wait_for(lambda: not self._children())
                self._nursery.close(self._changed.set)
                await self._wait_for(lambda: not self._nursery.zygote_pid)
        self._nursery.kill()
        for _, bound in self._bound:
            bound.close()
        for slot in self._slots:
            os.close(slot.event_fd)
        if self._snapshot is not None:
            self._snapshot.close()
        self._logs.close()
        self._write_counters()

    def _children(self) -> list[Child]:
        """Controller and workers that run."""
        workers = [slot.child for slot in self._slots if slot.child is not None]
        return [self._controller, *workers] if self._controller is not None else workers

    async def _wait_for(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self._changed.clear()
            await self._changed.wait()

    def _write_counters(self) -> None:
        path = self._options.counters_path
        if path:
            try:
                Path(path).write_text(json.dumps(self._shared.counters(), indent=1) + "\n")
            except OSError as error:
                report(f"cannot write the counters to {path}: {(error.strerror or str(error)).lower()}")

    def _fail(self, error: FastlbError) -> None:
        """Gives up starting."""
        self._failure = self._failure or error
        self._finished.set()

    # -------------------------------------------------------------------------------------------------- forking
    def _fork(self, role: int) -> None:
        """Asks for a process."""
        if self._ending:
            return
        if role != CONTROLLER:
            self._nursery.fork(role, len(self._slots), FromWorker, self._slots[role].event_fd)
        elif self._snapshot is not None:
            self._nursery.fork(role, len(self._slots), FromController, self._snapshot.state_fd)
        else:
            self._nursery.fork(role, len(self._slots), FromController)

    def on_born(self, role: int, child: Child) -> None:
        now = asyncio.get_running_loop().time()
        if role == CONTROLLER:
            self._controller = child
            self._controller_restarts += 1
            self._controller_born, self._controller_owes = now, 0.0
            self._nursery.watch(child, self._on_controller_exit, self._on_controller_message)
        else:
            slot = self._slots[role]
            slot.begin(child, now)
            self._nursery.watch(child, partial(self._on_worker_exit, slot), partial(self._on_worker_message, slot))
            if slot.retired or self._doors_closed:  # since it was asked for
                child.send(Stop())
        if self._ending:
            child.send(Stop())
        self._tell_processes()

    def on_not_born(self, role: int, why: str) -> None:
        self._changed.set()
        if self._ending:
            return
        report(f"cannot fork {_name(role)}: {why}; trying again")
        if role == CONTROLLER:
            self._start(self._replace_controller(RETRY_SECONDS))
        else:
            self._settle(self._slots[role], asyncio.get_running_loop().time() + RETRY_SECONDS)

    def on_zygote_replaced(self) -> None:
        self._tell_processes()

    def on_zygote_failed(self) -> None:
        self._fail(StartError("the process that forks workers could not start: see above"))

    # -------------------------------------------------------------------------------------------------- the controller
    def _on_controller_exit(self) -> None:
        controller, self._controller = self._controller, None
        assert controller is not None
        how = self._nursery.bury(controller)
        self._changed.set()
        if self._ending:
            return
        if self._snapshot is None:
            self._fail(StartError(f"the controller could not start: {how or 'see above'}"))
            return
        report(f"the controller {controller.pid} ended ({how or 'without a reason'}); workers go on; starting another")
        quick = asyncio.get_running_loop().time() - self._controller_born < HEARTBEAT_SECONDS
        self._start(self._replace_controller(HEARTBEAT_SECONDS if quick else 0))
        self._tell_processes()

    async def _replace_controller(self, wait: float) -> None:
        """Has another one forked, once it is clear what it takes up: what the last one offered may still be voted on."""
        await asyncio.sleep(wait)
        async with self._changing:
            self._fork(CONTROLLER)

    def _on_controller_message(self, message: FromController, descriptors: list[int]) -> None:
        match message:
            case Hello(build_id):
                self._check_build(self._controller, build_id)
                self._tell_processes()
            case Pong():
                self._controller_owes = 0.0
            case DrainAll():
                self.start_drain()
            case Apply():
                if len(descriptors) == 2 and self._n_offers < MAX_OFFERS:
                    self._n_offers += 1
                    image, state = (os.dup(descriptor) for descriptor in descriptors)
                    self._start(self._apply(Snapshot(message, image, state)))
                else:
                    self._tell_controller(Rejected(message.generation, "too many configurations at once"))

    def _check_build(self, child: Child | None, build_id: str) -> None:
        if build_id != BUILD_ID and child is not None:
            report(f"process {child.pid} is of another build ({build_id}, this is {BUILD_ID}): killed")
            child.signal(signal.SIGKILL)

    def _tell_controller(self, message: ToController) -> None:
        if self._controller is not None and not self._controller.send(message):
            self._controller.signal(signal.SIGKILL)

    def _tell_processes(self) -> None:
        """Keeps the controller's list of processes true; several changes are told together."""
        self._changed.set()
        if not self._telling:
            self._telling = True
            asyncio.get_running_loop().call_later(TELL_SECONDS, self._send_processes)

    def _send_processes(self) -> None:
        self._telling = False
        if self._ending or self._controller is None:
            return
        rows = [ProcessState("supervisor", 0, os.getpid(), "ready", 0)]
        rows.append(ProcessState("zygote", 0, self._nursery.zygote_pid, "ready", 0))
        if self._controller is not None:
            rows.append(ProcessState("controller", 0, self._controller.pid, "ready", self._controller_restarts))
        for slot in self._slots:
            if slot.child is not None or not slot.retired:
                pid = slot.child.pid if slot.child is not None else 0
                rows.append(ProcessState("worker", slot.number, pid, slot.state.value, max(slot.restarts, 0)))
        if not self._controller.send(Processes(tuple(rows))):
            self._tell_processes()  # it does not read just now; if that goes on, the watchdog ends it

    # -------------------------------------------------------------------------------------------------- the workers
    def _on_worker_message(self, slot: Slot, message: FromWorker, _: list[int]) -> None:
        match message:
            case Hello(build_id):
                self._check_build(slot.child, build_id)
                slot.state = State.BLANK
                self._introduce(slot, self._slots)
                self._bring_up_to_date(slot)
            case Prepared(generation):
                self._on_vote(slot, generation, None)
            case Refused(generation, text):
                self._on_vote(slot, generation, text)
            case Committed(generation):
                slot.state = State.READY
                slot.pinged_ms = 0
                if self._snapshot is not None and generation != self._snapshot.apply.generation:
                    self._bring_up_to_date(slot)  # another one has been put in force while it was told of this one
                self._share_sockets()
                self._announce_if_ready()
            case Drained():
                slot.state = State.DRAINING
        self._tell_processes()

    def _introduce(self, slot: Slot, others: Sequence[Slot]) -> None:
        """Gives a worker what wakes its siblings, once: an eventfd belongs to its slot, whoever works there."""
        siblings = [other for other in others if other is not slot]
        if siblings:
            numbers = tuple(other.number for other in siblings)
            self._tell(slot, Siblings(numbers), *(other.event_fd for other in siblings))

    def _bring_up_to_date(self, slot: Slot) -> None:
        """Gives a worker that has none, or an older one, the snapshot in force, if there is one."""
        if self._snapshot is not None and not self._doors_closed:
            if slot.state is State.BLANK:
                slot.state = State.PREPARING
            slot.catching_up = True
            slot.busy_since = asyncio.get_running_loop().time()
            self._tell(slot, Prepare(self._snapshot.apply.generation), self._snapshot.image_fd)

    def _on_vote(self, slot: Slot, generation: int, refusal: str | None) -> None:
        """A worker has prepared a snapshot, or cannot: an answer to `_apply`, or of one that catches up."""
        if generation == self._offered:
            vote = self._votes.pop(slot.number, None)
            if vote is not None and not vote.done():
                vote.set_result(refusal)
        elif slot.catching_up and slot.state in (State.PREPARING, State.READY) and self._snapshot is not None and not self._doors_closed:
            if refusal is not None:
                report(f"worker {slot.number} ({_pid(slot)}) cannot use the configuration: {refusal}: killed")
                self._kill(slot)
            elif generation != self._snapshot.apply.generation:
                self._bring_up_to_date(slot)  # another one has been put in force meanwhile
            else:
                self._commit(slot)

    def _commit(self, slot: Slot) -> None:
        """Tells a worker to change to the snapshot in force, with the sockets that are its own or lent to it."""
        assert self._snapshot is not None
        slot.state = State.COMMITTING
        slot.catching_up = False
        slot.busy_since = asyncio.get_running_loop().time()
        slot.generation = self._snapshot.apply.generation
        slot.assigned = self._lending.assign(self._places(), self._accepting()).get(slot.number, ())
        self._lend(slot)
        apply = self._snapshot.apply
        self._tell(slot, Commit(apply.generation, slot.assigned, apply.drain_timeout_ms, apply.drain_idle_grace_ms))
        self._send_logs(slot)

    def _send_logs(self, slot: Slot) -> None:
        """Gives a worker the descriptors of the logs of the snapshot in force."""
        assert self._snapshot is not None
        for index, destination in enumerate(_destinations(self._snapshot)):
            self._tell(slot, Log(self._snapshot.apply.generation, index), self._logs.fileno(destination))

    def _on_worker_exit(self, slot: Slot) -> None:
        child = slot.child
        assert child is not None
        how = self._nursery.bury(child)
        was = slot.state
        wait = slot.end(asyncio.get_running_loop().time())
        vote = self._votes.pop(slot.number, None)
        if vote is not None and not vote.done():
            vote.set_result(None)
        self._share_sockets()
        if not self._ending and not self._doors_closed and not slot.retired:
            again = "starting another" if not wait else f"starting another in {wait:g} s"
            report(f"worker {slot.number} ({child.pid}) ended ({how or 'without a reason'}, {was.value}); {again}")
        elif how and not self._ending:
            report(f"worker {slot.number} ({child.pid}) ended ({how}) while it was {was.value}")
        slot.awaited = True
        self._settle(slot, asyncio.get_running_loop().time() + wait)
        self._tell_processes()

    def _settle(self, slot: Slot, when: float) -> None:
        """Takes back what a dead worker had claimed, then has the next one forked, at this time of the loop's clock or later.

        A live worker that stands still in the middle of the same count is waited for; the watchdog ends that.
        """
        now = asyncio.get_running_loop().time()
        if not self._shared.settle_worker(slot.number)["settled"]:
            self._later(SETTLE_SECONDS, self._settle, slot, when)
            return
        for number in self._shared.waiting_workers():
            if number < len(self._slots):
                self._slots[number].wake()  # what the dead one had claimed is free for who waits there
        if when > now:
            self._later(when - now, self._fork_worker, slot)
        else:
            self._fork_worker(slot)

    def _fork_worker(self, slot: Slot) -> None:
        """Has the next worker forked, if there shall be one."""
        slot.awaited = not slot.retired and not self._doors_closed
        if slot.awaited:
            self._fork(slot.number)

    def _kill(self, slot: Slot) -> None:
        if slot.child is not None:
            slot.child.signal(signal.SIGKILL)

    def _tell(self, slot: Slot, message: ToWorker, *descriptors: int) -> None:
        """Says something to a worker; one that cannot be told anything is dead or as good as that."""
        if slot.child is not None and not slot.child.send(message, *descriptors):
            self._kill(slot)

    # -------------------------------------------------------------------------------------------------- sockets
    def _places(self) -> list[Place]:
        return [Place(one.number, index, one.home) for index, bound in self._bound for one in bound.sockets]

    def _accepting(self) -> list[int]:
        return [slot.number for slot in self._slots if slot.state in ACCEPTING and not slot.retired]

    def _share_sockets(self) -> None:
        """Has each socket accepted from by the worker that it belongs to or, for as long as that is not ready, by a sibling.

        Who gets a socket is told before who loses it: both accept for a moment, and no client waits.
        """
        if self._doors_closed:
            return
        assigned = self._lending.assign(self._places(), self._accepting())
        generation = self._snapshot.apply.generation if self._snapshot is not None else 0
        # A worker that still has the snapshot before this one knows other listeners: it gets its sockets with its next commit.
        ready = [slot for slot in self._slots if slot.state is State.READY and slot.generation == generation]
        changed = [slot for slot in ready if assigned.get(slot.number, ()) != slot.assigned]
        changed.sort(key=lambda slot: len(assigned.get(slot.number, ())) < len(slot.assigned))
        for slot in changed:
            slot.assigned = assigned.get(slot.number, ())
            self._lend(slot)
            self._tell(slot, Assign(slot.assigned))

    def _lend(self, slot: Slot) -> None:
        """Sends the descriptors of assigned sockets that the worker does not have."""
        wanted = {number for number, _ in slot.assigned}
        missing = [one for _, bound in self._bound for one in bound.sockets if one.number in wanted - slot.lent]
        for at in range(0, len(missing), MAX_DESCRIPTORS):
            some = missing[at : at + MAX_DESCRIPTORS]
            self._tell(slot, Lend(tuple(one.number for one in some)), *(one.socket.fileno() for one in some))
        slot.lent = wanted

    # -------------------------------------------------------------------------------------------------- snapshots
    async def _apply(self, offered: Snapshot) -> None:
        """Puts a snapshot in force in every worker, or in none."""
        async with self._changing:
            self._n_offers -= 1
            generation = offered.apply.generation
            try:
                if self._ending or self._draining:
                    raise StartError("fastlb is ending and takes no configuration any more")
                if self._snapshot is not None and generation <= self._snapshot.apply.generation:
                    raise StartError(f"generation {generation} is not newer than the one in force")
                self._logs.open(_destinations(offered))
                before = [bound for _, bound in self._bound]
                listeners = _wanted(offered.apply)
                after = bind_listeners(listeners, [*before, *self._adopt(listeners, before)], offered.apply.n_workers)
                opened = _without([bound for _, bound in after], before)
                self._share_sockets()  # more workers: the sockets for them are beside the old ones already, and clients come to them
                try:
                    prepared = await self._prepare_everywhere(offered)
                except BaseException:
                    for bound in opened:
                        bound.close()
                    raise
            except FastlbError as error:
                self._logs.keep(_destinations(self._snapshot))
                offered.close()
                if self._snapshot is None and not self._ending and not self._draining:
                    self._fail(error)
                self._tell_controller(Rejected(generation, str(error)))
                return
            except BaseException:
                offered.close()
                raise
            await self._put_in_force(offered, prepared, before, after)
        self._tell_controller(Applied(generation))

    def _adopt(self, listeners: Sequence[WantedListener], bound: Iterable[BoundAddress]) -> list[BoundAddress]:
        """Sockets of the service manager for addresses that are not listened on yet."""
        addresses = [address for listener in listeners for address in listener.bind]
        handover = hand_over(self._options.inherited, addresses)
        report_warnings(handover.warnings)
        known = {one.address for one in bound}
        return [adopt_sockets(address, sockets) for address, sockets in handover.by_address.items() if address not in known]

    async def _prepare_everywhere(self, offered: Snapshot) -> list[Slot]:
        """Has every worker get ready; returns the slots of those that are.

        Raises:
            StartError: one of them refused; all have forgotten it.
        """
        loop = asyncio.get_running_loop()
        # One at a time: a worker has one snapshot in force and one prepared. Whoever is between two gets there, or dies.
        await self._wait_for(lambda: not any(slot.catching_up or slot.state is State.COMMITTING for slot in self._slots))
        self._offered = offered.apply.generation
        voters = [slot for slot in self._slots if slot.state in (State.BLANK, State.READY)]
        children = {slot.number: slot.child for slot in voters}
        votes = {slot.number: loop.create_future() for slot in voters}
        self._votes.update(votes)
        for slot in voters:
            self._tell(slot, Prepare(offered.apply.generation), offered.image_fd)
        try:
            if votes:
                _, silent = await asyncio.wait(votes.values(), timeout=START_SECONDS)
                for slot in voters:
                    if votes[slot.number] in silent:
                        report(f"worker {slot.number} ({_pid(slot)}) did not answer for {START_SECONDS:g} s: killed")
                        self._kill(slot)
                await asyncio.wait(votes.values())
        finally:
            self._offered = 0
            for number in votes:
                self._votes.pop(number, None)
        refusals = [f"worker {number} refused the configuration: {vote.result()}" for number, vote in votes.items() if vote.result()]
        if refusals:
            for slot in voters:
                self._tell(slot, Abort())
            raise StartError("\n".join(refusals))
        return [slot for slot in voters if slot.child is not None and slot.child is children[slot.number]]

    async def _put_in_force(
        self, offered: Snapshot, prepared: list[Slot], before: Sequence[BoundAddress], after: list[tuple[int, BoundAddress]]
    ) -> None:
        """Tells all workers to change, and closes what is not listened on any more once its queue has been taken in."""
        generation = offered.apply.generation
        old, self._snapshot = self._snapshot, offered
        self._bound = after
        for slot in prepared:
            slot.state = State.COMMITTING
        for slot in prepared:
            self._commit(slot)
        for slot in self._slots:
            if slot.state in (State.BLANK, State.READY) and slot not in prepared:  # it came while the others prepared
                self._bring_up_to_date(slot)
        update_listening(_wanted(offered.apply), after)
        self._resize(offered.apply.n_workers)
        self._logs.keep(_destinations(offered))
        if old is not None:
            old.close()
            # Also those that came while the others prepared and still get, or already use, the one before.
            children = [(slot, slot.child) for slot in self._slots if slot.state in ACCEPTING]
            await self._wait_for(lambda: all(slot.child is not child or slot.is_past(generation) for slot, child in children))
        for bound in _without(before, [bound for _, bound in after]):
            bound.close()
        for index, bound in after:
            for url in bound.urls() if _without([bound], before) else ():
                say(f'listening on {url} (listener "{offered.apply.listeners[index].name}")')
        self._announce_if_ready()

    def _resize(self, n_workers: int) -> None:
        """Starts the workers that are missing and lets those go that are too many: siblings get their sockets, and they finish."""
        n_before = len(self._slots)
        while len(self._slots) < n_workers:
            self._slots.append(make_slot(len(self._slots)))
        for slot in self._slots[:n_before]:
            if slot.state is not State.WAITING:  # who has not said hello yet is told of all then
                self._introduce(slot, self._slots[n_before:])
        for slot in self._slots:
            was, slot.retired = slot.retired, slot.number >= n_workers
            if not slot.retired and slot.child is None and not slot.awaited:
                slot.awaited = True
                self._fork(slot.number)
            elif slot.retired and not was:
                self._start(self._retire(slot))

    async def _retire(self, slot: Slot) -> None:
        """Lets a worker finish what it has."""
        child = slot.child
        await self._wait_for(lambda: slot.child is not child or slot.state in (State.READY, State.BLANK))
        if child is None or slot.child is not child or not slot.retired or self._snapshot is None:
            return
        slot.state = State.DRAINING
        self._share_sockets()  # siblings accept from its sockets before it stops doing so, and from then on
        self._tell(slot, Drain())
        await asyncio.sleep(self._snapshot.apply.drain_timeout_ms / 1000)
        if slot.child is child:
            self._tell(slot, Stop())

    def _announce_if_ready(self) -> None:
        """Says that all is ready, once."""
        if self._announced or self._snapshot is None or any(slot.state is not State.READY for slot in self._slots):
            return
        self._announced = True
        self._send_processes()  # who waits for the line below may ask at once
        say(f"ready (pid {os.getpid()}, generation {self._snapshot.apply.generation})")
        notify("READY=1", f"MAINPID={os.getpid()}", f"STATUS=serving with {len(self._accepting())} workers")
        if self._options.greet is not None:
            write_line(sys.stdout, self._options.greet([url for _, bound in self._bound for url in bound.urls()]))

    # -------------------------------------------------------------------------------------------------- draining
    async def _drain(self) -> None:
        """Accepts nothing any more and waits for what is in flight."""
        async with self._changing:
            apply = self._snapshot.apply if self._snapshot is not None else None
            if apply is None:
                self._finished.set()
                return
            deadline = asyncio.get_running_loop().time() + apply.drain_timeout_ms / 1000
            sockets = [one.socket for _, bound in self._bound for one in bound.sockets]
            if end_deferring(sockets):
                await asyncio.sleep(min(DEFERRED_SECONDS, apply.drain_timeout_ms / 1000))
            self._doors_closed = True
            for slot in self._slots:
                self._tell(slot, Drain())
            with suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await self._wait_for(lambda: all(slot.child is None or slot.state is State.DRAINING for slot in self._slots))
            for _, bound in self._bound:
                bound.close()
            self._bound = []
        report(f"draining, at most {format_duration(apply.drain_timeout_ms)}; connections left: {self._count_clients()}")
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._wait_for(lambda: all(slot.child is None for slot in self._slots))
        left = self._count_clients()
        report(f"drain_timeout is over; connections closed: {left}" if left else "drained")
        self._finished.set()

    def _count_clients(self) -> int:
        return int(self._shared.counters()["clients"])

    # -------------------------------------------------------------------------------------------------- the watchdog
    async def _beat(self) -> None:
        """Asks every child for a sign of life, kills those that give none, and gives one to the service manager."""
        watchdog = watchdog_interval()
        every = min(HEARTBEAT_SECONDS, watchdog) if watchdog is not None else HEARTBEAT_SECONDS
        while True:
            if watchdog is not None:
                notify("WATCHDOG=1")
            now_ms = time.monotonic_ns() // 1_000_000
            now = asyncio.get_running_loop().time()
            for slot in self._slots:
                if slot.child is not None:
                    self._beat_worker(slot, slot.child, now_ms, now)
            if self._controller is not None:
                if self._controller_owes and now - self._controller_owes > WATCHDOG_SECONDS:
                    report(f"the controller {self._controller.pid} does not answer: killed")
                    self._controller.signal(signal.SIGKILL)
                elif not self._controller_owes:
                    self._controller_owes = now
                    self._tell_controller(Ping())
            self._nursery.look_around()
            await asyncio.sleep(every)

    def _beat_worker(self, slot: Slot, child: Child, now_ms: int, now: float) -> None:
        if slot.state in (State.READY, State.DRAINING):
            if slot.pinged_ms and self._shared.heartbeat_ms(slot.number) < slot.pinged_ms:
                if now_ms - slot.pinged_ms >= WATCHDOG_SECONDS * 1000:
                    report(f"worker {slot.number} ({child.pid}) has not moved for {WATCHDOG_SECONDS:g} s: killed")
                    self._kill(slot)
                return
            slot.pinged_ms = now_ms
            slot.wake()
        elif slot.state is not State.BLANK and now - slot.busy_since > START_SECONDS:
            report(f"worker {slot.number} ({child.pid}) has been {slot.state.value} for {START_SECONDS:g} s: killed")
            self._kill(slot)

    # -------------------------------------------------------------------------------------------------- tasks
    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            report(f"a mistake in fastlb: {type(error).__name__}: {error}")
            self._fail(StartError(f"the supervisor ends because of it: {error}"))

    def _later(self, seconds: float, do: Callable[..., None], *arguments: Any) -> None:
        def run() -> None:
            if not self._ending:
                do(*arguments)

        asyncio.get_running_loop().call_later(seconds, run)


def _run_forked(options: SupervisorOptions, shared: _core.SharedMemory, fork: Fork, descriptors: list[int]) -> None:
    """What a forked controller or worker does, until it ends."""
    end = socket.socket(fileno=descriptors[0])
    if fork.role == CONTROLLER:
        _system.set_process_title("fastlb: control")
        run_controller(Channel(end, ToController), shared, descriptors[1] if len(descriptors) > 1 else None, options.controller)
    else:
        _system.set_process_title(f"fastlb: work {fork.role}")
        pipes = max(PIPES_IN_ALL // max(fork.n_workers, 1), 1)
        max_sockets = max(options.max_descriptors - SPARE_DESCRIPTORS - fork.n_workers, 2)  # it has an eventfd of every sibling
        worker = WorkerOptions(options.max_connections, max_sockets, pipes, options.pump_budget)
        run_worker(fork.role, Channel(end, ToWorker), shared, descriptors[1], worker)


def _wanted(apply: Apply) -> list[WantedListener]:
    return [
        WantedListener(one.name, tuple(BindAddress(*address) for address in one.bind), one.backlog, one.defer_accept)
        for one in apply.listeners
    ]


def _destinations(snapshot: Snapshot | None) -> list[LogDestination]:
    """Where a snapshot logs to, in its order."""
    targets = snapshot.apply.logs if snapshot is not None else ()
    return [LogDestination(target.kind, target.path, target.stream, target.host, target.port) for target in targets]


def _without(some: Iterable[BoundAddress], others: Iterable[BoundAddress]) -> list[BoundAddress]:
    """Those that are not among the others, which is a matter of being the same object."""
    known = {id(bound) for bound in others}
    return [bound for bound in some if id(bound) not in known]


def _name(role: int) -> str:
    return "the controller" if role == CONTROLLER else f"worker {role}"


def _pid(slot: Slot) -> int:
    return slot.child.pid if slot.child is not None else 0
