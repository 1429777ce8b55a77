"""fastlb/data_plane/http1_serialise.pyx: heads as they are sent."""

import email.utils

import pytest

from fastlb._core import pack_address, pack_unix
from tests.support._probe import FAILURES, Plane, parse_request, parse_response
from tests.support.images import Writer


@pytest.fixture
def plane() -> Plane:
    """Writes nothing of its own but what HTTP asks for."""
    writer = Writer()
    writer.set_forwarded_headers(False)
    writer.set_request_id(False)
    writer.set_reason_header("X-Fastlb-Reason")
    return writer.plane()


# ---------------------------------------------------------------------------------------------------------- requests
def test_request_in_origin_form_passes_as_it_came(plane: Plane) -> None:
    head = b"GET /a/../b?c=%20 HTTP/1.1\r\nHost: example.com:80\r\nAccept: */*\r\n\r\n"
    assert plane.write_request(head) == head


@pytest.mark.parametrize(
    ("line", "sent"),
    [
        (b"GET http://b/x?y HTTP/1.1", b"GET /x?y HTTP/1.1"),
        (b"GET http://b HTTP/1.1", b"GET / HTTP/1.1"),
        (b"GET https://b?q HTTP/1.1", b"GET /?q HTTP/1.1"),
        (b"OPTIONS http://b HTTP/1.1", b"OPTIONS * HTTP/1.1"),
        (b"OPTIONS http://b/ HTTP/1.1", b"OPTIONS / HTTP/1.1"),
        (b"OPTIONS http://b?q HTTP/1.1", b"OPTIONS /?q HTTP/1.1"),
    ],
)
def test_absolute_target_becomes_origin_form_and_its_authority_host(plane: Plane, line: bytes, sent: bytes) -> None:
    assert plane.write_request(line + b"\r\nA: 1\r\nHost: evil\r\nB: 2\r\n\r\n") == sent + b"\r\nHost: b\r\nA: 1\r\nB: 2\r\n\r\n"


def test_asterisk_passes(plane: Plane) -> None:
    head = b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"
    assert plane.write_request(head) == head


def test_http_1_0_becomes_1_1(plane: Plane) -> None:
    sent = plane.write_request(b"GET / HTTP/1.0\r\nHost: a\r\nA: 1\r\nExpect: 100-continue\r\nConnection: keep-alive\r\n\r\n")
    assert sent == b"GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\n\r\n"


@pytest.mark.parametrize(
    ("address", "host"),
    [
        (pack_address("10.0.0.1", 80), b"10.0.0.1:80"),
        (pack_address("2001:db8::1", 65535), b"[2001:db8::1]:65535"),
        (pack_unix("/run/x"), b"localhost"),
    ],
)
def test_request_without_a_host_gets_the_backends(plane: Plane, address: bytes, host: bytes) -> None:
    sent = plane.write_request(b"GET / HTTP/1.0\r\nA: 1\r\n\r\n", address=address)
    assert sent == b"GET / HTTP/1.1\r\nHost: " + host + b"\r\nA: 1\r\n\r\n"


def test_empty_host_is_kept(plane: Plane) -> None:
    head = b"GET / HTTP/1.1\r\nHost: \r\n\r\n"
    assert plane.write_request(head) == head


def test_framing_is_our_own(plane: Plane) -> None:
    sent = plane.write_request(b"POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding:CHUNKED\r\nTrailer: X\r\n\r\n")
    assert sent == b"POST / HTTP/1.1\r\nHost: a\r\nTrailer: X\r\nTransfer-Encoding: chunked\r\n\r\n"
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
    assert plane.write_request(head) == head


def test_upgrade_is_asked_for_anew(plane: Plane) -> None:
    sent = plane.write_request(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Upgrade\r\nX: 1\r\nUpgrade: websocket\r\nSec: 2\r\n\r\n")
    assert sent == b"GET / HTTP/1.1\r\nHost: a\r\nSec: 2\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


@pytest.mark.parametrize(
    "lines", [b"Upgrade: websocket", b"Connection: upgrade", b"Connection: upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x"]
)
def test_what_is_no_upgrade_is_not_passed_on(plane: Plane, lines: bytes) -> None:
    assert plane.write_request(b"GET / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n\r\n") == b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def test_largest_head_fits_and_parses_again() -> None:
    writer = Writer()
    head = b"GET / HTTP/1.1\r\nHost: a\r\nX: %s\r\n\r\n" % (b"x" * 65400)
    sent = writer.plane().write_request(head)
    assert sent is not None
    assert parse_request(sent, max_bytes=100_000)["fields"][1] == (b"X", b"x" * 65400)


def test_head_that_outgrows_its_room_is_reported() -> None:
    # X-Forwarded-Host repeats what is nearly the whole head.
    plane = Writer().plane()
    assert plane.write_request(b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n" % (b"x" * 30_000)) is not None
    assert plane.write_request(b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n" % (b"x" * 40_000)) is None


# ---------------------------------------------------------------------------------------------------------- responses
DATE = b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"


def test_response_keeps_status_and_reason_and_gets_our_version(plane: Plane) -> None:
    sent = plane.write_response(b"HTTP/1.0 404 Not  Here\r\nServer: x\r\n%sContent-Length: 3\r\n\r\n" % DATE)
    assert sent == b"HTTP/1.1 404 Not  Here\r\nServer: x\r\n%sContent-Length: 3\r\n\r\n" % DATE


@pytest.mark.parametrize("line", [b"HTTP/1.1 200", b"HTTP/1.1 200 "])
def test_empty_reason_keeps_its_space(plane: Plane, line: bytes) -> None:
    assert plane.write_response(line + b"\r\n%s\r\n" % DATE) == b"HTTP/1.1 200 \r\n%s\r\n" % DATE


@pytest.mark.parametrize("seconds", [1, 784111777, 951782400, 1709164800, 4102444799])
def test_missing_date_is_added(plane: Plane, seconds: int) -> None:
    plane.set_clock(seconds * 1000 + 999)
    sent = plane.write_response(b"HTTP/1.1 200 OK\r\n\r\n")
    assert sent == b"HTTP/1.1 200 OK\r\nDate: %s\r\n\r\n" % email.utils.formatdate(seconds, usegmt=True).encode()


def test_date_follows_the_clock(plane: Plane) -> None:
    for seconds in (784111777, 784111778, 784111776):
        plane.set_clock(seconds * 1000)
        assert email.utils.formatdate(seconds, usegmt=True).encode() in plane.write_response(b"HTTP/1.1 200 OK\r\n\r\n")


def test_hop_by_hop_fields_of_the_backend_stay_with_it(plane: Plane) -> None:
    lines = b"Connection: close, X\r\nKeep-Alive: 5\r\nX: 1\r\nUpgrade: h2\r\nTransfer-Encoding: chunked\r\nY: 2\r\n"
    assert plane.write_response(b"HTTP/1.1 200 OK\r\n%s%s\r\n" % (DATE, lines)) == b"HTTP/1.1 200 OK\r\n%sY: 2\r\n\r\n" % DATE


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, b""),
        ({"chunked": True}, b"Transfer-Encoding: chunked\r\n"),
        ({"close": True}, b"Connection: close\r\n"),
        ({"chunked": True, "close": True}, b"Transfer-Encoding: chunked\r\nConnection: close\r\n"),
        ({"http_1_0": True}, b"Connection: keep-alive\r\n"),
        ({"http_1_0": True, "close": True}, b"Connection: close\r\n"),
    ],
)
def test_client_learns_framing_and_what_becomes_of_the_connection(plane: Plane, options: dict[str, bool], line: bytes) -> None:
    assert plane.write_response(b"HTTP/1.1 200 OK\r\n%s\r\n" % DATE, **options) == b"HTTP/1.1 200 OK\r\n%s%s\r\n" % (DATE, line)


def test_204_has_no_length(plane: Plane) -> None:
    assert plane.write_response(b"HTTP/1.1 204 x\r\n%sContent-Length: 0\r\n\r\n" % DATE) == b"HTTP/1.1 204 x\r\n%s\r\n" % DATE


def test_answer_to_head_and_304_keep_their_length(plane: Plane) -> None:
    head = b"HTTP/1.1 200 OK\r\n%sContent-Length: 5\r\n\r\n" % DATE
    assert plane.write_response(head, method="HEAD") == head
    head = b"HTTP/1.1 304 x\r\n%sContent-Length: 5\r\n\r\n" % DATE
    assert plane.write_response(head) == head


def test_interim_response_passes_without_hop_by_hop_fields_and_length(plane: Plane) -> None:
    sent = plane.write_response(b"HTTP/1.0 103 Early Hints\r\nLink: x\r\nConnection: y\r\nContent-Length: 0\r\n\r\n")
    assert sent == b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"


def test_switch_of_protocols_is_passed_on(plane: Plane) -> None:
    sent = plane.write_response(b"HTTP/1.1 101 x\r\n%supgrade: websocket\r\nconnection: upgrade\r\nSec: 1\r\n\r\n" % DATE)
    assert sent == b"HTTP/1.1 101 x\r\n%sSec: 1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" % DATE


# ---------------------------------------------------------------------------------------------------------- local answers
ANSWERED = [failure for failure in FAILURES if failure["status"]]


@pytest.mark.parametrize("failure", ANSWERED, ids=lambda failure: failure["id"])
def test_local_answer_is_a_valid_response_that_names_its_reason(plane: Plane, failure: dict[str, str]) -> None:
    sent = plane.write_local(failure["id"])
    parsed = parse_response(sent)
    body = sent[parsed["size"] :]
    fields = dict(parsed["fields"])
    assert parsed["status"] == failure["status"]
    assert len(body) == parsed["content_length"]
    assert body == b"%d %s\n%s\n" % (parsed["status"], parsed["reason"], failure["sentence"].encode())
    assert fields[b"X-Fastlb-Reason"] == failure["id"].encode()
    assert fields[b"Content-Type"] == b"text/plain; charset=utf-8"
    assert b"Date" in fields
    assert b"Connection" not in fields


def test_local_answer_to_head_has_no_body(plane: Plane) -> None:
    sent = plane.write_local("no_route", is_head=True)
    parsed = parse_response(sent, method="HEAD")
    assert parsed["size"] == len(sent)
    assert parsed["content_length"] == len(plane.write_local("no_route")) - len(sent)


def test_local_answer_says_what_becomes_of_the_connection(plane: Plane) -> None:
    assert b"\r\nConnection: close\r\n" in plane.write_local("no_route", close=True)
    assert b"\r\nConnection: keep-alive\r\n" in plane.write_local("no_route", http_1_0=True)
    assert b"\r\nConnection: close\r\n" in plane.write_local("no_route", http_1_0=True, close=True)


@pytest.mark.parametrize("name", [None, ""])
def test_reason_header_can_be_turned_off(name: str | None) -> None:
    writer = Writer()
    writer.set_reason_header(name)
    sent = writer.plane().write_local("no_route")
    assert b"no_route" not in sent
    assert parse_response(sent)["status"] == 404


def test_reason_header_has_the_name_it_was_given() -> None:
    writer = Writer()
    writer.set_reason_header("X-Why")
    assert b"\r\nX-Why: no_backend\r\n" in writer.plane().write_local("no_backend")
