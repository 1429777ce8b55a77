"""fastlb/data_plane/select/least_time.pxd. Order: fair share, down, up, full, none left."""

from tests.support._probe import Pool


def make_pool(*latencies: int | None, weights: list[int] | None = None) -> Pool:
    pool = Pool("least_time", weights or len(latencies))
    for number, latency in enumerate(latencies):
        if latency is not None:
            pool.configure(number, latency=latency)
    return pool


def hold(pool: Pool, n: int) -> list[int | None]:
    picks = []
    for _ in range(n):
        picks.append(pool.pick())
        assert pool.claim(picks[-1])
    return picks


def test_fastest_backend_is_picked() -> None:
    assert {make_pool(900, 300, 400).pick() for _ in range(3)} == {1}


def test_requests_in_flight_multiply_the_latency() -> None:
    assert hold(make_pool(100, 250), 5) == [0, 0, 1, 0, 0]


def test_weight_divides_it() -> None:
    assert hold(make_pool(100, 100, weights=[1, 3]), 8).count(1) == 6


def test_equal_ones_take_turns() -> None:
    pool = make_pool(100, 100, 100)
    assert [pool.pick() for _ in range(6)] == [0, 1, 2] * 2


def test_backend_that_nobody_knows_is_asked_first_and_one_request_at_a_time() -> None:
    assert hold(make_pool(100, None, 100), 6) == [1, 2, 0, 2, 0, 2]


def test_backends_that_nobody_knows_share_by_their_load() -> None:
    assert sorted(map(int, filter(lambda number: number is not None, hold(make_pool(None, None, None), 9)))) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_new_latency_is_seen_after_a_while() -> None:
    pool = make_pool(100, 200)
    assert pool.pick() == 0
    pool.configure(0, latency=300)
    pool.now_ms += 64
    assert pool.pick() == 1


def test_backend_that_was_slow_once_is_asked_again() -> None:
    pool = make_pool(5000, 100)
    for _ in range(6):
        assert pool.pick() == 1
        pool.now_ms += 8192
        pool.configure(1, latency=100)
    assert pool.pick() == 0


def test_backend_that_is_down_is_passed_over() -> None:
    pool = make_pool(100, 900)
    pool.set_state(0, 1)
    assert pool.pick() == 1


def test_backend_that_comes_up_is_asked_anew() -> None:
    pool = make_pool(900, 100)
    pool.set_state(0, 1)
    pool.set_state(0, 0)
    assert pool.pick() == 0


def test_full_backend_is_passed_over_until_a_request_ends() -> None:
    pool = make_pool(100, 900)
    pool.configure(0, max_in_flight=1)
    assert hold(pool, 2) == [0, 1]
    pool.release(0)
    assert pool.pick() == 0


def test_none_is_left_when_each_is_down_full_or_tried() -> None:
    pool = make_pool(1, None, 3)
    pool.set_state(0, 1)
    pool.configure(1, max_in_flight=1, in_flight=1)
    assert pool.pick(tried=[2]) is None
    assert pool.pick() == 2
