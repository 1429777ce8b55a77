"""fastlb/data_plane/select/round_robin.pxd. Order: fair share, down, up, full, none left."""

from collections import Counter

from tests.support._probe import Pool


def make_pool(n: int) -> Pool:
    return Pool("round_robin", n)


def picks(pool: Pool, n: int) -> list[int | None]:
    return [pool.pick() for _ in range(n)]


def test_backends_are_picked_in_turn() -> None:
    assert picks(make_pool(3), 7) == [0, 1, 2, 0, 1, 2, 0]


def test_every_backend_gets_the_same_share() -> None:
    assert set(Counter(picks(make_pool(7), 700)).values()) == {100}


def test_single_backend_gets_everything() -> None:
    assert picks(make_pool(1), 3) == [0, 0, 0]


def test_weight_and_load_make_no_difference() -> None:
    pool = make_pool(2)
    pool.configure(0, weight=100, in_flight=0)
    pool.configure(1, weight=1, in_flight=50)
    assert picks(pool, 4) == [0, 1, 0, 1]


def test_pick_claims_nothing() -> None:
    pool = make_pool(2)
    picks(pool, 10)
    assert pool.in_flight(0) == pool.in_flight(1) == 0


def test_backend_that_is_down_is_passed_over() -> None:
    pool = make_pool(3)
    pool.configure(1, eligible=False)
    assert picks(pool, 4) == [0, 2, 0, 2]


def test_backend_that_comes_up_gets_its_turn_again() -> None:
    pool = make_pool(3)
    pool.configure(1, eligible=False)
    assert picks(pool, 2) == [0, 2]
    pool.configure(1, eligible=True)
    assert picks(pool, 4) == [0, 1, 2, 0]


def test_full_backend_is_passed_over_until_a_request_ends() -> None:
    pool = make_pool(2)
    pool.configure(0, max_in_flight=2)
    assert pool.claim(0)
    assert pool.claim(0)
    assert picks(pool, 3) == [1, 1, 1]
    pool.release(0)
    assert picks(pool, 2) == [0, 1]


def test_tried_backends_are_passed_over() -> None:
    pool = make_pool(4)
    assert pool.pick(tried=[0, 1]) == 2
    assert pool.pick(tried=[3]) == 0


def test_none_is_left_when_all_are_down() -> None:
    pool = make_pool(2)
    pool.configure(0, eligible=False)
    pool.configure(1, eligible=False)
    assert pool.pick() is None


def test_none_is_left_when_each_is_down_full_or_tried() -> None:
    pool = make_pool(3)
    pool.configure(0, eligible=False)
    pool.configure(1, max_in_flight=1, in_flight=1)
    assert pool.pick(tried=[2]) is None
    assert pool.pick() == 2


def test_empty_pool_has_nobody_to_pick() -> None:
    assert make_pool(0).pick() is None


def test_failed_pick_leaves_the_turn_where_it_was() -> None:
    pool = make_pool(3)
    assert pool.pick() == 0
    assert pool.pick(tried=[0, 1, 2]) is None
    assert pool.pick() == 1
