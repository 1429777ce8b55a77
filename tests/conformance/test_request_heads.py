"""Heads that are not what RFC 9112 describes are refused, and never forwarded."""

import pytest

from tests.support.message import request

SMUGGLED = b"\r\nGET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n"
LINE = b"GET / HTTP/1.1\r\n"
HOST = b"Host: test\r\n"

BAD_REQUEST_LINE = {
    "no version": b"GET /\r\n",
    "no target": b"GET HTTP/1.1\r\n",
    "no method": b" / HTTP/1.1\r\n",
    "two spaces before the target": b"GET  / HTTP/1.1\r\n",
    "two spaces before the version": b"GET /  HTTP/1.1\r\n",
    "space at the end": b"GET / HTTP/1.1 \r\n",
    "space at the start": b" GET / HTTP/1.1\r\n",
    "tab for a space": b"GET\t/\tHTTP/1.1\r\n",
    "space in the target": b"GET /a b HTTP/1.1\r\n",
    "bare LF": b"GET / HTTP/1.1\n",
    "bare CR": b"GET / HTTP/1.1\rX: y\r\n",
    "CR CR LF": b"GET / HTTP/1.1\r\r\n",
    "lower-case version": b"GET / http/1.1\r\n",
    "no minor version": b"GET / HTTP/1\r\n",
    "two digits of a minor version": b"GET / HTTP/1.10\r\n",
    "comma for the point": b"GET / HTTP/1,1\r\n",
    "other protocol": b"GET / ICAP/1.0\r\n",
    "method with a colon": b"GE:T / HTTP/1.1\r\n",
    "method with a NUL": b"GE\0T / HTTP/1.1\r\n",
    "method beyond ASCII": b"G\xcbT / HTTP/1.1\r\n",
    "method of 65 letters": b"A" * 65 + b" / HTTP/1.1\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n",
    "a start of HTTP/2 that is none": b"PRI * HTTP/2.1\r\n",
    "PROXY": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
    "a header for a start": b"Host: test\r\n",
    "LF before the request": b"\nGET / HTTP/1.1\r\n",
    "CR before the request": b"\rGET / HTTP/1.1\r\n",
}

BAD_HEADER = {
    "bare LF": b"X: y\nZ: a\r\n",
    "bare LF at the end of the head": b"X: y\r\n\n",
    "bare CR in a value": b"X: a\rb\r\n",
    "bare CR at the start of a line": b"X: y\r\n\rZ: a\r\n",
    "CR CR LF": b"X: y\r\r\n",
    "NUL in a value": b"X: a\0b\r\n",
    "NUL in a name": b"X\0: a\r\n",
    "space before the colon": b"X : y\r\n",
    "tab before the colon": b"X\t: y\r\n",
    "space in a name": b"X Y: z\r\n",
    "space at the start of a line": b" X: y\r\n",
    "folded line": b"X: y\r\n z\r\n",
    "line folded by a tab": b"X: y\r\n\tz\r\n",
    "folded empty line": b"X: y\r\n \r\n",
    "no colon": b"X\r\n",
    "no name": b": y\r\n",
    "name in brackets": b"(X): y\r\n",
    "name with a slash": b"X/Y: z\r\n",
    "name beyond ASCII": b"X\xe9: y\r\n",
    "escape in a value": b"X: \x1b[0m\r\n",
    "backspace in a value": b"X: \x08\r\n",
    "delete in a value": b"X: \x7f\r\n",
    "vertical tab in a value": b"X: a\x0bb\r\n",
}

BAD_HOST = {
    "missing": b"",
    "twice": b"Host: test\r\nHost: test\r\n",
    "two different": b"Host: test\r\nHost: other\r\n",
    "twice in other letters": b"Host: test\r\nhOST: test\r\n",
    "a list": b"Host: test, other\r\n",
    "with a path": b"Host: test/x\r\n",
    "with user information": b"Host: user@test\r\n",
    "with a space": b"Host: te st\r\n",
    "with a scheme": b"Host: http://test\r\n",
    "with a question mark": b"Host: test?\r\n",
    "with a hash": b"Host: test#\r\n",
    "with a backslash": b"Host: te\\st\r\n",
    "with quotes": b'Host: "test"\r\n',
    "beyond ASCII": b"Host: t\xe9st\r\n",
    "port of letters": b"Host: test:http\r\n",
    "port of six digits": b"Host: test:123456\r\n",
    "port with a sign": b"Host: test:+80\r\n",
    "two ports": b"Host: test:80:80\r\n",
    "IPv6 without brackets": b"Host: ::1\r\n",
    "IPv6 that is not closed": b"Host: [::1\r\n",
    "letters behind IPv6": b"Host: [::1]x\r\n",
    "empty brackets": b"Host: []\r\n",
}

BAD_TARGET = {
    "no slash": b"x",
    "asterisk of GET": b"*",
    "asterisk and more": b"*x",
    "backslash first": b"\\x",
    "fragment": b"/x#y",
    "NUL": b"/x\0y",
    "beyond ASCII": b"/\xe9",
    "delete": b"/\x7f",
    "escape": b"/\x1b",
    "above the root": b"/../x",
    "above the root, encoded": b"/%2e%2e/x",
    "above the root in the end": b"/x/../..",
    "encoded NUL": b"/%00",
    "half an escape": b"/%2",
    "escape of letters": b"/%gg",
    "other scheme": b"ftp://test/",
    "scheme without slashes": b"http:/x",
    "no authority": b"http:///x",
    "authority with user information": b"http://user@test/",
    "authority with a bad port": b"http://test:x/",
    "authority form": b"test:443",
    "absolute form above the root": b"http://test/../x",
}


def cases(table):
    return [
        pytest.param(value, bytewise, id=f"{kind}-{how}")
        for kind, value in table.items()
        for bytewise, how in ((False, "whole"), (True, "bytewise"))
    ]


@pytest.mark.parametrize(("line", "bytewise"), cases(BAD_REQUEST_LINE))
def test_malformed_request_line_is_refused(stage, line, bytewise):
    reason = "client:bad_request_line"
    if line.startswith(b"PRI"):
        stage.refuses(line + SMUGGLED, 505, "client:bad_version", bytewise=bytewise)
    else:
        stage.refuses(line + HOST + SMUGGLED, 400, reason, bytewise=bytewise)


@pytest.mark.parametrize(("line", "bytewise"), cases(BAD_HEADER))
def test_malformed_header_line_is_refused(stage, line, bytewise):
    stage.refuses(LINE + HOST + line + SMUGGLED, 400, "client:bad_header", bytewise=bytewise)


@pytest.mark.parametrize(("line", "bytewise"), cases(BAD_HEADER))
def test_malformed_first_header_line_is_refused(stage, line, bytewise):
    if line.startswith(b"X: y\r\n\n"):
        return  # without Host that one is about the missing Host as well
    stage.refuses(LINE + line + HOST + SMUGGLED, 400, "client:bad_header", bytewise=bytewise)


@pytest.mark.parametrize(("lines", "bytewise"), cases(BAD_HOST))
def test_missing_repeated_or_malformed_host_is_refused(stage, lines, bytewise):
    stage.refuses(LINE + lines + SMUGGLED, 400, "client:bad_host", bytewise=bytewise)


@pytest.mark.parametrize(("target", "bytewise"), cases(BAD_TARGET))
def test_invalid_target_is_refused(stage, target, bytewise):
    stage.refuses(b"GET " + target + b" HTTP/1.1\r\n" + HOST + SMUGGLED, 400, "client:bad_target", bytewise=bytewise)


@pytest.mark.parametrize("version", ["2.0", "0.9", "3.0", "9.9"])
def test_other_major_versions_are_refused(stage, version):
    stage.refuses(request(version=version), 505, "client:bad_version")


@pytest.mark.parametrize("target", ["test:443", "/", "http://test/"])
def test_connect_is_refused(stage, target):
    stage.refuses(request(target, method="CONNECT"), 501, "client:method_not_supported")


def test_two_hosts_of_http_1_0_are_refused_too(stage):
    stage.refuses(b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400, "client:bad_host")


def test_host_of_the_absolute_form_does_not_excuse_a_missing_one(stage):
    stage.refuses(b"GET http://test/ HTTP/1.1\r\n\r\n", 400, "client:bad_host")


@pytest.mark.parametrize("value", ["", " ", "a", " a ", "a b", "\xe9", "\t", '"quoted"', ":", "a:b", "=" * 8000])
def test_well_formed_values_are_accepted(stage, value):
    stage.accepts(LINE + HOST + b"X: " + value.encode("latin-1") + b"\r\n\r\n")


@pytest.mark.parametrize("name", ["!#$%&'*+-.^_`|~09azAZ", "X", "x" * 5000])
def test_well_formed_names_are_accepted(stage, name):
    assert name.encode() in stage.accepts(LINE + HOST + name.encode() + b": y\r\n\r\n")


def test_no_space_behind_the_colon_is_fine(stage):
    stage.accepts(b"GET / HTTP/1.1\r\nHost:test\r\nX:y\r\n\r\n")
