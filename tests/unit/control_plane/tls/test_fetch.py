"""One request over HTTP: what a server may do to it."""

import asyncio
import socket
from typing import Any

import pytest

from fastlb.control_plane.tls.fetch import FetchError, fetch


def ask(answer: bytes, *, hang: bool = False, path: str = "/x", **options: Any) -> tuple[bytes, bytes]:
    """What a server of ours got, and what came of its answer."""
    got = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.extend(await reader.readuntil(b"\r\n\r\n"))
        if options.get("body"):
            got.extend(await reader.readexactly(len(options["body"])))
        writer.write(answer)
        if hang:
            await reader.read()  # until the other side goes
        writer.close()

    async def go() -> bytes:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await fetch(f"http://127.0.0.1:{port}{path}", **{"max_bytes": 1000, "timeout_seconds": 15, **options})

    return asyncio.run(go()), bytes(got)


OK = b"HTTP/1.1 200 OK\r\n"


def test_a_get_and_a_post() -> None:
    body, got = ask(OK + b"Content-Length: 3\r\n\r\nabc", path="/x?y=1")
    assert (body, got.split(b"\r\n")[0]) == (b"abc", b"GET /x?y=1 HTTP/1.1")
    body, got = ask(
        OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", body=b"question", content_type="application/ocsp-request"
    )
    assert body == b"abc"
    assert got.startswith(b"POST /x HTTP/1.1\r\n") and got.endswith(b"\r\nContent-Length: 8\r\n\r\nquestion")
    assert ask(OK + b"\r\nuntil it ends")[0] == b"until it ends"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "it answered with status 404"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\n\r\n", "it answered with status 302"),
        (b"", "does not speak HTTP"),
        (b"\x15\x03\x01\x00\x02\x02\x22", "does not speak HTTP"),
        (OK + b"Content-Length: 10\r\n\r\nabc", "does not speak HTTP"),
        (OK + b"Content-Length: 1001\r\n\r\n" + b"x" * 1001, "its answer is larger than"),
        (OK + b"X: " + b"y" * 70000, "does not speak HTTP"),
    ],
)
def test_an_answer_that_is_none(answer: bytes, said: str) -> None:
    with pytest.raises(FetchError, match=said):
        ask(answer)


def test_a_server_that_hangs_is_given_up() -> None:
    for answer in (b"", OK, OK + b"Content-Length: 10\r\n\r\nabc"):
        with pytest.raises(FetchError, match=r"did not answer within 0\.05 s"):
            ask(answer, hang=True, timeout_seconds=0.05)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://ocsp.example.com/", "is not an http:// URL"),
        ("ftp://ocsp.example.com/", "is not an http:// URL"),
        ("http:///x", "is not an http:// URL"),
        ("http://127.0.0.1:99999/", "is no URL"),
        ("http://127.0.0.1/a b", "cannot be asked for"),
        ("http://127.0.0.1/\r\nX: y", "cannot be asked for|cannot be reached"),
    ],
)
def test_a_url_that_cannot_be_asked(url: str, said: str) -> None:
    with pytest.raises(FetchError, match=said):
        asyncio.run(fetch(url, max_bytes=1000, timeout_seconds=15))


def test_nobody_listens_there() -> None:
    with socket.socket() as bound:  # which keeps others from the port
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(FetchError, match="cannot be reached: "):
            asyncio.run(fetch(f"http://127.0.0.1:{bound.getsockname()[1]}/", max_bytes=1000, timeout_seconds=15))
