"""fastlb/data_plane/tcp.pyx: TCP sessions in an engine that the test pumps, with every end that either side can make."""

import contextlib
import errno
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastlb import _core
from tests.support.images import Writer, find_sections, load, patch
from tests.support.logs import compile_logs, wait_for_lines
from tests.support.sessions import Sessions, dead_port, fill, reset
from tests.support.world import REQUEST, RESPONSE

FOREVER_MS = 3_600_000


@pytest.fixture
def world() -> Iterator[Sessions]:
    with Sessions() as made:
        made.start()
        yield made


@pytest.fixture
def two() -> Iterator[Sessions]:
    with Sessions(2) as made:
        yield made


# ---------------------------------------------------------------------------------------------------- bytes
def test_a_server_may_speak_first(world: Sessions) -> None:
    client = world.dial()
    peer = world.accept()
    peer.send(b"220 ready\r\n")
    assert world.read(client) == b"220 ready\r\n"


def test_bytes_go_both_ways_and_are_counted(world: Sessions) -> None:
    client, peer = world.pair()
    client.send(b"question")
    assert world.read(peer) == b"question"
    peer.send(b"an answer")
    assert world.read(client) == b"an answer"
    counters = world.counters()
    names = ("client_bytes_in", "client_bytes_out", "backend_bytes_in", "backend_bytes_out")
    assert [counters[name] for name in names] == [8, 9, 9, 8]


def test_single_bytes_arrive_as_they_are(world: Sessions) -> None:
    client, peer = world.pair()
    for byte in b"\0\r\n\xff":
        client.send(bytes([byte]))
        assert world.read(peer) == bytes([byte])


def test_what_comes_before_the_backend_is_connected_is_not_lost(world: Sessions) -> None:
    client = world.dial()
    client.send(b"early")
    client.shutdown(socket.SHUT_WR)
    peer = world.accept()
    assert world.read_all(peer, 6) == b"early"
    peer.send(b"late")
    peer.close()
    assert world.read_all(client, 5) == b"late"


def test_large_amounts_pass_both_ways_at_once(world: Sessions) -> None:
    client, peer = world.pair()
    up, down = bytes(range(256)) * 8192, bytes(range(255, -1, -1)) * 8192
    got_up, got_down, sent_up, sent_down = bytearray(), bytearray(), 0, 0
    while len(got_up) < len(up) or len(got_down) < len(down):
        for end, data, at in ((client, up, sent_up), (peer, down, sent_down)):
            try:
                n = end.send(data[at : at + 65536]) if at < len(data) else 0
            except BlockingIOError:
                n = 0
            if end is client:
                sent_up += n
            else:
                sent_down += n
        world.engine.pump()
        for end, into in ((peer, got_up), (client, got_down)):
            with contextlib.suppress(BlockingIOError):
                into += end.recv(65536)
    assert (got_up, got_down) == (up, down)


def test_a_reader_that_stalls_stops_the_other_side_within_bounded_memory(world: Sessions) -> None:
    client, peer = world.pair()
    before = world.counters()
    sent = fill(peer)
    while True:
        world.engine.pump()
        more = fill(peer)
        if not more:
            break
        sent += more
    counters = world.counters()
    held = counters["backend_bytes_in"] - counters["client_bytes_out"]
    assert held <= 262144, "one read at most waits in the engine"
    assert counters["buffers_taken"] - counters["buffers_returned"] - (before["buffers_taken"] - before["buffers_returned"]) <= 1
    peer.shutdown(socket.SHUT_WR)
    assert len(world.read_all(client, sent)) == sent


# ---------------------------------------------------------------------------------------------------- ends
def test_the_end_of_a_client_leaves_the_other_direction_open(world: Sessions) -> None:
    client, peer = world.pair()
    client.send(b"all")
    client.shutdown(socket.SHUT_WR)
    assert world.read(peer) == b"all"
    assert world.read(peer) == b""
    peer.send(b"still here")
    assert world.read(client) == b"still here"
    peer.close()
    assert world.end_of(client) == "end"


def test_the_end_of_a_backend_leaves_the_other_direction_open(world: Sessions) -> None:
    client, peer = world.pair()
    peer.send(b"bye")
    peer.shutdown(socket.SHUT_WR)
    assert world.read(client) == b"bye"
    assert world.read(client) == b""
    client.send(b"and so on")
    assert world.read(peer) == b"and so on"
    client.close()
    assert world.end_of(peer) == "end"


def test_a_client_that_is_reset_is_a_reset_for_its_backend(world: Sessions) -> None:
    client, peer = world.pair()
    client.send(b"last words")
    reset(client)
    assert world.end_of(peer) == "reset"
    assert world.counters()["reason.client:reset"] == 1


def test_a_backend_that_is_reset_is_a_reset_for_its_client(world: Sessions) -> None:
    client, peer = world.pair()
    peer.send(b"half of")
    assert world.read(client) == b"half of"
    reset(peer)
    assert world.end_of(client) == "reset"
    assert world.counters()["reason.backend:reset"] == 1


def test_what_a_backend_said_before_its_reset_reaches_the_client(world: Sessions) -> None:
    client, peer = world.pair()
    client.send(b"never read")
    world.pump_until(lambda: world.counters()["backend_bytes_out"] == 10)
    peer.send(b"go away")
    peer.close()  # with unread bytes: a reset behind what was sent
    received = b""
    while len(received) < 7:
        received += world.read(client)
    assert received == b"go away"
    assert world.end_of(client) == "reset"


def test_what_is_in_a_pipe_when_its_source_is_reset_reaches_a_reader_that_has_room(world: Sessions) -> None:
    client, peer = world.pair()
    sent = got = 0

    def drain(size: int = 1 << 20) -> int:
        with contextlib.suppress(BlockingIOError):
            return len(client.recv(size))
        return 0

    while world.counters()["spliced_bytes"] == 0:
        sent += fill(peer)
        world.engine.pump()
        got += drain()
    counters = world.counters()
    while counters["backend_bytes_in"] != sent or counters["client_bytes_out"] == sent:  # until all is here, and some of it has not left
        if counters["backend_bytes_in"] == sent:
            sent += peer.send(bytes(262_144))
        else:
            got += drain(4096)
        world.engine.pump()
        counters = world.counters()
    while got < counters["client_bytes_out"]:
        got += drain()
    reset(peer)
    world.pump_until(world.is_at_rest)
    assert world.counters()["client_bytes_out"] == sent


def test_a_reset_of_a_direction_that_has_ended_is_seen(world: Sessions) -> None:
    client, peer = world.pair()
    client.shutdown(socket.SHUT_WR)
    assert world.read(peer) == b""
    reset(client)
    world.pump_until(lambda: peer.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.EPIPE)  # a reset behind the end


def test_a_reset_behind_bytes_that_nobody_takes_is_seen(world: Sessions) -> None:
    client, peer = world.pair()
    while fill(client):
        world.engine.pump()
    reset(client)
    world.pump_until(world.is_at_rest)
    assert world.end_of(peer) == "reset"


# ---------------------------------------------------------------------------------------------------- unix sockets
def _start_unix(world: Sessions, listening: socket.socket) -> socket.socket:
    """The backend's socket, behind this listening one."""
    backend = world.listen_unix()
    path = backend.getsockname()
    writer = Writer(2)
    listener = writer.listener(http2_streams=0)
    pool = writer.pool(health={"failures_in_row": 1})
    writer.add_backend(pool, identity=path, display=path, address=_core.pack_unix(path), weight=1, max_in_flight=0)
    writer.set_session(listener, writer.add_route(pool=pool))
    world.apply_image(writer.image(), listening)
    return backend


def test_what_a_unix_backend_said_before_it_closed_reaches_a_slow_reader(world: Sessions) -> None:
    backend = _start_unix(world, world.listening)
    client = world.dial()
    peer = world.accept_from(backend)
    sent = 0
    while more := fill(peer):
        sent += more
        world.engine.pump()
    peer.close()
    world.engine.pump()
    assert len(world.read_all(client, sent)) == sent
    assert world.read(client) == b""
    client.close()
    world.pump_until(world.is_at_rest)
    counters = world.counters()
    assert [counters["reason.backend:reset"], counters["ejections"]] == [0, 0]


@pytest.mark.parametrize("much", [False, True])
def test_what_a_unix_client_said_before_it_closed_reaches_its_backend(world: Sessions, much: bool) -> None:
    front = world.listen_unix()
    backend = _start_unix(world, front)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(front.getsockname())
        client.setblocking(False)
        sent = client.send(b"a line\n")
        if much:
            peer = world.accept_from(backend)
            while more := fill(client):
                sent += more
                world.engine.pump()
    if much:
        world.engine.pump()
    else:
        peer = world.accept_from(backend)
    assert len(world.read_all(peer, sent)) == sent
    assert world.read(peer) == b""
    peer.close()
    world.pump_until(world.is_at_rest)
    assert world.counters()["reason.client:reset"] == 0


def test_a_unix_backend_that_did_not_read_all_has_reset(world: Sessions) -> None:
    backend = _start_unix(world, world.listening)
    client = world.dial()
    peer = world.accept_from(backend)
    client.send(b"never read")
    world.pump_until(lambda: world.counters()["backend_bytes_out"] == 10)
    peer.close()
    assert world.end_of(client) == "reset"
    assert world.counters()["reason.backend:reset"] == 1


# ---------------------------------------------------------------------------------------------------- backends
def test_one_that_refuses_is_followed_by_another(two: Sessions) -> None:
    two.start(ports=[dead_port(), two.backends[0].getsockname()[1]])
    for _ in range(2):
        client = two.dial()
        peer = two.accept()
        peer.send(b"here")
        assert two.read(client) == b"here"
    assert two.counters()["retries"] == 2


def test_where_there_is_none_the_client_is_reset(two: Sessions) -> None:
    two.start(ports=[dead_port(), dead_port()])
    client = two.dial()
    assert two.end_of(client) == "reset"
    counters = two.counters()
    assert counters["reason.backend:connect_refused"] == 1
    assert counters["tunnels_opened"] == 0


def test_no_retry_once_one_was_connected(two: Sessions) -> None:
    two.start()
    client, peer = two.pair()
    reset(peer)
    assert two.end_of(client) == "reset"
    assert two.counters()["retries"] == 0


def test_one_that_resets_before_it_says_anything_is_ejected(two: Sessions) -> None:
    two.start(health={"failures_in_row": 1})
    for _ in range(2):
        client = two.dial()
        backend = two.backends[0] if two.counters()["ejections"] == 0 else two.backends[1]
        peer = two.accept_from(backend)
        if backend is two.backends[0]:
            reset(peer)
            assert two.end_of(client) == "reset"
            assert two.counters()["ejections"] == 1
        else:
            peer.send(b"fine")
            assert two.read(client) == b"fine"


def test_one_that_ends_before_it_says_anything_has_failed_and_one_that_was_not_asked_has_not(two: Sessions) -> None:
    two.start(health={"failures_in_row": 1})
    client = two.dial()
    peer = two.accept()
    two.pump_until(lambda: two.counters()["tunnels_opened"] == 1)
    client.close()
    assert two.read(peer) == b""
    peer.close()
    two.pump_until(two.is_at_rest)
    assert two.counters()["ejections"] == 0
    client = two.dial()
    peer = two.accept_from(two.backends[1])
    client.send(b"ask")
    assert two.read(peer) == b"ask"
    peer.close()
    assert two.read(client) == b""
    client.close()
    two.pump_until(two.is_at_rest)
    assert two.counters()["ejections"] == 1
    assert two.counters()["reason.backend:closed"] == 1


@pytest.mark.parametrize("says", [b"", b"ask"])
def test_a_client_cannot_have_a_backend_taken_for_one_that_is_not_reached(two: Sessions, says: bytes) -> None:
    two.start(health={"failures_in_row": 1, "counts": ("connect",)})
    for end in (socket.socket.close, reset):
        client, peer = two.pair() if end is socket.socket.close else (two.dial(), two.accept_from(two.backends[1]))
        client.send(says)
        assert not says or two.read(peer) == says
        end(peer)
        two.end_of(client)
        client.close()
        two.pump_until(two.is_at_rest)
    assert two.counters()["ejections"] == 0


def test_a_client_that_says_nothing_until_its_backend_has_had_enough_proves_nothing(two: Sessions) -> None:
    two.start(health={"failures_in_row": 1})
    client, peer = two.pair()
    peer.close()
    assert two.read(client) == b""
    client.close()
    two.pump_until(two.is_at_rest)
    assert two.counters()["ejections"] == 0


def test_a_full_pool_has_its_clients_wait_in_turn(two: Sessions) -> None:
    writer = Writer()
    listener = writer.listener()
    pool = writer.pool(queue_max=1, queue_timeout_ms=FOREVER_MS)
    writer.backend(pool, two.backend.getsockname()[1], max_in_flight=1)
    writer.set_session(listener, writer.add_route(pool=pool))
    two.apply_image(writer.image(), two.listening)
    first, peer = two.pair()
    second = two.dial()
    second.send(b"I wait")
    second.shutdown(socket.SHUT_WR)
    two.pump_until(lambda: two.counters()["waits_opened"] == 1)
    third = two.dial()
    assert two.end_of(third) == "reset", "the queue is full"
    first.close()
    assert two.read(peer) == b""
    peer.close()
    waited = two.accept()
    assert two.read_all(waited, 7) == b"I wait"
    assert two.counters()["reason.queue_full"] == 1


def test_a_client_comes_back_to_its_backend(two: Sessions) -> None:
    two.start(sticky={"size": 1024, "expires_ms": FOREVER_MS})
    client = two.dial()
    peer = two.accept()
    for _ in range(3):
        again = two.dial()
        peer = two.accept()
        peer.send(b"same")
        assert two.read(again) == b"same"
    assert two.counters()["sticky_kept"] == 3
    client.close()


def test_connections_come_from_the_address_that_is_said_if_it_is_ours(two: Sessions) -> None:
    two.start(source="127.0.0.9")
    two.dial()
    assert two.accept().getpeername()[0] == "127.0.0.9"
    two.start(source="192.0.2.1", health={"failures_in_row": 1})
    assert two.end_of(two.dial()) == "reset"
    assert two.counters()["reason.no_local_address"] == 1
    assert two.counters()["ejections"] == 0, "which is no fault of the backends"


def test_an_image_with_a_socket_that_the_kernel_would_not_take_is_refused() -> None:
    writer, pool = session_image()
    writer.set_session(0, writer.add_route(pool=pool))
    writer.set_socket(pool, keepalive=(32_768, 5, 3))
    with pytest.raises(ValueError, match="image"):
        load(writer.image())


def test_the_cut_of_a_backend_resets_its_sessions(world: Sessions) -> None:
    client, _ = world.pair()
    assert world.engine.cut(f"0|127.0.0.1:{world.backend.getsockname()[1]}") == 1
    world.engine.pump()
    assert world.end_of(client) == "reset"


# ---------------------------------------------------------------------------------------------------- time
def test_silence_on_both_sides_ends_a_session(world: Sessions) -> None:
    world.start(tunnel_timeout_ms=40)
    client, peer = world.pair()
    assert world.end_of(client) == "end"
    assert world.end_of(peer) == "end"
    assert world.counters()["reason.idle_timeout"] == 1


def test_a_reader_that_is_too_slow_sees_that_something_is_missing(world: Sessions) -> None:
    world.start(tunnel_timeout_ms=250)
    client, peer = world.pair()
    while fill(peer):
        world.engine.pump()
    world.pump_until(world.is_at_rest)
    assert world.end_of(client) == "reset"
    assert world.counters()["reason.idle_timeout"] == 1


def test_a_session_ends_when_it_has_taken_its_time(world: Sessions) -> None:
    world.start(session_ms=40)
    client, peer = world.pair()
    assert world.end_of(client) == "reset"
    assert world.end_of(peer) == "reset"
    client, peer = world.dial(), world.accept()
    client.shutdown(socket.SHUT_WR)
    assert world.end_of(peer) == "end"
    assert world.end_of(client) == "reset", "nobody has said that this direction is whole"
    assert world.counters()["reason.session_timeout"] == 2


def test_a_queue_is_waited_in_for_as_long_as_it_says(world: Sessions) -> None:
    writer = Writer(2)
    listener = writer.listener()
    pool = writer.pool(queue_max=9, queue_timeout_ms=40)
    writer.backend(pool, world.backend.getsockname()[1], max_in_flight=1)
    writer.set_session(listener, writer.add_route(pool=pool))
    world.apply_image(writer.image(), world.listening)
    world.pair()
    assert world.end_of(world.dial()) == "reset"
    assert world.counters()["reason.queue_timeout"] == 1


# ---------------------------------------------------------------------------------------------------- snapshots
def test_a_reload_leaves_sessions_alone_and_new_ones_go_where_it_says(two: Sessions) -> None:
    two.start(ports=[two.backends[0].getsockname()[1]])
    client, peer = two.pair()
    two.start(ports=[two.backends[1].getsockname()[1]])
    client.send(b"still")
    assert two.read(peer) == b"still"
    two.dial()
    two.accept_from(two.backends[1])
    assert two.counters()["snapshots_opened"] - two.counters()["snapshots_closed"] == 1, "a session pins no snapshot"


def test_a_listener_that_goes_leaves_its_sessions_and_serves_who_waits_in_its_queue(two: Sessions) -> None:
    two.start()
    client, peer = two.pair()
    waiting = two.dial()
    two.apply_image(_http_image(2, two), two.listen())
    two.accept_from(two.backends[1]).send(b"served")
    assert two.read(waiting) == b"served"
    peer.send(b"still")
    assert two.read(client) == b"still"


def test_a_listener_may_turn_to_http_and_back(two: Sessions) -> None:
    two.start()
    client, peer = two.pair()
    two.apply_image(_http_image(2, two), two.listening)
    asking = two.dial()
    asking.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert two.read(two.accept()).startswith(b"GET / HTTP/1.1\r\n")
    client.send(b"still")
    assert two.read(peer) == b"still"
    two.generation = 2
    two.start()
    client, peer = two.dial(), None
    client.send(b"GET / not HTTP at all\r\n\r\n")
    assert two.read(two.accept()) == b"GET / not HTTP at all\r\n\r\n"


def test_clients_of_a_listener_that_turns_to_tcp_end_with_their_exchange(two: Sessions) -> None:
    two.apply_image(_http_image(1, two), two.listening)
    idle, busy = two.dial(), two.dial()
    _, peer = two.exchange(idle)
    two.exchange(busy, peer)
    busy.send(REQUEST)
    assert two.read(peer)
    two.generation = 1
    two.start()
    assert two.end_of(idle) == "end"
    peer.send(RESPONSE)
    assert b"\r\nConnection: close\r\n" in two.read(busy)
    assert two.end_of(busy) == "end"


def _http_image(generation: int, world: Sessions) -> bytes:
    writer = Writer(generation)
    writer.listener()
    pool = writer.pool()
    writer.backend(pool, world.backend.getsockname()[1])
    writer.add_route(host="", path_prefix="/", pool=pool)
    return writer.image()


def test_a_drain_leaves_sessions_to_end_by_themselves(world: Sessions) -> None:
    client, peer = world.pair()
    waiting = world.dial()
    world.engine.drain(0)
    time.sleep(0.005)  # its grace is over before its first event is looked at
    client.send(b"still")
    assert world.read(peer) == b"still"
    world.accept().send(b"served")
    assert world.read(waiting) == b"served", "who had been let in is no idle client"


def session_image(cookie: str = "", **pool: Any) -> tuple[Writer, int]:
    writer = Writer()
    writer.listener()
    number = writer.pool(**pool)
    writer.backend(number, cookie=cookie)
    return writer, number


def test_an_image_whose_sessions_need_a_head_is_refused() -> None:
    writer, pool = session_image(algorithm="consistent_hash")
    writer.set_session(0, writer.add_route(pool=pool))
    load(writer.image())
    writer.set_hash_key(pool, [("cookie", "nothing", "id")])
    with pytest.raises(ValueError, match="image"):
        load(writer.image())
    writer, pool = session_image(cookie="x" * 22)
    writer.set_sticky_cookie(pool, name="id", attributes="")
    writer.set_session(0, writer.add_route(pool=pool))
    with pytest.raises(ValueError, match="image"):
        load(writer.image())
    writer, pool = session_image()
    route = writer.add_route(pool=pool)
    writer.set_close(route)
    writer.set_session(0, route)
    with pytest.raises(ValueError, match="image"):
        load(writer.image())


def test_an_image_whose_sessions_lead_nowhere_is_refused() -> None:
    images = []
    for chosen in (0, 1):
        writer, pool = session_image()
        routes = [writer.add_route(pool=pool), writer.add_route(pool=pool)]
        writer.set_session(0, routes[chosen])
        images.append(writer.image())
    offset, _ = find_sections(images[0])["listeners"]
    end = find_sections(images[0])["route_table"][0]
    (at,) = (at for at in range(offset, end, 4) if images[0][at : at + 4] != images[1][at : at + 4])
    load(patch(images[0], at, 1))
    with pytest.raises(ValueError, match="image"):
        load(patch(images[0], at, 2))


# ---------------------------------------------------------------------------------------------------- the log
def test_a_session_is_one_line_in_the_log(world: Sessions, tmp_path: Path) -> None:
    text = "{client} {method} {status} {pool} {request_bytes} {bytes_sent} {reason} {tunnel}"
    plan, _ = compile_logs({"to": str(tmp_path / "log"), "format": text})
    writer = Writer(2)
    writer.set_log_plan(plan)
    listener = writer.listener(log_set=0)
    pool = writer.pool("db")
    writer.backend(pool, world.backend.getsockname()[1])
    writer.set_session(listener, writer.add_route(pool=pool))
    world.apply_image(writer.image(), world.listening)
    with (tmp_path / "log").open("ab") as file:
        world.engine.set_log(0, file.fileno())
    client, peer = world.pair()
    client.send(b"ask")
    assert world.read(peer) == b"ask"
    peer.send(b"tell")
    assert world.read(client) == b"tell"
    client.close()
    assert world.read(peer) == b""
    peer.close()
    world.pump_until(world.is_at_rest)
    (line,) = wait_for_lines(tmp_path / "log", 1)
    assert line == "127.0.0.1 - 200 db 3 4 - 1"
