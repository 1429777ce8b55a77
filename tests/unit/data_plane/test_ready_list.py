"""fastlb/data_plane/ready_list.pxd. `ready` also checks the tail."""

import pytest

from tests.support._probe import ConnectionQueue


def filled(*numbers: int) -> ConnectionQueue:
    queue = ConnectionQueue()
    for number in numbers:
        queue.list_ready(number)
    return queue


def test_turns_are_taken_in_order_of_arrival() -> None:
    queue = filled(2, 0, 1)
    assert [queue.take_ready() for _ in range(4)] == [2, 0, 1, None]
    assert queue.ready == []


def test_connection_listed_twice_has_one_turn() -> None:
    queue = filled(0, 1, 0)
    assert queue.ready == [0, 1]


def test_connection_listed_again_after_its_turn_stands_at_the_end() -> None:
    queue = filled(0, 1)
    assert queue.take_ready() == 0
    queue.list_ready(0)
    assert queue.ready == [1, 0]


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_closed_connection_leaves_from_any_place(gone: int) -> None:
    queue = filled(0, 1, 2)
    queue.unlist_ready(gone)
    rest = [number for number in (0, 1, 2) if number != gone]
    assert queue.ready == rest
    queue.list_ready(5)
    assert queue.ready == [*rest, 5]
    queue.list_ready(gone)
    assert queue.ready == [*rest, 5, gone]


def test_connection_that_is_not_listed_can_be_closed() -> None:
    queue = filled(0, 1)
    queue.unlist_ready(3)
    assert queue.ready == [0, 1]


def test_only_connection_leaves_an_empty_list() -> None:
    queue = filled(0)
    queue.unlist_ready(0)
    assert queue.ready == []
    assert queue.take_ready() is None
    queue.list_ready(1)
    assert queue.ready == [1]
