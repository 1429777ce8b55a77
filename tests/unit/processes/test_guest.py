"""One fastlb's counts in the memory of another: what is carried over, and what memory is not believed."""

import fcntl
import json
import os
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from fastlb import _core
from fastlb.control_plane.metrics.readings import read_backends, read_meter
from fastlb.processes.foreign_memory import LEGEND_AT, ForeignMemoryError, own_legend, read_legend
from fastlb.processes.guest import Guest
from tests.support import _probe
from tests.support.images import add_rows

A, B, C = (f"api|10.0.0.{n}:80" for n in (1, 2, 3))
GUEST = 3


@pytest.fixture
def ours() -> Iterator[_core.SharedMemory]:
    made = _core.SharedMemory.create()
    yield made
    assert made.verify() == []
    made.close()


@pytest.fixture
def theirs() -> Iterator[_core.SharedMemory]:
    made = _core.SharedMemory.create()
    yield made
    made.close()


def open_worker(memory: _core.SharedMemory, slot: int) -> _probe.SharedWorker:
    memory.open_worker(slot, os.getpid())
    return _probe.SharedWorker(memory.fileno(), slot)


def hold(worker: _probe.SharedWorker, identity: str) -> int:
    return int(worker.hold(identity.encode()))


def end(ours: _core.SharedMemory, guest: Guest) -> None:
    guest.sync(whole=True)
    guest.close()
    assert ours.settle_worker(guest.slot)["settled"]


# ---------------------------------------------------------------------------------------------------------- in flight
def test_what_is_in_flight_is_the_sum_of_both(ours: _core.SharedMemory, theirs: _core.SharedMemory) -> None:
    for memory in (ours, theirs):
        add_rows(memory, A, B)
    our_worker, their_workers = open_worker(ours, 0), [open_worker(theirs, slot) for slot in (0, 1)]
    guest = Guest(ours, GUEST, os.getpid(), theirs.fileno())
    row = hold(our_worker, A)
    assert our_worker.claim(row)
    for worker in their_workers:
        their_row = hold(worker, A)
        assert worker.claim(their_row)
    guest.sync()
    assert (ours.in_flight(A), ours.in_flight(B)) == (3, 0)
    assert not our_worker.claim(row, 3), "the cap holds over both"
    assert ours.verify() == [], "settlement would find nothing to put right"
    for worker in their_workers:
        worker.release(worker.find(A.encode()))
    guest.sync()
    assert ours.in_flight(A) == 1
    assert our_worker.claim(row, 3)
    assert {one.identity: one.attempts for one in read_backends(ours)} == {A: 4, B: 0}
    end(ours, guest)
    for _ in range(2):
        our_worker.release(row)
    assert ours.in_flight(A) == 0
    ours.settle_worker(0)


def test_what_a_guest_that_dies_had_in_flight_is_given_back(ours: _core.SharedMemory, theirs: _core.SharedMemory) -> None:
    for memory in (ours, theirs):
        add_rows(memory, A)
    worker = open_worker(theirs, 0)
    for _ in range(5):
        worker.claim(hold(worker, A))
    guest = Guest(ours, GUEST, os.getpid(), theirs.fileno())
    guest.sync()
    assert ours.in_flight(A) == 5
    end(ours, guest)
    assert ours.in_flight(A) == 0
    assert read_backends(ours)[0].attempts == 5
    assert ours.counters()["workers_died"] == 0


def test_rows_that_come_later_get_what_was_counted_before(ours: _core.SharedMemory, theirs: _core.SharedMemory) -> None:
    add_rows(theirs, A, B, C)
    worker = open_worker(theirs, 0)
    for identity, times in ((A, 2), (C, 7)):
        row = hold(worker, identity)
        worker.claim_and_release(row, times)
        worker.claim(row)
    guest = Guest(ours, GUEST, os.getpid(), theirs.fileno())
    guest.sync()
    add_rows(ours, C, A)
    guest.sync()
    assert {one.identity: (one.attempts, one.in_flight) for one in read_backends(ours)} == {A: (3, 1), C: (8, 1)}
    end(ours, guest)


def test_each_reads_the_other_and_nothing_is_counted_twice(ours: _core.SharedMemory, theirs: _core.SharedMemory) -> None:
    for memory in (ours, theirs):
        add_rows(memory, A)
    workers = [open_worker(memory, 0) for memory in (ours, theirs)]
    guests = [Guest(ours, GUEST, os.getpid(), theirs.fileno()), Guest(theirs, GUEST, os.getpid(), ours.fileno())]
    for worker, times in zip(workers, (2, 5), strict=True):
        row = hold(worker, A)
        for _ in range(times):
            worker.claim(row)
    for _ in range(3):
        for guest in guests:
            guest.sync()
    assert (ours.in_flight(A), theirs.in_flight(A)) == (7, 7)
    for memory, guest in zip((ours, theirs), guests, strict=True):
        end(memory, guest)
    assert (ours.in_flight(A), theirs.in_flight(A)) == (2, 5)


# ---------------------------------------------------------------------------------------------------------- counts
def test_health_checks_verdicts_are_carried_over(ours: _core.SharedMemory, theirs: _core.SharedMemory) -> None:
    for memory in (ours, theirs):
        add_rows(memory, A)
    theirs.set_state(A, 1)
    theirs.set_state(A, 0)
    theirs.set_state(A, 1)
    ours.set_state(A, 1)
    guest = Guest(ours, GUEST, os.getpid(), theirs.fileno())
    guest.sync()
    guest.sync()
    assert [(one.ups, one.downs) for one in read_backends(ours)] == [(1, 3)]
    end(ours, guest)


def put(memory: int, at: int, value: int) -> None:
    os.pwrite(memory, struct.pack("Q", value), at)


def test_a_layout_that_is_unlike_ours_is_read_by_names(ours: _core.SharedMemory) -> None:
    """Other places, other orders, fields that only one of the two has, other buckets."""
    legend: dict[str, Any] = {
        "structs": {
            "header": [64, {"n_workers": [8, 4, 1], "n_rows": [12, 4, 1], "n_meters": [16, 4, 1], "identity": [24, 8, 1]}],
            "worker": [
                64,
                {"guest": [0, 8, 1], "counters.moon_phases": [8, 8, 1], "counters.reasons": [16, 8, 2], "counters.retries": [32, 8, 1]},
            ],
            "meter_name": [32, {"name": [8, 1, 24], "use": [0, 4, 1], "size": [4, 4, 1]}],
            "meter": [16, {"closed": [0, 8, 1], "opened": [8, 8, 1]}],
            "meter_details": [48, {"total.buckets": [0, 8, 3], "total.sum_us": [24, 8, 1], "reasons": [32, 8, 2]}],
            "row": [48, {"identity": [0, 1, 32], "identity_size": [32, 4, 1], "use": [36, 4, 1]}],
            "column": [16, {"releases": [0, 8, 1], "claims": [8, 8, 1]}],
            "backend_meter": [16, {"reasons": [0, 8, 1], "bytes_in": [8, 8, 1]}],
        },
        "workers": [20480, 128],
        "meter_names": [24576, 32],
        "meters": [28672, 256, 16],
        "meter_details": [32768, 512, 48],
        "blocks": [65536, 4096],
        "rows": [0, 64],
        "columns": [1024, 64, 16],
        "backend_meters": [2048, 64, 16],
        "rows_per_block": 4,
        "max_workers": 8,
        "max_rows": 1024,
        "max_meters": 16,
        "reasons": ["of_the_future", _core.REASONS[5]],
        "backend_reasons": [_core.BACKEND_REASONS[3]],
        "bounds_us": [_core.BUCKET_BOUNDS_US[0], 1000],
        "of_the_future": 1,
    }
    memory = os.memfd_create("other", os.MFD_ALLOW_SEALING)
    os.ftruncate(memory, 1 << 20)
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    text = json.dumps(legend).encode()
    os.pwrite(memory, struct.pack("I", len(text)) + text, LEGEND_AT)
    os.pwrite(memory, struct.pack("III", 2, 6, 2), 8)
    put(memory, 24, 4711)
    for slot in range(2):
        worker = 20480 + slot * 128
        for number, value in enumerate((99, 100 + slot, 10, 7), 1):
            put(memory, worker + 8 * number, value)
        put(memory, 28672 + slot * 256 + 16, 3)
        put(memory, 28672 + slot * 256 + 24, 4)
        for number, value in enumerate((5, 6, 7, 800, 1, 2)):
            put(memory, 32768 + slot * 512 + 48 + 8 * number, value)
        put(memory, 65536 + 4096 + 1024 + slot * 64 + 16, 20)  # row 5
        put(memory, 65536 + 4096 + 1024 + slot * 64 + 24, 21)
        put(memory, 65536 + 4096 + 2048 + slot * 64 + 16, 8)
        put(memory, 65536 + 4096 + 2048 + slot * 64 + 24, 9)
    os.pwrite(memory, struct.pack("II", 1, 4) + b"pweb", 24576 + 32)
    os.pwrite(memory, A.encode().ljust(32, b"\0") + struct.pack("II", len(A), 1), 65536 + 4096 + 64)
    add_rows(ours, A)
    ours.set_meter(9, b"pweb")
    guest = Guest(ours, GUEST, os.getpid(), memory)
    guest.sync()
    guest.sync()
    counters = ours.counters()
    assert (counters["retries"], counters["reason." + _core.REASONS[5]]) == (14, 20)
    (row,) = read_backends(ours)
    assert (row.attempts, row.in_flight, row.bytes_in, row.failures) == (42, 2, 18, {_core.BACKEND_REASONS[3]: 16})
    meter = read_meter(ours, 9)
    assert (meter.opened, meter.closed) == (8, 6)
    assert meter.times is not None
    sum_us, buckets = meter.times[0]
    assert sum_us == 1600
    above = next(number for number, bound in enumerate(_core.BUCKET_BOUNDS_US) if bound >= 1000)
    assert {number: count for number, count in enumerate(buckets) if count} == {0: 10, above: 12, len(buckets) - 1: 14}
    end(ours, guest)
    os.close(memory)


# ---------------------------------------------------------------------------------------------------------- what is not believed
LEGEND = json.loads(json.dumps(_core.LEGEND))


def changed(*path: str, to: object) -> bytes:
    legend = json.loads(json.dumps(LEGEND))
    where = legend
    for name in path[:-1]:
        where = where[1][name] if isinstance(where, list) else where[name]
    if isinstance(where, list):
        where[1][path[-1]] = to
    else:
        where[path[-1]] = to
    return json.dumps(legend).encode()


def test_our_own_legend_is_believed() -> None:
    assert read_legend(json.dumps(_core.LEGEND).encode()) == own_legend()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        changed("structs", to={}),
        changed("structs", "worker", "counters.retries", to=[1 << 20, 8, 1]),
        changed("structs", "worker", "counters.retries", to=[8, 8, 4000]),
        changed("structs", "worker", "counters.retries", to=[-8, 8, 1]),
        changed("structs", "worker", "counters.retries", to=[4, 8, 1]),
        changed("structs", "worker", "counters.retries", to=[8, 3, 1]),
        changed("structs", "row", "identity", to=[0, 1, 5000]),
        changed("structs", "column", to=[4, {}]),
        changed("workers", to=[-4096, 4096]),
        changed("workers", to=[1 << 60, 4096]),
        changed("workers", to=[4096, 8]),
        changed("columns", to=[0, 0, 1]),
        changed("max_rows", to=1 << 40),
        changed("rows_per_block", to=0),
        changed("bounds_us", to=["x"]),
    ],
)
def test_a_legend_that_leads_astray_is_refused(text: bytes) -> None:
    with pytest.raises(ForeignMemoryError):
        read_legend(text)


def test_memory_without_a_legend_is_refused(ours: _core.SharedMemory, theirs: _core.SharedMemory) -> None:
    os.pwrite(theirs.fileno(), bytes(4), LEGEND_AT)
    with pytest.raises(ForeignMemoryError, match="no legend"):
        Guest(ours, GUEST, os.getpid(), theirs.fileno())
    assert ours.workers() == {}


def test_memory_that_says_it_is_endless_is_given_up(ours: _core.SharedMemory, theirs: _core.SharedMemory) -> None:
    legend = json.loads(json.dumps(LEGEND))
    legend["rows_per_block"], legend["max_rows"] = 1, 1 << 17
    text = json.dumps(legend, separators=(",", ":")).encode()
    os.pwrite(theirs.fileno(), struct.pack("I", len(text)) + text, LEGEND_AT)
    header = legend["structs"]["header"][1]
    os.pwrite(theirs.fileno(), struct.pack("I", 0xFFFFFFFF), header["n_rows"][0])
    os.pwrite(theirs.fileno(), struct.pack("I", 0xFFFFFFFF), header["n_workers"][0])
    guest = Guest(ours, GUEST, os.getpid(), theirs.fileno())
    with pytest.raises(ForeignMemoryError, match="larger than any"):
        guest.sync()
    guest.close()
    assert ours.settle_worker(GUEST)["settled"]


def test_nobody_but_a_guest_is_written_for(ours: _core.SharedMemory) -> None:
    ours.open_worker(0, os.getpid())
    with pytest.raises(ValueError, match="no guest"):
        ours.add_to_guest(0, "worker", 0, [(0, 1)])
    ours.open_guest(GUEST, os.getpid(), 1)
    with pytest.raises(ValueError, match="no index"):
        ours.add_to_guest(GUEST, "worker", 0, [(1 << 20, 1)])
    with pytest.raises(ValueError, match="nothing in"):
        ours.add_to_guest(GUEST, "row", 1, [])
    assert not ours.change_guest_row(GUEST, b"nobody", 1, 0, 0, 0, [], (0, 0, 0))
    for slot in (0, GUEST):
        ours.settle_worker(slot)
