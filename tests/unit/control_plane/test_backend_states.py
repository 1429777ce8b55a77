"""fastlb/control_plane/backend_states.py over real shared memory."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlb import _core
from fastlb.control_plane.backend_states import AdminState, BackendState, BackendStates
from tests.support.images import Writer, add_rows

STATES = _core.ROW_STATES


@pytest.fixture
def shared() -> Iterator[_core.SharedMemory]:
    made = _core.SharedMemory.create()
    add_rows(made, "api|a", "api|b")
    yield made
    made.close()


def row(shared: _core.SharedMemory, identity: str) -> dict[str, int]:
    return next(row for row in shared.backends() if row["identity"] == identity)  # type: ignore[return-value]


def test_a_new_backend_is_up_and_ready(shared: _core.SharedMemory) -> None:
    states = BackendStates(shared)
    assert states.get("api|a") == BackendState(True, AdminState.READY)
    assert row(shared, "api|a")["state"] == 0


def test_health_and_what_the_operator_wants_do_not_touch_each_other(shared: _core.SharedMemory) -> None:
    states = BackendStates(shared)
    states.set_admin("api|a", AdminState.DRAIN)
    states.set_health("api|a", False)
    assert states.get("api|a") == BackendState(False, AdminState.DRAIN)
    assert row(shared, "api|a")["state"] == STATES["down"] | STATES["drain"]
    states.set_admin("api|a", AdminState.MAINT)
    assert row(shared, "api|a")["state"] == STATES["down"] | STATES["maintenance"]
    states.set_health("api|a", True)
    assert states.get("api|a") == BackendState(True, AdminState.MAINT)
    states.set_admin("api|a", AdminState.READY)
    assert row(shared, "api|a")["state"] == 0
    assert states.get("api|b") == BackendState(True, AdminState.READY)


@given(st.lists(st.sampled_from([True, False, *AdminState]), max_size=12))
def test_the_last_word_of_each_side_holds(steps: list[bool | AdminState]) -> None:
    shared = _core.SharedMemory.create()
    try:
        add_rows(shared, "api|a")
        states = BackendStates(shared)
        up, admin, changes = True, AdminState.READY, 0
        for step in steps:
            if isinstance(step, AdminState):
                states.set_admin("api|a", step)
                admin = step
            else:
                states.set_health("api|a", step)
                changes += step != up
                up = step
            assert states.get("api|a") == BackendState(up, admin)
        found = row(shared, "api|a")
        assert (found["ups"], found["downs"]) == (changes // 2, (changes + 1) // 2)
    finally:
        shared.close()


def test_the_next_controller_finds_the_states(shared: _core.SharedMemory) -> None:
    before = BackendStates(shared)
    before.set_health("api|a", False)
    before.set_admin("api|b", AdminState.MAINT)
    assert BackendStates(shared).restore() == {
        "api|a": BackendState(False, AdminState.READY),
        "api|b": BackendState(True, AdminState.MAINT),
    }


def test_a_change_of_health_is_counted_with_its_time_and_one_of_the_operator_is_not(shared: _core.SharedMemory) -> None:
    states = BackendStates(shared)
    assert row(shared, "api|a")["changed_ms"] == 0
    states.set_admin("api|a", AdminState.DRAIN)
    states.set_health("api|a", True)
    assert (row(shared, "api|a")["downs"], row(shared, "api|a")["changed_ms"]) == (0, 0)
    states.set_health("api|a", False)
    states.set_health("api|a", False)
    found = row(shared, "api|a")
    assert (found["ups"], found["downs"]) == (0, 1)
    assert found["changed_ms"] > 0


def test_a_row_that_is_used_again_has_counted_nothing(shared: _core.SharedMemory) -> None:
    BackendStates(shared).set_health("api|a", False)
    none = _core.seal(Writer().image())
    assert shared.sweep(none) == 2
    os.close(none)
    add_rows(shared, "api|c", "api|d")
    for identity in ("api|c", "api|d"):
        found = row(shared, identity)
        assert (found["state"], found["ups"], found["downs"], found["changed_ms"]) == (0, 0, 0, 0)


def test_nobody_knows_a_backend_without_a_row(shared: _core.SharedMemory) -> None:
    states = BackendStates(shared)
    with pytest.raises(KeyError):
        states.get("api|z")
    with pytest.raises(KeyError):
        states.set_health("api|z", False)
    with pytest.raises(KeyError):
        states.set_admin("api|z", AdminState.DRAIN)
