"""One request over plain HTTP/1.1, on the loop and without blocking it: how OCSP responders are asked.

Plain HTTP is what they speak (RFC 6960 appendix A.1): the answer is signed. Whatever comes is bounded in time and size; nothing is followed
that an answer names.
"""

import asyncio
from urllib.parse import urlsplit

import h11

from fastlb import FastlbError, __version__

MAX_HEAD_BYTES = 16384


class FetchError(FastlbError):
    """There is no answer; the text says why."""


async def fetch(url: str, *, body: bytes = b"", content_type: str = "", max_bytes: int, timeout_seconds: float) -> bytes:
    """The body of the 200 that a GET gets, or a POST where there is a body.

    Args:
        timeout_seconds: for all of it.

    Raises:
        FetchError: it did not come, or is not what it should be.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or 80
    except ValueError as error:
        raise FetchError(f"{url} is no URL ({error})") from None
    if parts.scheme != "http" or not parts.hostname:
        raise FetchError(f"{url} is not an http:// URL")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = [
        ("Host", parts.netloc.rpartition("@")[2]),
        ("User-Agent", f"fastlb/{__version__}"),
        ("Accept", "*/*"),
        ("Connection", "close"),
    ]
    if body:
        headers += [("Content-Type", content_type), ("Content-Length", str(len(body)))]
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
    try:
        sent = connection.send(h11.Request(method="POST" if body else "GET", target=target, headers=headers)) or b""
        sent += (connection.send(h11.Data(data=body)) or b"") if body else b""
        sent += connection.send(h11.EndOfMessage()) or b""
    except h11.LocalProtocolError as error:
        raise FetchError(f"{url} cannot be asked for ({error})") from None
    try:
        async with asyncio.timeout(timeout_seconds):
            reader, writer = await asyncio.open_connection(parts.hostname, port)
            try:
                writer.write(sent)
                return await _read_answer(reader, connection, max_bytes)
            finally:
                writer.transport.abort()
    except TimeoutError:
        raise FetchError(f"{url} did not answer within {timeout_seconds:g} s") from None
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that cannot be one
        reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
        raise FetchError(f"{url} cannot be reached: {reason}") from None
    except h11.RemoteProtocolError as error:
        raise FetchError(f"{url} does not speak HTTP: {error}") from None


async def _read_answer(reader: asyncio.StreamReader, connection: h11.Connection, max_bytes: int) -> bytes:
    body = bytearray()
    while True:
        event = connection.next_event()
        match event:
            case h11.NEED_DATA:
                connection.receive_data(await reader.read(16384))
            case h11.Response(status_code=status) if status != 200:
                raise FetchError(f"it answered with status {status}")
            case h11.Data(data=piece):
                body += piece
                if len(body) > max_bytes:
                    raise FetchError(f"its answer is larger than {max_bytes >> 10} KiB")
            case h11.EndOfMessage():
                return bytes(body)
            case h11.ConnectionClosed():
                raise FetchError("it closed the connection without an answer")
            case _:
                pass
