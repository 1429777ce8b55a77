"""fastlb/data_plane/engine.pyx through fastlb._core.Engine, in this process."""

import os
import select
import socket
from collections.abc import Iterator

import pytest

from fastlb import _core
from tests.support.images import Writer
from tests.support.world import REQUEST, RESPONSE, World


@pytest.fixture
def world() -> Iterator[World]:
    with World() as made:
        yield made


# ---------------------------------------------------------------------------------------------------------- snapshots
def test_engine_without_a_snapshot_does_nothing(world: World) -> None:
    assert world.engine.generation() == 0
    assert world.engine.pump() == 0
    assert world.engine.connections() == 0


def test_apply_serves_and_counts(world: World) -> None:
    web = world.listen()
    assert world.apply(web) == []
    assert world.engine.generation() == 1
    client = world.connect(web)
    assert world.exchange(client)[0] == RESPONSE
    counters = world.counters()
    assert counters["responses_2xx"] == counters["exchanges_closed"] == counters["attempts_closed"] == 1
    assert counters["clients"] == world.engine.connections() == 1
    (row,) = world.engine.backends()
    assert (row["requests"], row["in_flight"], row["idle"], row["failures"]) == (1, 0, 1, 0)


def test_damaged_image_leaves_the_old_snapshot(world: World) -> None:
    web = world.listen()
    world.apply(web)
    for image in (b"", b"x", bytes(4096), Writer(2).image()[:-8]):
        with pytest.raises(ValueError, match="damaged"):
            world.apply_image(image, web)
    assert world.engine.generation() == 1
    assert world.exchange(world.connect(web))[0] == RESPONSE


def test_socket_of_a_listener_that_is_not_there_leaves_the_old_snapshot(world: World) -> None:
    web = world.listen()
    world.apply(web)
    image = _core.seal(Writer(2).image())
    with pytest.raises(ValueError, match="names a listener"):
        world.engine.apply(image, [(web.fileno(), 0)])
    os.close(image)
    assert world.engine.generation() == 1
    assert world.counters()["snapshots_opened"] - world.counters()["snapshots_closed"] == 1


def test_prepared_snapshot_changes_nothing_until_it_is_committed(world: World) -> None:
    web = world.listen()
    world.apply(web)
    client = world.connect(web)
    _, peer = world.exchange(client)
    writer = Writer(2)
    writer.listener()
    writer.add_route(host="", path_prefix="/", pool=writer.pool())
    fd = _core.seal(writer.image())
    world.engine.prepare(_core.Image(fd))
    assert world.exchange(client, peer)[0] == RESPONSE
    world.engine.abort()
    with pytest.raises(ValueError, match="no snapshot is prepared"):
        world.engine.commit([(web.fileno(), 0)])
    assert world.engine.generation() == 1
    for _ in range(2):
        world.engine.prepare(fd)  # the second takes the place of the first
    os.close(fd)
    assert world.engine.commit([(web.fileno(), 0)]) == []
    assert world.engine.generation() == 2
    client.send(REQUEST)
    assert b" 503 " in world.read(client)


def test_expressions_may_be_compiled_before_and_then_match(world: World) -> None:
    web = world.listen()
    world.apply(web)
    client = world.connect(web)
    world.exchange(client)
    for compiled in (1, 2, 0):  # again does nothing, and prepare() compiles what nobody did
        writer = Writer(2)
        writer.listener()
        writer.add_route(pool=writer.pool(), rule={"regex": (b"^/[0-9]+$", False)})
        fd = _core.seal(writer.image())
        image = _core.Image(fd)
        os.close(fd)
        for _ in range(compiled):
            image.compile()
        world.engine.prepare(image)
        with pytest.raises(ValueError, match="used up"):
            image.compile()
        world.engine.commit([(web.fileno(), 0)])
        client.send(b"GET /12 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b" 503 " in world.read(client)  # a pool without backends
        client.send(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b" 404 " in world.read(client)


def test_image_that_nobody_prepares_gives_its_expressions_back(world: World) -> None:
    writer = Writer(2)
    writer.add_route(pool=writer.pool(), rule={"regex": (b"^/[0-9]+$", False)})
    fd = _core.seal(writer.image())
    for _ in range(3):  # the sanitizer sees what is not freed
        _core.Image(fd).compile()
    os.close(fd)


def test_image_can_be_prepared_once(world: World) -> None:
    fd = _core.seal(Writer().image())
    image = _core.Image(fd)
    os.close(fd)
    world.engine.prepare(image)
    with pytest.raises(ValueError, match="used up"):
        world.engine.prepare(image)


# ---------------------------------------------------------------------------------------------------------- lent sockets
def test_two_sockets_of_one_listener_are_both_accepted_from(world: World) -> None:
    web, lent = world.listen(), world.listen()
    world.apply(web)
    assert world.engine.assign([(web.fileno(), 0), (lent.fileno(), 0)]) == []
    _, peer = world.exchange(world.connect(lent))
    world.exchange(world.connect(web), peer)


def test_socket_given_back_keeps_its_queue_and_its_clients_stay(world: World) -> None:
    web, lent = world.listen(), world.listen()
    world.apply(web)
    world.engine.assign([(web.fileno(), 0), (lent.fileno(), 0)])
    client = world.connect(lent)
    _, peer = world.exchange(client)
    waiting = world.connect(lent)
    assert world.engine.assign([(web.fileno(), 0)]) == [lent.fileno()]
    lent.accept()[0].close()
    waiting.close()
    answer, _ = world.exchange(client, peer)
    assert b"close" not in answer.lower()


def test_assigning_a_socket_of_a_listener_that_is_not_there_changes_nothing(world: World) -> None:
    web = world.listen()
    world.apply(web)
    for sockets in ([(web.fileno(), 1)], [(web.fileno(), 0), (9999, 0)]):
        with pytest.raises((ValueError, OSError)):
            world.engine.assign(sockets)
    world.exchange(world.connect(web))


def test_nothing_can_be_assigned_before_the_first_snapshot(world: World) -> None:
    with pytest.raises(ValueError, match="no snapshot"):
        world.engine.assign([])


def test_socket_that_cannot_be_watched_leaves_the_old_snapshot(world: World) -> None:
    web, other = world.listen(), world.listen()
    world.apply(web)
    writer = Writer(2)
    writer.listener()
    image = _core.seal(writer.image())
    with pytest.raises(OSError):
        world.engine.apply(image, [(other.fileno(), 0), (9999, 0)])
    os.close(image)
    assert world.engine.generation() == 1
    world.connect(other)
    assert world.exchange(world.connect(web))[0] == RESPONSE
    assert world.counters()["clients_opened"] == 1, "the listener of the failed snapshot accepts"


def test_snapshot_is_swapped_with_a_client_and_its_backend_connection_kept(world: World) -> None:
    web = world.listen()
    world.apply(web)
    client = world.connect(web)
    _, peer = world.exchange(client)
    assert world.apply(web) == []
    assert world.engine.generation() == 2
    assert world.exchange(client, peer)[0] == RESPONSE
    counters = world.counters()
    assert counters["backend_connections_opened"] == counters["backend_reused"] == 1
    assert counters["snapshots_closed"] == 1


def test_exchange_keeps_its_snapshot_until_its_head_is_sent(world: World) -> None:
    web = world.listen()
    world.apply(web)
    client = world.connect(web)
    client.send(REQUEST)
    peer = world.accept()
    world.read(peer)
    world.apply(web)
    assert world.counters()["snapshots_closed"] == 0
    peer.send(RESPONSE)
    assert world.read(client) == RESPONSE
    assert world.counters()["snapshots_closed"] == 1


def test_removed_listener_is_handed_back_with_its_queue_taken_in(world: World) -> None:
    web, old = world.listen(), world.listen()
    world.apply(web, old)
    waiting = [world.connect(old) for _ in range(3)]
    assert world.apply(web) == [old.fileno()]
    old.close()
    assert world.engine.connections() == 3
    assert world.exchange(waiting[0])[0] == RESPONSE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert world.read(waiting[0]) == b""


def test_backend_that_is_listed_no_more_loses_its_idle_connections(world: World) -> None:
    web = world.listen()
    world.apply(web)
    _, peer = world.exchange(world.connect(web))
    world.backend = world.listen()
    world.apply(web)
    assert world.read(peer) == b""
    assert len(world.engine.backends()) == 1


# ---------------------------------------------------------------------------------------------------------- pump
def test_budget_bounds_a_pump(world: World) -> None:
    web = world.listen()
    world.apply(web)
    clients = [world.connect(web) for _ in range(10)]
    world.pump_until(lambda: world.engine.connections() == 10)
    for client in clients:
        client.send(b"GET / HTTP/1.1\r\n")
    assert select.select([world.engine.fileno()], [], [], 5)[0]
    assert world.engine.pump(3) <= 3


def test_pump_of_one_event_at_a_time_serves_everybody(world: World) -> None:
    web = world.listen()
    world.apply(web)
    clients = [world.connect(web) for _ in range(5)]
    for client in clients:
        client.send(b"BAD\r\n\r\n")
    for client in clients:
        assert world.read(client, budget=1).startswith(b"HTTP/1.1 400 ")


def test_pipelined_requests_wake_the_engine_without_another_event(world: World) -> None:
    web = world.listen()
    world.apply(web)
    client = world.connect(web)
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
    peer = world.accept()
    for _ in range(3):
        world.read(peer)
        peer.send(RESPONSE)
        assert world.read(client) == RESPONSE


def test_timer_wakes_the_engine(world: World) -> None:
    web = world.listen()
    writer = Writer(1)
    writer.listener(head_timeout_ms=20)
    writer.pool()
    world.apply_image(writer.image(), web)
    client = world.connect(web)
    client.send(b"GET")
    assert world.read(client).startswith(b"HTTP/1.1 408 ")
    assert world.counters()["reason.client:head_timeout"] == 1


# ---------------------------------------------------------------------------------------------------------- end
def test_drain_hands_the_listeners_back_and_lets_exchanges_finish(world: World) -> None:
    web = world.listen()
    world.apply(web)
    client = world.connect(web)
    client.send(REQUEST)
    peer = world.accept()
    world.read(peer)
    assert world.engine.drain(1000) == [web.fileno()]
    web.close()
    assert world.engine.connections() == 1
    peer.send(RESPONSE)
    assert b"\r\nConnection: close\r\n" in world.read(client)
    assert world.read(client) == b""
    world.pump_until(lambda: world.engine.connections() == 0)


def test_drain_closes_idle_clients_after_their_grace(world: World) -> None:
    web = world.listen()
    world.apply(web)
    client = world.connect(web)
    world.exchange(client)
    world.engine.drain(20)
    assert world.read(client) == b""


def test_idle_client_may_send_one_more_request_within_the_grace(world: World) -> None:
    web = world.listen()
    world.apply(web)
    client = world.connect(web)
    _, peer = world.exchange(client)
    world.engine.drain(10_000)
    assert b"\r\nConnection: close\r\n" in world.exchange(client, peer)[0]
    assert world.read(client) == b""


def test_close_in_the_middle_of_everything_gives_all_descriptors_back() -> None:
    before = len(list(os.scandir("/proc/self/fd")))
    with World() as world:
        web = world.listen()
        world.apply(web)
        world.exchange(world.connect(web))  # idle on both sides
        busy = world.connect(web)
        busy.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc")
        world.pump_until(lambda: world.counters()["attempts_opened"] == 2)
        half = world.connect(web)
        half.send(b"GET / HT")
        world.pump_until(lambda: world.engine.connections() == 3)
    assert len(list(os.scandir("/proc/self/fd"))) == before


def test_closed_engine_says_so(world: World) -> None:
    world.engine.close()
    world.engine.close()
    assert world.engine.counters()["snapshots_opened"] == world.engine.counters()["snapshots_closed"]
    for use in (world.engine.pump, world.engine.fileno, world.engine.connections, world.engine.backends):
        with pytest.raises(ValueError, match="closed"):
            use()


def test_engine_needs_room_for_a_connection() -> None:
    with pytest.raises(ValueError, match="max_connections"):
        _core.Engine(max_connections=0)
    with pytest.raises(OverflowError):
        _core.Engine(max_connections=-1)


def test_who_is_idle_at_the_end_of_a_drain_sees_our_end_first_and_no_reset(world: World) -> None:
    web = world.listen()
    world.apply(web)
    client = world.connect(web)
    world.exchange(client)
    world.engine.drain(10_000)
    world.engine.end_idle()
    assert world.read(client) == b""
    before = world.counters()["client_bytes_in"]
    client.send(REQUEST)  # it was on its way
    world.pump_until(lambda: world.counters()["client_bytes_in"] > before)
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    assert world.engine.connections() == 1
    world.pump_until(lambda: world.engine.connections() == 0)  # not for ever


def test_a_drain_lengthens_no_idle_time_out(world: World) -> None:
    web = world.listen()
    writer = Writer(1)
    writer.listener(idle_timeout_ms=50)
    number = writer.pool()
    writer.backend(number, world.backend.getsockname()[1])
    writer.add_route(host="", path_prefix="/", pool=number)
    world.apply_image(writer.image(), web)
    client = world.connect(web)
    world.exchange(client)
    world.engine.drain(10_000_000)
    assert world.read(client) == b""
