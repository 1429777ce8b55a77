"""fastlb/data_plane/select/latency.pxd: the average that peak_ewma and least_time look at."""

import pytest

from tests.support._probe import aged_latency, note_latency_samples

HALF_LIFE_MS = 8192


def averages(*samples: tuple[int, int], peak: bool = False) -> list[int]:
    """As written, after each sample: (microseconds, at millisecond)."""
    return [written for written, _ in note_latency_samples(samples, peak=peak)]


def test_first_sample_is_the_average() -> None:
    assert averages((1234, 5)) == [1234]


def test_sample_counts_for_half_after_one_half_life() -> None:
    assert averages((1000, 1), (3000, 1 + HALF_LIFE_MS)) == [1000, 2000]
    assert averages((3000, 1), (1000, 1 + HALF_LIFE_MS)) == [3000, 2000]
    assert averages((1000, 1), (3000, 1 + 2 * HALF_LIFE_MS)) == [1000, 2500]


def test_sample_takes_the_place_of_what_is_long_ago() -> None:
    assert averages((1_000_000, 1), (10, 1 + 40 * HALF_LIFE_MS)) == [1_000_000, 10]


def test_samples_of_one_moment_change_nothing_but_a_peak() -> None:
    assert averages((1000, 7), (9000, 7), (10, 7)) == [1000, 1000, 1000]
    assert averages((1000, 7), (9000, 7), (10, 7), peak=True) == [1000, 9000, 9000]


def test_peak_counts_at_once_and_fades_with_time() -> None:
    assert averages((1000, 1), (9000, 2), (1000, 2 + HALF_LIFE_MS), peak=True) == [1000, 9000, 5000]


def test_many_fast_samples_move_the_average_although_each_alone_is_too_small() -> None:
    samples = [(100, 1), *((50, now) for now in range(2, HALF_LIFE_MS * 8))]
    assert averages(*samples)[-1] in (50, 51)


def test_average_that_is_not_renewed_fades() -> None:
    assert aged_latency(1000, 5, 5) == 1000
    assert aged_latency(1000, 5, 5 + HALF_LIFE_MS) == 500
    assert aged_latency(1000, 5, 5 + 3 * HALF_LIFE_MS) == 125
    assert aged_latency(1000, 5, 5 + 100 * HALF_LIFE_MS) == 0
    values = [aged_latency(1_000_000, 0, now) for now in range(0, 5 * HALF_LIFE_MS, 100)]
    assert values == sorted(values, reverse=True)
    for now, value in zip(range(0, 5 * HALF_LIFE_MS, 100), values, strict=True):
        assert 1.0 <= (value + 1) / (1_000_000 * 2 ** (-now / HALF_LIFE_MS)) < 1.062


@pytest.mark.parametrize("ahead", [1, 10, 1000])
def test_stamp_of_another_workers_later_batch_is_of_now(ahead: int) -> None:
    assert aged_latency(1000, 50_000 + ahead, 50_000) == 1000


def test_stamp_survives_the_end_of_32_bits() -> None:
    assert aged_latency(1000, (1 << 32) - 1, (1 << 32) - 1 + HALF_LIFE_MS) == 500
    assert averages((1000, (1 << 40) - 1), (3000, (1 << 40) - 1 + HALF_LIFE_MS)) == [1000, 2000]


def test_extremes_are_kept_within_a_word() -> None:
    assert averages((0, 1)) == [1]
    assert averages((1 << 63, 1)) == [0xFFFFFFFF]
