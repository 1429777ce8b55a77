"""Doors, and what a visitor gets there: the next fastlb's side against a worker that the test plays."""

import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from fastlb.processes.channel import Channel
from fastlb.processes.handover import PREFIX, Doors, find_orphans, open_door, peer_user
from fastlb.processes.messages import Drain, Drained, Lend, Message, Outlived, ToOrphan

Say = Sequence[tuple[Message, Sequence[int]]]


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    before = count_descriptors()
    yield tmp_path
    assert count_descriptors() == before, "a descriptor was left open"


def count_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def listening() -> socket.socket:
    made = socket.socket()
    made.bind(("127.0.0.1", 0))
    made.listen()
    return made


def play(door: socket.socket, say: Say, then: Callable[[Channel[Any]], None] = lambda _: None) -> threading.Thread:
    """A worker behind its door: says this to the first visitor, and hangs up in the end."""

    def run() -> None:
        door.setblocking(True)
        visitor, _ = door.accept()
        channel: Channel[Any] = Channel(visitor, ToOrphan)
        for message, descriptors in say:
            channel.send(message, *descriptors)
        then(channel)
        channel.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_door_is_its_owners_alone_and_goes_with_the_doors(directory: Path) -> None:
    doors = Doors(directory)
    door = doors.open(3)
    assert door is not None
    assert doors.open(3) is door, "it belongs to the slot, not to the process"
    (path,) = directory.iterdir()
    assert path.name.startswith(PREFIX)
    assert path.name.endswith(".3")
    assert path.stat().st_mode & 0o777 == 0o600
    assert peer_user(door) == os.geteuid()
    doors.close()
    assert list(directory.iterdir()) == []


def test_door_that_cannot_be_had_is_said_once(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    doors = Doors(directory / ("x" * 120))
    assert doors.open(0) is None
    assert doors.open(1) is None
    assert capsys.readouterr().err.count("workers do not outlive this supervisor") == 1


def test_orphan_hands_over_what_it_has_and_can_be_talked_to(directory: Path) -> None:
    heard: list[Message] = []

    def listen(channel: Channel[Any]) -> None:
        received = channel.receive(wait=True)
        assert received is not None
        heard.append(received[0])

    with open_door(directory / f"{PREFIX}a.0") as door, listening() as first, listening() as second:
        memory, event_fd = os.memfd_create("m"), os.eventfd(0)
        said = [(Outlived("build", 5, 2), (memory, event_fd)), (Lend((7,)), (first.fileno(),)), (Lend((9,)), (second.fileno(),))]
        worker = play(door, said, listen)
        (orphan,), _ = find_orphans(directory)
        assert (orphan.build_id, orphan.slot, orphan.pid) == ("build", 5, os.getpid())
        assert [one.getsockname() for one in orphan.sockets] == [first.getsockname(), second.getsockname()]
        assert os.path.samestat(os.fstat(orphan.shared_fd), os.fstat(memory))
        os.eventfd_write(orphan.event_fd, 3)
        assert os.eventfd_read(event_fd) == 3
        orphan.channel.send(Drain())
        worker.join()
        assert heard == [Drain()]
        orphan.close()
        os.close(memory)
        os.close(event_fd)


def test_door_that_nobody_has_open_is_taken_away(directory: Path) -> None:
    open_door(directory / f"{PREFIX}a.0").close()
    (directory / "fastlb.sock").touch()  # not a door
    assert find_orphans(directory) == ([], [])
    assert [path.name for path in directory.iterdir()] == ["fastlb.sock"]


def no_socket() -> int:
    return os.memfd_create("x")


def unconnected() -> int:
    return socket.socket().detach()


@pytest.mark.parametrize(
    "say",
    [
        pytest.param([], id="hangs up"),
        pytest.param([(Drained(), 0, None)], id="does not say who it is"),
        pytest.param([(Outlived("b", 0, 0), 1, no_socket)], id="keeps the memory"),
        pytest.param([(Outlived("b", 0, 0), 3, no_socket)], id="gives too much"),
        pytest.param([(Outlived("b", 0, 1 << 20), 2, no_socket)], id="promises too much"),
        pytest.param([(Outlived("b", 0, 2), 2, no_socket), (Lend((1,)), 1, lambda: listening().detach())], id="hangs up in the middle"),
        pytest.param([(Outlived("b", 0, 1), 2, no_socket), (Lend((1,)), 1, no_socket)], id="lends a file"),
        pytest.param([(Outlived("b", 0, 1), 2, no_socket), (Lend((1,)), 1, unconnected)], id="lends what does not listen"),
        pytest.param([(Outlived("b", 0, 1), 2, no_socket), (Lend((1,)), 0, None)], id="lends nothing"),
    ],
)
def test_what_no_worker_says_is_not_believed(directory: Path, capsys: pytest.CaptureFixture[str], say: Any) -> None:
    built: list[tuple[Message, list[int]]] = [(message, [make() for _ in range(count)]) for message, count, make in say]
    with open_door(directory / f"{PREFIX}a.0") as door:
        worker = play(door, built)
        assert find_orphans(directory) == ([], [])
        worker.join()
    assert "hands nothing over" in capsys.readouterr().err
    for _, descriptors in built:
        for descriptor in descriptors:
            os.close(descriptor)
