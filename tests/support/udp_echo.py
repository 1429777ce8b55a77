"""UDP for whole processes: a backend that echoes, clients that ask, and what the kernel says of a port."""

import contextlib
import select
import socket
import threading
import time
from pathlib import Path
from typing import Self

from tests.support.waiting import DEADLINE_SECONDS, wait_until


class UdpEcho:
    """Sends back what comes, behind its name."""

    def __init__(self, name: bytes = b"") -> None:
        self.name = name
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the thread with a word of our own."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"end", ("127.0.0.1", self.port))
            self._thread.join(DEADLINE_SECONDS)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            data, peer = self._socket.recvfrom(65536)
            if data == b"end":
                return
            self._socket.sendto(self.name + data, peer)


def udp_client(host: str, port: int) -> socket.socket:
    """A connected socket, to be closed by the caller."""
    client = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(DEADLINE_SECONDS)
    client.connect((host, port))
    return client


def ask(client: socket.socket, data: bytes) -> bytes:
    client.send(data)
    return client.recv(65536)


def count_sockets(port: int) -> int:
    """How many UDP sockets are bound to a port and connected to nobody."""
    found = 0
    for table in ("/proc/net/udp", "/proc/net/udp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            local, remote = line.split()[1:3]
            found += int(local.rpartition(":")[2], 16) == port and int(remote.rpartition(":")[2], 16) == 0
    return found


class UdpTalk:
    """Clients that keep their addresses and ask one thing after the other, each when it has its answer; in a thread, until it is left. That
    waits for what is under way.

    Args:
        patience: seconds after which something is given up, and the client asks the next thing.

    `lost`: what was given up, or had no answer at the end; `wrong`: answers to nothing that was asked.
    """

    def __init__(self, port: int, n_clients: int = 8, patience: float = DEADLINE_SECONDS) -> None:
        self.answers = 0
        self.lost: set[bytes] = set()
        self.wrong: list[bytes] = []
        self._patience = patience
        self._clients = [udp_client("127.0.0.1", port) for _ in range(n_clients)]
        self._asked: dict[socket.socket, tuple[bytes, float]] = {}
        self._n_asked = 0
        self._ends = False
        self._thread = threading.Thread(target=self._talk, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends = True
        self._thread.join(2 * DEADLINE_SECONDS)
        for client in self._clients:
            client.close()

    def wait_for(self, n: int) -> None:
        """Until so many more were answered."""
        wanted = self.answers + n
        wait_until(lambda: self.answers >= wanted, f"{n} answers")

    def _talk(self) -> None:
        while not self._ends:
            for client in self._clients:
                self._ask(client)
            self._receive()
        end = time.monotonic() + min(self._patience, DEADLINE_SECONDS)
        while self._asked and time.monotonic() < end:
            self._receive()
        self.lost |= {question for question, _ in self._asked.values()}

    def _ask(self, client: socket.socket) -> None:
        if client in self._asked:
            question, since = self._asked[client]
            if time.monotonic() - since < self._patience:
                return
            self.lost.add(question)
        self._n_asked += 1
        question = b"%d" % self._n_asked
        self._asked[client] = question, time.monotonic()
        with contextlib.suppress(ConnectionRefusedError):
            client.send(question)

    def _receive(self) -> None:
        for client in select.select(self._clients, [], [], 0.1)[0]:
            try:
                answer = client.recv(65536)
            except ConnectionRefusedError:
                continue
            if client in self._asked and self._asked[client][0] == answer:
                del self._asked[client]
                self.answers += 1
            elif answer in self.lost:
                self.lost.remove(answer)  # it was only late
            else:
                self.wrong.append(answer)
