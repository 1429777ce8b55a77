"""fastlb/control_plane/health/verdict.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlb.control_plane.health.verdict import Judge, Verdict


def play(judge: Judge, results: str) -> list[Verdict]:
    """The verdict after each result: + passed, - failed."""
    verdicts = []
    for result in results:
        before = judge.verdict
        assert judge.note(result == "+") == (judge.verdict is not before)
        verdicts.append(judge.verdict)
    return verdicts


UNDECIDED, UP, DOWN = Verdict.UNDECIDED, Verdict.UP, Verdict.DOWN


def test_a_new_backend_is_up_after_the_second_pass() -> None:
    assert play(Judge(2, 3), "++") == [UNDECIDED, UP]


def test_a_new_backend_is_down_after_the_third_failure() -> None:
    assert play(Judge(2, 3), "---") == [UNDECIDED, UNDECIDED, DOWN]


def test_a_pass_in_between_begins_the_count_anew() -> None:
    judge = Judge(2, 3, UP)
    assert play(judge, "--+--") == [UP] * 5
    assert play(judge, "-") == [DOWN]


def test_a_backend_that_is_down_stays_down_after_one_pass() -> None:
    assert play(Judge(2, 3, DOWN), "+-+-++") == [DOWN] * 5 + [UP]


def test_what_alternates_is_never_decided() -> None:
    assert play(Judge(2, 2), "+-" * 10) == [UNDECIDED] * 20


def test_there_is_a_hurry_until_it_is_up_and_nothing_speaks_against_it() -> None:
    judge = Judge(2, 3)
    settled = []
    for result in "++-+---++":
        judge.note(result == "+")
        settled.append(judge.is_settled)
    assert settled == [False, True, False, True, False, False, False, False, True]


@given(st.integers(2, 5), st.integers(2, 5), st.sampled_from(Verdict), st.text("+-", max_size=40))
def test_a_verdict_follows_from_the_last_results_alone(rise: int, fall: int, first: Verdict, results: str) -> None:
    judge = Judge(rise, fall, first)
    expected = first
    for n, verdict in enumerate(play(judge, results), 1):
        if results[:n].endswith("+" * rise):
            expected = UP
        elif results[:n].endswith("-" * fall):
            expected = DOWN
        assert verdict is expected


@pytest.mark.parametrize("first", Verdict)
def test_one_result_is_never_a_verdict(first: Verdict) -> None:
    for result in (True, False):
        judge = Judge(2, 2, first)
        assert not judge.note(result)
        assert judge.verdict is first
