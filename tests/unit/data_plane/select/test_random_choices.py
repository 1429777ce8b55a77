"""fastlb/data_plane/select/random_two_choices.pxd and peak_ewma.pxd, which draw alike. Order: fair share, down, up, full, none left."""

import pytest

from tests.support._probe import Pool

BOTH = pytest.mark.parametrize("algorithm", ["random_two_choices", "peak_ewma"])


def shares(pool: Pool, n: int = 20_000) -> list[int]:
    pool.seed(7)
    counts: list[int] = pool.picks(n)
    return counts


def chi_squared(counts: list[int], expected: list[float]) -> float:
    return sum((count - share) ** 2 / share for count, share in zip(counts, expected, strict=True))


def one_of_two(weights: list[int]) -> list[float]:
    """The share of each where the first drawn of two is taken: its weight's, as drawing goes."""
    return [weight / sum(weights) for weight in weights]


@pytest.mark.parametrize("weights", [[1] * 10, [256, 1, 1, 1], [1, 2, 3, 4, 5], [0, 7, 0, 3], [1, 1, 1, 250, 250]])
def test_alias_table_is_the_weights(weights: list[int]) -> None:
    table = Pool("random_two_choices", weights).aliases()
    if len(set(weights)) == 1:
        assert table is None
        return
    share = [0.0] * len(weights)
    for number, (threshold, other) in enumerate(table):
        share[number] += (threshold + (threshold > 0)) / 2**32 / len(weights)
        share[other] += 1 / len(weights) - (threshold + (threshold > 0)) / 2**32 / len(weights)
    assert share == pytest.approx(one_of_two(weights), abs=1e-8)


@BOTH
def test_idle_backends_are_picked_equally_often(algorithm: str) -> None:
    pool = Pool(algorithm, 20)
    for number in range(20):
        pool.configure(number, latency=100)
    counts = shares(pool)
    assert counts[-1] == 0
    # 99.99 % of all chi-squared values with 19 degrees of freedom are below 51.
    assert chi_squared(counts[:-1], [1000.0] * 20) < 51


def test_equally_loaded_backends_are_drawn_by_weight() -> None:
    # (in_flight + 1) / weight is 1 for each, so the first drawn is taken.
    weights = [1, 2, 3, 10]
    pool = Pool("random_two_choices", weights)
    for number, weight in enumerate(weights):
        pool.configure(number, in_flight=weight - 1)
    counts = shares(pool)
    assert chi_squared(counts[:-1], [20_000 * share for share in one_of_two(weights)]) < 21  # 3 degrees of freedom, 99.99 %


def test_loaded_backend_wins_against_nobody() -> None:
    pool = Pool("random_two_choices", 3)
    pool.configure(0, in_flight=5)
    assert shares(pool)[0] < 3  # only where sixteen draws found no second


def test_slow_backend_wins_against_nobody() -> None:
    pool = Pool("peak_ewma", 3)
    for number, latency in enumerate((5000, 100, 100)):
        pool.configure(number, latency=latency)
    assert shares(pool)[0] < 3


def test_latency_counts_with_the_load() -> None:
    pool = Pool("peak_ewma", 2)
    pool.configure(0, latency=100, in_flight=9)
    pool.configure(1, latency=500, in_flight=0)
    assert shares(pool)[0] < 3
    pool.configure(1, latency=1500)
    assert shares(pool)[1] < 3


def test_backend_that_nobody_knows_is_asked_one_request_at_a_time() -> None:
    pool = Pool("peak_ewma", 2)
    pool.configure(0, latency=100)
    assert shares(pool)[0] < 3
    pool.configure(1, in_flight=1)
    assert shares(pool)[1] < 3


@BOTH
def test_load_stays_nearly_even(algorithm: str) -> None:
    pool = Pool(algorithm, 100)
    pool.seed(3)
    for number in range(100):
        pool.configure(number, latency=100)
    for _ in range(10_000):
        assert pool.claim(pool.pick())
    loads = [pool.in_flight(number) for number in range(100)]
    assert max(loads) - 100 <= 5  # log log n over the mean; one random choice would be 30 above it
    assert sum(loads) == 10_000


@BOTH
def test_backends_that_are_down_are_passed_over_also_where_most_are(algorithm: str) -> None:
    pool = Pool(algorithm, 100)
    for number in range(100):
        if number not in (17, 71):
            pool.set_state(number, 1)
    counts = shares(pool, 2000)
    assert counts[17] + counts[71] == 2000
    assert min(counts[17], counts[71]) > 500
    pool.set_state(5, 0)
    assert shares(pool, 2000)[5] > 300


@BOTH
def test_full_and_tried_backends_are_passed_over(algorithm: str) -> None:
    pool = Pool(algorithm, 3)
    pool.configure(0, max_in_flight=1, in_flight=1)
    assert {pool.pick(tried=[1]) for _ in range(50)} == {2}
    assert pool.pick(tried=[1, 2]) is None
    pool.configure(0, in_flight=0)
    assert pool.pick(tried=[1, 2]) == 0
