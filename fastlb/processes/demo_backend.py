"""One backend of the demo: asyncio and h11. It answers every request with its name, the request line and the headers that it received."""

import asyncio
import os
import socket

import h11


class DemoProtocol(asyncio.Protocol):
    """One connection. Owns its h11 state machine and the request that is being read."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._http = h11.Connection(h11.SERVER)
        self._transport: asyncio.Transport | None = None
        self._request: h11.Request | None = None
        self._body_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._http.receive_data(data)
        self._handle_events()

    def eof_received(self) -> bool:
        self._http.receive_data(b"")
        self._handle_events()
        return False

    def _handle_events(self) -> None:
        assert self._transport is not None
        try:
            while True:
                event = self._http.next_event()
                if isinstance(event, h11.Request):
                    self._request, self._body_bytes = event, 0
                    if self._http.they_are_waiting_for_100_continue:
                        self._send(h11.InformationalResponse(status_code=100, headers=[]))
                elif isinstance(event, h11.Data):
                    self._body_bytes += len(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    self._answer()
                elif event is h11.PAUSED and self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
                    self._http.start_next_cycle()
                else:
                    break
            if self._http.our_state in (h11.MUST_CLOSE, h11.CLOSED, h11.ERROR):
                self._transport.close()
        except h11.RemoteProtocolError:
            self._transport.close()

    def _answer(self) -> None:
        request = self._request
        assert request is not None
        lines = [f"{request.method.decode()} {request.target.decode()} HTTP/{request.http_version.decode()}"]
        lines += [f"{name.decode()}: {value.decode('latin-1')}" for name, value in request.headers.raw_items()]
        text = f"demo backend {self._name} (pid {os.getpid()}) received:\n\n" + "\n".join(lines) + "\n"
        if self._body_bytes:
            text += f"\nand a body of {self._body_bytes} bytes\n"
        body = text.encode()
        headers = [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("X-Demo-Backend", self._name),
        ]
        self._send(h11.Response(status_code=200, reason="OK", headers=headers), body if request.method != b"HEAD" else b"")

    def _send(self, head: h11.Event, body: bytes | None = None) -> None:
        assert self._transport is not None
        data = self._http.send(head) or b""
        if body is not None:
            data += (self._http.send(h11.Data(data=body)) or b"") if body else b""
            data += self._http.send(h11.EndOfMessage()) or b""
        self._transport.write(data)


def serve_demo_backend(name: str, listening: socket.socket, watched: int) -> None:
    """Serves until `watched` reaches its end of file."""
    asyncio.run(_serve(name, listening, watched))


async def _serve(name: str, listening: socket.socket, watched: int) -> None:
    loop = asyncio.get_running_loop()
    parent_gone = asyncio.Event()
    loop.add_reader(watched, parent_gone.set)
    server = await loop.create_server(lambda: DemoProtocol(name), sock=listening, backlog=4096)
    await parent_gone.wait()
    loop.remove_reader(watched)
    server.close()
