"""fastlb/control_plane/health/udp.py on uvloop, with real sockets."""

import asyncio
import socket
from asyncio import AbstractEventLoop
from collections.abc import Callable

import pytest

from fastlb.control_plane.config.health import Health, parse_match
from fastlb.control_plane.health.http import make_wanted
from fastlb.control_plane.health.result import Outcome, Result
from fastlb.control_plane.health.tcp import Place
from fastlb.control_plane.health.udp import UdpProbe
from tests.support.descriptors import descriptors
from tests.support.probing import result_of, run

PASSED, FAILED, UNKNOWN = Outcome.PASSED, Outcome.FAILED, Outcome.UNKNOWN


class Answering(asyncio.DatagramProtocol):
    """A backend that answers each datagram with what `answer` makes of it; None: with nothing."""

    def __init__(self, answer: Callable[[bytes], bytes | None]) -> None:
        self.answer = answer
        self.came: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.came.append(data)
        answer = self.answer(data)
        if answer is not None:
            self.transport.sendto(answer, addr)  # type: ignore[attr-defined]


def probe(
    answer: Callable[[bytes], bytes | None] | None, *, send: bytes = b"ping", match: str = "", reply: bool = True, timeout_ms: int = 10_000
) -> Result:
    """Of a backend, or where there is none."""
    wanted = make_wanted(Health(match=parse_match(match)))

    async def test(loop: AbstractEventLoop) -> Result:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
            bound.bind(("127.0.0.1", 0))
            place = Place(socket.AF_INET, bound.getsockname())
            if answer is not None:
                bound.setblocking(False)
                transport, backend = await loop.create_datagram_endpoint(lambda: Answering(answer), sock=bound.dup())
        before = descriptors()
        result = await result_of(lambda done: UdpProbe(loop, place, timeout_ms, done, send, wanted, reply))
        assert descriptors() == before
        if answer is not None:
            assert backend.came == [send]
            transport.close()
        return result

    return run(test)


@pytest.mark.parametrize("send", [b"ping", b"", bytes(1024)])
def test_an_answer_passes(send: bytes) -> None:
    result = probe(lambda _: b"pong", send=send)
    assert (result.outcome, result.text) == (PASSED, "an answer of 4 bytes")


@pytest.mark.parametrize(("match", "outcome"), [("pong", PASSED), ("~^p.ng$", PASSED), ("ping", FAILED), ("~^x", FAILED)])
def test_an_answer_holds_what_is_wanted(match: str, outcome: Outcome) -> None:
    result = probe(lambda _: b"pong", match=match)
    assert result.outcome is outcome
    assert result.text == ("an answer of 4 bytes" if outcome is PASSED else "its answer of 4 bytes is not what is wanted")


@pytest.mark.parametrize("reply", [True, False])
def test_a_port_that_nobody_has_fails(reply: bool) -> None:
    result = probe(None, reply=reply)
    assert (result.outcome, result.text) == (FAILED, "connection refused")


def test_silence_fails_where_an_answer_is_wanted_and_passes_where_not() -> None:
    result = probe(lambda _: None, timeout_ms=20)
    assert (result.outcome, result.text) == (FAILED, "timed out after 20ms waiting for an answer")
    result = probe(lambda _: None, timeout_ms=20, reply=False)
    assert (result.outcome, result.text) == (PASSED, "sent, and not refused")


def test_what_this_machine_cannot_send_says_nothing_of_the_backend() -> None:
    async def test(loop: AbstractEventLoop) -> Result:
        place = Place(socket.AF_INET, ("127.0.0.1", 9), source="192.0.2.1")
        return await result_of(lambda done: UdpProbe(loop, place, 1000, done, b"", make_wanted(Health()), True))

    assert run(test).outcome is UNKNOWN


def test_one_that_is_cancelled_says_nothing() -> None:
    async def test(loop: AbstractEventLoop) -> list[Result]:
        results: list[Result] = []
        place = Place(socket.AF_INET, ("127.0.0.1", 9))
        started = UdpProbe(loop, place, 10, results.append, b"", make_wanted(Health()), True)
        started.start()
        started.cancel()
        await asyncio.sleep(0.03)
        return results

    assert run(test) == []
