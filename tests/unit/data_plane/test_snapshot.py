"""fastlb/data_plane/snapshot.pyx: what an image may hold, and the running arrays made of it."""

import ipaddress
import struct
from collections.abc import Callable

import pytest

from fastlb._core import ENCODINGS, HEADER_OPERATIONS, SEGMENTS
from tests.support._probe import IMAGE_HEADER_BYTES, LAYOUT, check_image
from tests.support.images import Writer, find_sections, load, log_plan, patch
from tests.support.issue import issue

MAX_HEADERS, MAX_HEAD_BYTES = 256, 65536 - 64


def make_image() -> bytes:
    """A bit of everything."""
    writer = Writer(7)
    writer.set_reason_header("X-Fastlb-Reason")
    writer.add_trusted_network(ipaddress.ip_network("10.0.0.0/8"))
    writer.add_trusted_network(ipaddress.ip_network("2001:db8::/32"))
    writer.set_log_plan(log_plan())
    writer.listener("web", log_set=1)
    writer.listener("admin", max_headers=10)
    api = writer.pool("api", queue_max=10, queue_timeout_ms=1000)
    site = writer.pool("site", algorithm="round_robin")
    writer.backend(api, 80, weight=3, max_in_flight=9)
    writer.backend(api, 81, resolved=False)
    writer.backend(site, 80, cookie="b" * 22)
    writer.set_sticky_cookie(site, name="ID", attributes="; Path=/")
    for host in ("", "shop.example.com", "*.example.com", "[::1]"):
        writer.set_mirror(writer.add_route(host=host, path_prefix="/", pool=site), pool=api, share=0.5)
        route = writer.add_route(host=host, path_prefix="/api/", pool=api)
    writer.edit_request(route, [("set", "Host", [b"app"]), ("remove", "X-Tag", []), ("add", "X-Tag", [("header", "controls", "a")])])
    writer.set_split(route, [(api, 1), (site, 2)], key=[("client", "nothing", "")])
    writer.edit_response(route, [("set", "Server", [b"x", ("client", "nothing", "")])])
    rsa, ecdsa = writer.add_certificate(*issue("a.example", kind="rsa")), writer.add_certificate(*issue("a.example"), b"ocsp")
    writer.set_tls(1, identities=[[rsa, ecdsa], [rsa]], names=[("a.example", 0), ("*.a.example", 1)], default=1, challenges=[("b", ecdsa)])
    writer.set_sni(1, [("c", [([b"h2"], writer.add_route(host="plain", pool=api))])], [])
    sender = ipaddress.ip_network("10.0.0.0/8")
    writer.set_proxy_protocol(0, senders=[sender], from_unix=True, others_plain=True, timeout_ms=1000)
    writer.set_ticket_keys([bytes(80)])
    writer.set_backend_tls(site, ca=issue("a.example")[0], certificate=rsa, alpn=[b"http/1.1"])
    return writer.image()


IMAGE = make_image()
AT = {name: offset for name, (offset, _) in find_sections(IMAGE).items()}
COUNT = {name: count for name, (_, count) in find_sections(IMAGE).items()}


def refused(offset: int, value: int, form: str = "<I") -> bool:
    return not check_image(patch(IMAGE, offset, value, form))


def test_image_of_the_writer_passes() -> None:
    assert check_image(IMAGE)
    assert (COUNT["listeners"], COUNT["networks"]) == (2, 2)
    assert (COUNT["routes"], COUNT["pools"], COUNT["backends"]) == (9, 2, 3)


def test_smallest_image_passes() -> None:
    assert check_image(Writer().image())


def test_running_arrays_say_what_the_writer_was_told() -> None:
    assert load(IMAGE).pools() == [
        (1, [(b"0|127.0.0.1:80", 3, 9, True), (b"0|127.0.0.1:81", 1, 0, False)]),
        (0, [(b"1|127.0.0.1:80", 1, 0, True)]),
    ]


def test_backend_without_weight_or_address_is_not_eligible() -> None:
    writer = Writer()
    pool = writer.pool()
    writer.backend(pool, 1, weight=0)
    writer.backend(pool, 2, resolved=False)
    plane = writer.plane()
    assert [eligible for *_, eligible in plane.pools()[0][1]] == [False, False]
    assert plane.pick(0) is None


def test_truncated_image_is_refused_at_every_length() -> None:
    for size in range(len(IMAGE)):
        assert not check_image(IMAGE[:size])
        if size >= IMAGE_HEADER_BYTES:
            # ... also when the header agrees: the last section lies outside then.
            assert not check_image(patch(IMAGE[:size], 12, size))


def test_image_with_bytes_behind_it_is_refused() -> None:
    assert not check_image(IMAGE + bytes(8))


def test_other_magic_layout_or_size_is_refused() -> None:
    assert refused(0, 0, "<Q")
    assert refused(0, struct.unpack_from(">Q", IMAGE)[0], "<Q")
    assert refused(8, 0)
    assert refused(8, 2)
    assert refused(12, len(IMAGE) - 1)


@pytest.mark.parametrize("section", list(AT))
@pytest.mark.parametrize(
    "damage",
    [
        lambda offset, count: (len(IMAGE) // 8 * 8 + 8, count),
        lambda offset, count: (2**32 - 8, count),
        lambda offset, count: (offset + 4, count),
        lambda offset, count: (offset, 2**32 - 1),
        lambda offset, count: (offset, 2**31),
        lambda offset, count: (offset, len(IMAGE)),
        lambda offset, count: (len(IMAGE) // 8 * 8, count),
    ],
    ids=[
        "starts outside",
        "wraps around",
        "is not aligned",
        "has most records",
        "has many records",
        "has a few too many",
        "starts at the end",
    ],
)
def test_section_outside_the_image_is_refused(section: str, damage: Callable[[int, int], tuple[int, int]]) -> None:
    where = 32 + 8 * list(AT).index(section)
    assert not check_image(
        patch(patch(IMAGE, where, damage(AT[section], COUNT[section])[0]), where + 4, damage(AT[section], COUNT[section])[1])
    )


# The texts inside a record of a section.
TEXTS = {
    "operations": ["name"],
    "segments": ["text"],
    "listeners": ["name"],
    "routes": ["name"],
    "pools": ["name"],
    "backends": ["identity", "display"],
    "stickies": ["cookie", "attributes"],
    "certificates": ["chain", "key", "ocsp"],
    "names": ["name"],
    "tls": ["ciphers", "ciphersuites", "groups", "alpn", "client_ca", "client_crl"],
    "backend_tls": ["server_name", "authorities", "ciphers", "ciphersuites", "groups", "alpn"],
}


def field_at(section: str, number: int, field: str) -> int:
    """Offset in the image of a field of a record."""
    return AT[section] + number * LAYOUT[section]["size"] + LAYOUT[section][field]


@pytest.mark.parametrize(("section", "text"), [(name, entry) for name, entries in TEXTS.items() for entry in entries])
def test_text_outside_the_image_is_refused(section: str, text: str) -> None:
    for number in range(COUNT[section]):
        at = field_at(section, number, text)
        offset, size = struct.unpack_from("<II", IMAGE, at)
        for damaged in (
            (len(IMAGE) + 1, 0),
            (2**32 - 1, 1),
            (len(IMAGE) - size + 1, size),
            (offset, len(IMAGE) - offset + 1),
            (offset, 2**32 - 1),
        ):
            assert not check_image(patch(patch(IMAGE, at, damaged[0]), at + 4, damaged[1])), (number, damaged)


def test_reason_header_outside_the_image_or_too_long_is_refused() -> None:
    assert refused(24, len(IMAGE))
    assert refused(28, 2**32 - 1)
    assert refused(28, 129)


def test_indices_outside_their_section_are_refused() -> None:
    for number in range(COUNT["routes"]):
        assert refused(field_at("routes", number, "pool"), COUNT["pools"])
    assert refused(field_at("routes", 0, "mirror_pool"), COUNT["pools"])
    for number in range(COUNT["shares"]):
        assert refused(AT["shares"] + 8 * number + 4, COUNT["pools"])


@pytest.mark.parametrize(
    ("section", "field", "outer"),
    [
        ("pools", "backends", "backends"),
        ("routes", "request", "operations"),
        ("routes", "response", "operations"),
        ("routes", "host", "segments"),
        ("operations", "value", "segments"),
        ("pools", "hash_key", "segments"),
    ],
)
def test_range_outside_its_section_is_refused(section: str, field: str, outer: str) -> None:
    for number in range(COUNT[section]):
        at = field_at(section, number, field)
        first, count = struct.unpack_from("<II", IMAGE, at)
        assert refused(at, COUNT[outer] + 1)
        assert refused(at, 2**32 - 1)
        assert refused(at + 4, COUNT[outer] - first + 1)
        assert refused(at + 4, 2**32 - 1)


def test_sticky_that_leads_outside_is_refused() -> None:
    assert struct.unpack_from("<I", IMAGE, field_at("pools", 1, "sticky")) == (0,)
    for number in range(COUNT["pools"]):
        assert refused(field_at("pools", number, "sticky"), COUNT["stickies"])
        assert not refused(field_at("pools", number, "sticky"), 2**32 - 1)
    assert refused(field_at("stickies", 0, "kind"), 3)
    assert refused(field_at("stickies", 0, "cookie") + 4, 129)
    assert refused(field_at("stickies", 0, "cookie") + 4, 0)
    assert refused(field_at("stickies", 0, "attributes") + 4, 1025)
    at = field_at("stickies", 0, "slots")
    slots, count = struct.unpack_from("<II", IMAGE, at)
    for damaged in (len(IMAGE), slots + 4, 2**32 - 8):
        assert refused(at, damaged)
    for damaged in (0, 3, count * 2**20, 2**31):
        assert refused(at + 4, damaged)
    full = IMAGE
    for number in range(count):
        assert refused(slots + 4 * number, 2)
        full = patch(full, slots + 4 * number, 1)
    assert not check_image(full)  # a look-up ends at an empty slot


def test_writer_refuses_a_sticky_pool_whose_backends_have_no_values() -> None:
    writer = Writer()
    writer.set_sticky_cookie(writer.pool(), name="ID", attributes="")
    with pytest.raises(ValueError, match="22 characters"):
        writer.backend(0, cookie="x" * 21)
    writer.backend(0)
    with pytest.raises(ValueError, match="has no value for it"):
        writer.image()
    for name in ("", "x" * 129):
        with pytest.raises(ValueError, match="too long, or there is no name"):
            writer.set_sticky_cookie(0, name=name, attributes="")


def test_limits_above_the_hard_ones_are_refused() -> None:
    for number in range(COUNT["listeners"]):
        settings = field_at("listeners", number, "settings")
        assert struct.unpack_from("<II", IMAGE, settings + 16) == (32768, 8192), "the offsets above are out of date"
        assert refused(settings + 16, MAX_HEAD_BYTES + 1)
        assert refused(settings + 16, 2**32 - 1)
        assert refused(settings + 24, MAX_HEADERS + 1)
        assert refused(settings + 24, 2**32 - 1)
        assert refused(settings + 24, 0)
        assert not refused(settings + 16, MAX_HEAD_BYTES)
        assert not refused(settings + 24, MAX_HEADERS)


def test_network_prefix_longer_than_an_address_is_refused() -> None:
    for number in range(COUNT["networks"]):
        assert refused(AT["networks"] + 20 * number + 16, 129)
        assert refused(AT["networks"] + 20 * number + 16, 2**32 - 8)
        assert not refused(AT["networks"] + 20 * number + 16, 128)


def test_header_number_without_a_bit_is_refused() -> None:
    assert refused(field_at("operations", 0, "header_id"), 64)
    assert refused(field_at("operations", 0, "header_id"), 2**32 - 1)


def test_kinds_that_there_are_not_are_refused() -> None:
    for section, field, count in (
        ("operations", "kind", len(HEADER_OPERATIONS)),
        ("segments", "kind", len(SEGMENTS) + 1),  # and literals
        ("segments", "encoding", len(ENCODINGS)),
    ):
        assert refused(field_at(section, 0, field), count)
        assert refused(field_at(section, 0, field), 2**32 - 1)
        assert not refused(field_at(section, 0, field), count - 1)


def test_name_of_a_listener_longer_than_its_room_is_refused() -> None:
    assert refused(field_at("listeners", 0, "name") + 4, 65)


def test_address_longer_than_its_room_is_refused() -> None:
    for number in range(COUNT["backends"]):
        assert refused(field_at("backends", number, "address_size"), 113)
        assert refused(field_at("backends", number, "address_size"), 2**32 - 1)


def test_attempts_and_algorithm_out_of_range_are_refused() -> None:
    assert refused(field_at("pools", 0, "algorithm"), 2)
    assert refused(field_at("pools", 0, "attempts"), 0)
    assert refused(field_at("pools", 0, "attempts"), 256)


def test_name_of_a_picker_outside_the_image_or_missing_is_refused() -> None:
    writer = Writer()
    writer.pool(algorithm="module:name")
    writer.set_python_path(["/etc"])
    image = writer.image()
    assert check_image(image)
    pool = find_sections(image)["pools"][0] + LAYOUT["pools"]["picker"]
    for at in (pool, LAYOUT["header"]["python_path"]):
        assert not check_image(patch(image, at, len(image)))
        assert not check_image(patch(image, at + 4, 2**32 - 1))
    assert not check_image(patch(image, pool + 4, 0))


def test_a_pool_whose_picker_was_never_given_picks_by_load() -> None:
    """An engine refuses to prepare it; whoever only reads an image comes to no harm."""
    writer = Writer()
    pool = writer.pool(algorithm="module:name")
    for port in (1, 2):
        writer.backend(pool, port)
    plane = writer.plane()
    assert [plane.pick(pool) for _ in range(4)] == [0, 1, 0, 1]


def test_queue_whose_row_cannot_be_found_or_that_has_no_room_is_refused() -> None:
    at = field_at("pools", 0, "queue")
    offset, size = struct.unpack_from("<II", IMAGE, at)
    assert IMAGE[offset : offset + size] == b"|api"
    assert refused(at, len(IMAGE) - size + 1)
    assert refused(at, 2**32 - 1)
    assert refused(at + 4, len(IMAGE) - offset + 1)
    assert refused(at + 4, 425)
    assert refused(at, offset + 1), "a backend might have this identity"
    assert refused(field_at("pools", 0, "queue_max"), 0)
    assert not refused(field_at("pools", 1, "queue_max"), 0), "it has none"


def test_priority_without_a_list_is_refused() -> None:
    for number in range(COUNT["routes"]):
        assert refused(field_at("routes", number, "priority"), 8)
        assert not refused(field_at("routes", number, "priority"), 7)


def test_damaged_image_is_not_loaded() -> None:
    with pytest.raises(ValueError, match="damaged"):
        load(patch(IMAGE, 0, 0))
    with pytest.raises(ValueError, match="damaged"):
        load(IMAGE[:50])


def test_tls_of_an_image_is_checked() -> None:
    assert (COUNT["certificates"], COUNT["tls_identities"], COUNT["names"], COUNT["tls"], COUNT["ticket_keys"]) == (2, 2, 4, 1, 1)
    for field, damaged in {
        "default_identity": (2, 2**32 - 2),
        "min_version": (0x0302, 0x0305),
        "max_version": (0x0302, 0x0305),
        "handshake_timeout_ms": (0, 600_001),
        "tickets": (2,),
        "client_auth": (1, 2, 3),  # the first two take a bundle of authorities
        "client_depth": (33,),
        "early_data_bytes": (16385,),
    }.items():
        for value in damaged:
            assert refused(field_at("tls", 0, field), value), (field, value)
    assert not refused(field_at("tls", 0, "default_identity"), 2**32 - 1)
    for field in ("identities", "names", "challenges"):
        assert refused(field_at("tls", 0, field), 4), field
        assert refused(field_at("tls", 0, field) + 4, 5), field
    assert refused(field_at("listeners", 1, "tls"), 1)
    assert not refused(field_at("listeners", 1, "tls"), 2**32 - 1)
    assert refused(field_at("tls_identities", 0, "certificates"), 2)
    assert refused(field_at("tls_identities", 0, "n_certificates"), 0)
    assert refused(field_at("tls_identities", 0, "n_certificates"), 5)
    assert refused(field_at("names", 0, "target"), 2)
    assert refused(field_at("names", 0, "name") + 4, 0)
    assert refused(field_at("names", 0, "name") + 4, 256)


def test_tls_of_a_pool_is_checked() -> None:
    assert COUNT["backend_tls"] == 1
    for field, damaged in {
        "verify": (2,),
        "resume": (2,),
        "certificate": (2, 2**32 - 2),
        "min_version": (0x0302, 0x0305),
        "max_version": (0x0302, 0x0305),
    }.items():
        for value in damaged:
            assert refused(field_at("backend_tls", 0, field), value), (field, value)
    assert not refused(field_at("backend_tls", 0, "certificate"), 2**32 - 1)
    assert refused(field_at("backend_tls", 0, "authorities") + 4, 0)  # nobody could be verified
    assert not refused(field_at("backend_tls", 0, "verify"), 0)
    assert refused(field_at("pools", 0, "tls"), 1)
    assert not refused(field_at("pools", 0, "tls"), 0)


def test_names_of_tls_ascend_each_once() -> None:
    wildcard, name = (struct.unpack_from("<Q", IMAGE, field_at("names", number, "name"))[0] for number in (0, 1))
    swapped = patch(patch(IMAGE, field_at("names", 0, "name"), name, "<Q"), field_at("names", 1, "name"), wildcard, "<Q")
    assert not check_image(swapped)
    assert refused(field_at("names", 1, "name"), wildcard, "<Q")


def test_lists_for_openssl_end_with_their_only_zero_byte_and_protocols_fill_their_list() -> None:
    offset, size = struct.unpack_from("<II", IMAGE, field_at("tls", 0, "alpn"))
    assert IMAGE[offset : offset + size] == b"\x08http/1.1"
    for first in (0, 7, 9, 255):
        assert refused(offset, first, "<B"), first
    assert refused(field_at("tls", 0, "ciphers"), offset | size << 32, "<Q")
