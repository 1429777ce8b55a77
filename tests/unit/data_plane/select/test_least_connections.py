"""fastlb/data_plane/select/least_connections.pxd. Order: fair share, down, up, full, none left."""

from tests.support._probe import Pool


def make_pool(*in_flight: int) -> Pool:
    pool = Pool("least_connections", len(in_flight))
    for number, count in enumerate(in_flight):
        pool.configure(number, in_flight=count)
    return pool


def picks(pool: Pool, n: int) -> list[int | None]:
    return [pool.pick() for _ in range(n)]


def test_least_loaded_backend_is_picked() -> None:
    assert picks(make_pool(5, 2, 9), 3) == [1, 1, 1]


def test_idle_backends_are_picked_in_turn() -> None:
    assert picks(make_pool(0, 1, 0, 0), 6) == [0, 2, 3] * 2


def test_equally_loaded_backends_are_picked_in_turn() -> None:
    assert picks(make_pool(3, 3, 4, 3), 6) == [0, 1, 3] * 2


def test_weight_makes_no_difference() -> None:
    pool = Pool("least_connections", [1, 256])
    pool.configure(1, in_flight=1)
    assert pool.pick() == 0


def test_backend_that_is_down_is_passed_over_although_it_is_idle() -> None:
    pool = make_pool(0, 100)
    pool.set_state(0, 1)
    assert pool.pick() == 1


def test_backend_that_comes_up_is_picked_again() -> None:
    pool = make_pool(0, 1)
    pool.set_state(0, 1)
    assert pool.pick() == 1
    pool.set_state(0, 0)
    assert pool.pick() == 0


def test_full_backend_is_passed_over_until_a_request_ends() -> None:
    pool = make_pool(2, 7)
    pool.configure(0, max_in_flight=2)
    assert pool.pick() == 1
    pool.configure(0, in_flight=1)
    assert pool.pick() == 0


def test_none_is_left_when_each_is_down_full_or_tried() -> None:
    pool = make_pool(0, 3, 0)
    pool.set_state(0, 2)
    pool.configure(1, max_in_flight=3)
    assert pool.pick(tried=[2]) is None
    assert pool.pick() == 2


def test_empty_pool_has_nobody_to_pick() -> None:
    assert make_pool().pick() is None
