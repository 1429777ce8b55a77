"""fastlb/data_plane/select/dispatch.pxd: what holds for every algorithm, and groups."""

from typing import Any

import pytest

from fastlb import _core
from tests.support._probe import Pool

ALGORITHMS = pytest.mark.parametrize("algorithm", list(_core.ALGORITHMS))
KEYS = [b"192.0.%d.1" % n for n in range(1, 255)]


def distinct(pool: Pool, **arguments: Any) -> set[int | None]:
    """Who is picked at all, over some hundred keys, while all requests go on."""
    picks = []
    for key in KEYS * 2:
        picks.append(pool.pick(key=pool.key(key), **arguments))
        if picks[-1] is not None:
            assert pool.claim(picks[-1])
    for number in picks:
        if number is not None:
            pool.release(number)
    return set(picks)


@ALGORITHMS
def test_only_backend_is_picked(algorithm: str) -> None:
    assert distinct(Pool(algorithm, 1)) == {0}


@ALGORITHMS
def test_weight_0_is_never_picked(algorithm: str) -> None:
    assert distinct(Pool(algorithm, [0, 3, 0, 1])) == {1, 3}
    assert distinct(Pool(algorithm, [0, 0])) == {None}


@ALGORITHMS
@pytest.mark.parametrize("state", _core.ROW_STATES.values())
def test_backend_that_is_not_up_and_ready_is_not_picked(algorithm: str, state: int) -> None:
    pool = Pool(algorithm, 3)
    pool.set_state(1, state)
    assert distinct(pool) == {0, 2}
    pool.set_state(1, 0)
    assert distinct(pool) == {0, 1, 2}


@ALGORITHMS
def test_nobody_is_picked_when_all_are_down(algorithm: str) -> None:
    pool = Pool(algorithm, 1000)
    for number in range(1000):
        pool.set_state(number, 1)
    assert distinct(pool) == {None}
    pool.set_state(777, 0)
    assert distinct(pool) == {777}


@ALGORITHMS
def test_last_of_ten_thousand_that_is_up_is_found(algorithm: str) -> None:
    pool = Pool(algorithm, 10_000)
    for number in range(10_000):
        pool.configure(number, eligible=number == 4321)
    assert distinct(pool) == {4321}


@ALGORITHMS
def test_all_of_a_large_pool_are_in_reach(algorithm: str) -> None:
    pool = Pool(algorithm, [1 + number % 5 for number in range(1000)])
    for number in range(1000):
        pool.configure(number, max_in_flight=1)
    for step in range(1000):
        number = pool.pick(key=pool.key(b"%d" % step))
        assert number is not None
        assert pool.claim(number)
    assert pool.pick(key=pool.key(b"x")) is None


@ALGORITHMS
def test_next_group_is_for_when_the_one_before_has_nobody(algorithm: str) -> None:
    pool = Pool(algorithm, [1, 2, 1, 3, 1], groups=[2, 2, 1])
    assert distinct(pool) == {0, 1}
    pool.set_state(0, 1)
    assert distinct(pool) == {1}
    pool.set_state(1, 2)
    assert distinct(pool) == {2, 3}
    assert distinct(pool, tried=[2, 3]) == {4}
    pool.configure(2, max_in_flight=1, in_flight=1)
    pool.configure(3, max_in_flight=1, in_flight=1)
    assert distinct(pool) == {4}
    pool.set_state(0, 0)
    assert distinct(pool) == {0}
    pool.set_state(0, 4)
    assert distinct(pool, tried=[4]) == {None}


@ALGORITHMS
def test_group_may_be_empty_of_weights(algorithm: str) -> None:
    assert distinct(Pool(algorithm, [0, 0, 1], groups=[2, 1])) == {2}
