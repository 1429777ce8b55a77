"""Queues: no wake-up is lost in any order of loads and stores (queue_model.py), and long random runs of real engines.

That real workers do the same under load: tests/integration/test_queue.py.
"""

from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.property import queue_model
from tests.property.queue_model import Memory, Steps, enter, leave, look, release
from tests.support.node import Client, Node


# ---------------------------------------------------------------------------------------------------------- every interleaving
def advance(steps: Steps) -> bool:
    return next(steps, False) is None


def interleavings(make: Callable[[], tuple[Memory, list[Steps]]]) -> Iterator[tuple[tuple[int, ...], Memory]]:
    """Every order in which the tracks of a case can run beside each other, with the memory that it leaves."""
    prefixes: list[tuple[int, ...]] = [()]
    while prefixes:
        prefix = prefixes.pop()
        memory, tracks = make()
        for steps in tracks:
            advance(steps)  # to before the first access
        running = set(range(len(tracks)))
        for track in prefix:
            if not advance(tracks[track]):
                running.discard(track)
        if running:
            prefixes += [(*prefix, track) for track in running]
        else:
            yield prefix, memory


def test_who_begins_to_wait_while_a_place_comes_free_gets_it_or_is_told() -> None:
    def make() -> tuple[Memory, list[Steps]]:
        memory = Memory(cap=1, in_flight=1)
        return memory, [enter(memory, 1), release(memory)]

    results = [(order, memory.is_forgotten(), bool(memory.asleep)) for order, memory in interleavings(make)]
    assert not [order for order, forgotten, _ in results if forgotten]
    assert {asleep for *_, asleep in results} == {True, False}


@pytest.mark.parametrize("left_out", ["bit_first", "look_again"])
def test_with_a_part_left_out_a_wake_up_is_lost_in_some_order(left_out: str) -> None:
    def make() -> tuple[Memory, list[Steps]]:
        memory = Memory(cap=1, in_flight=1)
        return memory, [enter(memory, 1, **{left_out: False}), release(memory)]

    assert any(memory.is_forgotten() for _, memory in interleavings(make))


@pytest.mark.parametrize("pass_on", [True, False])
def test_who_is_told_and_gone_passes_it_on(pass_on: bool) -> None:
    def make() -> tuple[Memory, list[Steps]]:
        memory = Memory(cap=1, in_flight=1, waiting={1, 2}, asleep={1, 2})
        return memory, [leave(memory, 1, pass_on=pass_on), release(memory)]

    assert any(memory.is_forgotten() for _, memory in interleavings(make)) is not pass_on


def test_two_places_for_two_workers_are_both_taken() -> None:
    def make() -> tuple[Memory, list[Steps]]:
        memory = Memory(cap=2, in_flight=2, waiting={1}, asleep={1})
        return memory, [release(memory), release(memory), enter(memory, 2)]

    for order, memory in interleavings(make):
        while memory.told & memory.asleep:
            queue_model.run(look(memory, min(memory.told & memory.asleep)))
        assert not memory.is_forgotten(), order
        assert not memory.asleep, order


# ---------------------------------------------------------------------------------------------------------- real engines
class Waiting(RuleBasedStateMachine):
    """One worker: exactly what a list sorted by priority and arrival says."""

    n_workers = 1

    @initialize(cap=st.integers(1, 3))
    def begin(self, cap: int) -> None:
        self.node = Node(self.n_workers)
        self.cap = cap
        self.n_sent = 0
        self.waiting: list[tuple[int, int]] = []  # priority, number
        self.arrived: list[str] = []
        self.open: list[str] = []
        self.clients: dict[str, Client] = {}
        self.commit(cap)

    def commit(self, cap: int) -> None:
        self.cap = cap
        self.node.apply(cap, priorities=True)
        self.serve()

    def serve(self) -> None:
        """What must come of it."""
        while self.waiting and len(self.open) < self.cap:
            first = min(self.waiting)
            self.waiting.remove(first)
            target = f"/{first[0]}/{first[1]}"
            self.arrived.append(target)
            self.open.append(target)
        self.catch_up()

    def catch_up(self) -> None:
        backend = self.node.backends[0]
        self.node.until(lambda: len(backend.arrived) == len(self.arrived) and self.node.waiting() == len(self.waiting))
        assert backend.arrived == self.arrived

    @rule(priority=st.integers(0, 7), worker=st.integers(0, 1))
    def send(self, priority: int, worker: int) -> None:
        self.n_sent += 1
        target = f"/{priority}/{self.n_sent}"
        self.clients[target] = self.node.send(target, worker % self.n_workers)
        self.waiting.append((priority, self.n_sent))
        self.serve()

    @precondition(lambda self: self.open)
    @rule(data=st.data(), kept=st.booleans())
    def answer(self, data: st.DataObject, kept: bool) -> None:
        target = data.draw(st.sampled_from(self.open))
        self.open.remove(target)
        self.node.backends[0].answer(target, "keep-alive" if kept else "close")
        client = self.clients.pop(target)
        self.node.until(lambda: client.status == 200)
        self.close(client)
        self.serve()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(entry)
        self.close(self.clients.pop(f"/{entry[0]}/{entry[1]}"))
        self.serve()

    def close(self, client: Client) -> None:
        client.socket.close()
        self.node.clients.remove(client)

    @rule(cap=st.integers(1, 4))
    def change_the_cap(self, cap: int) -> None:
        self.commit(cap)

    @invariant()
    def the_row_is_what_the_backend_has(self) -> None:
        if hasattr(self, "node"):
            assert self.node.shared.backends()[0]["in_flight"] == len(self.node.backends[0].open) == len(self.open)

    def teardown(self) -> None:
        if hasattr(self, "node"):
            with self.node:
                while self.open:
                    target = self.open.pop(0)
                    self.node.backends[0].answer(target)
                    self.serve()


class WaitingInTwoWorkers(Waiting):
    """Two workers: as many as can be are served, nobody is forgotten; who is first between them is a matter of FAIR_MS."""

    n_workers = 2

    def catch_up(self) -> None:
        backend = self.node.backends[0]
        self.node.until(lambda: len(backend.arrived) == len(self.arrived) and self.node.waiting() == len(self.waiting))
        # Which of them it was is seen here.
        self.arrived = list(backend.arrived)
        self.open = list(backend.open)
        waiting = [target for target in self.clients if target not in self.arrived]
        self.waiting = [(int(priority), int(number)) for _, priority, number in (target.split("/") for target in waiting)]
        if self.waiting:
            assert len(self.open) >= self.cap


TestWaiting = Waiting.TestCase
TestWaiting.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestWaitingInTwoWorkers = WaitingInTwoWorkers.TestCase
TestWaitingInTwoWorkers.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
