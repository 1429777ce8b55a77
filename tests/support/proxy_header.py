"""Headers of the PROXY protocol, built from their parts."""

import socket
import struct

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LOCAL, PROXY = 0x20, 0x21
TCP4, TCP6, UNIX_STREAM = 0x11, 0x21, 0x31
ALPN, AUTHORITY, CHECK_SUM, NOTHING, UNIQUE_ID, TLS = 1, 2, 3, 4, 5, 0x20
TLS_VERSION, TLS_NAME, TLS_CIPHER = 0x21, 0x22, 0x23

Address = tuple[str, int]


def line(source: Address = ("192.0.2.7", 40000), destination: Address = ("203.0.113.9", 443)) -> bytes:
    """Version 1."""
    family = "TCP6" if ":" in source[0] else "TCP4"
    return f"PROXY {family} {source[0]} {destination[0]} {source[1]} {destination[1]}\r\n".encode()


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack(">BH", kind, len(value)) + value


def tls(client: int = 1, verify: int = 0, *parts: bytes) -> bytes:
    return tlv(TLS, struct.pack(">BI", client, verify) + b"".join(parts))


def raw(command: int, kind: int, rest: bytes, size: int | None = None) -> bytes:
    """Version 2, whatever is in it."""
    return SIGNATURE + struct.pack(">BBH", command, kind, len(rest) if size is None else size) + rest


def addresses(source: Address, destination: Address) -> bytes:
    family = socket.AF_INET6 if ":" in source[0] else socket.AF_INET
    packed = [socket.inet_pton(family, ip) for ip, _ in (source, destination)]
    return b"".join(packed) + struct.pack(">HH", source[1], destination[1])


def binary(
    source: Address = ("192.0.2.7", 40000), destination: Address = ("203.0.113.9", 443), *parts: bytes, check: bool = False
) -> bytes:
    """Version 2 on behalf of a client; with `check` it has a check sum."""
    kind = TCP6 if ":" in source[0] else TCP4
    rest = addresses(source, destination) + b"".join(parts)
    if not check:
        return raw(PROXY, kind, rest)
    header = raw(PROXY, kind, rest + tlv(CHECK_SUM, bytes(4)))
    return header[:-4] + struct.pack(">I", crc32c(header))


def local() -> bytes:
    """Version 2 of a sender that speaks for itself."""
    return raw(LOCAL, 0, b"")


def crc32c(data: bytes) -> int:
    """RFC 4960 appendix B, a bit at a time."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF
