"""A second backend is asked beside a slow one: who answers first wins, and whatever else happens meanwhile leaves nothing behind."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.pair import OK, Pair, head, reset, sized

AFTER_MS = 20
BODY = b"a body that is kept"
SLOW = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow"


def hedged(**pool: Any) -> Pair:
    return Pair(hedge_after_ms=AFTER_MS, **pool)


def ask_both(world: Pair, data: bytes = b"", last: bytes = b"\r\n\r\n") -> tuple[socket.socket, socket.socket, socket.socket]:
    """A client, and the two connections on which its request has arrived, the slow one's first."""
    client = world.request(data or head())
    slow = world.accept_at(0)
    sent = world.read_until(slow, last)
    quick = world.accept_at(1)
    assert world.read_until(quick, last) == sent
    assert world.counts("hedges_started", "hedges_won", "retries") == (1, 0, 0)
    return client, slow, quick


REQUESTS: dict[str, tuple[bytes, bytes]] = {
    "GET": (head(), b"\r\n\r\n"),
    "PUT": (sized("PUT", BODY), BODY),
    "chunked": (head("PUT", "Transfer-Encoding: chunked") + b"4\r\nbody\r\n0\r\nX-Sum: 1\r\n\r\n", b"\r\n\r\n"),
    "DELETE": (head("DELETE"), b"\r\n\r\n"),
}


# ------------------------------------------------------------------------------------------------------------ who wins
@pytest.mark.parametrize("request_name", ["GET", "PUT", "DELETE"])
def test_hedge_that_answers_first_wins_and_the_slow_one_is_ended(request_name: str) -> None:
    with hedged() as world:
        client, slow, quick = ask_both(world, *REQUESTS[request_name])
        quick.send(OK)
        assert world.read_until(client, b"ok").startswith(b"HTTP/1.1 200 ")
        assert world.read_all(slow) == b""
        assert world.counts("hedges_won", "attempts_closed", "claims_returned") == (1, 2, 2)
        assert world.failures() == [0, 0]
        world.load(hedge_after_ms=0)
        client.send(head())
        world.accept_at(0).send(OK)  # its connection is gone,
        world.read_until(client, b"ok")
        client.send(head())
        world.read_until(quick, b"\r\n\r\n")  # and that of the winner was kept
        quick.send(OK)
        world.read_until(client, b"ok")


def test_chunked_body_is_sent_to_both_with_its_trailers() -> None:
    with hedged() as world:
        client = world.request(REQUESTS["chunked"][0])
        slow = world.accept_at(0)
        sent = world.read_until(slow, b"X-Sum: 1\r\n\r\n")
        quick = world.accept_at(1)
        assert world.read_until(quick, b"X-Sum: 1\r\n\r\n") == sent
        quick.send(OK)
        world.read_until(client, b"ok")


@pytest.mark.parametrize("first_bytes", [SLOW, SLOW[:1], b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"])
def test_slow_one_that_answers_first_after_all_wins(first_bytes: bytes) -> None:
    with hedged() as world:
        client, slow, quick = ask_both(world)
        slow.send(first_bytes)
        assert world.read_all(quick) == b""
        slow.send(SLOW[len(first_bytes) :] if SLOW.startswith(first_bytes) else SLOW)
        world.read_until(client, b"slow")
        assert world.counts("hedges_started", "hedges_won", "attempts_closed") == (1, 0, 2)
        assert world.failures() == [0, 0]


def test_both_answers_in_the_same_moment_are_one_for_the_client() -> None:
    with hedged() as world:
        client, slow, quick = ask_both(world)
        slow.send(SLOW)
        quick.send(OK)
        world.pump_until(lambda: world.counts("exchanges_closed") == (1,))
        assert world.read(client).rpartition(b"\r\n\r\n")[2] in (b"slow", b"ok")
        client.send(b"GET\r\n\r\n")
        assert world.read(client).startswith(b"HTTP/1.1 400 ")  # nothing stands between the two


def test_large_answer_of_the_winner_is_whole() -> None:
    with hedged() as world:
        client, _, quick = ask_both(world)
        body = bytes(300_000)
        received = b""
        data = b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + body
        while data:
            data = data[quick.send(data[:8192]) :]
            received += world.read(client)
        while len(received) < 300_000:
            received += world.read(client)
        assert received.endswith(body)


# ------------------------------------------------------------------------------------------------------------ who fails
def closed(peer: socket.socket) -> None:
    peer.close()


def garbage(peer: socket.socket) -> None:
    peer.send(b"\x00 no HTTP\r\n\r\n")


FAILURES: dict[str, tuple[Callable[[socket.socket], None], str]] = {
    "closed": (closed, "backend:closed"),
    "reset": (reset, "backend:reset"),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("request_name", ["GET", "PUT"])
def test_hedge_takes_over_from_one_that_fails(failure: str, request_name: str) -> None:
    with hedged() as world:
        client, slow, quick = ask_both(world, *REQUESTS[request_name])
        FAILURES[failure][0](slow)
        world.pump_until(lambda: world.counts("attempts_closed") == (1,))
        quick.send(OK)
        world.read_until(client, b"ok")
        assert world.counts("hedges_won", "retries", f"reason.{FAILURES[failure][1]}") == (1, 0, 0)
        assert world.failures() == [1, 0]


@pytest.mark.parametrize("failure", FAILURES)
def test_hedge_that_fails_leaves_the_other_alone(failure: str) -> None:
    with hedged() as world:
        client, slow, quick = ask_both(world)
        FAILURES[failure][0](quick)
        world.pump_until(lambda: world.counts("attempts_closed") == (1,))
        slow.send(SLOW)
        world.read_until(client, b"slow")
        assert world.counts("hedges_started", "hedges_won", "retries") == (1, 0, 0)
        assert world.failures() == [0, 1]


@pytest.mark.parametrize("slow_first", [True, False])
def test_when_both_fail_the_ordinary_rules_hold(slow_first: bool) -> None:
    """A third backend is asked, for the failure of the last one."""
    with hedged(n=3) as world:
        client, slow, quick = ask_both(world, *REQUESTS["PUT"])
        for peer in (slow, quick) if slow_first else (quick, slow):
            peer.close()
            before = world.counts("attempts_closed")
            world.pump_until(lambda before=before: world.counts("attempts_closed") != before)  # type: ignore[misc]
        third = world.accept_at(2)
        world.read_until(third, BODY)
        third.send(OK)
        world.read_until(client, b"ok")
        assert world.counts("retries", "hedges_started") == (1, 1)
        assert world.failures() == [1, 1, 0]


@pytest.mark.parametrize("slow_first", [True, False])
def test_when_both_fail_and_nobody_is_left_the_client_hears_of_the_last_one(slow_first: bool) -> None:
    with hedged() as world:
        client, slow, quick = ask_both(world)
        (slow if slow_first else quick).close()
        world.pump_until(lambda: world.counts("attempts_closed") == (1,))
        reset(quick if slow_first else slow)
        assert b" 502 " in world.read_until(client, b"backend:reset")
        assert world.counts("reason.backend:reset", "reason.backend:closed") == (1, 0)
        assert world.failures() == [1, 1]


def test_garbage_is_an_answer_and_ends_the_race() -> None:
    with hedged() as world:
        client, slow, quick = ask_both(world)
        garbage(quick)
        assert world.read_all(slow) == b""
        world.read_until(client, b"backend:bad_response")


def test_error_of_the_winner_may_be_retried_as_any_other() -> None:
    with hedged(n=3, retry={"on": ("503",)}) as world:
        client, slow, quick = ask_both(world)
        quick.send(b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n")
        world.read_all(slow)
        world.accept_at(2).send(OK)
        world.read_until(client, b"ok")
        assert world.counts("retries", "hedges_won") == (1, 1)


# ------------------------------------------------------------------------------------------------------------ connections
def test_backend_that_does_not_accept_is_hedged_too() -> None:
    with hedged(connect_timeout_ms=5000) as world:
        world.fill_backlog(0)
        client = world.request(head())
        quick = world.accept_at(1)
        world.read_until(quick, b"\r\n\r\n")
        quick.send(OK)
        world.read_until(client, b"ok")
        assert world.counts("hedges_started", "hedges_won", "attempts_closed") == (1, 1, 2)


def test_connect_time_out_goes_on_while_hedged() -> None:
    with hedged(connect_timeout_ms=3 * AFTER_MS) as world:
        world.fill_backlog(0)
        client = world.request(head())
        quick = world.accept_at(1)
        world.read_until(quick, b"\r\n\r\n")
        world.pump_until(lambda: world.counts("attempts_closed") == (1,))
        assert world.failures() == [1, 0]
        quick.send(OK)
        world.read_until(client, b"ok")


def test_body_that_is_not_here_yet_is_not_hedged_while_connecting() -> None:
    with hedged(connect_timeout_ms=2 * AFTER_MS) as world:
        world.fill_backlog(0)
        client = world.request(head("PUT", "Content-Length: 4"))
        retried = world.accept_at(1)  # after the time-out of the first
        client.send(b"body")
        world.read_until(retried, b"body")
        retried.send(OK)
        world.read_until(client, b"ok")
        assert world.counts("hedges_started", "retries") == (0, 1)


def test_hedge_that_cannot_connect_leaves_the_other_alone() -> None:
    with hedged() as world:
        world.backends[1].shutdown(socket.SHUT_RD)  # nobody listens there any more
        client = world.request(head())
        slow = world.accept_at(0)
        world.pump_until(lambda: world.counts("attempts_closed") == (1,))
        slow.send(SLOW)
        world.read_until(client, b"slow")
        assert world.counts("hedges_started", "hedges_won") == (1, 0)
        assert world.failures() == [0, 1]


def test_connection_that_comes_late_is_sent_the_request_as_well() -> None:
    """The first one is accepted while the hedge waits for its answer: then both have the request."""
    with hedged(connect_timeout_ms=5000) as world:
        fillers = world.fill_backlog(0)
        client = world.request(head())
        quick = world.accept_at(1)
        world.read_until(quick, b"\r\n\r\n")
        world.backends[0].listen(128)
        for _ in fillers:
            world.accept_at(0)
        late = world.accept_at(0)  # when the kernel has tried again, after a second
        assert world.read_until(late, b"\r\n\r\n").startswith(b"GET / ")
        late.send(SLOW)
        world.read_until(client, b"slow")
        assert world.read_all(quick) == b""
        assert world.counts("hedges_started", "hedges_won") == (1, 0)


def keep_connections(world: Pair) -> tuple[socket.socket, socket.socket, socket.socket]:
    """A client, and a pooled connection to each backend. From here on slow answers are hedged."""
    world.load(hedge_after_ms=0)
    client = world.client()
    kept = []
    for number in range(2):
        client.send(head())
        kept.append(peer := world.accept_at(number))
        world.read_until(peer, b"\r\n\r\n")
        peer.send(OK)
        world.read_until(client, b"ok")
    world.load(hedge_after_ms=AFTER_MS)
    client.send(head())
    for peer in kept:
        world.read_until(peer, b"\r\n\r\n")
    return client, kept[0], kept[1]


def test_pooled_connections_serve_both_attempts() -> None:
    with Pair() as world:
        client, slow, quick = keep_connections(world)
        quick.send(OK)
        world.read_until(client, b"ok")
        assert world.counts("backend_reused", "hedges_won") == (2, 1)
        assert world.read_all(slow) == b""


@pytest.mark.parametrize("hedge_is_stale", [True, False])
def test_pooled_connection_that_ends_without_a_byte_says_nothing_against_its_backend(hedge_is_stale: bool) -> None:
    with Pair() as world:
        client, slow, quick = keep_connections(world)
        stale, other = (quick, slow) if hedge_is_stale else (slow, quick)
        stale.close()
        world.pump_until(lambda: world.counts("attempts_closed") == (3,))
        other.send(OK)
        world.read_until(client, b"ok")
        assert world.failures() == [0, 0]
        assert world.counts("retries", "replays", "hedges_won") == (0, 0, int(not hedge_is_stale))


def test_when_both_pooled_connections_were_stale_the_request_is_replayed() -> None:
    with Pair(attempts=2) as world:
        client, slow, quick = keep_connections(world)
        slow.close()
        quick.close()
        fresh = world.accept_any()
        world.read_until(fresh, b"\r\n\r\n")
        fresh.send(OK)
        world.read_until(client, b"ok")
        assert world.counts("replays", "retries") == (1, 0)
        assert world.failures() == [0, 0]


# ------------------------------------------------------------------------------------------------------------ who leaves, and when
def test_client_that_leaves_ends_both() -> None:
    with hedged() as world:
        client, slow, quick = ask_both(world)
        reset(client)
        assert world.read_all(slow) == world.read_all(quick) == b""
        assert world.counts("attempts_closed", "claims_returned", "reason.client:reset") == (2, 2, 1)


def test_exchange_that_takes_too_long_ends_both() -> None:
    with hedged(exchange_timeout_ms=1000) as world:
        client, slow, quick = ask_both(world)
        assert b" 504 " in world.read_until(client, b"exchange_timeout")
        assert world.read_all(slow) == world.read_all(quick) == b""


def test_each_has_its_own_time_for_the_first_byte() -> None:
    with hedged(first_byte_timeout_ms=500) as world:
        client, _, _ = ask_both(world)
        world.pump_until(lambda: world.counts("attempts_closed") == (1,))
        assert world.failures() == [1, 0]  # the first one's was up first
        assert b" 504 " in world.read_until(client, b"first_byte_timeout")
        assert world.failures() == [1, 1]


def test_engine_that_closes_while_hedged_leaves_nothing_behind() -> None:
    with hedged() as world:
        ask_both(world)


def test_snapshot_that_is_swapped_meanwhile_changes_nothing() -> None:
    with hedged() as world:
        client = world.request(head())
        slow = world.accept_at(0)
        world.load(hedge_after_ms=0)
        quick = world.accept_at(1)
        quick.send(OK)
        world.read_until(client, b"ok")
        assert world.read_all(slow).count(b"GET / ") == 1
        world.pump_until(lambda: world.counts("snapshots_closed") == (1,))


def test_draining_waits_for_the_winner() -> None:
    with hedged() as world:
        client, slow, quick = ask_both(world)
        world.engine.drain(1000)
        quick.send(OK)
        assert b"Connection: close" in world.read_until(client, b"ok")
        assert world.read_all(client) == world.read_all(slow) == b""
        world.pump_until(lambda: world.engine.connections() == 0)


# ------------------------------------------------------------------------------------------------------------ who is not hedged
@pytest.mark.parametrize("unsafe", [False, True])
def test_request_that_is_not_idempotent_is_never_hedged(unsafe: bool) -> None:
    with hedged(first_byte_timeout_ms=3 * AFTER_MS, retry={"unsafe": unsafe}) as world:
        client = world.request(sized("POST", BODY))
        world.accept_at(0)
        world.read_until(client, b"first_byte_timeout")
        assert world.saw_nothing(1)
        assert world.counts("hedges_started", "retries_refused") == (0, 0)


def test_body_beyond_the_replay_limit_is_not_hedged() -> None:
    with hedged(first_byte_timeout_ms=3 * AFTER_MS, replay_limit_bytes=len(BODY) - 1) as world:
        client = world.request(sized("PUT", BODY))
        world.accept_at(0)
        world.read_until(client, b"first_byte_timeout")
        assert world.counts("hedges_started") == (0,)


def test_body_that_is_still_coming_is_hedged_once_it_is_here() -> None:
    with hedged() as world:
        client = world.request(head("PUT", "Content-Length: 8") + b"half")
        slow = world.accept_at(0)
        world.read_until(slow, b"half")
        client.send(b"rest")
        world.read_until(slow, b"rest")
        quick = world.accept_at(1)
        world.read_until(quick, b"halfrest")
        quick.send(OK)
        world.read_until(client, b"ok")


@pytest.mark.parametrize("pool", [{"attempts": 1}, {"n": 1}, {"retry": {"share": 0, "floor": 0}}, {"retry": {"within_ms": AFTER_MS // 2}}])
def test_nothing_is_begun_that_the_pool_does_not_allow(pool: dict[str, Any]) -> None:
    with hedged(first_byte_timeout_ms=4 * AFTER_MS, **pool) as world:
        client = world.request(head())
        world.accept_at(0)
        world.read_until(client, b"first_byte_timeout")
        assert world.counts("hedges_started", "attempts_opened", "retries_refused") == (0, 1, int("share" in pool.get("retry", {})))


def test_backend_at_its_cap_is_not_asked() -> None:
    with hedged(cap=1) as world:
        first = world.request(head())
        slow = world.accept_at(0)
        second = world.request(head())
        other = world.accept_at(1)
        world.pump_until(lambda: world.counts("timers_fired")[0] >= 2)
        assert world.counts("hedges_started", "attempts_opened") == (0, 2)
        slow.send(OK)
        other.send(OK)
        world.read_until(first, b"ok")
        world.read_until(second, b"ok")


def test_exchange_has_one_hedge_at_most() -> None:
    with hedged(n=4, attempts=8) as world:
        client, slow, quick = ask_both(world)
        quick.close()
        world.pump_until(lambda: world.counts("attempts_closed") == (1,))
        later = world.request(head())
        world.pump_until(lambda: world.counts("hedges_started") == (2,))  # that of the later one: as long has passed for the first
        assert world.counts("attempts_opened") == (4,)
        slow.send(SLOW)
        world.read_until(client, b"slow")
        reset(later)
        world.pump_until(lambda: world.engine.connections() == 1)


def test_answer_in_time_is_not_hedged() -> None:
    with Pair(hedge_after_ms=500) as world:
        client = world.request(head())
        world.accept_at(0).send(SLOW[:1])
        world.pump_until(lambda: world.counts("backend_bytes_in") == (1,))
        later = world.request(head())
        world.pump_until(lambda: world.counts("hedges_started") == (1,))  # that of the later one: as long has passed for the first
        assert world.counts("attempts_opened") == (3,)
        for peer in (client, later):
            reset(peer)
        world.pump_until(lambda: world.engine.connections() == 0)


# ------------------------------------------------------------------------------------------------------------ what is logged
@pytest.mark.parametrize("hedge_wins", [True, False])
def test_log_line_names_both_and_tells_of_the_winner(tmp_path: Path, hedge_wins: bool) -> None:
    with hedged() as world:
        world.log_to(tmp_path / "log", "{status} {attempts} {backend} {backend_status} {backends} {backend_statuses}")
        client, slow, quick = ask_both(world)
        (quick if hedge_wins else slow).send(OK)
        world.read_until(client, b"ok")
        first, second = (f"127.0.0.1:{backend.getsockname()[1]}" for backend in world.backends)
        winner, statuses = (second, "-, 200") if hedge_wins else (first, "200, -")
        assert world.lines(1) == [f"200 2 {winner} 200 {first}, {second} {statuses}"]


# ------------------------------------------------------------------------------------------------------------ one relay for two
LARGE = b"x" * 250_000 + b"the end"
KEEPS = {"replay_limit_bytes": 252 * 1024}


def ask_with_blocked_hedge(world: Pair) -> tuple[socket.socket, socket.socket, socket.socket]:
    client = world.client()
    data = sized("PUT", LARGE)
    while data:  # the client's own buffers are not that large
        data = data[client.send(data) :] if data else data
        world.engine.pump()
    slow = world.accept_at(0)
    world.read_until(slow, b"the end")
    blocked = world.accept_at(1)
    assert world.counts("hedges_started") == (1,)
    return client, slow, blocked


def test_hedge_that_does_not_read_does_not_disturb_the_other() -> None:
    with hedged(unix=[1], **KEEPS) as world:
        client, slow, blocked = ask_with_blocked_hedge(world)
        slow.send(SLOW)
        world.read_until(client, b"slow")
        assert b"the end" not in world.read_all(blocked)
        assert world.counts("hedges_won", "attempts_closed") == (0, 2)


@pytest.mark.parametrize("end", [closed, reset])
def test_hedge_that_fails_before_it_has_read_the_request_leaves_the_other_alone(end: Callable[[socket.socket], None]) -> None:
    with hedged(unix=[1], **KEEPS) as world:
        client, slow, blocked = ask_with_blocked_hedge(world)
        end(blocked)
        world.pump_until(lambda: world.counts("attempts_closed") == (1,))
        slow.send(SLOW)
        world.read_until(client, b"slow")
        assert world.failures() == [0, 1]


def test_hedge_that_has_not_read_the_request_takes_over_and_gets_the_rest() -> None:
    with hedged(unix=[1], **KEEPS) as world:
        client, slow, blocked = ask_with_blocked_hedge(world)
        slow.close()
        world.pump_until(lambda: world.counts("attempts_closed") == (1,))
        assert world.read_until(blocked, b"the end").endswith(LARGE)
        blocked.send(OK)
        world.read_until(client, b"ok")
        assert world.counts("hedges_won") == (1,)


def test_hedge_that_does_not_read_has_its_own_time_for_that() -> None:
    with hedged(unix=[1], first_byte_timeout_ms=300, **KEEPS) as world:
        client, slow, blocked = ask_with_blocked_hedge(world)
        world.pump_until(lambda: world.counts("attempts_closed") == (2,))
        assert world.failures() == [1, 1]
        world.read_until(client, b" 504 ")


def test_connection_that_comes_late_takes_over_from_one_that_does_not_read() -> None:
    """Both are to be sent the same large body; the one that does not even read it gives way."""
    with hedged(n=3, unix=[2], connect_timeout_ms=10_000, **KEEPS) as world:
        fillers = world.fill_backlog(1)
        client = world.client()
        data = sized("PUT", LARGE)
        while data:
            data = data[client.send(data) :]
            world.engine.pump()
        first = world.accept_at(0)
        world.read_until(first, b"the end")
        world.load(hedge_after_ms=0)  # whatever comes later; this one keeps its snapshot
        first.close()
        # the retry waits for backend 1, its hedge is with backend 2
        blocked = world.accept_at(2)
        world.backends[1].listen(128)
        for _ in fillers:
            world.accept_at(1)
        late = world.accept_at(1)
        assert world.read_until(late, b"the end").endswith(LARGE)
        assert b"the end" not in world.read_all(blocked)
        late.send(SLOW)
        world.read_until(client, b"slow")
        assert world.counts("retries", "hedges_started", "hedges_won") == (1, 1, 0)


# ------------------------------------------------------------------------------------------------------------ clients that belong somewhere
def belonging(fastlb: Any, scripted: Any, **pool: Any) -> tuple[Any, Any, Any, bytes]:
    """A process with two backends, the one that the client belongs to, the other one, and the client's request."""
    first, second = scripted(), scripted()
    lb = fastlb([first, second], pool={"algorithm": "round_robin", "sticky": {"cookie": "S", **pool.pop("sticky", {})}, **pool})
    client = lb.connect()
    client.send(head())
    first.answer(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
    cookie = client.read_response().get("Set-Cookie").partition(";")[0]
    return lb, first, second, head("GET", f"Cookie: {cookie}")


def test_client_that_belongs_to_a_backend_is_not_hedged(fastlb: Any, scripted: Any) -> None:
    lb, own, other, data = belonging(fastlb, scripted, hedge={"after": "10ms"}, timeouts={"first_byte": "200ms"})
    client = lb.connect()
    client.send(data)
    own.accept().read_request()
    assert client.read_response().status == 504
    assert other.saw_nothing()
    assert lb.counter("hedges_started") == 0


@pytest.mark.parametrize("fallback", ["pick", "reject"])
def test_status_is_passed_on_to_a_client_that_may_have_no_other_backend(fastlb: Any, scripted: Any, fallback: str) -> None:
    lb, own, other, data = belonging(fastlb, scripted, sticky={"fallback": fallback}, retry={"on": ["503"]})
    client = lb.connect()
    client.send(data)
    own.answer(b"HTTP/1.1 503 X\r\nContent-Length: 4\r\n\r\nbusy")
    if fallback == "pick":
        other.answer()
        assert client.read_response().status == 200
    else:
        answer = client.read_response()
        assert (answer.status, answer.body, answer.reason) == (503, b"busy", None)
        assert other.saw_nothing()
    assert lb.counter("retries") == (fallback == "pick")
