"""TLS clients for an engine in this process: `ssl` over memory, so that the test moves every byte and pumps between them."""

import contextlib
import socket
import ssl
import tempfile
from collections.abc import Sequence
from typing import Any

from tests.support.images import Writer
from tests.support.issue import issue
from tests.support.pair import OK, Pair
from tests.support.world import World

TICKET_KEY = bytes(range(80))


def load_chain(context: ssl.SSLContext, certificate: tuple[bytes, bytes]) -> ssl.SSLContext:
    """The context with this certificate and its key, which `ssl` takes from a file only."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"".join(certificate))
        file.flush()
        context.load_cert_chain(file.name)
    return context


def client_context(**changes: Any) -> ssl.SSLContext:
    """One that believes whoever answers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for name, value in changes.items():
        setattr(context, name, value)
    return context


class TlsWorld(Pair):
    """An engine whose one listener speaks TLS, before backends that the test plays.

    Args:
        certificates: PEM chains with their keys; without any one for "a.example" is served to everybody.
        listener: settings of the listener.
        tls: what SnapshotWriter.set_tls is given beside them.
    """

    def __init__(
        self,
        certificates: Sequence[tuple[bytes, bytes]] = (),
        *,
        keys: Sequence[bytes] = (TICKET_KEY,),
        listener: dict[str, int] | None = None,
        **tls: Any,
    ) -> None:
        self.listener = listener or {}
        self.certificates = certificates or [issue("a.example")]
        self.keys = keys
        self.edits: list[tuple[str, str, list[Any]]] = []
        self.tls = {"identities": [[0]], "names": [("a.example", 0)], "default": 0, **tls}
        super().__init__(n=1)

    def load(self, **changes: Any) -> None:
        """Another snapshot, with these settings of TLS changed."""
        self.generation += 1
        self.tls |= changes
        writer = Writer(self.generation)
        writer.set_reason_header("X-Fastlb-Reason")
        listener = writer.listener(max_body_bytes=0, **self.listener)
        for chain, key, *ocsp in self.certificates:
            writer.add_certificate(chain, key, *ocsp)
        writer.set_tls(listener, **self.tls)
        writer.set_ticket_keys(self.keys)
        writer.backend(writer.pool(algorithm="round_robin"), self.backend.getsockname()[1])
        route = writer.add_route(host="", path_prefix="/", pool=0)
        if self.edits:
            writer.edit_request(route, self.edits)
        self.apply_image(writer.image(), self.front)

    def tls_client(
        self, context: ssl.SSLContext | None = None, name: str | None = None, session: ssl.SSLSession | None = None
    ) -> "TlsClient":
        return TlsClient(self, self.client(), context or client_context(), name, session)

    def answer(self, response: bytes = OK, peer: socket.socket | None = None) -> socket.socket:
        """Plays the backend for the next request; its connection."""
        peer = peer or self.accept()
        self.request_head = self.read_until(peer, b"\r\n\r\n")
        peer.setblocking(True)
        peer.sendall(response)
        peer.setblocking(False)
        return peer


class TlsClient:
    """One connection with the engine, a client's or with `server_side` a backend's. `step`: bytes that leave in one send; 0 = all."""

    def __init__(
        self,
        world: World,
        sock: socket.socket,
        context: ssl.SSLContext,
        name: str | None = None,
        session: ssl.SSLSession | None = None,
        server_side: bool = False,
    ) -> None:
        self.world, self.sock = world, sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else steps are put together on their way
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl = context.wrap_bio(self.incoming, self.outgoing, server_hostname=name, session=session, server_side=server_side)
        self.step = 0
        self.ended = False

    def flush(self) -> None:
        data = self.outgoing.read()
        step = self.step or len(data)
        while data:
            try:
                sent = self.sock.send(data[:step])
            except BlockingIOError:
                self.world.engine.pump()
                continue
            data = data[sent:]
            if self.step:
                self.world.engine.pump()

    def pull(self) -> None:
        """Waits for what comes next."""
        try:
            data = self.world.read(self.sock)
        except ConnectionResetError:
            data = b""
        if data:
            self.incoming.write(data)
        else:
            self.ended = True
            self.incoming.write_eof()

    def shake(self) -> "TlsClient":
        while True:
            try:
                self.ssl.do_handshake()
            except ssl.SSLWantReadError:
                self.flush()
                self.pull()
            else:
                self.flush()
                return self

    def send(self, data: bytes) -> None:
        self.ssl.write(data)
        self.flush()

    def receive(self) -> bytes:
        """What comes next; b"" at an orderly end."""
        while True:
            try:
                return self.ssl.read(65536)
            except ssl.SSLWantReadError:
                self.flush()
                self.pull()
            except ssl.SSLZeroReturnError:
                return b""

    def receive_until(self, mark: bytes) -> bytes:
        received = b""
        while mark not in received:
            data = self.receive()
            assert data, f"ended after {received[-200:]!r}"
            received += data
        return received

    def refusal(self) -> str:
        """The name of the alert with which the handshake ends."""
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            try:
                self.shake()
                self.receive()
            except ssl.SSLError as error:
                return str(error.reason)
        return ""


def exchange(world: TlsWorld, client: TlsClient, peer: socket.socket | None = None) -> socket.socket:
    """One request with its answer."""
    client.send(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
    peer = world.answer(peer=peer)
    assert client.receive_until(b"\r\n\r\nok").startswith(b"HTTP/1.1 200 OK\r\n")
    return peer
