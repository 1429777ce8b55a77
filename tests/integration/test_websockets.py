"""WebSockets with a real library on both ends."""

from contextlib import ExitStack
from urllib.parse import quote

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.support.configuration import configuration
from tests.support.waiting import wait_until
from tests.support.websocket import Chat, WebSocketEcho


@pytest.fixture
def echo(keep):
    """The address of a WebSocket server that sends every message back."""
    return keep(WebSocketEcho()).address


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


def test_it_goes_on_while_its_backend_drains_and_is_reloaded_away(fastlb, keep, instant):
    echo, other = keep(WebSocketEcho()), instant()
    lb = fastlb([echo], workers=2)
    chat = Chat(lb.port)
    chat.say()

    def state():
        (row,) = (row for row in lb.backends() if row["address"] == echo.address)
        return row["in_flight"], row["drain"] and row["drain"]["over"]

    path = f"/v1/backends/main/{quote(echo.address, safe='')}"
    assert lb.control.request("POST", path, {"admin": "drain", "timeout_ms": 600_000})[0] == 200
    chat.say()
    assert state() == (1, False)
    lb.reload_ok(configuration([echo, other]))
    chat.say()
    assert lb.get().status == 200, "of the other one"
    lb.reload_ok(configuration([other]))
    chat.say()
    lb.reload_ok(configuration([echo, other]))
    chat.say()
    assert state()[0] == 1
    chat.close()
    wait_until(lambda: state()[0] == 0, "it has ended")
    lb.rest()
