"""The probe that opens a connection, with TLS where that is asked for; and what those of HTTP and gRPC stand on.

Sockets are used directly, non-blocking, with the loop's readers and writers: a probe lives for one connection and a few calls, and
transports with their tasks and futures would cost more than all of it (bench/health). A probe is owned by whoever starts it, calls `done`
once unless it is cancelled, and holds nothing afterwards. One deadline is for all of it.
"""

import errno
import os
import socket
import ssl
import struct
import time
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from dataclasses import dataclass

from fastlb.control_plane.config.quantity import format_duration
from fastlb.control_plane.health.result import OURS, Outcome, Result, clean, describe_error

Done = Callable[[Result], None]

# Closes with a reset: a backend that was only connected to has nothing to read, and we keep no TIME_WAIT.
_RESET = struct.pack("ii", 1, 0)
_READ_BYTES = 16384
# Of <linux/in.h>: the port is chosen when it connects, so that one serves for many backends. Python has it from 3.12 on.
_IP_BIND_ADDRESS_NO_PORT = 24


@dataclass(frozen=True, slots=True)
class Place:
    """Where a probe connects to.

    Args:
        address: as the socket module takes it for this family.
        header: what a connection begins with, before TLS.
        source: the address of this node that it comes from; "" for the system's choice.
    """

    family: socket.AddressFamily
    address: tuple[str, int] | str
    header: bytes = b""
    source: str = ""

    @property
    def local_address(self) -> tuple[str, int] | None:
        """What a socket is bound to: only addresses of the same family can be."""
        if not self.source or self.family == socket.AF_UNIX or (":" in self.source) != (self.family == socket.AF_INET6):
            return None
        return self.source, 0


@dataclass(frozen=True, slots=True)
class Tls:
    """How a probe encrypts.

    Args:
        server_name: told to the backend, and what its certificate has to be for if that is verified; "" for none.
    """

    context: ssl.SSLContext
    server_name: str


class TcpProbe:
    """Passes when the connection, and TLS on it, is established."""

    __slots__ = ("_began", "_done", "_loop", "_reads", "_socket", "_stage", "_timeout_ms", "_timer", "_tls", "_writes", "place")

    kind = socket.SOCK_STREAM

    def __init__(self, loop: AbstractEventLoop, place: Place, timeout_ms: int, tls: Tls | None, done: Done) -> None:
        self._loop = loop
        self.place = place
        self._timeout_ms = timeout_ms
        self._tls = tls
        self._done: Done | None = done
        self._socket: socket.socket | None = None  # owned
        self._timer: TimerHandle | None = None
        self._reads = self._writes = False  # what the loop watches it for
        self._stage = "connecting"
        self._began = 0.0

    def start(self) -> None:
        self._began = time.monotonic()
        self._timer = self._loop.call_later(self._timeout_ms / 1000, self._on_time_out)
        try:
            self._socket = socket.socket(self.place.family, self.kind | socket.SOCK_NONBLOCK)
            if self.place.local_address:
                self._socket.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
                self._socket.bind(self.place.local_address)
            error = self._socket.connect_ex(self.place.address)
        except OSError as problem:
            self._end_soon(Outcome.UNKNOWN if problem.errno in OURS else Outcome.FAILED, describe_error(problem))
            return
        if error in (0, errno.EINPROGRESS):
            self._watch(self._on_connected, reads=False)
        elif error == errno.EAGAIN and self.place.family == socket.AF_UNIX:  # connect(2) of unix sockets
            self._end_soon(Outcome.FAILED, "its accept queue is full")
        else:
            self._end_soon(Outcome.UNKNOWN if error in OURS else Outcome.FAILED, os.strerror(error).lower())

    def cancel(self) -> None:
        """Ends it without a result. Safe to repeat."""
        self._done = None
        self._release()

    # ------------------------------------------------------------------------------------------------ for probes that say something
    def on_open(self) -> None:
        """The connection is established."""
        assert self._socket is not None
        if self._tls is None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.end(Outcome.PASSED, "connected" if self._tls is None else "TLS established")

    def watch_writes(self, ready: Callable[[], None], stage: str) -> None:
        self._stage = stage
        self._watch(ready, reads=False)

    def watch_reads(self, ready: Callable[[], None], stage: str) -> None:
        self._stage = stage
        self._watch(ready, reads=True)

    def receive(self) -> bytes | None:
        """What has arrived, up to 16 KiB; b"" at the end; None where there is nothing yet. OSError."""
        assert self._socket is not None
        try:
            return self._socket.recv(_READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        except ssl.SSLWantWriteError:  # a key update: written with what is sent next, or never
            return None
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    def send(self, data: bytes) -> int:
        """How much of it was taken. OSError."""
        assert self._socket is not None
        try:
            return self._socket.send(data)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0

    @property
    def agreed_protocol(self) -> str | None:
        """What ALPN came to."""
        return self._socket.selected_alpn_protocol() if isinstance(self._socket, ssl.SSLSocket) else None

    @property
    def has_more(self) -> bool:
        """Whether bytes have been decrypted that nobody has read: the loop would not tell."""
        return isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0

    def end(self, outcome: Outcome, text: str) -> None:
        done, self._done = self._done, None
        self._release()
        if done is not None:
            done(Result(outcome, text, round((time.monotonic() - self._began) * 1e6)))

    # ------------------------------------------------------------------------------------------------ the connection
    def _on_connected(self) -> None:
        assert self._socket is not None
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self.end(Outcome.FAILED, os.strerror(error).lower())
        elif not self._has_sent_header():
            self.end(Outcome.FAILED, "it took no PROXY header")
        elif self._tls is None:
            self.on_open()
        else:
            self._begin_tls(self._tls)

    def _has_sent_header(self) -> bool:
        """Into the empty buffer of a socket, whose connection stands."""
        try:
            return not self.place.header or self.send(self.place.header) == len(self.place.header)
        except OSError:
            return False

    def _begin_tls(self, tls: Tls) -> None:
        assert self._socket is not None
        self._unwatch()
        try:
            # It takes the descriptor over, or closes it.
            self._socket = tls.context.wrap_socket(
                self._socket, do_handshake_on_connect=False, suppress_ragged_eofs=False, server_hostname=tls.server_name or None
            )
        except (OSError, ValueError) as error:
            self.end(Outcome.FAILED, f"no TLS: {clean(str(error))}")
            return
        self._shake_hands()

    def _shake_hands(self) -> None:
        assert isinstance(self._socket, ssl.SSLSocket)
        try:
            self._socket.do_handshake()
        except ssl.SSLWantReadError:
            self.watch_reads(self._shake_hands, "in the TLS handshake")
        except ssl.SSLWantWriteError:
            self.watch_writes(self._shake_hands, "in the TLS handshake")
        except ssl.SSLCertVerificationError as error:
            self.end(Outcome.FAILED, f"its certificate is not accepted: {clean(error.verify_message)}")
        except ssl.SSLEOFError:
            self.end(Outcome.FAILED, "closed in the TLS handshake")
        except ssl.SSLError as error:
            self.end(Outcome.FAILED, f"no TLS: {clean((error.reason or str(error)).lower().replace('_', ' '))}")
        except OSError as error:
            self.end(Outcome.FAILED, f"{describe_error(error)} in the TLS handshake")
        else:
            self.on_open()

    def _on_time_out(self) -> None:
        self.end(Outcome.FAILED, f"timed out after {format_duration(self._timeout_ms)} {self._stage}")

    def _end_soon(self, outcome: Outcome, text: str) -> None:
        """Not from within `start`: whoever starts probes would find itself called by the one that it has just started."""
        self._loop.call_soon(self.end, outcome, text)

    def _watch(self, ready: Callable[[], None], reads: bool) -> None:
        """Has `ready` called when the socket can be read, or else written, and for nothing else."""
        assert self._socket is not None
        descriptor = self._socket.fileno()
        if reads:
            if self._writes:
                self._loop.remove_writer(descriptor)
            self._loop.add_reader(descriptor, ready)
        else:
            if self._reads:
                self._loop.remove_reader(descriptor)
            self._loop.add_writer(descriptor, ready)
        self._reads, self._writes = reads, not reads

    def _unwatch(self) -> None:
        if self._socket is not None and (self._reads or self._writes):
            descriptor = self._socket.fileno()
            if self._reads:
                self._loop.remove_reader(descriptor)
            if self._writes:
                self._loop.remove_writer(descriptor)
        self._reads = self._writes = False

    def _release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._unwatch()
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Conversation(TcpProbe):
    """What a probe that says something and reads the answer does, whatever the protocol is."""

    __slots__ = ("_unsent",)

    sending = "sending the request"

    def __init__(self, loop: AbstractEventLoop, place: Place, timeout_ms: int, tls: Tls | None, done: Done) -> None:
        super().__init__(loop, place, timeout_ms, tls, done)
        self._unsent = b""

    def _receive(self) -> None:
        """Something has come."""
        raise NotImplementedError

    def _where(self) -> str:
        """How far the answer has come, in words."""
        raise NotImplementedError

    def _send(self) -> None:
        """Sends what is unsent, and then waits for the answer."""
        try:
            self._unsent = self._unsent[self.send(self._unsent) :]
        except OSError as error:
            self._break(error)
            return
        if self._unsent:
            self.watch_writes(self._send, self.sending)
        else:
            self.watch_reads(self._receive, "waiting for the answer")

    def _break(self, error: OSError) -> None:
        self.end(Outcome.FAILED, f"{describe_error(error)} {self._where()}")
