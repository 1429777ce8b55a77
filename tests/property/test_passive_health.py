"""Passive health of several workers: however backends fail and come back, no more are ejected than may be, and none for ever."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fastlb import _core
from tests.support.node import Client, Node
from tests.unit.data_plane.test_passive_health import wait_until_ms

EJECTED = _core.ROW_STATES["ejected"]
DOWN = _core.ROW_STATES["down"]
EJECTION_MS = 40
MAX_MS = 80


class Ejecting(RuleBasedStateMachine):
    """Three workers and up to five backends, each of which answers well or badly as it is told."""

    @initialize(n_backends=st.integers(1, 5), max_ejected=st.sampled_from((0.0, 0.2, 0.4, 0.5, 1.0)), failures=st.integers(1, 3))
    def begin(self, n_backends: int, max_ejected: float, failures: int) -> None:
        self.node = Node(3)
        self.n_backends = n_backends
        self.statuses = [200] * n_backends
        self.n_sent = 0
        self.set_pool(max_ejected, failures)

    @rule(max_ejected=st.sampled_from((0.2, 0.4, 1.0)), failures=st.integers(1, 3))
    def reload(self, max_ejected: float, failures: int) -> None:
        if max_ejected >= self.max_ejected:  # else more may be out than the new one allows, until they come back
            self.set_pool(max_ejected, failures)

    def set_pool(self, max_ejected: float, failures: int) -> None:
        self.max_ejected = max_ejected
        self.most = max(int(self.n_backends * max_ejected + 1e-6), 1)
        health = {"failures_in_row": failures, "max_ejected": max_ejected, "ejection_ms": EJECTION_MS, "max_ejection_ms": MAX_MS}
        pool = {"algorithm": "round_robin", "attempts": 1, "queue_max": 0}
        self.node.apply(*[0] * self.n_backends, **pool, health={**health, "error_ratio": 0.5, "min_requests": 6})

    def rows(self) -> list[dict[str, int | str]]:
        return self.node.shared.backends()

    @rule(number=st.integers(0, 4), status=st.sampled_from((200, 500)))
    def change(self, number: int, status: int) -> None:
        self.statuses[number % self.n_backends] = status

    @rule(number=st.integers(0, 4), state=st.sampled_from((0, DOWN)))
    def check_health(self, number: int, state: int) -> None:
        self.node.shared.set_state(str(self.rows()[number % self.n_backends]["identity"]), state)

    @rule(workers=st.lists(st.integers(0, 2), min_size=1, max_size=12))
    def send(self, workers: list[int]) -> None:
        """Requests that are under way together."""
        clients: list[Client] = []
        for worker in workers:
            self.n_sent += 1
            clients.append(self.node.send(f"/{self.n_sent}", worker))

        def look() -> bool:
            for status, backend in zip(self.statuses, self.node.backends, strict=False):
                for target in list(backend.open):
                    backend.open.pop(target).send(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode())
            self.check_share()
            return all(client.status for client in clients)

        self.node.until(look)

    @rule(milliseconds=st.integers(1, 60))
    def wait(self, milliseconds: int) -> None:
        self.node.let_time_pass(milliseconds)

    @rule(worker=st.integers(0, 2))
    def come_back(self, worker: int) -> None:
        """One worker alone brings everybody back, when their time is over."""
        latest = max((int(row["ejected_until_ms"]) for row in self.rows() if int(row["state"]) & EJECTED), default=0)
        if latest:
            wait_until_ms(latest + 20)  # ticks of 16 ms
            self.node.engines[worker].pump()
            assert not [row for row in self.rows() if int(row["state"]) & EJECTED]

    @invariant()
    def check_share(self) -> None:
        if hasattr(self, "node"):
            assert sum(int(row["state"]) & EJECTED != 0 for row in self.rows()) <= self.most
            now_ms = max(self.node.shared.heartbeat_ms(slot) for slot in range(3))
            assert all(int(row["ejected_until_ms"]) <= now_ms + MAX_MS + 1000 for row in self.rows())

    def teardown(self) -> None:
        if hasattr(self, "node"):
            counters = self.node.shared.counters()
            ejected = sum(int(row["state"]) & EJECTED != 0 for row in self.rows())
            assert counters["ejections"] - counters["returns"] == ejected
            assert counters["ejections"] == sum(int(row["ejections"]) for row in self.rows())
            self.node.__exit__(None, None, None)


TestEjecting = Ejecting.TestCase
TestEjecting.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
