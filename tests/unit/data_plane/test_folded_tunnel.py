"""fastlb/data_plane/folded_tunnel.pyx: tunnels that are quiet take two connections, and go on as if they had never been folded."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.images import Writer
from tests.support.logs import compile_logs, wait_for_lines
from tests.support.sessions import Sessions, reset
from tests.support.world import World


@pytest.fixture
def world() -> Iterator[Sessions]:
    with Sessions() as made:
        made.engine.fold_after(20)
        made.start()
        yield made


def fold(world: World) -> None:
    """Waits until the only tunnel is."""
    world.pump_until(lambda: world.engine.folded == 1)


def test_a_session_in_which_nobody_speaks_is_folded_at_once_and_one_that_falls_silent_later(world: Sessions) -> None:
    client, peer = world.pair()
    assert world.engine.folded == 1
    client.send(b"ask")
    assert world.read(peer) == b"ask"
    assert world.engine.folded == 0
    fold(world)
    peer.send(b"tell")
    assert world.read(client) == b"tell"
    assert world.engine.folded == 0


def test_what_was_counted_goes_on_being_counted(world: Sessions) -> None:
    client, peer = world.pair()
    for _ in range(2):
        client.send(b"four")
        assert world.read(peer) == b"four"
        fold(world)
    opened = world.counters()
    assert opened["exchanges_opened"] - opened["exchanges_closed"] == 1
    assert opened["attempts_opened"] - opened["attempts_closed"] == 1
    assert opened["claims_taken"] - opened["claims_returned"] == 1
    assert opened["client_bytes_in"] == opened["backend_bytes_out"] == 8


@pytest.mark.parametrize("from_client", [True, False])
@pytest.mark.parametrize("how", ["end", "reset"])
def test_ends_and_resets_unfold(world: Sessions, from_client: bool, how: str) -> None:
    client, peer = world.pair()
    peer.send(b"x")
    assert world.read(client) == b"x"
    fold(world)
    gone, left = (client, peer) if from_client else (peer, client)
    (reset if how == "reset" else socket.socket.close)(gone)
    assert world.end_of(left) == how


def test_half_a_session_is_folded_with_its_end(world: Sessions) -> None:
    client, peer = world.pair()
    client.shutdown(socket.SHUT_WR)
    assert world.read(peer) == b""
    fold(world)
    peer.send(b"still")
    assert world.read(client) == b"still"
    fold(world)
    peer.close()
    assert world.end_of(client) == "end"


def test_what_waits_for_a_reader_is_not_folded(world: Sessions) -> None:
    client, peer = world.pair()
    sent = 0
    while world.counters()["backend_bytes_in"] == world.counters()["client_bytes_out"]:
        with pytest.raises(BlockingIOError):
            while True:
                sent += peer.send(bytes(65536))
        world.engine.pump()
    timers = world.counters()["timers_fired"]
    world.pump_until(lambda: world.counters()["timers_fired"] > timers)  # it has been silent for long enough
    assert world.engine.folded == 0
    peer.shutdown(socket.SHUT_WR)
    assert len(world.read_all(client, sent)) == sent


def test_time_is_kept(world: Sessions) -> None:
    world.start(tunnel_timeout_ms=200)
    client, peer = world.pair()
    client.send(b"x")
    assert world.read(peer) == b"x"
    fold(world)
    assert [world.end_of(client), world.end_of(peer)] == ["end", "end"]
    assert world.counters()["reason.idle_timeout"] == 1


def test_a_cut_reaches_what_is_folded(world: Sessions) -> None:
    client, _ = world.pair()
    assert world.engine.folded == 1
    assert world.engine.cut(f"0|127.0.0.1:{world.backend.getsockname()[1]}") == 1
    world.engine.pump()
    assert world.end_of(client) == "reset"


def test_an_engine_closes_with_folded_sessions() -> None:
    world = Sessions()
    world.start()
    world.pair()
    assert world.engine.folded == 1
    world.engine.close()
    counters = world.counters()
    for name in ("exchanges", "attempts", "tunnels", "clients", "backend_connections"):
        assert counters[f"{name}_opened"] == counters[f"{name}_closed"] == 1
    world.stack.close()


def test_the_line_of_a_session_tells_of_all_its_bytes(world: Sessions, tmp_path: Path) -> None:
    plan, _ = compile_logs({"to": str(tmp_path / "log"), "format": "{backend} {request_bytes} {bytes_sent} {attempts}"})
    writer = Writer(2)
    writer.set_log_plan(plan)
    listener = writer.listener(log_set=0)
    pool = writer.pool()
    port = world.backend.getsockname()[1]
    writer.backend(pool, port)
    writer.set_session(listener, writer.add_route(pool=pool))
    world.apply_image(writer.image(), world.listening)
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    world.engine.set_log(0, descriptor)
    os.close(descriptor)
    client, peer = world.pair()
    client.send(b"one")
    assert world.read(peer) == b"one"
    fold(world)
    peer.send(b"three")
    assert world.read(client) == b"three"
    fold(world)
    client.close()
    assert world.read(peer) == b""
    peer.close()
    world.pump_until(world.is_at_rest)
    assert wait_for_lines(tmp_path / "log") == [f"127.0.0.1:{port} 3 5 1"]


def test_the_line_of_a_websocket_has_its_requests_identity(tmp_path: Path) -> None:
    with World() as world:
        world.engine.fold_after(20)
        plan, _ = compile_logs({"to": str(tmp_path / "log"), "format": "{request_id}"})
        writer = Writer()
        writer.set_log_plan(plan)
        writer.listener(log_set=0)
        pool = writer.pool()
        writer.backend(pool, world.backend.getsockname()[1])
        writer.add_route(host="", path_prefix="/", pool=pool)
        listening = world.listen()
        world.apply_image(writer.image(), listening)
        with (tmp_path / "log").open("ab") as file:
            world.engine.set_log(0, file.fileno())
        client = world.connect(listening)
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        peer = world.accept()
        told = world.read(peer).decode().partition("X-Request-Id: ")[2].partition("\r\n")[0]
        assert told
        peer.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert world.read(client).startswith(b"HTTP/1.1 101 ")
        for _ in range(2):
            fold(world)
            peer.send(b"x")
            assert world.read(client) == b"x"
        fold(world)
        client.close()
        assert world.read(peer) == b""
        peer.close()
        world.pump_until(lambda: world.counters()["tunnels_closed"] == 1)
        assert wait_for_lines(tmp_path / "log") == [told]


def test_a_websocket_is_folded_too() -> None:
    with World() as world:
        world.engine.fold_after(20)
        listening = world.listen()
        world.apply(listening)
        client = world.connect(listening)
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        peer = world.accept()
        assert b"Upgrade" in world.read(peer)
        peer.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert world.read(client).startswith(b"HTTP/1.1 101 ")
        fold(world)
        client.send(b"ping")
        assert world.read(peer) == b"ping"
        fold(world)
        peer.send(b"pong")
        assert world.read(client) == b"pong"
        fold(world)
        peer.close()
        assert world.read(client) == b""
        client.close()
        world.pump_until(lambda: world.counters()["clients_opened"] == world.counters()["clients_closed"])
        assert world.counters()["tunnels_closed"] == 1
