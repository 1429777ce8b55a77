"""A constant load of clients while something breaks, and what it saw: every exchange that was not answered, and whether a death excuses it.

`Load` owns an event loop in a thread of its own, and the connections of its clients: some make a connection for each request, others keep
theirs. A client never gives up before `DEADLINE_SECONDS`: what has no answer by then hangs. `Death` says what may fail because a worker was
killed: exchanges on connections which that worker held.
"""

import asyncio
import contextlib
import os
import select
import signal
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.message import parse_head, request
from tests.support.process import LISTEN, listening_inodes, socket_inodes
from tests.support.waiting import DEADLINE_SECONDS, wait_until

REFUSED, HUNG, BROKEN, WRONG = "refused", "hung", "broken", "wrong answer"


@dataclass
class Failure:
    """An exchange without the answer that was due.

    Args:
        port: the client's; 0 where it has none (unix sockets), or got no connection.
        connecting: when the client began to connect; `failed`: when it knew. Seconds of the monotonic clock.
    """

    kind: str
    detail: str
    port: int
    connecting: float
    failed: float


@dataclass
class Death:
    """A worker that was killed.

    Args:
        ports: of the clients whose connections it held when it was killed; None where that was not looked at.
        killed: just before the first signal was sent; `dead`: just after its end was seen.
    """

    slot: int
    pid: int
    killed: float
    dead: float
    ports: frozenset[int] | None

    def excuses(self, failure: Failure) -> bool:
        """Whether it is an exchange that the worker took with it. Somebody who connects after the end of a worker never meets it."""
        if failure.kind != BROKEN or failure.failed < self.killed or failure.connecting > self.dead:
            return False
        return self.ports is None or failure.port in self.ports


class Load:
    """Clients that ask again and again until `stop`.

    Args:
        connect: the arguments of asyncio's `open_connection`, or the path of a unix socket.
        fresh: clients that make a connection for each request; `kept`: those that keep one as long as it lasts.
        targets: what is asked for, in turn. Each answer must have the status 200 and the body "ok".
        allowed: other statuses that count as an answer, such as 503 where a cap is tried.
    """

    def __init__(
        self,
        connect: tuple[str, int] | str,
        *,
        fresh: int = 6,
        kept: int = 6,
        targets: Iterable[str] = ("/",),
        allowed: Iterable[int] = (),
        pause: float = 0.002,
    ) -> None:
        self.connect = connect
        self.targets = tuple(targets)
        self.allowed = frozenset((200, *allowed))
        self.pause = pause
        self.answers: Counter[int] = Counter()
        self.failures: list[Failure] = []
        self._stopping = False
        self._error: BaseException | None = None
        self._counts = (fresh, kept)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> "Load":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def answered(self) -> int:
        return self.answers[200]

    def wait_for_answers(self, more: int = 100) -> None:
        """Until so many further requests have been answered: the load is on, and served."""
        wanted = self.answered + more
        wait_until(lambda: self.answered >= wanted or self._error, f"{more} requests more are answered")

    def stop(self) -> None:
        """Every client ends the exchange that it is in, and no other begins."""
        self._stopping = True
        self._thread.join(3 * DEADLINE_SECONDS)
        assert not self._thread.is_alive(), "clients do not end"
        if self._error is not None:
            raise self._error

    def of_kind(self, kind: str) -> list[Failure]:
        return [failure for failure in self.failures if failure.kind == kind]

    def unexcused(self, deaths: Iterable[Death] = ()) -> list[Failure]:
        """The failures that no death explains."""
        deaths = list(deaths)
        return [failure for failure in self.failures if not any(death.excuses(failure) for death in deaths)]

    # ------------------------------------------------------------------------------------------------ the clients
    def _run(self) -> None:
        async def everybody() -> None:
            fresh, kept = self._counts
            async with asyncio.TaskGroup() as group:
                for number in range(fresh + kept):
                    group.create_task(self._client(number, keeps=number >= fresh))

        try:
            asyncio.run(everybody())
        except BaseException as error:
            self._error = error

    async def _client(self, number: int, keeps: bool) -> None:
        turn = number
        while not self._stopping:
            turn = await self._use_connection(turn, keeps)

    async def _use_connection(self, turn: int, keeps: bool) -> int:
        """The life of one connection; returns which target is next."""
        connecting = time.monotonic()
        port = 0
        writer: asyncio.StreamWriter | None = None

        def fail(kind: str, detail: object) -> None:
            self.failures.append(Failure(kind, f"{type(detail).__name__}: {detail}", port, connecting, time.monotonic()))

        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                if isinstance(self.connect, str):
                    reader, writer = await asyncio.open_unix_connection(self.connect)
                else:
                    reader, writer = await asyncio.open_connection(*self.connect)
                    port = writer.get_extra_info("sockname")[1]
            while True:
                closes = not keeps or self._stopping
                target = self.targets[turn % len(self.targets)]
                turn += 1
                async with asyncio.timeout(DEADLINE_SECONDS):
                    writer.write(request(target, "Connection: close") if closes else request(target))
                    answer = parse_head(await reader.readuntil(b"\r\n\r\n"))
                    body = await reader.readexactly(answer.body_length or 0)
                    if answer.closes:
                        rest = await reader.read()
                        assert rest == b"", rest
                if answer.status not in self.allowed or (answer.status == 200 and body != b"ok"):
                    fail(WRONG, (answer.status, answer.reason, body))
                else:
                    self.answers[answer.status] += 1
                if answer.closes or closes:
                    return turn
                await asyncio.sleep(self.pause)
        except TimeoutError as error:
            fail(HUNG, error)
            if writer is not None:
                reset = struct.pack("ii", 1, 0)  # an orderly end would only say that there is no further request
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        except ConnectionRefusedError as error:
            fail(REFUSED, error)
        except FileNotFoundError as error:  # a unix socket that is not there
            fail(REFUSED, error)
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            fail(BROKEN, error)
        finally:
            if writer is not None:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
            await asyncio.sleep(self.pause)
        return turn


# ---------------------------------------------------------------------------------------------------- what is done to processes
def kill_worker(lb: Any, slot: int, *, exactly: bool) -> Death:
    """Kills a worker with SIGKILL and waits until it is dead (and perhaps not reaped yet).

    Args:
        exactly: stop it first and look which clients it has; nobody else's connection may fail then.
    """
    pid = lb.worker_pid(slot)
    ports = None
    descriptor = os.pidfd_open(pid)
    killed = time.monotonic()
    try:
        if exactly:
            signal.pidfd_send_signal(descriptor, signal.SIGSTOP)
            wait_until(lambda: stands_still(pid), f"worker {slot} stands still")
            ports = client_ports(pid, lb.port)
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        except ProcessLookupError:
            ports = None  # on a machine that is slow enough the watchdog is faster, and who it was with is not known
        assert select.select([descriptor], [], [], DEADLINE_SECONDS)[0], f"worker {slot} does not die"
        return Death(slot, pid, killed, time.monotonic(), ports)
    finally:
        os.close(descriptor)


def stands_still(pid: int) -> bool:
    return process_state(pid) == "T"


def process_state(pid: int) -> str:
    """The letter of proc_pid_stat(5); "" for none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def wait_for_end(pid: int) -> None:
    """Until there is no such process, or only what its parent has not taken off the list."""
    wait_until(lambda: process_state(pid) in ("", "Z", "X"), f"process {pid} has ended")


def client_ports(pid: int, port: int) -> frozenset[int]:
    """The ports of the clients that a process has, of those who came to this port of IPv4's loopback."""
    inodes = socket_inodes(pid)
    ports = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        local, remote, inode = fields[1], fields[2], fields[9]
        if inode in inodes and fields[3] != LISTEN and int(local.rpartition(":")[2], 16) == port:
            ports.add(int(remote.rpartition(":")[2], 16))
    return frozenset(ports)


def epoll_inodes(pid: int) -> set[str]:
    """The sockets that the epoll sets of a process watch: what it accepts from, and what it serves."""
    found = set()
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):
            for line in entry.read_text().splitlines():
                if line.startswith("tfd:"):
                    found.add(str(int(line.partition(" ino:")[2].split()[0], 16)))
    return found


def wait_for_workers(lb: Any, count: int, ready: Callable[[dict[str, Any]], bool] = lambda row: True) -> list[dict[str, Any]]:
    """Until so many workers, and no others, are there and ready; their rows."""

    def look() -> list[dict[str, Any]]:
        rows = [row for row in lb.processes() if row["role"] == "worker"]
        return rows if len(rows) == count and all(row["state"] == "ready" and ready(row) for row in rows) else []

    return wait_until(look, f"{count} workers are ready")


def wait_for_restart(lb: Any, count: int, death: Death) -> None:
    """Until all workers are ready, and another process is in the slot of the dead one."""
    wait_for_workers(lb, count, lambda row: row["slot"] != death.slot or row["pid"] != death.pid)


def assert_sockets_are_home(lb: Any, count: int) -> None:
    """Each worker accepts from one socket of the port, each from another, and together from all of them."""

    def look() -> bool:
        sockets = listening_inodes(lb.port)
        pids = [lb.worker_pid(slot) for slot in range(count)]
        watched = [epoll_inodes(pid) & sockets for pid in pids]
        held = [socket_inodes(pid) & sockets for pid in pids]
        return held == watched and all(len(one) == 1 for one in watched) and len(set().union(*watched)) == count

    wait_until(look, "every worker accepts from its own socket and no other")


def assert_consistent(lb: Any) -> None:
    """No row of the shared memory differs from what the living workers claimed. One that is being changed is looked at again."""

    def look() -> bool:
        answer = lb.control.ask("verify")
        assert answer["ok"], answer
        wrong = [row for row in answer["rows"] if row["expected"] is not None]
        assert not wrong, wrong
        return not answer["rows"]

    wait_until(look, "every row can be read")
