"""Claim and release of a backend in shared memory, alone and beside a sibling at the same row.

The loop runs inside the compiled probe, ROUNDS pairs a call: the figure is for all of them.
"""

import os
import threading
from collections.abc import Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from fastlb import _core

probe = pytest.importorskip("tests.support._probe", reason="built by ./dev build")
images = pytest.importorskip("tests.support.images")

ROUNDS = 1000
GROUP = f"{ROUNDS} claims and releases"


@pytest.fixture
def memory() -> Iterator[_core.SharedMemory]:
    made = _core.SharedMemory.create()
    writer = images.Writer()
    writer.backend(writer.pool())
    image = _core.seal(writer.image())
    made.add_rows(image)
    os.close(image)
    yield made


def open_worker(memory: _core.SharedMemory, slot: int) -> "probe.SharedWorker":
    memory.open_worker(slot, os.getpid())
    return probe.SharedWorker(memory.fileno(), slot)


def test_alone(benchmark: BenchmarkFixture, memory: _core.SharedMemory) -> None:
    benchmark.group = GROUP
    worker = open_worker(memory, 0)
    benchmark(worker.claim_and_release, 1, ROUNDS)
    assert worker.in_flight(1) == 0


@pytest.mark.parametrize("queue_max", [0, 1000])
def test_of_an_attempt(benchmark: BenchmarkFixture, queue_max: int) -> None:
    """With the counters, and with a look at the pool's queue where it has one, in which nobody waits."""
    benchmark.group = GROUP
    pool = probe.Pool("round_robin", 1, queue_max=queue_max, queue_timeout_ms=1000)
    benchmark(pool.claim_and_release, 0, ROUNDS)
    assert pool.in_flight(0) == 0


def test_beside_a_sibling_at_the_same_row(benchmark: BenchmarkFixture, memory: _core.SharedMemory) -> None:
    benchmark.group = GROUP
    worker, sibling = open_worker(memory, 0), open_worker(memory, 1)
    stopped = threading.Event()

    def go_on() -> None:
        while not stopped.is_set():
            sibling.claim_and_release(1, 100 * ROUNDS)  # without the GIL

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        benchmark(worker.claim_and_release, 1, ROUNDS)
    finally:
        stopped.set()
        thread.join()
    assert worker.in_flight(1) == 0


def test_naive(benchmark: BenchmarkFixture) -> None:
    """A count in a dict behind a lock, as plain Python would keep it in one process."""
    benchmark.group = GROUP
    lock, in_flight = threading.Lock(), {"backend": 0}

    def claim_and_release() -> None:
        for _ in range(ROUNDS):
            with lock:
                if in_flight["backend"] < 1000:
                    in_flight["backend"] += 1
            with lock:
                in_flight["backend"] -= 1

    benchmark(claim_and_release)
    assert in_flight["backend"] == 0
