"""fastlb/data_plane/select/weighted_least_connections.pxd. Order: fair share, down, up, full, none left."""

from collections import Counter

from tests.support._probe import Pool


def make_pool(*weights: int) -> Pool:
    pool = Pool("weighted_least_connections", len(weights))
    for number, weight in enumerate(weights):
        pool.configure(number, weight=weight)
    return pool


def picks(pool: Pool, n: int) -> list[int | None]:
    return [pool.pick() for _ in range(n)]


def hold(pool: Pool, n: int) -> Counter[int | None]:
    """Starts `n` requests that do not end."""
    chosen: Counter[int | None] = Counter()
    for _ in range(n):
        number = pool.pick()
        assert number is not None
        assert pool.claim(number)
        chosen[number] += 1
    return chosen


def test_least_loaded_backend_is_picked() -> None:
    pool = make_pool(1, 1, 1)
    pool.configure(0, in_flight=5)
    pool.configure(1, in_flight=2)
    pool.configure(2, in_flight=9)
    assert picks(pool, 3) == [1, 1, 1]


def test_idle_backends_of_one_weight_are_picked_in_turn() -> None:
    assert picks(make_pool(1, 1, 1), 7) == [0, 1, 2, 0, 1, 2, 0]


def test_requests_held_are_shared_by_weight() -> None:
    assert hold(make_pool(1, 2, 5), 80) == {0: 10, 1: 20, 2: 50}


def test_load_is_compared_with_the_request_to_come() -> None:
    # (0 + 1) / 1 against (1 + 1) / 3: the heavier one is better although it is not idle.
    pool = make_pool(1, 3)
    pool.configure(1, in_flight=1)
    assert pool.pick() == 1


def test_no_division_rounds_away_a_difference() -> None:
    pool = make_pool(255, 256)
    pool.configure(0, in_flight=254)
    pool.configure(1, in_flight=255)  # both 1 exactly: a tie, so the one behind the cursor
    pool.cursor = 1
    assert pool.pick() == 1
    pool.configure(1, in_flight=256)
    pool.cursor = 1
    assert pool.pick() == 0


def test_counts_of_years_do_not_overflow() -> None:
    pool = make_pool(256, 256)
    pool.configure(0, in_flight=2**40)
    pool.configure(1, in_flight=2**40 - 1)
    assert pool.pick() == 1


def test_ties_rotate_among_the_best_only() -> None:
    pool = make_pool(1, 1, 1)
    pool.configure(1, in_flight=1)
    assert picks(pool, 4) == [0, 2, 0, 2]


def test_backend_that_is_down_is_passed_over_although_it_is_idle() -> None:
    pool = make_pool(1, 1)
    pool.configure(0, eligible=False)
    pool.configure(1, in_flight=100)
    assert pool.pick() == 1


def test_backend_that_comes_up_catches_up() -> None:
    pool = make_pool(1, 1)
    pool.configure(0, eligible=False)
    assert hold(pool, 4) == {1: 4}
    pool.configure(0, eligible=True)
    assert hold(pool, 6) == {0: 5, 1: 1}


def test_full_backend_is_passed_over_until_a_request_ends() -> None:
    pool = make_pool(10, 1)
    pool.configure(0, max_in_flight=1)
    assert hold(pool, 3) == {0: 1, 1: 2}
    pool.release(0)
    assert pool.pick() == 0


def test_claim_above_the_cap_is_refused() -> None:
    pool = make_pool(1)
    pool.configure(0, max_in_flight=1)
    assert pool.claim(0)
    assert not pool.claim(0)
    assert pool.in_flight(0) == pool.requests(0) == 1


def test_claims_balance() -> None:
    pool = make_pool(1, 1)
    for number in (0, 1, 0):
        assert pool.claim(number)
    for number in (1, 0, 0):
        pool.release(number)
    assert pool.claims == (3, 3)
    assert pool.in_flight(0) == pool.in_flight(1) == 0
    assert pool.requests(0) == 2


def test_tried_backends_are_passed_over() -> None:
    pool = make_pool(1, 1, 1)
    pool.configure(2, in_flight=9)
    assert pool.pick(tried=[0, 1]) == 2


def test_none_is_left_when_each_is_down_full_or_tried() -> None:
    pool = make_pool(1, 1, 1)
    pool.configure(0, eligible=False)
    pool.configure(1, max_in_flight=3, in_flight=3)
    assert pool.pick(tried=[2]) is None


def test_empty_pool_has_nobody_to_pick() -> None:
    assert make_pool().pick() is None
