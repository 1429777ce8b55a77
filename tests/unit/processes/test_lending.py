"""Which worker accepts from which socket: home, lent, given back, shared."""

import hypothesis.strategies as st
from hypothesis import given

from fastlb.processes.lending import Lending, Place

FOUR = [Place(10 + slot, 0, slot) for slot in range(4)]
SHARED = Place(20, 1, None)


def test_each_ready_worker_has_its_own_sockets() -> None:
    assigned = Lending().assign([*FOUR, SHARED], {0, 1, 2, 3})
    assert assigned == {slot: ((10 + slot, 0), (20, 1)) for slot in range(4)}


def test_sockets_of_those_that_are_not_ready_are_spread_over_the_others() -> None:
    assigned = Lending().assign(FOUR, {1, 3})
    assert sorted(len(sockets) for sockets in assigned.values()) == [2, 2]
    assert {socket for sockets in assigned.values() for socket, _ in sockets} == {10, 11, 12, 13}


def test_with_nobody_ready_nothing_is_assigned() -> None:
    assert Lending().assign(FOUR, ()) == {}


def test_a_lent_socket_stays_where_it_is_until_its_home_is_ready() -> None:
    lending = Lending()
    before = lending.assign(FOUR, {1, 2, 3})
    (holder,) = (slot for slot, sockets in before.items() if (10, 0) in sockets)
    again = lending.assign(FOUR, {holder, 3})
    assert (10, 0) in again[holder]
    assert lending.assign(FOUR, {0, 1, 2, 3})[0] == ((10, 0),)


def test_when_the_holder_dies_too_somebody_else_gets_it() -> None:
    lending = Lending()
    before = lending.assign(FOUR, {1, 2, 3})
    (holder,) = (slot for slot, sockets in before.items() if (10, 0) in sockets)
    left = {1, 2, 3} - {holder}
    assert sum((10, 0) in sockets for sockets in lending.assign(FOUR, left).values()) == 1


def test_the_listener_of_a_socket_may_have_another_index_in_the_next_snapshot() -> None:
    lending = Lending()
    lending.assign([Place(1, 0, 5)], {0})
    assert lending.assign([Place(1, 3, 5)], {0}) == {0: ((1, 3),)}


PLACES = st.lists(st.integers(0, 5) | st.none(), max_size=12).map(
    lambda homes: [Place(number, number % 3, home) for number, home in enumerate(homes)]
)


@given(PLACES, st.lists(st.sets(st.integers(0, 5)), min_size=1, max_size=8))
def test_whoever_comes_and_goes_each_socket_has_one_worker_or_is_everybodys(places: list[Place], steps: list[set[int]]) -> None:
    lending = Lending()
    previous: dict[int, int] = {}
    for ready in steps:
        assigned = lending.assign(places, ready)
        assert set(assigned) == ready
        for place in places:
            holders = [slot for slot, sockets in assigned.items() if (place.socket, place.listener) in sockets]
            if place.home is None:
                assert set(holders) == ready
            elif place.home in ready:
                assert holders == [place.home]
            elif ready:
                assert len(holders) == 1
                if previous.get(place.socket) in ready and previous[place.socket] != place.home:
                    assert holders == [previous[place.socket]]  # no move without need
            else:
                assert holders == []
        previous = {socket: slot for slot, sockets in assigned.items() for socket, _ in sockets}
