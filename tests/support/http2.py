"""A client of HTTP/2 in the in-process world: h2 keeps its state and writes its frames; nothing is repaired on the way out."""

import socket
from dataclasses import dataclass, field

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    Event,
    InformationalResponseReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame

from tests.support.world import World

Fields = list[tuple[str, str]]


@dataclass
class Stream:
    """What has come back on one stream."""

    interim: list[Fields] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)
    listed: Fields = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    trailers: dict[str, str] = field(default_factory=dict)
    ended: bool = False
    reset: int | None = None


class Client:
    """One connection. With `window` it opens windows only when told to."""

    def __init__(self, world: World, listening: socket.socket, window: int | None = None, frame_bytes: int | None = None) -> None:
        self.world = world
        self.socket = world.connect(listening)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.h2 = H2Connection(
            H2Configuration(
                client_side=True,
                header_encoding="latin-1",
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
                validate_inbound_headers=True,
            )
        )
        self.opens_windows = window is None
        if window is not None:
            self.h2.local_settings = Settings(client=True, initial_values={SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.streams: dict[int, Stream] = {}
        self.goaway: GoAwayFrame | None = None  # the last one; h2 would take the first one for the end
        self.unread = b""
        self.closed = False
        self.h2.initiate_connection()
        self.flush(frame_bytes)

    def flush(self, piece: int | None = None) -> None:
        """Sends what h2 has written, `piece` bytes at a time."""
        self.send(self.h2.data_to_send(), piece)

    def send(self, data: bytes, piece: int | None = None) -> None:
        sent = 0

        def push() -> bool:
            nonlocal sent
            while sent < len(data):
                try:
                    sent += self.socket.send(data[sent : sent + (piece or len(data))])
                except BlockingIOError:
                    return False
                except (BrokenPipeError, ConnectionResetError):
                    return True
                if piece:
                    self.world.engine.pump()
            return True

        self.world.pump_until(push)

    def request(
        self, path: str = "/", method: str = "GET", *more: tuple[str, str], body: bytes | None = None, trailers: Fields | None = None
    ) -> int:
        fields = [(":method", method), (":scheme", "http"), (":authority", "a"), (":path", path), *more]
        return self.submit(fields, body, trailers)

    def submit(self, fields: Fields, body: bytes | None = None, trailers: Fields | None = None) -> int:
        number = self.begin(fields, end=body is None and trailers is None, flush=False)
        if body is not None:
            self.h2.send_data(number, body, end_stream=trailers is None)
        if trailers is not None:
            self.h2.send_headers(number, trailers, end_stream=True)
        self.flush()
        return number

    def begin(self, fields: Fields, end: bool = False, flush: bool = True) -> int:
        """Sends a header list, with nothing behind it yet."""
        number = self.h2.get_next_available_stream_id()
        self.streams[number] = Stream()
        self.h2.send_headers(number, fields, end_stream=end)
        if flush:
            self.flush()
        return number

    def take(self) -> None:
        """Takes in what has come, if anything has."""
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            self.closed = True
            return
        self.unread += data
        while len(self.unread) >= 9 and len(self.unread) >= (size := 9 + int.from_bytes(self.unread[:3], "big")):
            frame, self.unread = self.unread[:size], self.unread[size:]
            if frame[3] == 7:
                self.goaway = GoAwayFrame(0)
                self.goaway.parse_body(memoryview(frame)[9:])
                continue
            if (number := int.from_bytes(frame[5:9], "big")) and number not in self.streams:
                continue  # of a stream whose frames the test wrote itself
            for event in self.h2.receive_data(frame):
                self.note(event)
        self.flush()

    def note(self, event: Event) -> None:
        stream = self.streams.get(getattr(event, "stream_id", 0) or 0, Stream())
        if isinstance(event, InformationalResponseReceived):
            stream.interim.append([(str(name), str(value)) for name, value in event.headers])
        elif isinstance(event, ResponseReceived):
            stream.listed = [(str(name), str(value)) for name, value in event.headers]
            stream.fields = dict(stream.listed)
        elif isinstance(event, DataReceived):
            stream.body += event.data
            if self.opens_windows and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, TrailersReceived):
            stream.trailers = {str(name): str(value) for name, value in event.headers}
        elif isinstance(event, StreamEnded):
            stream.ended = True
        elif isinstance(event, StreamReset):
            stream.reset = event.error_code

    def wait(self, number: int) -> Stream:
        """Until this stream has ended or was reset, or the connection."""
        stream = self.streams[number]

        def look() -> bool:
            self.take()
            return stream.ended or stream.reset is not None or self.closed

        self.world.pump_until(look)
        return stream

    def wait_for_end(self) -> None:
        """Until fastlb has closed the connection."""

        def look() -> bool:
            self.take()
            return self.closed

        self.world.pump_until(look)
