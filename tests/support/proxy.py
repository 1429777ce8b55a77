"""A TCP proxy that misbehaves: passes some bytes, in pieces, and then resets, closes, half-closes or stalls."""

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tests.support.backend import address_of, listen
from tests.support.waiting import DEADLINE_SECONDS

Direction = Literal["up", "down"]
Action = Literal["reset", "close", "half_close", "stall"]


@dataclass(frozen=True)
class Fault:
    """What goes wrong once `after` bytes have passed in this direction of a connection: "up" is towards the target."""

    action: Action
    direction: Direction
    after: int


class MisbehavingProxy:
    """Connections to it go on to `target`, which is "host:port".

    Args:
        piece: at most so many bytes are passed at a time.
    """

    def __init__(self, target: str, piece: int = 65536) -> None:
        host, _, port = target.rpartition(":")
        self.target = host.strip("[]"), int(port)
        self.piece = piece
        self.fault: Fault | None = None
        self.happened = threading.Event()
        self._socket = listen()
        self.address = address_of(self._socket)
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def break_next(self, fault: Fault | None) -> None:
        """Ends what is open; from the next connection on, this goes wrong."""
        self.end_connections()
        self.happened.clear()
        self.fault = fault

    def _start(self, run: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near = self._socket.accept()[0]
                far = socket.create_connection(self.target)
            except OSError:
                return
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open |= {near, far}
            self._start(self._pass, near, far, self.fault)

    def _pass(self, near: socket.socket, far: socket.socket, fault: Fault | None) -> None:
        """One thread for both directions, so that nobody is inside a socket that another one resets."""
        sinks = {near: far, far: near}
        reading = {near, far}
        broken = far if fault is None or fault.direction == "down" else near
        left = fault.after if fault is not None else None
        with contextlib.suppress(OSError):
            while reading:
                if left == 0 and broken in reading:
                    assert fault is not None
                    self.happened.set()
                    if fault.action == "reset":
                        for end in sinks:
                            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    if fault.action in ("reset", "close"):
                        break
                    if fault.action == "half_close":
                        sinks[broken].shutdown(socket.SHUT_WR)
                    reading.discard(broken)
                    continue
                for source in select.select(list(reading), [], [])[0]:
                    limited = source is broken and left is not None
                    data = source.recv(min(65536, left) if limited and left is not None else 65536)
                    if not data:
                        sinks[source].shutdown(socket.SHUT_WR)
                        reading.discard(source)
                    for at in range(0, len(data), self.piece):
                        sinks[source].sendall(data[at : at + self.piece])
                    if limited and left is not None:
                        left -= len(data)
            if fault is not None and fault.action in ("stall", "half_close"):
                select.select([near], [], [])  # until somebody ends it
        for end in sinks:
            self._open.discard(end)
            end.close()

    def end_connections(self) -> None:
        for end in list(self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self.end_connections()
        for thread in self._threads:
            thread.join(DEADLINE_SECONDS)
        self._socket.close()
