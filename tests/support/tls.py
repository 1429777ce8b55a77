"""TLS clients for an engine in this process: `ssl` over memory, so that the test moves every byte and pumps between them."""

import contextlib
import datetime
import ipaddress
import socket
import ssl
import tempfile
from collections.abc import Sequence
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from tests.support.images import Writer
from tests.support.pair import OK, Pair

TICKET_KEY = bytes(range(80))


@cache
def private_key(kind: str) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048) if kind == "rsa" else ec.generate_private_key(ec.SECP256R1())


@cache
def issue(*names: str, kind: str = "ecdsa", serial: int = 7) -> tuple[bytes, bytes]:
    """A certificate for these names that signed itself, and its key: PEM."""
    key = private_key(kind)
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .public_key(key.public_key())
        .serial_number(serial)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(serialization.Encoding.PEM), private


class Authority:
    """Who signs certificates of others."""

    def __init__(self, name: str = "authority.example") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.now = datetime.datetime.now(datetime.UTC)
        self.pem = self._sign(self.name, self.key.public_key(), 1, [x509.BasicConstraints(ca=True, path_length=0)])

    def _sign(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, serial: int, extensions: Sequence[x509.ExtensionType]) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .not_valid_before(self.now - datetime.timedelta(days=1))
            .not_valid_after(self.now + datetime.timedelta(days=30))
            .public_key(key)
            .serial_number(serial)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def issue(self, name: str, *, serial: int = 7, addresses: Sequence[str] = ()) -> tuple[bytes, bytes]:
        """A certificate for this name and these addresses, and its key: PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName(name), *(x509.IPAddress(ipaddress.ip_address(address)) for address in addresses)]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "A, B\r\nX: y")])
        chain = self._sign(subject, key.public_key(), serial, [x509.SubjectAlternativeName(names)])
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return chain, private

    def revoke(self, *serials: int) -> bytes:
        """The list of what is revoked: PEM."""
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.name).last_update(self.now)
        builder = builder.next_update(self.now + datetime.timedelta(days=1))
        for serial in serials:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(self.now).build()
            )
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


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
        tls: what SnapshotWriter.set_tls is given beside them.
    """

    def __init__(self, certificates: Sequence[tuple[bytes, bytes]] = (), *, keys: Sequence[bytes] = (TICKET_KEY,), **tls: Any) -> None:
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
        listener = writer.listener(max_body_bytes=0)
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
        world: Pair,
        sock: socket.socket,
        context: ssl.SSLContext,
        name: str | None = None,
        session: ssl.SSLSession | None = None,
        server_side: bool = False,
    ) -> None:
        self.world, self.sock = world, sock
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
