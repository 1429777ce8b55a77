"""HTTP/2 to backends that speak TLS: what ALPN says is spoken. The test plays the backends."""

import socket
import ssl
from typing import Any

import pytest

from fastlb import _core
from tests.support.http2_backend import OK, Backend
from tests.support.images import Writer
from tests.support.issue import Authority
from tests.support.pair import OK as OK_HTTP1
from tests.support.pair import Pair
from tests.support.tls import TlsClient, load_chain

AUTHORITY = Authority()
GOOD = AUTHORITY.issue("app.example", addresses=["127.0.0.1"])
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LENGTH_OK = [*OK, ("content-length", "2")]
OFFERED = {"http2": [b"h2"], "auto": [b"h2", b"http/1.1"]}


class AlpnWorld(Pair):
    """Plain clients before one backend that speaks TLS."""

    def __init__(self, protocol: str, **pool: Any) -> None:
        super().__init__(n=1, **{"attempts": 1, "protocol": protocol, **pool})

    def load(self, **changes: Any) -> None:
        self.generation += 1
        self.pool |= changes
        writer = Writer(self.generation)
        writer.set_reason_header("X-Fastlb-Reason")
        writer.listener()
        number = writer.pool(**self.pool)
        port = self.backend.getsockname()[1]
        address = _core.pack_address("127.0.0.1", port)
        writer.add_backend(number, identity="api|a", display="a", address=address, weight=1, max_in_flight=0, tls_name="app.example")
        writer.set_backend_tls(number, ca=AUTHORITY.pem, alpn=OFFERED[self.pool["protocol"]])
        writer.add_route(host="", path_prefix="/", pool=number)
        self.apply_image(writer.image(), self.front)

    def serve(self, *protocols: str) -> TlsClient:
        """The next connection that comes to the backend, as the side of it that prefers these protocols."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return TlsClient(self, self.accept_any(), load_chain(context, GOOD), server_side=True).shake()

    def ask(self, request: bytes = REQUEST) -> socket.socket:
        client = self.client()
        client.send(request)
        return client


class TlsBackend(Backend):
    """One connection of HTTP/2 over TLS."""

    def __init__(self, world: Pair, end: TlsClient) -> None:
        self.end = end
        super().__init__(world, end.sock)

    def send(self, data: bytes) -> None:
        self.end.send(data)

    def read(self) -> bytes | None:
        while True:
            try:
                return self.end.ssl.read(65536)
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLWantReadError:
                try:
                    data = self.end.sock.recv(65536)
                except BlockingIOError:
                    return None
                if not data:
                    return b""
                self.end.incoming.write(data)


def answer_http1(end: TlsClient) -> None:
    end.receive_until(b"\r\n\r\n")
    end.send(OK_HTTP1)


@pytest.mark.parametrize("protocol", ["http2", "auto"])
def test_http2_is_spoken_where_the_backend_chooses_it(protocol: str) -> None:
    with AlpnWorld(protocol) as world:
        clients = [world.ask() for _ in range(3)]
        end = world.serve("h2", "http/1.1")
        assert end.ssl.selected_alpn_protocol() == "h2"
        backend = TlsBackend(world, end)
        backend.wait_for(lambda: sum(one.ended for one in backend.requests.values()) == 3)
        assert (":scheme", "https") in backend.requests[1].fields
        for number in (1, 3, 5):
            backend.answer(number, fields=LENGTH_OK)
        for client in clients:
            assert world.read_until(client, b"ok").startswith(b"HTTP/1.1 200 OK\r\n")
        assert world.counts("backend_connections_opened", "backend_streams_opened") == (1, 3)
        end.sock.close()


def test_a_backend_that_does_not_choose_http2_fails_a_pool_that_asks_for_it() -> None:
    with AlpnWorld("http2") as world:
        client = world.ask()
        world.serve()
        assert b"X-Fastlb-Reason: backend:no_http2\r\n" in world.read_until(client, b"\r\n\r\n")


def test_a_backend_that_chooses_http1_gets_it_and_every_attempt_a_connection() -> None:
    with AlpnWorld("auto") as world:
        clients = [world.ask() for _ in range(3)]
        first = world.serve("http/1.1")
        ends = [first, world.serve("http/1.1"), world.serve("http/1.1")]
        for end in ends:
            assert end.ssl.selected_alpn_protocol() == "http/1.1"
            answer_http1(end)
        for client in clients:
            assert world.read_until(client, b"ok").startswith(b"HTTP/1.1 200 OK\r\n")
        clients[0].send(REQUEST)  # on an idle connection, as with any pool of HTTP/1.1
        world.pump_until(lambda: world.counts("backend_reused") == (1,))
        assert world.counts("backend_connections_opened", "backend_sessions_opened", "backend_sessions_closed") == (3, 1, 1)
        for end in ends:
            end.sock.close()
        world.read_until(clients[0], b"\r\n\r\n")


def test_what_was_read_ahead_goes_to_the_connection_that_is_left(protocol: str = "auto") -> None:
    with AlpnWorld(protocol) as world:
        client = world.ask(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
        end = world.serve("http/1.1")
        assert end.receive_until(b"0\r\n\r\n").endswith(b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
        end.send(OK_HTTP1)
        world.read_until(client, b"ok")
        end.sock.close()


def test_a_connection_is_made_for_as_long_as_the_last_attempt_waits() -> None:
    with AlpnWorld("http2", connect_timeout_ms=100) as world:
        hasty = world.ask()
        world.pump_until(lambda: world.counts("backend_streams_opened") == (1,))
        world.load(connect_timeout_ms=5000)
        patient = world.ask()
        assert b"backend:connect_timeout" in world.read_until(hasty, b"\r\n\r\n")
        end = world.serve("h2")
        backend = TlsBackend(world, end)
        backend.wait_whole()
        backend.answer(fields=LENGTH_OK)
        world.read_until(patient, b"ok")
        assert world.counts("backend_connections_opened") == (1,)
        end.sock.close()
