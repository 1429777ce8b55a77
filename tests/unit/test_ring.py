"""fastlb/balancer.pyx: Ring. The points are nginx's, and only the keys of a node that comes or goes move."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlb import Balancer, Ring
from tests.property.examples import examples
from tests.unit.data_plane.select.record_nginx import KEYS, PICKS, name_backend

RECORDED: list[dict[str, Any]] = json.loads(PICKS.read_text())["consistent_hash"]
NODES = [f"10.0.0.{number}:80" for number in range(1, 11)]
MANY_KEYS = [f"user-{number}" for number in range(20_000)]


@pytest.mark.parametrize("case", range(4))
def test_keys_belong_to_the_node_that_nginx_gives_them_to(case: int) -> None:
    """Nodes that are down are stepped over, in the order of the ring."""
    recorded = RECORDED[case]
    names = [name_backend(number) for number in range(len(recorded["weights"]))]
    ring = Ring(dict(zip(names, recorded["weights"], strict=True)))
    down = {names[number] for number in recorded["down"]}
    found = [next(name for name in ring.get(key, len(names)) if name not in down) for key in KEYS]
    assert "".join(str(names.index(name)) for name in found) == recorded["picks"]


def test_a_ring_and_a_balancer_agree() -> None:
    weights = dict(zip(NODES, range(1, 11), strict=True))
    ring, balancer = Ring(weights), Balancer(weights, "consistent_hash")
    for key in MANY_KEYS[:2000]:
        assert ring[key] == balancer.pick(key)


def test_a_node_has_160_points_for_each_unit_of_weight() -> None:
    ring = Ring({"a:1": 1, "b:1": 3})
    names = [name for _, name in ring.points]
    assert names.count("a:1") == 160
    assert names.count("b:1") == 480
    assert [point for point, _ in ring.points] == sorted({point for point, _ in ring.points})


def test_a_key_belongs_to_the_first_point_at_or_behind_its_hash() -> None:
    import zlib

    ring = Ring(NODES)
    points = ring.points
    for key in [*MANY_KEYS[:500], ""]:
        hashed = zlib.crc32(key.encode())
        assert ring[key] == next((name for point, name in points if point >= hashed), points[0][1])


def test_get_gives_different_nodes_and_no_more_than_there_are() -> None:
    ring = Ring(NODES)
    for key in MANY_KEYS[:100]:
        three = ring.get(key, 3)
        assert len(set(three)) == 3
        assert three[0] == ring[key]
        assert sorted(ring.get(key, 99)) == sorted(NODES)
        assert ring.get(key, 99)[:3] == three
    assert ring.get("x", 0) == []


def test_a_node_that_joins_takes_about_its_share_and_moves_nothing_else() -> None:
    ring = Ring(NODES[:9])
    before = {key: ring[key] for key in MANY_KEYS}
    ring.add(NODES[9])
    moved = {key for key in MANY_KEYS if ring[key] != before[key]}
    assert {ring[key] for key in moved} == {NODES[9]}
    assert 0.07 < len(moved) / len(MANY_KEYS) < 0.13  # a tenth
    ring.remove(NODES[9])
    assert all(ring[key] == before[key] for key in MANY_KEYS)


def test_a_node_that_leaves_gives_its_keys_to_the_next_of_the_ring() -> None:
    ring = Ring(NODES)
    two = {key: ring.get(key, 2) for key in MANY_KEYS[:3000]}
    ring.remove(NODES[0])
    for key, (first, second) in two.items():
        assert ring[key] == (second if first == NODES[0] else first)


@given(st.dictionaries(st.text(min_size=1, max_size=20), st.integers(1, 20), min_size=1, max_size=8), st.binary(max_size=20))
@examples(100)
def test_the_order_of_the_nodes_does_not_matter(weights: dict[str, int], key: bytes) -> None:
    ring = Ring(weights)
    assert len({point for point, _ in ring.points}) == len(ring.points)
    assert sorted(ring.get(key, 8)) == sorted(weights)
    if len(ring.points) == 160 * sum(weights.values()):  # no two nodes have a point in common
        assert Ring(dict(reversed(weights.items()))).get(key, 8) == ring.get(key, 8)


def test_an_empty_ring_has_no_node_for_a_key() -> None:
    ring = Ring()
    assert ring.get("x") == []
    assert len(ring) == 0
    with pytest.raises(LookupError):
        ring["x"]
    ring.add("a:1")
    assert ring["x"] == "a:1"
    assert "a:1" in ring
    assert ring.nodes == {"a:1": 1}


@pytest.mark.parametrize(
    ("error", "nodes"),
    [
        (TypeError, "abc"),
        (TypeError, [1]),
        (ValueError, ["a", "a"]),
        (ValueError, {"a": 0}),
        (ValueError, {"a": 65536}),
        (ValueError, [""]),
    ],
)
def test_nodes_out_of_range_are_refused(error: type[Exception], nodes: Any) -> None:
    with pytest.raises(error):
        Ring(nodes)


def test_a_change_that_fails_changes_nothing() -> None:
    ring = Ring(["a", "b"])
    with pytest.raises(ValueError, match="there already"):
        ring.add("a")
    with pytest.raises(KeyError):
        ring.remove("c")
    with pytest.raises(TypeError):
        ring.get(7)  # type: ignore[call-overload]
    assert sorted(ring.nodes) == ["a", "b"]
