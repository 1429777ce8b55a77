"""What the service manager is asked to keep, and what is taken back from it: over a real notification socket."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlb.control_plane.config.loader import load_text
from fastlb.processes.descriptor_store import MEMORY, DescriptorStore, take_stored
from fastlb.processes.sockets import BoundAddress, bind_listeners

Message = tuple[list[str], int]


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"{tmp_path}/notify")
        receiver.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", f"{tmp_path}/notify")
        yield receiver


def heard(manager: socket.socket) -> list[Message]:
    """What has been said: the lines, and how many descriptors came with them."""
    messages: list[Message] = []
    while True:
        try:
            data, descriptors, _, _ = socket.recv_fds(manager, 4096, 250)
        except BlockingIOError:
            return messages
        messages.append((data.decode().splitlines(), len(descriptors)))
        for descriptor in descriptors:
            os.close(descriptor)


@pytest.fixture
def bound() -> Iterator[list[BoundAddress]]:
    text = (
        "".join(f'[[listeners]]\nname = "l{n}"\nbind = "127.0.0.1:0"\ndefer_accept = true\n' for n in range(2))
        + '[pools.p]\nbackends = "127.0.0.1:1"\n'
    )
    listeners = load_text(text.replace("127.0.0.1:0", "127.0.0.2:0", 1), "f").config.listeners
    opened = [one for _, one in bind_listeners(listeners, homes=range(2))]
    yield opened
    for one in opened:
        one.close()


def test_each_address_and_the_memory_have_a_name_and_are_kept_once(manager: socket.socket, bound: list[BoundAddress]) -> None:
    store = DescriptorStore()
    memory = os.memfd_create("m")
    store.keep(memory, bound)
    said = heard(manager)
    names = [lines[1] for lines, _ in said]
    assert all(lines[0] == "FDSTORE=1" for lines, _ in said)
    assert names[0] == f"FDNAME={MEMORY}"
    assert [count for _, count in said] == [1, 2, 2]
    assert len(set(names)) == 3
    assert not any(":" in name for name in names)
    store.keep(memory, bound)
    assert heard(manager) == []
    store.keep(memory, bound[1:])
    assert heard(manager) == [(["FDSTOREREMOVE=1", names[1]], 0)]
    store.forget()
    assert [lines for lines, _ in heard(manager)] == [["FDSTOREREMOVE=1", names[0]], ["FDSTOREREMOVE=1", names[2]]]
    store.forget()
    assert heard(manager) == []
    os.close(memory)


def test_what_a_fastlb_before_had_kept_is_replaced(manager: socket.socket, bound: list[BoundAddress]) -> None:
    store = DescriptorStore([MEMORY, "fastlb.old"])
    memory = os.memfd_create("m")
    store.keep(memory, bound[:1])
    said = [lines for lines, _ in heard(manager)]
    assert said[:2] == [["FDSTOREREMOVE=1", f"FDNAME={MEMORY}"], ["FDSTOREREMOVE=1", "FDNAME=fastlb.old"]]
    assert [lines[0] for lines in said[2:]] == ["FDSTORE=1", "FDSTORE=1"]
    os.close(memory)


def test_without_a_service_manager_nothing_is_kept(monkeypatch: pytest.MonkeyPatch, bound: list[BoundAddress]) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    store = DescriptorStore()
    store.keep(bound[0].sockets[0].socket.fileno(), bound)
    store.forget()


# As systemd starts a service: socket units first, then what was stored.
TAKE = """
import os, socket
names = "web:fastlb.1:fastlb.2:fastlb.memory:fastlb.3".split(":")
made = [socket.socket() for _ in range(2)]
for one in made:
    one.bind(("127.0.0.1", 0)); one.listen()
given = [made[0].fileno(), made[1].fileno(), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach(), os.memfd_create("m"), -1]
for index, descriptor in enumerate(given):
    if descriptor >= 0:
        os.dup2(descriptor, 100 + index)
os.closerange(3, 100)
for index, descriptor in enumerate(given):
    if descriptor >= 0:
        os.dup2(100 + index, 3 + index)
os.closerange(100, 110)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="5", LISTEN_FDNAMES=":".join(names))
from fastlb.processes.descriptor_store import take_stored
from fastlb.processes.systemd import inherited_sockets
stored = take_stored()
assert [one.fileno() for one in stored.sockets] == [4], stored
assert stored.memory_fd == 6
assert stored.names == set(names[1:])
inherited, warnings = inherited_sockets()
assert [(one.socket.fileno(), one.name) for one in inherited] == [(3, "web")], inherited
assert warnings == []
assert take_stored().names == frozenset()
"""


def test_what_was_kept_is_told_from_sockets_of_units_and_from_what_it_is_not() -> None:
    done = subprocess.run([sys.executable, "-c", TAKE], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("variables", [{}, {"LISTEN_FDS": "x"}, {"LISTEN_FDS": "1", "LISTEN_PID": "1", "LISTEN_FDNAMES": MEMORY}])
def test_what_is_for_somebody_else_is_left_alone(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert take_stored().memory_fd == -1
