"""fastlb/data_plane/proxy_protocol.pyx: headers built from parts, cut, damaged, and bytes that are none."""

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from tests.property.examples import examples
from tests.support._probe import read_proxy_header
from tests.support.proxy_header import ALPN, AUTHORITY, TLS_CIPHER, TLS_NAME, TLS_VERSION, UNIQUE_ID, Address, binary, line, tls, tlv

PORTS = st.integers(0, 65535)
TEXTS = st.none() | st.binary(max_size=100)


@st.composite
def ends(draw: st.DrawFn) -> tuple[Address, Address]:
    ips = draw(st.sampled_from([st.ip_addresses(v=4), st.ip_addresses(v=6)]))
    return (str(draw(ips)), draw(PORTS)), (str(draw(ips)), draw(PORTS))


def packed(address: Address) -> tuple[bytes, int]:
    ip = ipaddress.ip_address(address[0])
    return (ip.packed if ip.version == 6 else bytes(10) + b"\xff\xff" + ip.packed), address[1]


@st.composite
def headers(draw: st.DrawFn) -> tuple[bytes, dict[str, object]]:
    """A header of either version, and what it says."""
    source, destination = draw(ends())
    said: dict[str, object] = {"client": "internet", "source": packed(source), "destination": packed(destination)}
    if draw(st.booleans()):
        data = line(source, destination)
        return data, {"size": len(data), **said}
    texts = {name: draw(TEXTS) for name in ("alpn", "authority", "unique_id", "tls_version", "tls_cipher", "name")}
    parts = [
        tlv(kind, texts[name] or b"")
        for name, kind in (("alpn", ALPN), ("authority", AUTHORITY), ("unique_id", UNIQUE_ID))
        if texts[name] is not None
    ]
    inner = [
        tlv(kind, texts[name] or b"")
        for name, kind in (("tls_version", TLS_VERSION), ("tls_cipher", TLS_CIPHER), ("name", TLS_NAME))
        if texts[name] is not None
    ]
    if inner:
        said["verify"] = draw(st.integers(0, 0xFFFFFFFF))
        parts.append(tls(3, said["verify"], *draw(st.permutations(inner))))  # type: ignore[arg-type]
    parts += [tlv(kind, draw(st.binary(max_size=50))) for kind in draw(st.lists(st.integers(0x40, 0xFF), max_size=5))]
    data = binary(source, destination, *draw(st.permutations(parts)), check=draw(st.booleans()))
    return data, {"size": len(data), **said, **{name: text for name, text in texts.items() if text is not None}}


@given(headers(), st.binary(max_size=20), st.data())
@examples(200)
def test_header_says_what_it_was_built_from_whatever_follows(
    built: tuple[bytes, dict[str, object]], behind: bytes, data: st.DataObject
) -> None:
    whole, said = built
    assert read_proxy_header(whole + behind) == said
    cut = data.draw(st.integers(0, len(whole) - 1))
    missing = read_proxy_header(whole[:cut])
    assert isinstance(missing, int) and 0 < missing <= len(whole) - cut


@given(headers(), st.data())
@examples(200)
def test_damaged_header_is_read_within_its_bytes(built: tuple[bytes, dict[str, object]], data: st.DataObject) -> None:
    damaged = bytearray(built[0])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    found = read_proxy_header(bytes(damaged))
    if isinstance(found, dict):
        assert found["size"] <= len(damaged)
    elif isinstance(found, int):
        assert len(damaged) + found <= 4096
