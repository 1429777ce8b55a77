"""One pick, by algorithm and size of the pool, beside the obvious Python. Both are called from Python, which costs each some 50 ns."""

from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

probe = pytest.importorskip("tests.support._probe", reason="built by ./dev build")

SIZES = pytest.mark.parametrize("n_backends", [1, 3, 32, 128, 1000])


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
ALGORITHMS = pytest.mark.parametrize("algorithm", list(NAIVE))


@SIZES
@ALGORITHMS
def test_fastlb(benchmark: BenchmarkFixture, algorithm: str, n_backends: int) -> None:
    benchmark.group = f"{algorithm}, {n_backends} backends"
    assert benchmark(probe.Pool(algorithm, n_backends).pick) in range(n_backends)


@SIZES
@ALGORITHMS
def test_naive(benchmark: BenchmarkFixture, algorithm: str, n_backends: int) -> None:
    benchmark.group = f"{algorithm}, {n_backends} backends"
    assert benchmark(NAIVE[algorithm](n_backends)) in range(n_backends)
