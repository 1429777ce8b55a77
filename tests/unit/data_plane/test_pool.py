"""fastlb/data_plane/pool.pyx: what groups and their tables in an image must be."""

import random
import struct

import pytest

from fastlb import _core
from tests.support._probe import LAYOUT
from tests.support.images import Writer, find_sections, load, patch

# ImageGroup: n_backends, index_bits, table (offset, count), index (offset, count)
GROUP_BYTES = 24
TABLES = ["weighted_round_robin", "consistent_hash", "maglev", "random_two_choices", "peak_ewma"]
KEYS = [random.Random(1).getrandbits(64) for _ in range(200)]


def make_image(algorithm: str, weights: tuple[int, ...] = (1, 2), groups: int = 2) -> bytes:
    """One pool; the same backends in each group, on other ports."""
    writer = Writer()
    pool = writer.pool(algorithm=algorithm)
    for group in range(groups):
        writer.begin_group(pool)
        for number, weight in enumerate(weights):
            writer.backend(pool, 8000 + 10 * group + number, weight=weight)
    writer.add_route(host="", path_prefix="/", pool=pool)
    return writer.image()


def is_refused(image: bytes) -> bool:
    try:
        load(image).close()
    except ValueError:
        return True
    return False


def find_group(image: bytes, number: int = 0) -> tuple[int, tuple[int, ...]]:
    """Where it stands, and its six numbers."""
    at = find_sections(image)["groups"][0] + number * GROUP_BYTES
    return at, struct.unpack_from("<6I", image, at)


@pytest.mark.parametrize("algorithm", list(_core.ALGORITHMS))
def test_groups_are_all_of_the_backends_and_nothing_else(algorithm: str) -> None:
    image = make_image(algorithm)
    assert not is_refused(image)
    at, _ = find_group(image, 1)
    for n_backends in (0, 1, 3, 0xFFFFFFFF):
        assert is_refused(patch(image, at, n_backends))


@pytest.mark.parametrize("algorithm", list(_core.ALGORITHMS))
def test_pool_has_a_group(algorithm: str) -> None:
    writer = Writer()
    writer.pool(algorithm=algorithm)
    image = writer.image()
    assert not is_refused(image), "its only group is empty"
    at = find_sections(image)["pools"][0] + LAYOUT["pools"]["groups"]
    groups = find_sections(image)["groups"]
    assert struct.unpack_from("<II", image, at) == (0, groups[1])
    assert is_refused(patch(image, at + 4, 0))
    assert is_refused(patch(image, at + 4, 2))
    assert is_refused(patch(image, at, 1))


@pytest.mark.parametrize("algorithm", TABLES)
def test_table_lies_in_the_image(algorithm: str) -> None:
    image = make_image(algorithm)
    at, (_, _, offset, count, _, _) = find_group(image, 1)
    assert count > 0
    for wrong in (offset + 1, len(image), 0xFFFFFFF8):
        assert is_refused(patch(image, at + 8, wrong))
    for wrong in (count + len(image), 0x20000000, 0xFFFFFFFF):
        assert is_refused(patch(image, at + 12, wrong))


@pytest.mark.parametrize(
    ("algorithm", "form", "size", "shift"),
    [
        ("weighted_round_robin", "<I", 4, 0),
        ("consistent_hash", "<I", 8, 4),
        ("maglev", "<H", 2, 0),
        ("random_two_choices", "<I", 8, 4),
        ("peak_ewma", "<I", 8, 4),
    ],
)
def test_what_a_table_holds_leads_to_a_backend_of_its_group(algorithm: str, form: str, size: int, shift: int) -> None:
    image = make_image(algorithm)
    _, (_, _, offset, count, _, _) = find_group(image, 1)
    for number in (0, count - 1):
        assert is_refused(patch(image, offset + number * size + shift, 2, form))
        assert is_refused(patch(image, offset + number * size + shift, 0xFFFF, form))
        assert not is_refused(patch(image, offset + number * size + shift, 1, form))


@pytest.mark.parametrize("algorithm", ["weighted_round_robin", "random_two_choices", "peak_ewma"])
def test_table_has_an_entry_for_each_backend(algorithm: str) -> None:
    image = make_image(algorithm)
    at, (_, _, _, count, _, _) = find_group(image)
    assert count == 2
    assert is_refused(patch(image, at + 12, 1))


def test_index_of_a_ring_has_a_word_for_each_value_of_its_bits_and_leads_into_the_ring() -> None:
    image = make_image("consistent_hash")
    at, (_, bits, _, count, index, n_index) = find_group(image)
    assert n_index == 1 << bits
    for wrong in (bits - 1, bits + 1, 32, 64, 0xFFFFFFFF):
        assert is_refused(patch(image, at + 4, wrong))
    assert is_refused(patch(image, at + 20, n_index - 1))
    assert is_refused(patch(image, index + 4, count + 1))
    assert not is_refused(patch(image, index + 4, count))
    assert is_refused(patch(image, at + 16, index + 4))


@pytest.mark.parametrize("algorithm", list(_core.ALGORITHMS))
def test_picks_of_damaged_images_that_pass_are_backends_of_the_pool(algorithm: str) -> None:
    numbers = random.Random(algorithm)
    image = make_image(algorithm, (1, 2, 3))
    sections = find_sections(image)
    first = sections["pools"][0]
    passed = 0
    for _ in range(150):
        changed = bytearray(image)
        at = numbers.choice([numbers.randrange(first, len(image)), numbers.randrange(sections["groups"][0], sections["log_plan"][0])])
        changed[at] ^= 1 << numbers.randrange(8)
        try:
            plane = load(bytes(changed))
        except ValueError:
            continue
        passed += 1
        for key in (0, *KEYS[:50]):
            first_pick = plane.pick(0, key=key)
            assert first_pick is None or first_pick in range(6)
            if first_pick is not None:
                assert plane.pick(0, tried=[first_pick], key=key) != first_pick
        plane.close()
    assert passed > 10


# ---------------------------------------------------------------------------------------------------------- protection
def protected() -> tuple[bytes, int]:
    """An image whose pool has passive health, limits and panic, and where the pool stands."""
    writer = Writer()
    writer.backend(writer.pool(health={}, limits={"connections": 1, "retries": 2}, panic_below=0.5))
    image = writer.image()
    assert not is_refused(image)
    return image, find_sections(image)["pools"][0]


@pytest.mark.parametrize(
    ("field", "wrong", "right"),
    [
        ("counts", (1 << 20, 0xFFFFFFFF), (0, 1)),
        ("error_permille", (1001, 0xFFFFFFFF), (0, 1000)),
        ("window_ms", (0,), (1, 0xFFFFFFFF)),
        ("ejection_ms", (0, 0xFFFFFFFF), (1,)),
        ("max_ejection_ms", (0, 1), (0xFFFFFFFF,)),
        ("max_ejected_permille", (1001,), (0, 1000)),
        ("panic_permille", (1001,), (0, 1000)),
    ],
)
def test_numbers_of_passive_health_and_panic_are_in_their_ranges(field: str, wrong: tuple[int, ...], right: tuple[int, ...]) -> None:
    image, at = protected()
    assert all(is_refused(patch(image, at + LAYOUT["pools"][field], value)) for value in wrong)
    assert not any(is_refused(patch(image, at + LAYOUT["pools"][field], value)) for value in right)


@pytest.mark.parametrize("row", ["health", "connections", "retries"])
def test_rows_of_a_pool_are_named_as_no_backend_can_be(row: str) -> None:
    image, pool = protected()
    at = pool + (LAYOUT["pools"]["health"] if row == "health" else LAYOUT["pools"]["limits"] + {"connections": 0, "retries": 36}[row])
    offset, size = struct.unpack_from("<II", image, at)
    assert image[offset : offset + size] == f"|api|{row}".encode()
    assert is_refused(patch(image, at, len(image)))
    assert is_refused(patch(image, at, offset + 1)), "it does not begin with the mark"
    assert is_refused(patch(image, at + 4, 0xFFFFFFFF))
    assert is_refused(patch(image, at + 4, 425)), "longer than a row holds"
    assert is_refused(patch(image, at + 4, 0)) is (row != "health"), "without a row there is no passive health"


def test_limit_needs_a_row() -> None:
    image, pool = protected()
    pending = pool + LAYOUT["pools"]["limits"] + 12
    assert struct.unpack_from("<3I", image, pending) == (0, 0, 0)
    assert is_refused(patch(image, pending + 8, 1))
