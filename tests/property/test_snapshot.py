"""fastlb/data_plane/snapshot.pyx: whatever bytes of an image are changed, it is refused, or everything that reads it stays inside.

The probe's Plane reads a copy of the image that ends at an unmapped page; writes outside show under the sanitizers.
"""

import ipaddress
import os
import random
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlb import _core
from tests.property.examples import examples
from tests.support._probe import Plane, check_image
from tests.support.images import Writer, load


def make_image() -> bytes:
    writer = Writer(2)
    writer.set_reason_header("X-Fastlb-Reason")
    writer.add_trusted_network(ipaddress.ip_network("192.0.2.0/24"))
    writer.add_trusted_network(ipaddress.ip_network("2001:db8::/33"))
    writer.listener()
    api = writer.pool("api", health={}, limits={"connections": 1, "pending": 2, "requests": 3, "retries": 4})
    site = writer.pool("site", algorithm="round_robin", panic_below=0.5)
    for port in (1, 2, 3):
        writer.backend(api, port, weight=port, max_in_flight=port)
    writer.backend(site, 4)
    for host in ("", "shop.example.com", "*.example.com"):
        writer.add_route(host=host, path_prefix="/api/", pool=api)
        writer.set_mirror(writer.add_route(host=host, path_prefix="/", pool=site), pool=api, share=0.5)
    values = [(kind, "component", "1" if kind == "capture" else "accept") for kind in _core.SEGMENTS]
    writer.edit_request(0, [("set", "Host", [b"app"]), ("remove", "X-Tag", []), ("add", "X-Tag", values)])
    writer.edit_response(0, [("set", "Server", values)])
    return writer.image()


IMAGE = make_image()
assert len(IMAGE) % 8 == 0, "add a byte to a name: only then does the copy end exactly at the unmapped page"


def use(plane: Plane) -> None:
    """Reads everything that an exchange reads of a snapshot."""
    for host in (b"shop.example.com", b"a.example.com:80", b"", b"[::1]", b"x" * 300):
        for path in (b"/", b"/api/x"):
            pool = plane.find_route(host, path)
            if pool is not None:
                plane.pick(pool)
                plane.pick(pool, tried=[0])
    for address in (b"192.0.2.7", b"2001:db8::1", b"unix:"):
        plane.is_trusted(address)
    for route in (0, 1):
        plane.write_request(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: b\r\nX-Request-Id: c\r\n\r\n", route=route)
        plane.write_response(b"HTTP/1.1 200 OK\r\nServer: a\r\nX-Tag: b\r\n\r\n", route=route)
    plane.write_local("no_route")
    plane.pools()
    plane.close()


def apply(image: bytes, sockets: list[tuple[int, int]]) -> bool:
    """Whether the engine takes it; rows and listeners are made and dropped again."""
    engine = _core.Engine(max_connections=1, pipes=0)
    fd = _core.seal(image)
    try:
        engine.apply(fd, sockets)
    except ValueError:
        return False
    finally:
        os.close(fd)
    engine.pump()
    engine.backends()
    engine.counters()
    engine.close()
    return True


def check(image: bytes) -> None:
    if check_image(image):
        use(load(image))
    else:
        with pytest.raises(ValueError, match="damaged"):
            load(image)
        assert not apply(image, [])


@pytest.mark.parametrize("value", [0x00, 0x01, 0x80, 0xFF])
def test_each_byte_can_be_changed(value: int) -> None:
    """To 0, to 255, in its lowest and in its highest bit."""
    for at in range(len(IMAGE)):
        changed = bytearray(IMAGE)
        changed[at] = value if value in (0x00, 0xFF) else changed[at] ^ value
        check(bytes(changed))


@examples(300)
@given(
    st.lists(
        st.tuples(st.integers(0, len(IMAGE) // 4 - 1), st.one_of(st.integers(0, 2**32 - 1), st.integers(0, len(IMAGE)), st.integers(0, 4))),
        max_size=4,
    )
)
def test_words_can_be_changed(changes: list[tuple[int, int]]) -> None:
    changed = bytearray(IMAGE)
    for at, value in changes:
        changed[4 * at : 4 * at + 4] = value.to_bytes(4, "little")
    check(bytes(changed))


def test_engine_takes_a_whole_image_and_no_part_of_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        assert apply(IMAGE, [(listening.fileno(), 0)])
        source = random.Random(1)  # a fixed choice of lengths
        for size in source.sample(range(len(IMAGE)), 50):
            assert not apply(IMAGE[:size], [(listening.fileno(), 0)])


@examples(200)
@given(st.binary(max_size=300))
def test_noise_is_refused(data: bytes) -> None:
    assert not check_image(data)
    assert not check_image(IMAGE[:16] + data)
