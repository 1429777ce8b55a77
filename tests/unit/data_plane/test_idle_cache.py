"""fastlb/data_plane/idle_cache.pxd. `cached` also checks the links in both directions and the count."""

from tests.support._probe import ConnectionQueue


def filled(*numbers: int) -> ConnectionQueue:
    queue = ConnectionQueue()
    for number in numbers:
        queue.cache_put(number)
    return queue


def test_connection_used_last_is_taken_first() -> None:
    queue = filled(3, 1, 2)
    assert queue.cached == [2, 1, 3]
    assert [queue.cache_take() for _ in range(3)] == [2, 1, 3]


def test_empty_cache_gives_nothing() -> None:
    queue = filled()
    assert queue.cache_take() is None
    assert queue.cached == []


def test_any_connection_can_leave() -> None:
    for gone in (0, 1, 2):
        queue = filled(0, 1, 2)
        queue.cache_remove(gone)
        assert queue.cached == [number for number in (2, 1, 0) if number != gone]


def test_last_connection_leaves_an_empty_cache_that_can_be_filled_again() -> None:
    queue = filled(4)
    queue.cache_remove(4)
    assert queue.cached == []
    queue.cache_put(5)
    assert queue.cached == [5]
    assert queue.cache_take() == 5
    assert queue.cached == []


def test_connection_that_came_back_is_the_newest() -> None:
    queue = filled(0, 1)
    assert queue.cache_take() == 1
    queue.cache_remove(0)
    queue.cache_put(1)
    queue.cache_put(0)
    assert queue.cached == [0, 1]
