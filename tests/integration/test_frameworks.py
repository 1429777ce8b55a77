"""A real framework's backend: Starlette on uvicorn, with streams, uploads, trailers of its own making, and WebSockets."""

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.sync.client import connect

from tests.support.backend import listen
from tests.support.message import chunked, request
from tests.support.waiting import wait_until


async def hello(received: Request) -> Response:
    return JSONResponse({"path": received.url.path, "host": received.headers["host"], "client": received.headers["x-forwarded-for"]})


async def upload(received: Request) -> Response:
    digest, size = hashlib.sha256(), 0
    async for part in received.stream():
        digest.update(part)
        size += len(part)
    return JSONResponse({"size": size, "digest": digest.hexdigest()})


async def form(received: Request) -> Response:
    async with received.form() as fields:
        return JSONResponse(
            {name: value if isinstance(value, str) else (value.filename, len(await value.read())) for name, value in fields.items()}
        )


async def stream(_: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        for number in range(100):
            yield b"part %d\n" % number
            await asyncio.sleep(0)

    return StreamingResponse(parts(), media_type="text/plain")


async def events(_: Request) -> Response:
    async def parts() -> AsyncIterator[str]:
        for number in range(1000):
            yield f"data: {number}\n\n"
            await asyncio.sleep(0 if number < 3 else 3600)

    return StreamingResponse(parts(), media_type="text/event-stream")


async def refuse(_: Request) -> Response:
    return PlainTextResponse("no", status_code=403)


async def fail(_: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        yield b"half"
        await asyncio.sleep(0)
        raise ConnectionError("as planned")

    return StreamingResponse(parts())


async def echo(socket: WebSocket) -> None:
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(f"{socket.url.path}: {text}")


FILE = os.urandom(3_000_000)


@pytest.fixture(scope="module")
def starlette(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the application."""
    path = tmp_path_factory.mktemp("files") / "file"
    path.write_bytes(FILE)

    async def file(_: Request) -> Response:
        return FileResponse(path)

    async def redirect(_: Request) -> Response:
        return RedirectResponse("/hello")

    async def nothing(_: Request) -> Response:
        return Response(status_code=204)

    ends = {"/hello": hello, "/stream": stream, "/events": events, "/fail": fail, "/file": file, "/redirect": redirect, "/nothing": nothing}
    posts = {"/upload": upload, "/form": form, "/refuse": refuse}
    routes = [Route(path, end) for path, end in ends.items()] + [Route(path, end, methods=["POST", "PUT"]) for path, end in posts.items()]
    application = Starlette(routes=[*routes, WebSocketRoute("/echo", echo)])
    server = uvicorn.Server(
        uvicorn.Config(application, log_level="critical", http="h11", ws="auto", lifespan="off", timeout_graceful_shutdown=1)
    )
    listening = listen()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    wait_until(lambda: server.started, "uvicorn is ready")
    yield f"127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def lb(fastlb, starlette):
    return fastlb([starlette])


def test_plain_requests(lb):
    client = lb.connect()
    for _ in range(20):
        answer = client.ask(request("/hello", host="shop.example"))
        assert answer.body == b'{"path":"/hello","host":"shop.example","client":"127.0.0.1"}'
    assert client.ask(request("/redirect")).get("Location") == "/hello"
    assert client.ask(request("/nothing")).status == 204
    assert client.ask(request("/hello", method="HEAD"), "HEAD").status == 200
    assert client.ask(request("/missing")).status == 404
    assert client.ask(request("/hello", method="DELETE")).status == 405
    assert lb.counter("backend_connections_opened") == 1


def test_streams_arrive_as_they_are_made(lb):
    client = lb.connect()
    answer = client.ask(request("/stream"))
    assert answer.body == b"".join(b"part %d\n" % number for number in range(100))
    client.send(request("/events"))
    assert client.read_head().get("Content-Type") == "text/event-stream; charset=utf-8"
    client.read_until(b"data: 3\n\n")  # the rest will take hours
    client.reset()
    lb.wait_for_exchange_end()


def test_uploads(lb):
    client = lb.connect()
    body = os.urandom(5_000_000)
    expected = b'{"size":5000000,"digest":"%s"}' % hashlib.sha256(body).hexdigest().encode()
    assert client.ask(request("/upload", method="POST", body=body)).body == expected
    pieces = [body[at : at + 100_000] for at in range(0, len(body), 100_000)]
    assert client.ask(request("/upload", "Transfer-Encoding: chunked", method="PUT") + chunked(*pieces)).body == expected


def test_upload_that_waits_for_100_continue(lb):
    client = lb.connect()
    client.send(request("/upload", "Expect: 100-continue", "Content-Length: 5", method="POST"))
    assert client.read_head().status == 100
    client.send(b"hello")
    assert client.read_response().body.startswith(b'{"size":5,')


def test_upload_that_is_refused_without_being_read(lb):
    client = lb.connect()
    client.send(request("/refuse", "Content-Length: 10000000", method="POST"), b"x" * 100_000)
    answer = client.read_response()
    assert (answer.status, answer.body) == (403, b"no")


def test_files_with_ranges_and_validators(lb):
    client = lb.connect()
    answer = client.ask(request("/file"))
    assert answer.body == FILE
    etag = answer.get("ETag")
    part = client.ask(request("/file", "Range: bytes=1000000-1999999", f"If-Range: {etag}"))
    assert (part.status, part.get("Content-Range"), part.body) == (206, "bytes 1000000-1999999/3000000", FILE[1_000_000:2_000_000])


def test_application_that_fails_in_its_answer_is_seen_to(lb):
    client = lb.connect()
    client.send(request("/fail"))
    assert client.read_head().status == 200
    assert not client.read_to_ending()[0].endswith(b"0\r\n\r\n")


def test_websockets(lb):
    with connect(f"ws://127.0.0.1:{lb.port}/echo") as client:
        for number in range(50):
            client.send(f"message {number}")
            assert client.recv() == f"/echo: message {number}"
