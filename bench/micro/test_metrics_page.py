"""The page at /metrics with 1,000 backends, without and with 1,000 routes that have all been used, of eight workers; and how late the
controller's loop is meanwhile: a task that wants to run every 5 ms notes by how much it was late, in `extra_info`. prometheus-client reads
every page that was measured.
"""

import asyncio
import mmap
import os
import time
from collections.abc import Iterator

import pytest
from prometheus_client import parser as text_parser
from prometheus_client.openmetrics import parser as openmetrics_parser
from pytest_benchmark.fixture import BenchmarkFixture

from fastlb import _core
from fastlb.control_plane.metrics.exposition import Node, render

probe = pytest.importorskip("tests.support._probe", reason="built by ./dev build")
images = pytest.importorskip("tests.support.images")

N_BACKENDS, N_ROUTES, N_WORKERS = 1000, 1000, 8
FIRST_METER = 4


@pytest.fixture
def memory() -> Iterator[_core.SharedMemory]:
    made = _core.SharedMemory.create()
    writer = images.Writer()
    pool = writer.pool()
    for number in range(N_BACKENDS):
        writer.add_backend(
            pool, identity=f"main|10.0.{number // 250}.{number % 250}:80", display="x", address=None, weight=1, max_in_flight=0
        )
    image = _core.seal(writer.image())
    made.add_rows(image)
    os.close(image)
    for number in range(FIRST_METER, FIRST_METER + N_ROUTES):
        made.set_meter(number, b"rroute")
    offsets = probe.SHARED_OFFSETS
    for slot in range(N_WORKERS):
        made.open_worker(slot, os.getpid())
        worker = probe.SharedWorker(made.fileno(), slot)
        for number in range(1, N_BACKENDS + 1):
            worker.claim_and_release(number, 1)
    with mmap.mmap(made.fileno(), 0) as raw:
        for slot in range(N_WORKERS):
            for number in range(FIRST_METER, FIRST_METER + N_ROUTES):
                at = offsets["meters"] + slot * offsets["worker_meters_bytes"] + number * 128
                raw[at : at + 16] = (7).to_bytes(8, "little") * 2
    yield made
    made.close()


NODE = Node(1, {number: ("r", f"shop.example.com/some/path/{number}/") for number in range(FIRST_METER, FIRST_METER + N_ROUTES)})


@pytest.mark.parametrize("openmetrics", [False, True])
@pytest.mark.parametrize("node", [Node(1, {}), NODE], ids=["no routes", "routes"])
def test_page(benchmark: BenchmarkFixture, memory: _core.SharedMemory, node: Node, openmetrics: bool) -> None:
    benchmark.group = "the page at /metrics"
    page = benchmark(render, memory, node, openmetrics)
    read = openmetrics_parser if openmetrics else text_parser
    n_read = sum(len(family.samples) for family in read.text_string_to_metric_families(page.decode()))
    assert n_read == sum(not line.startswith(b"#") for line in page.splitlines())
    benchmark.extra_info["bytes"] = len(page)
    benchmark.extra_info["lines"] = page.count(b"\n")


def test_lateness_of_the_loop(benchmark: BenchmarkFixture, memory: _core.SharedMemory) -> None:
    benchmark.group = "the page at /metrics"
    late = [0.0]

    async def scrape() -> None:
        page = asyncio.create_task(asyncio.to_thread(render, memory, NODE, False))
        while not page.done():
            due = time.monotonic() + 0.005
            await asyncio.sleep(0.005)
            late.append(time.monotonic() - due)
        await page

    benchmark(lambda: asyncio.run(scrape()))
    benchmark.extra_info["late_ms"] = round(max(late) * 1000, 1)
    print(f"\nat most {max(late) * 1000:.1f} ms late")
