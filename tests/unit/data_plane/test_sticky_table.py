"""fastlb/data_plane/sticky_table.pyx: bounded, expiring, shared, and never to be believed."""

import multiprocessing
import random
import threading
from collections.abc import Iterator

import pytest

from fastlb import _core
from tests.support._probe import STICKY_TICK, STICKY_TICKS, StickyTable, siphash_of

TAG = 1 << 38  # the lowest bit of a hash that is kept in its record
DAY_MS = 86_400_000


@pytest.fixture
def memory() -> Iterator[_core.SharedMemory]:
    made = _core.SharedMemory.create()
    yield made
    made.close()


@pytest.fixture
def table(memory: _core.SharedMemory) -> StickyTable:
    return StickyTable(memory.fileno())


def tags(n: int) -> list[int]:
    """Hashes of one bucket, all different."""
    return [TAG * number for number in range(1, n + 1)]


def test_siphash_gives_the_published_numbers() -> None:
    key = (0x0706050403020100, 0x0F0E0D0C0B0A0908)
    assert siphash_of(*key, bytes(range(15))) == 0xA129CA6149BE45E5  # the paper, appendix A
    # ... and of its reference implementation (vectors_sip64), by the number of bytes.
    known = {0: "310e0edd47db6f72", 1: "fd67dc93c539f874", 8: "6224939a79f5f593", 15: "e545be4961ca29a1"}
    for size, expected in known.items():
        assert siphash_of(*key, bytes(range(size))).to_bytes(8, "little").hex() == expected


def test_what_was_noted_is_found_and_nothing_else(table: StickyTable) -> None:
    assert table.find(5) == 0
    assert table.note(5, 7) == "new"
    assert table.find(5) == 7
    assert table.find(6) == 0
    assert table.find(5 + TAG) == 0
    assert table.note(5, 7) == "already"
    assert table.note(5, 65535) == "again"
    assert table.find(5) == 65535


def test_record_expires_and_lasts_longer_when_it_is_wanted_again(table: StickyTable) -> None:
    table.note(5, 7, ticks=10, now_ms=0)
    assert table.find(5, 9 * STICKY_TICK) == 7
    assert table.find(5, 10 * STICKY_TICK) == 0
    assert table.note(5, 7, ticks=10, now_ms=9 * STICKY_TICK) == "again"
    assert table.find(5, 18 * STICKY_TICK) == 7
    assert table.find(5, 19 * STICKY_TICK) == 0


def test_record_is_written_anew_only_when_an_eighth_of_its_time_is_over(table: StickyTable) -> None:
    table.note(5, 7, ticks=800)
    assert table.note(5, 7, ticks=800, now_ms=100 * STICKY_TICK) == "already"
    assert table.note(5, 7, ticks=800, now_ms=101 * STICKY_TICK) == "again"
    assert table.note(5, 7, ticks=400, now_ms=101 * STICKY_TICK) == "again"  # the configuration has a shorter time now


def test_clock_that_comes_round_is_no_break(table: StickyTable) -> None:
    late = ((1 << 22) - 3) * STICKY_TICK
    table.note(5, 7, ticks=10, now_ms=late)
    assert table.find(5, late + 9 * STICKY_TICK) == 7
    assert table.find(5, late + 10 * STICKY_TICK) == 0


def test_longest_record_stays_dead_for_a_month_more(table: StickyTable) -> None:
    table.note(5, 7, ticks=STICKY_TICKS)
    assert table.find(5, 30 * DAY_MS - STICKY_TICK) == 7
    for days in (30, 31, 45, 60, 67):
        assert table.find(5, days * DAY_MS) == 0


def test_expired_records_make_room_first_then_the_one_that_would_expire_first(table: StickyTable) -> None:
    hashes = tags(10)
    for number, hash_ in enumerate(hashes[:8]):
        assert table.note(hash_, number + 1, ticks=100 + number) == "new"
    assert table.note(hashes[8], 9, ticks=200) == "instead"
    assert [table.find(hash_) for hash_ in hashes[:9]] == [0, 2, 3, 4, 5, 6, 7, 8, 9]
    assert table.note(hashes[9], 10, ticks=200, now_ms=101 * STICKY_TICK) == "new"  # the second has expired by now
    assert [table.find(hash_, 101 * STICKY_TICK) for hash_ in hashes] == [0, 0, 3, 4, 5, 6, 7, 8, 9, 10]


def test_flood_of_clients_takes_no_more_than_the_part_of_its_pool(memory: _core.SharedMemory) -> None:
    other = StickyTable(memory.fileno(), first=2, mask=1)
    other.note(0, 1)
    flooded = StickyTable(memory.fileno(), first=4, mask=3)
    draw = random.Random(1)
    for _ in range(10_000):
        flooded.note(draw.getrandbits(64), 2)
    assert [len([word for word in flooded.words(bucket) if word]) for bucket in range(10)] == [0, 0, 1, 0, 8, 8, 8, 8, 0, 0]
    assert other.find(0) == 1
    assert memory.sticky_records() <= 33


def test_part_at_the_end_goes_on_at_the_beginning(memory: _core.SharedMemory) -> None:
    table = StickyTable(memory.fileno(), first=131071, mask=3)
    for number in range(4):
        table.note(number, number + 1)
    assert [bool(any(table.words(bucket))) for bucket in (131071, 0, 1, 2, 3)] == [True, True, True, True, False]
    assert [table.find(number) for number in range(4)] == [1, 2, 3, 4]


def test_second_record_of_a_client_is_removed_when_it_is_noted_again(table: StickyTable) -> None:
    table.note(TAG, 7)
    table.set_word(0, 5, table.words(0)[0] + 1)  # as if another worker had noted row 8 at the same moment
    assert table.find(TAG) == 7
    assert table.note(TAG, 9) == "again"
    assert table.words(0)[5] == 0
    assert table.find(TAG) == 9


@pytest.mark.parametrize("pattern", [b"\xff", b"\x00", b"\x01", b"\x80", None])
def test_whatever_stands_in_it_nothing_but_a_row_number_comes_of_it(table: StickyTable, pattern: bytes | None) -> None:
    draw = random.Random(2)
    table.fill(pattern * 64 if pattern else draw.randbytes(64))
    for _ in range(1000):
        hash_ = draw.getrandbits(64)
        assert 0 <= table.find(hash_, draw.getrandbits(40)) < 65536
        table.note(hash_, 3, now_ms=5)
        assert table.find(hash_, 5) == 3


def test_threads_that_write_at_once_leave_no_record_of_two(table: StickyTable, memory: _core.SharedMemory) -> None:
    tables = [StickyTable(memory.fileno(), mask=15) for _ in range(4)]
    wrong: list[int] = []
    threads = [
        threading.Thread(target=lambda seed=seed, each=each: wrong.append(each.note_many(seed, 200_000, 50, 1000)))
        for seed, each in enumerate(tables)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [0, 0, 0, 0]


def _note(fd: int, seed: int) -> int:
    return int(StickyTable(fd, mask=7).note_many(seed, 100_000, 40, 500))


def test_processes_see_what_the_others_noted(memory: _core.SharedMemory) -> None:
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.starmap(_note, [(memory.fileno(), seed) for seed in range(3)]) == [0, 0, 0]
    table = StickyTable(memory.fileno(), mask=7)
    assert sum(word != 0 for bucket in range(8) for word in table.words(bucket)) == 64
    assert all(1 <= word & 0xFFFF <= 40 for bucket in range(8) for word in table.words(bucket))
