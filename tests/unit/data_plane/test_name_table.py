"""fastlb/data_plane/name_table.pyx: how a name leads to certificates or pools. How an image's table is checked is in test_snapshot.py."""

import pytest

from tests.support._probe import find_host

NAMES = [
    (b"a.example", 0),
    (b"*.a.example", 1),
    (b"b.a.example", 2),
    (b"a.example.org", 3),
    (b"x", 4),
    (b"*.deep.a.example", 5),
    (b"aa.example", 6),
]


@pytest.mark.parametrize(
    ("host", "target"),
    [
        (b"a.example", 0),
        (b"A.EXAMPLE", 0),
        (b"a.example.", 0),
        (b"b.a.example", 2),
        (b"c.a.example", 1),
        (b"C.A.example.", 1),
        (b"c.d.a.example", None),  # a wildcard stands for one label
        (b"c.deep.a.example", 5),
        (b"deep.a.example", 1),
        (b".a.example", None),
        (b"*.a.example", 1),
        (b"a.example.org", 3),
        (b"aa.example", 6),
        (b"a.exampl", None),
        (b"x", 4),
        (b"y", None),
        (b"", None),
        (b".", None),
        (b"a" * 255, None),
        (b"a" * 256, None),
    ],
)
def test_name_goes_before_the_wildcard_of_its_domain(host: bytes, target: int | None) -> None:
    assert find_host(NAMES, host) == target


def test_each_of_many_names_is_found_and_nothing_between_them() -> None:
    names = [(b"n%d.example" % number, number) for number in range(0, 1000, 2)]
    for number in range(1000):
        assert find_host(names, b"n%d.example" % number) == (None if number % 2 else number)


def test_empty_table_knows_nobody() -> None:
    assert find_host([], b"a.example") is None
