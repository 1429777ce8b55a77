"""A slot between two workers: how long it waits, and what it forgets."""

import os

from fastlb.processes.channel import Channel, open_pair
from fastlb.processes.child import Child
from fastlb.processes.messages import FromWorker
from fastlb.processes.roster import (
    FIRST_BACK_OFF_SECONDS,
    LONGEST_BACK_OFF_SECONDS,
    MAX_WORKERS,
    Slot,
    State,
    choose_slots,
    choose_where_room,
    make_slot,
)


def live(slot: Slot, born: float, died: float) -> float:
    ours, theirs = open_pair()
    theirs.close()
    child = Child(os.getpid(), Channel(ours, FromWorker))
    slot.begin(child, born)
    child.channel.close()
    os.close(child.pidfd)
    return slot.end(died)


def test_the_first_death_and_one_after_a_steady_life_cost_no_time() -> None:
    slot = make_slot(0)
    assert live(slot, 0.0, 0.1) == 0
    assert live(slot, 1.0, 60.0) == 0
    assert live(slot, 61.0, 61.1) == 0
    os.close(slot.event_fd)


def test_deaths_in_quick_succession_wait_longer_and_longer_up_to_a_limit() -> None:
    slot = make_slot(0)
    waits = [live(slot, float(n), n + 0.5) for n in range(20)]
    assert waits[:4] == [0, FIRST_BACK_OFF_SECONDS, 2 * FIRST_BACK_OFF_SECONDS, 4 * FIRST_BACK_OFF_SECONDS]
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_BACK_OFF_SECONDS
    assert live(slot, 100.0, 200.0) == 0
    assert live(slot, 200.0, 200.5) == 0
    os.close(slot.event_fd)


def test_the_next_worker_begins_with_nothing() -> None:
    slot = make_slot(3)
    slot.state, slot.lent, slot.assigned, slot.pinged_ms = State.READY, {1, 2}, ((1, 0), (2, 0)), 77
    live(slot, 0.0, 5.0)
    assert (slot.child, slot.state, slot.lent, slot.assigned, slot.pinged_ms) == (None, State.WAITING, set(), (), 0)
    assert slot.restarts == 0
    live(slot, 5.0, 6.0)
    assert slot.restarts == 1
    os.close(slot.event_fd)


def test_worker_that_drains_keeps_no_reload_waiting() -> None:
    slot = make_slot(0)
    slot.state, slot.catching_up = State.READY, True
    slot.begin_draining()
    assert (slot.state, slot.catching_up) == (State.DRAINING, False)
    os.close(slot.event_fd)


def test_waking_adds_to_the_eventfd() -> None:
    slot = make_slot(0)
    slot.wake()
    slot.wake()
    assert os.eventfd_read(slot.event_fd) == 2
    os.close(slot.event_fd)


def test_slots_are_chosen_where_workers_are_and_never_where_others_still_are() -> None:
    slots = [make_slot(number) for number in range(5)]
    try:
        for slot in slots:
            slot.retired = slot.number != 3
        slots[0].reserved = slots[1].reserved = True
        assert choose_slots(slots, 1) == [3]
        assert choose_slots(slots, 2) == [2, 3]
        assert choose_slots(slots, 5) == [2, 3, 4, 5, 6]
        slots[0].reserved = False
        assert choose_slots(slots, 3) == [0, 2, 3]
        assert choose_slots([], 2) == [0, 1]
        for slot in slots:
            slot.reserved = slot.retired = True  # others are everywhere
        assert choose_where_room(slots, MAX_WORKERS) == list(range(len(slots), MAX_WORKERS))
    finally:
        for slot in slots:
            os.close(slot.event_fd)


def test_slot_keeps_the_eventfd_that_it_is_given() -> None:
    event_fd = os.eventfd(0)
    slot = make_slot(4, event_fd)
    slot.wake()
    assert os.eventfd_read(event_fd) == 1
    os.close(event_fd)
