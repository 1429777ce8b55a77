"""fastlb/data_plane/select/slow_start.pxd: the weight of a backend that came up grows."""

import os
from collections import Counter

import pytest

from fastlb import _core
from tests.support._probe import Pool
from tests.support.images import Writer

RAMPED = ["weighted_round_robin", "least_connections", "weighted_least_connections", "random_two_choices", "peak_ewma", "least_time"]
EACH = pytest.mark.parametrize("algorithm", RAMPED)


def make_pool(algorithm: str, weights: list[int]) -> Pool:
    """The last of the backends has come up just now."""
    pool = Pool(algorithm, weights, slow_start_ms=64_000)
    for number in range(len(weights)):
        pool.configure(number, latency=1000)
    pool.set_state(len(weights) - 1, 1)
    pool.set_state(len(weights) - 1, 0)
    pool.configure(len(weights) - 1, latency=1000)
    return pool


def share_of_last(pool: Pool, n: int = 2000) -> float:
    """Of requests that all go on."""
    picks: Counter[int] = Counter()
    for _ in range(n):
        number = pool.pick()
        assert number is not None
        assert pool.claim(number)
        picks[number] += 1
    for number, count in picks.items():
        for _ in range(count):
            pool.release(number)
    return picks[3] / n


@EACH
def test_share_grows_with_time(algorithm: str) -> None:
    pool = make_pool(algorithm, [1, 1, 1, 1])
    shares = []
    for _ in range(5):
        shares.append(share_of_last(pool))
        pool.now_ms += 16_000
    assert shares[0] < 0.02
    # At half of its weight one seventh.
    assert shares[1:] == pytest.approx([0.25 / 3.25, 0.5 / 3.5, 0.75 / 3.75, 0.25], abs=0.05)
    assert shares == sorted(shares) or shares[-1] == pytest.approx(0.25, abs=0.05)


@EACH
def test_backend_that_was_always_there_has_its_weight(algorithm: str) -> None:
    pool = Pool(algorithm, 4, slow_start_ms=64_000)
    assert share_of_last(pool) == pytest.approx(0.25, abs=0.05)


@EACH
def test_backend_in_its_first_instant_is_picked_where_there_is_no_other(algorithm: str) -> None:
    pool = make_pool(algorithm, [5, 1])
    pool.set_state(0, 1)
    assert pool.pick() == 1


def test_schedule_is_made_anew_at_each_step_and_light_backends_are_not_left_out() -> None:
    pool = make_pool("weighted_round_robin", [100, 1, 1])
    picks: Counter[int | None] = Counter()
    for _ in range(64):
        picks.update(pool.pick() for _ in range(20))  # far less than a cycle
        pool.now_ms += 1000
    assert picks[1] > 0
    assert picks[0] > 1000


def test_backend_that_joins_a_running_pool_has_come_up_and_those_of_a_new_pool_have_not() -> None:
    memory = _core.SharedMemory.create()

    def apply(*ports: int) -> None:
        writer = Writer()
        pool = writer.pool()
        for port in ports:
            writer.backend(pool, port)
        fd = writer.finish()
        memory.add_rows(fd)
        os.close(fd)

    apply(80, 81)
    assert [row["up_since_ms"] for row in memory.backends()] == [0, 0]
    apply(80, 81, 82)
    ages = [row["up_since_ms"] for row in memory.backends()]
    assert ages[:2] == [0, 0]
    assert ages[2] > 0
    memory.close()
