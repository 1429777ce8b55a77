"""Binary upgrade: a fastlb starts the one that is installed by now, and gives it what it has.

`Upgrading` is the old one's side, which calls the new one its *heir*; `Elder` is the old one as the new one sees it. Between them is a
channel, which the new process inherits. The heir gets copies of all listening sockets and the shared memory, makes workers of its own in
free slots, and says when it is ready. From then on both accept, until one of them ends: the elder's workers drain at SIGWINCH and it ends
at SIGQUIT, or the heir ends and the elder goes on. Counts are exact over both, as they are one memory. Where the heir lays its memory out
otherwise, each has its own, which the other one reads (guest.py). The heir runs with the privileges and the arguments of the elder.
"""

import asyncio
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from fastlb import BUILD_ID, FastlbError, _core
from fastlb.control_plane.config.address import BindAddress
from fastlb.control_plane.tls.tickets import TicketKeys
from fastlb.processes.channel import MAX_DESCRIPTORS, Channel, ChannelError, open_pair
from fastlb.processes.child import Child
from fastlb.processes.cuts import ELDER
from fastlb.processes.handover import peer_process, states_to_copy, take_listening
from fastlb.processes.messages import Bequeath, Cut, CutDone, Endpoints, Freed, FromElder, FromHeir, Lend, Succeeded
from fastlb.processes.nursery import Nursery
from fastlb.processes.output import report
from fastlb.processes.predecessor import Shares, share_out
from fastlb.processes.roster import MAX_WORKERS, Slot
from fastlb.processes.runtime_directory import RuntimeDirectory
from fastlb.processes.systemd import InheritedSocket

# The descriptor of the heir's end of the channel.
VARIABLE = "FASTLB_UPGRADE"
# The elder has said all before the heir begins to listen.
MEETING_SECONDS = 5.0
# From the start of an heir to its readiness, in an upgrade that nobody looks after.
READY_SECONDS = 60.0
# How long an heir has to end after SIGTERM; it has nothing in flight yet.
GIVE_UP_SECONDS = 5.0


class UpgradeError(FastlbError):
    """The new fastlb cannot be started, or what the old one hands over cannot be used."""


# -------------------------------------------------------------------------------------------------------------- the old one
class Parent(Protocol):
    """The supervisor of the old one."""

    @property
    def shared(self) -> _core.SharedMemory:
        """The memory that both work on."""

    @property
    def slots(self) -> list[Slot]: ...

    @property
    def weights(self) -> dict[str, int]:
        """Those of the operator's in the snapshot in force."""

    @property
    def endpoints(self) -> Endpoints:
        """What names stand for in the snapshot in force."""

    @property
    def ticket_keys(self) -> TicketKeys:
        """Those of the snapshot in force, unless they come from a file."""

    @property
    def can_be_upgraded(self) -> bool:
        """It serves alone, changes nothing just now, and is not about to end."""

    @property
    def is_ending(self) -> bool:
        """It has been told to end, and drains perhaps."""

    @property
    def is_drained(self) -> bool:
        """All workers have ended, its own and those that it has seen off."""

    def sockets(self) -> list[socket.socket]:
        """All that it listens on, or could."""

    @property
    def given(self) -> Sequence[InheritedSocket]:
        """Those of them that are the service manager's."""

    @property
    def runtime(self) -> RuntimeDirectory | None:
        """The runtime directory, if there is one."""

    def on_heir_ready(self, pid: int, memory_fd: int) -> None:
        """From now on somebody else accepts from the same sockets; over its own memory, unless that is -1. Borrowed."""

    def on_heir_gone(self, was_ready: bool) -> None:
        """It is alone again; an heir that was ready may have left something."""

    def step_aside(self) -> None:
        """Leaves the path of the pid file to the heir. OSError."""

    def rest(self) -> None:
        """Has its workers drain."""

    def resume(self) -> None:
        """Starts workers again."""

    def cut(self, message: Cut) -> None:
        """Has its workers end what is in flight at a backend, for the heir, which is told what came of it."""

    def finish(self) -> None:
        """Ends."""

    async def wait_for(self, holds: Callable[[], bool]) -> None:
        """Looks again whenever a child has moved on."""


class Upgrading:
    """The heir of this fastlb, from its start to the end of one of the two.

    SIGUSR2 starts it and leaves the rest to whoever sent that; `fastlb upgrade` has all of it done, and undone if the heir does not get
    ready.
    """

    def __init__(self, parent: Parent, nursery: Nursery) -> None:
        self._parent = parent
        self._nursery = nursery
        self._heir: Child | None = None
        self.is_ready = False  # there is an heir and it serves
        self.shares_memory = True  # that heir works on the memory that is ours
        self.is_resting = False  # our workers are not to be
        self.failure = ""  # of the last heir
        self._is_given_up = False  # whatever it says, it is to end

    @property
    def heir_pid(self) -> int:
        """0 = there is none."""
        return self._heir.pid if self._heir is not None else 0

    def begin(self) -> bool:
        """Starts the heir. False: it cannot be, which is said and noted in `failure`."""
        self.failure = ""
        try:
            if self._heir is not None:
                raise UpgradeError(f"an upgrade is under way: process {self._heir.pid}")
            if not self._parent.can_be_upgraded:
                raise UpgradeError("this fastlb is starting, reloading or ending, or the one before it has not ended: try again after that")
            self._parent.step_aside()
            self._heir = self._start()
        except (FastlbError, OSError) as error:
            self.failure = str(error)
            report(f"cannot upgrade: {self.failure}")
            if self._heir is None:
                self._parent.on_heir_gone(was_ready=False)
            return False
        report(f"upgrading: process {self._heir.pid} is to take over")
        self._nursery.watch(self._heir, self._on_exit, self._on_message)
        return True

    def _start(self) -> Child:
        """Starts the installed fastlb with the arguments of this one and tells it everything. UpgradeError."""
        parent = self._parent
        ours, theirs = open_pair()
        with theirs:
            theirs.set_inheritable(True)
            environment = {name: value for name, value in os.environ.items() if name != "WATCHDOG_PID"}  # which is us
            environment[VARIABLE] = str(theirs.fileno())
            try:
                pid = os.posix_spawn(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment, setsigdef=[signal.SIGPIPE])
            except OSError as error:
                ours.close()
                raise UpgradeError(f"cannot start {sys.executable}: {(error.strerror or str(error)).lower()}") from error
        heir = Child(pid, Channel(ours, FromHeir))
        slots = [slot for slot in parent.slots if slot.child is not None or slot.awaited or slot.reserved]
        sockets = parent.sockets()
        runtime = parent.runtime
        more = () if runtime is None else (runtime.fileno(),)
        made = runtime is not None and runtime.made
        numbers = tuple(slot.number for slot in slots)
        states = states_to_copy(parent.shared)
        names = {one.socket: one.name for one in parent.given}
        given = tuple((number, names[one]) for number, one in enumerate(sockets) if one in names)
        bequest = Bequeath(
            BUILD_ID,
            numbers,
            len(sockets),
            runtime is not None,
            made,
            states,
            parent.weights,
            parent.endpoints,
            given=given,
            hears_cuts=True,
            ticket_keys=parent.ticket_keys.keys,
            ticket_keys_born=int(parent.ticket_keys.born),
        )
        heir.send(bequest, parent.shared.fileno(), *(slot.event_fd for slot in slots), *more)
        for at in range(0, len(sockets), MAX_DESCRIPTORS):
            some = sockets[at : at + MAX_DESCRIPTORS]
            heir.send(Lend(tuple(range(at, at + len(some)))), *(one.fileno() for one in some))
        return heir

    def tell_freed(self, slot: int) -> None:
        """Nobody of ours is in this slot any more, and it is settled."""
        if self._heir is not None:
            self._heir.send(Freed(slot))

    def answer_cut(self, done: CutDone) -> None:
        """What the heir wanted cut is."""
        if self._heir is not None:
            self._heir.send(done)

    def rest(self) -> None:
        """Has our workers drain: the heir's are enough. Without an heir it is a terminal whose window has changed its size."""
        if self.is_ready and not self.is_resting:
            self.is_resting = True
            self._parent.rest()

    def resume(self) -> None:
        """Has our workers start again."""
        if self.is_resting:
            self.is_resting = False
            self._parent.resume()

    async def go_over(self) -> None:
        """All of an upgrade that `begin` has begun: the heir gets ready, our workers drain, and we end. Or it does not, and we go on."""
        try:
            async with asyncio.timeout(READY_SECONDS):
                await self._parent.wait_for(lambda: self._heir is None or self.is_ready)
        except TimeoutError:
            if self._heir is not None:  # it may have ended in this very moment
                report(f"process {self._heir.pid} is not ready after {READY_SECONDS:g} s: killed")
                self._heir.signal(signal.SIGKILL)
        if not self.is_ready:
            return
        self.rest()
        await self._parent.wait_for(lambda: self._heir is None or self._parent.is_drained)
        if self._heir is not None:
            self._parent.finish()

    async def give_up(self) -> None:
        """We are about to end: an heir that is not ready ends first, as it would live on without what we close."""
        if self._heir is None or self.is_ready:
            return
        self._is_given_up = True
        self._heir.signal(signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(GIVE_UP_SECONDS):
                await self._parent.wait_for(lambda: self._heir is None)
        if self._heir is not None:
            self._heir.signal(signal.SIGKILL)
            await self._parent.wait_for(lambda: self._heir is None)

    def close(self) -> None:
        """We end: the heir is alone from now on."""
        if self._heir is not None:
            loop = asyncio.get_running_loop()
            for descriptor in (self._heir.pidfd, self._heir.channel.fileno()):
                loop.remove_reader(descriptor)
            self._heir.release()
            self._heir = None

    def _on_message(self, message: FromHeir, descriptors: list[int]) -> None:
        if isinstance(message, Cut):
            if self.is_ready and self.shares_memory:
                self._parent.cut(message)
        elif self._heir is not None and not self.is_ready and not self._is_given_up:
            self.is_ready, self.shares_memory = True, message.shares_memory
            self._parent.on_heir_ready(self._heir.pid, descriptors[0] if descriptors and not message.shares_memory else -1)

    def _on_exit(self) -> None:
        heir, self._heir = self._heir, None
        assert heir is not None
        how = self._nursery.bury(heir)
        was_ready, self.is_ready = self.is_ready, False
        self.failure = (
            f"the new fastlb, process {heir.pid}, ended{' before it was ready' if not was_ready else ''} ({how or 'exit code 0'})"
        )
        goes_on = "is ending already" if self._parent.is_ending else "goes on"
        report(f"{self.failure}: this one {'ends, too' if self._is_given_up else goes_on}")
        self._parent.on_heir_gone(was_ready)
        self.resume()


# -------------------------------------------------------------------------------------------------------------- the new one
class Elder:
    """The fastlb that has started this one, still running. It has the methods of a `Predecessor`.

    Owns the channel and what came over it until it is taken. `given`: what the service manager listens on by itself; not owned.
    """

    def __init__(
        self, pid: int, channel: Channel[FromElder], bequest: Bequeath, descriptors: list[int], sockets: list[socket.socket]
    ) -> None:
        self.pid = pid
        self._channel = channel
        self._shared_fd, *event_fds = descriptors
        self._runtime_fd = event_fds.pop() if bequest.has_runtime else None
        self._runtime_made = bequest.runtime_made
        self._event_fds = dict(zip(bequest.slots, event_fds, strict=True))
        self.given = [InheritedSocket(sockets[number], name) for number, name in bequest.given]
        self._sockets = [one for number, one in enumerate(sockets) if number not in dict(bequest.given)]
        self._on_gone: Callable[[int | None], None] = lambda _: None
        self._on_end: Callable[[], None] = lambda: None
        self._on_cut: Callable[[int, CutDone], None] = lambda *_: None
        self.shared: _core.SharedMemory | None = None
        self.states: dict[str, int] = {}  # of backends, where the memory is not ours
        self._states = bequest.states
        self.weights = bequest.weights
        self._hears_cuts = bequest.hears_cuts
        self.endpoints = bequest.endpoints
        self.ticket_keys = TicketKeys(bequest.ticket_keys, bequest.ticket_keys_born)
        self.pids: dict[int, int] = {}  # it tells its own controller of them

    @property
    def is_alive(self) -> bool:
        """Whether it may yet go on in our place."""
        return self._channel.fileno() >= 0

    @property
    def is_gone(self) -> bool:
        """Nothing of ours waits for it: it ends when it is told to, by others."""
        return True

    def take_event_fds(self) -> dict[int, int]:
        """As `Predecessor.take_event_fds`."""
        taken, self._event_fds = self._event_fds, {}
        if self.shared is None:
            for event_fd in taken.values():
                os.close(event_fd)
            return {}
        return taken

    def take_runtime(self) -> RuntimeDirectory | None:
        """The runtime directory, which is of both from now on; None if it had none.

        Raises:
            RuntimeDirectoryError: ours is another one.
        """
        descriptor, self._runtime_fd = self._runtime_fd, None
        return RuntimeDirectory.share(descriptor, self._runtime_made) if descriptor is not None else None

    def map(self, n_workers: int) -> None:
        """Maps the shared memory if it is laid out as ours and has room for as many workers more."""
        with suppress(ValueError, OSError):
            shared = _core.SharedMemory(self._shared_fd)
            if len(self._event_fds) + n_workers <= MAX_WORKERS:
                self.shared = shared
            else:
                shared.close()
        if self.shared is None:
            self.states = self._states
            report("the shared memory of the fastlb before this one is not laid out as ours: what it says is copied")
        else:
            os.close(self.take_foreign_memory())

    def take_foreign_memory(self) -> int:
        """As `Predecessor.take_foreign_memory`."""
        taken, self._shared_fd = self._shared_fd, -1
        return taken

    def take_sockets(self, wanted: Iterable[BindAddress]) -> Shares:
        """As `Predecessor.take_sockets`; those that nobody wants stay here until the end."""
        taken, self._sockets = share_out(self._sockets, wanted)
        return taken

    def watch(self, on_gone: Callable[[int | None], None], on_end: Callable[[], None], on_cut: Callable[[int, CutDone], None]) -> None:
        """Calls `on_gone` with a slot that its worker has left, `on_end` when the elder itself has gone, and `on_cut` for the answers to
        `cut`. Needs a running loop."""
        self._on_gone, self._on_end, self._on_cut = on_gone, on_end, on_cut
        asyncio.get_running_loop().add_reader(self._channel.fileno(), self._on_readable)

    def introduce(self, event_fds: Mapping[int, int]) -> None:
        """Its workers find out by themselves, a little later, what ours have freed (queue.pyx)."""

    def succeed(self, memory_fd: int) -> None:
        """Says that we are ready, and gives it our memory to read if it has another one."""
        with suppress(OSError):
            self._channel.send(Succeeded(self.shared is not None), *(() if self.shared is not None else (memory_fd,)), wait=False)

    def cut(self, message: Cut) -> list[int]:
        """As `Predecessor.cut`; it answers for all its workers."""
        if self.shared is None or not self.is_alive or not self._hears_cuts:
            return []
        try:
            self._channel.send(message, wait=False)
        except OSError:  # it has ended, or does not read
            return []
        return [ELDER]

    def stop(self) -> None:
        """It is not ours to stop."""

    kill = stop

    def leave(self) -> None:
        """Hangs up: it goes on alone."""
        if self._channel.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            self._channel.close()
        for one in self._sockets:
            one.close()
        self._sockets.clear()

    def _on_readable(self) -> None:
        try:
            while (received := self._channel.receive()) is not None:
                message, descriptors = received
                for descriptor in descriptors:
                    os.close(descriptor)
                if isinstance(message, Freed) and self.shared is not None:
                    self._on_gone(message.slot)
                elif isinstance(message, CutDone):
                    self._on_cut(ELDER, message)
        except (EOFError, ChannelError):
            self.leave()
            self._on_end()


def meet_elder() -> Elder | None:
    """The fastlb that has started this process to take its place; None if nobody did. Call it once: the variable is gone afterwards.

    Raises:
        UpgradeError: it does not say what it should.
    """
    number = os.environ.pop(VARIABLE, "")
    if not number:
        return None
    try:
        end = socket.socket(fileno=int(number))
    except (ValueError, OSError) as error:
        raise UpgradeError(f"{VARIABLE}={number} is no channel to a fastlb") from error
    end.set_inheritable(False)
    channel: Channel[FromElder] = Channel(end, FromElder)
    deadline = time.monotonic() + MEETING_SECONDS
    try:
        bequest, descriptors = _receive(channel, deadline)
        if not isinstance(bequest, Bequeath) or len(descriptors) != 1 + len(bequest.slots) + bequest.has_runtime:
            raise ChannelError("it does not say what it hands over")
        sockets: list[socket.socket] = []
        while len(sockets) < bequest.n_sockets:
            message, some = _receive(channel, deadline)
            if not isinstance(message, Lend) or not some:
                raise ChannelError("it does not hand over what it said")
            sockets += take_listening(some)
        if any(number >= len(sockets) for number, _ in bequest.given):
            raise ChannelError("it names sockets that it has not")
    except (OSError, EOFError, ChannelError) as error:
        raise UpgradeError(f"the fastlb that started this one hands nothing over: {str(error) or 'it hung up'}") from error
    return Elder(peer_process(end), channel, bequest, descriptors, sockets)


def _receive(channel: Channel[FromElder], deadline: float) -> tuple[FromElder, list[int]]:
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    if not poll.poll(max(deadline - time.monotonic(), 0) * 1000):
        raise TimeoutError("it does not answer")
    received = channel.receive()
    if received is None:
        raise TimeoutError("it does not answer")
    return received
