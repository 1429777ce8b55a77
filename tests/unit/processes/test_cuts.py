"""The answers of workers that were told to end what is in flight at a backend, added up."""

from fastlb.processes.cuts import Cuts
from fastlb.processes.messages import CutDone


def test_the_last_answer_makes_the_sum() -> None:
    cuts = Cuts()
    assert cuts.begin(1, [0, 2]) is None
    assert cuts.add(2, CutDone(1, 3)) is None
    assert cuts.add(0, CutDone(1, 4)) == CutDone(1, 7)


def test_with_nobody_to_tell_it_is_done() -> None:
    assert Cuts().begin(1, []) == CutDone(1, 0)


def test_a_worker_that_ends_owes_nothing() -> None:
    cuts = Cuts()
    cuts.begin(1, [0, 1])
    assert cuts.add(0, CutDone(1, 4)) is None
    assert cuts.forget(1) == CutDone(1, 4)
    assert cuts.forget(1) is None


def test_answers_that_nobody_waits_for_count_for_nothing() -> None:
    cuts = Cuts()
    cuts.begin(1, [0, 1])
    cuts.add(0, CutDone(1, 4))
    cuts.begin(2, [0])
    assert cuts.add(1, CutDone(1, 9)) is None
    assert cuts.add(0, CutDone(1, 9)) is None
    assert cuts.add(0, CutDone(2, 5)) == CutDone(2, 5)
    assert cuts.add(0, CutDone(2, 5)) is None
