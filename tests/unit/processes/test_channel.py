"""Messages between processes: whole, in order, with their descriptors, and refused when they are none."""

import array
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from fastlb.processes import channel as module
from fastlb.processes.channel import Channel, ChannelError, open_pair
from fastlb.processes.messages import Apply, Commit, FromController, FromWorker, Hello, Lend, ListenerBinds, Prepared, Refused, ToWorker
from tests.support.descriptors import descriptors

Pair = tuple[Channel[Any], Channel[Any]]


@pytest.fixture
def pair() -> Iterator[Pair]:
    before = descriptors()
    ours, theirs = open_pair()
    made = Channel[Any](ours, FromWorker), Channel[Any](theirs, ToWorker)
    yield made
    for end in made:
        end.close()
    assert descriptors() == before


def test_messages_arrive_whole_and_in_order(pair: Pair) -> None:
    supervisor, worker = pair
    sent = [Hello("1+abc"), Prepared(7), Refused(8, 'no "room"\n')]
    for message in sent:
        worker.send(message)
    for message in sent:
        assert supervisor.receive() == (message, [])
    assert supervisor.receive() is None


def test_descriptors_come_along_and_stay_the_senders(pair: Pair) -> None:
    supervisor, worker = pair
    readable, writable = os.pipe()
    supervisor.send(Lend((3,)), readable)
    received = worker.receive()
    assert received is not None
    message, (copy,) = received
    assert message == Lend((3,))
    os.write(writable, b"x")
    assert os.read(copy, 1) == b"x"
    assert not os.get_inheritable(copy)
    for descriptor in (readable, writable, copy):
        os.close(descriptor)


def test_a_long_message_takes_another_way(pair: Pair) -> None:
    supervisor, worker = pair
    sockets = tuple((number, number % 7) for number in range(20_000))
    descriptor = os.open(os.devnull, os.O_RDONLY)
    supervisor.send(Commit(1, sockets, 30_000, 2000), descriptor)
    received = worker.receive()
    assert received is not None
    message, (copy,) = received
    assert isinstance(message, Commit)
    assert message.sockets == sockets
    os.close(descriptor)
    os.close(copy)


def test_the_end_of_the_other_side_is_an_end_of_file(pair: Pair) -> None:
    supervisor, worker = pair
    worker.send(Prepared(1))
    worker.close()
    assert supervisor.receive() == (Prepared(1), [])
    with pytest.raises(EOFError):
        supervisor.receive()
    with pytest.raises(ConnectionError):
        supervisor.send(Lend((1,)))


def test_whoever_does_not_read_is_not_waited_for(pair: Pair) -> None:
    supervisor, _ = pair
    with pytest.raises(BlockingIOError):
        for _ in range(100_000):
            supervisor.send(Lend((1,)), wait=False)


@pytest.mark.parametrize(
    "data",
    [
        b"i",
        b"inot json",
        b'i{"type":"Nothing"}',
        b'i{"type":"Prepared","generation":-1}',
        b'i{"type":"Prepared","generation":"1"}',
        b'i{"type":"Prepared","generation":1,"more":2}',
        b'i{"type":"Lend","sockets":[1]}',  # a message, but not one that a worker may send
        b"m",
        b"x",
        b"i" + b"[" * 40_000,
    ],
)
def test_what_is_no_message_is_refused_and_its_descriptors_are_closed(data: bytes) -> None:
    before = descriptors()
    ours, theirs = open_pair()
    supervisor = Channel[FromWorker](ours, FromWorker)
    held = os.open(os.devnull, os.O_RDONLY)
    socket.send_fds(theirs, [data], [held])
    with pytest.raises(ChannelError):
        supervisor.receive()
    supervisor.close()
    theirs.close()
    os.close(held)
    assert descriptors() == before


def test_more_descriptors_than_allowed_are_refused(pair: Pair) -> None:
    ours, theirs = open_pair()
    supervisor = Channel[FromWorker](ours, FromWorker)
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(module.MAX_DESCRIPTORS + 4)]
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", held))]
    theirs.sendmsg([b'i{"type":"Prepared","generation":1}'], rights)
    with pytest.raises(ChannelError, match="descriptors were lost"):
        supervisor.receive()
    for descriptor in held:
        os.close(descriptor)
    supervisor.close()
    theirs.close()


def test_a_message_in_a_file_that_is_too_large_is_refused(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor, worker = pair
    monkeypatch.setattr(module, "MAX_BYTES", 50_000)
    worker.send(Refused(1, "x" * 60_000))
    with pytest.raises(ChannelError, match="too long"):
        supervisor.receive()


def test_the_number_of_workers_is_bounded_by_the_slots_there_are() -> None:
    ours, theirs = open_pair()
    supervisor, controller = Channel[FromController](ours, FromController), Channel[Any](theirs, ToWorker)
    listener = ListenerBinds("web", (("127.0.0.1", 80, ""),), 100, True)
    controller.send(Apply(1, 129, (listener,), (), 0, 0))
    with pytest.raises(ChannelError):
        supervisor.receive()
    supervisor.close()
    controller.close()
