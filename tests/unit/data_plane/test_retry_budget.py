"""fastlb/data_plane/retry_budget.pxd: a share of the exchanges, a few per second, and nothing saved for long."""

from tests.support._probe import Budget

START_MS = 1_000_000
SHARE = 200_000  # of a million


def spend_all(budget: Budget, now_ms: int, most: int = 100_000) -> int:
    spent = 0
    while spent < most and budget.spend(now_ms):
        spent += 1
    return spent


def test_pool_that_nothing_is_known_of_has_ten_seconds_of_its_floor() -> None:
    assert spend_all(Budget(START_MS, SHARE, 10), START_MS) == 100
    assert spend_all(Budget(START_MS, SHARE, 0), START_MS) == 0


def test_exchanges_pay_their_share() -> None:
    budget = Budget(START_MS, SHARE, 0)
    budget.count(50)
    assert spend_all(budget, START_MS) == 10
    budget.count(4)
    assert spend_all(budget, START_MS) == 0
    budget.count(1)  # fractions are kept
    assert spend_all(budget, START_MS) == 1


def test_floor_comes_with_time() -> None:
    budget = Budget(START_MS, SHARE, 10)
    spend_all(budget, START_MS)
    assert spend_all(budget, START_MS + 90) == 0
    assert spend_all(budget, START_MS + 110) == 1
    assert spend_all(budget, START_MS + 1110) == 10


def test_what_is_not_spent_fades() -> None:
    budget = Budget(START_MS, SHARE, 0)
    budget.count(500)
    assert budget.spend(START_MS)  # 99 left
    assert spend_all(budget, START_MS + 5000) == 49
    budget.count(500)
    assert budget.spend(START_MS + 5000)
    assert spend_all(budget, START_MS + 15_000) == 0


def test_of_a_long_time_only_the_last_ten_seconds_count() -> None:
    budget = Budget(START_MS, SHARE, 0)
    budget.count(100_000)  # in 1000 s: 1000 in ten
    assert spend_all(budget, START_MS + 1_000_000) == 200


def test_share_of_none_and_of_all() -> None:
    budget = Budget(START_MS, 0, 0)
    budget.count(1_000_000)
    assert spend_all(budget, START_MS) == 0
    budget = Budget(START_MS, 1_000_000, 0)
    budget.count(30)
    assert spend_all(budget, START_MS) == 30


def test_clock_that_stands_or_goes_back_earns_nothing() -> None:
    budget = Budget(START_MS, SHARE, 10)
    assert spend_all(budget, START_MS - 5000) == 100
    assert spend_all(budget, START_MS) == 0
    assert spend_all(budget, START_MS + 100) == 1
