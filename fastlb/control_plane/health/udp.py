"""The probe that sends a datagram and waits for an answer, or for the word that nobody takes any there (ICMP port unreachable)."""

from asyncio import AbstractEventLoop
from socket import SOCK_DGRAM

from fastlb.control_plane.health.http import Wanted
from fastlb.control_plane.health.result import OURS, Outcome, describe_error
from fastlb.control_plane.health.tcp import Done, Place, TcpProbe


class UdpProbe(TcpProbe):
    """Passes when an answer comes that holds what is wanted; without `needs_reply` also when nobody says until the deadline that there is
    no such service. Its socket is connected: only the backend's answers are seen."""

    __slots__ = ("_needs_reply", "_payload", "_wanted")

    kind = SOCK_DGRAM

    def __init__(
        self, loop: AbstractEventLoop, place: Place, timeout_ms: int, done: Done, payload: bytes, wanted: Wanted, needs_reply: bool
    ) -> None:
        super().__init__(loop, place, timeout_ms, None, done)
        self._payload = payload
        self._wanted = wanted
        self._needs_reply = needs_reply

    def on_open(self) -> None:
        """A port of ours is bound; nothing has been sent."""
        assert self._socket is not None
        try:
            self._socket.send(self._payload)
        except OSError as error:
            self._fail(error)
        else:
            self.watch_reads(self._look, "waiting for an answer")

    def _look(self) -> None:
        assert self._socket is not None
        try:
            answer = self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(error)
            return
        wanted = self._wanted
        passed = wanted.text in answer if wanted.pattern is None else wanted.pattern.search(answer)
        if passed:
            self.end(Outcome.PASSED, f"an answer of {len(answer)} bytes")
        elif passed is None:
            self.end(Outcome.FAILED, f"the pattern takes too long on its answer of {len(answer)} bytes")
        else:
            self.end(Outcome.FAILED, f"its answer of {len(answer)} bytes is not what is wanted")

    def _fail(self, error: OSError) -> None:
        self.end(Outcome.UNKNOWN if error.errno in OURS else Outcome.FAILED, describe_error(error))

    def _on_time_out(self) -> None:
        if self._needs_reply or self._stage == "connecting":
            super()._on_time_out()
        else:
            self.end(Outcome.PASSED, "sent, and not refused")
