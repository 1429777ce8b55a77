"""fastlb/data_plane/select/weighted_least_connections.pxd against fractions."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from tests.property.examples import examples
from tests.support._probe import Pool

counts = st.one_of(st.integers(0, 5), st.integers(0, 1000), st.integers(0, 2**40))
backends = st.fixed_dictionaries(
    {
        "weight": st.one_of(st.integers(1, 4), st.integers(1, 256)),
        "in_flight": counts,
        "max_in_flight": st.sampled_from([0, 0, 1, 3, 1000]),
        "eligible": st.sampled_from([True, True, True, False]),
    }
)


@examples(1000)
@given(st.lists(backends, min_size=1, max_size=12), st.integers(0, 11), st.sets(st.integers(0, 11), max_size=8))
def test_pick_is_the_lowest_fraction_first_behind_the_cursor(table: list[dict[str, int]], cursor: int, tried: set[int]) -> None:
    pool = Pool("weighted_least_connections", len(table))
    for number, entry in enumerate(table):
        pool.configure(number, **entry)
    cursor %= len(table)
    pool.cursor = cursor
    candidates = [
        (Fraction(entry["in_flight"] + 1, entry["weight"]), (number - cursor) % len(table), number)
        for number, entry in enumerate(table)
        if entry["eligible"] and number not in tried and (entry["max_in_flight"] == 0 or entry["in_flight"] < entry["max_in_flight"])
    ]
    expected = min(candidates)[2] if candidates else None
    assert pool.pick(sorted(tried)) == expected
    assert pool.cursor == (cursor if expected is None else (expected + 1) % len(table))


@examples(200)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=10), st.integers(1, 300))
def test_requests_held_follow_the_weights(weights: list[int], n: int) -> None:
    pool = Pool("weighted_least_connections", len(weights))
    for number, weight in enumerate(weights):
        pool.configure(number, weight=weight)
    for _ in range(n):
        assert pool.claim(pool.pick())
    for number, weight in enumerate(weights):
        # Never more than one request from the exact share: (in_flight + 1) / weight of each is at least any in_flight / weight.
        for other, other_weight in enumerate(weights):
            assert Fraction(pool.in_flight(number) + 1, weight) >= Fraction(pool.in_flight(other), other_weight)
    assert sum(pool.in_flight(number) for number in range(len(weights))) == n


@examples(200)
@given(st.integers(1, 8), st.lists(st.one_of(st.none(), st.integers(0, 7)), max_size=60))
def test_claims_are_what_runs(n: int, steps: list[int | None]) -> None:
    """None starts a request, a number ends one there."""
    pool = Pool("weighted_least_connections", n)
    running = [0] * n
    for step in steps:
        if step is None:
            number = pool.pick()
            assert running[number] == min(running)
            assert pool.claim(number)
            running[number] += 1
        elif running[step % n]:
            pool.release(step % n)
            running[step % n] -= 1
        assert [pool.in_flight(number) for number in range(n)] == running
    taken, returned = pool.claims
    assert taken - returned == sum(running)
