"""fastlb/data_plane/template.pyx: what each value writes, and that nothing in it can leave its place."""

from __future__ import annotations

import pytest

from fastlb import _core
from tests.support._probe import Plane
from tests.support.images import Writer

REQUEST = (
    b"GET /a%20b/%2e/%3Cc?x=1&y=%20 HTTP/1.1\r\nHost: Shop.Example.:8080\r\nX-Tag: one\r\nx-tag:  two \r\nX-Odd: a\x80/?#b\r\n"
    b'X-Request-Id: mine\r\nCookie: a=1; uid=x/y; uid=z\r\nCookie: b="q t"\r\n\r\n'
)


def make_plane(template: _core.Template) -> Plane:
    writer = Writer()
    writer.set_forwarded_headers(False)
    writer.set_request_id(False)
    writer.edit_request(writer.route(), [("set", "X-Value", template)])
    return writer.plane()


def written(*template: _core.TemplatePiece, request: bytes = REQUEST) -> bytes | None:
    """The template's text in a field of the request; None where it writes nothing."""
    head = make_plane(template).write_request(request)
    (*_, last), _, _ = (part.split(b"\r\n") for part in head.partition(b"\r\n\r\n"))
    name, _, value = last.partition(b": ")
    return value if name == b"X-Value" else None


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("client", "", b"192.0.2.7"),
        ("client_port", "", b"4711"),
        ("scheme", "", b"http"),
        ("host", "", b"shop.example"),
        ("http_host", "", b"Shop.Example.:8080"),
        ("method", "", b"GET"),
        ("uri", "", b"/a%20b/%2e/%3Cc?x=1&y=%20"),
        ("path", "", b"/a b/<c"),
        ("query", "", b"x=1&y=%20"),
        ("listener", "", b"web"),
        ("route", "", b"all"),
        ("pool", "", b"api"),
        ("backend", "", b"10.0.0.1:80"),
        ("header", "x-tag", b"one, two"),
        ("header", "x-none", None),
        ("cookie", "uid", b"x/y"),
        ("cookie", "b", b"q t"),
        ("cookie", "UID", None),
        ("query_value", "x", b"1"),
        ("query_value", "y", b" "),
        ("query_value", "z", None),
        ("response", "server", None),
    ],
)
def test_value_is_that_of_the_exchange(kind: str, name: str, value: bytes | None) -> None:
    assert written((kind, "nothing", name)) == value


def test_every_kind_has_been_looked_at() -> None:
    looked_at = {"client", "client_port", "scheme", "host", "http_host", "method", "uri", "path", "query", "listener", "route", "pool"}
    assert set(_core.SEGMENTS) == looked_at | {"backend", "header", "response", "request_id", "status"} | {
        "cookie",
        "query_value",
        "capture",
    } | set(_core.TLS_FACTS) | set(_core.PROXY_FACTS)  # those in test_client_certificates.py and test_proxy_codec.py


def test_texts_and_values_follow_each_other() -> None:
    assert written(b"<", ("method", "nothing", ""), b"|", ("scheme", "nothing", ""), b">") == b"<GET|http>"


@pytest.mark.parametrize(
    ("host", "name"),
    [(b"a", b"a"), (b"a.", b"a"), (b"A:80", b"a"), (b"[::A]:80", b"[::a]"), (b"[::1]", b"[::1]"), (b"", None), (b":80", None)],
)
def test_host_has_no_port_and_no_dot_at_its_end(host: bytes, name: bytes | None) -> None:
    assert written(("host", "nothing", ""), request=b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n") == name


@pytest.mark.parametrize(
    ("line", "uri", "path", "query"),
    [
        (b"GET http://b/x?y HTTP/1.1", b"/x?y", b"/x", b"y"),
        (b"GET http://b HTTP/1.1", b"/", b"/", None),
        (b"GET http://b?q HTTP/1.1", b"/?q", b"/", b"q"),
        (b"OPTIONS * HTTP/1.1", b"/", b"/", None),
        (b"GET /? HTTP/1.1", b"/?", b"/", None),
        (b"GET //a//b HTTP/1.1", b"//a//b", b"/a/b", None),
    ],
)
def test_target_is_in_origin_form(line: bytes, uri: bytes, path: bytes, query: bytes | None) -> None:
    request = line + b"\r\nHost: b\r\n\r\n"
    assert [written((kind, "nothing", ""), request=request) for kind in ("uri", "path", "query")] == [uri, path, query]


@pytest.mark.parametrize(
    ("encoding", "value"),
    [
        ("nothing", b"a\x80/?#b"),
        ("controls", b"a\x80/?#b"),
        ("path", b"a%80/%3F%23b"),
        ("component", b"a%80%2F%3F%23b"),
    ],
)
def test_value_is_encoded_for_its_place(encoding: str, value: bytes) -> None:
    assert written(("header", encoding, "x-odd")) == value


def test_parameters_are_decoded_and_encoded_for_their_place() -> None:
    request = b"GET /?a=%0d%0aX:+1%26&b%20c=%C3%A4/&a=2&d HTTP/1.1\r\nHost: a\r\n\r\n"
    assert written(("query_value", "controls", "a"), request=request) == b"%0D%0AX: 1&"
    assert written(("query_value", "component", "a"), request=request) == b"%0D%0AX%3A%201%26"
    assert written(("query_value", "path", "b c"), request=request) == b"%C3%A4/"
    assert written(("query_value", "controls", "d"), request=request) is None


def test_capture_without_a_match_is_nothing() -> None:
    assert written(("capture", "controls", "1")) is None


def test_control_characters_of_a_decoded_path_cannot_end_a_field() -> None:
    request = b"GET /%0d%0aEvil:%201%00".replace(b"%00", b"%7f%09") + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    assert written(("path", "controls", ""), request=request) == b"/%0D%0AEvil: 1%7F\t"


def test_each_byte_is_encoded_as_nginx_does_in_a_path() -> None:
    raw = b"/" + b"".join(b"%%%02x" % byte for byte in range(1, 256) if byte not in b"/.")
    value = written(("path", "path", ""), request=b"GET " + raw + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    clean = b"!$&'()*+,-0123456789:;=@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]_abcdefghijklmnopqrstuvwxyz~"
    assert value == b"/" + b"".join(bytes([byte]) if byte in clean else b"%%%02X" % byte for byte in range(1, 256) if byte not in b"/.")


def test_request_id_is_the_one_that_the_backend_gets() -> None:
    writer = Writer()
    writer.edit_request(writer.route(), [("set", "X-Value", [("request_id", "nothing", "")])])
    head = writer.plane().write_request(REQUEST)
    lines = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2] if b": " in line)
    assert lines[b"X-Value"] == lines[b"X-Request-Id"] != b"mine"


def test_a_field_is_not_written_when_its_value_is_empty() -> None:
    assert written() is None
    assert written(b"") is None
    assert written(("header", "controls", "x-none"), ("query", "nothing", ""), request=b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") is None


def test_what_does_not_fit_is_no_head() -> None:
    writer = Writer()
    big = b"x" * 16000
    writer.edit_request(writer.route(), [("set", f"X-{i}", [big]) for i in range(5)])
    assert writer.plane().write_request(REQUEST) is None


def test_longer_templates_are_refused_by_the_writer() -> None:
    writer = Writer()
    route = writer.route()
    for template in ([b"x"] * 65, [b"x" * 16385]):
        with pytest.raises(ValueError, match="at most"):
            writer.edit_response(route, [("set", "X", template)])
