"""fastlb/data_plane/connection_table.pyx: slots, handles, generations, and the graveyard."""

from tests.support._probe import Connections

SLAB = 256


def close_batch(table: Connections, *indices: int) -> None:
    for index in indices:
        table.bury(index)
    table.empty_graveyard()


def test_handle_finds_its_connection() -> None:
    table = Connections(SLAB)
    index = table.open(7)
    assert table.find(table.handle(index)) == index
    assert table.descriptor(index) == 7


def test_handle_of_a_closed_connection_finds_nothing() -> None:
    table = Connections(SLAB)
    index = table.open(7)
    handle = table.handle(index)
    table.bury(index)
    assert table.find(handle) is None
    table.empty_graveyard()
    assert table.find(handle) is None


def test_late_event_does_not_reach_the_next_user_of_a_slot() -> None:
    table = Connections(SLAB)
    index = table.open(7)
    old = table.handle(index)
    close_batch(table, index)
    assert table.open(7) == index
    assert table.find(old) is None
    assert table.find(table.handle(index)) == index


def test_closed_slot_is_not_used_again_before_the_batch_ends() -> None:
    table = Connections(SLAB)
    indices = [table.open(fd) for fd in range(SLAB)]
    table.bury(indices[3])
    assert table.open(1000) is None
    table.empty_graveyard()
    assert table.open(1000) == indices[3]


def test_full_table_refuses() -> None:
    table = Connections(SLAB)
    assert None not in [table.open(fd) for fd in range(SLAB)]
    assert table.open(1000) is None
    assert table.n_open == SLAB


def test_connections_never_move_when_the_table_grows() -> None:
    table = Connections(4 * SLAB)
    first = table.open(0)
    where = table.address(first)
    for fd in range(1, 3 * SLAB):
        assert table.open(fd) is not None
    assert table.address(first) == where
    assert table.find(table.handle(first)) == first


def test_slots_have_different_indices() -> None:
    table = Connections(2 * SLAB)
    assert {table.open(fd) for fd in range(2 * SLAB)} == set(range(2 * SLAB))


def test_reused_slot_is_blank() -> None:
    table = Connections(SLAB)
    index = table.open(7)
    table.dirty(index)
    close_batch(table, index)
    assert table.open(8) == index
    assert table.is_blank(index)


def test_wake_up_handle_and_nonsense_find_nothing() -> None:
    table = Connections(SLAB)
    assert table.find(2**64 - 1) is None  # timerfd and eventfd
    assert table.find(0) is None
    index = table.open(7)
    assert table.find(table.handle(index) + 1) is None  # a slot that was never opened
    assert table.find(table.handle(index) + SLAB) is None  # a slab that does not exist
    assert table.find(table.handle(index) + (1 << 32)) is None  # a generation to come


def test_open_ones_are_counted() -> None:
    table = Connections(SLAB)
    indices = [table.open(fd) for fd in range(10)]
    close_batch(table, *indices[:4])
    assert table.n_open == 6
