"""fastlb/data_plane/proxy_protocol.pyx. Every input ends at an unmapped page."""

import socket
import struct

import pytest

from tests.support._probe import read_proxy_header
from tests.support.proxy_header import (
    ALPN,
    AUTHORITY,
    CHECK_SUM,
    LOCAL,
    NOTHING,
    PROXY,
    TCP4,
    TCP6,
    TLS_CIPHER,
    TLS_NAME,
    TLS_VERSION,
    UNIQUE_ID,
    UNIX_STREAM,
    addresses,
    binary,
    crc32c,
    line,
    local,
    raw,
    tls,
    tlv,
)

V4, V6 = ("192.0.2.7", 40000), ("2001:db8::7", 40000)
TO_V4, TO_V6 = ("203.0.113.9", 443), ("2001:db8::9", 443)
MAX_BYTES = 4096
ALL = (
    tlv(ALPN, b"h2"),
    tlv(AUTHORITY, b"shop.example"),
    tlv(NOTHING, b"\xff"),
    tlv(NOTHING, b""),
    tlv(UNIQUE_ID, b"id-1"),
    tls(7, 0, tlv(TLS_VERSION, b"TLSv1.3"), tlv(TLS_CIPHER, b"TLS_AES_128_GCM_SHA256"), tlv(TLS_NAME, b"alice")),
    tlv(0xEA, b"somebody's own"),
    tlv(0xEA, b"and again"),
)
WHOLE = {
    "line": line(),
    "line6": line(V6, TO_V6),
    "unknown": b"PROXY UNKNOWN\r\n",
    "binary": binary(V4, TO_V4),
    "binary6": binary(V6, TO_V6),
    "everything": binary(V4, TO_V4, *ALL, check=True),
    "local": local(),
}


def packed(address: tuple[str, int]) -> tuple[bytes, int]:
    ip, port = address
    return socket.inet_pton(socket.AF_INET6, ip if ":" in ip else f"::ffff:{ip}"), port


def said(data: bytes, source: tuple[str, int] = V4, destination: tuple[str, int] = TO_V4, **more: object) -> dict[str, object]:
    return {"size": len(data), "client": "internet", "source": packed(source), "destination": packed(destination), **more}


@pytest.mark.parametrize(("source", "destination"), [(V4, TO_V4), (V6, TO_V6)])
@pytest.mark.parametrize("build", [line, binary])
def test_addresses_are_read_and_what_follows_is_not(build, source, destination) -> None:  # type: ignore[no-untyped-def]
    data = build(source, destination)
    assert read_proxy_header(data) == said(data, source, destination)
    assert read_proxy_header(data + b"GET / HTTP/1.1\r\n") == said(data, source, destination)


def test_everything_that_is_known_is_read_and_the_rest_passed_over() -> None:
    data = WHOLE["everything"]
    tls_facts = {"tls_version": b"TLSv1.3", "tls_cipher": b"TLS_AES_128_GCM_SHA256", "name": b"alice", "verify": 0}
    assert read_proxy_header(data) == said(data, alpn=b"h2", authority=b"shop.example", unique_id=b"id-1", **tls_facts)


def test_certificates_are_of_those_who_showed_one() -> None:
    assert read_proxy_header(binary(V4, TO_V4, tls(1, 1)))["verify"] is None
    assert read_proxy_header(binary(V4, TO_V4, tls(3, 20)))["verify"] == 20
    assert read_proxy_header(binary(V4, TO_V4, tls(5, 0)))["verify"] == 0
    assert "verify" not in read_proxy_header(binary(V4, TO_V4, tls(0, 0)))


def test_who_comes_by_a_unix_socket_has_no_address() -> None:
    data = raw(PROXY, UNIX_STREAM, bytes(216) + tlv(UNIQUE_ID, b"x"))
    assert read_proxy_header(data) == {"size": len(data), "client": "unix", "unique_id": b"x"}
    assert read_proxy_header(raw(PROXY, 0x32, bytes(216)))["client"] == "unix"


def test_clients_of_datagrams_have_addresses_as_others() -> None:
    data = raw(PROXY, 0x12, addresses(V4, TO_V4))
    assert read_proxy_header(data) == said(data)
    data = raw(PROXY, 0x22, addresses(V6, TO_V6))
    assert read_proxy_header(data) == said(data, V6, TO_V6)


@pytest.mark.parametrize(
    "data",
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN \r\n",
        b"PROXY UNKNOWN ffff::1 ffff::1 65535 65535\r\n",
        b"PROXY UNKNOWN whatever  it is\r\n",
        b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n",
        local(),
        raw(LOCAL, TCP4, addresses(V4, TO_V4)),
        raw(LOCAL, 0xFF, b"junk"),
        raw(PROXY, 0, b""),
        raw(PROXY, 0, b"junk"),
    ],
)
def test_senders_may_speak_for_themselves_or_not_know_for_whom(data: bytes) -> None:
    assert read_proxy_header(data) == {"size": len(data), "client": "nobody"}


# ---------------------------------------------------------------------------------------------------- cuts and damage
@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE)
def test_every_cut_asks_for_more_and_for_no_more_than_there_is(data: bytes) -> None:
    for cut in range(len(data)):
        missing = read_proxy_header(data[:cut])
        assert isinstance(missing, int) and 0 < missing <= len(data) - cut, cut


@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE)
def test_every_bit_that_is_flipped_is_refused_or_says_something_else(data: bytes) -> None:
    honest = read_proxy_header(data)
    for at in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[at // 8] ^= 1 << at % 8
        found = read_proxy_header(bytes(damaged))
        if at // 8 < (6 if data.startswith(b"P") else 12):
            assert found == "missing", at
        elif data.startswith(b"P") and isinstance(found, dict):
            assert found["size"] == len(data), at
        elif data == WHOLE["everything"] and isinstance(found, dict):
            # The command and the family may say that nothing is known; and where the check sum is something else there is none.
            assert at // 8 in (12, 13, len(data) - 7), at
            continue
        same = data.startswith(b"P") and bytes(damaged).lower() == data.lower()  # a digit of an address, in upper case
        assert found != honest or honest["client"] == "nobody" or same, at


@pytest.mark.parametrize("kind", range(256))
def test_kinds_of_connection_that_are_not_defined_are_refused(kind: int) -> None:
    found = read_proxy_header(raw(PROXY, kind, bytes(300)))
    rest_is_tlvs = kind in (0x11, 0x12, 0x21, 0x22, 0x31, 0x32)  # of type 0 and size 0, again and again: a type may come once
    assert found == "malformed" if kind else found["client"] == "nobody"
    size = {0x11: 12, 0x12: 12, 0x21: 36, 0x22: 36, 0x31: 216, 0x32: 216}.get(kind, 0)
    if rest_is_tlvs:
        assert read_proxy_header(raw(PROXY, kind, bytes(size)))["client"] in ("internet", "unix")
        assert read_proxy_header(raw(PROXY, kind, bytes(size - 1))) == "malformed"


@pytest.mark.parametrize("command", [command for command in range(256) if command not in (LOCAL, PROXY)])
def test_other_versions_and_commands_are_refused(command: int) -> None:
    assert read_proxy_header(raw(command, TCP4, addresses(V4, TO_V4))) == "malformed"


@pytest.mark.parametrize(
    "rest",
    [
        b"\x01",
        b"\x01\x00",
        b"\x01\x00\x01",
        tlv(ALPN, b"h2") + b"\x04",
        tlv(ALPN, b"h2") * 2,
        tlv(AUTHORITY, b"a") + tlv(AUTHORITY, b"b"),
        tlv(UNIQUE_ID, bytes(129)),
        tlv(CHECK_SUM, bytes(3)),
        tlv(CHECK_SUM, bytes(5)),
        tlv(CHECK_SUM, bytes(4)),
        tlv(0x20, bytes(4)),
        tls() * 2,
        tls(1, 0, b"\x21"),
        tls(1, 0, b"\x21\x00\x05abcd"),
        tls(1, 0, tlv(TLS_NAME, b"a"), tlv(TLS_NAME, b"b")),
    ],
)
def test_what_follows_the_addresses_is_whole_and_said_once(rest: bytes) -> None:
    assert read_proxy_header(raw(PROXY, TCP4, addresses(V4, TO_V4) + rest)) == "malformed"


def test_check_sum_covers_what_follows_it() -> None:
    header = raw(PROXY, TCP4, addresses(V4, TO_V4) + tlv(CHECK_SUM, bytes(4)) + tlv(AUTHORITY, b"a"))
    at = len(header) - len(tlv(AUTHORITY, b"a")) - 4
    right = header[:at] + struct.pack(">I", crc32c(header)) + header[at + 4 :]
    assert read_proxy_header(right)["authority"] == b"a"
    assert read_proxy_header(right[:-1] + b"b") == "malformed"


def test_known_check_sum() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C (Koopman, and RFC 3720 appendix B.4 for others)


def test_headers_have_at_most_so_many_bytes() -> None:
    room = MAX_BYTES - 16 - 12 - 3
    assert read_proxy_header(binary(V4, TO_V4, tlv(NOTHING, bytes(room))))["size"] == MAX_BYTES
    large = binary(V4, TO_V4, tlv(NOTHING, bytes(room + 1)))
    assert read_proxy_header(large[:16]) == "malformed", "it is refused as soon as it says its size"
    assert read_proxy_header(raw(LOCAL, 0, b"", size=65535)) == "malformed"


@pytest.mark.parametrize(
    "data",
    [
        b"PROXY TCP4 192.0.2.7 203.0.113.9 40000 443\n",
        b"PROXY TCP4 192.0.2.7 203.0.113.9 40000 443 \r\n",
        b"PROXY TCP4 192.0.2.7 203.0.113.9 40000  443\r\n",
        b"PROXY  TCP4 192.0.2.7 203.0.113.9 40000 443\r\n",
        b"PROXY TCP4 192.0.2.7 203.0.113.9 40000\r\n",
        b"PROXY TCP4 192.0.2.7 203.0.113.9\r\n",
        b"PROXY TCP4 192.0.2.7 203.0.113.9 40000 443 1\r\n",
        b"PROXY TCP4\r\n",
        b"PROXY \r\n",
        b"PROXY tcp4 192.0.2.7 203.0.113.9 40000 443\r\n",
        b"PROXY TCP 192.0.2.7 203.0.113.9 40000 443\r\n",
        b"PROXY UNKNOWNX\r\n",
        b"PROXY UNKNOWN a\rb\r\n",
        b"PROXY UNKNOWN a\0b\r\n",
        b"PROXY TCP4 192.0.2.07 203.0.113.9 40000 443\r\n",
        b"PROXY TCP4 192.0.2 203.0.113.9 40000 443\r\n",
        b"PROXY TCP4 192.0.2.256 203.0.113.9 40000 443\r\n",
        b"PROXY TCP4 192.0.2.7\0 203.0.113.9 40000 443\r\n",
        b"PROXY TCP4 2001:db8::7 2001:db8::9 40000 443\r\n",
        b"PROXY TCP6 192.0.2.7 203.0.113.9 40000 443\r\n",
        b"PROXY TCP6 2001:db8::7%1 2001:db8::9 40000 443\r\n",
        b"PROXY TCP6 2001:db8:::7 2001:db8::9 40000 443\r\n",
        b"PROXY TCP6 [2001:db8::7] 2001:db8::9 40000 443\r\n",
        b"PROXY TCP4 192.0.2.7 203.0.113.9 040000 443\r\n",
        b"PROXY TCP4 192.0.2.7 203.0.113.9 00 443\r\n",
        b"PROXY TCP4 192.0.2.7 203.0.113.9 65536 443\r\n",
        b"PROXY TCP4 192.0.2.7 203.0.113.9 -1 443\r\n",
        b"PROXY TCP4 192.0.2.7 203.0.113.9 +1 443\r\n",
        b"PROXY TCP4 192.0.2.7 203.0.113.9 0x1 443\r\n",
        b"PROXY TCP4\t192.0.2.7 203.0.113.9 40000 443\r\n",
        b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
        b"PROXY UNKNOWN " + b"x" * 93,
    ],
)
def test_lines_that_are_not_to_the_letter_are_refused(data: bytes) -> None:
    assert read_proxy_header(data) == "malformed"


def test_longest_line_is_read() -> None:
    ip = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
    data = line((ip, 65535), (ip, 65535))
    assert len(data) == 104
    assert read_proxy_header(data) == said(data, (ip, 65535), (ip, 65535))


def test_ports_may_be_0() -> None:
    data = line(("192.0.2.7", 0), ("203.0.113.9", 0))
    assert read_proxy_header(data) == said(data, ("192.0.2.7", 0), ("203.0.113.9", 0))


def test_ipv4_addresses_in_ipv6_are_ipv4_addresses() -> None:
    data = line(("::ffff:192.0.2.7", 40000), TO_V6)
    assert read_proxy_header(data) == said(data, V4, TO_V6)
    data = raw(PROXY, TCP6, addresses(("::ffff:192.0.2.7", 40000), TO_V6))
    assert read_proxy_header(data) == said(data, V4, TO_V6)


@pytest.mark.parametrize(
    "data",
    [b"G", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00\x01", b"\0", b"proxy ", b"PROXYTCP4", b"\r\n\r\n\0\r\nQUIT\r", b"\r\nGET /"],
)
def test_anything_else_is_no_header(data: bytes) -> None:
    assert read_proxy_header(data) == "missing"
