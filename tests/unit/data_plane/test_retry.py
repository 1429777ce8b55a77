"""fastlb/data_plane/retry.pxd: what was sent and what the pool allows decide, never hope."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlb._core import RETRY_ON
from tests.support._probe import FAILURES, end_condition, is_stale_reuse, may_retry, status_condition

CONNECT = RETRY_ON["connect"]
ENDED = ["backend:closed", "backend:reset"]
SENT = [condition for word, condition in RETRY_ON.items() if word not in ("connect", "5xx")]  # ends that come after a request was sent


# ------------------------------------------------------------------------------------------------------------ which end it is
@pytest.mark.parametrize("reason", ENDED)
def test_connection_that_took_nothing_is_as_good_as_none(reason: str) -> None:
    assert end_condition(reason, sent=0) == CONNECT


@pytest.mark.parametrize("reason", ENDED)
def test_connection_that_ended_within_its_head_gave_a_bad_response(reason: str) -> None:
    assert end_condition(reason, answered=True) == RETRY_ON["bad_response"]


@pytest.mark.parametrize("reason", ENDED)
def test_connection_that_ended_without_an_answer_is_what_it_is_called(reason: str) -> None:
    assert end_condition(reason) == RETRY_ON[reason.removeprefix("backend:")]


@pytest.mark.parametrize("failure", [entry for entry in FAILURES if not entry["retry_on"]], ids=lambda failure: failure["id"])
def test_other_failures_are_final(failure: dict[str, str]) -> None:
    for answered in (False, True):
        assert end_condition(failure["id"], answered=answered) == 0
    assert not is_stale_reuse(failure["id"], reused=True)


@pytest.mark.parametrize("status", range(100, 600))
def test_statuses_are_those_of_their_words(status: int) -> None:
    condition = status_condition(status)
    words = {word for word, bits in RETRY_ON.items() if bits & condition}
    assert words == ({str(status)} & set(RETRY_ON)) | ({"5xx"} if status >= 500 else set())


# ------------------------------------------------------------------------------------------------------------ what is safe
@pytest.mark.parametrize("idempotent", [True, False])
def test_any_method_goes_on_when_nothing_reached_a_backend(idempotent: bool) -> None:
    assert may_retry(CONNECT, idempotent=idempotent) == (True, 0)


@pytest.mark.parametrize("sending", [False, True])
@pytest.mark.parametrize("condition", SENT)
def test_only_idempotent_methods_are_sent_twice(condition: int, sending: bool) -> None:
    assert may_retry(condition, sent=1, sending=sending) == (True, 0)
    assert may_retry(condition, sent=1, sending=sending, idempotent=False) == (False, 0)


@pytest.mark.parametrize("condition", SENT)
def test_other_methods_are_too_where_the_pool_says_that_they_are_safe(condition: int) -> None:
    assert may_retry(condition, sent=1, idempotent=False, unsafe=True) == (True, 0)


@pytest.mark.parametrize("condition", [CONNECT, *SENT])
def test_nothing_is_retried_once_the_answer_has_begun_or_bytes_are_lost(condition: int) -> None:
    for unsafe in (False, True):
        assert may_retry(condition, unsafe=unsafe, head_sent=True) == (False, 0)
        assert may_retry(condition, unsafe=unsafe, replayable=False) == (False, 0)
        assert may_retry(condition, unsafe=unsafe, routed=False) == (False, 0)


# ------------------------------------------------------------------------------------------------------------ what the pool allows
@pytest.mark.parametrize("condition", [CONNECT, *SENT])
def test_only_what_the_pool_names_is_retried(condition: int) -> None:
    assert may_retry(condition, retry_on=condition) == (True, 0)
    assert may_retry(condition, retry_on=RETRY_ON["5xx"] & ~condition) == (False, 0)
    assert may_retry(condition, retry_on=0, unsafe=True) == (False, 0)


def test_attempts_are_bounded() -> None:
    assert may_retry(CONNECT, n_attempts=2, max_attempts=3)[0]
    assert not may_retry(CONNECT, n_attempts=3, max_attempts=3)[0]
    assert not may_retry(CONNECT, n_attempts=1, max_attempts=1)[0]


def test_time_is_bounded() -> None:
    assert may_retry(CONNECT, waited_ms=999, within_ms=1000)[0]
    assert not may_retry(CONNECT, waited_ms=1000, within_ms=1000)[0]


def test_budget_is_asked_last_and_only_for_what_was_sent() -> None:
    assert may_retry(SENT[0], sent=1, floor=0) == (False, 1)
    assert may_retry(CONNECT, sent=0, floor=0) == (True, 0)
    for refused in ({"n_attempts": 3}, {"idempotent": False}, {"waited_ms": 10_000}, {"replayable": False}, {"retry_on": 0}):
        assert may_retry(SENT[0], sent=1, floor=0, **refused) == (False, 0)


@given(
    condition=st.sampled_from([0, CONNECT, *SENT]),
    retry_on=st.integers(0, 8191),
    sent=st.integers(0, 2),
    unsafe=st.booleans(),
    idempotent=st.booleans(),
    replayable=st.booleans(),
    head_sent=st.booleans(),
)
def test_no_setting_makes_an_unsafe_second_sending(
    condition: int, retry_on: int, sent: int, unsafe: bool, idempotent: bool, replayable: bool, head_sent: bool
) -> None:
    allowed, _ = may_retry(
        condition, retry_on=retry_on, sent=sent, unsafe=unsafe, idempotent=idempotent, replayable=replayable, head_sent=head_sent
    )
    if allowed:
        assert not head_sent
        assert replayable
        assert condition & retry_on
        assert idempotent or unsafe or not sent


# ------------------------------------------------------------------------------------------------------------ stale connections
@pytest.mark.parametrize("reason", ENDED)
def test_only_a_reused_connection_without_a_byte_can_be_stale(reason: str) -> None:
    assert is_stale_reuse(reason, reused=True)
    assert not is_stale_reuse(reason, reused=False)
    assert not is_stale_reuse(reason, reused=True, answered=True)
    assert not is_stale_reuse("backend:connect_refused", reused=True)
