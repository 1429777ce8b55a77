"""What metrics cost a request: all that they count and time for one over a reused connection, both readings of the clock included.

The loop runs inside the compiled probe, ROUNDS requests a call: the figure is for all of them. The naive version is prometheus-client.
"""

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram
from pytest_benchmark.fixture import BenchmarkFixture

probe = pytest.importorskip("tests.support._probe", reason="built by ./dev build")

ROUNDS = 1000
GROUP = f"metrics of {ROUNDS} requests"


def test_a_request(benchmark: BenchmarkFixture) -> None:
    benchmark.group = GROUP
    exchange = probe.MeteredExchange()
    assert benchmark(exchange.count, ROUNDS) >= ROUNDS


def test_naive(benchmark: BenchmarkFixture) -> None:
    """The same series as objects of prometheus-client, less the times of connects."""
    benchmark.group = GROUP
    registry = CollectorRegistry()
    kinds = ("listener", "route", "pool", "backend")
    requests = [Counter(f"{kind}_requests", "x", ["name", "status"], registry=registry).labels("a", "2xx") for kind in kinds]
    counters = [Counter(f"{kind}_bytes", "x", ["name", "way"], registry=registry) for kind in kinds]
    sizes = [counter.labels("a", way) for counter in counters for way in ("in", "out")]
    times = [Histogram(f"{kind}_seconds", "x", ["name"], registry=registry).labels("a") for kind in ("a", "b", "c", "d")]

    def count() -> None:
        for _ in range(ROUNDS):
            for one in requests:
                one.inc()
            for size in sizes:
                size.inc(100)
            for time in times:
                time.observe(0.001)

    benchmark(count)
