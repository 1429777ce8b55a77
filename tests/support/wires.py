"""Other wires below the same tests: a Peer whose bytes are in TLS, and one that turns the HTTP/1.1 which a test writes into HTTP/2, and the
answers back. Nothing is repaired: what HTTP/2 has no word for is an error, or the end of the connection, as HTTP/1.1 would show it.

What the end of an HTTP/1.1 connection says is said by the end of a stream: a reset before the answer is whole is a cut answer. Whether
another request may follow, `Connection: close`, is nothing that an answer says in HTTP/2: see `Unsaid`.
"""

import contextlib
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from typing import TypeVar

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    Event,
    InformationalResponseReceived,
    PingAckReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)

from tests.support.message import Fields, Message, parse_fields, parse_head
from tests.support.peer import READ_BYTES, Ending, Peer
from tests.support.waiting import DEADLINE_SECONDS

Result = TypeVar("Result")
GOAWAY = 7
MAX_DATA_BYTES = 16384
# What may be written to a stream that was reset before that is an error: about what the kernel would have taken.
DROPPED_BYTES = 1 << 22
# Of one connection (RFC 9113 section 8.2.2), and Host, which is :authority.
DROPPED = {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "host", "sec-websocket-key"}


class Wire(StrEnum):
    """How clients and fastlb talk."""

    PLAIN = "plain"
    TLS = "tls"
    HTTP2 = "h2"  # over TLS


def client_context(alpn: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([alpn])
    return context


CONTEXTS = {Wire.TLS: client_context("http/1.1"), Wire.HTTP2: client_context("h2")}


def speak(connection: socket.socket, wire: Wire) -> Peer:
    """A peer on a connection that stands."""
    if wire is Wire.PLAIN:
        return Peer(connection)
    peer = TlsPeer(connection, CONTEXTS[wire])
    return Http2Peer(peer) if wire is Wire.HTTP2 else peer


class Unsaid(int):
    """Whether the connection closes behind an answer, where answers do not say it: equal to whatever a test expects, and false."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


class Http2Message(Message):
    @property
    def closes(self) -> bool:
        return Unsaid()  # type: ignore[return-value]


class CodedPeer(Peer):
    """What is read is not what the socket holds: to look is to take, and to keep in `unread`."""

    def is_quiet(self) -> bool:
        return not self._look(0.0)

    def wait_readable(self, seconds: float = DEADLINE_SECONDS) -> bool:
        return self._look(seconds)

    def _look(self, seconds: float) -> bool:
        if self.unread:
            return True
        self.socket.settimeout(seconds)
        try:
            self.unread += self._receive(READ_BYTES)
        except (BlockingIOError, TimeoutError):
            return False
        except OSError:
            pass
        finally:
            self.socket.settimeout(DEADLINE_SECONDS)
        return True


class TlsPeer(CodedPeer):
    """`ssl` over memory, so that a blocked side never holds the other one."""

    def __init__(self, connected: socket.socket, context: ssl.SSLContext) -> None:
        super().__init__(connected)
        self._state, self._sending = threading.Lock(), threading.Lock()  # one thread may send while another one reads
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing)
        self._read_ahead = bytearray()
        self._do(self._tls.do_handshake)

    def _do(self, act: Callable[[], Result]) -> Result:
        while True:
            try:
                with self._state:
                    result = act()
                self._flush()
                return result
            except ssl.SSLWantReadError:
                self._flush()
                data = self.socket.recv(READ_BYTES)
                with self._state:
                    if data:
                        self._incoming.write(data)
                    else:
                        self._incoming.write_eof()

    def _flush(self) -> None:
        if self._outgoing.pending:
            with self._sending:
                with self._state:
                    data = self._outgoing.read()
                self.socket.sendall(data)

    def send(self, *parts: bytes) -> None:
        for part in parts:
            if part:
                with self._state:
                    self._tls.write(part)
                self._flush()

    def half_close(self) -> None:
        with self._state:
            # Having sent our close_notify OpenSSL looks for the other side's, and gives up where data comes first: that is read before.
            with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
                while data := self._tls.read(READ_BYTES):
                    self._read_ahead += data
            with contextlib.suppress(ssl.SSLWantReadError):
                self._tls.unwrap()
        self._flush()

    def close(self) -> None:
        """In order: what the kernel still has, such as tickets, would make it a reset."""
        with contextlib.suppress(OSError):
            self.socket.setblocking(False)
            while self.socket.recv(READ_BYTES):
                pass
        self.socket.close()

    def _take_ahead(self, size: int) -> bytes:
        taken = bytes(self._read_ahead[:size])
        del self._read_ahead[:size]
        return taken

    def _receive(self, size: int) -> bytes:
        try:
            return self._do(lambda: self._take_ahead(size) or self._tls.read(size))
        except ssl.SSLZeroReturnError:
            return b""
        except ssl.SSLEOFError as error:
            raise ConnectionResetError("ended without close_notify") from error


@dataclass
class Answer:
    """What comes back on one stream, as HTTP/1.1 writes it."""

    number: int
    request: Message
    is_tunnel: bool = False
    text: bytearray = field(default_factory=bytearray)
    is_chunked: bool = False
    has_trailers: bool = False
    is_whole: bool = False
    is_reset: bool = False


class Http2Peer(CodedPeer):
    """A client of HTTP/2 in the clothes of one of HTTP/1.1. Answers are read in the order of their requests."""

    def __init__(self, wire: Peer) -> None:
        self.wire = wire
        self.socket = wire.socket
        self.unread = b""
        self._h2 = H2Connection(
            H2Configuration(client_side=True, header_encoding="latin-1", validate_outbound_headers=False, normalize_outbound_headers=False)
        )
        # One thread may send while another one reads: what they share, who writes to the wire, who reads from it.
        self._state, self._writing, self._reading = threading.RLock(), threading.Lock(), threading.Lock()
        self._frames_out = b""
        self._unsent = b""  # of what the test wrote, not yet a frame
        self._upload: Answer | None = None  # to the request whose body is being written
        self._left = 0  # of its body, or of this chunk
        self._n_dropped = 0
        self._answers: deque[Answer] = deque()
        self._by_stream: dict[int, Answer] = {}
        self._frames = b""  # received, not yet whole
        self._n_pings = 0
        self._acknowledged = 0
        self._ended = False
        self._h2.initiate_connection()
        self._flush()

    def close(self) -> None:
        self.wire.close()

    def reset(self) -> None:
        self.wire.reset()

    def half_close(self) -> None:
        assert self._upload is not None and self._upload.is_tunnel, "only a stream has a half that ends"
        self._h2.end_stream(self._upload.number)
        self._flush()

    # ------------------------------------------------------------------------------------------------ writing
    def send(self, *parts: bytes) -> None:
        for part in parts:
            if self._upload is not None and self._upload.is_reset:
                self._n_dropped += len(part)
                if self._n_dropped > DROPPED_BYTES:
                    raise BrokenPipeError("the stream was reset")
            self._unsent += part
            while self._advance():
                pass
            self._flush()

    def _flush(self) -> None:
        """Sends what there is; where another thread does, it takes it along."""
        while self._has_output() and self._writing.acquire(blocking=False):
            try:
                while self._has_output():
                    with self._state:
                        data, self._frames_out = self._frames_out, b""
                    self.wire.send(data)
            finally:
                self._writing.release()

    def _has_output(self) -> bool:
        with self._state:
            self._frames_out += self._h2.data_to_send()
            return bool(self._frames_out)

    def _pull(self, has_come: Callable[[], object]) -> None:
        """Takes what comes next, unless another thread has taken what is waited for."""
        with self._reading:
            if not has_come():
                self._take(self.wire.receive())

    def _advance(self) -> bool:
        """Makes frames of the next piece of what was written; False: more of it has to come first."""
        if self._upload is not None:
            return self._advance_body(self._upload)
        self._unsent = self._unsent.lstrip(b"\r\n")
        end = self._unsent.find(b"\r\n\r\n")
        if end < 0:
            return False
        head, self._unsent = parse_head(self._unsent[: end + 4]), self._unsent[end + 4 :]
        self._begin(head)
        return True

    def _begin(self, head: Message) -> None:
        assert head.start.endswith(" HTTP/1.1"), head.start
        assert self._upload is None
        answer = Answer(self._h2.get_next_available_stream_id(), head)
        self._by_stream[answer.number] = answer
        self._answers.append(answer)
        path, host = head.target, head.get("Host")
        if path.startswith("http://"):  # which names another host
            host, slash, rest = path.removeprefix("http://").partition("/")
            path = slash + rest or ("*" if head.method == "OPTIONS" else "/")
        fields: Fields = [(":method", head.method), (":scheme", "https"), (":path", path)]
        if host is not None:
            fields.append((":authority", host))
        if (protocol := head.get("Upgrade")) and "upgrade" in (head.get("Connection") or "").lower():
            answer.is_tunnel = True
            fields[0] = (":method", "CONNECT")
            fields.append((":protocol", protocol))
        fields += [(name.lower(), value) for name, value in head.fields if name.lower() not in DROPPED]
        has_body = answer.is_tunnel or head.chunked or bool(head.body_length)
        with self._state:
            self._h2.send_headers(answer.number, fields, end_stream=not has_body)
        if has_body:
            self._upload = answer
            self._left = head.body_length or 0

    def _advance_body(self, answer: Answer) -> bool:
        if answer.is_tunnel:
            data, self._unsent = self._unsent, b""
            self._send_data(answer, data)
            return False
        if self._left:
            data, self._unsent = self._unsent[: self._left], self._unsent[self._left :]
            self._left -= len(data)
            ends = not self._left and not answer.request.chunked
            self._send_data(answer, data, ends)
            if ends:
                self._upload = None
            return bool(data)
        return self._advance_chunks(answer)

    def _advance_chunks(self, answer: Answer) -> bool:
        self._unsent = self._unsent.removeprefix(b"\r\n")  # behind the last chunk
        line, found, rest = self._unsent.partition(b"\r\n")
        if not found:
            return False
        self._left = int(line.partition(b";")[0], 16)
        if self._left:
            self._unsent = rest
            return True
        section, found, behind = (b"\r\n" + rest).partition(b"\r\n\r\n")
        if not found:
            return False
        self._unsent, self._upload = behind, None
        if trailers := parse_fields([line.decode("latin-1") for line in section.split(b"\r\n") if line]):
            with self._state:
                if not answer.is_reset:
                    self._h2.send_headers(answer.number, [(name.lower(), value) for name, value in trailers], end_stream=True)
        else:
            self._send_data(answer, b"", ends=True)
        return True

    def _send_data(self, answer: Answer, data: bytes, ends: bool = False) -> None:
        """As windows allow; what a reset stream would get is nobody's."""
        at = 0
        while at < len(data) or ends:
            with self._state:
                if answer.is_reset or self._ended:
                    return
                room = min(self._h2.local_flow_control_window(answer.number), MAX_DATA_BYTES)
                if room or at == len(data):
                    piece = data[at : at + room]
                    at += len(piece)
                    is_last = ends and at == len(data)
                    self._h2.send_data(answer.number, piece, end_stream=is_last)
                    if is_last:
                        return
                    continue
            self._flush()
            self._pull(lambda: answer.is_reset or self._ended or self._h2.local_flow_control_window(answer.number))

    # ------------------------------------------------------------------------------------------------ reading
    def _next(self) -> Answer | None:
        """Whose bytes come next, without those that have come to their end."""
        while self._answers and not (first := self._answers[0]).text and (first.is_whole or first.is_reset):
            self._ended = self._ended or first.is_reset
            self._answers.popleft()
        return self._answers[0] if self._answers else None

    def _receive(self, size: int) -> bytes:
        while True:
            with self._state:
                first = self._next()
                if first is not None and first.text:
                    data = bytes(first.text[:size])
                    del first.text[:size]
                    return data
            if self._ended:
                return b""
            self._pull(lambda: self._ended or ((first := self._next()) and first.text))

    def read_head(self) -> Message:
        message = super().read_head()
        message.__class__ = Http2Message
        return message

    def read_to_end(self) -> bytes:
        return self.read_to_ending()[0]

    def read_to_ending(self) -> tuple[bytes, Ending]:
        """Everything that comes on the streams there are; of a connection without any, its end."""
        data, self.unread = self.unread, b""
        while not self._ended and (self._next() is not None or not self._by_stream):
            if (first := self._next()) is not None and first.text:
                data += self._receive(READ_BYTES)
            else:
                self._pull(lambda: False)
        return data, "end"

    def ping(self) -> None:
        """Until fastlb has seen all that was sent, or has ended the connection."""
        self._n_pings += 1
        with contextlib.suppress(OSError):
            self._h2.ping(self._n_pings.to_bytes(8, "big"))
            self._flush()
            while self._acknowledged < self._n_pings and not self._ended:
                self._pull(lambda: False)

    def _take(self, data: bytes) -> None:
        if not data:
            self._ended = True
            return
        self._frames += data
        while len(self._frames) >= 9 and len(self._frames) >= (size := 9 + int.from_bytes(self._frames[:3], "big")):
            frame, self._frames = self._frames[:size], self._frames[size:]
            if frame[3] == GOAWAY:
                continue  # streams that are open finish; h2 would take it for the end
            with self._state:
                for event in self._h2.receive_data(frame):
                    self._note(event)
        self._flush()

    def _note(self, event: Event) -> None:
        if isinstance(event, PingAckReceived):
            self._acknowledged = int.from_bytes(event.ping_data, "big")
        answer = self._by_stream.get(getattr(event, "stream_id", 0) or 0)
        if answer is None:
            return
        if isinstance(event, InformationalResponseReceived | ResponseReceived):
            self._write_head(answer, [(str(name), str(value)) for name, value in event.headers or ()])
        elif isinstance(event, DataReceived):
            data = event.data or b""
            if event.flow_controlled_length:
                self._h2.acknowledge_received_data(event.flow_controlled_length, answer.number)
            answer.text += b"%x\r\n%s\r\n" % (len(data), data) if answer.is_chunked and data else data
        elif isinstance(event, TrailersReceived):
            assert answer.is_chunked
            answer.has_trailers = True
            answer.text += b"0\r\n" + write_fields([(str(name), str(value)) for name, value in event.headers or ()])
        elif isinstance(event, StreamEnded):
            if answer.is_chunked and not answer.has_trailers:
                answer.text += b"0\r\n\r\n"
            answer.is_whole = True
        elif isinstance(event, StreamReset):
            answer.is_reset = True

    def _write_head(self, answer: Answer, listed: Fields) -> None:
        status = int(dict(listed)[":status"])
        fields = [(name, value) for name, value in listed if not name.startswith(":")]
        if answer.is_tunnel and status == 200:
            status = 101
            fields += [("Connection", "Upgrade"), ("Upgrade", answer.request.get("Upgrade") or "")]
        elif status >= 200 and status not in (204, 304) and answer.request.method != "HEAD" and "content-length" not in dict(fields):
            answer.is_chunked = True
            fields.append(("Transfer-Encoding", "chunked"))
        answer.text += f"HTTP/1.1 {status} {phrase(status)}\r\n".encode() + write_fields(fields)


def phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def write_fields(fields: Fields) -> bytes:
    """Lines with the empty one behind them; names as HTTP/1.1 mostly writes them."""
    return "".join(f"{name.title()}: {value}\r\n" for name, value in fields).encode("latin-1") + b"\r\n"
