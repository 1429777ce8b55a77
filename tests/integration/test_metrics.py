"""/metrics of whole processes: exact counts after known traffic, over workers, reloads and deaths."""

import os
import signal
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from fastlb import __version__
from tests.support.configuration import configuration
from tests.support.message import request, response
from tests.support.waiting import wait_until

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


class Metrics:
    """One page, read back."""

    def __init__(self, lb: Any, openmetrics: bool = False) -> None:
        status, self.kind, content = lb.control.read("/metrics", OPENMETRICS if openmetrics else "")
        assert status == 200
        self.families = list((parse_openmetrics if openmetrics else parse_text)(content.decode()))
        self.samples = [sample for family in self.families for sample in family.samples]

    def sum(self, name: str, **labels: str) -> float:
        """Over all series that have these labels."""
        return sum(one.value for one in self.samples if one.name == name and labels.items() <= one.labels.items())

    def labels(self, name: str, label: str) -> set[str]:
        return {one.labels[label] for one in self.samples if one.name == name}


def two_routes(one: Any, two: Any, **more: Any) -> str:
    pools = {"one": {"backends": [one]}, "two": {"backends": [two]}}
    return configuration(pools=pools, routes=[{"path": "/a/", "pool": "one", "name": "a"}, {"path": "/b/", "pool": "two"}], **more)


def ask_many(lb: Any, counts: dict[str, int], bind: int = 0) -> None:
    """So many requests for each target, each on a connection of its own, so that all workers get some."""
    for target, count in counts.items():
        for _ in range(count):
            lb.get(target, "Connection: close", bind=bind)


def test_known_traffic_over_several_workers_is_counted_exactly(fastlb, instant):
    one, two = instant(response(b"one")), instant(response(b"other", status="404 Not Found"))
    lb = fastlb(two_routes(one, two), workers=3)
    ask_many(lb, {"/a/": 40, "/b/x": 20, "/nowhere": 10})
    lb.wait_for_exchange_end()
    metrics = Metrics(lb)
    for kind, name, expected in (
        ("listener", "web", {"2xx": 40, "4xx": 30}),
        ("route", "a", {"2xx": 40}),
        ("route", "*/b/", {"4xx": 20}),
        ("pool", "one", {"2xx": 40}),
        ("pool", "two", {"4xx": 20}),
    ):
        for status_class in ("none", "1xx", "2xx", "3xx", "4xx", "5xx"):
            labels = {kind: name, "status_class": status_class}
            assert metrics.sum(f"fastlb_{kind}_requests_total", **labels) == expected.get(status_class, 0), labels
    assert metrics.sum("fastlb_listener_failures_total", listener="web", reason="no_route") == 10
    assert metrics.sum("fastlb_listener_accepted_total") == metrics.sum("fastlb_worker_accepted_total") == 70
    assert metrics.sum("fastlb_requests_total", pool="one", backend=one.address, status_class="2xx") == 40
    for pool, count in (("one", 40), ("two", 20)):
        for name in ("duration", "first_byte"):
            assert metrics.sum(f"fastlb_pool_{name}_seconds_count", pool=pool) == count
        opened = metrics.sum("fastlb_pool_backend_connections_total", pool=pool, reused="false")
        assert opened + metrics.sum("fastlb_pool_backend_connections_total", pool=pool, reused="true") == count
        assert metrics.sum("fastlb_pool_connect_seconds_count", pool=pool) == opened
    assert len(metrics.labels("fastlb_worker_accepted_total", "worker")) == 3


def test_counts_survive_a_worker_that_is_killed(fastlb, instant, backend):
    lb = fastlb(two_routes(instant(response(b"one")), backend))
    ask_many(lb, {"/a/": 7})
    lb.wait_for_exchange_end()
    client = lb.connect()
    client.send(request("/b/"))
    backend.accept()
    assert Metrics(lb).sum("fastlb_route_requests_in_flight", route="*/b/") == 1
    os.kill(pid := lb.worker_pid(), signal.SIGKILL)
    wait_until(lambda: lb.worker_pid() not in (0, pid) and lb.counter("workers_died") == 1, "another worker runs")
    metrics = Metrics(lb)
    assert metrics.sum("fastlb_route_requests_in_flight") == metrics.sum("fastlb_pool_requests_in_flight") == 0
    assert metrics.sum("fastlb_listener_connections") == 0
    assert metrics.sum("fastlb_exchanges_lost_total") == 1
    wait_until(lambda: "ready" in {row["state"] for row in lb.processes() if row["role"] == "worker"}, "it is ready")
    ask_many(lb, {"/a/": 3})
    lb.wait_for_exchange_end()
    metrics = Metrics(lb)
    assert metrics.sum("fastlb_route_requests_total", route="a", status_class="2xx") == 10
    assert metrics.sum("fastlb_route_duration_seconds_count", route="a") == 10


def test_counts_survive_reloads_and_a_controller_that_is_killed(fastlb, instant):
    one, two = instant(response(b"one")), instant(response(b"two"))
    text = two_routes(one, two)
    lb = fastlb(text)
    ask_many(lb, {"/a/": 5, "/b/": 5})
    lb.apply_ok(configuration([one]))
    lb.apply_ok(two_routes(two, one))
    ask_many(lb, {"/a/": 1})
    lb.wait_for_exchange_end()
    assert Metrics(lb).sum("fastlb_snapshot_generation") == 3
    (pid,) = (row["pid"] for row in lb.processes() if row["role"] == "controller")
    os.kill(pid, signal.SIGKILL)

    def another_answers() -> bool:
        try:
            lb.control.ask("counters")
        except OSError:
            lb.control.close()
            return False
        return True

    wait_until(another_answers, "another controller answers")
    ask_many(lb, {"/a/": 1})
    lb.wait_for_exchange_end()
    metrics = Metrics(lb)
    assert metrics.sum("fastlb_route_requests_total", route="a") == 7
    assert metrics.sum("fastlb_pool_requests_total", pool="two") == 5
    assert metrics.sum("fastlb_snapshot_generation") == 3


@pytest.mark.parametrize("openmetrics", [False, True])
def test_page_has_what_node_and_controller_say_of_themselves(fastlb, instant, openmetrics):
    lb = fastlb([instant(response(b"one"))])
    lb.get()
    metrics = Metrics(lb, openmetrics)
    assert metrics.kind.startswith("application/openmetrics-text; version=1.0.0" if openmetrics else "text/plain; version=0.0.4")
    assert metrics.labels("fastlb_build_info", "version") == {__version__}
    assert metrics.sum("process_resident_memory_bytes") > 1_000_000
    names = [family.name for family in metrics.families]
    assert len(set(names)) == len(names)


def test_ready_until_it_drains(fastlb, backend):
    lb = fastlb([backend])
    assert lb.control.read("/healthz")[::2] == (200, b"ok\n")
    assert lb.control.read("/readyz")[::2] == (200, b"ready\n")
    client = lb.connect()
    client.send(request())
    connection = backend.accept()
    lb.signal(signal.SIGQUIT)
    wait_until(lambda: lb.control.read("/readyz")[0] == 503, "it is not ready any more")
    assert lb.control.read("/healthz")[0] == 200
    connection.read_request()
    connection.send(response(b"late"))
    assert client.read_response().body == b"late"
    lb.wait_exit()
