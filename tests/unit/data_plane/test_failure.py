"""fastlb/data_plane/failure.pxd: the one table from a kind to a status, a reason id and words."""

import re

import pytest

from fastlb._core import RETRY_ON
from tests.support._probe import FAILURES, status_phrase

# The reason ids are an interface: counters and the reason header carry them. Adding is fine, renaming is not.
STATUS = {
    "client:bad_request_line": 400,
    "client:bad_header": 400,
    "client:bad_framing": 400,
    "client:bad_host": 400,
    "client:bad_target": 400,
    "client:head_timeout": 408,
    "client:body_timeout": 408,
    "client:body_too_large": 413,
    "client:target_too_long": 414,
    "client:head_too_large": 431,
    "client:unknown_transfer_coding": 501,
    "client:method_not_supported": 501,
    "client:bad_version": 505,
    "no_route": 404,
    "no_backend": 503,
    "pool_full": 503,
    "out_of_memory": 503,
    "exchange_timeout": 504,
    "backend:connect_refused": 502,
    "backend:connect_failed": 502,
    "backend:connect_timeout": 504,
    "backend:closed": 502,
    "backend:reset": 502,
    "backend:bad_response": 502,
    "backend:head_too_large": 502,
    "backend:first_byte_timeout": 504,
    "backend:between_bytes_timeout": 504,
    "backend:truncated": 0,
    "client:closed": 0,
    "client:reset": 0,
    "client:write_timeout": 0,
    "queue_full": 503,
    "queue_timeout": 503,
    "backend:bad_status": 502,
    "no_sticky_backend": 503,
    "regex_limit": 500,
    "client:too_many_parameters": 400,
    "closed_by_route": 0,
    "connections_limit": 503,
    "pending_limit": 503,
    "requests_limit": 503,
    "backend_drained": 503,
    "client:tls_timeout": 0,
    "client:tls_closed": 0,
    "client:tls_protocol": 0,
    "client:tls_no_shared_cipher": 0,
    "client:tls_unknown_name": 0,
    "client:tls_certificate": 0,
    "client:tls_alert": 0,
    "client:plain_http": 400,
    "backend:tls_handshake": 502,
    "backend:tls_certificate": 502,
    "idle_timeout": 0,
    "session_timeout": 0,
    "backend:no_http2": 502,
    "client:proxy_sender": 0,
    "client:proxy_header": 0,
    "client:proxy_timeout": 0,
    "session_shed": 0,
    "no_upgrade": 501,
    "no_local_address": 503,
}


def test_each_reason_keeps_its_status() -> None:
    assert {failure["id"]: failure["status"] for failure in FAILURES} == STATUS


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure["id"])
def test_each_failure_is_described(failure: dict[str, str]) -> None:
    assert re.fullmatch(r"((client|backend):)?[a-z0-9_]+", failure["id"])
    assert re.fullmatch(r"[A-Z][^\n]*\.", failure["sentence"])


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure["id"])
def test_the_side_is_the_one_the_reason_names(failure: dict[str, str]) -> None:
    assert failure["side"] == (failure["id"].split(":")[0] if ":" in failure["id"] else "self")


@pytest.mark.parametrize("failure", [entry for entry in FAILURES if entry["status"]], ids=lambda failure: failure["id"])
def test_each_status_has_its_phrase(failure: dict[str, int]) -> None:
    assert status_phrase(failure["status"]) not in ("Error", "")


def test_the_client_is_to_blame_for_4xx_only() -> None:
    for failure in FAILURES:
        if failure["side"] == "client" and failure["status"]:
            assert 400 <= failure["status"] < 500 or failure["status"] in (501, 505)
        if failure["side"] == "backend" and failure["status"]:
            assert failure["status"] in (502, 504)


def test_only_what_a_backend_came_to_before_it_answered_may_be_retried() -> None:
    retried: dict[int, set[str]] = {}
    for failure in FAILURES:
        retried.setdefault(failure["retry_on"], set()).add(failure["id"].removeprefix("backend:"))
    assert set(retried) == {0, *(RETRY_ON[word] for word in ("connect", "closed", "reset", "timeout", "bad_response"))}
    before_sending = {"connect_refused", "connect_failed", "connect_timeout", "tls_handshake", "tls_certificate", "no_http2"}
    assert retried[RETRY_ON["connect"]] == before_sending | {"no_local_address"}
    assert retried[RETRY_ON["closed"]] == {"closed"}
    assert retried[RETRY_ON["reset"]] == {"reset"}
    assert retried[RETRY_ON["timeout"]] == {"first_byte_timeout", "between_bytes_timeout"}
    assert retried[RETRY_ON["bad_response"]] == {"bad_response", "head_too_large"}
