"""TCP sessions over TLS through a whole process: certificates from files, TLS to backends, names and protocols that choose pools, curl."""

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.backend import address_of, listen
from tests.support.certificates import make_certificates
from tests.support.configuration import configuration
from tests.support.process import Fastlb

Start = Callable[..., Fastlb]
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\npassed"


@contextlib.contextmanager
def answering(serve: Callable[[socket.socket], None], context: ssl.SSLContext | None = None) -> Iterator[str]:
    """The address of a backend of which each connection is served in a thread."""
    listening = listen()

    def run(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.closing(connection):
            serve(context.wrap_socket(connection, server_side=True) if context else connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=run, args=(listening.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield address_of(listening)
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


def echo(connection: socket.socket) -> None:
    """Sends back what comes, then an end for an end."""
    while data := connection.recv(65536):
        connection.sendall(data)
    if isinstance(connection, ssl.SSLSocket):
        connection.unwrap()
    connection.shutdown(socket.SHUT_RDWR)


def answer(connection: socket.socket) -> None:
    """One request of HTTP."""
    while b"\r\n\r\n" not in connection.recv(65536):
        pass
    connection.sendall(ANSWER)
    if isinstance(connection, ssl.SSLSocket):
        connection.unwrap()


def ask(lb: Fastlb, bind: int, authority: Path, *protocols: str, name: str = "db.example") -> tuple[ssl.SSLSocket, bytes]:
    """A client that sends a megabyte and reads it back."""
    context = ssl.create_default_context(cafile=str(authority))
    if protocols:
        context.set_alpn_protocols(protocols)
    client = context.wrap_socket(socket.create_connection(("127.0.0.1", lb.port_of(bind)), timeout=20), server_hostname=name)
    data = bytes(range(256)) * 4096
    sender = threading.Thread(target=client.sendall, args=(data,))
    sender.start()
    received = b""
    while len(received) < len(data):
        received += client.recv(65536)
    sender.join()
    return client, received


def test_tls_ends_here_begins_here_or_passes_through(fastlb: Start, tmp_path: Path) -> None:
    made = make_certificates(tmp_path, "db.example", "cache.example")
    made.chain.chmod(0o600)
    tls = {"certificates": str(made.chain), "alpn": ["postgresql", "x-redis"]}
    with (
        answering(echo) as plain,
        answering(echo, made.server_context()) as secure,
        answering(answer, made.server_context()) as web,
        answering(lambda connection: connection.sendall(connection.recv(1) and b"redis")) as redis,
    ):
        text = configuration(
            listeners=[
                {"name": "ends", "protocol": "tcp", "pool": "plain", "tls": tls, "sni": [{"names": "cache.example", "pool": "redis"}]},
                {"name": "again", "protocol": "tcp", "pool": "secure", "tls": tls},
                {"name": "begins", "protocol": "tcp", "pool": "secure"},
                {"name": "passes", "protocol": "tcp", "sni": [{"names": "*.example", "alpn": ["http/1.1"], "pool": "web"}]},
            ],
            pools={
                "plain": {"backends": [plain]},
                "secure": {"backends": [secure], "tls": {"ca": str(made.authority), "server_name": "db.example"}},
                "web": {"backends": [web]},
                "redis": {"backends": [redis]},
            },
        )
        lb = fastlb(text)
        for bind in (0, 1):
            client, received = ask(lb, bind, made.authority, "x-redis", "postgresql")
            assert received == bytes(range(256)) * 4096
            assert client.selected_alpn_protocol() == "postgresql"
            client.unwrap().close()
        context = ssl.create_default_context(cafile=str(made.authority))
        raw = socket.create_connection(("127.0.0.1", lb.port_of(0)), timeout=20)
        with context.wrap_socket(raw, server_hostname="cache.example") as cache:
            cache.sendall(b"x")
            assert cache.recv(99) == b"redis"
            assert cache.recv(99) == b""
        with socket.create_connection(("127.0.0.1", lb.port_of(2)), timeout=20) as bare:
            bare.sendall(b"in the open here, sealed behind")
            bare.shutdown(socket.SHUT_WR)
            assert b"".join(iter(lambda: bare.recv(99), b"")) == b"in the open here, sealed behind"
        resolve = f"a.example:{lb.port_of(3)}:127.0.0.1"
        command = ["curl", "-sS", "--insecure", "--http1.1", "--resolve", resolve, f"https://a.example:{lb.port_of(3)}/"]
        done = subprocess.run(command, capture_output=True, timeout=60, check=True)
        assert done.stdout == b"passed"
        lb.rest()
        metrics = lb.control.read("/metrics")[2].decode()
        assert 'fastlb_listener_requests_total{listener="ends",status_class="2xx"} 2' in metrics
        assert lb.reasons() == {}
