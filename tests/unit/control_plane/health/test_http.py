"""fastlb/control_plane/health/http.py on uvloop, against backends that answer well, badly and endlessly."""

import asyncio
import ssl
from asyncio import AbstractEventLoop
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlb.control_plane.config.health import Health, StatusRange, parse_match
from fastlb.control_plane.health.http import BODY_BYTES, MAX_HEAD_BYTES, HttpProbe, make_request, make_wanted
from fastlb.control_plane.health.result import MAX_TEXT, Outcome, Result
from fastlb.control_plane.health.tcp import Tls
from tests.support.certificates import make_certificates
from tests.support.probing import Backend, Serve, answering, result_of, run, silent, unused_place

PASSED, FAILED = Outcome.PASSED, Outcome.FAILED
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nall ok\n"


def ask(serve: Serve, timeout_ms: int = 10_000, **options: Any) -> Result:
    """One probe of a backend that is served so."""
    health = Health(type="http", **options)

    async def test(loop: AbstractEventLoop) -> Result:
        async with Backend(serve) as backend:
            request, wanted = make_request(health, "10.0.0.1:80"), make_wanted(health)
            return await result_of(lambda done: HttpProbe(loop, backend.place, timeout_ms, None, done, request, wanted))

    return run(test)


def body(length: int, piece: bytes = b"x") -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (length, piece * length)


def chunked(*pieces: bytes) -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in pieces)
        + b"0\r\n\r\n"
    )


# ---------------------------------------------------------------------------------------------------------- the request
def test_the_request_says_what_is_configured() -> None:
    heads: list[bytes] = []
    options = {
        "path": "/health?deep=1",
        "method": "OPTIONS",
        "host": "shop.example.com",
        "headers": (("X-Probe", "1"), ("user-agent", "me")),
    }
    assert ask(answering(OK, backend=heads), **options).outcome is PASSED
    lines = heads[0].decode().split("\r\n")
    assert lines[0] == "OPTIONS /health?deep=1 HTTP/1.1"
    assert sorted(lines[1:-2]) == ["Accept: */*", "Connection: close", "Host: shop.example.com", "X-Probe: 1", "user-agent: me"]


def test_without_a_host_it_is_the_backends_address() -> None:
    heads: list[bytes] = []
    ask(answering(OK, backend=heads))
    assert b"\r\nHost: 10.0.0.1:80\r\n" in heads[0]


def test_a_method_with_a_body_says_that_it_is_empty() -> None:
    heads: list[bytes] = []
    assert ask(answering(OK, backend=heads), method="POST").outcome is PASSED
    assert b"\r\nContent-Length: 0\r\n" in heads[0]


# ---------------------------------------------------------------------------------------------------------- the status
@pytest.mark.parametrize(
    "status, expect, passes",
    [
        (200, (StatusRange(200, 399),), True),
        (302, (StatusRange(200, 399),), True),
        (399, (StatusRange(200, 399),), True),
        (400, (StatusRange(200, 399),), False),
        (503, (StatusRange(200, 399),), False),
        (503, (StatusRange(200, 200), StatusRange(503, 503)), True),
        (204, (StatusRange(200, 200), StatusRange(503, 503)), False),
    ],
)
def test_the_status_decides(status: int, expect: tuple[StatusRange, ...], passes: bool) -> None:
    result = ask(answering(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status), expect=expect)
    assert (result.outcome, result.text) == (PASSED if passes else FAILED, f"status {status}")


def test_interim_answers_are_passed_over() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    assert ask(answering(early, early, OK)).text == "status 200"
    assert ask(answering(*[early] * 20, OK)).text == "more than 8 interim answers"


def test_a_status_is_enough_where_nothing_is_looked_for_in_the_body() -> None:
    assert ask(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", keep_open=True)).text == "status 200"


# ---------------------------------------------------------------------------------------------------------- the body
@pytest.mark.parametrize(
    "match, passes", [("all ok", True), ("ok\n", True), ("All OK", False), ("~^all", True), ("~*OK\n$", True), ("~^ok", False)]
)
@pytest.mark.parametrize(
    "answer", [OK, chunked(b"al", b"l o", b"k\n"), b"HTTP/1.0 200 OK\r\n\r\nall ok\n"], ids=["length", "chunked", "close"]
)
def test_the_body_is_looked_at(match: str, passes: bool, answer: bytes) -> None:
    result = ask(answering(answer), match=parse_match(match))
    assert result.outcome is (PASSED if passes else FAILED)
    assert result.text == ("status 200, with the text" if passes else "status 200, but the body does not match")


def test_a_text_is_found_as_soon_as_it_is_there_and_across_pieces() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
    assert ask(answering(head, b"...all", b" ok...", keep_open=True), match=parse_match("all ok")).outcome is PASSED


def test_no_more_than_a_part_of_the_body_is_read() -> None:
    late = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * BODY_BYTES + b"all ok"
    result = ask(answering(late, keep_open=True), match=parse_match("all ok"))
    assert (result.outcome, result.text) == (FAILED, "status 200, but the first 16 KiB of the body does not match")
    assert ask(answering(body(BODY_BYTES * 2), keep_open=True), match=parse_match("~^x+$")).outcome is PASSED


def test_a_pattern_that_would_take_for_ever_fails() -> None:
    result = ask(answering(body(8000, b"a")), match=parse_match("~^(a+)+b$"))
    assert (result.outcome, result.text) == (FAILED, "status 200, but the pattern takes too long on the body")


# ---------------------------------------------------------------------------------------------------------- bad answers
@pytest.mark.parametrize(
    "serve, text",
    [
        (answering(), "closed without an answer"),
        (answering(b"HTTP/1.1 200 OK\r\nConte"), "closed in the middle of the answer"),
        (answering(b"garbage\r\n\r\n"), "no HTTP: illegal status line: bytearray(b'garbage')"),
        (answering(b"\x16\x03\x01\x00\xff\x01\x00\x00"), "no HTTP: "),
        (answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx"), "no HTTP: conflicting Content-Length headers"),
        (answering(b"HTTP/1.1 101 Switching\r\n\r\n"), "no HTTP: "),
    ],
    ids=["nothing", "half a head", "garbage", "tls", "two lengths", "101"],
)
def test_what_is_no_answer_fails(serve: Serve, text: str) -> None:
    result = ask(serve)
    assert result.outcome is FAILED
    assert result.text.startswith(text)


def test_a_body_that_is_cut_fails_where_it_is_looked_at() -> None:
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nall"
    assert ask(answering(cut), match=parse_match("all ok")).text == "closed in the middle of the answer"


@pytest.mark.parametrize("piece", [b"X-More: 1\r\n", b"x" * 1000], ids=["fields", "one line"])
def test_an_endless_head_is_read_up_to_its_limit(piece: bytes) -> None:
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(piece)
            await writer.drain()
            sent += len(piece)
            if writer.is_closing():
                return

    result = ask(serve)
    assert result.outcome is FAILED
    assert sent > MAX_HEAD_BYTES / 2


def test_silence_fails_at_the_time_out_that_covers_everything() -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    assert ask(silent, 500).text == "timed out after 500ms waiting for the answer"
    assert ask(trickle, 500).text == "timed out after 500ms waiting for the answer"
    stalled = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", keep_open=True)
    assert ask(stalled, 500, match=parse_match("all ok")).text == "timed out after 500ms reading the body"


def test_nobody_there_fails() -> None:
    health = Health(type="http")

    async def test(loop: AbstractEventLoop) -> Result:
        return await result_of(
            lambda done: HttpProbe(loop, unused_place(), 1000, None, done, make_request(health, "x"), make_wanted(health))
        )

    assert run(test).text == "connection refused"


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_whatever_arrives_the_result_is_one_line(data: bytes, is_begun: bool) -> None:
    result = ask(answering((b"HTTP/1.1 " if is_begun else b"") + data), match=parse_match("~x"))
    assert result.text.isascii()
    assert result.text.isprintable()
    assert len(result.text) <= MAX_TEXT + 20


@pytest.mark.parametrize(
    "pieces",
    [(OK,), (chunked(b"x" * 9000, b"all", b" ok"),), (b"HTTP/1.0 200 OK\r\n\r\n", b"all", b" ok")],
    ids=["length", "chunked", "close"],
)
def test_tls_carries_the_same(tmp_path: Path, pieces: tuple[bytes, ...]) -> None:
    certificates = make_certificates(tmp_path, "shop.example.com")
    tls = Tls(ssl.create_default_context(cafile=certificates.authority), "shop.example.com")
    health = Health(type="http", tls=True, match=parse_match("all ok"))
    request, wanted = make_request(health, "x"), make_wanted(health)

    async def test(loop: AbstractEventLoop) -> Result:
        async with Backend(answering(*pieces), certificates.server_context()) as backend:
            return await result_of(lambda done: HttpProbe(loop, backend.place, 10_000, tls, done, request, wanted))

    result = run(test)
    assert (result.outcome, result.text) == (PASSED, "status 200, with the text")
