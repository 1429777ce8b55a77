"""ClientHellos: built from parts, cut into records, and as OpenSSL's own client makes them."""

import ssl
import struct
from collections.abc import Iterable, Sequence

SERVER_NAME, ALPN, SUPPORTED_VERSIONS = 0, 16, 43
Extension = tuple[int, bytes]


def vector(data: bytes, n_bytes: int = 2) -> bytes:
    """Data behind its size."""
    return len(data).to_bytes(n_bytes, "big") + data


def server_name(*names: bytes, kind: int = 0) -> Extension:
    return SERVER_NAME, vector(b"".join(bytes([kind]) + vector(name) for name in names))


def alpn(*protocols: bytes) -> Extension:
    return ALPN, vector(b"".join(vector(protocol, 1) for protocol in protocols))


def versions(*numbers: int) -> Extension:
    return SUPPORTED_VERSIONS, vector(struct.pack(f">{len(numbers)}H", *numbers), 1)


def message(
    extensions: Sequence[Extension] | None = (),
    *,
    version: int = 0x0303,
    session_id: bytes = b"",
    ciphers: bytes = b"\x13\x01\xc0\x2b",
    compression: bytes = b"\0",
) -> bytes:
    """The handshake message; None: one without even an empty list of extensions."""
    body = struct.pack(">H", version) + bytes(range(32)) + vector(session_id, 1) + vector(ciphers) + vector(compression, 1)
    if extensions is not None:
        body += vector(b"".join(struct.pack(">H", kind) + vector(data) for kind, data in extensions))
    return b"\1" + vector(body, 3)


def records(data: bytes, sizes: Iterable[int] = ()) -> bytes:
    """The message in records of these sizes, and one with the rest."""
    made = b""
    for size in sizes:
        if size < len(data):
            made += b"\x16\x03\x01" + vector(data[:size])
            data = data[size:]
    return made + b"\x16\x03\x01" + vector(data)


def openssl_hello(context: ssl.SSLContext, name: str | None) -> bytes:
    """What a client with this context says first."""
    outgoing = ssl.MemoryBIO()
    try:
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a client waits for an answer")
