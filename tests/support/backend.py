"""Backends. `ScriptedBackend` is played by the test itself, one step after the other; the others answer on their own, in a thread."""

import contextlib
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from tests.support.message import Message
from tests.support.peer import Peer
from tests.support.waiting import DEADLINE_SECONDS

LOOPBACK = "127.0.0.1"


def listen(address: str = LOOPBACK, port: int = 0, path: Path | None = None, backlog: int = 1024) -> socket.socket:
    """A listening socket on a free port, or on a unix path."""
    if path is not None:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(path))
    else:
        listening = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
    listening.listen(backlog)
    return listening


def address_of(listening: socket.socket) -> str:
    """As a configuration writes it."""
    if listening.family == socket.AF_UNIX:
        return f"unix:{listening.getsockname()}"
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class ScriptedBackend:
    """A listening socket. The test accepts, reads and sends."""

    def __init__(self, listening: socket.socket | None = None) -> None:
        self.socket = listening or listen()
        self.socket.settimeout(DEADLINE_SECONDS)
        self.address = address_of(self.socket)
        self.peers: list[Peer] = []

    def accept(self) -> Peer:
        peer = Peer(self.socket.accept()[0])
        self.peers.append(peer)
        return peer

    def answer(self, reply: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") -> tuple[Peer, Message]:
        """Accepts a connection, reads a request and answers it."""
        peer = self.accept()
        message = peer.read_request()
        peer.send(reply)
        return peer, message

    def saw_nothing(self) -> bool:
        """Whether no connection waits to be accepted."""
        self.socket.setblocking(False)
        try:
            self.peers.append(Peer(self.socket.accept()[0]))
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(DEADLINE_SECONDS)
        return False

    def end_connections(self) -> None:
        for peer in self.peers:
            peer.close()

    def close(self) -> None:
        """Nobody listens here any more."""
        self.socket.close()
        self.end_connections()


class ThreadedBackend:
    """Runs `serve(peer)` in a thread for each connection; the end of the connection ends it. Errors are kept for `close`."""

    def __init__(self, serve: Callable[[Peer], None], listening: socket.socket | None = None) -> None:
        self.serve = serve
        self.socket = listening or listen()
        self.address = address_of(self.socket)
        self._peers: list[Peer] = []
        self.errors: list[BaseException] = []
        self._closing = False
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while not self._closing:
            try:
                peer = Peer(self.socket.accept()[0])
            except OSError:
                return
            self._peers.append(peer)
            thread = threading.Thread(target=self._serve, args=[peer], daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, peer: Peer) -> None:
        try:
            self.serve(peer)
        except (EOFError, ConnectionError):
            pass
        except BaseException as error:
            if not self._closing:
                self.errors.append(error)
        peer.close()

    def end_connections(self) -> None:
        """Threads that wait for a socket wait no more."""
        self._closing = True
        for peer in self._peers:
            with contextlib.suppress(OSError):
                peer.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.end_connections()
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(DEADLINE_SECONDS)
        self.socket.close()
        assert not self.errors, self.errors


Answer = Callable[[Message], bytes]
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
