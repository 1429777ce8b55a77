"""fastlb/data_plane/backend_table.pyx: running rows by identity."""

import pytest

from tests.support._probe import Backends


def test_same_identity_is_the_same_row() -> None:
    table = Backends()
    row = table.hold(b"api|127.0.0.1:80")
    assert table.hold(b"api|127.0.0.1:80") == row
    assert table.identity(row) == b"api|127.0.0.1:80"
    assert table.count == 1


def test_other_identity_is_another_row() -> None:
    table = Backends()
    rows = {table.hold(identity) for identity in (b"api|a:80", b"web|a:80", b"api|a:8", b"api|a:801", b"")}
    assert len(rows) == table.count == 5


def test_row_goes_with_its_last_reference() -> None:
    table = Backends()
    row = table.hold(b"x")
    table.hold(b"x")
    table.drop(row)
    assert table.count == 1
    assert table.identity(row) == b"x"
    table.drop(row)
    assert table.count == 0


def test_rows_that_share_a_chain_are_told_apart_and_leave_apart() -> None:
    # 5,000 rows in 1,024 chains.
    table = Backends()
    names = [b"pool|10.0.%d.%d:80" % divmod(number, 250) for number in range(5000)]
    rows = [table.hold(name) for name in names]
    assert len(set(rows)) == table.count == 5000
    for row in rows[::2]:
        table.drop(row)
    assert table.count == 2500
    assert [table.hold(name) for name in names[1::2]] == rows[1::2]
    for row in rows[1::2]:
        table.drop(row)
        table.drop(row)
    assert table.count == 0


def test_identity_may_hold_any_byte() -> None:
    table = Backends()
    assert table.identity(table.hold(b"a\0b\xff")) == b"a\0b\xff"
    table.hold(b"a\0c\xff")
    assert table.count == 2


def test_identity_without_a_row_in_shared_memory_has_none_here_either() -> None:
    table = Backends()
    with pytest.raises(KeyError):
        table.hold(b"unknown", known=False)
    assert table.count == 0
    row = table.hold(b"unknown")
    assert table.hold(b"unknown", known=False) == row


def test_row_in_shared_memory_is_held_as_long_as_ours_lives() -> None:
    table = Backends()
    row = table.hold(b"a")
    table.hold(b"a")
    table.hold(b"b")
    table.drop(row)
    assert table.is_held(b"a")
    table.drop(row)
    assert not table.is_held(b"a")
    assert table.is_held(b"b")
