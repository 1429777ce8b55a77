"""fastlb/control_plane/groups.py: backup, priority, zone and subset."""

import socket
from collections import Counter
from typing import Any

import pytest

from fastlb.control_plane.config.address import parse_backend_address
from fastlb.control_plane.config.schema import Backend, GlobalSettings, Pool
from fastlb.control_plane.groups import Row, order_rows


def make_row(name: str, *, address: bytes | None = b"x", **backend: Any) -> Row:
    return Row(Backend(address=parse_backend_address("10.0.0.1:80"), **backend), f"p|{name}", name, name, address)


def order(rows: list[Row], subset: int = 0, **settings: Any) -> list[str]:
    """Each group as one text."""
    pool = Pool(name="p", backends=tuple(row.backend for row in rows), subset=subset)
    return ["".join(row.display for row in group) for group in order_rows(rows, pool, GlobalSettings(**settings))]


def test_backends_without_any_of_it_are_one_group_in_their_order() -> None:
    assert order([make_row("c"), make_row("a"), make_row("b")]) == ["cab"]


def test_backups_come_last() -> None:
    assert order([make_row("a", backup=True), make_row("b"), make_row("c", backup=True), make_row("d")]) == ["bd", "ac"]


def test_pool_may_have_backups_only() -> None:
    assert order([make_row("a", backup=True)]) == ["a"]


def test_lower_priorities_come_first_and_backups_after_all_of_them() -> None:
    rows = [make_row("a", priority=7), make_row("b"), make_row("c", priority=7), make_row("d", backup=True), make_row("e", priority=255)]
    assert order(rows) == ["b", "ac", "e", "d"]


def test_own_zone_comes_first_within_a_priority() -> None:
    rows = [make_row("a", zone="x"), make_row("b", zone="y"), make_row("c"), make_row("d", zone="x", priority=1), make_row("e", priority=1)]
    assert order(rows, zone="y") == ["bc", "a", "e", "d"]
    assert order(rows, zone="x") == ["ac", "b", "de"]
    assert order(rows) == ["abc", "de"]


MANY = [make_row(chr(0x100 + number)) for number in range(200)]


def test_subset_has_its_size_and_keeps_the_order() -> None:
    (group,) = order(MANY, 20, node="lb-1")
    assert len(group) == 20
    assert list(group) == sorted(group)


def test_subset_that_is_large_enough_is_all() -> None:
    assert order([make_row("a"), make_row("b")], 2, node="n") == ["ab"]


def test_subset_follows_from_the_name_of_the_node_alone() -> None:
    assert order(MANY, 20, node="lb-1") == order(list(reversed(MANY))[::-1], 20, node="lb-1")
    assert order(MANY, 20, node="lb-1") != order(MANY, 20, node="lb-2")


def test_node_without_a_name_has_that_of_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "lb-7")
    assert order(MANY, 20) == order(MANY, 20, node="lb-7")


def test_backend_that_comes_or_goes_changes_one_place_at_most() -> None:
    for node in map(str, range(30)):
        (before,) = order(MANY, 20, node=node)
        (after,) = order(MANY[1:], 20, node=node)
        assert len(set(before) - set(after)) == (MANY[0].display in before)
        assert len(set(after) - set(before)) == (MANY[0].display in before)


def test_nodes_use_backends_equally_often() -> None:
    uses = Counter("".join(order(MANY, 20, node=str(node))[0] for node in range(500)))
    assert len(uses) == 200
    # 500 nodes of 20 places for 200 backends: 50 each, and 6.7 standard deviation; a 1 in 10^6 bound over all.
    assert min(uses.values()) > 15 and max(uses.values()) < 90


def test_each_group_has_its_own_subset() -> None:
    rows = [*MANY[:50], *(make_row(chr(0x300 + number), backup=True) for number in range(3))]
    assert [len(group) for group in order(rows, 5, node="n")] == [5, 3]


def test_names_without_an_address_take_no_place() -> None:
    rows = [make_row("a"), make_row("b", address=None), make_row("c")]
    assert [sorted(group) for group in order(rows, 2, node="n")] == [["a", "b", "c"]]
    assert order(rows, 1, node="n") in (["ab"], ["bc"])
