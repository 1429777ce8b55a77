"""TCP sessions through whole processes: real servers that speak first or are spoken to, a listener beside HTTP, reloads and a drain."""

import contextlib
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.configuration import configuration
from tests.support.process import Fastlb
from tests.support.waiting import wait_until
from tests.support.websocket import Chat, WebSocketEcho

Start = Callable[..., Fastlb]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextlib.contextmanager
def running(*command: str, port: int) -> Iterator[None]:
    """A server that accepts connections at this port."""
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def accepts() -> bool:
        assert server.poll() is None, f"{command[0]} has ended"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return True
        return False

    try:
        wait_until(accepts, f"{command[0]} accepts connections")
        yield
    finally:
        server.terminate()
        server.wait()


def sessions(port: int, **pool: object) -> str:
    """A listener of sessions beside one of HTTP, to the same backend."""
    return configuration(
        listeners=[{"name": "db", "protocol": "tcp", "pool": "db"}, {"name": "web"}],
        pools={"db": {"backends": [f"127.0.0.1:{port}"], **pool}},
        routes=[{"pool": "db"}],
    )


class Redis:
    """As much of a client as is needed."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.file = self.socket.makefile("rb")

    def say(self, *words: str) -> None:
        self.socket.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in words))

    def ask(self, *words: str) -> bytes:
        self.say(*words)
        return self.file.readline()

    def close(self) -> None:
        self.file.close()
        self.socket.close()


def test_redis_is_the_same_through_it(fastlb: Start, tmp_path: Path) -> None:
    port = free_port()
    command = ("redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path))
    with running(*command, port=port):
        lb = fastlb(sessions(port))
        here = str(lb.port)
        benchmark = ["redis-benchmark", "-p", here, "-n", "2000", "-c", "20", "-d", "100", "-t", "set,get,lrange_100", "-P", "4", "-q"]
        done = subprocess.run(benchmark, capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout.count("requests per second") >= 3
        assert "Error" not in done.stderr

        listening, speaking = Redis(lb.port), Redis(lb.port)
        assert listening.ask("subscribe", "news") == b"*3\r\n"
        for _ in range(5):
            listening.file.readline()
        assert speaking.ask("publish", "news", "x" * 100_000) == b":1\r\n"
        assert [listening.file.readline() for _ in range(7)][-1] == b"x" * 100_000 + b"\r\n"
        assert lb.backends()[0]["in_flight"] == 2
        listening.close()
        speaking.close()
        lb.rest()
        assert lb.reasons() == {}


def test_websockets_are_bytes_as_any_other(fastlb: Start, keep: Callable[[object], object]) -> None:
    echo = WebSocketEcho()
    keep(echo)
    lb = fastlb(sessions(int(echo.address.rpartition(":")[2])))
    chats = [Chat(lb.port) for _ in range(3)]
    for _ in range(3):
        for chat in chats:
            chat.say()
    for chat in chats:
        chat.close()
    lb.rest()
    assert lb.reasons() == {}


def test_sessions_outlive_reloads_and_stand_beside_http(fastlb: Start, instant: Callable[[], object]) -> None:
    backend = instant()
    port = int(backend.address.rpartition(":")[2])  # type: ignore[attr-defined]
    lb = fastlb(sessions(port))
    assert lb.urls[0].startswith("tcp://")
    assert lb.urls[1].startswith("http://")
    raw = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    session = socket.create_connection(("127.0.0.1", lb.port), timeout=20)
    session.sendall(raw)
    assert session.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert lb.get(bind=1).status == 200
    lb.reload_ok(sessions(port, timeouts={"tunnel": "2h"}))
    session.sendall(raw)
    assert session.recv(4096).startswith(b"HTTP/1.1 200 ")
    metrics = lb.control.read("/metrics")[2].decode()
    assert 'fastlb_listener_connections{listener="db"} 1' in metrics
    assert 'fastlb_pool_requests_in_flight{pool="db"} 1' in metrics
    session.close()
    lb.rest()
    metrics = lb.control.read("/metrics")[2].decode()
    assert 'fastlb_listener_requests_total{listener="db",status_class="2xx"} 1' in metrics


def test_the_kernel_probes_silent_sessions_and_they_come_from_the_address_that_is_said(fastlb: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        keepalive = {"idle": "30s", "interval": "5s", "count": 3}
        text = configuration(
            listeners=[{"name": "db", "protocol": "tcp", "pool": "db", "tcp_keepalive": keepalive}],
            pools={
                "db": {
                    "backends": [f"127.0.0.1:{listening.getsockname()[1]}"],
                    "tcp_keepalive": keepalive,
                    "source_address": "127.0.0.9",
                    "health": {"type": "tcp", "interval": "1h"},
                }
            },
        )
        lb = fastlb(text)
        client = socket.create_connection(("127.0.0.1", lb.port), timeout=20)
        client.sendall(b"x")
        peers: dict[bytes, socket.socket] = {}
        for _ in range(2):  # the session and a probe, which says nothing
            peer, (host, _) = listening.accept()
            assert host == "127.0.0.9"
            said = b""
            with contextlib.suppress(ConnectionResetError):
                said = peer.recv(1)
            peers[said] = peer
        ports = {str(lb.port), str(listening.getsockname()[1])}
        shown = subprocess.run(["ss", "-tnoH", "state", "established"], capture_output=True, text=True, check=True).stdout
        ours = [line for line in shown.splitlines() if "keepalive" in line and any(f":{port}" in line for port in ports)]
        assert len(ours) == 2, shown
        client.close()
        peers[b"x"].close()
        lb.rest()
