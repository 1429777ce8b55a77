"""The control socket of a worker: one JSON object per line, in both directions, over a unix socket that only its owner may open."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

from fastlb.control_plane.config.address import BindAddress
from fastlb.processes.sockets import BoundAddress, bind_address

Answer = dict[str, Any]
# A request is a word and a path; a longer line is a mistake.
MAX_LINE_BYTES = 64 << 10


class ControlSocket:
    """Answers requests until it is closed.

    Args:
        handle: gets each request and gives the answer; an exception is a mistake of ours and is answered as such.
    """

    def __init__(self, path: str, handle: Callable[[dict[str, Any]], Awaitable[Answer]]) -> None:
        self._path = path
        self._handle = handle
        self._bound: BoundAddress | None = None
        self._server: asyncio.Server | None = None
        self._conversations: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        """Raises OSError if the path cannot be bound."""
        mask = os.umask(0o177)
        try:
            self._bound = bind_address(BindAddress("", 0, self._path), backlog=16)
        finally:
            os.umask(mask)
        self._server = await asyncio.start_unix_server(self._serve, sock=self._bound.sockets[0].socket, limit=MAX_LINE_BYTES)

    async def close(self) -> None:
        """Ends every conversation and removes the socket."""
        if self._server is not None:
            self._server.close()
        if self._bound is not None:
            self._bound.close()
        for task in self._conversations:
            task.cancel()
        if self._conversations:
            await asyncio.wait(self._conversations)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._conversations.add(task)
        try:
            while line := await reader.readline():
                answer = await self._answer(line)
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError):  # ValueError: a line without end
            pass
        except asyncio.CancelledError:  # by close(); before Python 3.12 asyncio's own callback cannot bear to see it
            pass
        finally:
            self._conversations.discard(task)
            writer.close()

    async def _answer(self, line: bytes) -> Answer:
        try:
            request = json.loads(line)
        except ValueError:
            return {"ok": False, "errors": ["not JSON"]}
        if not isinstance(request, dict):
            return {"ok": False, "errors": ["not a JSON object"]}
        try:
            return await self._handle(request)
        except Exception as error:
            return {"ok": False, "errors": [f"{type(error).__name__}: {error}"]}
