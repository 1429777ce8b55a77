"""fastlb/control_plane/health/grpc.py on uvloop, against backends that speak HTTP/2 well, badly and endlessly."""

import asyncio
import re
import ssl
from asyncio import AbstractEventLoop
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, RequestReceived, StreamEnded
from hyperframe.frame import GoAwayFrame, PingFrame, SettingsFrame
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlb.control_plane.config.health import Health
from fastlb.control_plane.health.grpc import MAX_MESSAGE_BYTES, GrpcProbe, make_call, read_answer
from fastlb.control_plane.health.http2_reply import MAX_BYTES
from fastlb.control_plane.health.result import MAX_TEXT, Outcome, Result
from fastlb.control_plane.health.tcp import Tls
from tests.support.certificates import make_certificates
from tests.support.probing import Backend, Serve, result_of, run, silent, unused_place

PASSED, FAILED = Outcome.PASSED, Outcome.FAILED
Fields = list[tuple[str, str]]
HEAD: Fields = [(":status", "200"), ("content-type", "application/grpc")]
OK: Fields = [("grpc-status", "0")]
SERVING = b"\0\0\0\0\2\x08\1"
CUT = "(closed|connection reset by peer)"  # the latter where we were about to acknowledge settings
Answer = Callable[[H2Connection], None]


class Asked:
    """What a backend was sent."""

    def __init__(self) -> None:
        self.fields: dict[str, str] = {}
        self.body = b""


def serving(answer: Answer, asked: Asked | None = None, keep_open: bool = True) -> Serve:
    """Reads a call, and has `answer` send frames on its stream, which is 1."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8", validate_outbound_headers=False))
        h2.initiate_connection()
        ended = False
        while not ended:
            writer.write(h2.data_to_send())
            if not (data := await reader.read(65536)):
                return
            for event in h2.receive_data(data):
                if isinstance(event, RequestReceived) and asked is not None:
                    asked.fields = {str(name): str(value) for name, value in event.headers}
                elif isinstance(event, DataReceived) and asked is not None:
                    asked.body += event.data
                ended = ended or isinstance(event, StreamEnded)
        answer(h2)
        writer.write(h2.data_to_send())
        await writer.drain()
        if keep_open:
            await reader.read()

    return serve


def saying(message: bytes = SERVING, head: Fields = HEAD, trailers: Fields | None = OK) -> Answer:
    def answer(h2: H2Connection) -> None:
        h2.send_headers(1, head)
        h2.send_data(1, message, end_stream=trailers is None)
        if trailers is not None:
            h2.send_headers(1, trailers, end_stream=True)

    return answer


def only_head(*fields: tuple[str, str]) -> Answer:
    return lambda h2: h2.send_headers(1, list(fields), end_stream=True)


def ask(serve: Serve, within_ms: int = 10_000, **options: Any) -> Result:
    """One probe of a backend that is served so."""
    call = make_call(Health(type="grpc", **options), "10.0.0.1:80")

    async def test(loop: AbstractEventLoop) -> Result:
        async with Backend(serve) as backend:
            return await result_of(lambda done: GrpcProbe(loop, backend.place, within_ms, None, done, call))

    return run(test)


# ---------------------------------------------------------------------------------------------------------- the call
def test_the_call_is_that_of_the_health_service() -> None:
    asked = Asked()
    assert ask(serving(saying(), asked)).outcome is PASSED
    assert asked.fields.pop("user-agent").startswith("fastlb/")
    assert asked.fields == {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/grpc.health.v1.Health/Check",
        ":authority": "10.0.0.1:80",
        "te": "trailers",
        "content-type": "application/grpc",
        "grpc-timeout": "3000m",
    }
    assert asked.body == bytes(5)


def test_service_authority_and_metadata_are_as_configured() -> None:
    asked = Asked()
    service = "shop.Orders" + "x" * 200  # its length takes two bytes
    ask(serving(saying(), asked), service=service, host="orders.example", headers=(("X-Token", "1"), ("User-Agent", "me")), timeout_ms=250)
    assert (asked.fields[":authority"], asked.fields["x-token"], asked.fields["user-agent"]) == ("orders.example", "1", "me")
    assert asked.fields["grpc-timeout"] == "250m"
    assert asked.body == b"\0\0\0\0" + bytes([3 + len(service)]) + b"\x0a\xd3\x01" + service.encode()


# ---------------------------------------------------------------------------------------------------------- the answer
@pytest.mark.parametrize(
    ("answer", "outcome", "text"),
    [
        (saying(), PASSED, "SERVING"),
        (saying(head=[*HEAD[:1], ("content-type", "application/grpc+proto")]), PASSED, "SERVING"),
        (saying(b"\0\0\0\0\2\x08\2"), FAILED, "NOT_SERVING"),
        (saying(bytes(5)), FAILED, "UNKNOWN"),
        (saying(b"\0\0\0\0\2\x08\3"), FAILED, "SERVICE_UNKNOWN"),
        (saying(b"\0\0\0\0\2\x08\x09"), FAILED, "9"),
        (
            only_head(*HEAD, ("grpc-status", "12"), ("grpc-message", "no%20such%0Amethod")),
            FAILED,
            "grpc-status 12 UNIMPLEMENTED: no such method",
        ),
        (only_head(*HEAD, ("grpc-status", "5")), FAILED, "grpc-status 5 NOT_FOUND"),
        (only_head(*HEAD, ("grpc-status", "99")), FAILED, "grpc-status 99 unknown"),
        (saying(trailers=[("grpc-status", "14"), ("grpc-message", "%ff%zz")]), FAILED, "grpc-status 14 UNAVAILABLE: %zz"),
        (only_head(*HEAD, *OK), FAILED, "its answer is no HealthCheckResponse"),
        (only_head(*HEAD), FAILED, "no gRPC: its answer has no grpc-status"),
        (saying(head=[*HEAD, *OK], trailers=None), FAILED, "no gRPC: its answer has no grpc-status"),
        (saying(trailers=None), FAILED, "no gRPC: its answer has no grpc-status"),
        (saying(trailers=[("grpc-status", "x")]), FAILED, "no gRPC: its answer has no grpc-status"),
        (only_head((":status", "503")), FAILED, "status 503 instead of a gRPC answer"),
        (saying(head=[(":status", "200"), ("content-type", "text/html")]), FAILED, "no gRPC: its answer is of type text/html"),
        (
            saying(head=[(":status", "200"), ("content-type", "application/grpc-web")]),
            FAILED,
            "no gRPC: its answer is of type application/grpc-web",
        ),
        (saying(head=HEAD[:1]), FAILED, "no gRPC: its answer is of type nothing"),
        (saying(bytes(MAX_MESSAGE_BYTES + 1)), FAILED, "its answer is too long"),
        (lambda h2: h2.reset_stream(1, ErrorCodes.REFUSED_STREAM), FAILED, "reset the call: REFUSED_STREAM"),
        (lambda h2: h2.close_connection(ErrorCodes.ENHANCE_YOUR_CALM), FAILED, "goes away: ENHANCE_YOUR_CALM"),
    ],
)
def test_only_serving_passes_and_all_else_says_what_it_was(answer: Answer, outcome: Outcome, text: str) -> None:
    result = ask(serving(answer))
    assert (result.outcome, result.text) == (outcome, text)


def test_interim_answers_are_passed_over() -> None:
    def answer(h2: H2Connection, n: int) -> None:
        for _ in range(n):
            h2.send_headers(1, [(":status", "103")])
        saying()(h2)

    assert ask(serving(lambda h2: answer(h2, 2))).outcome is PASSED
    assert ask(serving(lambda h2: answer(h2, 9))).text == "more than 8 interim answers"


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (b"\x08\x01", 1),
        (b"", 0),
        (b"\x08\x02\x08\x01", 1),  # the last one counts
        (b"\x12\x03abc\x1d\0\0\0\0\x21\0\0\0\0\0\0\0\0\x08\x01\x28\xff\x01", 1),  # fields of later versions
        (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", (1 << 64) - 1),
        (b"\x08", None),
        (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", None),
        (b"\x00\x01", None),
        (b"\x12\x05abc", None),
        (b"\x1d\0", None),
        (b"\x0b", None),
    ],
)
def test_an_answer_is_read_as_protobuf_has_it(message: bytes, status: int | None) -> None:
    assert read_answer(b"\0" + len(message).to_bytes(4) + message) == status


def test_an_answer_that_is_compressed_or_framed_wrongly_is_none() -> None:
    assert read_answer(b"\1" + SERVING[1:]) is None
    assert read_answer(SERVING + b"\0") is None
    assert read_answer(SERVING[:-1]) is None
    assert read_answer(b"") is None


# ---------------------------------------------------------------------------------------------------------- bad backends
def sending(data: bytes, keep_open: bool = False) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(data)
        await writer.drain()
        if keep_open:
            await reader.read()

    return serve


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", f"{CUT} before the answer"),
        (SettingsFrame(0).serialize(), f"{CUT} before the answer"),
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "no HTTP/2: it answers in HTTP/1"),
        (SettingsFrame(0).serialize() + GoAwayFrame(0).serialize(), "goes away: NO_ERROR"),
    ],
    ids=["nothing", "settings", "http1", "goaway"],
)
def test_what_is_no_answer_fails(data: bytes, text: str) -> None:
    result = ask(sending(data))
    assert result.outcome is FAILED
    assert re.fullmatch(text, result.text)


def test_an_answer_that_is_cut_fails() -> None:
    def answer(h2: H2Connection) -> None:
        h2.send_headers(1, HEAD)

    assert re.fullmatch(f"{CUT} in the middle of the answer", ask(serving(answer, keep_open=False)).text)


def test_a_flood_is_read_up_to_its_limit() -> None:
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(SettingsFrame(0).serialize())
        while not writer.is_closing():
            writer.write(PingFrame(0, b"12345678").serialize() * 10)
            await writer.drain()
            sent += 170

    result = ask(serve)
    assert (result.outcome, result.text) == (FAILED, "more than 16 KiB instead of an answer")
    assert sent > MAX_BYTES / 2


def test_silence_fails_at_the_time_out_that_covers_everything() -> None:
    assert ask(silent, 300).text == "timed out after 300ms waiting for the answer"
    assert ask(serving(lambda h2: h2.send_headers(1, HEAD)), 300).text == "timed out after 300ms waiting for the answer"


def test_nobody_there_fails() -> None:
    call = make_call(Health(type="grpc"), "x")

    async def test(loop: AbstractEventLoop) -> Result:
        return await result_of(lambda done: GrpcProbe(loop, unused_place(), 1000, None, done, call))

    assert run(test).text == "connection refused"


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 9), st.booleans())
def test_whatever_arrives_the_result_is_one_line(data: bytes, kind: int, is_framed: bool) -> None:
    frame = len(data).to_bytes(3) + bytes([kind, 5]) + (1).to_bytes(4) + data
    result = ask(sending(SettingsFrame(0).serialize() + (frame if is_framed else data)))
    assert result.text.isascii()
    assert result.text.isprintable()
    assert len(result.text) <= MAX_TEXT + 40


# ---------------------------------------------------------------------------------------------------------- TLS
def ask_tls(tmp_path: Path, protocols: list[str], verifies: bool = True) -> Result:
    certificates = make_certificates(tmp_path, "orders.example")
    context = ssl.create_default_context(cafile=certificates.authority if verifies else None)
    context.set_alpn_protocols(["h2"])
    server = certificates.server_context()
    server.set_alpn_protocols(protocols)
    call = make_call(Health(type="grpc", tls=True), "orders.example")

    async def test(loop: AbstractEventLoop) -> Result:
        async with Backend(serving(saying()), server) as backend:
            tls = Tls(context, "orders.example")
            return await result_of(lambda done: GrpcProbe(loop, backend.place, 10_000, tls, done, call))

    return run(test)


def test_tls_carries_the_same_where_the_backend_agrees_to_http2(tmp_path: Path) -> None:
    assert ask_tls(tmp_path, ["h2"]).text == "SERVING"
    assert ask_tls(tmp_path, []).text == "no HTTP/2: it does not agree to h2 in the TLS handshake"
    assert ask_tls(tmp_path, ["h2"], verifies=False).text.startswith("its certificate is not accepted: ")
