"""fastlb/data_plane/meters.pxd: what an engine counts of each listener, route, pool and backend, on a shared memory of its own."""

import itertools
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from fastlb import _core
from fastlb.control_plane.metrics.readings import BackendReading, HistogramReading, MeterReading, read_backends, read_meter
from tests.support import _probe
from tests.support.images import Writer, find_sections, load, patch
from tests.support.world import REQUEST, RESPONSE, World

LISTENER, ROUTE, POOL = 11, 12, 13
BOUNDS = _core.BUCKET_BOUNDS_US
N_BUCKETS = len(BOUNDS) + 1


class Metered(World):
    """An engine whose listener, route and pool have meters."""

    def __init__(self) -> None:
        self.memory = _core.SharedMemory.create()
        super().__init__(self.memory)
        self.web = self.listen()
        for number in (LISTENER, ROUTE, POOL):
            self.memory.set_meter(number, b"x")

    def begin(self, **changes: Any) -> None:
        self.generation += 1
        writer = Writer(self.generation)
        writer.listener(meter=LISTENER)
        number = writer.pool(meter=POOL, **changes)
        writer.backend(number, self.backend.getsockname()[1])
        writer.add_route(host="", path_prefix="/", pool=number, meter=ROUTE)
        closed = writer.add_route(host="", path_prefix="/closed", pool=None, meter=ROUTE + 10)
        writer.set_close(closed)
        own = writer.add_route(host="", path_prefix="/own", pool=None, meter=ROUTE + 11)
        writer.set_response(own, 200, "OK", content_type="text/plain", body=[b"ok"])
        self.apply_image(writer.image(), self.web)

    def client(self) -> socket.socket:
        return self.connect(self.web)

    def meter(self, number: int) -> MeterReading:
        return read_meter(self.memory, number)

    def backend_reading(self) -> BackendReading:
        (reading,) = read_backends(self.memory)
        return reading

    def rest(self) -> None:
        self.pump_until(lambda: self.counters()["exchanges_opened"] == self.counters()["exchanges_closed"])


@pytest.fixture
def world() -> Iterator[Metered]:
    with Metered() as world:
        world.begin()
        yield world
    world.memory.close()


def counts(histogram: HistogramReading) -> int:
    return sum(histogram[1])


# ---------------------------------------------------------------------------------------------------------- histograms
def test_each_bound_is_the_end_of_its_bucket_and_the_start_of_the_next() -> None:
    assert len(BOUNDS) == 85
    assert (BOUNDS[0], BOUNDS[1], BOUNDS[-1]) == (64, 80, 1 << 27)
    for bucket, bound in enumerate(BOUNDS):
        assert _probe.bucket_of(bound - 1) == bucket
        assert _probe.bucket_of(bound) == bucket + 1
    assert _probe.bucket_of(0) == 0
    assert _probe.bucket_of((1 << 64) - 1) == N_BUCKETS - 1


def test_bounds_grow_by_a_quarter_at_most() -> None:
    assert all(second <= first * 1.25 for first, second in itertools.pairwise(BOUNDS))


# ---------------------------------------------------------------------------------------------------------- exchanges
def test_exchange_is_counted_once_at_its_listener_route_and_pool(world: Metered) -> None:
    client = world.client()
    answer, peer = world.exchange(client)
    world.rest()
    world.exchange(client, peer)
    world.rest()
    for number in (LISTENER, ROUTE, POOL):
        assert world.meter(number).requests == {"none": 0, "1xx": 0, "2xx": 2, "3xx": 0, "4xx": 0, "5xx": 0}
        assert world.meter(number).failures == {}
        assert world.meter(number).bytes_in == 2 * len(REQUEST)
        assert world.meter(number).bytes_out == 2 * len(answer)
    for number in (ROUTE, POOL):
        assert (world.meter(number).opened, world.meter(number).closed) == (2, 2)
    assert (world.meter(LISTENER).opened, world.meter(LISTENER).closed) == (1, 0), "its connections"
    assert (world.meter(POOL).connects, world.meter(POOL).reused) == (1, 1)
    row = world.backend_reading()
    assert (row.attempts, row.statuses[2], sum(row.statuses)) == (2, 2, 2)
    assert (row.connects, row.reused, row.bytes_in) == (1, 1, 2 * len(RESPONSE))
    assert row.bytes_out == world.counters()["backend_bytes_out"]


def test_times_are_noted_for_route_and_pool(world: Metered) -> None:
    client = world.client()
    _, peer = world.exchange(client)
    world.rest()
    world.exchange(client, peer)
    world.rest()
    for number in (ROUTE, POOL):
        times = world.meter(number).times
        assert times is not None
        total, first_byte, connect = times
        assert [counts(one) for one in (total, first_byte, connect)] == [2, 2, 1]
        assert 0 < connect[0] <= first_byte[0] <= total[0] < 20_000_000


def test_what_is_open_is_in_flight(world: Metered) -> None:
    client = world.client()
    client.send(REQUEST)
    world.accept()
    for number in (ROUTE, POOL):
        assert world.meter(number).opened - world.meter(number).closed == 1
    assert world.memory.is_metering(ROUTE)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # resets
    client.close()
    world.rest()
    assert not world.memory.is_metering(ROUTE)
    assert world.meter(ROUTE).requests["none"] == 1
    assert world.meter(ROUTE).times is not None
    assert counts(world.meter(ROUTE).times[0]) == 0, "without an answer there is no time of one"  # type: ignore[index]


def test_request_without_a_route_counts_for_its_listener_alone(world: Metered) -> None:
    client = world.client()
    client.send(b"GET nowhere HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b" 400 " in world.read(client)
    world.rest()
    assert world.meter(LISTENER).requests["4xx"] == 1
    assert world.meter(LISTENER).failures == {"client:bad_target": 1}
    assert world.meter(ROUTE).opened == world.meter(POOL).opened == 0


def test_answer_that_is_not_given_is_none(world: Metered) -> None:
    client = world.client()
    client.send(b"GET /closed HTTP/1.1\r\nHost: a\r\n\r\n")
    assert world.read(client) == b""
    assert world.meter(ROUTE + 10).requests == {"none": 1, "1xx": 0, "2xx": 0, "3xx": 0, "4xx": 0, "5xx": 0}
    assert world.meter(ROUTE + 10).failures == {"closed_by_route": 1}
    assert world.meter(POOL).opened == 0


def test_body_counts_without_its_framing_and_the_listener_counts_all(world: Metered) -> None:
    client = world.client()
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    client.send(head + b"5\r\nhello\r\n")
    peer = world.accept()
    world.read(peer)
    client.send(b"3\r\nyou\r\n0\r\n\r\n")
    world.pump_until(lambda: world.meter(ROUTE).bytes_in == len(head) + 8)
    peer.send(RESPONSE)
    world.read(client)
    world.rest()
    assert world.meter(POOL).bytes_in == len(head) + 8
    assert world.meter(LISTENER).bytes_in == len(head) + len(b"5\r\nhello\r\n3\r\nyou\r\n0\r\n\r\n") == world.counters()["client_bytes_in"]


def test_interim_answers_are_bytes_and_no_requests(world: Metered) -> None:
    client = world.client()
    client.send(REQUEST)
    peer = world.accept()
    world.read(peer)
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    peer.send(hints)
    received = world.read(client)
    peer.send(RESPONSE)
    received += world.read(client)
    world.rest()
    assert world.meter(ROUTE).requests == {"none": 0, "1xx": 0, "2xx": 1, "3xx": 0, "4xx": 0, "5xx": 0}
    assert world.meter(ROUTE).bytes_out == len(received) == world.counters()["client_bytes_out"]


def test_tunnel_counts_as_it_goes_and_has_no_time(world: Metered) -> None:
    client = world.client()
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
    peer = world.accept()
    world.read(peer)
    peer.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
    world.read(client)
    before = world.meter(ROUTE)
    client.send(b"ping")
    assert world.read(peer) == b"ping"
    peer.send(b"pong!")
    assert world.read(client) == b"pong!"
    assert world.meter(ROUTE).bytes_in == before.bytes_in + 4
    assert world.meter(POOL).bytes_out == before.bytes_out + 5
    peer.close()
    client.close()
    world.rest()
    assert world.meter(ROUTE).requests["1xx"] == 1
    assert counts(world.meter(ROUTE).times[0]) == 0  # type: ignore[index]


def test_failed_attempts_count_at_the_backend_by_reason(world: Metered) -> None:
    client = world.client()
    client.send(REQUEST)
    world.accept().close()
    assert b" 502 " in world.read(client)
    world.rest()
    row = world.backend_reading()
    assert row.failures in ({"backend:closed": 1}, {"backend:reset": 1})
    assert row.failed == 1
    assert world.meter(POOL).failures == row.failures
    assert world.meter(ROUTE).requests["5xx"] == 1


def test_refused_connection_is_no_answer_of_the_backend(world: Metered) -> None:
    world.backend.close()
    client = world.client()
    client.send(REQUEST)
    assert b" 502 " in world.read(client)
    world.rest()
    row = world.backend_reading()
    assert row.failures == {"backend:connect_refused": 1}
    assert (sum(row.statuses), row.retries) == (0, 0)
    assert counts(world.meter(POOL).times[2]) == 0, "no connection was made"  # type: ignore[index]


# ---------------------------------------------------------------------------------------------------------- lasting
def test_counts_go_on_over_a_new_snapshot(world: Metered) -> None:
    client = world.client()
    _, peer = world.exchange(client)
    world.rest()
    world.begin()
    world.exchange(client, peer)
    world.rest()
    assert world.meter(ROUTE).requests["2xx"] == 2


def test_connections_move_with_the_name_of_their_listener(world: Metered) -> None:
    world.client()
    world.pump_until(lambda: world.meter(LISTENER).opened)
    writer = Writer(world.generation + 1)
    writer.listener(meter=LISTENER + 20)
    writer.backend(writer.pool(), world.backend.getsockname()[1])
    world.apply_image(writer.image(), world.web)
    assert not world.memory.is_metering(LISTENER)
    assert world.memory.is_metering(LISTENER + 20)


def test_counts_of_a_dead_worker_stay_and_nothing_of_it_is_in_flight() -> None:
    world = Metered()
    world.begin()
    client = world.client()
    world.exchange(client)
    world.rest()
    client.send(REQUEST)
    world.pump_until(lambda: world.meter(ROUTE).opened == 2)
    other = _core.SharedMemory(world.memory.fileno())
    assert other.settle_worker(0)["settled"], "as if its process had been killed"
    assert (world.meter(ROUTE).opened, world.meter(ROUTE).closed) == (2, 2)
    assert world.meter(ROUTE).requests["2xx"] == 1
    assert not other.is_metering(LISTENER)
    other.close()
    world.stack.close()


def test_own_answers_of_a_route_are_requests(world: Metered) -> None:
    client = world.client()
    client.send(REQUEST.replace(b"/", b"/own", 1))
    assert b" 200 " in world.read(client)
    assert world.meter(ROUTE + 11).requests["2xx"] == world.meter(LISTENER).requests["2xx"] == 1
    times = world.meter(ROUTE + 11).times
    assert times is not None
    assert [counts(one) for one in times] == [1, 0, 0]


def test_pumps_are_timed(world: Metered) -> None:
    world.exchange(world.client())
    pumps, lags = world.memory.read_worker_times(0)
    assert counts(pumps) == world.counters()["pumps"]
    assert counts(lags) <= counts(pumps)


def test_loop_that_comes_back_late_is_noticed(world: Metered) -> None:
    client = world.client()
    client.send(REQUEST.replace(b"/", b"/own", 1) * 5)
    world.pump_until(lambda: counts(world.memory.read_worker_times(0)[1]) > 0, budget=1)


# ---------------------------------------------------------------------------------------------------------- images
@pytest.mark.parametrize("section", ["listeners", "routes", "pools"])
def test_image_with_a_meter_beyond_the_last_is_refused(section: str) -> None:
    writer = Writer()
    writer.listener(meter=7)
    writer.backend(number := writer.pool(meter=7))
    writer.add_route(pool=number, meter=7)
    image = writer.image()
    at = find_sections(image)[section][0] + _probe.LAYOUT[section]["meter"]
    assert image[at] == 7
    load(patch(image, at, _core.METER_LIMITS["meters"] - 1))
    with pytest.raises(ValueError, match="image"):
        load(patch(image, at, _core.METER_LIMITS["meters"]))


def test_writer_refuses_a_meter_beyond_the_last() -> None:
    with pytest.raises(ValueError, match="meters are 0 to"):
        Writer().listener(meter=_core.METER_LIMITS["meters"])


def test_meters_take_memory_where_they_are_used_only() -> None:
    memory = _core.SharedMemory.create()
    before = os.fstat(memory.fileno()).st_blocks
    for number in range(1, 1000):
        memory.set_meter(number, b"rx")
        memory.is_metering(number)
    memory.open_worker(0, os.getpid())
    for number in range(1, 1000):
        memory.is_metering(number)
        memory.read_meter(number)
    assert (os.fstat(memory.fileno()).st_blocks - before) * 512 < 600_000, "names, and 128 bytes each"
    memory.close()
