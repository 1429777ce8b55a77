"""fastlb/data_plane/client_hello.pyx. Every input ends at an unmapped page."""

import shutil
import socket
import ssl
import struct
import subprocess

import pytest

from tests.support._probe import read_client_hello
from tests.support.client_hello import alpn, message, openssl_hello, records, server_name, vector, versions
from tests.support.tls import client_context

MAX_BYTES = 16512
WHOLE = (server_name(b"Shop.Example"), alpn(b"h2", b"http/1.1"), versions(0x3A3A, 0x0304, 0x0303), (51, bytes(40)))


def test_parts_are_read_and_what_follows_the_records_is_not() -> None:
    data = records(message(WHOLE, session_id=bytes(32)))
    assert read_client_hello(data + b"\x14\x03\x03\x00\x01\x01") == {
        "size": len(data),
        "version": 0x0304,
        "server_name": b"shop.example",
        "alpn": b"\x02h2\x08http/1.1",
        "offers": True,
    }


def test_client_without_extensions_names_nobody() -> None:
    nothing = {"server_name": b"", "alpn": None, "offers": False}
    data = records(message(None, version=0x0300))
    assert read_client_hello(data) == {"size": len(data), "version": 0x0300, **nothing}
    data = records(message([], version=0x0301))
    assert read_client_hello(data) == {"size": len(data), "version": 0x0301, **nothing}


@pytest.mark.parametrize("offered", [b"h", b"h22", b"http/1.", b"2"])
def test_protocol_is_offered_whole_or_not(offered: bytes) -> None:
    assert not read_client_hello(records(message(WHOLE)), offered)["offers"]


@pytest.mark.parametrize("sizes", [(), (1,), (3,), (4,), (5,), (60, 60), [1] * 1000])
def test_every_cut_asks_for_more_and_for_no_more_than_there_is(sizes: list[int]) -> None:
    data = records(message(WHOLE), sizes)
    assert read_client_hello(data)["server_name"] == b"shop.example"
    for cut in range(len(data)):
        missing = read_client_hello(data[:cut])
        assert isinstance(missing, int) and 0 < missing <= len(data) - cut, cut


def test_what_it_asks_for_leads_to_the_end() -> None:
    data, at, n = records(message(WHOLE), [100]), 0, 0
    while isinstance(answer := read_client_hello(data[:at]), int):
        at += answer
        n += 1
    assert answer["size"] == at == len(data)
    assert n < 6


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x80\x2e\x01\x03\x01",  # SSL 2.0
        b"\x17\x03\x03\x00\x10",  # another kind of record
        b"\x16\x02\x00\x00\x10",
        b"\x16\x03\x01\x00\x00",  # an empty one
        b"\x16\x03\x01\x40\x01",  # one that is too large for any
        b"\x16\x03\x01\x00\x10\x02",  # a ServerHello
    ],
)
def test_what_is_no_tls_is_found_by_its_first_wrong_byte(data: bytes) -> None:
    answers = [read_client_hello(data[:cut]) for cut in range(len(data) + 1)]
    first = answers.index("not_tls")
    assert all(isinstance(answer, int) for answer in answers[:first])
    assert set(answers[first:]) == {"not_tls"}


def test_too_large_is_known_as_soon_as_it_is_said() -> None:
    largest = message([(21, bytes(16384 - 4 - 2 - 32 - 1 - 6 - 2 - 2 - 4))])
    assert len(largest) == 16384
    assert read_client_hello(records(largest))["size"] == 16389
    assert read_client_hello(records(largest)[:9]) == 16380
    assert read_client_hello(b"\x16\x03\x01\x40\x00\x01\x00\x40\x81") == "too_large"
    assert read_client_hello(b"\x16\x03\x01\x40\x00\x01\xff\xff\xff") == "too_large"


def test_headers_of_small_records_count() -> None:
    data = records(message([(21, bytes(4000))]), [1] * 3000)
    answers = {read_client_hello(data[:cut]) for cut in range(0, len(data), 7)}
    assert "too_large" in answers
    assert max(answer for answer in answers if isinstance(answer, int)) < MAX_BYTES


def test_records_of_another_kind_between_its_own_are_refused() -> None:
    data = records(message(WHOLE), [50])
    for wrong in (b"\x14\x03\x01\x00\x01\x01", b"\x15\x03\x01\x00\x02\x01\x00", b"\x16\x03\x01\x00\x00", b"\x16\x04\x01\x00\x01"):
        assert read_client_hello(data[:55] + wrong + data[55:]) == "malformed"


def test_what_follows_in_its_record_is_refused() -> None:
    assert read_client_hello(records(message(WHOLE) + b"\1")) == "malformed"
    assert read_client_hello(records(message(WHOLE) + message(WHOLE), [50])) == "malformed"


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": 0x0200},
        {"version": 0x0403},
        {"session_id": bytes(33)},
        {"ciphers": b""},
        {"ciphers": b"\x13\x01\x13"},
        {"compression": b""},
        {"compression": b"\1"},
    ],
)
def test_wrong_field_is_refused(wrong: dict[str, bytes]) -> None:
    assert read_client_hello(records(message(WHOLE, **wrong))) == "malformed"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "extensions",
    [
        [alpn(b"h2"), alpn(b"h2")],
        [(51, b""), (17, b""), (51, b"")],
        [(16, vector(b""))],
        [(16, b"\x00")],
        [(16, b"\x00\x04\x02h2")],
        [(16, b"\x00\x02\x02h2")],
        [(16, b"\x00\x03\x02h2!")],
        [(16, b"\x00\x02\x01a\x00\x01")],
        [alpn(b"")],
        [(43, b"")],
        [(43, b"\x00")],
        [(43, b"\x03\x03\x04\x03")],
        [(43, b"\x02\x03\x04\x03")],
        [(43, b"\x04\x03\x04")],
    ],
)
def test_wrong_extension_is_refused(extensions: list[tuple[int, bytes]]) -> None:
    assert read_client_hello(records(message([(10, b"\x00\x02\x00\x1d"), *extensions]))) == "malformed"


def test_extensions_fill_what_holds_them() -> None:
    body = message(WHOLE)[4:]
    for at in (2, 3):
        for change in (-1, 1):
            wrong = bytearray(body)
            start = 2 + 32 + 1 + 6 + 2
            size = struct.unpack_from(">H", wrong, start)[0] + change
            struct.pack_into(">H", wrong, start, size)
            assert read_client_hello(records(b"\1" + vector(bytes(wrong), 3))) == "malformed", (at, change)
    assert read_client_hello(records(b"\1" + vector(body + b"\0", 3))) == "malformed"
    for cut in range(2 + 32 + 1 + 6 + 2 + 1, len(body)):
        assert read_client_hello(records(b"\1" + vector(body[:cut], 3))) == "malformed", cut


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (b"a", b"a"),
        (b"A.Example.", b"a.example"),
        (b"xn--bcher-kva.example", b"xn--bcher-kva.example"),
        (b"_dmarc.a-b.example", b"_dmarc.a-b.example"),
        (b"192.0.2.1", b"192.0.2.1"),
        (b"%s.example" % (b"a" * 63), b"%s.example" % (b"a" * 63)),
        (b".".join([b"a" * 49] * 5) + b".abc", b".".join([b"a" * 49] * 5) + b".abc"),  # 253
    ],
)
def test_name_of_a_host_is_lower_case(sent: bytes, read: bytes) -> None:
    assert read_client_hello(records(message([server_name(sent)])))["server_name"] == read


BAD_NAMES = [b"", b".", b"..", b".a", b"a..b", b"a..", b"a b", b"a\0b", b"a\0", b"a/b", b"*.a", b"a:443", b"[::1]", b"b\xc3\xbccher"]
TOO_LONG = [b"a" * 64, b".".join([b"a" * 49] * 5) + b".abcde"]


@pytest.mark.parametrize(
    "extension",
    [
        *(server_name(name) for name in BAD_NAMES + TOO_LONG),
        server_name(),
        server_name(b"a", b"a"),
        server_name(b"a", b"b"),
        server_name(b"a", kind=1),
        (0, b""),
        (0, b"\x00\x04\x00\x00\x01"),
        (0, b"\x00\x04\x00\x00\x01a!"),
        (0, b"\x00\x05\x00\x00\x01a!"),
        (0, b"\x00\x04\x00\x00\x02a"),
    ],
)
def test_what_names_no_single_host_is_refused(extension: tuple[int, bytes]) -> None:
    assert read_client_hello(records(message([extension]))) == "bad_name"
    assert read_client_hello(records(message([(10, b""), extension, alpn(b"h2")]))) == "bad_name"


# ---------------------------------------------------------------------------------------------------------------- as OpenSSL reads it
def server_reading(data: bytes) -> str | bool | None:
    """The name that OpenSSL's server finds, None for none; False: it refuses the message, or waits for more of it."""
    found: list[str | None] = []

    def note(_socket: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> int:
        found.append(name)
        return ssl.ALERT_DESCRIPTION_ACCESS_DENIED  # before anything is signed

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sni_callback = note  # type: ignore[assignment]
    incoming = ssl.MemoryBIO()
    incoming.write(data)
    with pytest.raises(ssl.SSLError):
        context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True).do_handshake()
    return found[0] if found else False


def test_openssl_reads_the_same_name_in_whatever_we_let_pass() -> None:
    context = client_context(maximum_version=ssl.TLSVersion.TLSv1_3)
    context.set_alpn_protocols(["h2", "http/1.1"])
    data = openssl_hello(context, "shop.example")
    n_read = 0
    for at in range(len(data)):
        for flip in (1, 0x20, 0x80, 0xFF):
            changed = data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]
            ours = read_client_hello(changed)
            if isinstance(ours, dict):
                n_read += 1
                theirs = server_reading(changed)
                assert theirs is False or (theirs or "").lower().rstrip(".").encode() == ours["server_name"], (at, flip)
    assert n_read > len(data)  # random bytes, keys and ciphers are the most of it


@pytest.mark.parametrize("name", ["shop.example", None])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_client_of_python_is_read(version: ssl.TLSVersion, name: str | None) -> None:
    context = client_context(maximum_version=version)
    context.set_alpn_protocols(["h2", "http/1.1"])
    hello = read_client_hello(openssl_hello(context, name))
    assert hello["server_name"] == (name or "").encode()
    assert hello["version"] == version
    assert hello["alpn"] == b"\x02h2\x08http/1.1"


@pytest.mark.parametrize(
    "command",
    [
        "openssl s_client -connect 127.0.0.1:PORT -servername shop.example -alpn h2,http/1.1",
        "openssl s_client -connect 127.0.0.1:PORT -servername shop.example -alpn h2 -tls1_2 -split_send_frag 512",
        "curl -sk --max-time 10 --connect-to ::127.0.0.1:PORT https://shop.example/",
    ],
)
def test_programs_are_read(command: str) -> None:
    program, *arguments = command.split()
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"no {program}")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        process = subprocess.Popen(
            [path, *(argument.replace("PORT", port) for argument in arguments)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            server.settimeout(10)
            client, _ = server.accept()
            with client:
                client.settimeout(10)
                data = b""
                while isinstance(hello := read_client_hello(data), int):
                    data += client.recv(hello)
        finally:
            process.kill()
            process.wait()
    assert hello["server_name"] == b"shop.example"
    assert hello["offers"]
