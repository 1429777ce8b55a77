"""Addresses of listeners and backends, and networks."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlb.control_plane.config.address import (
    ANY_HOST,
    BackendAddress,
    BindAddress,
    parse_backend_address,
    parse_bind_address,
    parse_network,
    parse_server_address,
)
from fastlb.control_plane.config.errors import Rejected


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", BindAddress("127.0.0.1", 8080)),
        ("127.0.0.1:0", BindAddress("127.0.0.1", 0)),
        ("[::1]:8080", BindAddress("::1", 8080)),
        ("[0:0:0:0:0:0:0:1]:80", BindAddress("::1", 80)),
        ("[fe80::1%eth0]:80", BindAddress("fe80::1%eth0", 80)),
        (":8080", BindAddress(ANY_HOST, 8080)),
        ("unix:/run/x.sock", BindAddress("", 0, "/run/x.sock")),
        ("unix:x.sock", BindAddress("", 0, "x.sock")),
    ],
)
def test_listeners_bind_addresses_ports_and_paths(text: str, address: BindAddress) -> None:
    assert parse_bind_address(text) == address


@pytest.mark.parametrize(
    ("text", "found", "suggestion"),
    [
        ("8080", "only a number", ":8080"),
        ("*:8080", "not an address", ":8080"),
        ("localhost:8080", "is a name", "127.0.0.1:8080"),
        ("web.example:8080", "is a name", None),
        ("127.0.0.1", "has no port", None),
        ("127.0.0.1:", "has no port", None),
        ("::1:8080", "colons outside brackets", "[::1]:8080"),
        ("[::1", 'lacks "]"', None),
        ("[::1]", "has no port", None),
        ("[::1]8080", "no colon", "[::1]:8080"),
        ("[::g]:80", "not an IPv6 address", None),
        ("[127.0.0.1]:80", "not an IPv6 address", "127.0.0.1:80"),
        ("256.0.0.1:80", "not an IPv4 address", None),
        ("1.2.3:80", "not an IPv4 address", None),
        ("127.0.0.1:65536", "not a port", None),
        ("127.0.0.1:http", "not a port", None),
        ("127.0.0.1:-1", "not a port", None),
        ("127.0.0.1:٨٠", "not a port", None),
        ("http://127.0.0.1:80", "is a URL", "127.0.0.1:80"),
        ("https://127.0.0.1:443", "is a URL", None),
        ("unix:", "has no path", None),
        ("unix:///run/x.sock", "is a URL", "unix:/run/x.sock"),
        ("unix:@name", "abstract", None),
        ("unix:/a\0b", "zero byte", None),
        ("unix:/" + "x" * 107, "108 bytes", None),
        ("", "has no port", None),
    ],
)
def test_a_wrong_bind_address_is_rejected_with_what_was_meant(text: str, found: str, suggestion: str | None) -> None:
    with pytest.raises(Rejected) as caught:
        parse_bind_address(text)
    assert found in caught.value.found
    assert caught.value.suggestion == suggestion


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.11:8080", BackendAddress("10.0.0.11", 8080)),
        ("[2001:DB8::1]:80", BackendAddress("2001:db8::1", 80)),
        ("unix:/run/app.sock", BackendAddress("", 0, "/run/app.sock")),
        ("App.Example:80", BackendAddress("app.example", 80, is_name=True)),
        ("app.example.:80", BackendAddress("app.example", 80, is_name=True)),
        ("my_service:8000", BackendAddress("my_service", 8000, is_name=True)),
        ("localhost:80", BackendAddress("localhost", 80, is_name=True)),
        ("srv:_http._tcp.App.example.", BackendAddress("_http._tcp.app.example", 0, is_name=True, is_service=True)),
    ],
)
def test_backends_are_addresses_names_and_paths(text: str, address: BackendAddress) -> None:
    assert parse_backend_address(text) == address


@pytest.mark.parametrize(
    ("text", "found", "suggestion"),
    [
        ("10.0.0.1", "has no port", None),
        ("app.example", "has no port", None),
        ("10.0.0.1:0", "not a port", None),
        (":80", "has no host", "127.0.0.1:80"),
        ("*:80", "has no host", "127.0.0.1:80"),
        ("2001:db8::1:80", "colons outside brackets", "[2001:db8::1]:80"),
        ("http://app.example:80/path", "is a URL", "app.example:80"),
        ("bücher.example:80", "neither an address nor a name", "xn--bcher-kva.example:80"),
        ("a b:80", "neither an address nor a name", None),
        ("-a:80", "neither an address nor a name", None),
        ("a..b:80", "neither an address nor a name", None),
        ("x" * 64 + ":80", "neither an address nor a name", None),
        ("[fe80::1%eth0]:80", "has a zone", None),
        ("srv:_http._tcp.app.example:80", "has a port", "srv:_http._tcp.app.example"),
        ("srv:a b", "not the name of a service", None),
        ("srv:", "not the name of a service", None),
    ],
)
def test_a_wrong_backend_is_rejected_with_what_was_meant(text: str, found: str, suggestion: str | None) -> None:
    with pytest.raises(Rejected) as caught:
        parse_backend_address(text)
    assert found in caught.value.found
    assert caught.value.suggestion == suggestion


@pytest.mark.parametrize(
    ("text", "shown"), [("10.0.0.0/8", "10.0.0.0/8"), ("10.0.0.1", "10.0.0.1/32"), ("2001:db8::/32", "2001:db8::/32"), ("::1", "::1/128")]
)
def test_networks_have_a_prefix_or_are_one_address(text: str, shown: str) -> None:
    assert str(parse_network(text)) == shown


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [("10.0.0.1/8", "10.0.0.0/8"), ("2001:db8::1/32", "2001:db8::/32"), ("10.0.0.0/33", None), ("example.com", None), ("", None)],
)
def test_a_wrong_network_is_rejected_with_what_was_meant(text: str, suggestion: str | None) -> None:
    with pytest.raises(Rejected) as caught:
        parse_network(text)
    assert caught.value.suggestion == suggestion


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("127.0.0.1:80", "127.0.0.1:80", True),
        ("127.0.0.1:80", "127.0.0.1:81", False),
        ("127.0.0.1:80", "127.0.0.2:80", False),
        ("127.0.0.1:80", "0.0.0.0:80", True),
        ("127.0.0.1:80", "[::]:80", False),
        ("0.0.0.0:80", "[::]:80", False),
        ("[::1]:80", "[::]:80", True),
        (":80", "127.0.0.1:80", True),
        (":80", "[::1]:80", True),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        (":0", ":0", False),
        ("unix:/a", "unix:/a", True),
        ("unix:/a", "unix:/b", False),
        ("unix:/a", "127.0.0.1:0", False),
    ],
)
def test_addresses_overlap_where_the_kernel_would_refuse_the_second(one: str, other: str, overlap: bool) -> None:
    assert parse_bind_address(one).overlaps(parse_bind_address(other)) is overlap
    assert parse_bind_address(other).overlaps(parse_bind_address(one)) is overlap


@given(st.text() | st.from_regex(r"[\[\]:.0-9a-f%/a-z-]{1,30}", fullmatch=True))
def test_any_text_is_an_address_or_rejected(text: str) -> None:
    for parse in (parse_bind_address, parse_backend_address, parse_network):
        with contextlib.suppress(Rejected):
            parse(text)


@given(st.ip_addresses(), st.integers(1, 65535))
def test_an_address_reads_back_as_it_is_shown(ip: object, port: int) -> None:
    text = f"[{ip}]:{port}" if ":" in str(ip) else f"{ip}:{port}"
    assert str(parse_bind_address(text)) == text
    assert str(parse_backend_address(text)) == text


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("10.0.0.2", ("10.0.0.2", 53)),
        ("10.0.0.2:5353", ("10.0.0.2", 5353)),
        ("2001:DB8::53", ("2001:db8::53", 53)),
        ("[2001:db8::53]", ("2001:db8::53", 53)),
        ("[::1]:5353", ("::1", 5353)),
    ],
)
def test_a_name_server_is_an_address_with_or_without_a_port(text: str, server: tuple[str, int]) -> None:
    assert parse_server_address(text) == server


@pytest.mark.parametrize(
    ("text", "found"),
    [("ns.example:53", "is a name"), ("10.0.0.2:0", "not a port"), ("10.0.0.300", "not an IPv4 address"), ("", "has no port")],
)
def test_a_wrong_name_server_is_rejected(text: str, found: str) -> None:
    with pytest.raises(Rejected) as caught:
        parse_server_address(text)
    assert found in caught.value.found


def test_a_backend_asks_for_what_it_was_written_as() -> None:
    assert parse_backend_address("app.example:80").question == "app.example"
    assert parse_backend_address("srv:_http._tcp.app.example").question == "srv:_http._tcp.app.example"
    assert str(parse_backend_address("srv:_http._tcp.app.example")) == "srv:_http._tcp.app.example"
    assert parse_backend_address("10.0.0.1:80").question == ""
