"""fastlb/data_plane/attempt.pyx: what a connect's errno means, and latencies. Attempts as a whole are tested with real processes."""

import errno

import pytest

from fastlb import _core
from tests.support._probe import connect_failure
from tests.support.world import REQUEST, World


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errno.ECONNREFUSED, "backend:connect_refused"),
        (errno.ENOENT, "backend:connect_refused"),  # a unix socket that is not there
        (errno.ETIMEDOUT, "backend:connect_timeout"),
        (errno.EHOSTUNREACH, "backend:connect_failed"),
        (errno.ENETUNREACH, "backend:connect_failed"),
        (errno.EADDRNOTAVAIL, "no_local_address"),
        (errno.EACCES, "backend:connect_failed"),
        (errno.EMFILE, "out_of_memory"),
        (errno.ENFILE, "out_of_memory"),
        (errno.ENOBUFS, "out_of_memory"),
        (errno.ENOMEM, "out_of_memory"),
    ],
    ids=lambda value: errno.errorcode.get(value, value) if isinstance(value, int) else value,
)
def test_each_errno_has_its_failure(error: int, reason: str) -> None:
    assert connect_failure(error) == reason


def latency_after(algorithm: str, *, answered: bool = True) -> int:
    """Of the backend, in microseconds, behind two requests, or one whose connection the backend closes."""
    memory = _core.SharedMemory.create()
    try:
        with World(memory) as world:
            listening = world.listen()
            world.apply(listening, algorithm=algorithm)
            client = world.connect(listening)
            if answered:
                _, peer = world.exchange(client)
                world.exchange(client, peer)
            else:
                client.send(REQUEST)
                peer = world.accept()
                world.read(peer)
                peer.close()
                assert world.read(client).startswith(b"HTTP/1.1 502 ")
            latency: int = memory.backends()[0]["latency_us"]
            return latency
    finally:
        memory.close()


@pytest.mark.parametrize("algorithm", ["peak_ewma", "least_time"])
def test_answers_tell_the_latency_where_the_algorithm_looks_at_it(algorithm: str) -> None:
    assert 0 < latency_after(algorithm) < 60_000_000


@pytest.mark.parametrize("algorithm", sorted({*_core.ALGORITHMS} - {"peak_ewma", "least_time"}))
def test_other_algorithms_do_not_read_the_clock(algorithm: str) -> None:
    assert latency_after(algorithm) == 0


def test_attempt_without_an_answer_has_no_latency() -> None:
    assert latency_after("peak_ewma", answered=False) == 0
