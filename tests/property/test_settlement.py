"""Settlement as a model (settlement_model.py): every interleaving of small cases, and long random runs of larger ones.

That the compiled code does the same is shown with real processes: tests/faults/test_shared_memory.py.
"""

import itertools
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.property.settlement_model import DYING, FREE, LIVE, Memory, Steps, claim, correct_row, read_row, release, run, settle

CAP = 2


# ---------------------------------------------------------------------------------------------------------- every interleaving
def advance(steps: Steps) -> bool:
    """One access to memory. False: nothing is left."""
    try:
        next(steps)
    except StopIteration:
        return False
    return True


def interleavings(lengths: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Every order in which as many tracks of these lengths can be run beside each other."""
    if not any(lengths):
        yield ()
        return
    for track, length in enumerate(lengths):
        if length:
            rest = (*lengths[:track], length - 1, *lengths[track + 1 :])
            for order in interleavings(rest):
                yield (track, *order)


def claim_and_release(memory: Memory, worker: int) -> Steps:
    yield from claim(memory, worker, 0)
    yield from release(memory, worker, 0)
    return True


def kill_at(memory: Memory, worker: int, point: int) -> None:
    """The worker has one claim open already and dies after `point` accesses of a claim and a release."""
    run(claim(memory, worker, 0))
    steps = claim_and_release(memory, worker)
    for _ in range(point + 1):
        advance(steps)
    memory.use[worker] = DYING


def length_of(make: Callable[[Memory], Steps], dead: int | None = None) -> int:
    memory = Memory(2, 1)
    if dead is not None:
        kill_at(memory, 1, dead)
    steps, n = make(memory), 0
    while advance(steps):
        n += 1
    return n


POINTS = length_of(lambda memory: claim_and_release(memory, 0))


@pytest.mark.parametrize("point", range(POINTS))
def test_correction_beside_a_living_worker_is_exact_in_every_order(point: int) -> None:
    # One try: an order in which it is refused leaves the row as it was; the others leave it right.
    corrected = 0
    lengths = (POINTS + 1, length_of(lambda memory: correct_row(memory, 0, tries=1), point) + 1)
    for order in interleavings(lengths):
        memory = Memory(2, 1)
        kill_at(memory, 1, point)
        before = memory.in_flight[0] - memory.added[0][0]
        results: list[object] = []

        def correct(memory: Memory = memory, results: list[object] = results) -> Steps:
            results.append((yield from correct_row(memory, 0, tries=1)))
            return None

        tracks = (claim_and_release(memory, 0), correct())
        for track in order:
            advance(tracks[track])
        for steps in tracks:
            run(steps)
        if results[0]:
            corrected += 1
            assert memory.in_flight[0] == memory.true_in_flight(0) == 0, order
        else:
            assert memory.in_flight[0] == before, order
    assert corrected > 100


@pytest.mark.parametrize("left_out", ["look_at_operations", "look_twice"])
def test_reading_with_a_part_left_out_is_wrong_in_some_order(left_out: str) -> None:
    # So each part is needed, and the check above can fail.
    def read(memory: Memory) -> Steps:
        return read_row(memory, 0, tries=1, **{left_out: False})

    wrong = 0
    for order in interleavings((POINTS + 1, length_of(read) + 1)):
        memory = Memory(1, 1)
        results: list[object] = []

        def keep(memory: Memory = memory, results: list[object] = results) -> Steps:
            results.append((yield from read(memory)))
            return None

        tracks = (claim_and_release(memory, 0), keep())
        for track in order:
            advance(tracks[track])
        run(tracks[1])
        if isinstance(results[0], tuple):
            in_flight, expected = results[0]
            wrong += in_flight != expected  # nobody died: they must agree
    assert wrong


@pytest.mark.parametrize("order", list(itertools.islice(interleavings((6, 6)), 0, None, 5)))
def test_two_claims_for_one_place_never_exceed_the_cap(order: tuple[int, ...]) -> None:
    memory = Memory(2, 1)
    tracks = (claim(memory, 0, 0, cap=1), claim(memory, 1, 0, cap=1))
    for track in order:
        advance(tracks[track])
        assert memory.in_flight[0] <= 1
    for steps in tracks:
        run(steps)
    assert memory.in_flight[0] == 1
    assert memory.claims[0][0] + memory.claims[1][0] == 1, "a refused claim is no request"


# ---------------------------------------------------------------------------------------------------------- long runs
class Node(RuleBasedStateMachine):
    """Four workers on two rows, a cap of two each, and a supervisor, each moved by single accesses to memory."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory(4, 2)
        self.running: list[Steps | None] = [None] * 4  # what each worker is in the middle of
        self.open: list[list[int]] = [[0, 0] for _ in range(4)]  # as the workers themselves know it
        self.dead: set[int] = set()
        self.settling: tuple[int, Steps] | None = None

    workers = st.integers(0, 3)
    rows = st.integers(0, 1)

    @rule(worker=workers, row=rows, claiming=st.booleans(), n=st.integers(1, 6))
    def work(self, worker: int, row: int, claiming: bool, n: int) -> None:
        if worker in self.dead:
            return
        for _ in range(n):
            if self.running[worker] is None:
                if not claiming and not self.open[worker][row]:
                    return
                self.running[worker] = self.operate(worker, row, claiming)
            steps = self.running[worker]
            assert steps is not None
            if not advance(steps):
                self.running[worker] = None
            self.check_caps()

    def operate(self, worker: int, row: int, claiming: bool) -> Steps:
        if claiming:
            if (yield from claim(self.memory, worker, row, CAP)):
                self.open[worker][row] += 1
        else:
            self.open[worker][row] -= 1
            yield from release(self.memory, worker, row)
        return None

    @rule(worker=workers)
    def die(self, worker: int) -> None:
        self.running[worker] = None
        self.dead.add(worker)

    @precondition(lambda self: self.dead)
    @rule(data=st.data(), n=st.integers(1, 40))
    def move_supervisor(self, data: st.DataObject, n: int) -> None:
        for _ in range(n):
            if self.settling is None:
                if not self.dead:
                    return
                worker = data.draw(st.sampled_from(sorted(self.dead)))
                self.settling = (worker, settle(self.memory, worker))
            if not advance(self.settling[1]):
                self.finish()

    def finish(self) -> None:
        assert self.settling is not None
        worker = self.settling[0]
        self.settling = None
        if self.memory.use[worker] == FREE and worker in self.dead:  # its replacement comes
            self.dead.remove(worker)
            self.open[worker] = [0, 0]
            self.memory.use[worker] = LIVE

    @rule()
    def restart_supervisor(self) -> None:
        self.settling = None

    @invariant()
    def check_caps(self) -> None:
        for row in range(2):
            assert self.memory.in_flight[row] <= CAP
            assert self.memory.in_flight[row] >= 0

    @invariant()
    def counts_are_exact_when_nobody_is_dead(self) -> None:
        if not self.dead:
            for row in range(2):
                assert self.memory.in_flight[row] == self.memory.true_in_flight(row)

    def teardown(self) -> None:
        # The living finish what they are at; then everything can be settled, and at rest the counts are what is open.
        for steps in self.running:
            if steps is not None:
                run(steps)
        for worker in self.dead:
            if self.memory.use[worker] == LIVE:
                self.memory.use[worker] = DYING
        for worker in sorted(self.dead):
            assert run(settle(self.memory, worker))
        for row in range(2):
            assert self.memory.in_flight[row] == sum(self.open[worker][row] for worker in range(4) if worker not in self.dead)
            for worker in range(4):
                claims, releases = self.memory.claims[worker][row], self.memory.releases[worker][row]
                assert claims - releases == (0 if worker in self.dead else self.open[worker][row])


TestNode = Node.TestCase
TestNode.settings = settings(max_examples=300, stateful_step_count=60, deadline=None)
