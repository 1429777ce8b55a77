"""A channel between two processes: whole messages in order, with descriptors, over a SOCK_SEQPACKET pair.

Owns one end of the pair. Descriptors that are sent stay the sender's; those received are the receiver's to close.
"""

import os
import socket
import struct
from array import array
from typing import Any, Generic, TypeVar

import msgspec

from fastlb import FastlbError
from fastlb.processes.messages import Message

# A longer message goes in a memfd, so that a configuration of ten thousand listeners needs no larger socket buffers.
MAX_INLINE_BYTES = 32 << 10
MAX_BYTES = 64 << 20
# The kernel passes up to 253 with a message (SCM_MAX_FD).
MAX_DESCRIPTORS = 200
INLINE, IN_MEMFD = b"i", b"m"
# struct ucred: pid, uid, gid (unix(7)).
CREDENTIALS = struct.Struct("iII")

Received = TypeVar("Received", bound=Message)


class ChannelError(FastlbError):
    """The other end said what it must not say."""


class Channel(Generic[Received]):
    """One end.

    Args:
        end: a SOCK_SEQPACKET socket, owned from now on.
        received: the union of the messages that may come from the other end.

    `sender` is the process that sent the last message, as the kernel says, where the end asks for that (SO_PASSCRED); else 0.
    """

    def __init__(self, end: socket.socket, received: Any) -> None:
        self._end = end
        self.sender = 0
        self._decoder: msgspec.json.Decoder[Received] = msgspec.json.Decoder(received)
        self._encoder = msgspec.json.Encoder()

    def fileno(self) -> int:
        return self._end.fileno()

    def send(self, message: Message, *descriptors: int, wait: bool = True) -> None:
        """Sends one message.

        Args:
            wait: for room; otherwise BlockingIOError when the other end does not read.

        Raises:
            OSError: the other end is gone (ConnectionError), or does not read.
        """
        data = self._encoder.encode(message)
        flags = socket.MSG_NOSIGNAL | (0 if wait else socket.MSG_DONTWAIT)
        if len(data) <= MAX_INLINE_BYTES:
            self._send(INLINE + data, descriptors, flags)
            return
        carrier = os.memfd_create("fastlb-message", os.MFD_CLOEXEC)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(carrier, view) :]
            self._send(IN_MEMFD, (*descriptors, carrier), flags)
        finally:
            os.close(carrier)

    def _send(self, data: bytes, descriptors: tuple[int, ...], flags: int) -> None:
        # Not socket.send_fds and recv_fds: they take flags and do not use them.
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
        self._end.sendmsg([data], rights, flags)

    def receive(self, *, wait: bool = False) -> tuple[Received, list[int]] | None:
        """The next message with its descriptors, or None when there is none yet.

        Raises:
            EOFError: the other end is gone.
            ChannelError: it said something that is no message.
        """
        try:
            data, ancillary, flags, _ = self._end.recvmsg(
                MAX_INLINE_BYTES + 1,
                socket.CMSG_SPACE((MAX_DESCRIPTORS + 1) * 4) + socket.CMSG_SPACE(CREDENTIALS.size),
                socket.MSG_CMSG_CLOEXEC | (0 if wait else socket.MSG_DONTWAIT),
            )
        except BlockingIOError:
            return None
        except ConnectionError as error:
            raise EOFError from error
        if not data:
            raise EOFError
        descriptors = array("i")
        for _, kind, packed in ancillary:
            if kind == socket.SCM_RIGHTS:
                descriptors.frombytes(packed[: len(packed) - len(packed) % 4])
            elif kind == socket.SCM_CREDENTIALS:
                self.sender = CREDENTIALS.unpack(packed)[0]
        try:
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(descriptors) > MAX_DESCRIPTORS + 1:
                raise ChannelError("a message was too long, or descriptors were lost (`ulimit -n`)")
            if data[:1] == IN_MEMFD and descriptors:
                carrier = descriptors.pop()
                try:
                    data = _read_all(carrier)
                finally:
                    os.close(carrier)
            else:
                data = data[1:]
            return self._decoder.decode(data), list(descriptors)
        except (msgspec.MsgspecError, ChannelError, OSError) as error:
            for descriptor in descriptors:
                os.close(descriptor)
            raise ChannelError(f"not a message: {error}") from error

    def close(self) -> None:
        """Hangs up. Sending fails from now on, as to an end that is gone."""
        self._end.close()


def open_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a new channel."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _read_all(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    if size > MAX_BYTES:
        raise ChannelError("a message was too long")
    return os.pread(descriptor, size, 0)
