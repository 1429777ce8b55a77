"""A worker: the thin loop around the engine.

Owns the engine and the listening descriptors that the supervisor lends it. The loop watches one descriptor for the engine and one for the
supervisor: no client and no backend is ever seen here.

It outlives the supervisor: it goes on with the snapshot and the sockets that it has, without limit, until the next fastlb comes to its door
(handover.py) and tells it to drain.
"""

import asyncio
import os
import signal
import socket
from dataclasses import dataclass
from typing import Any

import uvloop

from fastlb import BUILD_ID, FastlbError, _core
from fastlb.processes.channel import MAX_DESCRIPTORS, Channel, ChannelError
from fastlb.processes.handover import peer_user, states_to_copy
from fastlb.processes.messages import (
    Abort,
    Assign,
    Commit,
    Committed,
    Cut,
    CutDone,
    Drain,
    Drained,
    Endpoints,
    FromWorker,
    Hello,
    Lend,
    Log,
    Message,
    Outlived,
    Prepare,
    Prepared,
    Refused,
    Siblings,
    Stop,
    ToOrphan,
    ToWorker,
)
from fastlb.processes.output import report
from fastlb.processes.pickers import load_pickers

# How often a drain looks whether the last connection is gone.
DRAIN_POLL_SECONDS = 0.02
# How long clients that are idle when a drain is over have to see that it is.
END_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What a worker is told besides its configuration.

    Args:
        max_connections: clients that this worker's descriptors allow.
        max_sockets: clients, backends and listeners together, so that descriptors for other things are left.
        pipes: that it may make for splice; the kernel gives an account so many, whatever the number of processes.
        pump_budget: events that one pump handles; 0 for the default.
    """

    max_connections: int
    max_sockets: int
    pipes: int
    pump_budget: int = 0


@dataclass(frozen=True, slots=True)
class Estate:
    """What a worker hands to the next fastlb when its supervisor is gone, besides the sockets that it accepts from.

    Args:
        shared: lent.
        door: where that one knocks (handover.py).
        user: the account that may.
    """

    slot: int
    shared: _core.SharedMemory
    event_fd: int
    door: socket.socket
    user: int


def run_worker(
    slot: int,
    channel: Channel[ToWorker],
    shared: _core.SharedMemory,
    event_fd: int,
    options: WorkerOptions,
    door: socket.socket | None = None,
) -> None:
    """Serves until the supervisor says otherwise. Without it, until the next one does; or, where there is no door for that one, until
    nothing is in flight any more."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    shared.open_worker(slot, os.getpid())
    loop = uvloop.new_event_loop()
    engine = _core.Engine(
        max_connections=options.max_connections,
        max_sockets=options.max_sockets,
        pipes=options.pipes,
        shared=shared,
        slot=slot,
        event_fd=event_fd,
    )
    estate = Estate(slot, shared, event_fd, door, peer_user(door)) if door is not None else None
    try:
        loop.run_until_complete(Worker(loop, engine, channel, options, estate).serve())
    finally:
        engine.close()  # every pair of its counters is equal now


def map_image(image_fd: int) -> tuple[_core.Image, dict[int, int]]:
    """An image, checked and its regular expressions compiled, and the pickers of the user's own that it names, loaded."""
    image = _core.Image(image_fd)
    image.compile()
    return image, load_pickers(image.pickers(), image.python_path())


class Worker:
    """What surrounds one engine, from the first message to the last connection."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        engine: _core.Engine,
        channel: Channel[ToWorker],
        options: WorkerOptions,
        estate: Estate | None = None,
    ) -> None:
        self._loop = loop
        self._engine = engine
        self._channel: Channel[Any] = channel  # to the supervisor, and after its end to the next fastlb while there is one
        self._options = options
        self._estate = estate
        self._is_orphan = False
        self._is_draining = False
        self._stopped = asyncio.Event()
        self._sockets: dict[int, int] = {}  # the descriptors of those that were lent, by number
        self._n_aborted = 0
        self._preparing = asyncio.Lock()
        self._prepared = 0
        self._drain_timeout_ms = 0
        self._drain_idle_grace_ms = 0
        self._weights: dict[str, int] = {}
        self._endpoints: Endpoints = {}
        self._failure: BaseException | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Does what the supervisor says, and pumps."""
        self._loop.add_reader(self._channel.fileno(), self._on_readable)
        self._send(Hello(BUILD_ID))
        await self._stopped.wait()
        if self._channel.fileno() >= 0:
            self._loop.remove_reader(self._channel.fileno())
        if self._failure is not None:
            raise self._failure

    def _on_readable(self) -> None:
        try:
            while (received := self._channel.receive()) is not None:
                self._handle(*received)
        except EOFError:
            self._on_left()
        except Exception as error:
            if isinstance(error, ChannelError) and self._is_orphan:
                report(f"worker {os.getpid()}: who came to its door talks nonsense: {error}")
                self._on_left()
                return
            self._failure = error
            self._stopped.set()

    def _handle(self, message: ToWorker, descriptors: list[int]) -> None:
        match message:
            case Siblings(slots):
                for slot, event_fd in zip(slots, descriptors, strict=True):
                    self._engine.set_sibling(slot, event_fd)
                    os.close(event_fd)  # the engine has its own
            case Prepare(generation):
                self._start(self._prepare(generation, descriptors[0], self._n_aborted))
            case Abort():
                self._n_aborted += 1
                self._engine.abort()
            case Lend(numbers):
                self._sockets.update(zip(numbers, descriptors, strict=True))
            case Commit(generation, sockets, drain_timeout_ms, drain_idle_grace_ms, weights, endpoints):
                self._weights, self._endpoints = weights, endpoints
                self._drain_timeout_ms, self._drain_idle_grace_ms = drain_timeout_ms, drain_idle_grace_ms
                if generation != self._prepared:
                    raise ValueError(f"generation {generation} is to be committed and {self._prepared} is prepared")
                is_first = self._engine.generation() == 0
                self._close(self._engine.commit([(self._sockets[number], listener) for number, listener in sockets]))
                self._keep({number for number, _ in sockets})
                if is_first:
                    self._loop.add_reader(self._engine.fileno(), self._engine.pump, self._options.pump_budget)
                self._send(Committed(generation))
            case Assign(sockets):
                self._close(self._engine.assign([(self._sockets[number], listener) for number, listener in sockets]))
                self._keep({number for number, _ in sockets})
            case Log(generation, destination):
                self._set_log(generation, destination, descriptors[0])
            case Drain(timeout_ms):
                self._drain()
                self._limit_drain(self._drain_timeout_ms if timeout_ms is None else timeout_ms)
                self._send(Drained())
            case Cut(ticket, identity):
                exchanges = self._engine.cut(identity)
                self._engine.pump(self._options.pump_budget)  # whoever has pipelined has its turn
                self._send(CutDone(ticket, exchanges))
            case Stop():
                self._stopped.set()

    async def _prepare(self, generation: int, image_fd: int, n_aborted: int) -> None:
        """Maps and checks an image; not on the loop's thread where there are clients, who do not wait meanwhile."""
        try:
            async with self._preparing:  # in the order in which they were asked for: the last one is what is committed
                image, pickers = await self._map(image_fd)
                if n_aborted == self._n_aborted:
                    self._engine.prepare(image, pickers)
                    self._prepared = generation
                    self._send(Prepared(generation))
        except (FastlbError, ValueError, OSError, MemoryError) as error:
            self._send(Refused(generation, str(error) or "out of memory"))
        finally:
            os.close(image_fd)

    def _set_log(self, generation: int, destination: int, descriptor: int) -> None:
        try:
            if generation == self._engine.generation():
                self._engine.set_log(destination, descriptor)
        except (ValueError, OSError) as error:
            report(f"worker {os.getpid()}: a log goes on to where it went: {error}")
        finally:
            os.close(descriptor)  # the engine has its own

    async def _map(self, image_fd: int) -> tuple[_core.Image, dict[int, int]]:
        if self._engine.generation():
            try:
                return await asyncio.to_thread(map_image, image_fd)
            except RuntimeError:  # no thread can be had: clients wait for a moment
                pass
        return map_image(image_fd)

    def _drain(self) -> None:
        """Accepts nothing any more; what waits in the queues is taken in first. Ends with the last connection."""
        if not self._is_draining:
            self._is_draining = True
            self._close(self._engine.drain(self._drain_idle_grace_ms))
            self._sockets.clear()
            self._start(self._stop_when_drained())

    def _limit_drain(self, timeout_ms: int) -> None:
        """Cuts what is left when the time is over; who is idle is told, and has a moment to hear it."""

        def end() -> None:
            self._engine.end_idle()
            self._loop.call_later(END_SECONDS, self._stopped.set)

        self._loop.call_later(timeout_ms / 1000, end if timeout_ms else self._stopped.set)

    async def _stop_when_drained(self) -> None:
        while self._engine.connections():
            await asyncio.sleep(DRAIN_POLL_SECONDS)
        self._stopped.set()

    # -------------------------------------------------------------------------------------------------- without a supervisor
    def _on_left(self) -> None:
        """Whoever told this worker what to do is gone: it serves on, until the next one comes."""
        self._loop.remove_reader(self._channel.fileno())
        self._channel.close()
        first, self._is_orphan = not self._is_orphan, True
        if self._estate is not None:
            self._loop.add_reader(self._estate.door.fileno(), self._on_knock)
        if self._estate is None or self._is_draining or not self._engine.generation():
            # Nobody would find it, or there is not much to find.
            report(f"worker {os.getpid()}: the supervisor is gone: draining")
            self._retire()
        elif first:
            report(f"worker {os.getpid()}: the supervisor is gone: serving on")
            self._n_aborted += 1
            self._engine.abort()
            self._loop.add_signal_handler(signal.SIGQUIT, self._retire)  # what an operator can still say to it

    def _retire(self) -> None:
        """Drains with nobody who would see to its end."""
        self._drain()
        self._limit_drain(self._drain_timeout_ms)

    def _on_knock(self) -> None:
        """Somebody is at the door: the next fastlb is given what there is. One at a time; others wait outside."""
        estate = self._estate
        assert estate is not None
        try:
            visitor, _ = estate.door.accept()
        except OSError:
            return
        if peer_user(visitor) not in (0, estate.user):
            visitor.close()
            return
        self._loop.remove_reader(estate.door.fileno())
        self._channel = Channel(visitor, ToOrphan)
        sockets = list(self._sockets.items())
        self._loop.add_reader(self._channel.fileno(), self._on_readable)
        try:
            outlived = Outlived(BUILD_ID, estate.slot, len(sockets), states_to_copy(estate.shared), self._weights, self._endpoints)
            self._offer(outlived, estate.shared.fileno(), estate.event_fd)
            for at in range(0, len(sockets), MAX_DESCRIPTORS):
                some = sockets[at : at + MAX_DESCRIPTORS]
                self._offer(Lend(tuple(number for number, _ in some)), *(descriptor for _, descriptor in some))
        except OSError:
            self._on_left()

    def _offer(self, message: Message, *descriptors: int) -> None:
        """Says something to a visitor, for whom nobody waits. OSError: it is gone, or does not read."""
        self._channel.send(message, *descriptors, wait=False)

    def _keep(self, wanted: set[int]) -> None:
        """Forgets the sockets that are not wanted; their descriptors are closed."""
        for number in self._sockets.keys() - wanted:
            del self._sockets[number]

    def _close(self, descriptors: list[int]) -> None:
        for descriptor in descriptors:
            os.close(descriptor)

    def _send(self, message: FromWorker) -> None:
        try:
            self._channel.send(message)
        except OSError:
            pass  # the other end is gone: the channel's end will tell, or has told

    def _start(self, work: "asyncio._CoroutineLike[None]") -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        """A mistake ends the worker: the supervisor starts another, and tells."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = error
            self._stopped.set()
