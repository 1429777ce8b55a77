"""Which sockets of a fastlb before serve which address, and what is taken of its memory."""

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlb import _core
from fastlb.control_plane.config.address import BindAddress, parse_bind_address
from fastlb.processes import handover, predecessor
from fastlb.processes.channel import Channel, open_pair
from fastlb.processes.descriptor_store import Stored
from fastlb.processes.handover import PREFIX, Orphan, open_door
from fastlb.processes.messages import Drain, FromOrphan, Outlived, ToOrphan
from fastlb.processes.predecessor import Predecessor, find_predecessor, share_out
from fastlb.processes.sockets import bind_address
from tests.support.waiting import DEADLINE_SECONDS


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
    left.succeed(-1)
    assert one.fileno() < 0, "whoever came to it would wait for nobody"
    told: Channel[ToOrphan] = Channel(theirs, ToOrphan)
    assert told.receive() == (Drain(), [])
    told.close()
    orphan.close()


@pytest.mark.parametrize("is_full", [False, True])
def test_worker_that_answers_late_is_told_to_drain_and_its_slot_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_full: bool
) -> None:
    """Where its door is full, others have stood before it and left while it did not move."""
    monkeypatch.setattr(handover, "MEETING_SECONDS", 0.05)
    monkeypatch.setattr(predecessor, "KNOCK_SECONDS", 0.01)
    path = tmp_path / f"{PREFIX}a.3"
    memory = _core.SharedMemory.create()
    memory.open_worker(3, os.getpid())
    n_before = 0
    told: list[object] = []

    def move(door: socket.socket) -> None:
        """As worker.py does, when it goes on."""
        for _ in range(n_before):
            door.accept()[0].close()
        visitor, _ = door.accept()
        channel: Channel[ToOrphan] = Channel(visitor, ToOrphan)
        event_fd = os.eventfd(0)
        channel.send(Outlived("build", 3, 0), memory.fileno(), event_fd)
        received = channel.receive(wait=True)
        assert received is not None
        told.append(received[0])
        channel.close()
        os.close(event_fd)

    async def main(door: socket.socket) -> None:
        found = find_predecessor(tmp_path, [], 2, Stored((), os.dup(memory.fileno())))
        assert found.take_event_fds() == {3: -1}
        found.watch(lambda _: None, lambda: None, lambda *_: None)
        found.succeed(-1)
        assert found.is_gone
        worker = threading.Thread(target=move, args=(door,))
        worker.start()
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not told:
                await asyncio.sleep(0.005)
        worker.join()
        assert told == [Drain()]
        assert found.pids == {3: os.getpid()}
        found.leave()
        assert found.shared is not None
        found.shared.close()

    with open_door(path) as door:
        door.setblocking(True)
        while is_full:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as one:
                one.setblocking(False)
                try:
                    one.connect(str(path))
                except BlockingIOError:
                    break
                n_before += 1
        asyncio.run(main(door))
    memory.close()
