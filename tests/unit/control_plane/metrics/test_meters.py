"""Which meter counts for what: numbers that last, and how many there are."""

from collections.abc import Iterator

import pytest

from fastlb import _core
from fastlb.control_plane.config.loader import load_text
from fastlb.control_plane.config.schema import Config
from fastlb.control_plane.metrics.meters import KINDS, MAX_LABEL_BYTES, OTHER, Meters, cut_label, label_routes
from tests.support.configuration import configuration
from tests.support.node import Node

MOST = _core.METER_LIMITS["meters"]


@pytest.fixture
def memory() -> Iterator[_core.SharedMemory]:
    made = _core.SharedMemory.create()
    yield made
    made.close()


def complain(text: str) -> None:
    pytest.fail(text)


def config_of(*routes: dict[str, object]) -> Config:
    return load_text(configuration(["127.0.0.1:1"], routes=[{"pool": "main", **route} for route in routes]), "test").config


def named(*names: str) -> Config:
    return config_of(*({"name": name, "path": f"/{number}/"} for number, name in enumerate(names)))


def test_each_listener_route_and_pool_has_a_number_of_its_own(memory: _core.SharedMemory) -> None:
    numbers = Meters(memory, complain).assign(named("a", "b"))
    every = [*numbers.listeners, *numbers.routes, *numbers.pools]
    assert len(set(every)) == len(every) == 4
    assert min(every) > len(KINDS), "the first ones are those of all others"


def test_names_keep_their_numbers_over_reloads_and_controllers(memory: _core.SharedMemory) -> None:
    first = Meters(memory, complain)
    before = first.assign(named("a", "b"))
    assert first.assign(named("c", "b", "a")).routes[1:] == [before.routes[1], before.routes[0]]
    assert Meters(memory, complain).assign(named("b", "a")).routes == list(reversed(before.routes))


def test_name_that_comes_back_finds_its_counts(memory: _core.SharedMemory) -> None:
    meters = Meters(memory, complain)
    before = meters.assign(named("a"))
    meters.put_in_force(before, 1)
    meters.put_in_force(meters.assign(named("b")), 2)
    assert meters.assign(named("a")).routes == before.routes


def fill(meters: Meters, count: int, first: int = 0) -> None:
    """Gives numbers to so many routes, as many reloads would."""
    meters.put_in_force(meters.assign(named(*(f"r{number}" for number in range(first, first + count)))), 1)


def test_numbers_are_given_away_only_when_none_is_free_and_the_oldest_unused_one_first(memory: _core.SharedMemory) -> None:
    meters = Meters(memory, complain)
    free = MOST - 1 - len(KINDS) - 2  # less the listener and the pool
    fill(meters, free)
    before = meters.assign(named("r0", "r1")).routes
    meters.put_in_force(meters.assign(named("r0")), 2)
    numbers = meters.assign(named("r0", "new"))
    assert numbers.routes == [before[0], before[1]], "r0 is in use, r1 is the oldest of those that are not"
    assert memory.meters()[before[1]] == b"rnew"


def test_no_number_is_given_away_while_a_worker_counts_by_an_older_snapshot() -> None:
    with Node() as node:
        meters = Meters(node.shared, lambda _: None)
        fill(meters, MOST - 1 - len(KINDS) - 2)
        before = meters.assign(named("r0", "r1")).routes
        node.apply(0)
        meters.put_in_force(meters.assign(named("r0")), node.generation + 1)  # and this worker drains, with r1
        assert meters.assign(named("r0", "new")).routes == [before[0], KINDS.index("r") + 1]
        node.apply(0)
        assert meters.assign(named("r0", "new")).routes == before, "it has ended, or has the one in force"


def test_beyond_the_last_number_one_counts_for_all_and_it_is_said_once(memory: _core.SharedMemory) -> None:
    said: list[str] = []
    meters = Meters(memory, said.append)
    numbers = meters.assign(named(*(f"r{number}" for number in range(MOST + 100))))
    assert len(set(numbers.routes)) == MOST - 1 - len(KINDS) - 2 + 1
    assert numbers.routes.count(KINDS.index("r") + 1) == 100 + 4 + 2
    assert meters.labels()[KINDS.index("r") + 1] == ("r", OTHER)
    assert min(numbers.listeners[0], numbers.pools[0]) > len(KINDS), "they are few, and come first"
    meters.assign(named(*(f"x{number}" for number in range(MOST))))
    assert len(said) == 1
    assert f"{MOST - 1 - len(KINDS)} listeners, routes and pools" in said[0]


def test_what_a_worker_wrote_there_is_no_name(memory: _core.SharedMemory) -> None:
    memory.set_meter(9, b"\xff\xfe")
    memory.set_meter(2, b"rstolen")
    meters = Meters(memory, complain)
    assert meters.labels()[2] == ("r", OTHER)
    assert 9 not in meters.labels()
    assert meters.assign(named("stolen")).routes != [2]


# ---------------------------------------------------------------------------------------------------------- labels
def test_route_without_a_name_is_called_after_its_host_and_path() -> None:
    routes = ({"host": "shop.example.com", "path": "/api/"}, {"path": "/x/"}, {"name": "mine", "path": "/y/"})
    assert label_routes(config_of(*routes)) == ["shop.example.com/api/", "*/x/", "mine"]


def test_routes_of_one_name_are_numbered() -> None:
    routes = [{"path": "/x/", "method": method} for method in ("GET", "POST", "PUT")] + [{"name": "*/x/#2", "path": "/z/"}]
    assert label_routes(config_of(*routes)) == ["*/x/", "*/x/#2", "*/x/#3", "*/x/#2#2"]


def test_long_labels_are_cut_and_stay_different() -> None:
    first, second = cut_label("ä" * 500 + "1"), cut_label("ä" * 500 + "2")
    assert first != second
    assert first[:60] == second[:60] == "ä" * 60
    assert len(first.encode()) <= MAX_LABEL_BYTES < _core.METER_LIMITS["name_bytes"]
    assert cut_label("short") == "short"
