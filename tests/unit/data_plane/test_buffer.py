"""fastlb/data_plane/buffer.pyx: blocks in four sizes, free lists, and the growth of what is appended to."""

import pytest

from tests.support._probe import Buffers

CLASS_BYTES = [4096, 16384, 65536, 262144]
CLASS_KEPT = [512, 256, 64, 16]


def capacities() -> list[int]:
    pool = Buffers()
    return [pool.capacity(pool.take(size // 2)) for size in CLASS_BYTES]


CAPACITY = capacities()


def test_block_with_its_struct_has_the_size_of_its_class() -> None:
    assert [size - capacity for size, capacity in zip(CLASS_BYTES, CAPACITY, strict=True)] == [CLASS_BYTES[0] - CAPACITY[0]] * 4
    assert CLASS_BYTES[0] - CAPACITY[0] <= 64


@pytest.mark.parametrize("index", range(4))
def test_smallest_block_with_enough_room_is_taken(index: int) -> None:
    pool = Buffers()
    assert pool.capacity(pool.take(CAPACITY[index])) == CAPACITY[index]
    if index < 3:
        assert pool.capacity(pool.take(CAPACITY[index] + 1)) == CAPACITY[index + 1]


def test_whole_capacity_can_be_written() -> None:
    pool = Buffers()
    for room in CAPACITY:
        pool.fill(pool.take(room))


def test_no_block_is_larger_than_the_largest_class() -> None:
    pool = Buffers()
    assert pool.take(CAPACITY[3]) is not None
    assert pool.take(CAPACITY[3] + 1) is None
    assert pool.take(2**32 - 1) is None
    assert pool.taken == 1


def test_zero_bytes_take_the_smallest_block() -> None:
    pool = Buffers()
    assert pool.capacity(pool.take(0)) == CAPACITY[0]


def test_returned_block_is_used_again_and_empty() -> None:
    pool = Buffers()
    first = pool.append(None, b"secret")
    where = pool.address(first)
    pool.give_back(first)
    second = pool.take(10)
    assert pool.address(second) == where
    assert pool.contents(second) == b""


def test_block_of_another_class_is_not_given() -> None:
    pool = Buffers()
    small = pool.take(10)
    where = pool.address(small)
    pool.give_back(small)
    assert pool.address(pool.take(10_000)) != where
    assert pool.free == [1, 0, 0, 0]


@pytest.mark.parametrize("index", range(4))
def test_free_lists_keep_only_so_many(index: int) -> None:
    pool = Buffers()
    taken = [pool.take(CAPACITY[index]) for _ in range(CLASS_KEPT[index] + 5)]
    for number in taken:
        pool.give_back(number)
    assert pool.free[index] == CLASS_KEPT[index]
    assert pool.taken == pool.returned == len(taken)


def test_nothing_can_be_given_back() -> None:
    pool = Buffers()
    pool.give_back(None)
    assert pool.taken == pool.returned == 0


def test_first_append_takes_a_block() -> None:
    pool = Buffers()
    number = pool.append(None, b"abc")
    assert pool.contents(number) == b"abc"
    assert pool.taken == 1


def test_appended_bytes_stay_in_order_through_every_class() -> None:
    pool = Buffers()
    number, expected = None, b""
    while len(expected) < 200_000:
        piece = bytes([len(expected) % 251]) * 7001
        number = pool.append(number, piece)
        expected += piece
        assert pool.contents(number) == expected
    assert pool.capacity(number) == CAPACITY[3]
    pool.give_back(number)
    assert pool.taken == pool.returned


def test_consumed_bytes_make_room_before_a_larger_block_is_taken() -> None:
    pool = Buffers()
    number = pool.append(None, b"x" * CAPACITY[0])
    pool.consume(number, 1000)
    assert pool.append(number, b"y" * 1000) == number
    assert pool.contents(number) == b"x" * (CAPACITY[0] - 1000) + b"y" * 1000
    assert pool.taken == 1


def test_growing_leaves_consumed_bytes_behind() -> None:
    pool = Buffers()
    number = pool.append(None, b"a" * 100 + b"b" * 3900)
    pool.consume(number, 100)
    number = pool.append(number, b"c" * 1000)
    assert pool.contents(number) == b"b" * 3900 + b"c" * 1000
    assert pool.taken == 2
    assert pool.returned == 1


def test_append_beyond_the_largest_block_changes_nothing() -> None:
    pool = Buffers()
    number = pool.append(None, b"x" * CAPACITY[3])
    assert pool.append(number, b"y") is None
    assert pool.contents(number) == b"x" * CAPACITY[3]
    assert pool.append(None, b"z" * (CAPACITY[3] + 1)) is None


def test_nothing_can_be_appended() -> None:
    pool = Buffers()
    number = pool.append(None, b"")
    assert pool.contents(number) == b""
    assert pool.append(number, b"") == number
