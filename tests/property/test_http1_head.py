"""fastlb/data_plane/http1_head.pyx against h11, on valid heads and on damaged ones."""

from typing import Any

from hypothesis import example, given, note
from hypothesis import strategies as st

from tests.property.examples import examples
from tests.property.heads import (
    STRICTER_REQUESTS,
    STRICTER_RESPONSES,
    Reading,
    damaged,
    h11_request,
    h11_response,
    requests,
    responses,
    why_stricter,
)
from tests.support import _probe

NO_LIMITS = {"max_bytes": 65472, "max_fields": 256}


def parse_request(data: bytes) -> Any:
    return _probe.parse_request(data, max_target_bytes=65472, **NO_LIMITS)


def parse_response(data: bytes, method: str) -> Any:
    return _probe.parse_response(data, method=method, **NO_LIMITS)


def same_fields(ours: list[tuple[bytes, bytes]], theirs: list[tuple[bytes, bytes]]) -> bool:
    """h11 lowers the case of a transfer coding."""
    return ours == theirs or [
        (name, value.lower() if name.lower() == b"transfer-encoding" else value) for name, value in ours
    ] == theirs  # fmt: skip


def check_same_message(ours: dict[str, Any], theirs: Reading | str | None) -> None:
    assert isinstance(theirs, dict), f"h11 refuses it: {theirs}"
    assert ours["size"] == theirs["size"]
    assert same_fields(ours["fields"], theirs["fields"])
    assert ours["framing"] == theirs["framing"]
    if ours["framing"] == "length":
        assert ours["content_length"] == theirs["length"]
    assert (theirs["version"] == b"1.0") == (ours["version"] == 0)
    assert ("close" in ours["flags"]) == theirs["close"]
    assert ("keep_alive" in ours["flags"]) == theirs["keep_alive"]


def check_request(data: bytes) -> None:
    ours, theirs = parse_request(data), h11_request(data)
    note(f"fastlb: {ours}\nh11: {theirs}")
    if isinstance(ours, dict):
        check_same_message(ours, theirs)
        assert isinstance(theirs, dict)
        assert (ours["method"], ours["target"]) == (theirs["method"], theirs["target"])
    elif ours is None:
        assert not isinstance(theirs, dict), "fastlb waits for more of what is whole"
    elif isinstance(theirs, dict):
        assert why_stricter(STRICTER_REQUESTS, data, theirs), f"refused for no listed reason: {ours}"


def check_response(data: bytes, method: str) -> None:
    ours, theirs = parse_response(data, method), h11_response(data, method)
    note(f"fastlb: {ours}\nh11: {theirs}")
    if isinstance(ours, dict):
        check_same_message(ours, theirs)
        assert isinstance(theirs, dict)
        assert (ours["status"], ours["reason"]) == (theirs["status"], theirs["reason"])
    elif ours is None:
        assert not isinstance(theirs, dict), "fastlb waits for more of what is whole"
    elif isinstance(theirs, dict):
        assert why_stricter(STRICTER_RESPONSES, data, theirs), f"refused for no listed reason: {ours}"


@examples(400)
@given(requests())
def test_valid_request_is_read_as_h11_reads_it(head: bytes) -> None:
    assert isinstance(parse_request(head), dict)
    check_request(head)


@examples(2000)
@given(damaged(requests()))
@example(b"GET / HTTP/1.1\r\nHost: a\r\n\n")
@example(b"GET / HTTP/1.1\nHost: a\n\n")
@example(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n")
@example(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n")
def test_damaged_request_is_refused_or_read_as_h11_reads_it(data: bytes) -> None:
    check_request(data)


@examples(300)
@given(responses(), st.sampled_from(["GET", "HEAD", "POST"]))
def test_valid_response_is_read_as_h11_reads_it(head: bytes, method: str) -> None:
    assert isinstance(parse_response(head, method), dict)
    check_response(head, method)


@examples(1500)
@given(damaged(responses()), st.sampled_from(["GET", "HEAD"]))
@example(b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n", "GET")
@example(b"HTTP/1.1 200\r\n\r\n", "GET")
def test_damaged_response_is_refused_or_read_as_h11_reads_it(data: bytes, method: str) -> None:
    check_response(data, method)


@examples(300)
@given(st.one_of(requests(), damaged(requests())), st.data())
def test_request_cut_anywhere_is_waited_for_or_refused_as_the_whole_is(head: bytes, data: st.DataObject) -> None:
    whole = parse_request(head)
    piece = parse_request(head[: data.draw(st.integers(0, len(head)))])
    if isinstance(piece, dict):
        assert piece == whole
    elif isinstance(piece, str):
        assert isinstance(whole, str), "a piece is refused, the whole is not"
    assert _probe.parse_request(head, before=True, max_target_bytes=65472, **NO_LIMITS) == whole


@examples(300)
@given(st.one_of(responses(), damaged(responses())), st.data())
def test_response_cut_anywhere_is_waited_for_or_refused_as_the_whole_is(head: bytes, data: st.DataObject) -> None:
    whole = parse_response(head, "GET")
    piece = parse_response(head[: data.draw(st.integers(0, len(head)))], "GET")
    if isinstance(piece, dict):
        assert piece == whole
    elif isinstance(piece, str):
        assert isinstance(whole, str), "a piece is refused, the whole is not"


@examples(300)
@given(requests(), st.binary(max_size=30))
def test_what_follows_a_head_makes_no_difference(head: bytes, more: bytes) -> None:
    assert parse_request(head + more) == parse_request(head)


@examples(500)
@given(st.binary(max_size=200))
def test_noise_is_never_a_request(data: bytes) -> None:
    assert not isinstance(parse_request(data), dict)


@examples(200)
@given(damaged(requests()), st.integers(1, 300), st.integers(1, 100), st.integers(1, 8))
def test_limits_are_kept_and_change_nothing_else(data: bytes, max_bytes: int, max_target_bytes: int, max_fields: int) -> None:
    free = parse_request(data)
    bound = _probe.parse_request(data, max_bytes=max_bytes, max_target_bytes=max_target_bytes, max_fields=max_fields)
    if isinstance(bound, dict):
        assert bound == free
        assert bound["size"] <= max_bytes
        assert len(bound["target"]) <= max_target_bytes
        assert len(bound["fields"]) <= max_fields
    elif bound is None:
        assert len(data) < max_bytes
    elif isinstance(free, dict):
        assert bound in ("client:head_too_large", "client:target_too_long")
