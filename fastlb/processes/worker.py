"""A worker: the thin loop around the engine.

Owns the engine and the listening descriptors that the supervisor lends it. The loop watches one descriptor for the engine and one for the
supervisor: no client and no backend is ever seen here.
"""

import asyncio
import os
import signal
from dataclasses import dataclass

import uvloop

from fastlb import BUILD_ID, FastlbError, _core
from fastlb.processes.channel import Channel
from fastlb.processes.messages import (
    Abort,
    Assign,
    Commit,
    Committed,
    Cut,
    CutDone,
    Drain,
    Drained,
    FromWorker,
    Hello,
    Lend,
    Log,
    Prepare,
    Prepared,
    Refused,
    Siblings,
    Stop,
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


def run_worker(slot: int, channel: Channel[ToWorker], shared: _core.SharedMemory, event_fd: int, options: WorkerOptions) -> None:
    """Serves until the supervisor says otherwise, or is gone and nothing is in flight any more."""
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
    try:
        loop.run_until_complete(Worker(loop, engine, channel, options).serve())
    finally:
        engine.close()  # every pair of its counters is equal now


def map_image(image_fd: int) -> tuple[_core.Image, dict[int, int]]:
    """An image, checked and its regular expressions compiled, and the pickers of the user's own that it names, loaded."""
    image = _core.Image(image_fd)
    image.compile()
    return image, load_pickers(image.pickers(), image.python_path())


class Worker:
    """What surrounds one engine, from the first message to the last connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop, engine: _core.Engine, channel: Channel[ToWorker], options: WorkerOptions) -> None:
        self._loop = loop
        self._engine = engine
        self._channel = channel
        self._options = options
        self._stopped = asyncio.Event()
        self._sockets: dict[int, int] = {}  # the descriptors of those that were lent, by number
        self._n_aborted = 0
        self._preparing = asyncio.Lock()
        self._prepared = 0
        self._drain_timeout_ms = 0
        self._drain_idle_grace_ms = 0
        self._failure: BaseException | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Does what the supervisor says, and pumps."""
        self._loop.add_reader(self._channel.fileno(), self._on_readable)
        self._send(Hello(BUILD_ID))
        await self._stopped.wait()
        self._loop.remove_reader(self._channel.fileno())
        if self._failure is not None:
            raise self._failure

    def _on_readable(self) -> None:
        try:
            while (received := self._channel.receive()) is not None:
                self._handle(*received)
        except EOFError:
            self._on_orphaned()
        except Exception as error:
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
            case Commit(generation, sockets, drain_timeout_ms, drain_idle_grace_ms):
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
                self._start(self._stop_when_drained())
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
        """Accepts nothing any more; what waits in the queues is taken in first."""
        self._close(self._engine.drain(self._drain_idle_grace_ms))
        self._sockets.clear()

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

    def _on_orphaned(self) -> None:
        """The supervisor is gone: nobody will lend, restart or stop anything. What is in flight may end, and a new fastlb can start."""
        self._loop.remove_reader(self._channel.fileno())
        report(f"worker {os.getpid()}: the supervisor is gone: draining")
        self._drain()
        self._start(self._stop_when_drained())
        self._loop.call_later(self._drain_timeout_ms / 1000, self._stopped.set)

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
        except ConnectionError:
            pass  # the supervisor is gone: the channel's end will tell

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
