"""fastlb/data_plane/select/round_robin.pxd: exact shares, whatever is down."""

import itertools
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tests.property.examples import examples
from tests.support._probe import Pool


@examples(300)
@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(0, 200), st.integers(0, 40))
def test_eligible_backends_get_equal_shares_to_within_one(eligible: list[bool], n: int, start: int) -> None:
    pool = Pool("round_robin", len(eligible))
    pool.cursor = start % len(eligible)
    for number, is_up in enumerate(eligible):
        pool.configure(number, eligible=is_up)
    picks = [pool.pick() for _ in range(n)]
    up = [number for number, is_up in enumerate(eligible) if is_up]
    if not up:
        assert set(picks) <= {None}
        return
    shares = Counter(picks)
    assert set(shares) <= set(up)
    assert all(n // len(up) <= shares[number] <= -(-n // len(up)) for number in up)
    # and in order: each pick is the next eligible one behind the last
    for before, after in itertools.pairwise(picks):
        assert after == up[(up.index(before) + 1) % len(up)]


@examples(300)
@given(st.integers(1, 12), st.lists(st.tuples(st.sets(st.integers(0, 11), max_size=8), st.integers(0, 11), st.booleans()), max_size=30))
def test_pick_is_the_next_candidate_behind_the_cursor(n: int, steps: list[tuple[set[int], int, bool]]) -> None:
    pool = Pool("round_robin", n)
    eligible = [True] * n
    cursor = 0
    for tried, number, up in steps:
        number %= n
        eligible[number] = up
        pool.configure(number, eligible=up)
        order = [(cursor + i) % n for i in range(n)]
        expected = next((at for at in order if eligible[at] and at not in tried), None)
        assert pool.pick(sorted(tried)) == expected
        if expected is not None:
            cursor = (expected + 1) % n
