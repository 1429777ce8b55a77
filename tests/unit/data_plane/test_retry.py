"""fastlb/data_plane/retry.pxd: what was sent decides, never hope."""

import pytest

from tests.support._probe import FAILURES, is_stale_reuse, may_retry

CONNECT = ["backend:connect_refused", "backend:connect_failed", "backend:connect_timeout"]
ENDED = ["backend:closed", "backend:reset"]


@pytest.mark.parametrize("reason", CONNECT)
@pytest.mark.parametrize("idempotent", [True, False])
def test_any_method_goes_on_when_nothing_reached_a_backend(reason: str, idempotent: bool) -> None:
    assert may_retry(reason, idempotent=idempotent)


@pytest.mark.parametrize("reason", ENDED)
def test_stale_connection_is_replayed_for_idempotent_methods_only(reason: str) -> None:
    assert may_retry(reason, reused=True, sent=100)
    assert not may_retry(reason, reused=True, sent=100, idempotent=False)


@pytest.mark.parametrize("reason", ENDED)
def test_stale_connection_that_took_nothing_is_replayed_for_any_method(reason: str) -> None:
    assert may_retry(reason, reused=True, sent=0, idempotent=False)


@pytest.mark.parametrize("reason", ENDED)
def test_stale_connection_is_replayed_although_all_attempts_are_used_up(reason: str) -> None:
    assert may_retry(reason, reused=True, sent=100, n_attempts=3, max_attempts=3)


@pytest.mark.parametrize("reason", ENDED)
def test_fresh_connection_that_ended_after_a_send_is_never_replayed(reason: str) -> None:
    assert not may_retry(reason, reused=False, sent=1)


@pytest.mark.parametrize("reason", ENDED)
def test_fresh_connection_that_took_nothing_may_be_followed_by_another(reason: str) -> None:
    assert may_retry(reason, reused=False, sent=0, idempotent=False)


@pytest.mark.parametrize("reason", ENDED)
def test_connection_that_answered_a_byte_is_not_stale(reason: str) -> None:
    assert not may_retry(reason, reused=True, answered=True, sent=100)
    assert not is_stale_reuse(reason, reused=True, answered=True)


def test_attempts_are_bounded() -> None:
    assert may_retry("backend:connect_refused", n_attempts=2, max_attempts=3)
    assert not may_retry("backend:connect_refused", n_attempts=3, max_attempts=3)
    assert not may_retry("backend:connect_refused", n_attempts=1, max_attempts=1)


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure["id"])
def test_nothing_is_retried_once_the_answer_has_begun_or_bytes_are_lost(failure: dict[str, str]) -> None:
    assert not may_retry(failure["id"], head_sent=True, reused=True)
    assert not may_retry(failure["id"], replayable=False, reused=True)
    assert not may_retry(failure["id"], routed=False, reused=True)


@pytest.mark.parametrize("failure", [entry for entry in FAILURES if entry["retryable"] == "no"], ids=lambda failure: failure["id"])
def test_other_failures_are_final(failure: dict[str, str]) -> None:
    assert not may_retry(failure["id"], reused=True)
    assert not is_stale_reuse(failure["id"], reused=True)


def test_only_a_reused_connection_can_be_stale() -> None:
    assert is_stale_reuse("backend:closed", reused=True)
    assert not is_stale_reuse("backend:closed", reused=False)
    assert not is_stale_reuse("backend:connect_refused", reused=True)
