"""Claim, release, death and settlement, one store or load at a time: what shared_table.pxd and settlement.pyx do, in the same order.

Each operation is a generator that yields before every access to shared memory, so that whoever drives it decides what happens in between.
The orders of the C code (release stores, acquire loads, each worker's stores visible in their order) make every run of it one of these.
Change both or neither.
"""

from collections.abc import Generator
from dataclasses import dataclass, field

FREE, LIVE, DYING = "free", "live", "dying"
NOT_SETTLED = "not settled"

Steps = Generator[None, None, object]


@dataclass
class Memory:
    """`n_workers` slots, all live, on `n_rows` rows."""

    n_workers: int
    n_rows: int
    in_flight: list[int] = field(init=False)
    claims: list[list[int]] = field(init=False)  # of each worker, each row
    releases: list[list[int]] = field(init=False)
    operation: list[int | None] = field(init=False)
    use: list[str] = field(init=False)
    waiting: list[set[int]] = field(init=False)  # of each row that is a queue: the workers with somebody in it
    # Not part of the memory: of each worker, each row, what it has added to in_flight and not taken back. The truth.
    added: list[list[int]] = field(init=False)

    def __post_init__(self) -> None:
        self.in_flight = [0] * self.n_rows
        self.claims = [[0] * self.n_rows for _ in range(self.n_workers)]
        self.releases = [[0] * self.n_rows for _ in range(self.n_workers)]
        self.added = [[0] * self.n_rows for _ in range(self.n_workers)]
        self.operation = [None] * self.n_workers
        self.use = [LIVE] * self.n_workers
        self.waiting = [set() for _ in range(self.n_rows)]

    def true_in_flight(self, row: int) -> int:
        """What live workers have in flight on a row."""
        return sum(added[row] for added, use in zip(self.added, self.use, strict=True) if use == LIVE)


def claim(memory: Memory, worker: int, row: int, cap: int = 0) -> Steps:
    """claim_row. Returns whether it claimed."""
    yield
    now = memory.in_flight[row]
    if cap and now >= cap:
        return False
    yield
    memory.operation[worker] = row
    while True:
        yield
        if not cap or memory.in_flight[row] == now:  # fetch_add, or a compare_exchange that succeeds
            memory.in_flight[row] += 1
            memory.added[worker][row] += 1
            break
        now = memory.in_flight[row]
        if now >= cap:
            yield
            memory.operation[worker] = None
            return False
    yield
    memory.claims[worker][row] += 1
    yield
    memory.operation[worker] = None
    return True


def release(memory: Memory, worker: int, row: int) -> Steps:
    """release_row."""
    yield
    memory.operation[worker] = row
    yield
    memory.in_flight[row] -= 1
    memory.added[worker][row] -= 1
    yield
    memory.releases[worker][row] += 1
    yield
    memory.operation[worker] = None
    return True


def add_columns(memory: Memory, row: int) -> Generator[None, None, tuple[int, int]]:
    claims = releases = 0
    for worker in range(memory.n_workers):
        if memory.use[worker] == LIVE:
            yield
            claims += memory.claims[worker][row]
            yield
            releases += memory.releases[worker][row]
    return claims, releases


def read_row(memory: Memory, row: int, *, tries: int, look_at_operations: bool = True, look_twice: bool = True) -> Steps:
    """read_row. Returns in_flight and what it must be, or None. The last two arguments leave a part out, to show that it is needed."""
    for _ in range(tries):
        before = yield from add_columns(memory, row)
        yield
        in_flight = memory.in_flight[row]
        changing = False
        for worker in range(memory.n_workers):
            if look_at_operations and memory.use[worker] == LIVE:
                yield
                if memory.operation[worker] == row:
                    changing = True
                    break
        if changing:
            continue
        if look_twice and (yield from add_columns(memory, row)) != before:
            continue
        return in_flight, before[0] - before[1]
    return None


def correct_row(memory: Memory, row: int, *, tries: int) -> Generator[None, None, bool]:
    reading = yield from read_row(memory, row, tries=tries)
    if reading is None:
        return False
    assert isinstance(reading, tuple)
    in_flight, expected = reading
    if in_flight != expected:
        yield
        memory.in_flight[row] += expected - in_flight
    return True


def settle(memory: Memory, worker: int, *, tries: int = 3) -> Steps:
    """settle_worker. Returns whether the worker is settled."""
    if memory.use[worker] == FREE:
        return True
    yield
    memory.use[worker] = DYING
    settled = True
    for row in range(memory.n_rows):
        if memory.claims[worker][row] != memory.releases[worker][row] or memory.operation[worker] == row:
            if not (yield from correct_row(memory, row, tries=tries)):
                settled = False
                continue
            yield
            memory.releases[worker][row] = memory.claims[worker][row]
        yield
        memory.waiting[row].discard(worker)
    if settled:
        yield
        memory.operation[worker] = None
        memory.added[worker] = [0] * memory.n_rows
        yield
        memory.use[worker] = FREE
    return settled


def run(steps: Steps) -> object:
    """Undisturbed, to its end."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
