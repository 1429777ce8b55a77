"""TCP sessions of whole processes whose backends are killed, whose descriptors are used up, whose clients do not read, or that are many."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.test_descriptors import no_descriptors
from tests.support.backend import address_of, listen
from tests.support.configuration import configuration
from tests.support.process import ROOT, Fastlb
from tests.support.waiting import wait_until

Start = Callable[..., Fastlb]
# Sends for ever and never reads; its port is its first line.
SPEAKER = """
import socket
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
sessions = []
while True:
    session = listening.accept()[0]
    sessions.append(session)
    session.sendall(bytes(1 << 20))
"""
GIGABYTE = 1 << 30


def sessions(*backends: str, **pool: object) -> str:
    listener = {"name": "db", "protocol": "tcp", "pool": "db"}
    return configuration(listeners=[listener], pools={"db": {"backends": list(backends), "algorithm": "round_robin", **pool}})


def dial(lb: Fastlb) -> socket.socket:
    return socket.create_connection(("127.0.0.1", lb.port), timeout=20)


def read(client: socket.socket, size: int) -> int:
    """Reads so many bytes, or what comes until the end."""
    received = 0
    while received < size and (data := client.recv(min(size - received, 1 << 20))):
        received += len(data)
    return received


@contextlib.contextmanager
def speaker() -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen([sys.executable, "-c", SPEAKER], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process, f"127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.communicate()


def test_a_backend_that_is_killed_in_the_middle_of_a_stream_is_a_reset_and_the_next_session_goes_elsewhere(fastlb: Start) -> None:
    with speaker() as (process, address), contextlib.closing(listen()) as other:
        other.settimeout(20)
        lb = fastlb(sessions(address, address_of(other)))
        client = dial(lb)
        client.sendall(b"what nobody reads")
        read(client, 4096)
        lb.wait_for(lambda counters: counters["backend_bytes_out"] == 17, "the backend's socket has it")
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(ConnectionResetError):
            read(client, GIGABYTE)
        for _ in range(2):  # one of them is tried at the dead one first
            again = dial(lb)
            peer, _ = other.accept()
            peer.sendall(b"here")
            assert read(again, 4) == 4
            again.close()
            peer.close()
        client.close()
        lb.rest()
        assert lb.reasons() == {"backend:reset": 1}
        assert lb.counter("retries") == 1


def test_a_session_for_whose_backend_there_is_no_descriptor_is_reset_and_blames_nobody(fastlb: Start) -> None:
    with contextlib.closing(listen()) as listening:
        listening.settimeout(20)
        lb = fastlb(sessions(address_of(listening), passive_health={"consecutive_failures": 1}))
        # It may be reset before it knows that it is connected.
        with no_descriptors(lb, 1), pytest.raises(ConnectionResetError), dial(lb) as client:
            client.recv(1)
        assert lb.reasons() == {"out_of_memory": 1}
        again = dial(lb)
        peer, _ = listening.accept()
        peer.sendall(b"here")
        assert again.recv(9) == b"here"
        again.close()
        peer.close()
        lb.rest()
        assert lb.counter("ejections") == 0


def test_without_descriptors_for_clients_they_wait_and_sessions_go_on(fastlb: Start) -> None:
    with contextlib.closing(listen()) as listening:
        listening.settimeout(20)
        lb = fastlb(sessions(address_of(listening)))
        client = dial(lb)
        peer, _ = listening.accept()
        with no_descriptors(lb):
            waits = dial(lb)
            lb.wait_for_counter("accept_pauses")
            client.sendall(b"still")
            assert peer.recv(9) == b"still"
        later, _ = listening.accept()
        later.sendall(b"welcome")
        assert waits.recv(9) == b"welcome"
        for one in (client, peer, waits, later):
            one.close()
        lb.rest()


@pytest.mark.long
def test_a_gigabyte_waits_where_it_comes_from_for_as_long_as_its_reader_stalls(fastlb: Start) -> None:
    source = f"""
import socket
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
session = listening.accept()[0]
piece = bytes(1 << 20)
for _ in range({GIGABYTE} >> 20):
    session.sendall(piece)
session.close()
"""
    process = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lb = fastlb(sessions(f"127.0.0.1:{int(process.stdout.readline())}"))
        before = lb.memory_bytes()
        client = dial(lb)
        came = -1

        def stands_still() -> bool:
            nonlocal came
            before, came = came, lb.counter("backend_bytes_in")
            return came == before > 0

        wait_until(stands_still, "nothing more fits")
        assert came < 64 << 20, "a kernel's buffers, and a read of ours"
        assert lb.memory_bytes() - before < 2 << 20
        assert read(client, GIGABYTE + 1) == GIGABYTE
        assert lb.memory_bytes() - before < 4 << 20
        client.close()
        lb.rest()
        assert lb.reasons() == {}
    finally:
        process.kill()
        process.communicate()


@pytest.mark.long
def test_thousands_of_idle_sessions_take_their_bytes_and_are_answered_at_the_end(fastlb: Start) -> None:
    ends, count = str(ROOT / "bench" / "scale" / "ends.py"), 4000

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, ends, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def say(holder: subprocess.Popen[str], word: str) -> str:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write(word + "\n")
        holder.stdin.flush()
        return holder.stdout.readline()

    echo = start("echo", "127.0.1.1", "127.0.1.2")
    holders = []
    try:
        assert echo.stdout is not None
        ports = echo.stdout.readline().split()
        lb = fastlb(sessions(f"127.0.1.1:{ports[0]}", f"127.0.1.2:{ports[1]}"), workers=2)
        grown = []
        for source in ("127.2.0.1", "127.2.0.2"):  # the second time nothing is allocated but what a session keeps
            before = sum(private_bytes(pid) for pid in lb.worker_pids())
            holders.append(start("hold", "127.0.0.1", str(lb.port), source, str(count // 2)))
            assert holders[-1].stdout is not None
            assert holders[-1].stdout.readline().startswith("held")
            grown.append(sum(private_bytes(pid) for pid in lb.worker_pids()) - before)
        assert grown[1] < count // 2 * 800
        assert [say(holder, "look") for holder in holders] == ["0\n", "0\n"]
        assert [json.loads(say(holder, "ask"))[0] for holder in holders] == [count // 2, count // 2]
        for holder in holders:
            holder.communicate("end\n")
        assert lb.rest()["tunnels_opened"] == count
        assert lb.reasons() == {}
    finally:
        for process in (echo, *holders):
            process.kill()
            process.communicate()


def private_bytes(pid: int) -> int:
    """What only this process has."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024
