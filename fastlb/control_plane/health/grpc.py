"""The probe that calls grpc.health.v1.Health/Check over HTTP/2 and looks at what it says: the protocol that gRPC servers offer for this.

The two messages have one field each (https://github.com/grpc/grpc/blob/master/doc/health-checking.md), and are written and read here. What
is read of a backend is bounded: http2_reply.py.

Imported only where a configuration uses it (checker.load_probes).
"""

from asyncio import AbstractEventLoop
from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

from fastlb import __version__
from fastlb.control_plane.config.health import Health
from fastlb.control_plane.health.http2_reply import Reply, ReplyError, make_request
from fastlb.control_plane.health.result import Outcome, clean
from fastlb.control_plane.health.tcp import Conversation, Done, Place, Tls

MAX_MESSAGE_BYTES = 1024
SERVING = 1

_SERVING_STATUSES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
_STATUSES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED"),
    *("RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"),
    "UNAUTHENTICATED",
)


def make_call(health: Health, host: str) -> bytes:
    """What every probe of one backend sends; `host`: unless the configuration names one."""
    fields = {
        ":method": "POST",
        ":scheme": "https" if health.tls else "http",
        ":path": "/grpc.health.v1.Health/Check",
        ":authority": health.host or host,
        "te": "trailers",
        "content-type": "application/grpc",
        "user-agent": f"fastlb/{__version__} (health check)",
        "grpc-timeout": f"{health.timeout_ms}m",
        **{name.lower(): value for name, value in health.headers},
    }
    service = health.service.encode()
    message = b"\x0a" + _write_number(len(service)) + service if service else b""
    return make_request([(name.encode(), value.encode()) for name, value in fields.items()], b"\0" + len(message).to_bytes(4) + message)


class GrpcProbe(Conversation):
    """Passes when the service says SERVING."""

    __slots__ = ("_reply",)

    sending = "sending the call"

    def __init__(self, loop: AbstractEventLoop, place: Place, timeout_ms: int, tls: Tls | None, done: Done, call: bytes) -> None:
        super().__init__(loop, place, timeout_ms, tls, done)
        self._unsent = call
        self._reply = Reply(MAX_MESSAGE_BYTES)

    def on_open(self) -> None:
        if self._tls is not None and self.agreed_protocol != "h2":
            self.end(Outcome.FAILED, "no HTTP/2: it does not agree to h2 in the TLS handshake")
        else:
            self._send()

    def _receive(self) -> None:
        reply = self._reply
        while True:
            try:
                data = self.receive()
                if data is None:
                    break
                if not data:
                    self.end(Outcome.FAILED, f"closed {self._where()}")
                    return
                reply.take(data)
            except OSError as error:
                self._break(error)
                return
            except ReplyError as error:
                self.end(Outcome.FAILED, str(error))
                return
            if reply.has_ended:
                self.end(*judge(reply))
                return
            if not self.has_more:
                break
        if reply.to_send:
            self._unsent, reply.to_send = reply.to_send, b""
            self._send()

    def _where(self) -> str:
        return "in the middle of the answer" if self._reply.fields else "before the answer"


def judge(reply: Reply) -> tuple[Outcome, str]:
    """What a whole answer says."""
    known = dict(reply.fields)
    if known[b":status"] != b"200":
        return Outcome.FAILED, f"status {known[b':status'].decode()} instead of a gRPC answer"
    content_type = known.get(b"content-type", b"").lower()
    if not content_type.startswith(b"application/grpc") or content_type[16:17] not in (b"", b"+", b";"):
        return Outcome.FAILED, f"no gRPC: its answer is of type {clean(content_type.decode('latin-1')) or 'nothing'}"
    status, text = _read_status(reply.trailers or (() if reply.body else reply.fields))
    if status is None:
        return Outcome.FAILED, "no gRPC: its answer has no grpc-status"
    if status:
        name = _STATUSES[status] if status < len(_STATUSES) else "unknown"
        return Outcome.FAILED, f"grpc-status {status} {name}" + (f": {text}" if text else "")
    serving = read_answer(bytes(reply.body))
    if serving is None:
        return Outcome.FAILED, "its answer is no HealthCheckResponse"
    name = _SERVING_STATUSES[serving] if serving < len(_SERVING_STATUSES) else str(serving)
    return Outcome.PASSED if serving == SERVING else Outcome.FAILED, name


def _read_status(fields: Iterable[tuple[bytes, bytes]]) -> tuple[int | None, str]:
    """grpc-status, and grpc-message as people read it."""
    status = None
    text = ""
    for name, value in fields:
        if name == b"grpc-status" and value.isdigit() and len(value) <= 3:
            status = int(value)
        elif name == b"grpc-message":
            text = clean(unquote_to_bytes(value).decode("utf-8", "replace"))
    return status, text


def read_answer(framed: bytes) -> int | None:
    """The status in a HealthCheckResponse with its five bytes of framing, or None where it is none. We take no compression."""
    if len(framed) < 5 or framed[0] or int.from_bytes(framed[1:5]) != len(framed) - 5:
        return None
    message = framed[5:]
    at = status = 0
    while 0 <= at < len(message):
        tag, at = _read_number(message, at)
        match tag & 7 if at >= 0 and tag >> 3 else -1:
            case 0:
                number, at = _read_number(message, at)
                if tag >> 3 == 1:
                    status = number
            case 1:
                at += 8
            case 2:
                size, at = _read_number(message, at)
                at += size
            case 5:
                at += 4
            case _:
                return None
    return status if at == len(message) else None


def _read_number(message: bytes, at: int) -> tuple[int, int]:
    """A varint, and where the next thing is; (0, -1) where it does not end in time."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        number |= (message[at] & 0x7F) << shift
        at += 1
        if message[at - 1] < 0x80:
            return number, at
    return 0, -1


def _write_number(number: int) -> bytes:
    """A varint."""
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)
