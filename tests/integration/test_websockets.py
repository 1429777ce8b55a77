"""WebSockets with a real library on both ends."""

import threading
from contextlib import ExitStack

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from tests.support.backend import listen


@pytest.fixture
def echo():
    """The address of a WebSocket server that sends every message back."""

    def handle(connection: ServerConnection) -> None:
        assert connection.request is not None
        for message in connection:
            if message == "headers":
                connection.send(connection.request.headers.get("X-Forwarded-For", ""))
            elif message == "close":
                connection.close(4001, "as asked")
            else:
                connection.send(message)

    with serve(handle, sock=listen(), max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join()


def test_messages_of_all_sizes_come_back(fastlb, echo):
    lb = fastlb([echo])
    with connect(f"ws://127.0.0.1:{lb.port}/chat", max_size=None) as client:
        for message in ("hello", b"\0\1\2", "x" * 125, "y" * 126, b"z" * 65536, b"w" * 2_000_000):
            client.send(message)
            assert client.recv() == message
        client.send("headers")
        assert client.recv() == "127.0.0.1"


def test_close_handshake_passes_with_its_code(fastlb, echo):
    lb = fastlb([echo])
    with connect(f"ws://127.0.0.1:{lb.port}/") as client:
        client.send("close")
        with pytest.raises(ConnectionClosed) as closed:
            client.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as asked")


def test_many_at_once(fastlb, echo):
    lb = fastlb([echo])
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(f"ws://127.0.0.1:{lb.port}/{number}")) for number in range(20)]
        for number, client in enumerate(clients):
            client.send(f"message {number}")
        assert [client.recv() for client in clients] == [f"message {number}" for number in range(20)]
        assert lb.counter("tunnels_opened") - lb.counter("tunnels_closed") == 20
        assert lb.backends()[0]["in_flight"] == 20
