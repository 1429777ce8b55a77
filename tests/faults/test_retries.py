"""Every way in which an attempt can come to nothing, and whether the other backend is asked then."""

import contextlib
import socket
from pathlib import Path

import pytest

from fastlb import _core
from tests.support.pair import OK, Pair, head, reset, sized

ALL = tuple(_core.RETRY_ON)
BODY = b"body that may have to be sent again"
SHORT_MS = 40


def closed(world: Pair, peer: socket.socket) -> None:
    peer.close()


def half_closed(world: Pair, peer: socket.socket) -> None:
    peer.shutdown(socket.SHUT_WR)


def was_reset(world: Pair, peer: socket.socket) -> None:
    reset(peer)


def garbage(world: Pair, peer: socket.socket) -> None:
    peer.send(b"\x16\x03\x01 this is not HTTP\r\n\r\n")


def cut_head(world: Pair, peer: socket.socket) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Le")
    peer.close()


def reset_in_head(world: Pair, peer: socket.socket) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Le")
    world.pump_until(lambda: world.counters()["backend_bytes_in"] > 0)
    reset(peer)


def too_large(world: Pair, peer: socket.socket) -> None:
    peer.setblocking(True)
    with contextlib.suppress(OSError):
        peer.sendall(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 65536)


def unasked_switch(world: Pair, peer: socket.socket) -> None:
    peer.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")


def nothing(world: Pair, peer: socket.socket) -> None:
    pass


def interim_then_closed(world: Pair, peer: socket.socket) -> None:
    peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
    peer.close()


# How the backend ends its attempt: what the pool has to list, and the reason where it does not.
ENDS = {
    "closed": (closed, "closed", "backend:closed"),
    "half_closed": (half_closed, "closed", "backend:closed"),
    "reset": (was_reset, "reset", "backend:reset"),
    "garbage": (garbage, "bad_response", "backend:bad_response"),
    "cut_head": (cut_head, "bad_response", "backend:closed"),
    "reset_in_head": (reset_in_head, "bad_response", "backend:reset"),
    "too_large": (too_large, "bad_response", "backend:head_too_large"),
    "unasked_switch": (unasked_switch, "bad_response", "backend:bad_response"),
    "slow": (nothing, "timeout", "backend:first_byte_timeout"),
    "interim_then_closed": (interim_then_closed, "bad_response", "backend:closed"),
}
REQUESTS = {
    "GET": head(),
    "PUT": sized("PUT", BODY),
    "chunked": head("PUT", "Transfer-Encoding: chunked") + b"4\r\nbody\r\n3\r\n ok\r\n0\r\n\r\n",
    "POST": sized("POST", BODY),
    "POST without a body": head("POST"),
}
LASTS = {"GET": b"\r\n\r\n", "PUT": BODY, "chunked": b"0\r\n\r\n", "POST": BODY, "POST without a body": b"\r\n\r\n"}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("request_name", REQUESTS)
@pytest.mark.parametrize("unsafe", [False, True])
def test_other_backend_gets_the_whole_request_where_that_is_safe(end: str, request_name: str, unsafe: bool) -> None:
    act, word, reason = ENDS[end]
    data, last = REQUESTS[request_name], LASTS[request_name]
    with Pair(first_byte_timeout_ms=SHORT_MS if end == "slow" else 60_000, retry={"on": (word,), "unsafe": unsafe}) as world:
        client = world.request(data)
        first = world.accept_at(0)
        sent = world.read_until(first, last)
        act(world, first)
        if unsafe or not request_name.startswith("POST"):
            second = world.accept_at(1)
            assert world.read_until(second, last) == sent
            second.send(OK)
            assert world.read_until(client, b"ok").endswith(OK[-2:])
            assert world.counts("retries", "retries_refused", f"reason.{reason}") == (1, 0, 0)
        else:
            answer = world.read_until(client, b"X-Fastlb-Reason")
            assert answer.splitlines()[0].split()[1] in (b"502", b"504") or answer.startswith(b"HTTP/1.1 103")
            world.pump_until(lambda: world.counters()[f"reason.{reason}"] == 1)
            assert world.saw_nothing(1)
            assert world.counts("retries", "retries_refused") == (0, 0)
        assert world.failures() == [1, 0]
        client.close()
        world.pump_until(lambda: world.engine.connections() == 0)


@pytest.mark.parametrize("end", ENDS)
def test_end_that_the_pool_does_not_list_is_final(end: str) -> None:
    act, word, reason = ENDS[end]
    others = tuple(other for other in ALL if other != word)
    with Pair(first_byte_timeout_ms=SHORT_MS if end == "slow" else 60_000, retry={"on": others}) as world:
        client = world.request(head())
        first = world.accept_at(0)
        world.read_until(first, b"\r\n\r\n")
        act(world, first)
        world.pump_until(lambda: world.counters()[f"reason.{reason}"] == 1)
        assert world.saw_nothing(1)
        assert world.counts("retries") == (0,)
        client.close()
        world.pump_until(lambda: world.engine.connections() == 0)


def test_time_outs_and_statuses_are_final_unless_the_pool_says_otherwise() -> None:
    with Pair(first_byte_timeout_ms=SHORT_MS) as world:
        client = world.request(head())
        world.accept_at(0)
        assert b" 504 " in world.read_until(client, b"first_byte_timeout")
        client.send(head())
        world.accept_at(1).send(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy")
        assert b" 503 Busy" in world.read_until(client, b"busy")
        assert world.counts("retries") == (0,)


# ------------------------------------------------------------------------------------------------------------ bodies
def test_body_that_is_still_coming_goes_on_at_the_other_backend() -> None:
    with Pair() as world:
        client = world.request(head("PUT", "Content-Length: 8") + b"half")
        first = world.accept_at(0)
        world.read_until(first, b"half")
        reset(first)
        second = world.accept_at(1)
        world.read_until(second, b"half")
        client.send(b"rest")
        world.read_until(second, b"rest")
        second.send(OK)
        world.read_until(client, b"ok")


@pytest.mark.parametrize(("size", "again"), [(1024, True), (1025, False)])
def test_body_beyond_the_replay_limit_is_not_sent_again(size: int, again: bool) -> None:
    with Pair(replay_limit_bytes=1024, retry={"unsafe": True, "on": ALL}) as world:
        client = world.request(sized("PUT", b"x" * (size - 1) + b"y"))
        first = world.accept_at(0)
        world.read_until(first, b"xy")
        first.close()
        if again:
            second = world.accept_at(1)
            assert world.read_until(second, b"xy").count(b"x") >= size - 1
            second.send(OK)
            world.read_until(client, b"ok")
        else:
            world.read_until(client, b"X-Fastlb-Reason: backend:closed")
            assert world.saw_nothing(1)
            assert world.counts("retries", "retries_refused") == (0, 0)


def test_status_is_passed_on_where_the_body_cannot_be_sent_again() -> None:
    with Pair(replay_limit_bytes=0, retry={"on": ALL}) as world:
        client = world.request(sized("PUT", BODY))
        first = world.accept_at(0)
        world.read_until(first, BODY)
        first.send(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy")
        assert world.read_until(client, b"busy").startswith(b"HTTP/1.1 503 Busy\r\n")
        assert world.saw_nothing(1)


# ------------------------------------------------------------------------------------------------------------ statuses
def answer(status: int, body: bytes = b"", *fields: str) -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *fields, "", "")).encode() + body


@pytest.mark.parametrize("status", [403, 404, 429, 500, 502, 503, 504])
def test_listed_status_asks_the_other_backend(status: int) -> None:
    with Pair(retry={"on": (str(status),)}) as world:
        client = world.request(head())
        world.accept_at(0).send(answer(status))
        world.accept_at(1).send(OK)
        assert world.read_until(client, b"ok").startswith(b"HTTP/1.1 200 ")
        assert world.counts("retries", "responses_2xx", "responses_4xx", "responses_5xx") == (1, 1, 0, 0)
        assert world.failures() == [1, 0]


@pytest.mark.parametrize("status", [500, 501, 503, 505, 599])
def test_5xx_is_all_of_them(status: int) -> None:
    with Pair(retry={"on": ("5xx",)}) as world:
        client = world.request(head())
        world.accept_at(0).send(answer(status))
        world.accept_at(1).send(OK)
        world.read_until(client, b"ok")


@pytest.mark.parametrize("status", [200, 204, 304, 400, 404, 499, 503])
def test_status_that_is_not_listed_passes(status: int) -> None:
    with Pair(retry={"on": ("429", "502")}) as world:
        client = world.request(head())
        world.accept_at(0).send(answer(status, b"", "X-Last: yes") if status != 204 else b"HTTP/1.1 204 X\r\nX-Last: yes\r\n\r\n")
        assert world.read_until(client, b"X-Last: yes").startswith(b"HTTP/1.1 %d " % status)
        assert world.saw_nothing(1)
        assert world.failures() == [0, 0]


@pytest.mark.parametrize("unsafe", [False, True])
def test_status_of_a_post_is_passed_on_unless_it_may_be_done_twice(unsafe: bool) -> None:
    with Pair(retry={"on": ("503",), "unsafe": unsafe}) as world:
        client = world.request(sized("POST", BODY))
        first = world.accept_at(0)
        world.read_until(first, BODY)
        first.send(answer(503, b"busy"))
        if unsafe:
            second = world.accept_at(1)
            world.read_until(second, BODY)
            second.send(OK)
            world.read_until(client, b"ok")
        else:
            assert world.read_until(client, b"busy").startswith(b"HTTP/1.1 503 ")
            assert world.saw_nothing(1)


def test_last_answer_is_passed_on_when_every_backend_has_given_one() -> None:
    with Pair(n=3, attempts=8, retry={"on": ("5xx",)}) as world:
        client = world.request(head())
        for number in range(3):
            world.accept_at(number).send(answer(500 + number, b"number %d" % number))
        assert world.read_until(client, b"number 2").startswith(b"HTTP/1.1 502 ")
        assert world.counts("retries", "responses_5xx", "reason.backend:bad_status") == (2, 1, 0)


def test_answer_is_passed_on_when_the_attempts_are_used_up() -> None:
    with Pair(n=3, attempts=2, retry={"on": ("5xx",)}) as world:
        client = world.request(head())
        world.accept_at(0).send(answer(500, b"first"))
        world.accept_at(1).send(answer(503, b"second"))
        assert world.read_until(client, b"second").startswith(b"HTTP/1.1 503 ")
        assert world.saw_nothing(2)


def test_backend_at_its_cap_is_nobody_to_ask() -> None:
    with Pair(cap=1, retry={"on": ("503",)}) as world:
        other = world.request(head())
        held = world.accept_at(0)
        client = world.request(head())
        world.accept_at(1).send(answer(503, b"busy"))
        world.read_until(client, b"busy")
        assert world.counts("retries") == (0,)
        held.send(OK)
        world.read_until(other, b"ok")


def test_dropped_answer_that_is_whole_leaves_its_connection_for_the_next_request() -> None:
    with Pair(retry={"on": ("503",)}) as world:
        client = world.request(head())
        first = world.accept_at(0)
        first.send(answer(503, b"busy"))
        second = world.accept_at(1)
        second.send(OK)
        world.read_until(client, b"ok")
        world.read_until(first, b"\r\n\r\n")
        client.send(head())
        assert world.read_until(first, b"\r\n\r\n").startswith(b"GET / ")
        first.send(OK)
        world.read_until(client, b"ok")
        assert world.counts("backend_connections_opened", "backend_reused") == (2, 1)


@pytest.mark.parametrize(
    "dropped",
    [
        b"HTTP/1.1 503 X\r\nContent-Length: 1000000\r\n\r\npart of it",
        b"HTTP/1.1 503 X\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbusy\r\n0\r\n\r\n",
        b"HTTP/1.1 503 X\r\n\r\nuntil I close",
        b"HTTP/1.1 503 X\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 503 X\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 stray\r\n\r\n",
    ],
)
def test_dropped_answer_that_is_not_whole_or_the_last_ends_its_connection(dropped: bytes) -> None:
    with Pair(retry={"on": ("503",)}) as world:
        client = world.request(head())
        first = world.accept_at(0)
        world.read_until(first, b"\r\n\r\n")
        first.send(dropped)
        second = world.accept_at(1)
        second.send(OK)
        assert world.read_until(client, b"ok").endswith(OK[-6:])
        assert world.read_all(first) == b""
        client.send(head())
        world.accept_at(0).send(OK)  # a new one
        world.read_until(client, b"ok")


def test_early_refusal_of_an_upload_goes_on_at_the_other_backend() -> None:
    with Pair(retry={"on": ("503",)}) as world:
        client = world.request(head("PUT", "Content-Length: 8") + b"half")
        first = world.accept_at(0)
        world.read_until(first, b"half")
        first.send(answer(503))
        second = world.accept_at(1)
        world.read_until(second, b"half")
        client.send(b"rest")
        world.read_until(second, b"rest")
        second.send(OK)
        got = world.read_until(client, b"ok")
        assert got.startswith(b"HTTP/1.1 200 ")
        assert b"close" not in got
        world.read_all(first)  # the rest of the upload would have been missing: it is not used again


def test_second_answer_decides_about_its_own_connection() -> None:
    """The head that was too large for the client had promised to keep the connection; that of the second backend does not."""
    with Pair(retry={"on": ("503",)}) as world:
        client = world.request(head())
        world.accept_at(0).send(answer(503))
        second = world.accept_at(1)
        second.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
        world.read_until(client, b"ok")
        world.read_until(second, b"\r\n\r\n")
        assert world.read_all(second) == b""


# ------------------------------------------------------------------------------------------------------------ limits
def test_nothing_is_retried_once_the_head_has_gone_to_the_client() -> None:
    with Pair(retry={"on": ALL}) as world:
        client = world.request(head())
        first = world.accept_at(0)
        first.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        world.read_until(client, b"half")
        reset(first)
        assert world.read_all(client) == b""
        assert world.saw_nothing(1)
        assert world.counts("retries", "reason.backend:truncated") == (0, 1)


def test_no_attempt_begins_after_the_time_for_them() -> None:
    with Pair(first_byte_timeout_ms=2 * SHORT_MS, retry={"on": ("timeout",), "within_ms": SHORT_MS}) as world:
        client = world.request(head())
        world.accept_at(0)
        assert b" 504 " in world.read_until(client, b"first_byte_timeout")
        assert world.saw_nothing(1)
        assert world.counts("retries", "retries_refused") == (0, 0)


def test_beyond_the_budget_the_client_gets_what_the_backend_came_to() -> None:
    with Pair(retry={"on": ("closed",), "share": 0.6, "floor": 0}) as world:
        for pays in (False, True, False, True):  # each exchange pays for 0.6 of a retry
            client = world.request(head())
            first = world.accept_any()
            world.read_until(first, b"\r\n\r\n")
            first.close()
            if pays:
                world.accept_any().send(answer(200, b"ok", "Connection: close"))
                world.read_until(client, b"ok")
            else:
                assert b" 502 " in world.read_until(client, b"backend:closed")
            client.close()
        assert world.counts("retries", "retries_refused", "reason.backend:closed") == (2, 2, 2)


def test_status_beyond_the_budget_is_passed_on() -> None:
    with Pair(retry={"on": ("503",), "share": 0, "floor": 0}) as world:
        client = world.request(head())
        world.accept_at(0).send(answer(503, b"busy", "Retry-After: 7"))
        assert b"Retry-After: 7" in world.read_until(client, b"busy")
        assert world.saw_nothing(1)
        assert world.counts("retries", "retries_refused", "responses_5xx") == (0, 1, 1)


def test_failed_connect_is_not_paid_for() -> None:
    with Pair(retry={"share": 0, "floor": 0}) as world:
        refusing = world.backends[0]
        refusing.shutdown(socket.SHUT_RD)  # nobody listens there any more
        client = world.request(sized("POST", BODY))
        second = world.accept_at(1)
        world.read_until(second, BODY)
        second.send(OK)
        world.read_until(client, b"ok")
        assert world.counts("retries", "retries_refused") == (1, 0)


def test_budget_goes_on_in_the_next_snapshot() -> None:
    with Pair(retry={"on": ("closed",), "share": 0, "floor": 1}) as world:  # ten at once
        for turn in range(12):
            client = world.request(head())
            first = world.accept_any()
            world.read_until(first, b"\r\n\r\n")
            first.close()
            if turn < 10:
                world.accept_any().send(answer(200, b"ok", "Connection: close"))
                world.read_until(client, b"ok")
            else:
                world.read_until(client, b"backend:closed")
            client.close()
            world.load()
        assert world.counts("retries", "retries_refused") == (10, 2)


# ------------------------------------------------------------------------------------------------------------ what else happens
def test_client_that_leaves_during_a_later_attempt_ends_it() -> None:
    with Pair() as world:
        client = world.request(head())
        world.accept_at(0).close()
        second = world.accept_at(1)
        world.read_until(second, b"\r\n\r\n")
        reset(client)
        assert world.read_all(second) == b""
        assert world.counts("reason.client:reset") == (1,)


def test_later_attempt_is_made_in_the_snapshot_of_the_exchange() -> None:
    with Pair() as world:
        client = world.request(head())
        first = world.accept_at(0)
        world.read_until(first, b"\r\n\r\n")
        taken = world.backends.pop()
        world.load(attempts=1)
        first.close()
        world.backends.append(taken)
        world.accept_at(1).send(OK)
        world.read_until(client, b"ok")
        assert world.counts("retries") == (1,)
        world.pump_until(lambda: world.counts("snapshots_closed") == (1,))


def test_draining_does_not_stop_a_later_attempt() -> None:
    with Pair() as world:
        client = world.request(head())
        first = world.accept_at(0)
        world.read_until(first, b"\r\n\r\n")
        world.engine.drain(1000)
        first.close()
        world.accept_at(1).send(OK)
        assert b"Connection: close" in world.read_until(client, b"ok")
        assert world.read_all(client) == b""


def test_pipelined_request_behind_one_that_is_retried_is_not_lost() -> None:
    with Pair(retry={"on": ("503",)}) as world:
        client = world.request(sized("PUT", BODY) + head())
        world.accept_at(0).send(answer(503, b"", "Connection: close"))
        second = world.accept_at(1)
        world.read_until(second, BODY)
        second.send(OK)
        world.read_until(client, b"ok")
        third = world.accept_at(0)
        world.read_until(third, b"GET / ")
        third.send(answer(200, b"for the other"))
        world.read_until(client, b"for the other")


def test_pooled_connection_of_the_other_backend_may_turn_out_stale() -> None:
    """A replay within a retry: it counts as no attempt."""
    with Pair(attempts=2) as world:
        client = world.request(head())
        world.accept_at(0).send(answer(200, b"one", "Connection: close"))
        world.read_until(client, b"one")
        client.send(head())
        pooled = world.accept_at(1)
        pooled.send(OK)
        world.read_until(client, b"ok")
        client.send(head())
        first = world.accept_at(0)
        world.read_until(first, b"\r\n\r\n")
        first.close()
        pooled.close()  # the engine hears of both ends at once, in this order
        world.accept_at(1).send(OK)
        world.read_until(client, b"ok")
        assert world.counts("retries", "replays") == (1, 1)
        assert world.failures() == [1, 0]


def test_log_line_tells_of_each_attempt(tmp_path: Path) -> None:
    with Pair(retry={"on": ("503",)}) as world:
        world.log_to(tmp_path / "log", "{status} {backend_status} {attempts} {backend_statuses} {backends} {response.x-from}")
        client = world.request(head())
        world.accept_at(0).send(answer(503, b"", "X-From: dropped"))
        world.accept_at(1).send(OK)
        world.read_until(client, b"ok")
        addresses = ", ".join(f"127.0.0.1:{backend.getsockname()[1]}" for backend in world.backends)
        assert world.lines(1) == [f"200 200 2 503, 200 {addresses} -"]
