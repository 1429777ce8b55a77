"""fastlb/data_plane/trust.pyx: what a backend is told about the client, and whom we believe."""

import ipaddress
import re

import pytest

from tests.support._probe import Plane
from tests.support.images import Writer

ID = re.compile(rb"[0-9a-f]{32}")


def make_plane(*networks: str, forwarded: bool = True, request_id: bool = True) -> Plane:
    writer = Writer()
    for network in networks:
        writer.add_trusted_network(ipaddress.ip_network(network))
    writer.set_forwarded_headers(forwarded)
    writer.set_request_id(request_id)
    return writer.plane()


def request(*lines: bytes) -> bytes:
    return b"\r\n".join([b"GET / HTTP/1.1", b"Host: shop", *lines, b"", b""])


def forwarded(plane: Plane, *lines: bytes, client: bytes = b"192.0.2.7") -> dict[bytes, list[bytes]]:
    """Values by lower-case name as the backend gets them."""
    head = plane.write_request(request(*lines), client=client)
    fields: dict[bytes, list[bytes]] = {}
    for line in head.split(b"\r\n")[1:-2]:
        name, _, value = line.partition(b": ")
        fields.setdefault(name.lower(), []).append(value)
    return fields


# ---------------------------------------------------------------------------------------------------------- what is written
def test_backend_learns_address_scheme_host_and_id() -> None:
    fields = forwarded(make_plane())
    assert fields[b"x-forwarded-for"] == [b"192.0.2.7"]
    assert fields[b"x-forwarded-proto"] == [b"http"]
    assert fields[b"x-forwarded-host"] == [b"shop"]
    assert ID.fullmatch(fields[b"x-request-id"][0])


CLAIMS = [b"X-Forwarded-For: 1.1.1.1", b"X-Forwarded-Proto: https", b"x-forwarded-host: evil", b"X-REQUEST-ID: chosen"]


def test_claims_of_a_stranger_are_replaced() -> None:
    fields = forwarded(make_plane("10.0.0.0/8"), *CLAIMS)
    assert fields[b"x-forwarded-for"] == [b"192.0.2.7"]
    assert fields[b"x-forwarded-proto"] == [b"http"]
    assert fields[b"x-forwarded-host"] == [b"shop"]
    assert ID.fullmatch(fields[b"x-request-id"][0])


def test_claims_of_a_trusted_proxy_are_kept_and_its_address_appended() -> None:
    fields = forwarded(make_plane("192.0.2.0/24"), *CLAIMS)
    assert fields[b"x-forwarded-for"] == [b"1.1.1.1, 192.0.2.7"]
    assert fields[b"x-forwarded-proto"] == [b"https"]
    assert fields[b"x-forwarded-host"] == [b"evil"]
    assert fields[b"x-request-id"] == [b"chosen"]


def test_repeated_claims_of_a_trusted_proxy_become_one_field() -> None:
    lines = [b"X-Forwarded-For: 1.1.1.1", b"X-Forwarded-Proto: https", b"X-Forwarded-For: 2.2.2.2, 3.3.3.3", b"X-Forwarded-Proto: http"]
    fields = forwarded(make_plane("192.0.2.0/24"), *lines)
    assert fields[b"x-forwarded-for"] == [b"1.1.1.1, 2.2.2.2, 3.3.3.3, 192.0.2.7"]
    assert fields[b"x-forwarded-proto"] == [b"https"]


def test_empty_claims_of_a_trusted_proxy_are_none() -> None:
    fields = forwarded(make_plane("192.0.2.0/24"), b"X-Forwarded-For:", b"X-Forwarded-Proto:", b"X-Request-Id:")
    assert fields[b"x-forwarded-for"] == [b"192.0.2.7"]
    assert fields[b"x-forwarded-proto"] == [b"http"]
    assert ID.fullmatch(fields[b"x-request-id"][0])


@pytest.mark.parametrize("head", [b"GET / HTTP/1.0\r\n", b"GET / HTTP/1.1\r\nHost:\r\n"])
def test_host_that_is_not_known_is_not_forwarded_but_the_claim_of_a_trusted_proxy_is(head: bytes) -> None:
    claim = b"X-Forwarded-Host: shop\r\n"
    assert b"X-Forwarded-Host" not in make_plane().write_request(head + b"\r\n")
    assert b"X-Forwarded-Host" not in make_plane().write_request(head + claim + b"\r\n")
    assert claim in make_plane("192.0.2.0/24").write_request(head + claim + b"\r\n")


def test_nothing_is_written_when_it_is_turned_off_and_claims_pass() -> None:
    fields = forwarded(make_plane(forwarded=False, request_id=False), *CLAIMS)
    assert fields[b"x-forwarded-for"] == [b"1.1.1.1"]
    assert fields[b"x-request-id"] == [b"chosen"]
    assert set(forwarded(make_plane(forwarded=False, request_id=False))) == {b"host"}


def test_only_what_is_turned_on_is_written() -> None:
    assert set(forwarded(make_plane(request_id=False))) == {b"host", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"}
    assert set(forwarded(make_plane(forwarded=False))) == {b"host", b"x-request-id"}


def test_connection_cannot_name_our_fields_away() -> None:
    fields = forwarded(make_plane(), b"Connection: X-Forwarded-For, X-Request-Id")
    assert fields[b"x-forwarded-for"] == [b"192.0.2.7"]
    assert ID.fullmatch(fields[b"x-request-id"][0])


def test_ids_are_different_for_each_exchange_and_the_same_for_its_attempts() -> None:
    plane = make_plane()
    ids = [ID.search(plane.write_request(request()))[0] for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert len(ID.findall(plane.write_request(request(), repeat=3))) == 1
    first = plane.write_request(request(), repeat=2)
    assert ID.search(first)[0] not in ids


def test_ids_use_all_digits_evenly() -> None:
    plane = make_plane()
    digits = b"".join(ID.search(plane.write_request(request()))[0] for _ in range(500))
    for digit in b"0123456789abcdef":
        assert 800 < digits.count(bytes([digit])) < 1200  # 1,000 expected, standard deviation 31


# ---------------------------------------------------------------------------------------------------------- trust
@pytest.mark.parametrize(
    ("network", "inside", "outside"),
    [
        ("10.0.0.0/8", [b"10.0.0.0", b"10.255.255.255", b"10.1.2.3"], [b"9.255.255.255", b"11.0.0.0", b"::a00:0"]),
        ("192.0.2.128/25", [b"192.0.2.128", b"192.0.2.255"], [b"192.0.2.127", b"192.0.3.128"]),
        ("192.0.2.7/32", [b"192.0.2.7"], [b"192.0.2.6", b"192.0.2.8"]),
        ("192.0.2.6/31", [b"192.0.2.6", b"192.0.2.7"], [b"192.0.2.5", b"192.0.2.8"]),
        ("0.0.0.0/0", [b"0.0.0.0", b"255.255.255.255"], [b"::1", b"2001:db8::1"]),
        ("2001:db8::/32", [b"2001:db8::", b"2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"], [b"2001:db9::", b"32.1.13.184"]),
        ("2001:db8::/33", [b"2001:db8:7fff::"], [b"2001:db8:8000::"]),
        ("2001:db8::1/128", [b"2001:db8::1"], [b"2001:db8::2", b"2001:db8::"]),
        ("::/0", [b"::1", b"2001:db8::"], [b"10.0.0.1"]),
        ("::1/128", [b"::1"], [b"127.0.0.1"]),
    ],
)
def test_network_holds_its_addresses_and_no_other(network: str, inside: list[bytes], outside: list[bytes]) -> None:
    plane = make_plane(network)
    assert [plane.is_trusted(address) for address in inside] == [True] * len(inside)
    assert [plane.is_trusted(address) for address in outside] == [False] * len(outside)


def test_any_of_several_networks_is_enough() -> None:
    plane = make_plane("10.0.0.0/8", "192.0.2.0/24", "fe80::/10")
    assert [plane.is_trusted(address) for address in (b"10.1.1.1", b"192.0.2.1", b"fe80::1", b"192.0.3.1")] == [True, True, True, False]


def test_nobody_is_trusted_without_networks() -> None:
    assert not make_plane().is_trusted(b"127.0.0.1")


def test_clients_of_unix_sockets_have_no_address_to_trust() -> None:
    assert not make_plane("0.0.0.0/0", "::/0").is_trusted(b"unix:")
