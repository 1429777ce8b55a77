"""fastlb/data_plane/select/user_picker.pxd: what a picker of the user's own is given, and what becomes of its answers."""

import os
from types import SimpleNamespace

import pytest

from fastlb import Balancer, _core
from tests.support import _probe
from tests.support.images import Writer
from tests.support.pickers import FIRST, LAST, NONE, OUTSIDE
from tests.support.world import RESPONSE, World


def test_it_picks() -> None:
    assert [Balancer(["a", "b", "c"], LAST).pick() for _ in range(3)] == ["c"] * 3


def test_it_sees_only_what_may_be_picked_as_eligible() -> None:
    balancer = Balancer({"a": 1, "b": 1, "c": {"max_in_flight": 1}, "d": 0}, LAST)
    assert balancer.pick() == "c"
    balancer.claim("c")
    assert balancer.pick() == "b"
    assert balancer.pick(exclude=["b"]) == "a"
    balancer.set_health("b", False)
    assert balancer.pick() == "a"
    balancer.set_health("a", False)
    assert balancer.pick() is None
    assert balancer.picks_rejected == 0


def test_what_it_is_given() -> None:
    now = 5.0
    balancer = Balancer(["a", "b", "c"], LAST, seed=1, clock=lambda: now)
    balancer.set_health("a", False)
    balancer.pick("key", exclude=["b"])
    first = _probe.seen_by_picker()
    assert {name: first[name] for name in ("version", "n_backends", "n_eligible", "attempt")} == {
        "version": 1,
        "n_backends": 3,
        "n_eligible": 1,
        "attempt": 1,
    }
    assert first["key"] != 0
    now = 7.5
    balancer.pick("key")
    second = _probe.seen_by_picker()
    assert second["key"] == first["key"]
    assert second["random"] != first["random"]
    assert second["now_ms"] - first["now_ms"] == 2500
    balancer.pick("other")
    assert _probe.seen_by_picker()["key"] != first["key"]
    balancer.pick()
    assert _probe.seen_by_picker()["key"] == 0


@pytest.mark.parametrize("picker", [NONE, OUTSIDE, FIRST])
def test_an_answer_that_cannot_be_is_counted_and_another_algorithm_picks(picker: object) -> None:
    balancer = Balancer({"a": 0, "b": 1, "c": 1}, picker)
    assert {balancer.pick() for _ in range(10)} == {"b", "c"}
    assert balancer.picks_rejected == 10
    assert balancer.pick(exclude=["b", "c"]) is None
    assert balancer.picks_rejected == 10


def test_each_priority_is_asked_for_by_itself() -> None:
    balancer = Balancer({"a": {}, "b": {}, "c": {"priority": 1}, "d": {"priority": 1}}, LAST)
    assert balancer.pick() == "b"
    assert balancer.pick(exclude=["a", "b"]) == "d"
    assert _probe.seen_by_picker()["n_backends"] == 2


# ---------------------------------------------------------------------------------------------------------------- engine
def make_image(world: World) -> int:
    """A pool with a picker of the user's own, and as its last backend the world's; the first one refuses."""
    writer = Writer()
    writer.listener()
    pool = writer.pool(algorithm="module:name")
    writer.backend(pool, 1)
    writer.backend(pool, world.backend.getsockname()[1])
    writer.add_route(host="", path_prefix="/", pool=pool)
    writer.set_python_path(["/a", "/b c"])
    return _core.seal(writer.image())


def exchange(world: World, picker: SimpleNamespace) -> bytes:
    listening = world.listen()
    fd = make_image(world)
    image = _core.Image(fd)
    os.close(fd)
    assert image.pickers() == [(0, "module:name")]
    assert image.python_path() == ["/a", "/b c"]
    world.engine.prepare(image, {0: picker.address})
    with pytest.raises(ValueError, match="used up"):
        image.pickers()
    world.engine.commit([(listening.fileno(), 0)])
    return world.exchange(world.connect(listening))[0]


def test_an_engine_picks_with_what_it_was_given() -> None:
    with World() as world:
        assert exchange(world, LAST) == RESPONSE
        assert (world.counters()["retries"], world.counters()["picks_rejected"]) == (0, 0)
        assert _probe.seen_by_picker()["key"] != 0  # of the client's address


def test_what_was_tried_is_not_eligible_any_more() -> None:
    with World() as world:
        assert exchange(world, FIRST) == RESPONSE
        assert (world.counters()["retries"], world.counters()["picks_rejected"]) == (1, 1)


def test_rejected_answers_are_counted_by_the_engine() -> None:
    with World() as world:
        assert exchange(world, OUTSIDE) == RESPONSE
        assert world.counters()["picks_rejected"] > 0


def test_a_pool_without_its_picker_is_not_prepared() -> None:
    with World() as world:
        fd = make_image(world)
        for pickers in (None, {}, {1: LAST.address}, {0: 0}):
            with pytest.raises(ValueError, match="pool 0 picks with a function of the user's own, and was given none"):
                world.engine.prepare(fd, pickers)
        os.close(fd)
        with pytest.raises(ValueError, match="no snapshot is prepared"):
            world.engine.commit([])
