"""fastlb/data_plane/tls.pyx: TLS to backends, which the test plays."""

import contextlib
import socket
import ssl
from typing import Any

import pytest

from fastlb import _core
from tests.support.images import Writer
from tests.support.issue import Authority
from tests.support.pair import OK, Pair
from tests.support.tls import TlsClient, load_chain

AUTHORITY = Authority()
STRANGER = Authority("stranger.example")
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class BackendWorld(Pair):
    """Plain clients before `n` backends that speak TLS. `tls`: what set_backend_tls is given; None = nothing of it."""

    def __init__(self, tls_name: str = "app.example", n: int = 1, pool: dict[str, Any] | None = None, **tls: Any) -> None:
        self.tls: dict[str, Any] | None = {"ca": AUTHORITY.pem, **tls}
        self.tls_name = tls_name
        super().__init__(n=n, **{"attempts": 1, **(pool or {})})

    def load(self, **changes: Any) -> None:
        self.generation += 1
        writer = Writer(self.generation)
        writer.set_reason_header("X-Fastlb-Reason")
        writer.listener()
        number = writer.pool(**self.pool)
        for backend in self.backends:
            port = backend.getsockname()[1]
            address = _core.pack_address("127.0.0.1", port)
            name = f"127.0.0.1:{port}"
            writer.add_backend(number, identity=name, display=name, address=address, weight=1, max_in_flight=0, tls_name=self.tls_name)
        if self.tls is not None:
            changes = {**self.tls, **changes}
            certificate = changes.pop("shown", None)
            writer.set_backend_tls(number, certificate=writer.add_certificate(*certificate) if certificate else None, **changes)
        writer.add_route(host="", path_prefix="/", pool=number)
        self.apply_image(writer.image(), self.front)

    def serve(self, certificate: tuple[bytes, bytes], context: ssl.SSLContext | None = None, *, shake: bool = True) -> TlsClient:
        """The next connection that comes to the backend, as its side of it."""
        context = context or ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.names: list[str | None] = []
        context.sni_callback = lambda _, name, __: self.names.append(name)
        end = TlsClient(self, self.accept_any(), load_chain(context, certificate), server_side=True)
        return end.shake() if shake else end

    def reason(self, client: socket.socket) -> bytes:
        """Why fastlb answers this client itself."""
        return self.read_until(client, b"\r\n\r\n").partition(b"X-Fastlb-Reason: ")[2].partition(b"\r\n")[0]


def answer(end: TlsClient) -> None:
    end.receive_until(b"\r\n\r\n")
    end.send(OK)


GOOD = AUTHORITY.issue("app.example", addresses=["127.0.0.1"])


def test_backend_that_is_who_it_should_be_gets_requests_over_one_connection() -> None:
    with BackendWorld() as world:
        client = world.request(REQUEST)
        end = world.serve(GOOD)
        answer(end)
        assert world.read_until(client, b"ok").startswith(b"HTTP/1.1 200 OK\r\n")
        client.send(REQUEST)
        answer(end)
        world.read_until(client, b"ok")
        assert world.names == ["app.example"]
        assert world.counts("backend_reused", "backend_connections_opened", "tls_opened") == (1, 1, 1)
        end.sock.close()


@pytest.mark.parametrize(
    ("certificate", "tls"),
    [
        (STRANGER.issue("app.example"), {}),
        (AUTHORITY.issue("other.example"), {}),
        (AUTHORITY.issue("app.example", named=False), {}),  # a subject names nobody
        (AUTHORITY.issue("app.example"), {"server_name": "other.example"}),
        (AUTHORITY.issue("app.example"), {"tls_name": ""}),  # without a name it is its address that counts
    ],
)
def test_backend_that_is_somebody_else_is_not_sent_anything(certificate: tuple[bytes, bytes], tls: dict[str, Any]) -> None:
    with BackendWorld(**tls) as world:
        client = world.request(REQUEST)
        end = world.serve(certificate, shake=False)
        with contextlib.suppress(ssl.SSLError):
            end.shake()
            assert end.receive() == b""
        assert world.reason(client) == b"backend:tls_certificate"
        assert world.failures() == [1]


def test_address_is_verified_where_there_is_no_name_and_nothing_where_that_is_off() -> None:
    for world in (BackendWorld(tls_name=""), BackendWorld(verify=False)):
        with world:
            client = world.request(REQUEST)
            end = world.serve(GOOD if not world.tls_name else STRANGER.issue("whoever"))
            answer(end)
            world.read_until(client, b"ok")
            end.sock.close()


def test_next_connection_resumes_the_session_unless_the_settings_changed() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with BackendWorld() as world:
        for reload, resumed in ((False, False), (False, True), (True, False)):
            if reload:
                world.load(ca=AUTHORITY.pem + STRANGER.pem)
            client = world.request(REQUEST)
            end = world.serve(GOOD, context)
            assert end.ssl.session_reused == resumed
            answer(end)
            world.read_until(client, b"ok")
            end.sock.close()
            world.pump_until(lambda: world.counts("tls_opened") == world.counts("tls_closed"))


def test_certificate_of_ours_is_shown() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=AUTHORITY.pem.decode())
    with BackendWorld(shown=AUTHORITY.issue("fastlb.example")) as world:
        client = world.request(REQUEST)
        end = world.serve(GOOD, context)
        answer(end)
        world.read_until(client, b"ok")
        peer = end.ssl.getpeercert()
        assert peer
        assert ("commonName", "fastlb.example") in [pair for part in peer["subject"] for pair in part]
        end.sock.close()


def test_failed_handshake_is_tried_again_as_a_failed_connect_is() -> None:
    with BackendWorld(pool={"attempts": 2}) as world:
        world.load()
        client = world.request(REQUEST)
        world.accept().close()
        assert world.reason(client) == b"backend:tls_handshake"
        plain = world.request(REQUEST)
        peer = world.accept()
        peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        assert world.reason(plain) == b"backend:tls_handshake"
        peer.close()


def test_handshake_has_the_time_of_a_connect() -> None:
    with BackendWorld(pool={"connect_timeout_ms": 20}) as world:
        client = world.request(REQUEST)
        peer = world.accept()
        assert world.reason(client) == b"backend:connect_timeout"
        peer.close()


def test_answer_that_ends_without_a_goodbye_is_cut() -> None:
    with BackendWorld() as world:
        for goodbye in (True, False):
            client = world.request(REQUEST)
            end = world.serve(GOOD)
            end.receive_until(b"\r\n\r\n")
            end.send(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")
            world.read_until(client, b"until the end")
            if goodbye:
                with contextlib.suppress(ssl.SSLWantReadError):
                    end.ssl.unwrap()
                end.flush()
                world.read_until(client, b"0\r\n\r\n")
            end.sock.close()
            if not goodbye:
                assert b"0\r\n\r\n" not in world.read_all(client)


def test_connection_that_an_older_snapshot_makes_is_not_used_again() -> None:
    with BackendWorld(n=2, pool={"attempts": 2}) as world:
        world.tls = None
        world.load()
        client = world.request(REQUEST)
        first = world.accept_any()
        world.read_until(first, b"\r\n\r\n")
        world.tls = {"ca": AUTHORITY.pem}
        world.load()
        first.close()  # tried again, as the snapshot of the exchange says
        second = world.accept_any()
        world.read_until(second, b"\r\n\r\n")
        second.send(OK)
        world.read_until(client, b"ok")
        assert world.read(second) == b""
        for _ in world.backends:
            client.send(REQUEST)
            end = world.serve(GOOD)
            answer(end)
            world.read_until(client, b"ok")
            end.sock.close()
        second.close()


def test_connection_of_other_settings_is_not_used_again() -> None:
    with BackendWorld() as world:
        client = world.request(REQUEST)
        end = world.serve(GOOD)
        answer(end)
        world.read_until(client, b"ok")
        world.tls = None
        world.load()
        client.send(REQUEST)
        peer = world.accept()
        world.read_until(peer, b"\r\n\r\n")
        peer.send(OK)
        world.read_until(client, b"ok")
        end.sock.close()
        peer.close()
