"""WebSockets with a real library on both ends."""

import threading
from contextlib import ExitStack

from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from tests.support.backend import listen
from tests.support.waiting import DEADLINE_SECONDS


class WebSocketEcho:
    """A backend that sends every message back; "headers" and "close" are asked what they say."""

    def __init__(self) -> None:
        self._server = serve(self._handle, sock=listen(), max_size=None, ping_interval=None)
        self.address = f"127.0.0.1:{self._server.socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @staticmethod
    def _handle(connection: ServerConnection) -> None:
        assert connection.request is not None
        for message in connection:
            if message == "headers":
                connection.send(connection.request.headers.get("X-Forwarded-For", ""))
            elif message == "close":
                connection.close(4001, "as asked")
            else:
                connection.send(message)

    def end_connections(self) -> None:
        """They end with their clients."""

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()


class Chat:
    """A client that is open until it is closed."""

    def __init__(self, port: int, path: str = "/chat") -> None:
        self._stack = ExitStack()
        # Without pings: a machine that stands still for as long as these wait is no failure.
        connecting = connect(f"ws://127.0.0.1:{port}{path}", open_timeout=DEADLINE_SECONDS, ping_interval=None)
        self._connection = self._stack.enter_context(connecting)
        self._n_said = 0

    def say(self) -> None:
        """A message there and back."""
        self._n_said += 1
        text = f"{self._n_said} " + "x" * 1000
        self._connection.send(text)
        assert self._connection.recv(DEADLINE_SECONDS) == text

    def close(self) -> None:
        """In order, with the closing handshake."""
        self._stack.close()
        assert self._connection.close_code == 1000
