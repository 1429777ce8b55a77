"""Which sockets of a fastlb before serve which address, and what is taken of its memory."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlb import _core
from fastlb.control_plane.config.address import BindAddress, parse_bind_address
from fastlb.processes.channel import Channel, open_pair
from fastlb.processes.descriptor_store import Stored
from fastlb.processes.handover import Orphan
from fastlb.processes.messages import Drain, FromOrphan, ToOrphan
from fastlb.processes.predecessor import Predecessor, find_predecessor, share_out
from fastlb.processes.sockets import bind_address


@pytest.fixture
def offered() -> Iterator[list[socket.socket]]:
    """Two sockets of one port, and one of another."""
    first = bind_address(BindAddress("127.0.0.1", 0), 7).sockets[0].socket
    beside = socket.socket()
    beside.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    beside.bind(first.getsockname())
    beside.listen()
    other = bind_address(BindAddress("127.0.0.1", 0), 7).sockets[0].socket
    made = [first, beside, other]
    yield made
    for one in made:
        one.close()


def port(one: socket.socket) -> int:
    return int(one.getsockname()[1])


def test_all_sockets_of_an_address_are_its_own(offered: list[socket.socket]) -> None:
    first, beside, other = offered
    address = parse_bind_address(f"127.0.0.1:{port(first)}")
    taken, left = share_out(offered, [address])
    assert taken == [(address, [first, beside])]
    assert left == [other]


def test_port_0_gets_what_nobody_names(offered: list[socket.socket]) -> None:
    first, beside, other = offered
    any_port, named = BindAddress("127.0.0.1", 0), BindAddress("127.0.0.1", port(first))
    taken, left = share_out(offered, [any_port, named])
    assert dict(taken) == {any_port: [other], named: [first, beside]}
    assert left == []
    assert share_out(offered, [BindAddress("127.0.0.2", 0)])[0] == []


def test_copies_of_one_socket_are_one(offered: list[socket.socket]) -> None:
    copy = offered[2].dup()
    taken, _ = share_out([offered[2], copy], [BindAddress("127.0.0.1", port(offered[2]))])
    assert taken[0][1] == [offered[2]]
    assert copy.fileno() < 0


def test_unix_socket_whose_file_is_gone_is_not_taken(tmp_path: object) -> None:
    address = BindAddress("", 0, f"{tmp_path}/s")
    bound = bind_address(address, 7)
    (one,) = (entry.socket for entry in bound.sockets)
    assert share_out([one], [address])[0] == [(address, [one])]
    Path(address.unix_path).unlink()
    assert share_out([one], [address]) == ([], [one])
    bound.close()


def test_kept_memory_is_ours_with_what_dead_workers_left(offered: list[socket.socket]) -> None:
    memory = _core.SharedMemory.create()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    memory.open_worker(0, pid)
    memory.open_worker(1, os.getpid())  # lives, and is no worker that answers
    found = find_predecessor(None, [], 2, Stored(tuple(offered), os.dup(memory.fileno())))
    assert found.shared is not None
    assert found.is_gone, "there is nobody to wait for"
    assert found.take_event_fds() == {1: -1}, "the slot of who lives is left alone"
    address = BindAddress("127.0.0.1", port(offered[2]))
    assert found.take_sockets([address]) == [(address, [offered[2]])]
    assert offered[0].fileno() < 0, "nobody wants it"
    found.shared.close()
    memory.close()


def test_memory_without_room_for_our_workers_or_of_another_kind_is_left() -> None:
    memory = _core.SharedMemory.create()
    memory.open_worker(0, os.getpid())
    assert find_predecessor(None, [], 128, Stored((), os.dup(memory.fileno()))).shared is None
    memory.close()
    assert find_predecessor(None, [], 1, Stored((), os.memfd_create("other"))).shared is None


def test_without_anything_there_is_no_predecessor() -> None:
    nobody = find_predecessor(None, [BindAddress("127.0.0.1", 80)], 2)
    assert nobody.shared is None
    assert nobody.is_gone
    assert nobody.take_event_fds() == nobody.pids == Predecessor().states == {}
    assert nobody.take_sockets([BindAddress("127.0.0.1", 80)]) == []


def test_sockets_that_only_orphans_have_go_when_they_drain(tmp_path: Path) -> None:
    one = bind_address(BindAddress("127.0.0.1", 0), 7).sockets[0].socket
    ours, theirs = open_pair()
    orphan = Orphan(tmp_path / "door", Channel(ours, FromOrphan), os.getpid(), -1, "", 0, -1, -1, [one])
    left = Predecessor([orphan])
    left.succeed()
    assert one.fileno() < 0, "whoever came to it would wait for nobody"
    told: Channel[ToOrphan] = Channel(theirs, ToOrphan)
    assert told.receive() == (Drain(), [])
    told.close()
    orphan.close()
