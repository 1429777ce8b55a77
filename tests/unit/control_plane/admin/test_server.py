"""The server of the admin API with callers that mean no good, over a real socket."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fastlb import FastlbError
from fastlb.control_plane.admin import app, server
from fastlb.control_plane.admin.app import make_app
from fastlb.control_plane.admin.messages import MAX_BODY_BYTES, answer, read_object
from fastlb.control_plane.admin.server import MAX_HEAD_BYTES, AdminServer


class World:
    """A server with three routes, and its callers."""

    def __init__(self, made: AdminServer, path: Path) -> None:
        self.server = made
        self.path = path

    async def call(self, raw: bytes) -> tuple[int, dict[str, str], Any]:
        """Sends this and reads until the end: status, fields, what the JSON holds."""
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        writer.write(raw)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        first, *lines = head.decode().split("\r\n")
        fields = {name.casefold(): value for name, _, value in (line.partition(": ") for line in lines)}
        return int(first.split()[1]), fields, json.loads(body) if body else None

    async def ask(self, method: str, path: str, body: str = "", *fields: str) -> tuple[int, Any]:
        lines = [f"{method} {path} HTTP/1.1", f"Content-Length: {len(body)}", "Connection: close", *fields]
        if not any(field.startswith("Host:") for field in fields):
            lines.append("Host: localhost")
        status, _, content = await self.call("\r\n".join([*lines, "", body]).encode())
        return status, content


class Controller:
    """What the routes under test want of one."""


def routes(_: Any) -> list[Route]:
    async def get(request: Request) -> Response:
        return answer({"name": request.path_params.get("name", "")})

    async def post(request: Request) -> Response:
        return answer(await read_object(request, count=int, name=str))

    async def refuse(request: Request) -> Response:
        raise FastlbError("one\ntwo")

    async def fail(request: Request) -> Response:
        raise ZeroDivisionError("by nothing")

    return [Route("/v1/status", get), Route("/v1/post", post, methods=["POST"]), Route("/v1/refuse", refuse), Route("/v1/fail", fail)]


Test = Callable[[World], Awaitable[None]]
Serve = Callable[[Test], None]


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serve:
    monkeypatch.setattr(app, "MODULES", (routes,))

    def run(test: Test) -> None:
        loop = uvloop.new_event_loop()
        path = tmp_path / "admin"
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(path))
        listening.listen()
        listening.setblocking(False)

        async def main() -> None:
            made = AdminServer(loop, make_app(Controller()))  # type: ignore[arg-type]
            made.open(listening)
            try:
                await asyncio.wait_for(test(World(made, path)), 20)
            finally:
                made.close()

        try:
            loop.run_until_complete(main())
        finally:
            loop.close()
        assert listening.fileno() == -1

    return run


def test_an_answer_is_json_with_a_date(serve: Serve) -> None:
    async def test(world: World) -> None:
        status, fields, content = await world.call(b"GET /v1/status HTTP/1.1\r\nHost: localhost:1\r\nConnection: close\r\n\r\n")
        assert (status, content) == (200, {"name": ""})
        assert fields["content-type"] == "application/json"
        assert fields["date"].endswith(" GMT")
        assert "server" not in fields

    serve(test)


def test_a_path_that_is_not_there_is_told_with_the_nearest_one(serve: Serve) -> None:
    async def test(world: World) -> None:
        assert await world.ask("GET", "/v1/statsu") == (404, {"errors": ['there is nothing at "/v1/statsu"; did you mean "/v1/status"?']})
        assert await world.ask("GET", "/%00%1b") == (404, {"errors": ['there is nothing at "/\\u0000\\u001b"']})

    serve(test)


def test_a_wrong_method_is_told(serve: Serve) -> None:
    async def test(world: World) -> None:
        assert await world.ask("POST", "/v1/status") == (405, {"errors": ['POST is not for "/v1/status"']})
        assert (await world.ask("BREW", "/v1/post"))[0] == 405

    serve(test)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("{", "the request body is not JSON: "),
        ("[1]", "the request body has to be a JSON object"),
        ("[" * 60_000, "the request body is not JSON: "),
        ('{"count": "3"}', '"count" has to be a whole number'),
        ('{"count": true}', '"count" has to be a whole number'),
        ('{"cuont": 3}', 'unknown key "cuont"; the keys are "count" or "name"'),
        ("\ufffd", "the request body is not JSON: "),
    ],
)
def test_a_body_that_is_not_what_is_expected_is_refused(serve: Serve, body: str, error: str) -> None:
    async def test(world: World) -> None:
        status, content = await world.ask("POST", "/v1/post", body)
        assert status == 400
        assert content["errors"][0].startswith(error)

    serve(test)


def test_a_body_that_is_too_long_is_refused_whether_it_says_so_or_not(serve: Serve) -> None:
    async def test(world: World) -> None:
        assert (await world.ask("POST", "/v1/post", " " * (MAX_BODY_BYTES + 1)))[0] == 413
        chunks = b"".join(b"1000\r\n" + b" " * 4096 + b"\r\n" for _ in range(17))
        head = b"POST /v1/post HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        assert (await world.call(head + chunks + b"0\r\n\r\n"))[0] == 413

    serve(test)


def test_an_error_of_ours_has_a_line_for_each_reason(serve: Serve) -> None:
    async def test(world: World) -> None:
        assert await world.ask("GET", "/v1/refuse") == (422, {"errors": ["one", "two"]})

    serve(test)


def test_a_mistake_of_ours_is_answered_and_told_and_the_next_request_is_served(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    async def test(world: World) -> None:
        assert await world.ask("GET", "/v1/fail") == (500, {"errors": ["a mistake in fastlb: ZeroDivisionError"]})
        assert (await world.ask("GET", "/v1/status"))[0] == 200

    serve(test)
    said = capsys.readouterr().err
    assert said == 'fastlb: a mistake in fastlb\'s admin API: GET "/v1/fail": ZeroDivisionError: by nothing\n'


@pytest.mark.parametrize(
    "field", ["Host: evil.example", "Host: evil.example:80", "Host: localhost.evil.example", "Host: 192.0.2.1:80", "Origin: null"]
)
def test_requests_that_a_web_page_made_are_refused(serve: Serve, field: str) -> None:
    async def test(world: World) -> None:
        assert (await world.ask("GET", "/v1/status", "", field))[0] == 403

    serve(test)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:9090", "127.1.2.3", "[::1]:9090", "[::1]"])
def test_hosts_that_are_this_machine_are_served(serve: Serve, host: str) -> None:
    async def test(world: World) -> None:
        assert (await world.ask("GET", "/v1/status", "", f"Host: {host}"))[0] == 200

    serve(test)


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"x" * (2 * MAX_HEAD_BYTES),
        b"POST /v1/post HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v1/post HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused_and_said_nowhere(serve: Serve, capfd: pytest.CaptureFixture[str], raw: bytes) -> None:
    async def test(world: World) -> None:
        status, fields, content = await world.call(raw)
        assert status == 400
        assert fields["connection"] == "close"
        assert content["errors"]

    serve(test)
    assert capfd.readouterr().err == ""


def test_who_does_not_finish_a_request_in_time_is_cut_off(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.05)

    async def test(world: World) -> None:
        for start in (b"", b"GET / HT", b"POST /v1/post HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{"):
            reader, writer = await asyncio.open_unix_connection(str(world.path))
            writer.write(start)
            try:
                assert await reader.read() == b""
            except ConnectionError:  # the same, told otherwise
                pass
            writer.close()

    serve(test)


@pytest.mark.parametrize("field", ["Connection: close", "Connection: keep-alive"])
def test_who_does_not_take_an_answer_is_cut_off(serve: Serve, monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    """However little of it the kernel has no room for: steps that are smaller than what asyncio keeps without a word by default."""
    sizes = [16 << 20] + [size << 10 for size in range(128, 513, 32) if field == "Connection: close"]
    asked: list[str] = []
    go = asyncio.Event()

    def routes(_: Any) -> list[Route]:
        async def get(request: Request) -> Response:
            asked.append(request.query_params["size"])
            await go.wait()
            return Response(bytes(int(request.query_params["size"])))

        return [Route("/v1/large", get)]

    monkeypatch.setattr(app, "MODULES", (routes,))

    async def test(world: World) -> None:
        loop = asyncio.get_running_loop()
        callers = [socket.socket(socket.AF_UNIX) for _ in sizes]
        for caller, size in zip(callers, sizes, strict=True):
            caller.setblocking(False)
            await loop.sock_connect(caller, str(world.path))
            await loop.sock_sendall(caller, f"GET /v1/large?size={size} HTTP/1.1\r\nHost: localhost\r\n{field}\r\n\r\n".encode())
        while len(asked) < len(sizes):
            await asyncio.sleep(0)
        monkeypatch.setattr(server, "REQUEST_SECONDS", 0)  # no request is on its way any more
        go.set()
        while world.server._state.connections:
            await asyncio.sleep(0)
        for caller in callers:
            caller.close()

    serve(test)


def test_several_requests_on_one_connection_are_answered_in_order(serve: Serve) -> None:
    async def test(world: World) -> None:
        reader, writer = await asyncio.open_unix_connection(str(world.path))
        for _ in range(2):
            writer.write(b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2)
            for _ in range(2):
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 OK\r\n")
                length = next(int(line[16:]) for line in head.split(b"\r\n") if line.startswith(b"content-length: "))
                assert json.loads(await reader.readexactly(length)) == {"name": ""}
        writer.close()

    serve(test)


def test_more_callers_than_there_is_room_for_wait_for_those_that_leave(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 2)

    async def test(world: World) -> None:
        async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            await reader.readuntil(b"}\n")

        first = [await asyncio.open_unix_connection(str(world.path)) for _ in range(2)]
        for one in first:
            await ask(*one)
        waiting = asyncio.create_task(world.ask("GET", "/v1/status"))
        for one in first * 20:  # the loop has looked for newcomers between these answers
            await ask(*one)
        assert not waiting.done()
        first[0][1].close()
        assert (await waiting)[0] == 200
        first[1][1].close()

    serve(test)


def test_callers_that_come_at_once_fill_the_room_that_there_is(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 6)

    async def test(world: World) -> None:
        sockets = [socket.socket(socket.AF_UNIX) for _ in range(6)]
        for one in sockets:
            one.connect(str(world.path))  # all of them before the server's first accept
        callers = [await asyncio.open_unix_connection(sock=one) for one in sockets]
        for reader, writer in callers:
            writer.write(b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")  # and nobody has left
        for _, writer in callers:
            writer.close()

    serve(test)
