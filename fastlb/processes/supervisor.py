"""The supervisor: binds sockets, forks and watches, and decides which snapshot is in force.

Owns the listening sockets, the shared memory's life, the children and, through changeover.py, the snapshot in force. It is the only process
that keeps privileges, so it parses nothing from the network and nothing from its children but small typed messages.

Workers outlive it: the next fastlb finds them at their doors in the runtime directory (handover.py), takes over what they hold, starts its
own workers beside them and lets them drain (predecessor.py).

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
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from fastlb import BUILD_ID, FastlbError, _core
from fastlb.control_plane.config.address import BindAddress
from fastlb.control_plane.config.log_destination import LogDestination
from fastlb.control_plane.config.quantity import format_duration
from fastlb.control_plane.controller import ControllerOptions, run_controller
from fastlb.control_plane.reading import Reading
from fastlb.processes import _system
from fastlb.processes.changeover import Changeover, Snapshot
from fastlb.processes.channel import MAX_DESCRIPTORS, Channel
from fastlb.processes.child import Child
from fastlb.processes.cuts import Cuts
from fastlb.processes.descriptor_store import DescriptorStore, Stored
from fastlb.processes.handover import Doors
from fastlb.processes.lending import Lending, Place
from fastlb.processes.log_files import LogFiles
from fastlb.processes.memory_lock import changing_rows, try_settling
from fastlb.processes.messages import (
    CONTROLLER,
    AdminSocket,
    Applied,
    Apply,
    Assign,
    Committed,
    Cut,
    CutDone,
    Drain,
    DrainAll,
    Drained,
    Fork,
    FromController,
    FromWorker,
    Hello,
    LeaveAdmin,
    Lend,
    Log,
    Ping,
    Pong,
    Prepared,
    Processes,
    ProcessState,
    Refused,
    Rejected,
    Reload,
    Reloaded,
    Siblings,
    Stop,
    ToController,
    ToWorker,
    Upgrade,
    Upgraded,
)
from fastlb.processes.nursery import Nursery
from fastlb.processes.output import report, report_warnings, say, write_line
from fastlb.processes.pid_file import PidFile
from fastlb.processes.predecessor import NOTHING_STORED, Predecessor, adopt_orphans, find_predecessor
from fastlb.processes.privileges import Identity, drop
from fastlb.processes.reloading import Reloading
from fastlb.processes.roster import ACCEPTING, COMMITTED, MAX_WORKERS, START_SECONDS, Slot, State, choose_slots, make_slot
from fastlb.processes.runtime_directory import RuntimeDirectory
from fastlb.processes.sockets import BoundAddress, adopt_sockets, bind_listeners, end_deferring, take_over, update_listening
from fastlb.processes.systemd import InheritedSocket, hand_over, notify, watchdog_interval
from fastlb.processes.upgrade import Elder, Upgrading
from fastlb.processes.worker import END_SECONDS, WorkerOptions, run_worker
from fastlb.processes.zygote import ZygoteOptions

# A worker is asked for a sign of life this often and killed when none comes for so long.
HEARTBEAT_SECONDS = 1.0
WATCHDOG_SECONDS = 5.0
# After a fork that the system refused.
RETRY_SECONDS = 1.0
# How long processes have to end by themselves after SIGTERM.
STOP_SECONDS = 5.0
# How often what a dead worker left behind is looked at again, where a live one stood still in the middle of the same count.
SETTLE_SECONDS = 0.05
# How long clients that have connected and not yet spoken may still be held back by the kernel (TCP_DEFER_ACCEPT): until it has sent its
# answer to their SYN again, after one second.
DEFERRED_SECONDS = 1.1
# How long workers have to end by themselves when a drain is over, after the moment that their idle clients have (worker.END_SECONDS).
ENDING_SECONDS = END_SECONDS + 1.0
# Changes of the list of processes within this time are one message.
TELL_SECONDS = 0.01
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
        config_path: of the file that a reload reads; "" for none.
        read: reads it, in a process of its own that has the privileges of this one.
        admin: where the admin API listens; borrowed, open until the end.
        runtime: the directory in which workers are found that outlive their supervisor; borrowed. None: they do not.
        stored: what the service manager has kept for us.
        elder: the fastlb that has started this one to take its place.
        pid_file: written already; it steps aside during an upgrade.
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
    config_path: str = ""
    read: Callable[[], Reading] = Reading
    admin: tuple[BoundAddress, ...] = ()
    runtime: RuntimeDirectory | None = None
    stored: Stored = NOTHING_STORED
    elder: Elder | None = None
    pid_file: PidFile = field(default_factory=partial(PidFile, ""))


@dataclass(frozen=True, slots=True)
class WantedListener:
    """A listener as the controller described it; see `sockets.Binds`."""

    name: str
    bind: tuple[BindAddress, ...]
    backlog: int
    defer_accept: bool


@dataclass(frozen=True, slots=True)
class Opened:
    """What is listened on before and after a change of snapshots."""

    snapshot: Snapshot
    before: list[BoundAddress]
    after: list[tuple[int, BoundAddress]]  # with the index of the listener
    homes: list[int]  # the slots that shall have workers


def run_supervisor(options: SupervisorOptions) -> None:
    """Serves until a signal ends it: SIGTERM and SIGINT at once, SIGQUIT after what is in flight.

    Raises:
        FastlbError: it could not start.
    """
    _system.set_child_subreaper()
    predecessor: Predecessor | Elder = Predecessor()
    if options.elder is not None:
        predecessor = options.elder
        options.elder.map(options.n_workers)
    else:
        wanted = [address for listener in options.controller.config.listeners for address in listener.bind]
        directory = options.runtime.path if options.runtime is not None else None
        predecessor = find_predecessor(directory, wanted, options.n_workers, options.stored)
    shared = predecessor.shared or _core.SharedMemory.create()
    options = replace(options, controller=replace(options.controller, states=predecessor.states, weights=predecessor.weights))
    try:
        supervisor = Supervisor(options, shared, predecessor)
        supervisor.open_nursery()  # before there is a loop, or anything else that a fork should not copy
        asyncio.run(supervisor.run())
    finally:
        shared.close()


class Supervisor:
    """All of a running fastlb, seen from above."""

    def __init__(self, options: SupervisorOptions, shared: _core.SharedMemory, predecessor: Predecessor | Elder | None = None) -> None:
        self._options = options
        self._shared = shared
        self._predecessor: Predecessor | Elder = predecessor if predecessor is not None else Predecessor()
        self._doors = Doors(options.runtime.path) if options.runtime is not None else None
        kept = frozenset((shared.fileno(),))
        zygote = ZygoteOptions(partial(drop, options.identity), partial(_run_forked, options, shared), kept)
        self._nursery = Nursery(self, zygote, options.spared)
        self._upgrading = Upgrading(self, self._nursery)
        self._reloading = Reloading(self, self._nursery, options.config_path, options.read)
        self._controller: Child | None = None
        self._controller_greeted = False
        self._controller_restarts = -1
        self._controller_born = 0.0
        self._controller_owes = 0.0  # since when an answer to a ping has been missing
        self.slots: list[Slot] = []
        self._bound: list[tuple[int, BoundAddress]] = []  # with the index of the listener
        self._taken_over: list[BoundAddress] = []  # from the fastlb before this one, when it was met
        self._for_both: list[BoundAddress] = []  # an heir accepts there, too
        self._store = DescriptorStore(options.stored.names)
        self._given: set[BindAddress] = set()  # what the service manager listens on by itself
        self._lending = Lending()
        self._logs = LogFiles()
        self._cuts = Cuts()
        self._changeover: Changeover[Opened] = Changeover(self)
        self._telling = False  # the list of processes is about to be sent
        self._finished = asyncio.Event()
        self._changed = asyncio.Event()  # set whenever a child moved on; whoever waits for something looks again
        self._announced = False
        self._ending = False
        self._draining = False
        self.has_doors_closed = False  # nothing is accepted any more, and nobody is started to accept
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
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        loop.add_signal_handler(signal.SIGUSR2, self._upgrading.begin)
        loop.add_signal_handler(signal.SIGWINCH, self._upgrading.rest)
        loop.set_exception_handler(lambda _, context: report(f"a mistake in fastlb: {context.get('exception') or context['message']}"))
        try:
            self._nursery.start()
            self._make_slots()
            self._predecessor.watch(self._on_predecessor_exit, self._on_elder_end)
            self._predecessor.introduce({slot.number: slot.event_fd for slot in self.slots})
            self._settle_left()
            self._fork(CONTROLLER)
            for slot in self.slots:
                self._fork_worker(slot)
            for work in (self._beat(), self._reloading.run(), self._reloading.watch()):
                self._start(work)
            await self._finished.wait()
        finally:
            await self._stop()
        if self._failure is not None:
            raise self._failure

    def _make_slots(self) -> None:
        """The slots of our workers, around those in which the workers of the fastlb before this one still are."""
        reserved = self._predecessor.take_event_fds()
        n_slots = max([self._options.n_workers + len(reserved), *(number + 1 for number in reserved)])
        self.slots = [make_slot(number, reserved.get(number, -1)) for number in range(n_slots)]
        for slot in self.slots:
            slot.retired, slot.reserved = True, slot.number in reserved
        for number in choose_slots(self.slots, self._options.n_workers):
            self.slots[number].retired = False

    def start_drain(self) -> None:
        """Stops accepting; ends when the last client is gone or drain_timeout is over."""
        if not self._draining and not self._ending:
            self._draining = True
            self._notify_end("finishing what is in flight")
            self._start(self._drain())

    def _notify_end(self, status: str) -> None:
        """Tells the service manager that the service ends, unless it goes on without us."""
        if self._upgrading.is_ready:
            return
        if not self._predecessor.is_alive:
            notify("STOPPING=1", f"STATUS={status}")
        if self._announced:
            self._store.forget()
        if self._predecessor.is_alive:  # last: it may listen to the main process only
            notify(f"MAINPID={self._predecessor.pid}")

    def _on_hangup(self) -> None:
        """SIGHUP: a reload; or, to a fastlb whose heir has taken over, to go on itself."""
        if self._upgrading.is_resting:
            self._upgrading.resume()
        else:
            self._reloading.request()

    def reopen_logs(self) -> None:
        """Opens every log anew, for files that were moved away. One that cannot be opened goes on to where it did."""
        for error in self._logs.reopen():
            report(f"{error}; its lines still go to where they went")
        for slot in self.slots:
            if slot.state in COMMITTED:
                self.send_logs(slot)

    async def _stop(self) -> None:
        """Ends all children, in order or by force, and gives everything back."""
        self._ending = True
        self._notify_end("stopping")
        for task in list(self._tasks):
            task.cancel()
        await self._upgrading.give_up()
        self._reloading.close()
        if self._announced:
            self._predecessor.stop()
        else:
            self._predecessor.leave()  # it serves on as if we had never been
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                for child in self._children():
                    child.send(Stop())
                await self.wait_for(lambda: not self._children() and not self._nursery.is_expecting and self._predecessor.is_gone)
        self._predecessor.kill()
        for child in self._children():
            report(f"process {child.pid} does not end: killed")
            child.signal(signal.SIGKILL)
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await self.wait_for(lambda: not self._children() and self._predecessor.is_gone)
                self._nursery.close(self._changed.set)
                await self.wait_for(lambda: not self._nursery.zygote_pid)
        self._nursery.kill()
        self._predecessor.leave()
        if self._doors is not None:
            self._doors.close()
        self._upgrading.close()  # after that an heir looks at what doors are left, and there are none of ours
        for _, bound in self._bound:
            bound.close()
        for slot in self.slots:
            os.close(slot.event_fd)
        self._changeover.close()
        self._logs.close()
        self._write_counters()

    def _children(self) -> list[Child]:
        """Controller and workers that run."""
        workers = [slot.child for slot in self.slots if slot.child is not None]
        return [self._controller, *workers] if self._controller is not None else workers

    async def wait_for(self, holds: Callable[[], bool]) -> None:
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
            door = self._doors.open(role) if self._doors is not None else None
            descriptors = (self.slots[role].event_fd, door.fileno()) if door is not None else (self.slots[role].event_fd,)
            self._nursery.fork(role, len(self.slots), FromWorker, *descriptors)
        elif self._changeover.snapshot is not None:
            self._nursery.fork(role, len(self.slots), FromController, self._changeover.snapshot.state_fd)
        else:
            self._nursery.fork(role, len(self.slots), FromController)

    def on_born(self, role: int, child: Child) -> None:
        now = asyncio.get_running_loop().time()
        if role == CONTROLLER:
            self._controller = child
            self._controller_greeted = False
            self._controller_restarts += 1
            self._controller_born, self._controller_owes = now, 0.0
            self._nursery.watch(child, self._on_controller_exit, self._on_controller_message)
        else:
            slot = self.slots[role]
            slot.begin(child, now)
            self._nursery.watch(child, partial(self._on_worker_exit, slot), partial(self._on_worker_message, slot))
            if slot.retired or self.has_doors_closed:  # since it was asked for
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
            self._settle(self.slots[role], asyncio.get_running_loop().time() + RETRY_SECONDS)

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
        if self._changeover.snapshot is None:
            self._fail(StartError(f"the controller could not start: {how or 'see above'}"))
            return
        report(f"the controller {controller.pid} ended ({how or 'without a reason'}); workers go on; starting another")
        quick = asyncio.get_running_loop().time() - self._controller_born < HEARTBEAT_SECONDS
        self._start(self._replace_controller(HEARTBEAT_SECONDS if quick else 0))
        self._tell_processes()

    async def _replace_controller(self, wait: float) -> None:
        """Has another one forked, once it is clear what it takes up: what the last one offered may still be voted on."""
        await asyncio.sleep(wait)
        async with self._changeover.lock:
            self._fork(CONTROLLER)

    def _on_controller_message(self, message: FromController, descriptors: list[int]) -> None:
        match message:
            case Hello(build_id):
                self._check_build(self._controller, build_id)
                self._controller_greeted = True
                self._hand_over_admin()
                self._tell_processes()
            case Pong():
                self._controller_owes = 0.0
            case DrainAll():
                self.start_drain()
            case Cut(ticket):
                told = [slot for slot in self.slots if slot.state in COMMITTED]
                for slot in told:
                    self.tell(slot, message)
                self._answer_cut(self._cuts.begin(ticket, [slot.number for slot in told]))
            case Reload(ticket):
                self._reloading.request(ticket)
            case Reloaded(number):
                self._reloading.on_done(number)
                self._changed.set()
            case Upgrade():
                self._start(self._upgrade())
            case Apply():
                offered = self._changeover.take(message, descriptors)
                if offered is None:
                    self.tell_controller(Rejected(message.generation, "too many configurations at once"))
                else:
                    self._start(self._apply(offered))

    def _answer_cut(self, done: CutDone | None) -> None:
        if done is not None:
            self.tell_controller(done)

    def _hand_over_admin(self) -> None:
        """Lends a controller the sockets of the admin API, which stay when it dies. During an upgrade there is one API: the new one's, as
        soon as that is ready."""
        if self._upgrading.is_ready:
            self.tell_controller(LeaveAdmin(self._upgrading.shares_memory))
            return
        if self._options.elder is not None and not self._announced:
            return
        controller = self._controller
        if controller is not None:
            for one in [one for bound in self._options.admin for one in bound.sockets]:
                controller.send(AdminSocket(), one.socket.fileno())

    def _check_build(self, child: Child | None, build_id: str) -> None:
        if build_id != BUILD_ID and child is not None:
            report(f"process {child.pid} is of another build ({build_id}, this is {BUILD_ID}): killed")
            child.signal(signal.SIGKILL)

    @property
    def controller(self) -> Child | None:
        """The one that runs, if it has said hello."""
        return self._controller if self._controller_greeted else None

    @property
    def is_started(self) -> bool:
        """Whether every worker has been ready."""
        return self._announced

    @property
    def is_ending(self) -> bool:
        """Whether no configuration is taken any more."""
        return self._ending or self._draining

    @property
    def is_watching(self) -> bool:
        """Whether the configuration in force has its file watched."""
        snapshot = self._changeover.snapshot
        return not self.is_ending and snapshot is not None and snapshot.apply.watch

    def tell_controller(self, message: ToController, *descriptors: int) -> None:
        if self._controller is not None and not self._controller.send(message, *descriptors):
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
        for slot in self.slots:
            if slot.child is not None or not slot.retired:
                pid = slot.child.pid if slot.child is not None else 0
                rows.append(ProcessState("worker", slot.number, pid, slot.state.value, max(slot.restarts, 0)))
        rows += [ProcessState("worker", number, pid, State.DRAINING.value, 0) for number, pid in self._predecessor.pids.items()]
        if not self._controller.send(Processes(tuple(rows))):
            self._tell_processes()  # it does not read just now; if that goes on, the watchdog ends it

    # -------------------------------------------------------------------------------------------------- the workers
    def _on_worker_message(self, slot: Slot, message: FromWorker, _: list[int]) -> None:
        match message:
            case Hello(build_id):
                self._check_build(slot.child, build_id)
                slot.state = State.BLANK
                self._introduce(slot, self.slots)
                self._changeover.bring_up_to_date(slot)
            case Prepared(generation):
                self._changeover.on_vote(slot, generation, None)
            case Refused(generation, text):
                self._changeover.on_vote(slot, generation, text)
            case Committed(generation):
                self._changeover.on_committed(slot, generation)
                self._share_sockets()
                self._announce_if_ready()
            case Drained():
                slot.begin_draining()
            case CutDone():
                self._answer_cut(self._cuts.add(slot.number, message))
        self._tell_processes()

    def _introduce(self, slot: Slot, others: Sequence[Slot]) -> None:
        """Gives a worker what wakes its siblings, once: an eventfd belongs to its slot, whoever works there."""
        siblings = [other for other in others if other is not slot]
        if siblings:
            numbers = tuple(other.number for other in siblings)
            self.tell(slot, Siblings(numbers), *(other.event_fd for other in siblings))

    def send_logs(self, slot: Slot) -> None:
        """Gives a worker the descriptors of the logs of the snapshot in force."""
        for index, destination in enumerate(_destinations(self._changeover.snapshot)):
            self.tell(slot, Log(self._changeover.generation, index), self._logs.fileno(destination))

    def _on_worker_exit(self, slot: Slot) -> None:
        child = slot.child
        assert child is not None
        how = self._nursery.bury(child)
        was = slot.state
        slot.reserved = False
        wait = slot.end(asyncio.get_running_loop().time())
        self._changeover.on_gone(slot)
        self._answer_cut(self._cuts.forget(slot.number))
        self._share_sockets()
        if not self._ending and not self.has_doors_closed and not slot.retired:
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
        if not self._settle_slot(slot.number):
            self._later(SETTLE_SECONDS, self._settle, slot, when)
            return
        self._wake_waiting()
        if when > now:
            self._later(when - now, self._fork_worker, slot)
        else:
            self._fork_worker(slot)

    def _settle_slot(self, number: int) -> bool:
        """Settles the worker that was in a slot. False: not yet, for reasons that pass."""
        with try_settling(self._shared) as alone:
            if not alone or not self._shared.settle_worker(number)["settled"]:
                return False
        if self.slots[number].retired:
            self._upgrading.tell_freed(number)
        return True

    def _wake_waiting(self) -> None:
        """What a dead worker had claimed is free for who waits for it."""
        for number in self._shared.waiting_workers():
            if number < len(self.slots):
                self.slots[number].wake()

    def _settle_left(self, first: bool = True) -> None:
        """Takes back what processes that ended without a supervisor had claimed, before anybody of ours is there. What a live one in the
        middle of a count holds up is looked at again; our own workers' slots are settled by then, or when they could not begin there."""
        if self._predecessor.shared is None:
            return
        kept = {slot.number for slot in self.slots if slot.reserved or not (first or slot.retired)}
        with try_settling(self._shared) as alone:
            settled = alone and self._shared.settle_all(kept)
        if not settled:
            self._later(SETTLE_SECONDS, self._settle_left, False)
        self._wake_waiting()

    def _on_predecessor_exit(self, number: int | None) -> None:
        """A worker of the fastlb before this one has ended; its slot is free once its counts are settled."""
        self._tell_processes()
        if number is None:
            return
        slot = self.slots[number]
        if self._settle_slot(number):
            slot.reserved = False
            self._wake_waiting()
        else:
            self._later(SETTLE_SECONDS, self._on_predecessor_exit, number)

    def _fork_worker(self, slot: Slot) -> None:
        """Has the next worker forked, if there shall be one."""
        slot.awaited = not slot.retired and not self.has_doors_closed
        if slot.awaited:
            self._fork(slot.number)

    def kill(self, slot: Slot) -> None:
        if slot.child is not None:
            slot.child.signal(signal.SIGKILL)

    def tell(self, slot: Slot, message: ToWorker, *descriptors: int) -> None:
        """Says something to a worker; one that cannot be told anything is dead or as good as that."""
        if slot.child is not None and not slot.child.send(message, *descriptors):
            self.kill(slot)

    # -------------------------------------------------------------------------------------------------- sockets
    def _places(self) -> list[Place]:
        return [Place(one.number, index, one.home) for index, bound in self._bound for one in bound.sockets]

    def _accepting(self) -> list[int]:
        return [slot.number for slot in self.slots if slot.state in ACCEPTING and not slot.retired]

    def _share_sockets(self) -> None:
        """Has each socket accepted from by the worker that it belongs to or, for as long as that is not ready, by a sibling.

        Who gets a socket is told before who loses it: both accept for a moment, and no client waits.
        """
        if self.has_doors_closed:
            return
        assigned = self._lending.assign(self._places(), self._accepting())
        generation = self._changeover.generation
        # A worker that still has the snapshot before this one knows other listeners: it gets its sockets with its next commit.
        ready = [slot for slot in self.slots if slot.state is State.READY and slot.generation == generation]
        changed = [slot for slot in ready if assigned.get(slot.number, ()) != slot.assigned]
        changed.sort(key=lambda slot: len(assigned.get(slot.number, ())) < len(slot.assigned))
        for slot in changed:
            slot.assigned = assigned.get(slot.number, ())
            self._lend(slot)
            self.tell(slot, Assign(slot.assigned))

    def assign(self, slot: Slot) -> None:
        """Gives a worker the sockets of the snapshot in force that are its own or lent to it."""
        slot.assigned = self._lending.assign(self._places(), self._accepting()).get(slot.number, ())
        self._lend(slot)

    def _lend(self, slot: Slot) -> None:
        """Sends the descriptors of assigned sockets that the worker does not have."""
        wanted = {number for number, _ in slot.assigned}
        missing = [one for _, bound in self._bound for one in bound.sockets if one.number in wanted - slot.lent]
        for at in range(0, len(missing), MAX_DESCRIPTORS):
            some = missing[at : at + MAX_DESCRIPTORS]
            self.tell(slot, Lend(tuple(one.number for one in some)), *(one.socket.fileno() for one in some))
        slot.lent = wanted

    # -------------------------------------------------------------------------------------------------- snapshots
    async def _apply(self, offered: Snapshot) -> None:
        """Puts a snapshot in force and tells the controller what came of it."""
        generation = offered.generation
        try:
            await self._changeover.put_in_force(offered)
        except FastlbError as error:
            if self._changeover.snapshot is None and not self._ending and not self._draining:
                self._fail(error)
            self.tell_controller(Rejected(generation, str(error)))
        else:
            self.tell_controller(Applied(generation))

    def open(self, offered: Snapshot) -> Opened:
        """Binds what a snapshot listens on and opens its logs, beside what is open. FastlbError: nothing has changed."""
        if self.is_ending:
            raise StartError("fastlb is ending and takes no configuration any more")
        before = [bound for _, bound in self._bound]
        listeners = _wanted(offered.apply)
        homes = choose_slots(self.slots, offered.apply.n_workers)
        if self._upgrading.heir_pid:  # whose workers may be in any slot that is free here
            raise StartError("an upgrade is under way, and the configuration is the new one's")
        if self._predecessor.is_alive and not {slot.number for slot in self.slots if not slot.retired}.issuperset(homes):
            # Should the old one start its workers again, they may be in any slot that is free here.
            raise StartError("an upgrade is under way: there can be more workers when the old fastlb has ended")
        if homes[-1] >= MAX_WORKERS:
            raise StartError("there is no room for so many workers as long as those of the fastlb before this one have not ended")
        try:
            self._logs.open(_destinations(offered))
            after = bind_listeners(listeners, [*before, *self._adopt(listeners, before, homes)], homes)
        except FastlbError:
            self._logs.keep(_destinations(self._changeover.snapshot))
            raise
        self._share_sockets()  # more workers: the sockets for them are beside the old ones already, and clients come to them
        return Opened(offered, before, after, homes)

    def abandon(self, opened: Opened) -> None:
        """Closes what has been opened for a snapshot that nobody uses."""
        self._logs.keep(_destinations(self._changeover.snapshot))
        for bound in _without([bound for _, bound in opened.after], opened.before):
            bound.close()

    def switch(self, opened: Opened) -> None:
        """What was opened is what is listened on from now on."""
        self._bound = opened.after

    def adjust(self, opened: Opened) -> None:
        """Makes sockets, workers and logs as the snapshot in force wants them."""
        update_listening(_wanted(opened.snapshot.apply), opened.after)
        self._resize(opened.homes)
        self._logs.keep(_destinations(opened.snapshot))

    def retire(self, opened: Opened) -> None:
        """Closes what is not listened on any more: its queue has been taken in."""
        self._keep_in_store()
        for bound in _without(opened.before, [bound for _, bound in opened.after]):
            bound.close()
        for index, bound in opened.after:
            for url in bound.urls() if _without([bound], opened.before) else ():
                say(f'listening on {url} (listener "{opened.snapshot.apply.listeners[index].name}")')
        self._announce_if_ready()

    def _keep_in_store(self) -> None:
        """Has the service manager keep what the next fastlb needs, should all of us be killed."""
        self._store.keep(self._shared.fileno(), [bound for _, bound in self._bound if bound.address not in self._given])

    def _adopt(self, listeners: Sequence[WantedListener], bound: Iterable[BoundAddress], homes: Sequence[int]) -> list[BoundAddress]:
        """Sockets of the service manager, or of the fastlb before this one, for addresses that are not listened on yet."""
        addresses = [address for listener in listeners for address in listener.bind]
        handover = hand_over(self._options.inherited, addresses)
        report_warnings(handover.warnings)
        known = {one.address for one in bound}
        self._given.update(handover.by_address)
        adopted = [adopt_sockets(address, sockets) for address, sockets in handover.by_address.items() if address not in known]
        wanted = [address for address in addresses if address not in handover.by_address]
        taken_over = [take_over(address, sockets, homes) for address, sockets in self._predecessor.take_sockets(wanted)]
        self._taken_over += taken_over
        return adopted + taken_over

    def _add_slots(self, numbers: Collection[int]) -> None:
        """Makes slots up to the highest of these, where nobody is to be yet."""
        while len(self.slots) <= max(numbers, default=0):
            self.slots.append(make_slot(len(self.slots)))
            self.slots[-1].retired = True

    def _resize(self, homes: Sequence[int]) -> None:
        """Starts the workers that are missing and lets those go that are too many: siblings get their sockets, and they finish."""
        n_before = len(self.slots)
        self._add_slots(homes)
        if n_before < len(self.slots):
            self._predecessor.introduce({slot.number: slot.event_fd for slot in self.slots[n_before:]})
        for slot in self.slots[:n_before]:
            if slot.state is not State.WAITING:  # who has not said hello yet is told of all then
                self._introduce(slot, self.slots[n_before:])
        for slot in self.slots:
            was, slot.retired = slot.retired, slot.number not in homes
            if not slot.retired and slot.child is None and not slot.awaited:
                slot.awaited = True
                self._fork(slot.number)
            elif slot.retired and not was:
                self._start(self._retire(slot))

    async def _retire(self, slot: Slot) -> None:
        """Lets a worker finish what it has."""
        child = slot.child
        await self.wait_for(lambda: slot.child is not child or slot.state in (State.READY, State.BLANK))
        if child is None or slot.child is not child or not slot.retired or self._changeover.snapshot is None:
            return
        slot.begin_draining()
        self._changed.set()
        self._share_sockets()  # siblings accept from its sockets before it stops doing so, and from then on
        self.tell(slot, Drain())
        await asyncio.sleep(self._changeover.snapshot.apply.drain_timeout_ms / 1000 + ENDING_SECONDS)
        if slot.child is child:
            self.tell(slot, Stop())

    def _are_all_ready(self) -> bool:
        return all(slot.state is State.READY for slot in self.slots if not slot.retired)

    def _announce_if_ready(self) -> None:
        """Says that all is ready, once."""
        if self._announced or self._changeover.snapshot is None or not self._are_all_ready():
            return
        self._announced = True
        self._changed.set()
        self._predecessor.succeed()
        if self._options.elder is not None:
            self._hand_over_admin()
        else:
            for bound in self._taken_over:
                bound.inherited = False  # ours alone from now on
        if not self._predecessor.is_gone:
            self._start(self._see_off())
        self._send_processes()  # who waits for the line below may ask at once
        say(f"ready (pid {os.getpid()}, generation {self._changeover.generation})")
        notify("READY=1", f"MAINPID={os.getpid()}", f"STATUS=serving with {len(self._accepting())} workers")
        if self._options.greet is not None:
            write_line(sys.stdout, self._options.greet([url for _, bound in self._bound for url in bound.urls()]))

    async def _see_off(self) -> None:
        """Has the workers of the fastlb before this one end, now that ours accept from the same sockets."""
        assert self._changeover.snapshot is not None
        with suppress(TimeoutError):
            async with asyncio.timeout(self._changeover.snapshot.apply.drain_timeout_ms / 1000 + ENDING_SECONDS):
                await self.wait_for(lambda: self._predecessor.is_gone)
        self._predecessor.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await self.wait_for(lambda: self._predecessor.is_gone)
        self._predecessor.kill()

    # -------------------------------------------------------------------------------------------------- upgrades
    @property
    def shared(self) -> _core.SharedMemory:
        return self._shared

    @property
    def weights(self) -> dict[str, int]:
        return self._changeover.snapshot.apply.weights if self._changeover.snapshot is not None else {}

    @property
    def can_be_upgraded(self) -> bool:
        # A third one beside two could bring the first back; an heir and a reload that adds workers could choose the same slots.
        is_alone = not self._predecessor.is_alive and not self._changeover.lock.locked()
        return self._announced and not self.is_ending and is_alone

    @property
    def is_drained(self) -> bool:
        return all(slot.child is None for slot in self.slots) and self._predecessor.is_gone

    @property
    def runtime(self) -> RuntimeDirectory | None:
        return self._options.runtime

    def sockets(self) -> list[socket.socket]:
        return [one.socket for bound in (*self._options.admin, *(bound for _, bound in self._bound)) for one in bound.sockets]

    def step_aside(self) -> None:
        self._options.pid_file.step_aside()

    async def _upgrade(self) -> None:
        """All of an upgrade, for the controller, which hears when the heir is ready, or why it is not."""
        if self._upgrading.begin():
            self._start(self._upgrading.go_over())
            await self.wait_for(lambda: self._upgrading.is_ready or not self._upgrading.heir_pid)
        if self._upgrading.is_ready:
            self.tell_controller(Upgraded(self._upgrading.heir_pid, ""))
        else:
            self.tell_controller(Upgraded(0, self._upgrading.failure))

    def on_heir_ready(self, pid: int) -> None:
        """The heir serves: closing our sockets loses nobody, and their files are its own."""
        self.tell_controller(LeaveAdmin(self._upgrading.shares_memory))
        self._store.leave()
        self._for_both = [bound for bound in (*self._options.admin, *(bound for _, bound in self._bound)) if not bound.inherited]
        for bound in self._for_both:
            bound.inherited = True
        report(f"process {pid} has taken over; both accept until one of them is told to end")
        notify(f"MAINPID={pid}")
        self._changed.set()

    def on_heir_gone(self, was_ready: bool) -> None:
        """We are alone again, with what the heir left, should it have been killed. While we end, its workers serve on, for the next one."""
        self._changed.set()
        if self.is_ending:
            return
        for bound in self._for_both:
            bound.inherited = False
        try:
            self._options.pid_file.come_back()
        except (OSError, FastlbError) as error:
            report(f"the pid file: {error}")
        if was_ready:
            notify(f"MAINPID={os.getpid()}")
            if self._changeover.snapshot is not None:
                self._restore_rows(self._changeover.snapshot)  # before our controller looks for them
            self.tell_controller(AdminSocket())  # also where the admin API is off
            self._hand_over_admin()
            self._keep_in_store()
        if self._changeover.snapshot is not None:
            self._adopt_orphans()

    def _on_elder_end(self) -> None:
        """The fastlb that has started this one has gone."""
        for bound in (*self._taken_over, *self._options.admin):
            bound.inherited = False
        self._adopt_orphans()

    def _adopt_orphans(self) -> None:
        """Takes over from workers whose supervisor, which ran beside us over the same memory, has been killed; or settles what is left."""
        if self.is_ending or self._predecessor.is_alive:
            return
        own = {slot.number for slot in self.slots if slot.child is not None or slot.awaited or not (slot.retired or slot.reserved)}
        if self._options.runtime is not None and self._doors is not None:
            self._predecessor.leave()
            self._predecessor = adopt_orphans(self._options.runtime.path, self._shared, own, self._doors.name)
        taken = self._predecessor.take_event_fds()
        workers = self._shared.workers()
        self._add_slots([*taken, *workers])
        for slot in self.slots:
            if slot.reserved and slot.child is None and slot.number not in workers:
                slot.reserved = False  # the heir's worker there has ended in order
        for number, event_fd in taken.items():
            slot = self.slots[number]
            slot.reserved = True
            if event_fd >= 0:
                os.close(slot.event_fd)
                slot.event_fd = event_fd
        self._predecessor.watch(self._on_predecessor_exit, self._on_elder_end)
        for number in workers:
            if number not in taken and number not in own:
                self._on_predecessor_exit(number)
        if self._announced and not self._predecessor.is_gone:
            self._start(self._succeed_orphans(self._predecessor))

    async def _succeed_orphans(self, orphans: Predecessor | Elder) -> None:
        """Has them drain as soon as ours accept: if we rested, nobody else does."""
        await self.wait_for(self._are_all_ready)
        if self._predecessor is orphans and not self.is_ending:
            orphans.succeed()
            await self._see_off()

    def rest(self) -> None:
        """Lets all our workers drain."""
        self._resize(())

    def resume(self) -> None:
        """Starts as many as the snapshot in force wants, where nobody of another fastlb is."""
        if self._changeover.snapshot is not None and not self._ending and not self._draining:
            workers = self._shared.workers()  # who drains here is no help, and where the heir's workers are is no room
            self._add_slots(workers)
            for number in workers:
                self.slots[number].reserved = True
            self._restore_rows(self._changeover.snapshot)
            self._resize(choose_slots(self.slots, self._changeover.snapshot.apply.n_workers))

    def _restore_rows(self, snapshot: Snapshot) -> None:
        """Makes the rows of backends that only we list: the heir has freed them, if a reload of it found nobody there."""
        try:
            with changing_rows(self._shared):
                self._shared.add_rows(snapshot.image_fd)
        except (ValueError, OSError) as error:
            report(f"not all backends have a row in the shared memory: {error}")

    def finish(self) -> None:
        self._finished.set()

    # -------------------------------------------------------------------------------------------------- draining
    async def _drain(self) -> None:
        """Accepts nothing any more and waits for what is in flight."""
        await self._upgrading.give_up()
        async with self._changeover.lock:
            apply = self._changeover.snapshot.apply if self._changeover.snapshot is not None else None
            if apply is None:
                self._finished.set()
                return
            deadline = asyncio.get_running_loop().time() + apply.drain_timeout_ms / 1000
            sockets = [one.socket for _, bound in self._bound for one in bound.sockets]
            if not self._upgrading.is_ready and end_deferring(sockets):
                await asyncio.sleep(min(DEFERRED_SECONDS, apply.drain_timeout_ms / 1000))
            self.has_doors_closed = True
            left_ms = max(deadline - asyncio.get_running_loop().time(), 0) * 1000
            for slot in self.slots:
                self.tell(slot, Drain(int(left_ms)))
            with suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await self.wait_for(lambda: all(slot.child is None or slot.state is State.DRAINING for slot in self.slots))
            for _, bound in self._bound:
                bound.close()
            self._bound = []
        report(f"draining, at most {format_duration(apply.drain_timeout_ms)}; connections left: {self._count_clients()}")
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self.wait_for(lambda: self.is_drained)
        left = self._count_clients()
        report(f"drain_timeout is over; connections closed: {left}" if left else "drained")
        with suppress(TimeoutError):
            async with asyncio.timeout(ENDING_SECONDS):
                await self.wait_for(lambda: all(slot.child is None for slot in self.slots))
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
            for slot in self.slots:
                if slot.child is not None:
                    self._beat_worker(slot, slot.child, now_ms, now)
            if self._controller is not None:
                if self._controller_owes and now - self._controller_owes > WATCHDOG_SECONDS:
                    report(f"the controller {self._controller.pid} does not answer: killed")
                    self._controller.signal(signal.SIGKILL)
                elif not self._controller_owes:
                    self._controller_owes = now
                    self.tell_controller(Ping())
            self._nursery.look_around()
            await asyncio.sleep(every)

    def _beat_worker(self, slot: Slot, child: Child, now_ms: int, now: float) -> None:
        if slot.state in (State.READY, State.DRAINING):
            if slot.pinged_ms and self._shared.heartbeat_ms(slot.number) < slot.pinged_ms:
                if now_ms - slot.pinged_ms >= WATCHDOG_SECONDS * 1000:
                    report(f"worker {slot.number} ({child.pid}) has not moved for {WATCHDOG_SECONDS:g} s: killed")
                    self.kill(slot)
                return
            slot.pinged_ms = now_ms
            slot.wake()
        elif slot.state is not State.BLANK and now - slot.busy_since > START_SECONDS:
            report(f"worker {slot.number} ({child.pid}) has been {slot.state.value} for {START_SECONDS:g} s: killed")
            self.kill(slot)

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
        door = socket.socket(fileno=descriptors[2]) if len(descriptors) > 2 else None
        run_worker(fork.role, Channel(end, ToWorker), shared, descriptors[1], worker, door)


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
