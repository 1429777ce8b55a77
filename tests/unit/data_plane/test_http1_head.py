"""fastlb/data_plane/http1_head.pyx: hand-picked heads. The oracle is in tests/property/test_http1_head.py.

Every head is given three times: ending at an unmapped page, starting behind one, and cut at every byte.
"""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support import _probe

Parsed = dict[str, Any] | str | None


def check_every_cut(parse: Callable[..., Parsed], head: bytes, size: int | None) -> None:
    """Pieces are waited for or refused, never accepted; with more bytes behind it the result is the same."""
    whole = parse(head)
    assert parse(head, before=True) == whole
    for at in range(size or len(head)):
        piece = parse(head[:at])
        if size is None:
            assert piece is None or isinstance(piece, str)
        else:
            assert piece is None
    if size is not None:
        for more in (b"G", b"\r", b"\n", b"\0", b" x", b"GET / HTTP/1.1\r\nHost: b\r\n\r\n"):
            assert parse(head + more) == whole


def request(head: bytes) -> dict[str, Any]:
    parsed = _probe.parse_request(head)
    assert isinstance(parsed, dict), parsed
    check_every_cut(_probe.parse_request, head, parsed["size"])
    return parsed


def response(head: bytes, method: str = "GET") -> dict[str, Any]:
    def parse(data: bytes, **options: Any) -> Parsed:
        return _probe.parse_response(data, method=method, **options)

    parsed = parse(head)
    assert isinstance(parsed, dict), parsed
    check_every_cut(parse, head, parsed["size"])
    return parsed


def with_fields(
    *lines: bytes, method: bytes = b"POST", target: bytes = b"/", version: bytes = b"HTTP/1.1", host: bytes | None = b"a"
) -> bytes:
    host_line = [] if host is None else [b"Host: " + host]
    return b"\r\n".join([b" ".join([method, target, version]), *host_line, *lines, b"", b""])


# ------------------------------------------------------------------------------------------------------------ requests
def test_request_is_taken_apart() -> None:
    head = b"GET /a/b?c=%20d HTTP/1.1\r\nHost: example.com:80\r\nAccept:*/*\r\nX-Empty:\r\nX-Wide: \t a  b\t \r\n\r\n"
    assert request(head) == {
        "size": len(head),
        "fields": [(b"Host", b"example.com:80"), (b"Accept", b"*/*"), (b"X-Empty", b""), (b"X-Wide", b"a  b")],
        "ids": [1, 0, 0, 0],
        "dropped": [],
        "version": 1,
        "framing": "none",
        "content_length": None,
        "flags": {"path_is_raw"},
        "method": b"GET",
        "method_name": "GET",
        "target": b"/a/b?c=%20d",
        "origin": b"/a/b?c=%20d",
        "path": b"/a/b",
        "host": b"example.com:80",
    }


@pytest.mark.parametrize("name", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_methods_with_a_meaning_are_known(name: str) -> None:
    assert request(with_fields(method=name.encode()))["method_name"] == name


@pytest.mark.parametrize("method", [b"PATCH", b"get", b"G", b"!#$%&'*+-.^_`|~09azAZ", b"X" * 64, b"HEADS", b"GETS", b"PROPFIND"])
def test_other_methods_pass_as_they_are(method: bytes) -> None:
    parsed = request(with_fields(method=method))
    assert (parsed["method"], parsed["method_name"]) == (method, "OTHER")


def test_empty_field_section_is_enough_for_http_1_0() -> None:
    parsed = request(b"GET / HTTP/1.0\r\n\r\n")
    assert (parsed["version"], parsed["host"], parsed["fields"]) == (0, b"", [])


def test_higher_minor_version_is_treated_as_1_1() -> None:
    assert request(with_fields(version=b"HTTP/1.9"))["version"] == 1


def test_field_names_are_compared_without_case() -> None:
    parsed = request(b"POST / HTTP/1.1\r\nhOST: a\r\ncONTENT-lENGTH: 3\r\n\r\n")
    assert (parsed["host"], parsed["content_length"], parsed["framing"]) == (b"a", 3, "length")


@pytest.mark.parametrize(
    "name",
    [b"Hosts", b"Hos", b"Content-Lengt", b"Content-Lengths", b"Content_Length", b"Transfer-Encodin", b"xHost", b"T", b"TEE", b"Connectio"],
)
def test_similar_names_mean_nothing(name: bytes) -> None:
    parsed = request(with_fields(name + b": 5"))
    assert parsed["ids"] == [1, 0]
    assert parsed["framing"] == "none"


@pytest.mark.parametrize("value", [b"\xff\x80\xa0", b"a\tb", b"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", b":", b": :", b"\xc3\xa9"])
def test_any_visible_byte_may_be_in_a_value(value: bytes) -> None:
    assert request(with_fields(b"X: " + value))["fields"][1] == (b"X", value)


# framing
@pytest.mark.parametrize(
    ("lines", "framing", "length"),
    [
        ([], "none", None),
        ([b"Content-Length: 0"], "none", 0),
        ([b"Content-Length: 1"], "length", 1),
        ([b"Content-Length: 007"], "length", 7),
        ([b"Content-Length:  5\t"], "length", 5),
        ([b"Content-Length: 999999999999999999"], "length", 999999999999999999),
        ([b"Transfer-Encoding: chunked"], "chunked", None),
        ([b"Transfer-Encoding: CHUNKED"], "chunked", None),
        ([b"Transfer-Encoding:\tchunked "], "chunked", None),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_body_is_framed(lines: list[bytes], framing: str, length: int | None) -> None:
    parsed = request(with_fields(*lines))
    assert (parsed["framing"], parsed["content_length"]) == (framing, length)


# targets
@pytest.mark.parametrize(
    ("target", "origin", "path", "host", "flags"),
    [
        (b"/", b"/", b"/", b"a", {"path_is_raw"}),
        (b"/?", b"/?", b"/", b"a", {"path_is_raw"}),
        (b"/?/../%2e", b"/?/../%2e", b"/", b"a", {"path_is_raw"}),
        (b"//", b"//", b"//", b"a", set()),
        (b"/a/./b", b"/a/./b", b"/a/./b", b"a", set()),
        (b"/.a", b"/.a", b"/.a", b"a", set()),
        (b"/a.b", b"/a.b", b"/a.b", b"a", {"path_is_raw"}),
        (b"/%61", b"/%61", b"/%61", b"a", set()),
        (b"/!\"$&'()*+,-.:;<=>@[\\]^_`{|}~", b"/!\"$&'()*+,-.:;<=>@[\\]^_`{|}~", b"/!\"$&'()*+,-.:;<=>@[\\]^_`{|}~", b"a", {"path_is_raw"}),
        (b"http://b", b"", b"", b"b", {"path_is_raw", "absolute_target"}),
        (b"http://b/", b"/", b"/", b"b", {"path_is_raw", "absolute_target"}),
        (b"HTTP://B:80/x?y", b"/x?y", b"/x", b"B:80", {"path_is_raw", "absolute_target"}),
        (b"https://b?q", b"?q", b"", b"b", {"path_is_raw", "absolute_target"}),
        (b"http://[::1]:8080/x", b"/x", b"/x", b"[::1]:8080", {"path_is_raw", "absolute_target"}),
        (b"http://b//c", b"//c", b"//c", b"b", {"absolute_target"}),
    ],
)
def test_target_is_read(target: bytes, origin: bytes, path: bytes, host: bytes, flags: set[str]) -> None:
    parsed = request(with_fields(target=target))
    assert (parsed["target"], parsed["origin"], parsed["path"], parsed["host"]) == (target, origin, path, host)
    assert parsed["flags"] == flags


def test_authority_of_the_target_replaces_host() -> None:
    parsed = request(with_fields(target=b"http://b/", host=b"evil"))
    assert parsed["host"] == b"b"
    assert parsed["dropped"] == [b"Host"]


def test_asterisk_is_for_options() -> None:
    assert request(with_fields(method=b"OPTIONS", target=b"*"))["path"] == b"*"


@pytest.mark.parametrize(
    "host", [b"", b"a", b"A.b-c_d", b"a.", b"1.2.3.4:80", b"[::1]", b"[::1]:80", b"[::ffff:1.2.3.4]:1", b"a:", b"xn--a"]
)
def test_host_is_kept_as_sent(host: bytes) -> None:
    assert request(with_fields(host=host))["host"] == host


# hop by hop
def test_hop_by_hop_fields_are_dropped() -> None:
    lines = [
        b"Connection: x",
        b"Keep-Alive: 5",
        b"Proxy-Connection: y",
        b"TE: trailers",
        b"Upgrade: z",
        b"HTTP2-Settings: a",
        b"X: b",
        b"Y: c",
    ]
    parsed = request(with_fields(*lines))
    assert parsed["dropped"] == [b"Connection", b"Keep-Alive", b"Proxy-Connection", b"TE", b"Upgrade", b"HTTP2-Settings", b"X"]


def test_fields_named_in_connection_are_dropped_wherever_they_stand() -> None:
    parsed = request(with_fields(b"x-a: 1", b"Connection: X-A ,\tx-b,", b"X-B: 2", b"X-a: 3", b"x-ab: 4", b"Connection: ,X-C", b"X-C: 5"))
    assert parsed["dropped"] == [b"x-a", b"Connection", b"X-B", b"X-a", b"Connection", b"X-C"]
    assert "drop_listed" in parsed["flags"]


@pytest.mark.parametrize("name", [b"Host", b"Content-Length", b"Expect"])
def test_connection_cannot_take_away_what_the_message_is(name: bytes) -> None:
    parsed = request(
        with_fields(b"Connection: host, content-length, transfer-encoding, expect", b"Content-Length: 5", b"Expect: 100-continue")
    )
    assert name not in parsed["dropped"]


@pytest.mark.parametrize(
    ("lines", "flags"),
    [
        ([b"Connection: close"], {"close"}),
        ([b"Connection: Close"], {"close"}),
        ([b"Connection: keep-alive"], {"keep_alive"}),
        ([b"Connection: keep-alive, CLOSE"], {"close", "keep_alive"}),
        ([b"Connection: a", b"Connection: close"], {"close"}),
        ([b"Connection: closed"], set()),
        ([b"Connection: clos"], set()),
        ([b"Connection: close;x"], set()),
        ([b"Connection:"], set()),
        ([b"Connection: , ,"], set()),
        ([b"Expect: 100-continue"], {"expect_continue"}),
        ([b"Expect: 100-Continue"], {"expect_continue"}),
        ([b"Expect: 200-ok"], set()),
        ([b"Connection: upgrade", b"Upgrade: websocket"], {"upgrade"}),
        ([b"Connection: Upgrade"], set()),
        ([b"Upgrade: websocket"], set()),
        ([b"Connection: upgrade", b"Upgrade: h2c"], {"h2c"}),
        ([b"Connection: upgrade", b"Upgrade: websocket, H2C"], {"h2c"}),
        ([b"Connection: upgrade", b"Upgrade: h2c-14"], {"h2c"}),
        ([b"Connection: upgrade", b"Upgrade: websocket", b"Upgrade: h2c"], {"h2c"}),
    ],
    ids=lambda value: repr(sorted(value) if isinstance(value, set) else value)[:60],  # the same in each process of a run
)
def test_what_the_fields_ask_for_is_noted(lines: list[bytes], flags: set[str]) -> None:
    assert request(with_fields(*lines))["flags"] - {"path_is_raw", "drop_listed"} == flags


def test_http_1_0_neither_upgrades_nor_expects() -> None:
    lines = [b"Connection: upgrade", b"Upgrade: websocket", b"Expect: 100-continue"]
    assert request(with_fields(*lines, version=b"HTTP/1.0"))["flags"] == {"path_is_raw"}


# refused
REFUSED = {
    # the request line
    "empty": (b"\r\n\r\n", "client:bad_request_line"),
    "only a method": (b"GET\r\n\r\n", "client:bad_request_line"),
    "HTTP/0.9": (b"GET /\r\n\r\n", "client:bad_request_line"),
    "space before the method": (b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", "client:bad_request_line"),
    "two spaces behind the method": (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "client:bad_request_line"),
    "tab behind the method": (b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", "client:bad_request_line"),
    "two spaces behind the target": (b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", "client:bad_request_line"),
    "space behind the version": (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", "client:bad_request_line"),
    "bare LF": (b"GET / HTTP/1.1\nHost: a\n\n", "client:bad_request_line"),
    "bare CR": (b"GET / HTTP/1.1\rHost: a\r\n\r\n", "client:bad_request_line"),
    "two CRs": (b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", "client:bad_request_line"),
    "method with a colon": (b"G:T / HTTP/1.1\r\nHost: a\r\n\r\n", "client:bad_request_line"),
    "method with a NUL": (b"G\0T / HTTP/1.1\r\nHost: a\r\n\r\n", "client:bad_request_line"),
    "method of 65 bytes": (b"X" * 65 + b" / HTTP/1.1\r\nHost: a\r\n\r\n", "client:bad_request_line"),
    "endless method": (b"X" * 65, "client:bad_request_line"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "client:bad_request_line"),
    "lower-case http": (b"GET / http/1.1\r\nHost: a\r\n\r\n", "client:bad_request_line"),
    "version without a dot": (b"GET / HTTP/11\r\nHost: a\r\n\r\n", "client:bad_request_line"),
    "version of two digits": (b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", "client:bad_request_line"),
    "another protocol": (b"GET / ICAP/1.0\r\nHost: a\r\n\r\n", "client:bad_request_line"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "client:bad_version"),
    "HTTP/0.9 spelled out": (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", "client:bad_version"),
    # the target
    "target with a fragment": (with_fields(target=b"/a#b"), "client:bad_target"),
    "target with a tab": (with_fields(target=b"/a\tb"), "client:bad_target"),
    "target with a NUL": (with_fields(target=b"/a\0b"), "client:bad_target"),
    "target with DEL": (with_fields(target=b"/a\x7f"), "client:bad_target"),
    "target beyond ASCII": (with_fields(target=b"/\xc3\xa9"), "client:bad_target"),
    "relative target": (with_fields(target=b"a/b"), "client:bad_target"),
    "asterisk for another method": (with_fields(target=b"*"), "client:bad_target"),
    "asterisk and more": (with_fields(method=b"OPTIONS", target=b"*/"), "client:bad_target"),
    "another scheme": (with_fields(target=b"ftp://a/"), "client:bad_target"),
    "scheme without slashes": (with_fields(target=b"http:/a"), "client:bad_target"),
    "no authority": (with_fields(target=b"http:///a"), "client:bad_target"),
    "only a scheme": (with_fields(target=b"http://"), "client:bad_target"),
    "authority with a user": (with_fields(target=b"http://u@a/"), "client:bad_target"),
    "authority with a password": (with_fields(target=b"http://u:p@a/"), "client:bad_target"),
    "authority with a bad port": (with_fields(target=b"http://a:8x/"), "client:bad_target"),
    "authority-form": (with_fields(target=b"a:80"), "client:bad_target"),
    "CONNECT": (with_fields(method=b"CONNECT", target=b"a:80"), "client:method_not_supported"),
    # fields
    "space before the colon": (with_fields(b"X : a"), "client:bad_header"),
    "tab before the colon": (with_fields(b"X\t: a"), "client:bad_header"),
    "no name": (with_fields(b": a"), "client:bad_header"),
    "no colon": (with_fields(b"X"), "client:bad_header"),
    "space in a name": (with_fields(b"X Y: a"), "client:bad_header"),
    "NUL in a name": (with_fields(b"X\0: a"), "client:bad_header"),
    "name beyond ASCII": (with_fields(b"X\xe9: a"), "client:bad_header"),
    "bracket in a name": (with_fields(b"X[: a"), "client:bad_header"),
    "continued line": (with_fields(b"X: a", b" b"), "client:bad_header"),
    "continued line with a tab": (with_fields(b"X: a", b"\tb"), "client:bad_header"),
    "space before the first field": (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", "client:bad_header"),
    "bare LF in a value": (with_fields(b"X: a\nY: b"), "client:bad_header"),
    "bare CR in a value": (with_fields(b"X: a\rY: b"), "client:bad_header"),
    "CR before the CRLF": (with_fields(b"X: a\r"), "client:bad_header"),
    "NUL in a value": (with_fields(b"X: a\0b"), "client:bad_header"),
    "control character in a value": (with_fields(b"X: a\x0bb"), "client:bad_header"),
    "escape in a value": (with_fields(b"X: a\x1b[0m"), "client:bad_header"),
    "DEL in a value": (with_fields(b"X: a\x7fb"), "client:bad_header"),
    "bare LF ends the head": (b"GET / HTTP/1.1\r\nHost: a\r\n\n", "client:bad_header"),
    "bare CR at the end": (b"GET / HTTP/1.1\r\nHost: a\r\n\rX", "client:bad_header"),
    # framing
    "length and chunked": (with_fields(b"Content-Length: 5", b"Transfer-Encoding: chunked"), "client:bad_framing"),
    "chunked and length": (with_fields(b"Transfer-Encoding: chunked", b"Content-Length: 5"), "client:bad_framing"),
    "length twice": (with_fields(b"Content-Length: 5", b"Content-Length: 5"), "client:bad_framing"),
    "two lengths": (with_fields(b"Content-Length: 5", b"Content-Length: 6"), "client:bad_framing"),
    "length as a list": (with_fields(b"Content-Length: 5, 5"), "client:bad_framing"),
    "length with a plus": (with_fields(b"Content-Length: +5"), "client:bad_framing"),
    "negative length": (with_fields(b"Content-Length: -5"), "client:bad_framing"),
    "length with a space": (with_fields(b"Content-Length: 5 5"), "client:bad_framing"),
    "hexadecimal length": (with_fields(b"Content-Length: 0x5"), "client:bad_framing"),
    "length with an underscore": (with_fields(b"Content-Length: 1_0"), "client:bad_framing"),
    "length with a dot": (with_fields(b"Content-Length: 5.0"), "client:bad_framing"),
    "empty length": (with_fields(b"Content-Length:"), "client:bad_framing"),
    "length of 19 digits": (with_fields(b"Content-Length: 1000000000000000000"), "client:bad_framing"),
    "other digits": (with_fields(b"Content-Length: \xd9\xa5"), "client:bad_framing"),
    "empty coding": (with_fields(b"Transfer-Encoding:"), "client:bad_framing"),
    "chunked twice": (with_fields(b"Transfer-Encoding: chunked, chunked"), "client:bad_framing"),
    "two coding fields": (with_fields(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), "client:bad_framing"),
    "coding split over fields": (with_fields(b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked"), "client:bad_framing"),
    "chunked not last": (with_fields(b"Transfer-Encoding: chunked, gzip"), "client:bad_framing"),
    "chunked with a comma": (with_fields(b"Transfer-Encoding: ,chunked"), "client:bad_framing"),
    "chunked for HTTP/1.0": (with_fields(b"Transfer-Encoding: chunked", version=b"HTTP/1.0"), "client:bad_framing"),
    "unknown coding": (with_fields(b"Transfer-Encoding: gzip"), "client:unknown_transfer_coding"),
    "unknown coding, then chunked": (with_fields(b"Transfer-Encoding: gzip, chunked"), "client:unknown_transfer_coding"),
    "identity": (with_fields(b"Transfer-Encoding: identity"), "client:unknown_transfer_coding"),
    "chunked in quotes": (with_fields(b'Transfer-Encoding: "chunked"'), "client:unknown_transfer_coding"),
    "chunked with a parameter": (with_fields(b"Transfer-Encoding: chunked;q=1"), "client:unknown_transfer_coding"),
    "chunked with a vertical tab": (with_fields(b"Transfer-Encoding: \x0bchunked"), "client:bad_header"),
    # host
    "no host": (with_fields(host=None), "client:bad_host"),
    "no host beside an absolute target": (with_fields(target=b"http://a/", host=None), "client:bad_host"),
    "host twice": (with_fields(b"Host: a"), "client:bad_host"),
    "host twice in HTTP/1.0": (with_fields(b"Host: a", version=b"HTTP/1.0"), "client:bad_host"),
    "host with a slash": (with_fields(host=b"a/b"), "client:bad_host"),
    "host with a user": (with_fields(host=b"u@a"), "client:bad_host"),
    "host with a space": (with_fields(host=b"a b"), "client:bad_host"),
    "host as a list": (with_fields(host=b"a b, c"), "client:bad_host"),
    "host beyond ASCII": (with_fields(host=b"\xc3\xa9"), "client:bad_host"),
    "host with a bad port": (with_fields(host=b"a:b"), "client:bad_host"),
    "host with two ports": (with_fields(host=b"a:1:2"), "client:bad_host"),
    "host with a port of six digits": (with_fields(host=b"a:123456"), "client:bad_host"),
    "open bracket": (with_fields(host=b"[::1"), "client:bad_host"),
    "empty brackets": (with_fields(host=b"[]"), "client:bad_host"),
    "bad address in brackets": (with_fields(host=b"[xyz]"), "client:bad_host"),
    "text behind the bracket": (with_fields(host=b"[::1]a"), "client:bad_host"),
}


@pytest.mark.parametrize(("head", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_request_is_refused(head: bytes, reason: str) -> None:
    assert _probe.parse_request(head) == reason
    check_every_cut(_probe.parse_request, head, None)


def test_absolute_target_with_an_empty_host_is_refused() -> None:
    # RFC 9110 section 4.2.1: a recipient must reject such a reference.
    assert _probe.parse_request(with_fields(target=b"http://:80/")) == "client:bad_target"


@pytest.mark.parametrize(
    "piece",
    [b"GET / HTTP/1.1\r\nX: a\0", b"GET / HTTP/1.1\r\nX y", b"GET /\n", b"GET / FTP", b"GET / HTTP/1.1\r\nX: a\rb", b"\x80"],
)
def test_what_can_never_become_right_is_not_waited_for(piece: bytes) -> None:
    assert isinstance(_probe.parse_request(piece), str)


# limits
def test_head_of_the_largest_size_passes_and_one_byte_more_is_refused() -> None:
    head = with_fields(b"X: " + b"a" * 100)
    assert _probe.parse_request(head, max_bytes=len(head))["size"] == len(head)
    assert _probe.parse_request(head, max_bytes=len(head) - 1) == "client:head_too_large"
    assert _probe.parse_request(head + b"body", max_bytes=len(head))["size"] == len(head)


def test_endless_head_is_not_waited_for() -> None:
    start = b"GET / HTTP/1.1\r\nX: "
    assert _probe.parse_request(start + b"a" * (1000 - len(start) - 1), max_bytes=1000) is None
    assert _probe.parse_request(start + b"a" * (1000 - len(start)), max_bytes=1000) == "client:head_too_large"


def test_target_of_the_largest_size_passes_and_one_byte_more_is_refused() -> None:
    target = b"/" + b"a" * 99
    assert _probe.parse_request(with_fields(target=target), max_target_bytes=100)["target"] == target
    assert _probe.parse_request(with_fields(target=target + b"a"), max_target_bytes=100) == "client:target_too_long"


def test_endless_target_is_not_waited_for() -> None:
    assert _probe.parse_request(b"GET /" + b"a" * 99, max_target_bytes=100) is None
    assert _probe.parse_request(b"GET /" + b"a" * 100, max_target_bytes=100) == "client:target_too_long"


def test_as_many_fields_as_allowed_pass_and_one_more_is_refused() -> None:
    assert len(_probe.parse_request(with_fields(*[b"X: a"] * 9), max_fields=10)["fields"]) == 10
    assert _probe.parse_request(with_fields(*[b"X: a"] * 10), max_fields=10) == "client:head_too_large"
    assert len(_probe.parse_request(with_fields(*[b"X: a"] * 255), max_fields=256)["fields"]) == 256
    assert _probe.parse_request(with_fields(*[b"X: a"] * 256), max_fields=256) == "client:head_too_large"


# ------------------------------------------------------------------------------------------------------------ responses
def test_response_is_taken_apart() -> None:
    head = b"HTTP/1.1 404 Not  Found\r\nContent-Length: 12\r\nServer:x\r\n\r\n"
    assert response(head) == {
        "size": len(head),
        "fields": [(b"Content-Length", b"12"), (b"Server", b"x")],
        "ids": [3, 0],
        "dropped": [],
        "version": 1,
        "framing": "length",
        "content_length": 12,
        "flags": set(),
        "status": 404,
        "reason": b"Not  Found",
    }


@pytest.mark.parametrize(
    ("line", "status", "reason"),
    [
        (b"HTTP/1.1 200 OK", 200, b"OK"),
        (b"HTTP/1.1 200 ", 200, b""),
        (b"HTTP/1.1 200", 200, b""),
        (b"HTTP/1.0 999 \xff\ta", 999, b"\xff\ta"),
        (b"HTTP/1.7 100 Continue", 100, b"Continue"),
    ],
)
def test_status_line_is_read(line: bytes, status: int, reason: bytes) -> None:
    parsed = response(line + b"\r\nA: b\r\n\r\n")
    assert (parsed["status"], parsed["reason"]) == (status, reason)


@pytest.mark.parametrize(
    ("method", "status", "lines", "framing"),
    [
        ("GET", 200, [b"Content-Length: 5"], "length"),
        ("GET", 200, [b"Content-Length: 0"], "none"),
        ("GET", 200, [b"Transfer-Encoding: chunked"], "chunked"),
        ("GET", 200, [], "until_close"),
        ("POST", 500, [], "until_close"),
        ("HEAD", 200, [b"Content-Length: 5"], "none"),
        ("HEAD", 200, [b"Transfer-Encoding: chunked"], "none"),
        ("HEAD", 200, [], "none"),
        ("GET", 204, [b"Content-Length: 5"], "none"),
        ("GET", 204, [], "none"),
        ("GET", 304, [b"Content-Length: 5"], "none"),
        ("GET", 304, [b"Transfer-Encoding: chunked"], "none"),
        ("GET", 100, [], "none"),
        ("GET", 101, [b"Upgrade: x"], "none"),
        ("GET", 103, [b"Link: x"], "none"),
    ],
)
def test_response_body_is_framed(method: str, status: int, lines: list[bytes], framing: str) -> None:
    head = b"\r\n".join([b"HTTP/1.1 %d x" % status, *lines, b"", b""])
    assert response(head, method)["framing"] == framing


def test_response_connection_is_read() -> None:
    assert response(b"HTTP/1.1 200 OK\r\nConnection: close, x\r\nX: y\r\n\r\n")["dropped"] == [b"Connection", b"X"]
    assert response(b"HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")["flags"] == {"upgrade"}


def test_response_without_fields_is_whole() -> None:
    assert response(b"HTTP/1.1 200 OK\r\n\r\n")["fields"] == []


OK = b"HTTP/1.1 200 OK\r\n"
BAD_RESPONSES = {
    "no HTTP": b"220 ready\r\n",
    "lower-case http": b"http/1.1 200 OK\r\n\r\n",
    "HTTP/2": b"HTTP/2.0 200 OK\r\n\r\n",
    "HTTP/2 without a minor version": b"HTTP/2 200 OK\r\n\r\n",
    "HTTP/0.9": b"<html>",
    "two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "status below 100": b"HTTP/1.1 099 OK\r\n\r\n",
    "two spaces": b"HTTP/1.1  200 OK\r\n\r\n",
    "tab": b"HTTP/1.1\t200 OK\r\n\r\n",
    "bare LF": b"HTTP/1.1 200 OK\n\n",
    "bare LF behind the status": b"HTTP/1.1 200\n\n\n",
    "bare CR in the reason": b"HTTP/1.1 200 O\rK\r\n\r\n",
    "bare CR behind the status": b"HTTP/1.1 200\rOK\r\n\r\n",
    "NUL in the reason": b"HTTP/1.1 200 O\0K\r\n\r\n",
    "space before the colon": OK + b"X : a\r\n\r\n",
    "continued line": OK + b"X: a\r\n b\r\n\r\n",
    "NUL in a value": OK + b"X: \0\r\n\r\n",
    "bare LF in the fields": OK + b"X: a\nY: b\r\n\r\n",
    "bad length": OK + b"Content-Length: 5x\r\n\r\n",
    "length twice": OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n",
    "length as a list": OK + b"Content-Length: 5,5\r\n\r\n",
    "length and chunked": OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    "unknown coding": OK + b"Transfer-Encoding: gzip\r\n\r\n",
    "unknown coding, then chunked": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    "chunked twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    "chunked from HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
}


@pytest.mark.parametrize("head", BAD_RESPONSES.values(), ids=BAD_RESPONSES.keys())
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_bad_response_is_refused(head: bytes, method: str) -> None:
    assert _probe.parse_response(head, method=method) == "backend:bad_response"
    check_every_cut(_probe.parse_response, head, None)


def test_response_beyond_the_limits_is_refused() -> None:
    assert _probe.parse_response(OK + b"X: a\r\n" * 256 + b"\r\n")["status"] == 200
    assert _probe.parse_response(OK + b"X: a\r\n" * 257 + b"\r\n") == "backend:head_too_large"
    head = OK + b"X: " + b"a" * 100 + b"\r\n\r\n"
    assert _probe.parse_response(head, max_bytes=len(head))["size"] == len(head)
    assert _probe.parse_response(head, max_bytes=len(head) - 1) == "backend:head_too_large"
    assert _probe.parse_response(b"HTTP/1.1 200 " + b"a" * 1000, max_bytes=1000) == "backend:head_too_large"


# ------------------------------------------------------------------------------------------------------------ trailers
def test_trailers_that_decide_framing_routing_or_trust_are_not_taken() -> None:
    names = [
        b"Host",
        b"Content-Length",
        b"Transfer-Encoding",
        b"Connection",
        b"Trailer",
        b"X-Forwarded-For",
        b"X-Request-Id",
        b"Expect",
        b"TE",
    ]
    section = b"".join(name + b": 1\r\n" for name in names) + b"Server-Timing: a\r\n\r\n"
    trailers = _probe.parse_trailers(section)
    assert [(name, allowed) for name, _, allowed in trailers] == [*((name, False) for name in names), (b"Server-Timing", True)]


def test_empty_trailer_section_is_whole() -> None:
    assert _probe.parse_trailers(b"\r\n") == []


@pytest.mark.parametrize("section", [b"", b"A: b\r\n", b"A: b\r\n\r", b"A\r\n\r\n", b"A: b\n\r\n", b" A: b\r\n\r\n", b"A: b\r\n c\r\n\r\n"])
def test_bad_trailer_section_is_refused(section: bytes) -> None:
    assert isinstance(_probe.parse_trailers(section), str)
