"""The orderly end: nothing is accepted any more, what is in flight is finished, and then all end."""

import asyncio
from contextlib import suppress

from fastlb import _core
from fastlb.control_plane.config.quantity import format_duration
from fastlb.processes.changeover import Changeover
from fastlb.processes.crew import ENDING_SECONDS, Crew
from fastlb.processes.life import Life
from fastlb.processes.listening import Listening, Opened
from fastlb.processes.messages import Drain
from fastlb.processes.output import report
from fastlb.processes.roster import State
from fastlb.processes.sockets import end_deferring
from fastlb.processes.succession import Succession

# How long clients that have connected and not yet spoken may still be held back by the kernel (TCP_DEFER_ACCEPT): until it has sent its
# answer to their SYN again, after one second.
DEFERRED_SECONDS = 1.1


async def drain(
    shared: _core.SharedMemory, life: Life, crew: Crew, listening: Listening, changeover: Changeover[Opened], succession: Succession
) -> None:
    """Takes drain_timeout and a little more at most."""

    def count_clients() -> int:
        return int(shared.counters()["clients"])

    await succession.upgrading.give_up()
    async with changeover.lock:
        apply = changeover.snapshot.apply if changeover.snapshot is not None else None
        if apply is None:
            life.finish()
            return
        deadline = asyncio.get_running_loop().time() + apply.drain_timeout_ms / 1000
        sockets = [one.socket for bound in listening.bound for one in bound.sockets]
        if not succession.upgrading.is_ready and end_deferring(sockets):
            await asyncio.sleep(min(DEFERRED_SECONDS, apply.drain_timeout_ms / 1000))
        life.has_doors_closed = True
        left_ms = max(deadline - asyncio.get_running_loop().time(), 0) * 1000
        for slot in crew.slots:
            crew.tell(slot, Drain(int(left_ms)))
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await life.wait_for(lambda: all(slot.child is None or slot.state is State.DRAINING for slot in crew.slots))
        listening.close_sockets()
    report(f"draining, at most {format_duration(apply.drain_timeout_ms)}; connections left: {count_clients()}")
    with suppress(TimeoutError):
        async with asyncio.timeout_at(deadline):
            await life.wait_for(lambda: succession.is_drained)
    left = count_clients()
    report(f"drain_timeout is over; connections closed: {left}" if left else "drained")
    with suppress(TimeoutError):
        async with asyncio.timeout(ENDING_SECONDS):
            await life.wait_for(lambda: not crew.children())
    life.finish()
