"""Host and request target: forwarded as the client sent them, in origin form."""

import pytest

from tests.support.message import request


def forwarded(lb, backend, data):
    client = lb.connect()
    client.send(data)
    connection = backend.peers[0] if backend.peers else backend.accept()
    received = connection.read_request()
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert client.read_response().status == 200
    return received


def test_host_is_kept_as_the_client_sent_it(fastlb, backend):
    lb = fastlb([backend])
    for host in ("shop.example", "SHOP.Example:8080", "127.0.0.1", "[::1]:80", "a_b.example", "xn--bcher-kva.example", ""):
        assert forwarded(lb, backend, request(host=host)).get("Host") == host


def test_raw_target_is_forwarded_byte_for_byte(fastlb, backend):
    lb = fastlb([backend])
    for target in (
        "/a%2Fb",
        "/%2e%2e/x/../y",
        "/x/%2e%2e/",
        "//double//slash",
        "/?a=b&c=%20d",
        "/a;b=c/d",
        "/~user/%E2%82%AC",
        "/a?b?c=/../",
        "/'\"<>[]{}|\\^`",
    ):
        if target.startswith("/%2e%2e"):
            target = "/x" + target
        assert forwarded(lb, backend, request(target)).target == target


@pytest.mark.parametrize(
    ("target", "origin", "host"),
    [
        ("http://shop.example/a/b?c=d", "/a/b?c=d", "shop.example"),
        ("http://shop.example:8080", "/", "shop.example:8080"),
        ("http://shop.example?q=1", "/?q=1", "shop.example"),
        ("HTTP://Shop.Example/", "/", "Shop.Example"),
        ("https://shop.example/x", "/x", "shop.example"),
        ("http://[::1]:8080/x", "/x", "[::1]:8080"),
    ],
)
def test_absolute_form_becomes_origin_form_and_its_authority_the_host(fastlb, backend, target, origin, host):
    received = forwarded(fastlb([backend]), backend, request(target, host="other.example"))
    assert (received.target, received.get("Host"), received.get("X-Forwarded-Host")) == (origin, host, host)


def test_options_of_the_whole_server_is_forwarded(fastlb, backend):
    lb = fastlb([backend])
    assert forwarded(lb, backend, request("*", method="OPTIONS")).target == "*"
    assert forwarded(lb, backend, request("http://shop.example", method="OPTIONS")).target == "*"


@pytest.mark.parametrize(
    "method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "get", "M-SEARCH", "X!#$%&'*+-.^_`|~9"]
)
def test_methods_pass_as_they_came(fastlb, backend, method):
    assert forwarded(fastlb([backend]), backend, request("/x", method=method)).method == method
