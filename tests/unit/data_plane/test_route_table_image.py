"""fastlb/data_plane/route_table.pyx: what check_route_table refuses. Everything else in a table can be anything."""

import ipaddress
import os
import struct

import pytest

from fastlb import _core
from tests.support._probe import ROUTE_TABLE_LAYOUT as LAYOUT
from tests.support._probe import check_image
from tests.support.images import Writer, find_sections, load, patch

NO_INDEX = 2**32 - 1


def make_image() -> bytes:
    writer = Writer(n_host_sets=2)
    writer.listener()
    pool = writer.pool()
    values = [("exact", b"true"), ("prefix", b"t"), ("regex", b"^t"), ("regex_caseless", b"E$")]
    networks = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("2001:db8::/33")]
    conditions = [("method", False, "", ["GET", "PURGE"]), ("client", True, "", networks), ("header", False, "X-Canary", values)]
    for host in ("", "a.example", "*.example", "b.example"):
        writer.add_route(host=host, pool=pool, rule={"host_sets": (0, 1)})
        writer.add_route(host=host, path_prefix="/api/", pool=pool, rule={"conditions": conditions, "host_sets": (1,)})
        writer.add_route(host=host, path_prefix="/api/", pool=pool, rule={"regex": (rb"^/api/v(\d)", False)})
        writer.add_route(host=host, path_prefix="/exact", pool=pool, rule={"exact": True})
    return writer.image()


IMAGE = make_image()
TABLE = find_sections(IMAGE)["route_table"][0]
SECTIONS = {name: struct.unpack_from("<II", IMAGE, TABLE + 4 + 8 * number) for number, name in enumerate(LAYOUT)}
SIZE = struct.unpack_from("<I", IMAGE, TABLE)[0]
N_ROUTES = find_sections(IMAGE)["routes"][1]


def at(section: str, number: int, field: str) -> int:
    return TABLE + SECTIONS[section][0] + number * LAYOUT[section]["size"] + LAYOUT[section][field]


def refused(offset: int, value: int) -> bool:
    return not check_image(patch(IMAGE, offset, value))


def records(section: str) -> range:
    assert SECTIONS[section][1], "the image above has a bit of everything"
    return range(SECTIONS[section][1])


def test_table_of_the_writer_passes() -> None:
    assert check_image(IMAGE)
    assert load(IMAGE).find_route(b"a.example", b"/exact") == 0


def test_table_of_another_size_is_refused() -> None:
    for size in (SIZE - 1, SIZE + 1, 0, NO_INDEX):
        assert refused(TABLE, size)


@pytest.mark.parametrize("section", LAYOUT)
def test_section_outside_the_table_is_refused(section: str) -> None:
    where = TABLE + 4 + 8 * list(LAYOUT).index(section)
    offset, count = SECTIONS[section]
    for damaged in (
        (SIZE // 8 * 8 + 8, count),
        (2**32 - 8, count),
        (offset + 4, count),
        (offset, NO_INDEX),
        (offset, 2**31),
        (offset, SIZE),
    ):
        assert not check_image(patch(patch(IMAGE, where, damaged[0]), where + 4, damaged[1])), damaged


def test_table_without_a_host_set_is_refused() -> None:
    assert refused(TABLE + 4 + 4, 0)


def test_listener_of_a_host_set_that_there_is_not_is_refused() -> None:
    writer = Writer()
    writer.listener(host_set=1)
    assert not check_image(writer.image())


@pytest.mark.parametrize(("section", "field"), [("hosts", "name"), ("conditions", "name"), ("values", "text"), ("regexes", "pattern")])
def test_text_outside_the_table_is_refused(section: str, field: str) -> None:
    for number in records(section):
        where = at(section, number, field)
        offset, size = struct.unpack_from("<II", IMAGE, where)
        for damaged in ((SIZE + 1, 0), (NO_INDEX, 1), (SIZE - size + 1, size), (offset, SIZE - offset + 1), (offset, NO_INDEX)):
            assert not check_image(patch(patch(IMAGE, where, damaged[0]), where + 4, damaged[1])), (number, damaged)


def test_path_outside_the_table_is_refused() -> None:
    for number in records("location_slots"):
        assert refused(at("location_slots", number, "path"), SIZE + 1)


@pytest.mark.parametrize(
    ("section", "field", "first_bad"),
    [
        ("host_sets", "any_host", SECTIONS["hosts"][1]),
        ("host_slots", "host", SECTIONS["hosts"][1] + 1),
        ("location_slots", "location", SECTIONS["locations"][1] + 1),
        ("locations", "route", N_ROUTES),
        ("rules", "route", N_ROUTES),
        ("rules", "regex", SECTIONS["regexes"][1]),
        ("conditions", "kind", 5),
        ("conditions", "negated", 2),
        ("values", "kind", 5),
        ("networks", "prefix_bits", 129),
        ("regexes", "flags", 2),
    ],
)
def test_number_past_the_last_one_is_refused(section: str, field: str, first_bad: int) -> None:
    for number in records(section):
        assert refused(at(section, number, field), first_bad)
        assert refused(at(section, number, field), NO_INDEX - 1)


def test_regular_expression_that_there_is_not_is_refused() -> None:
    kinds = [struct.unpack_from("<I", IMAGE, at("values", number, "kind"))[0] for number in records("values")]
    assert 4 in kinds
    for number in records("values"):
        assert refused(at("values", number, "regex"), SECTIONS["regexes"][1]) == (kinds[number] == 4)


@pytest.mark.parametrize(
    ("section", "field", "outer"),
    [
        ("host_sets", "slots", "host_slots"),
        ("hosts", "path_lengths", "path_lengths"),
        ("hosts", "slots", "location_slots"),
        ("locations", "rules", "rules"),
        ("rules", "conditions", "conditions"),
    ],
)
def test_range_outside_its_section_is_refused(section: str, field: str, outer: str) -> None:
    total = SECTIONS[outer][1]
    for number in records(section):
        where = at(section, number, field)
        first = struct.unpack_from("<I", IMAGE, where)[0]
        assert refused(where, total + 1)
        assert refused(where, NO_INDEX)
        assert refused(where + 4, total - first + 1)
        assert refused(where + 4, NO_INDEX)


def test_values_outside_their_section_are_refused() -> None:
    for number in records("conditions"):
        kind = struct.unpack_from("<I", IMAGE, at("conditions", number, "kind"))[0]
        total = SECTIONS["networks" if kind == 1 else "values"][1]
        assert refused(at("conditions", number, "values"), total + 1)
        assert refused(at("conditions", number, "values") + 4, total + 1)


def test_location_that_leads_to_itself_or_forward_is_refused() -> None:
    for number in records("locations"):
        assert refused(at("locations", number, "shorter"), number)
        assert refused(at("locations", number, "shorter"), number + 1)


def test_ranges_that_overlap_are_refused() -> None:
    # They would be looked at once for each record that claims one.
    for section, field in (("host_sets", "slots"), ("hosts", "path_lengths"), ("hosts", "slots")):
        assert refused(at(section, 1, field), struct.unpack_from("<I", IMAGE, at(section, 0, field))[0])


def test_path_lengths_that_do_not_ascend_or_are_too_long_are_refused() -> None:
    first = TABLE + SECTIONS["path_lengths"][0]
    sizes = [struct.unpack_from("<H", IMAGE, first + 4 * number)[0] for number in records("path_lengths")]
    assert sizes[:3] == [1, 5, 6]
    assert not check_image(patch(IMAGE, first + 4, 1, "<H"))
    assert not check_image(patch(IMAGE, first, 5, "<H"))
    assert not check_image(patch(IMAGE, first + 8, 4097, "<H"))


@pytest.mark.parametrize(("slots", "outer", "field"), [("host_slots", "host_sets", "host"), ("location_slots", "hosts", "location")])
def test_hash_table_without_an_empty_slot_or_of_an_odd_size_is_refused(slots: str, outer: str, field: str) -> None:
    # A look-up ends at an empty slot.
    last = SECTIONS[outer][1] - 1
    first, count = struct.unpack_from("<II", IMAGE, at(outer, last, "slots"))
    full = IMAGE
    for number in range(first, first + count):
        full = patch(full, at(slots, number, field), 1)
    assert not check_image(full)
    assert check_image(patch(full, at(slots, first, field), 0))
    assert count & (count - 1) == 0
    assert refused(at(outer, last, "slots") + 4, count - 1)
    if slots == "location_slots":
        assert refused(at(outer, last, "slots") + 4, 0)


def test_pattern_that_does_not_compile_is_not_loaded() -> None:
    where = at("regexes", 0, "pattern")
    offset = struct.unpack_from("<I", IMAGE, where)[0]
    damaged = patch(IMAGE, TABLE + offset, ord("("), "<B")
    assert check_image(damaged)
    engine, fd = _core.Engine(max_connections=1, pipes=0), _core.seal(damaged)
    try:
        with pytest.raises(ValueError, match="a regular expression of this snapshot cannot be compiled"):
            engine.prepare(fd)
    finally:
        os.close(fd)
        engine.close()
