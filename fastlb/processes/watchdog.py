"""The watchdog: asks every child for a sign of life, kills those that give none, and gives one to the service manager.

A worker's sign is its engine's: the supervisor writes its eventfd, and the pump that this wakes stores its clock in shared memory. A
controller answers a message. How old a sign may be stands here and nowhere else; what takes too long to get ready is ended as well.
"""

import asyncio
import signal
import time

from fastlb import _core
from fastlb.processes.child import Child
from fastlb.processes.controller_process import ControllerProcess
from fastlb.processes.crew import Crew
from fastlb.processes.messages import Ping
from fastlb.processes.nursery import Nursery
from fastlb.processes.output import report
from fastlb.processes.roster import START_SECONDS, Slot, State
from fastlb.processes.systemd import notify, watchdog_interval

# A child is asked for a sign of life this often and killed when none comes for so long.
HEARTBEAT_SECONDS = 1.0
WATCHDOG_SECONDS = 5.0


async def watch(shared: _core.SharedMemory, nursery: Nursery, crew: Crew, controller: ControllerProcess) -> None:
    """Runs until it is cancelled."""
    watchdog = watchdog_interval()
    every = min(HEARTBEAT_SECONDS, watchdog) if watchdog is not None else HEARTBEAT_SECONDS
    while True:
        if watchdog is not None:
            notify("WATCHDOG=1")
        now_ms = time.monotonic_ns() // 1_000_000
        now = asyncio.get_running_loop().time()
        for slot in crew.slots:
            if slot.child is not None:
                _look_at_worker(shared, slot, slot.child, now_ms, now)
        if controller.child is not None:
            _look_at_controller(controller, controller.child, now)
        nursery.look_around()
        await asyncio.sleep(every)


def _look_at_controller(controller: ControllerProcess, child: Child, now: float) -> None:
    if controller.owes_since and now - controller.owes_since > WATCHDOG_SECONDS:
        report(f"the controller {child.pid} does not answer: killed")
        child.signal(signal.SIGKILL)
    elif not controller.owes_since:
        controller.owes_since = now
        controller.tell(Ping())


def _look_at_worker(shared: _core.SharedMemory, slot: Slot, child: Child, now_ms: int, now: float) -> None:
    if slot.state in (State.READY, State.DRAINING):
        if slot.pinged_ms and shared.heartbeat_ms(slot.number) < slot.pinged_ms:
            if now_ms - slot.pinged_ms >= WATCHDOG_SECONDS * 1000:
                report(f"worker {slot.number} ({child.pid}) has not moved for {WATCHDOG_SECONDS:g} s: killed")
                slot.kill()
            return
        slot.pinged_ms = now_ms
        slot.wake()
    elif slot.state is not State.BLANK and now - slot.busy_since > START_SECONDS:
        report(f"worker {slot.number} ({child.pid}) has been {slot.state.value} for {START_SECONDS:g} s: killed")
        slot.kill()
