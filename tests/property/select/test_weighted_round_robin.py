"""fastlb/data_plane/select/weighted_round_robin.pxd against the loop that it stands for."""

from collections import Counter
from collections.abc import Iterator, Sequence

from hypothesis import given
from hypothesis import strategies as st

from tests.property.examples import examples
from tests.support._probe import Pool


def naive(weights: Sequence[int]) -> Iterator[int]:
    """nginx's loop: ngx_http_upstream_get_peer without failures."""
    credit = [0] * len(weights)
    while True:
        for number, weight in enumerate(weights):
            credit[number] += weight
        best = max((number for number, weight in enumerate(weights) if weight), key=lambda number: (credit[number], -number))
        credit[best] -= sum(weights)
        yield best


weights_of = st.lists(st.one_of(st.integers(0, 4), st.integers(1, 256)), min_size=1, max_size=30).filter(any)


@examples(500)
@given(weights_of, st.integers(1, 400))
def test_every_pick_is_that_of_the_loop(weights: list[int], n: int) -> None:
    pool = Pool("weighted_round_robin", weights)
    loop = naive(weights)
    assert [pool.pick() for _ in range(n)] == [next(loop) for _ in range(n)]


@examples(200)
@given(st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=20), st.integers(1, 200))
def test_backends_that_are_down_are_as_if_they_were_not_there(entries: list[tuple[int, bool]], n: int) -> None:
    pool = Pool("weighted_round_robin", [weight for weight, _ in entries])
    for number, (_, up) in enumerate(entries):
        pool.set_state(number, 0 if up else 1)
    if not any(up for _, up in entries):
        assert pool.pick() is None
        return
    loop = naive([weight if up else 0 for weight, up in entries])
    assert [pool.pick() for _ in range(n)] == [next(loop) for _ in range(n)]


@examples(200)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=12), st.lists(st.tuples(st.integers(0, 11), st.booleans()), max_size=8))
def test_shares_follow_the_weights_after_any_changes(weights: list[int], changes: list[tuple[int, bool]]) -> None:
    pool = Pool("weighted_round_robin", weights)
    up = [True] * len(weights)
    for number, is_up in changes:
        up[number % len(weights)] = is_up
        pool.set_state(number % len(weights), 0 if is_up else 1)
        pool.pick()
    wanted = {number: 4 * weight for number, weight in enumerate(weights) if up[number]}
    if not wanted:
        assert pool.pick() is None
        return
    shares = Counter(pool.pick() for _ in range(sum(wanted.values())))
    # A schedule that begins anywhere: no credit it begins with is worth more than one turn of each.
    assert all(abs(shares[number] - share) <= 2 for number, share in wanted.items())
    assert set(shares) <= set(wanted)
