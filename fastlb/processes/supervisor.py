"""The supervisor: what the user has started, from the first fork to the last file that is given back. Here is the order of things.

It is the only process that keeps privileges, so it parses nothing from the network and nothing from its children but small typed messages.
Its parts, each in a file of its own: the workers (crew.py), the controller (controller_process.py), what is listened on and logged to
(listening.py), the snapshot in force (changeover.py), reloads (reloading.py), the fastlb before this one and the one after it
(succession.py), signs of life (watchdog.py), and how far all is (life.py). `Supervisor` owns them, hands what a child says to the part that
it is for, and has no state of its own.

Workers outlive it: the next fastlb finds them at their doors in the runtime directory (handover.py), takes over what they hold, starts its
own workers beside them and lets them drain (predecessor.py).

When a worker dies, three things happen at once: its sockets go to siblings, so that nobody who connects has to wait; its share of the
counts in shared memory is taken back; and another one is forked, which gets the sockets back when it is ready.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from fastlb import BUILD_ID, FastlbError, _core
from fastlb.processes import _system, watchdog
from fastlb.processes.changeover import Changeover, Snapshot
from fastlb.processes.child import Child
from fastlb.processes.controller_process import ControllerProcess
from fastlb.processes.crew import Crew
from fastlb.processes.cuts import Cuts
from fastlb.processes.draining import drain
from fastlb.processes.forked import run_forked
from fastlb.processes.handover import Doors
from fastlb.processes.life import Life, StartError
from fastlb.processes.listening import Listening, Opened
from fastlb.processes.messages import (
    CONTROLLER,
    Applied,
    Apply,
    Committed,
    Cut,
    CutDone,
    DrainAll,
    Drained,
    FromController,
    FromWorker,
    Hello,
    Pong,
    Prepared,
    ProcessState,
    Refused,
    Rejected,
    Reload,
    Reloaded,
    Stop,
    ToController,
    Upgrade,
)
from fastlb.processes.nursery import Nursery
from fastlb.processes.output import report, say, write_line
from fastlb.processes.predecessor import Predecessor, find_predecessor
from fastlb.processes.privileges import drop
from fastlb.processes.reloading import Reloading
from fastlb.processes.roster import COMMITTED, Slot, State, choose_slots
from fastlb.processes.succession import STOP_SECONDS, Succession
from fastlb.processes.supervisor_options import SupervisorOptions
from fastlb.processes.systemd import notify
from fastlb.processes.upgrade import Elder
from fastlb.processes.zygote import ZygoteOptions


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
    controller = replace(
        options.controller,
        states=predecessor.states,
        weights=predecessor.weights,
        endpoints=predecessor.endpoints,
        ticket_keys=predecessor.ticket_keys,
    )
    options = replace(options, controller=controller)
    try:
        supervisor = Supervisor(options, shared, predecessor)
        supervisor.open_nursery()  # before there is a loop, or anything else that a fork should not copy
        asyncio.run(supervisor.run())
    finally:
        shared.close()


class Supervisor:
    """All of a running fastlb, seen from above."""

    def __init__(self, options: SupervisorOptions, shared: _core.SharedMemory, predecessor: Predecessor | Elder) -> None:
        self._options = options
        self._shared = shared
        zygote = ZygoteOptions(partial(drop, options.identity), partial(run_forked, options, shared), frozenset((shared.fileno(),)))
        doors = Doors(options.runtime.path) if options.runtime is not None else None
        self._cuts = Cuts()
        self._cuts_for_heir = False
        self._life = life = Life()
        self._nursery = nursery = Nursery(self, zygote, options.spared)
        self._crew = crew = Crew(self, life, nursery, shared, doors)
        self._listening = listening = Listening(
            options, life, crew, shared, lambda wanted: self._succession.predecessor.take_sockets(wanted)
        )
        self._changeover: Changeover[Opened] = Changeover(self, life, crew)
        self._controller = controller = ControllerProcess(self, life, nursery, self._changeover)
        self._reloading = Reloading(self, nursery, options.config_path, options.read, options.tls_files)
        self._succession = Succession(
            options, predecessor, shared, doors, life, nursery, crew, listening, self._changeover, controller, self
        )

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
            loop.add_signal_handler(number, self._life.finish)
        loop.add_signal_handler(signal.SIGQUIT, self.start_drain)
        loop.add_signal_handler(signal.SIGUSR1, self._listening.reopen_logs)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        loop.add_signal_handler(signal.SIGUSR2, self._succession.upgrading.begin)
        loop.add_signal_handler(signal.SIGWINCH, self._succession.upgrading.rest)
        loop.set_exception_handler(lambda _, context: report(f"a mistake in fastlb: {context.get('exception') or context['message']}"))
        try:
            self._nursery.start()
            self._succession.begin()
            self._controller.fork()
            self._crew.begin()
            watching = watchdog.watch(self._shared, self._nursery, self._crew, self._controller)
            for work in (watching, self._reloading.run(), self._reloading.watch()):
                self._life.start(work)
            await self._life.wait_for_end()
        finally:
            await self._stop()
        if self._life.failure is not None:
            raise self._life.failure

    def _announce_if_ready(self) -> None:
        """Says that all is ready, once."""
        if self._life.is_started or self._changeover.snapshot is None or not self._crew.are_all_ready:
            return
        self._life.is_started = True
        self._life.note_change()
        self._succession.succeed()
        self._controller.send_processes()  # who waits for the line below may ask at once
        say(f"ready (pid {os.getpid()}, generation {self._changeover.generation})")
        notify("READY=1", f"MAINPID={os.getpid()}", f"STATUS=serving with {len(self._crew.accepting())} workers")
        if self._options.greet is not None:
            write_line(sys.stdout, self._options.greet([url for bound in self._listening.bound for url in bound.urls()]))

    def _on_hangup(self) -> None:
        """SIGHUP: a reload; or, to a fastlb whose heir has taken over, to go on itself."""
        if self._succession.upgrading.is_resting:
            self._succession.upgrading.resume()
        else:
            self._reloading.request()

    def start_drain(self) -> None:
        """Stops accepting; ends when the last client is gone or drain_timeout is over."""
        if not self._life.is_ending:
            self._life.is_draining = True
            self._succession.notify_end("finishing what is in flight")
            self._life.start(drain(self._shared, self._life, self._crew, self._listening, self._changeover, self._succession))

    async def _stop(self) -> None:
        """Ends all children, in order or by force, and gives everything back."""
        self._life.is_stopping = True
        self._succession.notify_end("stopping")
        self._life.cancel_tasks()
        await self._succession.upgrading.give_up()
        self._reloading.close()
        predecessor = self._succession.predecessor
        if self._life.is_started:
            predecessor.stop()
        else:
            predecessor.leave()  # it serves on as if we had never been
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                for child in self._children():
                    child.send(Stop())
                await self.wait_for(lambda: not self._children() and not self._nursery.is_expecting and predecessor.is_gone)
        predecessor.kill()
        for child in self._children():
            report(f"process {child.pid} does not end: killed")
            child.signal(signal.SIGKILL)
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await self.wait_for(lambda: not self._children() and predecessor.is_gone)
                self._nursery.close(self._life.note_change)
                await self.wait_for(lambda: not self._nursery.zygote_pid)
        self._nursery.kill()
        predecessor.leave()
        self._crew.close_doors()
        self._succession.upgrading.close()  # after that an heir looks at what doors are left, and there are none of ours
        self._listening.close()
        self._crew.close()
        self._changeover.close()
        self._write_counters()

    def _children(self) -> list[Child]:
        """Controller and workers that run."""
        workers = self._crew.children()
        return [self._controller.child, *workers] if self._controller.child is not None else workers

    def _write_counters(self) -> None:
        path = self._options.counters_path
        if path:
            try:
                Path(path).write_text(json.dumps(self._shared.counters(), indent=1) + "\n")
            except OSError as error:
                report(f"cannot write the counters to {path}: {(error.strerror or str(error)).lower()}")

    # -------------------------------------------------------------------------------------------------- births and ends of children
    def on_born(self, role: int, child: Child) -> None:
        if role == CONTROLLER:
            self._controller.on_born(child)
        else:
            self._crew.on_born(role, child)
        if self._life.is_stopping:
            child.send(Stop())
        self.tell_processes()

    def on_not_born(self, role: int, why: str) -> None:
        self._life.note_change()
        if self._life.is_stopping:
            return
        report(f"cannot fork {'the controller' if role == CONTROLLER else f'worker {role}'}: {why}; trying again")
        if role == CONTROLLER:
            self._controller.on_not_born()
        else:
            self._crew.on_not_born(role)

    def on_zygote_replaced(self) -> None:
        self.tell_processes()

    def on_zygote_failed(self) -> None:
        self._life.fail(StartError("the process that forks workers could not start: see above"))

    def on_worker_gone(self, slot: Slot) -> None:
        self._changeover.on_gone(slot)
        self.on_cut(slot.number, None)
        self._listening.share()

    def on_worker_leaving(self, slot: Slot) -> None:
        self._listening.share()

    def on_slots_added(self, slots: Sequence[Slot]) -> None:
        self._succession.introduce(slots)

    def on_slot_freed(self, number: int) -> None:
        self._succession.upgrading.tell_freed(number)

    # -------------------------------------------------------------------------------------------------- what children say
    def on_controller_message(self, message: FromController, descriptors: list[int]) -> None:
        match message:
            case Hello(build_id):
                _check_build(self._controller.child, build_id)
                self._controller.is_greeted = True
                self._succession.hand_over_admin()
                self.tell_processes()
            case Pong():
                self._controller.owes_since = 0.0
            case DrainAll():
                self.start_drain()
            case Cut():
                self.cut(message, for_heir=False)
            case Reload(ticket):
                self._reloading.request(ticket)
            case Reloaded(number, applied):
                self._reloading.on_done(number, applied)
                self._life.note_change()
            case Upgrade():
                self._life.start(self._succession.upgrade())
            case Apply():
                offered = self._changeover.take(message, descriptors)
                if offered is None:
                    self.tell_controller(Rejected(message.generation, "too many configurations at once"))
                else:
                    self._life.start(self._apply(offered))

    def on_worker_message(self, slot: Slot, message: FromWorker) -> None:
        match message:
            case Hello(build_id):
                _check_build(slot.child, build_id)
                slot.state = State.BLANK
                self._crew.introduce(slot, self._crew.slots)
                self._changeover.bring_up_to_date(slot)
            case Prepared(generation):
                self._changeover.on_vote(slot, generation, None)
            case Refused(generation, text):
                self._changeover.on_vote(slot, generation, text)
            case Committed(generation):
                self._changeover.on_committed(slot, generation)
                self._listening.share()
                self._announce_if_ready()
            case Drained():
                slot.begin_draining()
            case CutDone():
                self.on_cut(slot.number, message)
        self.tell_processes()

    # -------------------------------------------------------------------------------------------------- cuts
    def cut(self, message: Cut, for_heir: bool) -> None:
        """Has everybody end what is in flight at a backend who has it in the memory that is ours."""
        self._cuts_for_heir = for_heir  # whose controller works on this memory alone by then
        told = [slot for slot in self._crew.slots if slot.state in COMMITTED]
        for slot in told:
            self._crew.tell(slot, message)
        others = self._succession.predecessor.cut(message)
        self._answer_cut(self._cuts.begin(message.ticket, [*(slot.number for slot in told), *others]))

    def on_cut(self, number: int, done: CutDone | None) -> None:
        self._answer_cut(self._cuts.add(number, done) if done is not None else self._cuts.forget(number))

    def _answer_cut(self, done: CutDone | None) -> None:
        if done is None:
            return
        if self._cuts_for_heir:
            self._succession.upgrading.answer_cut(done)
        else:
            self.tell_controller(done)

    def tell_processes(self) -> None:
        self._controller.tell_processes()

    def list_processes(self) -> Sequence[ProcessState]:
        rows = [ProcessState("supervisor", 0, os.getpid(), "ready", 0), ProcessState("zygote", 0, self._nursery.zygote_pid, "ready", 0)]
        rows += self._controller.state
        for slot in self._crew.slots:
            if slot.child is not None or not slot.retired:
                rows.append(ProcessState("worker", slot.number, slot.pid, slot.state.value, max(slot.restarts, 0)))
        pids = self._succession.predecessor.pids
        return rows + [ProcessState("worker", number, pid, State.DRAINING.value, 0) for number, pid in pids.items()]

    # -------------------------------------------------------------------------------------------------- snapshots
    async def _apply(self, offered: Snapshot) -> None:
        """Puts a snapshot in force and tells the controller what came of it."""
        generation = offered.generation
        try:
            await self._changeover.put_in_force(offered)
        except FastlbError as error:
            if self._changeover.snapshot is None and not self._life.is_ending:
                self._life.fail(error)
            self.tell_controller(Rejected(generation, str(error)))
        else:
            self.tell_controller(Applied(generation))

    def open(self, offered: Snapshot) -> Opened:
        if self._life.is_ending:
            raise StartError("fastlb is ending and takes no configuration any more")
        homes = choose_slots(self._crew.slots, offered.apply.n_workers)
        self._succession.check_change(homes)
        self._succession.prepare_change()
        return self._listening.open(offered, homes)

    def abandon(self, opened: Opened) -> None:
        self._listening.abandon(opened)

    def switch(self, opened: Opened) -> None:
        self._listening.switch(opened)

    def adjust(self, opened: Opened) -> None:
        self._listening.adjust(opened)
        self._crew.resize(opened.homes, opened.snapshot.apply.drain_timeout_ms)

    def retire(self, opened: Opened) -> None:
        self._listening.retire(opened)
        self._announce_if_ready()

    def assign(self, slot: Slot) -> None:
        self._listening.assign(slot)

    def send_logs(self, slot: Slot) -> None:
        self._listening.send_logs(slot)

    # -------------------------------------------------------------------------------------------------- as the parent of reloads
    @property
    def is_started(self) -> bool:
        return self._life.is_started

    @property
    def is_ending(self) -> bool:
        return self._life.is_ending

    @property
    def is_watching(self) -> bool:
        snapshot = self._changeover.snapshot
        return not self._life.is_ending and snapshot is not None and snapshot.apply.watch

    @property
    def controller(self) -> Child | None:
        return self._controller.child if self._controller.is_greeted else None

    def tell_controller(self, message: ToController, *descriptors: int) -> None:
        self._controller.tell(message, *descriptors)

    async def wait_for(self, holds: Callable[[], bool]) -> None:
        await self._life.wait_for(holds)


def _check_build(child: Child | None, build_id: str) -> None:
    if build_id != BUILD_ID and child is not None:
        report(f"process {child.pid} is of another build ({build_id}, this is {BUILD_ID}): killed")
        child.signal(signal.SIGKILL)
