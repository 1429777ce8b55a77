"""Histograms keep quantiles within their bound, and whatever happens, the meters add up to what the engine counts."""

import contextlib
import socket
import struct
from bisect import bisect_right

from hypothesis import given, settings
from hypothesis import strategies as st

from fastlb import _core
from tests.support import _probe
from tests.support.world import REQUEST, RESPONSE
from tests.unit.data_plane.test_meters import LISTENER, POOL, ROUTE, Metered

BOUNDS = _core.BUCKET_BOUNDS_US


@given(st.integers(0, (1 << 64) - 1))
def test_every_time_has_the_bucket_whose_bounds_hold_it(us: int) -> None:
    assert _probe.bucket_of(us) == bisect_right(BOUNDS, us)


@given(st.lists(st.integers(64, BOUNDS[-1] - 1), min_size=1, max_size=200), st.floats(0.01, 1))
def test_quantile_is_known_to_a_quarter(times: list[int], quantile: float) -> None:
    """The bucket that a quantile falls in by the counts alone holds the exact one, and its bounds are at most 5:4."""
    rank = max(0, min(len(times) - 1, int(quantile * len(times)) - 1))
    exact = sorted(times)[rank]
    buckets = [0] * (len(BOUNDS) + 1)
    for us in times:
        buckets[_probe.bucket_of(us)] += 1
    seen, bucket = 0, 0
    while seen + buckets[bucket] <= rank:
        seen += buckets[bucket]
        bucket += 1
    assert BOUNDS[bucket - 1] <= exact < BOUNDS[bucket] <= 1.25 * BOUNDS[bucket - 1]


def head(target: str, *fields: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: a", *fields, "", ""]).encode()


# What a client sends, and what the backend answers if it is asked; None: it closes.
STEPS: dict[str, tuple[bytes, bytes | None]] = {
    "good": (REQUEST, RESPONSE),
    "posted": (head("/", "Content-Length: 5", method="POST") + b"hello", RESPONSE),
    "chunked": (head("/", "Transfer-Encoding: chunked", method="POST") + b"5\r\nhello\r\n0\r\n\r\n", RESPONSE),
    "missing": (REQUEST, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
    "hinted": (REQUEST, b"HTTP/1.1 103 Early Hints\r\n\r\n" + RESPONSE),
    "last": (REQUEST, RESPONSE.replace(b"OK", b"OK\r\nConnection: close", 1)),
    "closed by the backend": (REQUEST, None),
    "cut": (REQUEST, RESPONSE[:-1]),
    "garbage": (REQUEST, b"no HTTP at all\r\n\r\n"),
    "own": (head("/own"), b""),
    "closed by its route": (head("/closed"), b""),
    "bad": (b"x\r\n\r\n", b""),
    "part of a head": (REQUEST[:-2], b""),
}


def play(world: Metered, step: str, reset: bool) -> None:
    """One client with one request."""
    request, answer = STEPS[step]
    client = world.client()
    client.send(request)
    if answer != b"":
        answer_all(world, answer)
    elif step != "part of a head":
        world.read(client)
    if reset:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    world.pump_until(lambda: world.counters()["clients_opened"] == world.counters()["clients_closed"] and at_rest(world))


def answer_all(world: Metered, answer: bytes | None) -> None:
    """Answers whatever comes to the backend, on old connections and new ones, until the engine is at rest."""
    answered: set[socket.socket] = set()

    def look() -> bool:
        with contextlib.suppress(BlockingIOError):
            peer = world.backend.accept()[0]
            peer.setblocking(False)
            world.peers.append(peer)
        for peer in list(world.peers):
            with contextlib.suppress(BlockingIOError):
                received = b""
                with contextlib.suppress(ConnectionError):
                    received = peer.recv(65536)
                if received.startswith((b"GET", b"POST")) and answer is not None:
                    peer.send(answer)
                    answered.add(peer)
                if answer is None or not received or answer == RESPONSE[:-1]:
                    world.peers.remove(peer)
                    peer.close()
                    answered.add(peer)
        return bool(answered) and at_rest(world)

    world.pump_until(look)


def at_rest(world: Metered) -> bool:
    counters = world.counters()
    return counters["exchanges_opened"] == counters["exchanges_closed"]


class Playing(Metered):
    def __init__(self) -> None:
        super().__init__()
        self.peers: list[socket.socket] = []

    def __exit__(self, *_: object) -> None:
        for peer in self.peers:
            peer.close()
        super().__exit__()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.booleans()), min_size=1, max_size=8))
def test_sums_equal_the_counters_of_the_engine(steps: list[tuple[str, bool]]) -> None:
    with Playing() as world:
        world.begin(retry={"on": ("closed", "reset", "bad_response")})
        for step, reset in steps:
            play(world, step, reset)
        counters = world.counters()
        listener, pool, backend = world.meter(LISTENER), world.meter(POOL), world.backend_reading()
        routes = [world.meter(number) for number in (ROUTE, ROUTE + 10, ROUTE + 11)]
        for status_class in ("2xx", "3xx", "4xx", "5xx"):
            assert listener.requests[status_class] == counters[f"responses_{status_class}"]
        assert listener.opened == listener.closed == counters["clients_opened"]
        assert (listener.bytes_in, listener.bytes_out) == (counters["client_bytes_in"], counters["client_bytes_out"])
        assert listener.failures == {name[7:]: count for name, count in counters.items() if name.startswith("reason.") and count}
        assert sum(listener.statuses) <= counters["exchanges_opened"]
        assert sum(sum(route.statuses) for route in routes) == sum(route.opened for route in routes) <= sum(listener.statuses)
        assert pool.opened == pool.closed == routes[0].opened
        assert (pool.connects, pool.reused) == (counters["backend_connections_opened"], counters["backend_reused"])
        assert (backend.connects, backend.reused, backend.attempts) == (pool.connects, pool.reused, counters["claims_taken"])
        assert (backend.bytes_in, backend.bytes_out) == (counters["backend_bytes_in"], counters["backend_bytes_out"])
        assert pool.retries == routes[0].retries == backend.retries == counters["retries"]
        assert sum(backend.reasons) == backend.failed
        for number in (ROUTE, POOL):
            times = world.meter(number).times
            if times is not None:
                answered = sum(world.meter(number).statuses[1:])
                assert sum(times[0][1]) == answered
                assert sum(times[1][1]) == sum(backend.statuses)
    world.memory.close()
