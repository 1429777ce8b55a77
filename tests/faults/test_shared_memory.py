"""Processes that claim and release on one shared memory and are killed, between two stores or anywhere: counts are exact again at once.

The processes run the compiled claim and release of the data plane (tests/support/_probe.pyx: SharedWorker.hammer), without sockets.
The argument, and the model of it: fastlb/data_plane/settlement.pyx, tests/property/test_settlement.py.
"""

import mmap
import os
import random
import select
import signal
import socket
import struct
from collections.abc import Iterator
from typing import Self

import pytest

from fastlb import _core
from tests.support import _probe
from tests.support.images import Writer
from tests.support.waiting import SANITIZED, wait_until

N_ROWS = 3  # few, so that siblings are nearly always at the row that is settled
CAP = 2
PAGE = 4096
# What is tried here is an order of stores, of which sanitizers know nothing and of which they make each fork slow.
PART = 4 if SANITIZED else 1
ROUNDS = 152 // PART
WORKER_POINTS = [name for name in _probe.FAULT_POINTS if not name.startswith("settle")]
SETTLE_POINTS = [name for name in _probe.FAULT_POINTS if name.startswith("settle")]


class Hammer:
    """A node of some processes that claim and release without end, each in a slot of its own."""

    def __init__(self, n_workers: int) -> None:
        self.memory = _core.SharedMemory.create()
        writer = Writer()
        pool = writer.pool()
        for number in range(N_ROWS):
            writer.backend(pool, 8000 + number)
        image = _core.seal(writer.image())
        self.memory.add_rows(image)
        os.close(image)
        self.numbers = random.Random(7)
        self.pids: dict[int, int] = {}
        self.stop = mmap.mmap(-1, PAGE)  # shared with the children: word 0 ends all of them in order
        self.open_claims = {slot: mmap.mmap(-1, PAGE) for slot in range(n_workers)}
        self.told, self.tell = os.pipe()  # one byte of each child that leaves its loop
        for slot in range(n_workers):
            self.start(slot)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for slot in list(self.pids):
            self.kill(slot)
            self.reap(slot)
        for fd in (self.told, self.tell):
            os.close(fd)
        self.memory.close()

    def start(self, slot: int, point: str = "", after: int = 0) -> None:
        seed = self.numbers.getrandbits(48)
        pid = os.fork()
        if pid == 0:
            self.be_worker(slot, seed, point, after)
        self.pids[slot] = pid

    def be_worker(self, slot: int, seed: int, point: str, after: int) -> None:
        """In the child; ends it."""
        try:
            self.memory.open_worker(slot, os.getpid())
            worker = _probe.SharedWorker(self.memory.fileno(), slot)
            if point:
                worker.set_fault_point(point, after)
            open_claims = memoryview(self.open_claims[slot]).cast("I")
            for number in range(len(open_claims)):
                open_claims[number] = 0
            in_order = worker.hammer(seed, N_ROWS, CAP, memoryview(self.stop).cast("I"), open_claims)
            os.write(self.tell, b"." if in_order else b"!")
            while in_order:
                signal.pause()  # with its claims, until it is killed
        finally:
            os._exit(1)

    def kill(self, slot: int) -> None:
        os.kill(self.pids[slot], signal.SIGKILL)

    def reap(self, slot: int) -> None:
        """Waits for the end of a worker, which SIGKILL must have been, and settles it."""
        _, status = os.waitpid(self.pids.pop(slot), 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, "a row was above its cap, or the worker failed"
        self.settle([slot])

    def settle(self, slots: list[int]) -> None:
        def look() -> bool:
            settled = [self.memory.settle_worker(slot)["settled"] for slot in slots]
            return all(settled)

        wait_until(look, f"the workers {slots} are settled")

    def verify(self) -> None:
        """No row differs from the columns of the living. One at which a worker stands still in the middle (others have the processor) is
        looked at again."""

        def look() -> bool:
            found = self.memory.verify()
            assert all(row["expected"] is None for row in found), found
            return not found

        wait_until(look, "every row can be read")

    def wait_for_claims(self, slot: int) -> None:
        """Until the worker has claimed something since now."""
        before = self.claims(slot)
        wait_until(lambda: self.claims(slot) > before, f"worker {slot} claims")

    def opened(self, number: int) -> int:
        """What the living workers have open on a row; they have stopped."""
        return sum(struct.unpack_from("I", self.open_claims[slot], 4 * number)[0] for slot in self.pids)

    def halt(self) -> None:
        """Stops all workers in order, with what they have claimed still claimed."""
        self.stop[0] = 1
        for _ in self.pids:
            assert os.read(self.told, 1) == b".", "a row was above its cap"

    def claims(self, slot: int) -> int:
        return sum(_probe.SharedWorker(self.memory.fileno(), slot).claims(number)[0] for number in range(1, N_ROWS + 1))

    def in_flight(self) -> list[object]:
        return [row["in_flight"] for row in self.memory.backends()]


@pytest.fixture
def hammer() -> Iterator[Hammer]:
    with Hammer(4) as made:
        yield made


@pytest.mark.parametrize("point", WORKER_POINTS)
def test_worker_killed_between_two_stores_is_settled_while_the_others_go_on(hammer: Hammer, point: str) -> None:
    hammer.kill(0)
    hammer.reap(0)
    for _ in range(60 // PART):
        hammer.start(0, point, hammer.numbers.randrange(1, 3000))
        hammer.reap(0)
        hammer.verify()
    hammer.halt()
    assert hammer.in_flight() == [hammer.opened(number) for number in range(1, N_ROWS + 1)]


def test_workers_killed_anywhere_two_at_a_time_are_settled_in_either_order(hammer: Hammer) -> None:
    for _ in range(ROUNDS):
        victims = hammer.numbers.sample(range(4), 2)
        for slot in victims:
            hammer.wait_for_claims(slot)
        for slot in victims:
            hammer.kill(slot)
        for slot in victims:
            os.waitpid(hammer.pids.pop(slot), 0)
        # Where both lie dead in the middle of an operation, the first is settled only when the second one has been looked at.
        hammer.settle(hammer.numbers.sample(victims, 2))
        hammer.verify()
        for slot in victims:
            hammer.start(slot)
    hammer.halt()
    assert hammer.in_flight() == [hammer.opened(number) for number in range(1, N_ROWS + 1)]
    for slot in list(hammer.pids):
        hammer.kill(slot)
        hammer.reap(slot)
    assert hammer.in_flight() == [0] * N_ROWS
    assert hammer.memory.counters()["workers_died"] == 2 * ROUNDS + 4


@pytest.mark.parametrize("point", SETTLE_POINTS)
def test_supervisor_killed_while_it_settles_leaves_enough_for_the_next(hammer: Hammer, point: str) -> None:
    for _ in range(10):
        hammer.kill(0)
        os.waitpid(hammer.pids.pop(0), 0)
        pid = os.fork()
        if pid == 0:
            settler = _probe.SharedWorker(hammer.memory.fileno(), 0)
            settler.set_fault_point(point, 1)
            settler.settle(0)
            os._exit(0)  # it had nothing to put right, so it never came to the point
        os.waitpid(pid, 0)
        wait_until(lambda: hammer.memory.settle_all(running=list(hammer.pids)), "all is settled")
        hammer.verify()
        hammer.start(0)
    hammer.halt()
    assert hammer.in_flight() == [hammer.opened(number) for number in range(1, N_ROWS + 1)]


def test_workers_that_open_their_slots_at_the_same_moment_are_all_seen() -> None:
    for _ in range(30 // PART):
        with Hammer(0) as hammer:
            pids = []
            for slot in range(8):
                pid = os.fork()
                pids.append(pid)
                if pid == 0:
                    while not hammer.stop[0]:
                        pass
                    hammer.memory.open_worker(slot, os.getpid())
                    os._exit(not _probe.SharedWorker(hammer.memory.fileno(), slot).claim(1))
            hammer.stop[0] = 1
            assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * 8
            assert hammer.memory.backends()[0]["requests"] == 8
            assert hammer.memory.verify() == []
            hammer.settle(list(range(8)))
            assert hammer.in_flight() == [0] * N_ROWS


def test_stopped_sibling_delays_settlement_and_its_death_ends_the_delay() -> None:
    with Hammer(0) as hammer:
        stopped, dead = (_probe.SharedWorker(hammer.memory.fileno(), slot) for slot in (0, 1))
        hammer.memory.open_worker(0, 1)
        hammer.memory.open_worker(1, 1)
        assert dead.claim(1)
        with mmap.mmap(hammer.memory.fileno(), 0) as raw:
            at = _probe.SHARED_OFFSETS["workers"]
            struct.pack_into("<I", raw, at, 2)  # as one looks that is stopped between naming row 1 and adding
            assert hammer.memory.settle_worker(1) == {"settled": False, "exchanges_lost": 0, "rows": 1}
            assert hammer.memory.verify() == [{"row": 1, "in_flight": 1, "expected": None, "identity": "0|127.0.0.1:8000"}]
            with pytest.raises(ValueError, match="not settled"):
                hammer.memory.open_worker(1, 2)
        assert hammer.memory.settle_worker(0)["settled"]
        assert hammer.memory.settle_worker(1)["settled"]
        assert hammer.in_flight() == [0, 0, 0]
        assert stopped.claims(1) == (0, 0)
        hammer.memory.open_worker(1, 2)


def test_exchanges_of_a_killed_engine_are_counted_as_lost_and_its_counters_balance() -> None:
    memory = _core.SharedMemory.create()
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_server(("127.0.0.1", 0)) as backend,
        socket.create_connection(listening.getsockname()) as client,
    ):
        listening.setblocking(False)
        pid = os.fork()
        if pid == 0:
            try:
                run_engine(memory, listening, backend.getsockname()[1])
            finally:
                os._exit(1)
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        connection, _ = backend.accept()
        assert connection.recv(65536).startswith(b"GET / ")
        (row,) = memory.backends()
        assert row["in_flight"] == memory.connections() == 1
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        connection.close()
    assert memory.settle_worker(0) == {"settled": True, "exchanges_lost": 1, "rows": 2}
    counters = memory.counters()
    assert (counters["workers_died"], counters["exchanges_lost"], counters["exchanges_opened"]) == (1, 1, 1)
    for name, value in counters.items():
        for first, second in (("_opened", "_closed"), ("_taken", "_returned")):
            if name.endswith(first):
                assert value == counters[name.replace(first, second)], name
    (row,) = memory.backends()
    assert (row["in_flight"], row["requests"], memory.connections()) == (0, 1, 0)
    assert memory.verify() == []
    memory.close()


def run_engine(memory: _core.SharedMemory, listening: socket.socket, port: int) -> None:
    """Without end: a worker and nothing around it."""
    memory.open_worker(0, os.getpid())
    engine = _core.Engine(max_connections=10, shared=memory)
    writer = Writer()
    writer.listener()
    pool = writer.pool()
    writer.backend(pool, port)
    writer.add_route(host="", path_prefix="/", pool=pool)
    image = _core.seal(writer.image())
    memory.add_rows(image)
    engine.apply(image, [(listening.fileno(), 0)])
    wake = select.poll()
    wake.register(engine.fileno(), select.POLLIN)
    while True:
        wake.poll()
        engine.pump()
