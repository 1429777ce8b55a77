"""What comes back on an HTTP/2 connection that carries one request: frames are read, the answer is put together, acknowledgements are made.

Owns what has arrived and is not a whole frame yet. It takes MAX_BYTES in all and speaks no more HTTP/2 than one call needs: a probe makes a
connection, and the state of the h2 package for it costs five times as much as all of this. hpack reads the header blocks.
"""

from hpack import Decoder, Encoder
from hpack.exceptions import HPACKError

from fastlb.control_plane.health.result import clean

MAX_BYTES = 16384
MAX_INTERIM = 8

_STREAM = 1
_DATA, _HEADERS, _PRIORITY, _RST_STREAM, _SETTINGS, _PUSH_PROMISE, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = range(10)
_ACK = _END_STREAM = 0x1
_END_HEADERS = 0x4
_PADDED = 0x8
_PRIORITIZED = 0x20
# No pushes, and as long a header list as we read (RFC 9113 section 6.5.2).
_OUR_SETTINGS = bytes((0, 2, 0, 0, 0, 0)) + bytes((0, 6)) + MAX_BYTES.to_bytes(4)
_ERRORS = (
    *("NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED", "FRAME_SIZE_ERROR"),
    *("REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"),
)

Fields = list[tuple[bytes, bytes]]


class ReplyError(Exception):
    """There will be no answer; the text says why."""


def make_request(fields: Fields, body: bytes) -> bytes:
    """All that a client sends for this request on a connection of its own, which is the same each time."""
    block = Encoder().encode(fields)
    return b"".join(
        (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            _frame(_SETTINGS, 0, 0, _OUR_SETTINGS),
            _frame(_HEADERS, _END_HEADERS, _STREAM, block),
            _frame(_DATA, _END_STREAM, _STREAM, body),
        )
    )


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return b"".join((len(content).to_bytes(3), bytes((kind, flags)), stream.to_bytes(4), content))


class Reply:
    """The answer, as far as it has come.

    Args:
        max_body_bytes: a longer body is an error.
    """

    def __init__(self, max_body_bytes: int) -> None:
        self._decoder = Decoder(MAX_BYTES)
        self._max_body_bytes = max_body_bytes
        self._unread = b""
        self._n_received = 0
        self._has_settings = False
        self._block = b""
        self._in_block = False  # CONTINUATION has to come next
        self._ends = False  # with this block
        self._interim = 0
        self.fields: Fields = []  # of the final head; empty before it
        self.body = bytearray()
        self.trailers: Fields = []
        self.has_ended = False
        self.to_send = b""  # acknowledgements; whoever sends them empties it

    def take(self, data: bytes) -> None:
        """Reads what has arrived, up to the end of the answer.

        Raises:
            ReplyError
        """
        if not self._n_received and data.startswith(b"HTTP/1."):
            raise ReplyError("no HTTP/2: it answers in HTTP/1")
        self._n_received += len(data)
        if self._n_received > MAX_BYTES:
            raise ReplyError(f"more than {MAX_BYTES >> 10} KiB instead of an answer")
        unread = self._unread + data
        at = 0
        while len(unread) - at >= 9 and not self.has_ended:
            end = at + 9 + int.from_bytes(unread[at : at + 3])
            if end - at > MAX_BYTES:
                raise ReplyError("no HTTP/2: a frame is too long")
            if end > len(unread):
                break
            self._take_frame(unread[at + 3], unread[at + 4], int.from_bytes(unread[at + 5 : at + 9]) & 0x7FFFFFFF, unread[at + 9 : end])
            at = end
        self._unread = unread[at:]

    def _take_frame(self, kind: int, flags: int, stream: int, content: bytes) -> None:
        if not self._has_settings and (kind != _SETTINGS or flags & _ACK):
            raise ReplyError("no HTTP/2: it does not begin with its settings")
        if self._in_block != (kind == _CONTINUATION):
            raise ReplyError("no HTTP/2: a header block is cut")
        if kind in (_DATA, _HEADERS, _RST_STREAM, _CONTINUATION) and stream != _STREAM:
            raise ReplyError("no HTTP/2: a frame is on no stream of ours")
        if kind in (_SETTINGS, _PING, _GOAWAY) and stream != 0:
            raise ReplyError("no HTTP/2: a frame belongs to no stream")
        match kind:
            case 0:  # DATA
                if not self.fields or self.trailers:
                    raise ReplyError("no HTTP/2: a body is where none can be")
                self.body += _without_padding(flags, content)
                if len(self.body) > self._max_body_bytes:
                    raise ReplyError("its answer is too long")
                self.has_ended = flags & _END_STREAM != 0
            case 1 | 9:  # HEADERS, CONTINUATION
                if kind == _HEADERS:
                    self._ends = flags & _END_STREAM != 0
                    content = _without_padding(flags, content)
                    content = content[5:] if flags & _PRIORITIZED else content
                self._block += content
                self._in_block = not flags & _END_HEADERS
                if not self._in_block:
                    self._take_block()
            case 3:  # RST_STREAM
                raise ReplyError(f"reset the call: {_name_of(content)}")
            case 4:  # SETTINGS
                if len(content) % 6 or (flags & _ACK and content):
                    raise ReplyError("no HTTP/2: its settings have a wrong size")
                self._has_settings = True
                if not flags & _ACK:
                    self.to_send += _frame(_SETTINGS, _ACK, 0, b"")
            case 5:  # PUSH_PROMISE
                raise ReplyError("no HTTP/2: it pushes, which it was told not to do")
            case 6:  # PING
                if len(content) != 8:
                    raise ReplyError("no HTTP/2: a ping has a wrong size")
                if not flags & _ACK:
                    self.to_send += _frame(_PING, _ACK, 0, content)
            case 7:  # GOAWAY, on a connection that has just begun
                raise ReplyError(f"goes away: {_name_of(content[4:])}")
            case _:  # WINDOW_UPDATE, of which we need none; PRIORITY; and what later versions may have
                pass

    def _take_block(self) -> None:
        block, self._block = self._block, b""
        try:
            fields: Fields = [(bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)]
        except HPACKError as error:
            raise ReplyError(f"no HTTP/2: {clean(str(error))}") from error
        if self.fields:
            if not self._ends or any(name.startswith(b":") for name, _ in fields):
                raise ReplyError("no HTTP/2: its trailers are none")
            self.trailers = fields
        else:
            if [name for name, _ in fields if name.startswith(b":")] != [b":status"] or not 100 <= _number(fields[0][1]) <= 999:
                raise ReplyError("no HTTP/2: its answer has no status")
            if fields[0][1].startswith(b"1"):
                if self._ends:
                    raise ReplyError("no HTTP/2: it ends with an interim answer")
                self._interim += 1
                if self._interim > MAX_INTERIM:
                    raise ReplyError(f"more than {MAX_INTERIM} interim answers")
                return
            self.fields = fields
        self.has_ended = self._ends


def _number(digits: bytes) -> int:
    return int(digits) if digits.isdigit() and len(digits) == 3 else -1


def _without_padding(flags: int, content: bytes) -> bytes:
    if not flags & _PADDED:
        return content
    if not content or content[0] >= len(content):
        raise ReplyError("no HTTP/2: a frame is all padding")
    return content[1 : len(content) - content[0]]


def _name_of(code: bytes) -> str:
    number = int.from_bytes(code[:4])
    return _ERRORS[number] if number < len(_ERRORS) else f"error {number}"
