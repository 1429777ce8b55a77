"""One end of a connection with fastlb: a client's, or that of a backend. Sends exact bytes and reads strictly;
everything blocks, with a deadline."""

import contextlib
import socket
import struct
from typing import Literal

from tests.support.message import Message, parse_fields, parse_head
from tests.support.waiting import DEADLINE_SECONDS

Ending = Literal["end", "reset"]
READ_BYTES = 1 << 18


class Peer:
    """Owns a connected stream socket. `unread` holds what was received and not yet asked for."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.unread = b""
        connected.settimeout(DEADLINE_SECONDS)
        if connected.family != socket.AF_UNIX:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    # ------------------------------------------------------------------------------------------------ writing
    def send(self, *parts: bytes) -> None:
        """Each part is a write of its own."""
        for part in parts:
            self.socket.sendall(part)

    def send_bytewise(self, data: bytes) -> None:
        self.send(*(data[i : i + 1] for i in range(len(data))))

    def half_close(self) -> None:
        """Ends our direction; the other one stays."""
        self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Ends the connection so that the other side gets an error."""
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    # ------------------------------------------------------------------------------------------------ reading
    def receive(self) -> bytes:
        """What is there next; b"" at the end."""
        if self.unread:
            data, self.unread = self.unread, b""
            return data
        return self._receive(READ_BYTES)

    def _receive(self, size: int) -> bytes:
        """What has come next, at most so much; b"" at the end."""
        return self.socket.recv(size)

    def _more(self, wanted: str) -> None:
        data = self._receive(READ_BYTES)
        if not data:
            raise EOFError(f"the connection ended before {wanted}; unread: {self.unread[-200:]!r}")
        self.unread += data

    def read_exactly(self, size: int) -> bytes:
        if size - len(self.unread) > 1 << 20:
            return self._read_large(size)
        while len(self.unread) < size:
            self._more(f"{size} bytes had come")
        data, self.unread = self.unread[:size], self.unread[size:]
        return data

    def _read_large(self, size: int) -> bytes:
        data = bytearray(self.unread)
        self.unread = b""
        while len(data) < size:
            part = self._receive(min(READ_BYTES, size - len(data)))
            if not part:
                raise EOFError(f"the connection ended after {len(data)} of {size} bytes")
            data += part
        return bytes(data)

    def read_until(self, mark: bytes) -> bytes:
        while mark not in self.unread:
            self._more(repr(mark))
        end = self.unread.index(mark) + len(mark)
        data, self.unread = self.unread[:end], self.unread[end:]
        return data

    def read_head(self) -> Message:
        return parse_head(self.read_until(b"\r\n\r\n"))

    def read_request(self) -> Message:
        """A whole request."""
        message = self.read_head()
        self.read_body(message)
        return message

    def read_body(self, message: Message) -> None:
        """What follows a head whose framing says so."""
        if message.chunked:
            self._read_chunks(message)
        elif message.body_length:
            message.body = self.read_exactly(message.body_length)

    def read_response(self, method: str = "GET") -> Message:
        """A whole final response to a request of this method."""
        interim = []
        while (message := self.read_head()).status < 200 and message.status != 101:
            interim.append(message)
        message.interim = interim
        if method == "HEAD" or message.status in (101, 204, 304):
            return message
        if message.chunked or message.body_length is not None:
            self.read_body(message)
        else:
            message.body = self.read_to_end()
        return message

    def _read_chunks(self, message: Message) -> None:
        while True:
            line = self.read_until(b"\r\n")[:-2]
            assert line and not line.strip(b"0123456789abcdef"), f"a chunk header of {line!r}"
            size = int(line, 16)
            if size == 0:
                break
            message.chunks.append(self.read_exactly(size))
            assert self.read_exactly(2) == b"\r\n"
        message.body = b"".join(message.chunks)
        lines = []
        while line := self.read_until(b"\r\n")[:-2]:
            lines.append(line.decode("latin-1"))
        message.trailers = parse_fields(lines)

    def read_to_end(self) -> bytes:
        """Everything up to an orderly end; a reset is an error."""
        parts = [self.unread]
        self.unread = b""
        while part := self._receive(READ_BYTES):
            parts.append(part)
        return b"".join(parts)

    def read_to_ending(self) -> tuple[bytes, Ending]:
        """Everything that comes, and how it ended."""
        parts = [self.unread]
        self.unread = b""
        try:
            while part := self._receive(READ_BYTES):
                parts.append(part)
        except ConnectionResetError:
            return b"".join(parts), "reset"
        return b"".join(parts), "end"

    def ending(self) -> Ending:
        """How the connection ends; nothing may come before that."""
        data, how = self.read_to_ending()
        assert data == b"", data[:500]
        return how

    def expect_end(self) -> None:
        assert self.ending() == "end"

    def is_quiet(self) -> bool:
        """Whether there is nothing to read at this moment, neither bytes nor an end."""
        if self.unread:
            return False
        self.socket.setblocking(False)
        try:
            return self.socket.recv(1, socket.MSG_PEEK) is None
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            self.socket.settimeout(DEADLINE_SECONDS)

    def wait_readable(self, seconds: float = DEADLINE_SECONDS) -> bool:
        """Whether bytes or an end come within this time."""
        if self.unread:
            return True
        self.socket.settimeout(seconds)
        try:
            self.socket.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            return False
        except OSError:
            pass
        finally:
            self.socket.settimeout(DEADLINE_SECONDS)
        return True

    # ------------------------------------------------------------------------------------------------ both
    def ask(self, data: bytes, method: str = "GET") -> Message:
        """Sends a request and reads its answer."""
        self.send(data)
        return self.read_response(method)

    def small_buffers(self) -> "Peer":
        """Little room in the kernel, so that a stalled reader is felt soon."""
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            self.socket.setsockopt(socket.SOL_SOCKET, option, 4096)
        return self
