"""A thousand picks in a C loop, by algorithm and size of the pool: microseconds are nanoseconds a pick. Beside them the obvious Python.

The last 64 picks are in flight, and before that each backend has 1 to 20 requests and a latency of its own, so that nothing is found early.
"""

import random
from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from fastlb import _core

probe = pytest.importorskip("tests.support._probe", reason="built by ./dev build")

PICKS = 1000
SIZES = pytest.mark.parametrize("n_backends", [10, 100, 1000, 10_000])


def load(pool: "probe.Pool", n_backends: int) -> None:
    numbers = random.Random(1)
    for number in range(n_backends):
        pool.configure(number, in_flight=numbers.randint(1, 20), latency=numbers.randint(500, 5000))


@SIZES
@pytest.mark.parametrize("algorithm", list(_core.ALGORITHMS))
def test_equal_weights(benchmark: BenchmarkFixture, algorithm: str, n_backends: int) -> None:
    benchmark.group = f"{algorithm}, {n_backends} backends"
    pool = probe.Pool(algorithm, n_backends)
    load(pool, n_backends)
    benchmark(pool.time_picks, PICKS)


@SIZES
@pytest.mark.parametrize("algorithm", sorted({*_core.ALGORITHMS} - {"round_robin", "least_connections"}))
def test_ten_weights(benchmark: BenchmarkFixture, algorithm: str, n_backends: int) -> None:
    benchmark.group = f"{algorithm}, {n_backends} backends"
    pool = probe.Pool(algorithm, [1 + number % 10 for number in range(n_backends)])
    load(pool, n_backends)
    benchmark(pool.time_picks, PICKS)


def test_weighted_round_robin_with_as_many_weights_as_there_can_be(benchmark: BenchmarkFixture) -> None:
    benchmark.group = "weighted_round_robin, 1000 backends"
    benchmark(probe.Pool("weighted_round_robin", [1 + number % 256 for number in range(1000)]).time_picks, PICKS)


@pytest.mark.parametrize("n_backends", [1000, 10_000])
@pytest.mark.parametrize("algorithm", ["least_connections", "weighted_least_connections"])
def test_idle_backends(benchmark: BenchmarkFixture, algorithm: str, n_backends: int) -> None:
    benchmark.group = f"{algorithm}, {n_backends} backends"
    benchmark(probe.Pool(algorithm, n_backends).time_picks, PICKS)


def naive_round_robin(n_backends: int) -> Callable[[], int]:
    cursor = -1
    eligible = [True] * n_backends

    def pick() -> int:
        nonlocal cursor
        for _ in range(n_backends):
            cursor = (cursor + 1) % n_backends
            if eligible[cursor]:
                return cursor
        return -1

    return pick


def naive_least_connections(n_backends: int) -> Callable[[], int]:
    in_flight, weight = [0] * n_backends, [1] * n_backends
    return lambda: min(range(n_backends), key=lambda number: (in_flight[number] + 1) / weight[number])


NAIVE = {"round_robin": naive_round_robin, "weighted_least_connections": naive_least_connections}


@pytest.mark.parametrize("n_backends", [10, 100, 1000])
@pytest.mark.parametrize("algorithm", list(NAIVE))
def test_naive(benchmark: BenchmarkFixture, algorithm: str, n_backends: int) -> None:
    benchmark.group = f"{algorithm}, {n_backends} backends"
    pick = NAIVE[algorithm](n_backends)

    def picks() -> None:
        for _ in range(PICKS):
            pick()

    benchmark.pedantic(picks, rounds=3)
