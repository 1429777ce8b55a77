"""The controller as the supervisor sees it: one process, replaced whenever it ends.

Owns the process. A controller that dies costs no request: workers go on, and the next one takes up the snapshot in force, once whatever the
dead one had offered is decided. What a controller asks for is done elsewhere; here it is only heard and told.
"""

import asyncio
import signal
from collections.abc import Sequence
from typing import Protocol

from fastlb.processes.changeover import Changeover
from fastlb.processes.child import Child
from fastlb.processes.life import Life, StartError
from fastlb.processes.listening import Opened
from fastlb.processes.messages import CONTROLLER, FromController, Processes, ProcessState, ToController
from fastlb.processes.nursery import Nursery
from fastlb.processes.output import report

# After a fork that the system refused.
RETRY_SECONDS = 1.0
# One that ends sooner after its birth has the next one wait as long.
QUICK_SECONDS = 1.0
# Changes of the list of processes within this time are one message.
TELL_SECONDS = 0.01


class Parent(Protocol):
    """Who does what a controller asks for."""

    def on_controller_message(self, message: FromController, descriptors: list[int]) -> None:
        """It says something; the descriptors are borrowed."""

    def list_processes(self) -> Sequence[ProcessState]:
        """All of this fastlb, as its controller shows them."""


class ControllerProcess:
    """The one that runs, or is about to."""

    def __init__(self, parent: Parent, life: Life, nursery: Nursery, changeover: Changeover[Opened]) -> None:
        self._parent = parent
        self._life = life
        self._nursery = nursery
        self._changeover = changeover
        self._restarts = -1
        self._born = 0.0
        self._telling = False  # the list of processes is about to be sent
        self.child: Child | None = None
        self.is_greeted = False  # it has said hello
        self.owes_since = 0.0  # when it was asked for a sign of life that has not come yet; 0 = none is owed

    @property
    def state(self) -> list[ProcessState]:
        """Itself in the list of processes, if it is there."""
        return [ProcessState("controller", 0, self.child.pid, "ready", self._restarts)] if self.child is not None else []

    # -------------------------------------------------------------------------------------------------- births and deaths
    def fork(self) -> None:
        """Asks for one, which takes up the snapshot in force."""
        if self._life.is_stopping:
            return
        snapshot = self._changeover.snapshot
        states = (snapshot.state_fd,) if snapshot is not None else ()
        self._nursery.fork(CONTROLLER, 0, FromController, *states)

    def on_born(self, child: Child) -> None:
        self.child = child
        self.is_greeted = False
        self.owes_since = 0.0
        self._restarts += 1
        self._born = asyncio.get_running_loop().time()
        self._nursery.watch(child, self._on_exit, self._parent.on_controller_message)

    def on_not_born(self) -> None:
        self._life.start(self._replace(RETRY_SECONDS))

    def _on_exit(self) -> None:
        child, self.child = self.child, None
        assert child is not None
        how = self._nursery.bury(child)
        self._life.note_change()
        if self._life.is_stopping:
            return
        if self._changeover.snapshot is None:
            self._life.fail(StartError(f"the controller could not start: {how or 'see above'}"))
            return
        report(f"the controller {child.pid} ended ({how or 'without a reason'}); workers go on; starting another")
        quick = asyncio.get_running_loop().time() - self._born < QUICK_SECONDS
        self._life.start(self._replace(QUICK_SECONDS if quick else 0))
        self.tell_processes()

    async def _replace(self, wait: float) -> None:
        """Has another one forked, once it is clear what it takes up: what the last one offered may still be voted on."""
        await asyncio.sleep(wait)
        async with self._changeover.lock:
            self.fork()

    # -------------------------------------------------------------------------------------------------- messages
    def tell(self, message: ToController, *descriptors: int) -> None:
        """Says something to it, if it is there; one that cannot be told anything is ended."""
        if self.child is not None and not self.child.send(message, *descriptors):
            self.child.signal(signal.SIGKILL)

    def tell_processes(self) -> None:
        """Keeps its list of processes true; several changes are told together."""
        self._life.note_change()
        if not self._telling:
            self._telling = True
            asyncio.get_running_loop().call_later(TELL_SECONDS, self.send_processes)

    def send_processes(self) -> None:
        """Tells it of all processes now."""
        self._telling = False
        if self._life.is_stopping or self.child is None:
            return
        if not self.child.send(Processes(tuple(self._parent.list_processes()))):
            self.tell_processes()  # it does not read just now; if that goes on, the watchdog ends it
