"""fastlb/data_plane/shared_table.pyx and settlement.pyx through fastlb._core.SharedMemory: rows, workers, engines that share them."""

import fcntl
import mmap
import os
import random
import signal
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator

import pytest

from fastlb import _core
from tests.support import _probe
from tests.support.images import Writer
from tests.support.waiting import SANITIZED
from tests.support.world import REQUEST, RESPONSE, World

OFFSETS = _probe.SHARED_OFFSETS


@pytest.fixture
def memory() -> Iterator[_core.SharedMemory]:
    made = _core.SharedMemory.create()
    yield made
    made.close()


def make_image(identities: Iterable[str], **options: int) -> int:
    """Descriptor of an image with one pool of these backends."""
    writer = Writer()
    pool = writer.pool()
    address = _core.pack_address("127.0.0.1", 80)
    for identity in identities:
        writer.add_backend(pool, identity=identity, display=f"<{identity}>", address=address, weight=1, max_in_flight=0)
    return _core.seal(writer.image())


def add(memory: _core.SharedMemory, *identities: str) -> None:
    image = make_image(identities)
    try:
        memory.add_rows(image)
    finally:
        os.close(image)


def sweep(memory: _core.SharedMemory, *identities: str) -> int:
    image = make_image(identities)
    try:
        return memory.sweep(image)
    finally:
        os.close(image)


def open_worker(memory: _core.SharedMemory, slot: int) -> _probe.SharedWorker:
    memory.open_worker(slot, os.getpid())
    return _probe.SharedWorker(memory.fileno(), slot)


def names(memory: _core.SharedMemory) -> list[object]:
    return [row["identity"] for row in memory.backends()]


# ---------------------------------------------------------------------------------------------------------- mapping
def test_what_another_process_made_is_mapped_by_its_descriptor(memory: _core.SharedMemory) -> None:
    add(memory, "api|a", "api|b")
    other = _core.SharedMemory(memory.fileno())
    assert other.fileno() != memory.fileno()
    assert names(other) == ["api|a", "api|b"]
    other.close()
    assert names(memory) == ["api|a", "api|b"]
    with pytest.raises(ValueError, match="closed"):
        other.backends()


@pytest.mark.parametrize("damage", ["empty", "cut", "unsealed", "magic", "layout", "sizes"])
def test_memory_of_another_kind_is_refused(memory: _core.SharedMemory, damage: str) -> None:
    whole = os.fstat(memory.fileno()).st_size
    if damage in ("empty", "cut", "unsealed"):
        fd = os.memfd_create("x", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.truncate(fd, {"empty": 0, "cut": whole - 1, "unsealed": whole}[damage])
        os.pwrite(fd, os.pread(memory.fileno(), 4096, 0) if damage != "empty" else b"", 0)
    else:
        fd = os.dup(memory.fileno())
        os.pwrite(fd, b"\x7f", {"magic": 1, "layout": 8, "sizes": 208}[damage])
    with pytest.raises(ValueError, match="not shared memory, or of another layout"):
        _core.SharedMemory(fd)
    os.close(fd)


def test_memory_of_another_build_with_the_same_layout_is_mapped(memory: _core.SharedMemory) -> None:
    os.pwrite(memory.fileno(), b"another build", 56)
    other = _core.SharedMemory(memory.fileno())
    assert names(other) == names(memory)
    other.close()


def test_slots_in_use_are_known_with_their_processes(memory: _core.SharedMemory) -> None:
    memory.open_worker(0, 11)
    memory.open_worker(2, 13)
    assert memory.workers() == {0: 11, 2: 13}
    memory.settle_worker(0)
    assert memory.workers() == {2: 13}


def test_nobody_can_cut_it_or_seal_it_against_growing(memory: _core.SharedMemory) -> None:
    with pytest.raises(PermissionError):
        os.truncate(memory.fileno(), 4096)
    with pytest.raises(PermissionError):
        fcntl.fcntl(memory.fileno(), fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)


def test_it_takes_little_memory_before_it_is_used(memory: _core.SharedMemory) -> None:
    add(memory, *(f"api|{number}" for number in range(100)))
    worker = open_worker(memory, 0)
    for number in range(100):
        worker.hold(b"api|%d" % number)
    assert os.fstat(memory.fileno()).st_blocks * 512 < 512 * 1024


# ---------------------------------------------------------------------------------------------------------- rows
def test_added_row_is_found_by_its_whole_identity(memory: _core.SharedMemory) -> None:
    add(memory, "api|a", "web|a", "api|a1", "")
    worker = open_worker(memory, 0)
    rows = [worker.find(identity) for identity in (b"api|a", b"web|a", b"api|a1", b"")]
    assert len(set(rows)) == 4
    assert 0 not in rows, "0 is the node's own"
    assert worker.find(b"api|") == worker.find(b"api|a2") == 0
    assert memory.backends()[1]["display"] == "<api|a>"


def test_row_stays_the_same_when_it_is_added_again(memory: _core.SharedMemory) -> None:
    add(memory, "api|a")
    worker = open_worker(memory, 0)
    number = worker.hold(b"api|a")
    assert worker.claim(number)
    add(memory, "api|b", "api|a")
    assert worker.find(b"api|a") == number
    assert [row["in_flight"] for row in memory.backends()] == [1, 0]


def test_identity_may_be_long_but_not_longer_than_a_row_holds(memory: _core.SharedMemory) -> None:
    add(memory, "p" * 424)
    assert names(memory) == ["p" * 424]
    with pytest.raises(ValueError, match="424 bytes together"):
        add(memory, "p" * 423 + "é")


def test_no_row_moves_while_another_process_adds_ten_thousand(memory: _core.SharedMemory) -> None:
    add(memory, "api|first")
    worker = open_worker(memory, 0)
    number = worker.hold(b"api|first")
    where = worker.address(number)
    assert worker.claim(number)
    image = make_image(["api|first", *(f"api|{n}" for n in range(10_000))])
    code = "import sys; from fastlb import _core; _core.SharedMemory(int(sys.argv[1])).add_rows(int(sys.argv[2]))"
    fds = (memory.fileno(), image)
    adding = subprocess.Popen([sys.executable, "-c", code, *map(str, fds)], pass_fds=fds)
    while adding.poll() is None:  # look-ups and claims beside it
        assert worker.find(b"api|first") == number
        assert worker.find(b"api|9999") in (0, 10_001)
        assert worker.claim(number)
        worker.release(number)
    assert adding.returncode == 0
    assert worker.address(number) == where
    assert worker.in_flight(number) == 1
    assert len({worker.find(b"api|%d" % n) for n in range(10_000)}) == 10_000
    assert 0 not in {worker.find(b"api|%d" % n) for n in range(10_000)}
    assert len(memory.backends()) == 10_001
    assert memory.verify() == []
    os.close(image)


@pytest.mark.timeout(120)
def test_full_table_says_so_and_goes_on_when_rows_are_freed(memory: _core.SharedMemory) -> None:
    image = make_image(f"api|{n}" for n in range(65_536))
    with pytest.raises(OSError, match="room for 65535 backends"):
        memory.add_rows(image)
    os.close(image)
    with pytest.raises(OSError, match="room for 65535 backends"):
        add(memory, "one more")
    assert sweep(memory, *(f"api|{n}" for n in range(65_000))) == 535
    size = os.fstat(memory.fileno()).st_size
    add(memory, *(f"new|{n}" for n in range(535)))
    with pytest.raises(OSError, match="room for 65535 backends"):
        add(memory, "one more")
    assert os.fstat(memory.fileno()).st_size == size


# ---------------------------------------------------------------------------------------------------------- sweeping
def test_sweep_frees_what_is_neither_listed_nor_held_nor_in_flight(memory: _core.SharedMemory) -> None:
    add(memory, "listed", "held", "busy", "free")
    worker, other = open_worker(memory, 0), open_worker(memory, 1)
    held, busy = worker.hold(b"held"), other.find(b"busy")
    assert other.claim(busy)
    assert sweep(memory, "listed") == 1
    assert names(memory) == ["busy", "held", "listed"]
    assert worker.find(b"free") == 0
    assert worker.hold(b"free") == 0
    worker.let_go(held)
    other.release(busy)
    assert sweep(memory, "listed") == 2
    assert names(memory) == ["listed"]


def test_freed_row_is_used_again_and_counts_from_nothing(memory: _core.SharedMemory) -> None:
    add(memory, "old", "stays")
    worker = open_worker(memory, 0)
    number = worker.hold(b"old")
    for _ in range(3):
        assert worker.claim(number)
        worker.release(number)
    worker.let_go(number)
    assert sweep(memory, "stays") == 1
    add(memory, "new")
    assert worker.hold(b"new") == number
    assert worker.find(b"old") == 0
    new = memory.backends()[0]
    assert (new["identity"], new["requests"], new["in_flight"]) == ("new", 0, 0)


def test_rows_of_one_chain_leave_in_any_order(memory: _core.SharedMemory) -> None:
    # 40,000 rows in 16,384 chains.
    everything = [f"api|{n}" for n in range(40_000)]
    add(memory, *everything)
    worker = open_worker(memory, 0)
    random.Random(3).shuffle(everything)
    kept = everything[:13_000]
    assert sweep(memory, *kept) == 27_000
    assert all(worker.find(name.encode()) for name in kept)
    assert not any(worker.find(name.encode()) for name in everything[13_000:])


def test_controller_that_ended_in_the_middle_of_a_sweep_is_repaired_by_the_next_add(memory: _core.SharedMemory) -> None:
    add(memory, "api|a")
    worker = open_worker(memory, 0)
    at = OFFSETS["blocks"] + OFFSETS["details"] + OFFSETS["details_bytes"] + 12  # `use` of row 1
    with mmap.mmap(memory.fileno(), 0) as raw:
        assert struct.unpack_from("<I", raw, at) == (1,)
        struct.pack_into("<I", raw, at, 2)
        assert worker.hold(b"api|a") == 0, "the controller may be freeing it"
        add(memory, "api|a")
        assert worker.hold(b"api|a") == 1


# ---------------------------------------------------------------------------------------------------------- claims
def test_claims_of_all_workers_count_together_up_to_the_cap(memory: _core.SharedMemory) -> None:
    add(memory, "api|a")
    first, second = open_worker(memory, 0), open_worker(memory, 100)
    assert first.claim(1, 2)
    assert second.claim(1, 2)
    assert not first.claim(1, 2)
    assert not second.claim(1, 2)
    assert memory.backends()[0]["in_flight"] == 2
    assert memory.backends()[0]["requests"] == 2, "a refused claim is no request"
    second.release(1)
    assert first.claim(1, 2)
    assert (first.claims(1), second.claims(1)) == ((2, 0), (1, 1))
    assert memory.verify() == []


def test_slot_belongs_to_one_worker_until_that_is_settled(memory: _core.SharedMemory) -> None:
    memory.open_worker(3, 1234)
    assert memory.worker_pid(3) == 1234
    with pytest.raises(ValueError, match="slot 3 is in use or not settled"):
        memory.open_worker(3, 1235)
    assert memory.settle_worker(3) == {"settled": True, "exchanges_lost": 0, "rows": 0}
    assert memory.worker_pid(3) == 0
    memory.open_worker(3, 1235)
    for slot in (-1, 128):
        with pytest.raises(ValueError, match="0 to 127"):
            memory.open_worker(slot, 1)


def test_settled_worker_leaves_its_totals_and_no_claim(memory: _core.SharedMemory) -> None:
    add(memory, "api|a", "api|b")
    worker, other = open_worker(memory, 0), open_worker(memory, 1)
    for _ in range(3):
        assert worker.claim(worker.hold(b"api|a"))
    assert other.claim(other.hold(b"api|a"))
    assert worker.claim(0)
    assert memory.settle_worker(0) == {"settled": True, "exchanges_lost": 0, "rows": 2}
    assert memory.settle_worker(0) == {"settled": True, "exchanges_lost": 0, "rows": 0}
    row = memory.backends()[0]
    assert (row["in_flight"], row["requests"]) == (1, 4)
    assert memory.connections() == 0
    assert memory.counters()["workers_died"] == 1
    other.release(1)
    other.let_go(1)
    assert sweep(memory) == 2, "the dead worker still holds a row"


def test_state_of_a_backend_is_seen_by_everybody(memory: _core.SharedMemory) -> None:
    add(memory, "api|a", "api|b")
    other = _core.SharedMemory(memory.fileno())
    for state in (1, 2, 4, 7, 0):
        memory.set_state("api|b", state)
        assert [row["state"] for row in other.backends()] == [0, state]
    other.close()


def test_controller_leaves_what_workers_say_of_a_backend(memory: _core.SharedMemory) -> None:
    add(memory, "api|a")
    ejected = _core.ROW_STATES["ejected"]
    with mmap.mmap(memory.fileno(), 0) as raw:
        struct.pack_into("<I", raw, OFFSETS["blocks"] + OFFSETS["row_bytes"] + 8, ejected)
    for state in (1, 2, 0, 5, 0):
        memory.set_state("api|a", state)
        assert [row["state"] for row in memory.backends()] == [state | ejected]


def test_state_that_does_not_exist_is_refused(memory: _core.SharedMemory) -> None:
    add(memory, "api|a")
    with pytest.raises(ValueError, match="8 is no state"):
        memory.set_state("api|a", 8)
    with pytest.raises(KeyError):
        memory.set_state("api|b", 1)


def test_backend_that_comes_back_after_it_was_swept_is_up_and_ready(memory: _core.SharedMemory) -> None:
    add(memory, "api|a", "api|b")
    memory.set_state("api|a", 1)
    assert sweep(memory, "api|b") == 1
    add(memory, "api|a", "api|b")
    assert [row["state"] for row in memory.backends()] == [0, 0]


def test_counts_that_drifted_are_found_and_put_right(memory: _core.SharedMemory) -> None:
    add(memory, "api|a")
    worker = open_worker(memory, 0)
    assert worker.claim(1)
    with mmap.mmap(memory.fileno(), 0) as raw:
        struct.pack_into("<q", raw, OFFSETS["blocks"] + OFFSETS["row_bytes"], 7)
    assert memory.verify() == [{"row": 1, "identity": "api|a", "in_flight": 7, "expected": 1}]
    assert memory.settle_all(running=[0])
    assert memory.verify() == []
    assert memory.backends()[0]["in_flight"] == 1
    assert memory.settle_all()
    assert memory.backends()[0]["in_flight"] == 0


# ---------------------------------------------------------------------------------------------------------- fault points
def test_fault_point_is_refused_by_a_build_without_the_hook(memory: _core.SharedMemory) -> None:
    if SANITIZED:  # built with it
        memory.set_fault_point(_probe.FAULT_POINTS["claim_added"], 0)
    else:
        with pytest.raises(RuntimeError, match="FASTLB_FAULT_HOOK"):
            memory.set_fault_point(_probe.FAULT_POINTS["claim_added"], 1)


def test_fault_point_of_the_environment_ends_the_process_at_its_count(memory: _core.SharedMemory) -> None:
    code = "import sys; from tests.support import _probe; w = _probe.SharedWorker(int(sys.argv[1]), 0); [w.claim(0) for _ in range(9)]"
    worker = open_worker(memory, 0)
    for point, claims, in_flight in (("claim_named", 3, 3), ("claim_added", 3, 4), ("claim_noted", 4, 4)):
        environment = {**os.environ, "FASTLB_FAULT_POINT": f"{_probe.FAULT_POINTS[point]},4"}
        fd = memory.fileno()
        done = subprocess.run([sys.executable, "-c", code, str(fd)], pass_fds=[fd], env=environment)
        assert done.returncode == -signal.SIGKILL
        assert (worker.claims(0)[0] - worker.claims(0)[1], worker.in_flight(0)) == (claims, in_flight), point
        assert memory.settle_worker(0)["settled"]
        assert worker.in_flight(0) == 0
        memory.open_worker(0, os.getpid())


# ---------------------------------------------------------------------------------------------------------- hostile contents
@pytest.mark.parametrize("seed", range(8))
def test_whatever_a_worker_writes_into_it_nobody_else_falls_over(seed: int) -> None:
    memory = _core.SharedMemory.create()
    add(memory, *(f"api|{n}" for n in range(200)))
    memory.open_worker(0, 1)
    numbers = random.Random(seed)
    with mmap.mmap(memory.fileno(), 0) as raw:
        if seed % 2:
            for begin, end in ((64, OFFSETS["meters"]), (OFFSETS["meters"], OFFSETS["meters"] + 65536), (OFFSETS["blocks"], len(raw))):
                raw[begin:end] = numbers.randbytes(end - begin)
            raw[8:64] = numbers.randbytes(56)
        else:  # what leads somewhere: the header's numbers, the index, chains, sizes
            struct.pack_into("<III", raw, 12, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
            for at in range(OFFSETS["index"], OFFSETS["meters"], 4):
                struct.pack_into("<I", raw, at, numbers.choice([1, 2, 3, 128, 100_000, 0xFFFFFFFF]))
            for number in range(201):
                block = OFFSETS["blocks"] + number // 128 * OFFSETS["block_bytes"]
                at = block + OFFSETS["details"] + number % 128 * OFFSETS["details_bytes"] + 8
                struct.pack_into("<IIII", raw, at, numbers.randrange(300), numbers.randrange(4), 0xFFFFFFFF, 0xFFFFFFFF)
    memory.counters()
    memory.backends()
    memory.verify()
    for number in memory.meters():
        memory.read_meter(number)
    memory.read_backend_meters()
    for slot in (0, 1, 127):
        memory.read_worker_times(slot)
        memory.settle_worker(slot)
        memory.heartbeat_ms(slot), memory.worker_generation(slot), memory.worker_connections(slot)
    memory.settle_all()
    add(memory, "api|5", "something else")
    sweep(memory, "api|5")
    if not seed % 2:
        _probe.SharedWorker(memory.fileno(), 1).hold(b"api|6")
    memory.close()


# ---------------------------------------------------------------------------------------------------------- engines
def test_engine_needs_an_open_slot_and_rows_for_its_backends(memory: _core.SharedMemory) -> None:
    with pytest.raises(ValueError, match="slot 5 is not open"):
        _core.Engine(max_connections=1, shared=memory, slot=5)
    memory.open_worker(5, os.getpid())
    engine = _core.Engine(max_connections=1, shared=memory, slot=5)
    image = make_image(["api|a"])
    with pytest.raises(ValueError, match="no row in shared memory"):
        engine.apply(image, [])
    assert engine.generation() == 0
    memory.add_rows(image)
    engine.apply(image, [])
    assert memory.worker_generation(5) == engine.generation() == 1
    assert memory.heartbeat_ms(5) > 0
    with pytest.raises(ValueError, match="an engine still uses"):
        memory.close()
    engine.close()
    os.close(image)


def test_engines_count_on_the_same_rows_and_their_counters_are_summed(memory: _core.SharedMemory) -> None:
    with World(memory, 0) as one, World(memory, 1) as two:
        two.backend = one.backend
        clients = []
        for world in (one, two):
            web = world.listen()
            world.apply(web)
            clients.append(world.connect(web))
        one.exchange(clients[0])
        clients[1].send(REQUEST)
        other = two.accept()
        assert two.read(other).startswith(b"GET / HTTP/1.1\r\n")
        (row,) = memory.backends()
        assert (row["in_flight"], row["requests"], row["idle"]) == (1, 2, 1)
        assert one.engine.backends()[0]["in_flight"] == 1, "what the other one has in flight is not seen"
        assert memory.connections() == 2
        other.send(RESPONSE)
        assert two.read(clients[1]) == RESPONSE
        assert memory.counters()["exchanges_closed"] == 2
        assert [memory.counters(slot)["exchanges_closed"] for slot in (0, 1)] == [1, 1]
        assert memory.counters(0) == {**one.counters(), "workers_died": 0, "exchanges_lost": 0}
        assert memory.verify() == []
    assert memory.connections() == 0
    assert [row["in_flight"] for row in memory.backends()] == [0]
    counters = memory.counters()
    for name in counters:
        for first, second in (("_opened", "_closed"), ("_taken", "_returned")):
            if name.endswith(first):
                assert counters[name] == counters[name.replace(first, second)], name
    assert memory.verify() == []
    assert sweep(memory) == 1
    for slot in (0, 1):
        assert memory.settle_worker(slot)["rows"] == 0
    assert memory.counters()["workers_died"] == 0, "they closed in order"


def test_next_worker_of_a_slot_counts_on(memory: _core.SharedMemory) -> None:
    for served in (1, 2):
        with World(memory, 0) as world:
            web = world.listen()
            world.apply(web)
            world.exchange(world.connect(web))
        assert memory.settle_worker(0)["settled"]
        counters = memory.counters()
        assert counters["exchanges_opened"] == counters["exchanges_closed"] == served
        assert counters["buffers_taken"] == counters["buffers_returned"] >= served


def test_node_is_full_for_all_workers_and_room_elsewhere_is_noticed(memory: _core.SharedMemory) -> None:
    with World(memory, 0) as one, World(memory, 1) as two:
        one.max_connections = two.max_connections = 2
        listening = [world.listen() for world in (one, two)]
        one.apply(listening[0])
        two.apply(listening[1])
        first = one.connect(listening[0])
        two.connect(listening[1])
        one.pump_until(lambda: one.engine.connections() == 1)
        two.pump_until(lambda: two.engine.connections() == 1)
        two.connect(listening[1])
        two.pump_until(lambda: two.counters()["accept_pauses"] == 1)
        assert two.engine.connections() == 1
        assert memory.connections() == 2
        first.close()
        one.pump_until(lambda: one.engine.connections() == 0)
        two.pump_until(lambda: two.engine.connections() == 2)  # which nobody tells it
        assert memory.connections() == 2


def test_lent_eventfd_wakes_the_engine_and_stays_open(memory: _core.SharedMemory) -> None:
    wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    memory.open_worker(0, os.getpid())
    engine = _core.Engine(max_connections=1, shared=memory, slot=0, event_fd=wake)
    image = make_image([])
    engine.apply(image, [])
    while engine.pump():
        pass
    before = memory.counters(0)["pumps"]
    os.eventfd_write(wake, 1)
    assert engine.pump() == 1
    assert memory.counters(0)["pumps"] == before + 1
    engine.close()
    os.eventfd_write(wake, 1)
    os.close(wake)
    os.close(image)
