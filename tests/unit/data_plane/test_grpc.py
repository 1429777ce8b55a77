"""What gRPC clients get where fastlb answers itself, and what the log says of how calls end."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support._probe import FAILURES, says_grpc
from tests.support.http2 import Client, Fields, Stream
from tests.support.images import Writer
from tests.support.logs import LogWorld, wait_for_lines

CALL: Fields = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/shop.Orders/Get"), ("te", "trailers")]
GRPC = ("content-type", "application/grpc")
UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 2, 4, 8, 12, 13, 14

# Statuses of HTTP that a gRPC client translates by itself (doc/http-grpc-status-mapping.md of gRPC).
OF_HTTP = {400: INTERNAL, 404: UNIMPLEMENTED, 502: UNAVAILABLE, 503: UNAVAILABLE, 504: UNAVAILABLE}
# Where gRPC has a word of its own.
OF_REASON = {
    "client:body_too_large": RESOURCE_EXHAUSTED,
    "client:head_too_large": RESOURCE_EXHAUSTED,
    "client:target_too_long": RESOURCE_EXHAUSTED,
    "client:head_timeout": DEADLINE_EXCEEDED,
    "client:body_timeout": DEADLINE_EXCEEDED,
    "exchange_timeout": DEADLINE_EXCEEDED,
}


class GrpcWorld(LogWorld):
    """One listener for gRPC; without a `pool`, none of its requests finds a route."""

    def serve(self, *, dead: bool = False, path: str = "/", listener: dict[str, int] | None = None, **pool: int) -> None:
        self.web = getattr(self, "web", None) or self.listen()
        self.generation += 1
        writer = Writer(self.generation)
        writer.set_reason_header("X-Fastlb-Reason")
        writer.listener(**(listener or {}))
        number = writer.pool(**pool)
        if not dead:
            writer.backend(number, self.backend.getsockname()[1])
        writer.add_route(host="", path_prefix=path, pool=number)
        self.apply_image(writer.image(), self.web)

    def call(self, *more: tuple[str, str], body: bytes | None = bytes(5), client: Client | None = None) -> Stream:
        client = client or Client(self, self.web)
        return client.wait(client.submit([*CALL, *(more or (GRPC,))], body))


@pytest.fixture
def world() -> Iterator[GrpcWorld]:
    with GrpcWorld() as made:
        yield made
    made.check_balance()


def expect(stream: Stream, status: int, reason: str) -> None:
    """One header list and nothing else: Trailers-Only."""
    (sentence,) = (failure["sentence"] for failure in FAILURES if failure["id"] == reason)
    fields = dict(stream.fields)
    assert re.fullmatch(r"[A-Z][a-z]{2}, .* GMT", fields.pop("date"))
    assert fields == {
        ":status": "200",
        "content-type": "application/grpc",
        "grpc-status": str(status),
        "grpc-message": sentence,
        "x-fastlb-reason": reason,
    }
    assert (stream.body, stream.trailers, stream.ended) == (b"", {}, True)


# ---------------------------------------------------------------------------------------------------------- the table
@pytest.mark.parametrize("failure", [one for one in FAILURES if one["status"]], ids=lambda failure: failure["id"])
def test_each_failure_has_the_grpc_status_that_clients_would_make_of_it_or_a_better_one(failure: dict[str, str]) -> None:
    expected = OF_REASON.get(failure["id"]) or OF_HTTP.get(int(failure["status"]), UNKNOWN)
    assert failure["grpc_status"] == expected


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure["id"])
def test_no_sentence_has_to_be_percent_encoded(failure: dict[str, str]) -> None:
    assert re.fullmatch(r"[\x20-\x24\x26-\x7e]*", failure["sentence"])


def test_what_is_grpc_is_seen_by_its_content_type() -> None:
    for text in (b"application/grpc", b"application/grpc+proto", b"application/grpc;charset=utf-8", b"Application/gRPC+json"):
        assert says_grpc(text), text
    for text in (
        b"",
        b"application/grp",
        b"application/grpc-web",
        b"application/grpc-web+proto",
        b"application/grpcx",
        b"text/application/grpc",
    ):
        assert not says_grpc(text), text


# ---------------------------------------------------------------------------------------------------------- answers of our own
def test_without_a_backend_a_call_is_unavailable_and_says_why(world: GrpcWorld) -> None:
    world.serve(dead=True)
    expect(world.call(), UNAVAILABLE, "no_backend")
    assert world.counters()["responses_2xx"] == 1
    assert world.counters()["reason.no_backend"] == 1


def test_the_stream_of_a_call_that_goes_on_sending_is_ended_without_an_error(world: GrpcWorld) -> None:
    world.serve(dead=True)
    client = Client(world, world.web)
    stream = client.wait(client.begin([*CALL, GRPC]))
    expect(stream, UNAVAILABLE, "no_backend")
    world.pump_until(lambda: client.take() or stream.reset is not None)
    assert stream.reset == 0  # NO_ERROR: the rest of the request is not wanted


def test_a_backend_that_refuses_or_leaves_is_unavailable(world: GrpcWorld) -> None:
    world.serve()
    client = Client(world, world.web)
    number = client.submit([*CALL, GRPC], bytes(5))
    peer = world.accept()
    world.read(peer)
    peer.close()
    expect(client.wait(number), UNAVAILABLE, "backend:closed")
    world.backend.close()
    expect(world.call(client=client), UNAVAILABLE, "backend:connect_refused")


def test_too_large_a_message_is_resource_exhausted(world: GrpcWorld) -> None:
    world.serve(listener={"max_body_bytes": 100})
    client = Client(world, world.web)
    expect(world.call(GRPC, ("content-length", "101"), body=bytes(101), client=client), RESOURCE_EXHAUSTED, "client:body_too_large")
    expect(world.call(GRPC, body=bytes(101), client=client), RESOURCE_EXHAUSTED, "client:body_too_large")
    number = client.begin([*CALL, GRPC])  # its length is not known before
    world.accept()
    client.h2.send_data(number, bytes(101))
    client.flush()
    expect(client.wait(number), RESOURCE_EXHAUSTED, "client:body_too_large")


def test_too_much_metadata_is_resource_exhausted(world: GrpcWorld) -> None:
    world.serve()
    many = [(f"x-{n}", "y" * 1000) for n in range(40)]
    expect(world.call(GRPC, *many), RESOURCE_EXHAUSTED, "client:head_too_large")


def test_a_call_that_takes_longer_than_its_pool_allows_has_exceeded_its_deadline(world: GrpcWorld) -> None:
    world.serve(exchange_timeout_ms=50)
    expect(world.call(), DEADLINE_EXCEEDED, "exchange_timeout")


def test_a_backend_that_does_not_answer_in_time_is_unavailable(world: GrpcWorld) -> None:
    world.serve(first_byte_timeout_ms=50)
    expect(world.call(), UNAVAILABLE, "backend:first_byte_timeout")


def test_a_client_that_only_listens_may_do_so_as_long_as_something_comes(world: GrpcWorld) -> None:
    world.serve(listener={"body_timeout_ms": 400})
    client = Client(world, world.web)
    number = client.begin([*CALL, GRPC])
    client.h2.send_data(number, bytes(5))
    client.flush()
    peer = world.accept()
    world.read(peer)
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n")
    stream = client.streams[number]
    began, sent = time.monotonic(), 0

    def arrived() -> bool:
        client.take()
        return stream.reset is not None or len(stream.body) == sent

    while time.monotonic() < began + 1:
        peer.send(b"1\r\nx\r\n")
        sent += 1
        world.pump_until(arrived)
        assert stream.reset is None
    assert client.wait(number).reset is not None  # then nothing moves in either direction
    assert world.counters()["reason.client:body_timeout"] == 1


def test_a_path_without_a_route_is_unimplemented(world: GrpcWorld) -> None:
    world.serve(path="/other")
    expect(world.call(), UNIMPLEMENTED, "no_route")


def test_a_malformed_call_is_answered_as_any_malformed_request(world: GrpcWorld) -> None:
    world.serve()
    stream = world.call(GRPC, ("x", "a\nb"))
    assert (stream.fields[":status"], stream.reset) == ("400", 1)


def test_others_get_their_status_of_http(world: GrpcWorld) -> None:
    world.serve(dead=True)
    client = Client(world, world.web)
    for more in (
        [("content-type", "application/grpc-web+proto")],
        [("accept", "application/grpc")],
        [("content-type", "application/json")],
    ):
        stream = world.call(*more, client=client)
        assert (stream.fields[":status"], stream.fields["x-fastlb-reason"]) == ("503", "no_backend")
        assert stream.body.startswith(b"503 ")


def test_over_http1_there_is_no_grpc(world: GrpcWorld) -> None:
    world.serve(dead=True)
    client = world.connect(world.web)
    client.send(b"POST /shop.Orders/Get HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n")
    assert world.read(client).startswith(b"HTTP/1.1 503 ")


# ---------------------------------------------------------------------------------------------------------- the log
def logged(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in wait_for_lines(path)]


def test_the_log_tells_how_calls_ended(world: GrpcWorld, tmp_path: Path) -> None:
    fields = ["status", "grpc_status", "reason"]
    bad = {"to": str(tmp_path / "bad"), "format": "{grpc_status}", "when": "grpc_status > 0"}
    world.log({"to": str(tmp_path / "log"), "format": "json", "fields": fields}, bad, exchange_timeout_ms=300)
    client = Client(world, world.web)
    peer = None
    chunked = b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n\0\0\0\0\0\r\n0\r\n%b\r\n"
    for answer in (
        chunked % b"grpc-status: 0\r\n",
        chunked % b"X-More: 1\r\nGrpc-Status:  13\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nGrpc-Status: 5\r\nContent-Length: 0\r\n\r\n",
        chunked % b"grpc-status: 1000\r\n",
        chunked % b"grpc-status: x\r\n",
        chunked % b"",
    ):
        number = client.submit([*CALL, GRPC], bytes(5))
        peer = peer or world.accept()
        world.read(peer)
        peer.send(answer)
        assert client.wait(number).ended
    assert client.wait(client.submit([*CALL, GRPC], bytes(5))).fields["grpc-status"] == str(DEADLINE_EXCEEDED)
    world.rest()
    wait_for_lines(tmp_path / "log", 7)
    assert [tuple(line.values()) for line in logged(tmp_path / "log")] == [
        (200, 0, None),
        (200, 13, None),
        (200, 5, None),
        (200, None, None),
        (200, None, None),
        (200, None, None),
        (200, DEADLINE_EXCEEDED, "exchange_timeout"),
    ]
    assert wait_for_lines(tmp_path / "bad", 3) == ["13", "5", "4"]
