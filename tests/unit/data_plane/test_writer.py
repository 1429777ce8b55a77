"""fastlb/data_plane/writer.pxd: a cursor that notes when it ran out of room, and writes nothing past it."""

import pytest

from tests.support._probe import write_parts


def test_parts_stand_one_behind_the_other() -> None:
    assert write_parts(100, [b"ab", b"", b"cd", 12, b"e"]) == (b"abcd12e", False)


@pytest.mark.parametrize("number", [0, 1, 9, 10, 99, 100, 4294967295])
def test_numbers_are_decimal(number: int) -> None:
    assert write_parts(10, [number]) == (b"%d" % number, False)


def test_exact_fit_is_no_overflow() -> None:
    assert write_parts(4, [b"abcd"]) == (b"abcd", False)
    assert write_parts(0, [b""]) == (b"", False)


def test_what_does_not_fit_is_noted_and_not_written() -> None:
    assert write_parts(4, [b"abc", b"de"]) == (b"abc", True)
    assert write_parts(4, [b"abc", 12]) == (b"abc", True)


def test_overflow_is_remembered() -> None:
    assert write_parts(4, [b"abcde", b"f"])[1]
