"""HTTP/1.1 heads for property tests: valid ones, damaged ones, and what h11 makes of them.

h11 is the oracle. fastlb may refuse more than h11 does, and `why_stricter_*` lists every reason for which it does: a refusal
without one of them is a bug as well. It never accepts what h11 refuses, and never reads anything else into it.
"""

import re
from collections.abc import Callable
from typing import Any

import h11
from h11._connection import _body_framing  # private, but the very answer that the oracle is asked for
from hypothesis import strategies as st

TOKEN = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
TARGET = "".join(map(chr, range(0x21, 0x7F))).replace("#", "")
VISIBLE = "".join(map(chr, [*range(0x21, 0x7F), *range(0x80, 0x100)]))
ROOM = 1 << 20

# ---------------------------------------------------------------------------------------------------------- valid heads
tokens = st.text(TOKEN, min_size=1, max_size=12)
spaces = st.sampled_from(["", " ", "\t", "  ", " \t "])
values = st.one_of(
    st.text(VISIBLE, max_size=20),
    st.lists(st.text(VISIBLE, min_size=1, max_size=6), max_size=4).map(" ".join),
    st.lists(st.text(VISIBLE, min_size=1, max_size=6), max_size=4).map("\t".join),
)
# Names the parser looks for, and their neighbours.
known_names = st.sampled_from(
    [
        *(
            "Accept",
            "Cookie",
            "Date",
            "Te",
            "Trailer",
            "Keep-Alive",
            "Proxy-Connection",
            "HTTP2-Settings",
            "X-Request-Id",
            "X-Forwarded-For",
        ),
        *("X-Forwarded-Host", "X-Forwarded-Proto", "Hos", "Hosts", "Content-Lengths", "Content_Length", "Transfer-Encodin", "Connectio"),
    ]
)
any_case = st.sampled_from([str, str.lower, str.upper, str.swapcase])
SPECIAL = {"host", "content-length", "transfer-encoding", "connection", "upgrade", "expect"}
plain_names = st.one_of(known_names, tokens.filter(lambda name: name.lower() not in SPECIAL))
segments = st.text(TARGET.replace("/", "").replace("?", ""), max_size=6)
paths = st.one_of(
    st.lists(st.one_of(segments, st.sampled_from(["", ".", "..", "%2e", "%2F", "%41", "a%00"])), max_size=5).map(
        lambda parts: "/" + "/".join(parts)
    ),
    st.text(TARGET, max_size=20).map(lambda text: "/" + text),
)
hosts = st.one_of(
    st.just(""),
    st.from_regex(r"[a-zA-Z0-9._~!$&'()*+,;=%-]{1,20}(:[0-9]{0,5})?", fullmatch=True),
    st.sampled_from(["[::1]", "[2001:DB8::1]:8080", "127.0.0.1:80", "[::ffff:1.2.3.4]"]),
)
targets = st.one_of(
    paths,
    st.tuples(
        st.sampled_from(["http://", "https://", "HTTP://"]),
        hosts.filter(lambda host: host and host[0] != ":"),
        st.one_of(st.just(""), paths),
    ).map("".join),
)
methods = st.one_of(
    st.sampled_from(["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"]), tokens.filter(lambda name: name != "CONNECT")
)
connections = st.lists(
    st.sampled_from(["close", "keep-alive", "Upgrade", "x-a", "Host", "Content-Length", "", "te", "CLOSE"]), max_size=4
).map(", ".join)


@st.composite
def field_lines(draw: st.DrawFn, names: st.SearchStrategy[str], texts: st.SearchStrategy[str]) -> str:
    return draw(any_case)(draw(names)) + ":" + draw(spaces) + draw(texts) + draw(spaces)


def line_of(name: str, texts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return field_lines(st.just(name), texts)


lengths = st.one_of(st.integers(0, 20), st.integers(0, 10**18 - 1)).map(str)
framing_lines = st.one_of(
    st.just([]),
    line_of("Content-Length", lengths).map(lambda line: [line]),
    line_of("Transfer-Encoding", st.sampled_from(["chunked", "Chunked", "CHUNKED"])).map(lambda line: [line]),
)
other_lines = st.lists(
    st.one_of(
        field_lines(plain_names, values),
        line_of("Connection", connections),
        line_of("Upgrade", st.sampled_from(["websocket", "h2c", "a, b"])),
        line_of("Expect", st.sampled_from(["100-continue", "100-Continue", "x"])),
    ),
    max_size=8,
)


def encode(lines: list[str]) -> bytes:
    return "".join(line + "\r\n" for line in [*lines, ""]).encode("latin-1")


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Request heads that every strict reader accepts."""
    version = draw(st.sampled_from(["1.1", "1.1", "1.1", "1.0"]))
    framing = draw(framing_lines)
    if version == "1.0":
        framing = [line for line in framing if not line.lower().startswith("transfer")]
    lines = draw(other_lines) + framing
    if version == "1.1" or draw(st.booleans()):
        lines.append(draw(line_of("Host", hosts)))
    order = draw(st.permutations(lines))
    return encode([f"{draw(methods)} {draw(targets)} HTTP/{version}", *order])


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    """Response heads, interim ones included."""
    version = draw(st.sampled_from(["1.1", "1.1", "1.1", "1.0"]))
    framing = draw(framing_lines)
    if version == "1.0":
        framing = [line for line in framing if not line.lower().startswith("transfer")]
    order = draw(st.permutations(draw(other_lines) + framing))
    status = draw(st.one_of(st.sampled_from([100, 103, 200, 204, 206, 301, 304, 404, 500]), st.integers(102, 999)))
    reason = draw(st.one_of(st.just(""), values.map(lambda text: " " + text)))
    return encode([f"HTTP/{version} {status}{reason}", *order])


# ---------------------------------------------------------------------------------------------------------- damaged heads
PIECES = [
    *(bytes([byte]) for byte in b'\r\n\0\t :,;\x0b\x0c\x7f\x80\xff/#%?@[]*0+-5x"\\'),
    *(
        b"\r\n",
        b"\n\n",
        b"\r\n\r\n",
        b"\r\n ",
        b"\r\n\t",
        b"  ",
        b"HTTP/1.0",
        b"HTTP/1.2",
        b"HTTP/2.0",
        b"http://",
        b"http:///",
        b"CONNECT",
        b"*",
    ),
    *(b"Host: b\r\n", b"host:\r\n", b"X: a\r\n b\r\n", b"X: a\rb\r\n", b"X: a\nb\r\n", b"X\r\n", b": x\r\n"),
    *(
        b"Content-Length" + rest + b"\r\n"
        for rest in (b": 5", b":5", b": 05", b": +5", b": 5, 5", b": 0x5", b":", b" : 5", b": " + b"9" * 20)
    ),
    *(
        b"Transfer-Encoding" + rest + b"chunked\r\n"
        for rest in (b": ", b":\t", b":", b" : ", b": gzip, ", b": chunked, ", b": x", b":\x0b", b": ,")
    ),
    *(b"Transfer-Encoding: " + rest + b"\r\n" for rest in (b"identity", b"gzip", b"chunked, identity", b"chunked;x", b"")),
]


@st.composite
def damaged(draw: st.DrawFn, heads: st.SearchStrategy[bytes]) -> bytes:
    """Heads with a few bytes, lines or words put in, taken out or doubled."""
    head = draw(heads) + draw(st.sampled_from([b"", b"", b"body", b"\r\n", b"GET / HTTP/1.1\r\n\r\n"]))
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        lines = head.splitlines(keepends=True)
        kind = draw(st.integers(0, 6))
        at = draw(st.integers(0, len(head)))
        number = draw(st.integers(0, max(0, len(lines) - 1)))
        if kind == 0:
            head = head[:at] + draw(st.sampled_from(PIECES)) + head[at:]
        elif kind == 1:
            head = head[:at] + head[at + draw(st.integers(1, 3)) :]
        elif kind == 2:
            head = head[:at] + bytes([draw(st.integers(0, 255))]) + head[at + 1 :]
        elif lines:
            if kind == 3:  # a line doubled
                lines.insert(number, draw(st.sampled_from(lines)))
            elif kind == 4:
                lines.insert(number + 1, draw(st.sampled_from(PIECES)))
            elif kind == 5:
                lines[number] = lines[number].replace(b"\r\n", draw(st.sampled_from([b"\n", b"\r", b"", b"\r\r\n", b"\n\r\n"])))
            else:
                del lines[number]
            head = b"".join(lines)
    return head


# ---------------------------------------------------------------------------------------------------------- the oracle
Reading = dict[str, Any]


def describe(connection: h11.Connection, event: Any, size: int, request_method: bytes) -> Reading:
    kind, arguments = ("none", (0,)) if isinstance(event, h11.InformationalResponse) else _body_framing(request_method, event)
    if kind == "content-length":
        kind = "length" if arguments[0] else "none"
    listed = [item.strip().lower() for name, value in event.headers if name == b"connection" for item in value.split(b",")]
    return {
        "fields": [(name, value) for name, value in event.headers.raw_items()],
        "framing": "until_close" if kind == "http/1.0" else kind,
        "length": arguments[0] if kind == "length" else None,
        "size": size - len(connection.trailing_data[0]),
        "version": event.http_version,
        "close": b"close" in listed,
        "keep_alive": b"keep-alive" in listed,
    }


def ask(connection: h11.Connection, data: bytes) -> Any:
    """The event, None where more is needed, or the error's text."""
    connection.receive_data(data)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError as error:
        return str(error)
    return None if event is h11.NEED_DATA else event


def h11_request(data: bytes) -> Reading | str | None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=ROOM)
    event = ask(connection, data)
    if not isinstance(event, h11.Request):
        return event  # type: ignore[no-any-return]
    return {**describe(connection, event, len(data), event.method), "method": event.method, "target": event.target}


def h11_response(data: bytes, method: str) -> Reading | str | None:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=ROOM)
    # The request offers an upgrade, or h11 would take a 101 for an error.
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "a"), ("Upgrade", "x"), ("Connection", "upgrade")]))
    connection.send(h11.EndOfMessage())
    event = ask(connection, data)
    if not isinstance(event, h11.Response | h11.InformationalResponse):
        return event  # type: ignore[no-any-return]
    return {**describe(connection, event, len(data), method.encode()), "status": event.status_code, "reason": event.reason}


# ---------------------------------------------------------------------------------------------------------- where fastlb is stricter
def field_values(reading: Reading, name: bytes) -> list[bytes]:
    return [value for key, value in reading["fields"] if key.lower() == name]


Reason = Callable[[bytes, Reading], object]
# `head` is what h11 took for the head. Each reason is deliberate: RFC 9112 asks for it or allows it, and it closes a door to
# reading one message in two ways.
STRICTER: dict[str, Reason] = {
    "a line that ends in a bare LF": lambda head, _: re.search(rb"(?<!\r)\n", head),
    "a bare CR": lambda head, _: re.search(rb"\r(?!\n)", head),
    "a control character": lambda head, _: re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", head),
    "a continued line": lambda head, _: re.search(rb"\n[ \t]", head),
    "a repeated length": lambda head, _: len(re.findall(rb"(?im)^content-length:", head)) > 1,
    "a length that is not digits alone": lambda head, _: re.search(rb"(?im)^content-length:[ \t]*(?!\d{1,18}[ \t]*\r?$)", head),
    "length and chunked": lambda head, _: re.search(rb"(?im)^content-length:", head) and re.search(rb"(?im)^transfer-encoding:", head),
    "chunked in HTTP/1.0": lambda _, reading: reading["version"] == b"1.0" and field_values(reading, b"transfer-encoding"),
    "another major version": lambda _, reading: reading["version"][:1] != b"1",
}
AUTHORITY = rb"(\[[0-9A-Fa-f:.]{3,}\]|[A-Za-z0-9._~%!$&'()*+,;=-]*)(:\d{0,5})?"
TARGETS = re.compile(rb"/[^#]*|(?i:https?)://(?![:/?])" + AUTHORITY + rb"([/?][^#]*)?")
STRICTER_REQUESTS: dict[str, Reason] = {
    **STRICTER,
    "a method of more than 64 bytes": lambda _, reading: len(reading["method"]) > 64,
    "CONNECT": lambda _, reading: reading["method"] == b"CONNECT",
    "a target in no known form": lambda _, reading: (
        not TARGETS.fullmatch(reading["target"]) and (reading["method"], reading["target"]) != (b"OPTIONS", b"*")
    ),
    "a host that is no authority": lambda _, reading: any(not re.fullmatch(AUTHORITY, host) for host in field_values(reading, b"host")),
    "no host in a later HTTP/1.x": lambda _, reading: reading["version"] > b"1.1" and not field_values(reading, b"host"),
}
STRICTER_RESPONSES = STRICTER


def why_stricter(reasons: dict[str, Reason], data: bytes, reading: Reading) -> list[str]:
    return [name for name, holds in reasons.items() if holds(data[: reading["size"]], reading)]
