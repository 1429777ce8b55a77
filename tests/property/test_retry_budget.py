"""Whatever happens when, a pool never spends more than its exchanges and the time have earned."""

from hypothesis import given
from hypothesis import strategies as st

from tests.support._probe import Budget

WINDOW_MS = 10_000
# Milliseconds that pass, exchanges that come, and how many retries are then asked for.
STEPS = st.lists(
    st.tuples(
        st.one_of(st.just(0), st.integers(0, 50), st.integers(0, 30_000)), st.integers(0, 2000), st.one_of(st.integers(0, 3), st.just(500))
    ),
    max_size=60,
)
SHARES = st.integers(0, 1_000_000)
FLOORS = st.integers(0, 100)


@given(SHARES, FLOORS, STEPS)
def test_never_more_is_spent_than_was_earned(share_ppm: int, floor: int, steps: list[tuple[int, int, int]]) -> None:
    start_ms = now_ms = 1_000_000
    budget = Budget(now_ms, share_ppm, floor)
    exchanges = spent = 0
    for passed_ms, count, wanted in steps:
        now_ms += passed_ms
        exchanges += count
        budget.count(count)
        for _ in range(wanted):
            spent += budget.spend(now_ms)
        earned = exchanges * share_ppm / 1e6 + (now_ms - start_ms + WINDOW_MS) * floor / 1e3
        assert spent <= earned + 1e-6


@given(SHARES, FLOORS, STEPS)
def test_what_is_held_is_never_more_than_one_window_earned(share_ppm: int, floor: int, steps: list[tuple[int, int, int]]) -> None:
    now_ms = 1_000_000
    budget = Budget(now_ms, share_ppm, floor)
    most_exchanges = 0
    for passed_ms, count, _ in steps:
        now_ms += passed_ms
        budget.count(count)
        budget.spend(now_ms)
        # at the highest rate of all steps; those within a millisecond come on top of each other
        most_exchanges += count
        assert budget.tokens <= most_exchanges * share_ppm + WINDOW_MS * floor * 1000


@given(st.integers(1, 1_000_000), st.integers(1, 1 << 40), st.integers(0, 1 << 50))
def test_large_numbers_do_not_overflow(share_ppm: int, exchanges: int, passed_ms: int) -> None:
    budget = Budget(1_000_000, share_ppm, 100_000)
    budget.count(exchanges)
    budget.spend(1_000_000 + passed_ms)
    assert budget.tokens <= 10**15


@given(st.integers(1, 1000), st.integers(1, 50))
def test_steady_trouble_is_granted_the_whole_share(per_step: int, step_ms: int) -> None:
    """Every exchange fails and asks: a fifth of them is granted, no less."""
    now_ms = 1_000_000
    budget = Budget(now_ms, 200_000, 0)
    granted = exchanges = 0
    for _ in range(20):
        now_ms += step_ms
        budget.count(per_step)
        exchanges += per_step
        for _ in range(per_step):
            granted += budget.spend(now_ms)
    assert exchanges // 5 - 1 <= granted <= exchanges // 5
