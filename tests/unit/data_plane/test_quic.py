"""A real QUIC implementation (aioquic) through a UDP listener: handshake, streams, and clients whose address changes."""

import os
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from aioquic.buffer import Buffer
from aioquic.quic import connection as quic
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import HandshakeCompleted, StreamDataReceived
from aioquic.quic.packet import pull_quic_header

from tests.support.certificates import make_certificates
from tests.support.datagrams import Datagrams
from tests.support.waiting import DEADLINE_SECONDS

ID_BYTES = 9  # no other random number of aioquic has as many


class Backend:
    """One QUIC server, whose connection ids carry its name behind their first byte; it sends back what it gets, and its name."""

    def __init__(self, world: Datagrams, number: int, certificates: tuple[Path, Path]) -> None:
        self.world = world
        self.socket = world.backends[number]
        self.name = bytes([0, number])
        self.configuration = QuicConfiguration(is_client=False, alpn_protocols=["x"], connection_id_length=ID_BYTES)
        self.configuration.load_cert_chain(*certificates)
        self.connections: list[quic.QuicConnection] = []
        self.clients: set[object] = set()

    def work(self) -> None:
        """Answers what has come."""
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(quic, "os", SimpleNamespace(urandom=self._random))
            while True:
                try:
                    data, peer = self.socket.recvfrom(65536)
                except BlockingIOError:
                    return
                self.clients.add(peer)
                header = pull_quic_header(Buffer(data=data), host_cid_length=ID_BYTES)
                if not self.connections:
                    made = quic.QuicConnection(configuration=self.configuration, original_destination_connection_id=header.destination_cid)
                    self.connections.append(made)
                (connection,) = self.connections
                connection.receive_datagram(data, peer, time.monotonic())
                while (event := connection.next_event()) is not None:
                    if isinstance(event, StreamDataReceived):
                        connection.send_stream_data(event.stream_id, event.data + self.name * event.end_stream, end_stream=event.end_stream)
                for answer, to in connection.datagrams_to_send(time.monotonic()):
                    self.socket.sendto(answer, to)

    def _random(self, size: int) -> bytes:
        return b"\x00" + self.name + os.urandom(size - 3) if size == ID_BYTES else os.urandom(size)


class Client:
    """A QUIC client, which can change its address."""

    def __init__(self, world: Datagrams, backends: list[Backend]) -> None:
        self.world = world
        self.backends = backends
        self.socket = world.client()
        configuration = QuicConfiguration(is_client=True, alpn_protocols=["x"], verify_mode=ssl.CERT_NONE, server_name="app.example")
        self.connection = quic.QuicConnection(configuration=configuration)
        self.connection.connect(self.world.listening.getsockname(), time.monotonic())
        self.answers: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.is_connected = False

    def move(self) -> None:
        self.socket = self.world.client()
        self.connection.change_connection_id()

    def ask(self, data: bytes) -> bytes:
        stream = self.connection.get_next_available_stream_id()
        self.connection.send_stream_data(stream, data, end_stream=True)
        self.work_until(lambda: stream in self.ended)
        return self.answers[stream]

    def work_until(self, done: object) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not done():  # type: ignore[operator]
            assert time.monotonic() < deadline, "nothing comes any more"
            for data, _ in self.connection.datagrams_to_send(time.monotonic()):
                self.socket.send(data)
            self.world.settle()
            for backend in self.backends:
                backend.work()
            self.world.settle()
            self._receive()

    def _receive(self) -> None:
        while True:
            try:
                data = self.socket.recv(65536)
            except BlockingIOError:
                break
            self.connection.receive_datagram(data, self.world.listening.getsockname(), time.monotonic())
        while (event := self.connection.next_event()) is not None:
            if isinstance(event, HandshakeCompleted):
                self.is_connected = True
            elif isinstance(event, StreamDataReceived):
                self.answers[event.stream_id] = self.answers.get(event.stream_id, b"") + event.data
                if event.end_stream:
                    self.ended.add(event.stream_id)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A server's certificate and its key."""
    directory = tmp_path_factory.mktemp("quic")
    made = make_certificates(directory, "app.example")
    key, certificate = made.chain.read_bytes().split(b"-----BEGIN CERTIFICATE", 1)
    (directory / "key.pem").write_bytes(key)
    (directory / "certificate.pem").write_bytes(b"-----BEGIN CERTIFICATE" + certificate)
    return directory / "certificate.pem", directory / "key.pem"


@pytest.fixture
def world() -> Iterator[Datagrams]:
    with Datagrams(3, clients=64) as made:
        yield made


def test_a_connection_outlives_its_clients_addresses(world: Datagrams, certificates: tuple[Path, Path]) -> None:
    backends = [Backend(world, number, certificates) for number in range(3)]
    world.start(server_ids=[(one.name, number) for number, one in enumerate(backends)], server_id_offset=1)
    client = Client(world, backends)
    client.work_until(lambda: client.is_connected)
    at = client.ask(b"hello")[-2:]
    for number in range(5):  # in turn any other backend would have had one of these
        client.move()
        assert client.ask(b"%d" % number) == b"%d" % number + at
    (serving,) = [one for one in backends if one.connections]
    assert len(serving.clients) == 6, "each address of the client has a session"
    assert world.counters()["udp_sessions_opened"] == 6
    assert world.counters()["udp_sessions_moved"] == 0


def test_much_data_arrives_whole(world: Datagrams, certificates: tuple[Path, Path]) -> None:
    backends = [Backend(world, number, certificates) for number in range(3)]
    world.start(server_ids=[(one.name, number) for number, one in enumerate(backends)], server_id_offset=1)
    client = Client(world, backends)
    client.work_until(lambda: client.is_connected)
    sent = bytes(range(256)) * 800
    assert client.ask(sent)[:-2] == sent
    assert world.open_sessions() == 1
