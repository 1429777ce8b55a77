"""UDP for whole processes: a backend that echoes, clients that ask, and what the kernel says of a port."""

import socket
import threading
from pathlib import Path
from typing import Self

from tests.support.waiting import DEADLINE_SECONDS


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
