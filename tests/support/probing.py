"""Probes run by a loop of the test's, against backends that are played in the same loop."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import uvloop

from fastlb.control_plane.health.result import Result
from fastlb.control_plane.health.tcp import Place
from tests.support.waiting import DEADLINE_SECONDS

T = TypeVar("T")
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def run(test: Callable[[asyncio.AbstractEventLoop], Awaitable[T]]) -> T:
    """Runs a test in the loop that the controller has."""

    async def timed() -> T:
        return await asyncio.wait_for(test(asyncio.get_running_loop()), DEADLINE_SECONDS)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(timed())


async def result_of(make: Callable[[Callable[[Result], None]], Any]) -> Result:
    """Starts the probe that `make` makes with what it is to call, and waits for its one result."""
    found: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
    probe = make(found.set_result)  # a second result would be an InvalidStateError
    probe.start()
    assert not found.done(), "start() itself gives no result"
    result = await found
    probe.cancel()
    return result


class Backend:
    """Serves each connection with `serve`, in the loop of the test."""

    def __init__(self, serve: Serve, context: ssl.SSLContext | None = None) -> None:
        self._serve = serve
        self._context = context
        self.received = b""
        self.n_connections = 0

    async def __aenter__(self) -> "Backend":
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0, ssl=self._context, limit=1 << 20)
        self.place = Place(socket.AF_INET, self._server.sockets[0].getsockname()[:2])
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.n_connections += 1
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def answering(*pieces: bytes, backend: list[bytes] | None = None, keep_open: bool = False) -> Serve:
    """Reads a request head, and sends these pieces one after the other."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if backend is not None:
            backend.append(head)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if keep_open:
            await reader.read()

    return serve


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes everything and says nothing."""
    await reader.read()


def unused_place() -> Place:
    """Nobody listens there."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return Place(socket.AF_INET, listening.getsockname())


def full_place() -> tuple[socket.socket, list[socket.socket], Place]:
    """A listener whose accept queue is full: connections to it hang. To be closed by the caller, like those that fill it."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(0)
    fill = []
    for _ in range(4):
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex(listening.getsockname())
        fill.append(one)
    return listening, fill, Place(socket.AF_INET, listening.getsockname())
