"""A backend that speaks HTTP/2 in the in-process world: h2 keeps its state and writes its frames; nothing is repaired on the way out."""

import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, RequestReceived, StreamEnded, StreamReset, TrailersReceived
from h2.settings import SettingCodes, Settings

from tests.support.http2 import Fields
from tests.support.world import World

OK: Fields = [(":status", "200"), ("date", "x")]


@dataclass
class Request:
    """What has come on one stream."""

    fields: Fields = field(default_factory=list)
    body: bytes = b""
    trailers: Fields = field(default_factory=list)
    ended: bool = False
    reset: int | None = None

    @property
    def path(self) -> str:
        return dict(self.fields)[":path"]


class Backend:
    """One connection that fastlb has made.

    Args:
        window: of each stream; with it windows are opened only when told to.
        streams: how many it allows.
        connects: whether it takes WebSockets.
        begin: whether it sends its preface.
    """

    def __init__(
        self,
        world: World,
        peer: socket.socket,
        *,
        window: int | None = None,
        streams: int | None = None,
        connects: bool = True,
        begin: bool = True,
    ) -> None:
        self.world = world
        self.socket = peer
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.h2 = H2Connection(
            H2Configuration(
                client_side=False,
                header_encoding="latin-1",
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
                validate_inbound_headers=True,
            )
        )
        self.opens_windows = window is None
        initial: dict[int, int] = {SettingCodes.ENABLE_CONNECT_PROTOCOL: int(connects)}
        if window is not None:
            initial[SettingCodes.INITIAL_WINDOW_SIZE] = window
        if streams is not None:
            initial[SettingCodes.MAX_CONCURRENT_STREAMS] = streams
        self.h2.local_settings = Settings(client=False, initial_values=initial)
        self.requests: dict[int, Request] = {}
        self.events: list[Event] = []
        self.closed = False
        if begin:
            self.h2.initiate_connection()
            self.flush()

    def flush(self) -> None:
        """Sends what h2 has written."""
        self.send(self.h2.data_to_send())

    def send(self, data: bytes) -> None:
        sent = 0

        def push() -> bool:
            nonlocal sent
            with contextlib.suppress(BlockingIOError):
                while sent < len(data):
                    try:
                        sent += self.socket.send(data[sent:])
                    except (BrokenPipeError, ConnectionResetError):
                        return True
            return sent == len(data)

        self.world.pump_until(push)

    def read(self) -> bytes | None:
        """What has come; b"" at the end, None where nothing has."""
        try:
            return self.socket.recv(65536)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            return b""

    def take(self) -> None:
        """Takes in what has come, if anything has."""
        data = self.read()
        if data is None:
            return
        if not data:
            self.closed = True
            return
        for event in self.h2.receive_data(data):
            self.events.append(event)
            self.note(event)
        self.flush()

    def note(self, event: Event) -> None:
        request = self.requests.setdefault(getattr(event, "stream_id", 0) or 0, Request())
        if isinstance(event, RequestReceived):
            request.fields = [(str(name), str(value)) for name, value in event.headers]
        elif isinstance(event, DataReceived):
            request.body += event.data
            if self.opens_windows and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, TrailersReceived):
            request.trailers = [(str(name), str(value)) for name, value in event.headers]
        elif isinstance(event, StreamEnded):
            request.ended = True
        elif isinstance(event, StreamReset):
            request.reset = int(event.error_code)

    def wait_for(self, done: Callable[[], object]) -> None:
        def look() -> object:
            self.take()
            return done() or self.closed

        self.world.pump_until(look)

    def wait(self, number: int = 1) -> Request:
        """Until the head of the request on this stream is here."""
        self.wait_for(lambda: number in self.requests and self.requests[number].fields)
        return self.requests[number]

    def wait_whole(self, number: int = 1) -> Request:
        """Until the request on this stream has ended, or was reset."""
        self.wait_for(lambda: number in self.requests and (self.requests[number].ended or self.requests[number].reset is not None))
        return self.requests[number]

    def answer(self, number: int = 1, body: bytes | None = b"ok", fields: Fields = OK, trailers: Fields | None = None) -> None:
        self.h2.send_headers(number, fields, end_stream=body is None and trailers is None)
        if body is not None:
            self.h2.send_data(number, body, end_stream=trailers is None)
        if trailers is not None:
            self.h2.send_headers(number, trailers, end_stream=True)
        self.flush()
