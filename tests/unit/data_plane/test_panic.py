"""fastlb/data_plane/panic.pyx: who is picked when hardly a backend is up."""

from collections.abc import Iterator
from typing import Any

import pytest

from fastlb import _core
from tests.support.node import Client, Node

STATES = _core.ROW_STATES
PICKERS = [name for name in _core.ALGORITHMS if name != "user"]


@pytest.fixture
def node() -> Iterator[Node]:
    with Node(2) as made:
        yield made


def apply(node: Node, n_backends: int, below: float | None = 0.0, **pool: Any) -> None:
    node.apply(*[0] * n_backends, **{"queue_max": 0, "algorithm": "round_robin", "attempts": 1, "panic_below": below, **pool})


def set_states(node: Node, *names: str) -> None:
    """Of the backends in their order; "" = up."""
    rows = {row["display"]: str(row["identity"]) for row in node.shared.backends()}
    for backend, name in zip(node.backends, names, strict=False):
        node.shared.set_state(rows[f"127.0.0.1:{backend.port}"], STATES[name] if name else 0)


def ask(node: Node, target: str, worker: int = 0, **request: Any) -> tuple[Client, int]:
    """The client, answered, and which backend had it; -1 = none."""
    client = node.send(target, worker, **request)
    node.until(lambda: client.status or any(target in backend.open for backend in node.backends))
    for number, backend in enumerate(node.backends):
        if target in backend.open:
            backend.answer(target)
            node.until(lambda: client.status)
            return client, number
    return client, -1


def spread(node: Node, n: int = 30, worker: int = 0) -> set[int]:
    return {ask(node, f"/{worker}{number}", worker)[1] for number in range(n)}


def test_request_is_refused_when_all_are_down(node: Node) -> None:
    apply(node, 2, None)
    set_states(node, "down", "down")
    client, number = ask(node, "/a")
    assert (client.status, client.reason, number) == (503, "no_backend", -1)


@pytest.mark.parametrize("algorithm", PICKERS)
def test_panic_spreads_over_all_that_are_not_taken_out_and_ends(node: Node, algorithm: str) -> None:
    apply(node, 4, algorithm=algorithm)
    set_states(node, "down", "drain", "down", "maintenance")
    assert spread(node) <= {0, 2}
    assert -1 not in spread(node, 5, worker=1)
    if algorithm not in ("ip_hash", "hash", "consistent_hash", "maglev", "least_time", "peak_ewma"):  # one key; or the quicker one
        assert spread(node, worker=1) == {0, 2}
    assert node.shared.counters()["panics"] == 2, "once in each worker"
    assert node.shared.counters()["panic_picks"] >= 35
    set_states(node, "down", "drain", "", "maintenance")
    node.step()
    before = node.shared.counters()["panic_picks"]
    assert spread(node) == spread(node, worker=1) == {2}
    assert node.shared.counters()["panic_picks"] == before


def test_nobody_is_left_when_all_were_taken_out(node: Node) -> None:
    apply(node, 2)
    set_states(node, "drain", "maintenance")
    assert ask(node, "/a")[0].reason == "no_backend"


def test_panic_begins_below_its_share(node: Node) -> None:
    apply(node, 4, 0.5)
    set_states(node, "down", "down")
    assert spread(node) == {2, 3}, "two of four are half of them"
    set_states(node, "down", "down", "down")
    node.step()
    assert spread(node) == {0, 1, 2, 3}
    set_states(node, "down", "down", "drain")
    node.step()
    assert spread(node) == {0, 1, 3}, "one of the three that were not taken out"
    set_states(node, "down", "", "drain")
    node.step()
    assert spread(node) == {1, 3}


def test_all_priorities_count_together(node: Node) -> None:
    writer_groups = [1, 1]
    apply(node, 2, groups=writer_groups)
    set_states(node, "down")
    assert spread(node, 5) == {1}, "the other group has one that is up"
    set_states(node, "down", "down")
    node.step()
    assert spread(node, 5) == {0}, "as if all were up"


def test_sticky_client_gets_its_backend_in_panic(node: Node) -> None:
    apply(node, 3, sticky=_core.STICKY_FLAGS["reject"])
    set_states(node, "down", "down", "down")
    node.step()
    assert {ask(node, f"/{number}", fields=f"Cookie: ID={1:022}\r\n")[1] for number in range(6)} == {1}


def test_ejected_backends_are_picked_in_panic(node: Node) -> None:
    apply(node, 2, health={"failures_in_row": 1})
    node.backends[1].listening.close()
    client = node.send("/a")
    node.until(lambda: client.status or node.backends[0].open)
    for target in list(node.backends[0].open):
        node.backends[0].answer(target)
    client = node.send("/b")
    node.until(lambda: [row["state"] for row in node.shared.backends()].count(STATES["ejected"]) == 1)
    node.backends[1].begin()
    for target in list(node.backends[0].open):
        node.backends[0].answer(target)
    set_states(node, "down")
    node.step()
    assert spread(node) == {0, 1}


def test_retries_in_panic_go_to_the_others(node: Node) -> None:
    apply(node, 3, attempts=3)
    set_states(node, "down", "down", "down")
    node.backends[0].listening.close()
    assert spread(node, 12) == {1, 2}


def test_panic_is_noticed_in_the_batch_in_which_the_last_one_goes_down(node: Node) -> None:
    """The pick that finds nobody looks itself, not only the end of the batch."""
    apply(node, 1)
    clients = [node.connect() for _ in range(2)]
    node.step()
    for number, client in enumerate(clients):
        client.send(f"/{number}")
    set_states(node, "down")
    node.until(lambda: len(node.backends[0].open) == 2)
    for number, client in enumerate(clients):
        node.backends[0].answer(f"/{number}")
        node.until(lambda client=client: client.status)


def test_queue_does_not_hold_back_who_can_be_picked_in_panic(node: Node) -> None:
    node.apply(1, panic_below=0.0)
    set_states(node, "down")
    first = node.fill()
    second = node.send("/second", 1)
    node.until(lambda: node.waiting() == 1)
    node.backends[0].answer("/first")
    node.until(lambda: "/second" in node.backends[0].open)
    node.backends[0].answer("/second")
    node.until(lambda: first.status and second.status)
