"""What fastlb forwards is read by the next hop as fastlb read it: the property that leaves no room for smuggling."""

import ipaddress
import re
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.property.examples import examples
from tests.property.heads import Reading, damaged, h11_request, h11_response, requests, responses
from tests.support import _probe
from tests.support.images import Writer

HOP_BY_HOP = {b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade", b"http2-settings"}
WRITTEN = {b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-request-id"}
KEPT = {b"host", b"content-length", b"expect"}  # whatever Connection says


@pytest.fixture(scope="module")
def planes() -> dict[str, _probe.Plane]:
    bare, usual, trusting = Writer(), Writer(), Writer()
    bare.set_forwarded_headers(False)
    bare.set_request_id(False)
    trusting.add_trusted_network(ipaddress.ip_network("0.0.0.0/0"))
    return {"bare": bare.plane(), "usual": usual.plane(), "trusting": trusting.plane()}


def named_in_connection(fields: list[tuple[bytes, bytes]]) -> set[bytes]:
    return {item.strip(b" \t").lower() for name, value in fields if name.lower() == b"connection" for item in value.split(b",")}


def end_to_end(fields: list[tuple[bytes, bytes]], leave_out: set[bytes] = frozenset()) -> list[tuple[bytes, bytes]]:  # type: ignore[assignment]
    """The fields a proxy has to forward, by RFC 9110 section 7.6.1."""
    dropped = (HOP_BY_HOP | named_in_connection(fields) | leave_out) - (KEPT - leave_out)
    return [(name, value) for name, value in fields if name.lower() not in dropped]


def check_request(parsed: dict[str, Any], sent: bytes, written: set[bytes]) -> None:
    again = _probe.parse_request(sent, max_bytes=200_000, max_target_bytes=200_000, max_fields=256)
    theirs = h11_request(sent)
    assert isinstance(again, dict), (again, sent)
    assert isinstance(theirs, dict), (theirs, sent)
    assert again["size"] == theirs["size"] == len(sent)
    for reading in (again, theirs):
        assert reading["method"] == parsed["method"]
        assert reading["framing"] == parsed["framing"]
        assert reading["target"][:1] in (b"/", b"*")
    assert again["content_length"] == parsed["content_length"]
    assert again["origin"].endswith(parsed["origin"])
    assert theirs["version"] == b"1.1"
    if parsed["host"] or any(name.lower() == b"host" for name, _ in parsed["fields"]):
        assert again["host"] == parsed["host"]
    leave_out = {b"host"} | written | ({b"expect"} if parsed["version"] == 0 else set())
    expected = end_to_end(parsed["fields"], leave_out)
    assert [field for field in again["fields"] if field[0].lower() not in leave_out | HOP_BY_HOP] == expected
    ours = [name.lower() for name, _ in again["fields"] if name.lower() in HOP_BY_HOP]
    allowed = [b"transfer-encoding"] if parsed["framing"] == "chunked" else []
    assert ours == allowed + ([b"connection", b"upgrade"] if "upgrade" in parsed["flags"] else [])
    for name in written:
        count = [key.lower() for key, _ in again["fields"]].count(name)
        # Without a host there is nothing to say in X-Forwarded-Host.
        assert count == 1 or (count == 0 and name == b"x-forwarded-host" and not parsed["host"])


@examples(500)
@given(st.one_of(requests(), damaged(requests())), st.sampled_from(["bare", "usual", "trusting"]))
def test_request_is_forwarded_as_it_was_read(planes: dict[str, _probe.Plane], data: bytes, kind: str) -> None:
    parsed = _probe.parse_request(data, max_bytes=65472, max_target_bytes=65472, max_fields=250)
    assume(isinstance(parsed, dict))
    sent = planes[kind].write_request(data[: parsed["size"]])
    assert sent is not None
    check_request(parsed, sent, set() if kind == "bare" else WRITTEN)


@examples(500)
@given(
    st.one_of(responses(), damaged(responses())),
    st.sampled_from(["GET", "HEAD"]),
    st.fixed_dictionaries({"close": st.booleans(), "http_1_0": st.booleans()}),
)
def test_response_is_forwarded_as_it_was_read(planes: dict[str, _probe.Plane], data: bytes, method: str, options: dict[str, bool]) -> None:
    parsed = _probe.parse_response(data, method=method)
    assume(isinstance(parsed, dict))
    assume(parsed["status"] != 101)
    # As the exchange asks for it: chunked where the end is not known, unless the client is too old for that.
    unknown = parsed["framing"] in ("chunked", "until_close")
    options = {**options, "chunked": unknown and not options["http_1_0"], "close": options["close"] or (unknown and options["http_1_0"])}
    sent = planes["bare"].write_response(data[: parsed["size"]], method=method, **options)
    theirs = h11_response(sent, method)
    assert isinstance(theirs, dict), (theirs, sent)
    assert theirs["size"] == len(sent)
    assert (theirs["status"], theirs["reason"], theirs["version"]) == (parsed["status"], parsed["reason"], b"1.1")
    interim = parsed["status"] < 200
    check_response_framing(parsed, theirs, options)
    leave_out = {b"content-length"} if interim or parsed["status"] == 204 else set()
    expected = end_to_end(parsed["fields"], leave_out)
    added = (
        {b"date"}
        if not any(name.lower() == b"date" for name, _ in parsed["fields"]) or b"date" in named_in_connection(parsed["fields"])
        else set()
    )
    assert [field for field in theirs["fields"] if field[0].lower() not in HOP_BY_HOP | added] == [
        field for field in expected if field[0].lower() not in added
    ]
    if not interim:
        assert theirs["close"] == options["close"]


def check_response_framing(parsed: dict[str, Any], theirs: Reading, options: dict[str, bool]) -> None:
    if parsed["framing"] in ("chunked", "until_close"):
        assert theirs["framing"] == ("chunked" if options["chunked"] else "until_close")
    else:
        assert theirs["framing"] == parsed["framing"]
        assert theirs["length"] == (parsed["content_length"] if parsed["framing"] == "length" else None)


@examples(300)
@given(st.lists(st.ip_addresses().map(str), max_size=4), st.ip_addresses(v=4).map(str))
def test_chain_of_a_trusted_proxy_is_kept_and_appended_to(planes: dict[str, _probe.Plane], chain: list[str], client: str) -> None:
    lines = "".join(f"X-Forwarded-For: {address}\r\n" for address in chain)
    sent = planes["trusting"].write_request(f"GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode(), client=client.encode())
    assert re.findall(rb"X-Forwarded-For: (.*)\r\n", sent) == [", ".join([*chain, client]).encode()]


MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


def as_ipv4(network: Any) -> Any:
    """A network of mapped addresses is the IPv4 network; a wider one holds no IPv4 client."""
    if network.version == 4 or not network.subnet_of(MAPPED):
        return network
    return ipaddress.IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))


@examples(300)
@given(
    st.lists(st.one_of(st.ip_addresses(), st.sampled_from(["::", "0.0.0.0"])), min_size=1, max_size=4),
    st.data(),
    st.one_of(st.ip_addresses(), st.none()),
)
def test_trust_is_what_ipaddress_says(addresses: list[Any], data: st.DataObject, address: Any) -> None:
    networks = []
    writer = Writer()
    for start in addresses:
        bits = data.draw(st.integers(0, 32 if ipaddress.ip_address(start).version == 4 else 128))
        networks.append(ipaddress.ip_network(f"{start}/{bits}", strict=False))
        writer.add_trusted_network(networks[-1])
    if address is None:  # an address near the edge of one of the networks
        near = data.draw(st.sampled_from(networks))
        number = int(near.network_address) + data.draw(st.sampled_from([-1, 0, near.num_addresses - 1, near.num_addresses]))
        kind = ipaddress.IPv4Address if near.version == 4 else ipaddress.IPv6Address
        assume(0 <= number < 1 << near.max_prefixlen)
        address = kind(number)
    if address.version == 6 and address.ipv4_mapped:
        address = address.ipv4_mapped  # the engine writes such clients as IPv4
    assert writer.plane().is_trusted(str(address).encode()) == any(address in as_ipv4(network) for network in networks)
