"""The server of the admin API: uvicorn's HTTP/1.1 protocol (on h11) over sockets that the supervisor has bound.

Owns its copies of the listening sockets and every conversation. uvicorn's own server is not used: it would take the signals, a loop and a
tick of its own, and accept without limit. What a caller can hold is bounded: connections, bytes of a head, and the time for
a request and for its answer.
"""

import asyncio
import logging
import socket
from contextlib import suppress
from email.utils import formatdate
from typing import Any

import h11
import uvicorn.lifespan.off  # noqa: F401  uvicorn would import it at its first use
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from fastlb.processes.output import report

# An operator's commands, a collector or two and what they left open. Others wait in the queue of the socket.
MAX_CONNECTIONS = 100
# A request line and the few fields that a caller sends.
MAX_HEAD_BYTES = 16 << 10
# The longest that a caller may take from its first byte to its last, and to take what it has been sent.
REQUEST_SECONDS = 10.0
# An idle conversation; as long as a client of a listener has by default.
IDLE_SECONDS = 75
# After an accept that failed, out of descriptors most likely.
RETRY_SECONDS = 1.0


class AdminServer:
    """Serves one application until it is closed.

    Args:
        app: the ASGI application. What it raises is a mistake of ours: it answers for itself.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, app: Any) -> None:
        self._loop = loop
        self._config = Config(
            app,
            loop="none",
            http=Protocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=IDLE_SECONDS,
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        )
        # What a caller does wrong it is told itself.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        self._config.load()
        self._state = ServerState()
        self._listening: list[socket.socket] = []
        self._is_accepting = False
        self._n_open = 0  # conversations, from their accept to their end
        self._joining: set[asyncio.Task[Any]] = set()

    def open(self, listening: socket.socket) -> None:
        """Begins to accept from a listening socket, owned from now on."""
        self._listening.append(listening)
        self._is_accepting = False
        self._accept_if_room()

    def leave(self) -> None:
        """Accepts nobody any more, as another fastlb does; who talks is answered."""
        self._stop_accepting()
        for one in self._listening:
            one.close()
        self._listening.clear()

    def close(self) -> None:
        """Ends every conversation. The sockets go on to listen: they are the supervisor's."""
        self.leave()
        for task in [*self._joining, *self._state.tasks]:
            task.cancel()
        for conversation in list(self._state.connections):
            with suppress(AttributeError):
                conversation.transport.abort()

    def _accept(self, listening: socket.socket) -> None:
        try:
            connection, _ = listening.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as error:
            report(f"the admin API cannot accept: {(error.strerror or str(error)).lower()}")
            self._stop_accepting()
            self._loop.call_later(RETRY_SECONDS, self._accept_if_room)
            return
        connection.setblocking(False)
        self._n_open += 1
        task = self._loop.create_task(self._join(connection))
        self._joining.add(task)
        task.add_done_callback(self._joining.discard)
        if self._n_open >= MAX_CONNECTIONS:
            self._stop_accepting()

    async def _join(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make_protocol, connection)
        except OSError:  # gone already
            connection.close()
            self._on_end()

    def _make_protocol(self) -> asyncio.Protocol:
        return Protocol(self._config, self._state, {}, self._loop, self._on_end)

    def _on_end(self) -> None:
        self._n_open -= 1
        self._accept_if_room()

    def _accept_if_room(self) -> None:
        if not self._is_accepting and self._n_open < MAX_CONNECTIONS:
            self._is_accepting = True
            for one in self._listening:
                self._loop.add_reader(one.fileno(), self._accept, one)

    def _stop_accepting(self) -> None:
        self._is_accepting = False
        for one in self._listening:
            self._loop.remove_reader(one.fileno())


class Protocol(H11Protocol):
    """One conversation: uvicorn's, with time limits for requests and for who does not read, and errors in the API's form."""

    def __init__(self, config: Config, state: ServerState, app_state: dict[str, Any], loop: Any = None, on_end: Any = None) -> None:
        super().__init__(config, state, app_state, loop)
        self._on_end = on_end
        self._deadline: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # writing is paused by any byte that the caller does not take
        self._watch()

    def data_received(self, data: bytes) -> None:
        self.server_state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._end_pause()
        if self._on_end is not None:
            self._on_end()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread is None:  # closing would wait for the caller, so that nothing but this ends it
            self._unread = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._end_pause()

    def _end_pause(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _watch(self) -> None:
        """Runs the clock while a request is on its way."""
        if self.timeout_keep_alive_task is None and self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            if self._deadline is None:
                self._deadline = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)
        elif self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE) or (self.cycle is not None and not self.cycle.response_complete):
            self.transport.abort()  # in the middle of an answer
            return
        body = b'{"errors": ["this is no HTTP/1.1 request, or its head is too long"]}\n'
        fields = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        for event in (h11.Response(status_code=400, headers=fields, reason="Bad Request"), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
