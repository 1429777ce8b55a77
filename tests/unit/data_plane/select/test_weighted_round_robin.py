"""fastlb/data_plane/select/weighted_round_robin.pxd. Order: fair share, down, up, full, none left."""

from collections import Counter

from tests.support._probe import Pool


def make_pool(*weights: int) -> Pool:
    return Pool("weighted_round_robin", weights)


def picks(pool: Pool, n: int) -> list[int | None]:
    return [pool.pick() for _ in range(n)]


def test_heavy_backend_is_interleaved_with_light_ones() -> None:
    # The example of nginx's commit that brought this in (52327e0627f4, "Upstream: smooth weighted round-robin balancing").
    assert picks(make_pool(5, 1, 1), 14) == [0, 0, 1, 0, 2, 0, 0] * 2


def test_equal_backends_are_picked_in_turn() -> None:
    assert picks(make_pool(3, 3, 3), 7) == [0, 1, 2, 0, 1, 2, 0]


def test_every_cycle_gives_each_its_weight() -> None:
    weights = (1, 7, 7, 3, 1, 256)
    pool = make_pool(*weights)
    for _ in range(3):
        assert Counter(picks(pool, sum(weights))) == dict(enumerate(weights))


def test_single_backend_gets_everything() -> None:
    assert picks(make_pool(9), 3) == [0, 0, 0]


def test_backend_of_weight_0_gets_nothing() -> None:
    assert picks(make_pool(0, 1, 2), 6) == [2, 1, 2] * 2


def test_backend_that_is_down_gets_nothing_and_the_others_keep_their_proportion() -> None:
    pool = make_pool(4, 2, 1)
    picks(pool, 3)
    pool.set_state(0, 1)
    assert Counter(picks(pool, 30)) == {1: 20, 2: 10}


def test_backend_that_comes_up_gets_its_weight_again() -> None:
    pool = make_pool(2, 1)
    pool.set_state(0, 1)
    assert picks(pool, 3) == [1, 1, 1]
    pool.set_state(0, 0)
    assert Counter(picks(pool, 30)) == {0: 20, 1: 10}


def test_turn_of_a_full_backend_is_lost_and_the_others_keep_their_proportion() -> None:
    pool = make_pool(4, 2, 1)
    pool.configure(0, max_in_flight=1)
    assert pool.claim(0)
    assert Counter(picks(pool, 30)) == {1: 20, 2: 10}
    pool.release(0)
    assert Counter(picks(pool, 7)) == {0: 4, 1: 2, 2: 1}


def test_tried_backends_are_passed_over() -> None:
    pool = make_pool(5, 1, 1)
    assert pool.pick(tried=[0]) == 1
    assert pool.pick(tried=[0, 1]) == 2


def test_one_light_backend_among_many_that_are_full_is_found() -> None:
    pool = make_pool(*[256] * 100, 1)
    for number in range(100):
        pool.configure(number, max_in_flight=1, in_flight=1)
    assert picks(pool, 5) == [100] * 5


def test_none_is_left_when_each_is_down_full_or_tried() -> None:
    pool = make_pool(1, 2, 3)
    pool.set_state(0, 4)
    pool.configure(1, max_in_flight=1, in_flight=1)
    assert pool.pick(tried=[2]) is None
    assert pool.pick() == 2


def test_none_is_left_when_all_are_down() -> None:
    pool = make_pool(1, 2)
    pool.set_state(0, 2)
    pool.set_state(1, 1)
    assert pool.pick() is None
    pool.set_state(1, 0)
    assert pool.pick() == 1


def test_empty_pool_has_nobody_to_pick() -> None:
    assert make_pool().pick() is None
