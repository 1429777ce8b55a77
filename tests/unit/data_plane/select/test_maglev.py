"""fastlb/data_plane/select/maglev.pxd and its table. Order: fair share, down, up, full, none left."""

from collections import Counter

import pytest

from tests.support import _probe
from tests.support._probe import Pool

KEYS = [b"/item/%d" % number for number in range(20_000)]


def spread(pool: Pool) -> list[int]:
    picks: list[int] = pool.pick_each(pool.keys(KEYS))
    return picks


def test_table_of_the_paper() -> None:
    # Figure 3 of "Maglev" (NSDI 2016): three backends, seven slots; then without the second.
    assert _probe.fill_maglev([3, 0, 3], [4, 2, 1], [1, 1, 1], 7) == [1, 0, 1, 0, 2, 2, 0]
    assert _probe.fill_maglev([3, 3], [4, 1], [1, 1], 7) == [0, 0, 0, 0, 1, 1, 1]


def test_weight_is_the_share_of_turns() -> None:
    slots = _probe.fill_maglev([0, 1, 2], [1, 1, 1], [4, 2, 1], 701)
    assert sorted(Counter(slots).values()) == [100, 200, 401]


@pytest.mark.parametrize(
    ("weights", "n_slots"),
    [([1] * 655, 65537), ([1] * 656, 655373), ([256] * 3, 65537), ([1] * 6553, 655373), ([1] * 6554, 5_000_011), ([0], 0), ([], 0)],
)
def test_table_is_large_enough_for_shares_of_one_percent(weights: list[int], n_slots: int) -> None:
    assert len(Pool("maglev", weights).slots()) == n_slots


@pytest.mark.parametrize("weights", [[1] * 10, [1, 2, 3, 4], [256, 1, 1], [7]])
def test_slots_follow_the_weights_to_one_percent(weights: list[int]) -> None:
    slots = Counter(Pool("maglev", weights).slots())
    for number, weight in enumerate(weights):
        assert slots[number] == pytest.approx(65537 * weight / sum(weights), rel=0.01)


def test_keys_of_a_backend_that_is_down_spread_over_all_others_and_no_other_moves() -> None:
    pool = Pool("maglev", 10)
    before = spread(pool)
    pool.set_state(3, 1)
    after = spread(pool)
    assert all(a == b for a, b in zip(after, before, strict=True) if b != 3)
    moved = Counter(a for a, b in zip(after, before, strict=True) if b == 3)
    assert set(moved) == set(range(10)) - {3}
    assert max(moved.values()) < 1.5 * min(moved.values())
    pool.set_state(3, 0)
    assert spread(pool) == before


def test_full_backend_keeps_its_other_keys_away_until_a_request_ends() -> None:
    pool = Pool("maglev", 3)
    key = pool.key(b"x")
    home = pool.pick(key=key)
    pool.configure(home, max_in_flight=1, in_flight=1)
    assert pool.pick(key=key) != home
    pool.configure(home, in_flight=0)
    assert pool.pick(key=key) == home


def test_tried_backend_is_not_picked_again() -> None:
    pool = Pool("maglev", 3)
    key = pool.key(b"x")
    tried: list[int] = []
    for _ in range(3):
        number = pool.pick(tried, key=key)
        assert number not in tried
        tried.append(number)
    assert pool.pick(tried, key=key) is None


def test_requests_without_a_key_take_turns() -> None:
    pool = Pool("maglev", 3)
    assert [pool.pick(key=0) for _ in range(4)] == [0, 1, 2, 0]
