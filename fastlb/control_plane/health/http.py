"""The probe that asks for something over HTTP/1.1 and looks at the answer.

Whatever a backend sends is bounded: a head of MAX_HEAD_BYTES, MAX_INTERIM interim answers, and of the body no more than BODY_BYTES, which
are read only where something is looked for in them. h11 reads strictly.
"""

from asyncio import AbstractEventLoop
from collections.abc import Sequence
from dataclasses import dataclass

import h11

from fastlb import __version__, _core
from fastlb.control_plane.config.health import BodyMatch, Health, StatusRange
from fastlb.control_plane.health.result import Outcome, clean
from fastlb.control_plane.health.tcp import Conversation, Done, Place, Tls

MAX_HEAD_BYTES = 16384
MAX_INTERIM = 8
BODY_BYTES = 16384


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an answer has to be."""

    statuses: Sequence[StatusRange]
    text: bytes
    pattern: _core.Pattern | None

    @property
    def wants_body(self) -> bool:
        return bool(self.text) or self.pattern is not None


def make_request(health: Health, host: str) -> h11.Request:
    """The request of every probe of one backend, which is checked here once; `host`: unless the configuration names one."""
    fields = {"Host": health.host or host, "User-Agent": f"fastlb/{__version__} (health check)", "Accept": "*/*"}
    lower = {name.lower() for name, _ in health.headers}
    headers = [(name, value) for name, value in fields.items() if name.lower() not in lower]
    headers += [*health.headers, ("Connection", "close")]
    if health.method not in ("GET", "HEAD", "OPTIONS"):
        headers.append(("Content-Length", "0"))
    return h11.Request(method=health.method, target=health.path, headers=headers)


def make_wanted(health: Health) -> Wanted:
    match: BodyMatch = health.match
    pattern = _core.Pattern(match.regex.encode(), match.regex.caseless) if match.regex is not None else None
    return Wanted(health.expect, match.text.encode("utf-8", "surrogateescape"), pattern)


class HttpProbe(Conversation):
    """Passes when the answer has a status that is wanted and, where something is to be in its body, that."""

    __slots__ = ("_body", "_connection", "_interim", "_request", "_status", "_wanted")

    def __init__(
        self, loop: AbstractEventLoop, place: Place, timeout_ms: int, tls: Tls | None, done: Done, request: h11.Request, wanted: Wanted
    ) -> None:
        super().__init__(loop, place, timeout_ms, tls, done)
        self._connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._request = request
        self._wanted = wanted
        self._status = 0
        self._interim = 0
        self._body = bytearray()

    def on_open(self) -> None:
        self._unsent = (self._connection.send(self._request) or b"") + (self._connection.send(h11.EndOfMessage()) or b"")
        self._send()

    def _receive(self) -> None:
        while True:
            try:
                data = self.receive()
            except OSError as error:
                self._break(error)
                return
            if data is None:
                return
            if self._take(data) or not self.has_more:
                return

    def _take(self, data: bytes) -> bool:
        """Looks at what has arrived. Returns whether that was the end."""
        if not data and not self._status and not self._interim and not self._connection.trailing_data[0]:
            self.end(Outcome.FAILED, "closed without an answer")
            return True
        connection = self._connection
        try:
            connection.receive_data(data)
            while (event := connection.next_event()) is not h11.NEED_DATA:
                if self._take_event(event):
                    return True
        except h11.RemoteProtocolError as error:
            if not data:
                self.end(Outcome.FAILED, f"closed {self._where()}")
            else:
                self.end(Outcome.FAILED, f"no HTTP: {clean(str(error))}")
            return True
        if not data:  # h11 has something to say of an end, always; the loop would tell of it again and again
            self.end(Outcome.FAILED, f"closed {self._where()}")
        return not data

    def _take_event(self, event: object) -> bool:
        """Whether that decides."""
        wanted = self._wanted
        match event:
            case h11.Response(status_code=status):
                self._status = status
                if not any(status in statuses for statuses in wanted.statuses):
                    self.end(Outcome.FAILED, f"status {status}")
                    return True
                if not wanted.wants_body:
                    self.end(Outcome.PASSED, f"status {status}")
                    return True
                self._stage = "reading the body"
            case h11.InformationalResponse():
                self._interim += 1
                if self._interim > MAX_INTERIM:
                    self.end(Outcome.FAILED, f"more than {MAX_INTERIM} interim answers")
                    return True
            case h11.Data(data=piece):
                self._body += piece[: BODY_BYTES - len(self._body)]
                if wanted.text and wanted.text in self._body:
                    self.end(Outcome.PASSED, f"status {self._status}, with the text")
                    return True
                if len(self._body) >= BODY_BYTES:
                    self._judge_body(f"the first {BODY_BYTES >> 10} KiB of the body")
                    return True
            case h11.EndOfMessage():
                self._judge_body("the body")
                return True
            case _:  # ConnectionClosed: h11 has said it with an error already where something was missing
                self.end(Outcome.FAILED, f"closed {self._where()}")
                return True
        return False

    def _judge_body(self, what: str) -> None:
        """All of it that is read is here."""
        wanted = self._wanted
        if wanted.pattern is None:
            passed: bool | None = wanted.text in self._body
        else:
            passed = wanted.pattern.search(bytes(self._body))
        if passed:
            self.end(Outcome.PASSED, f"status {self._status}, with the text")
        elif passed is None:
            self.end(Outcome.FAILED, f"status {self._status}, but the pattern takes too long on {what}")
        else:
            self.end(Outcome.FAILED, f"status {self._status}, but {what} does not match")

    def _where(self) -> str:
        return "in the middle of the answer" if self._status or self._interim or self._connection.trailing_data[0] else "before the answer"
