"""How a fastlb finds the workers that outlived the supervisor before it, and what they hand over.

Each slot has a *door*: a unix socket in the runtime directory, which the supervisor binds before it forks and which only its own account
can connect to. A worker looks at it from the moment when its supervisor is gone. Whoever comes then is told what the worker has, and gets
copies of it: the shared memory, the worker's eventfd, and the listening sockets that it accepts from. The worker goes on as before until it
is told to drain; a visitor that leaves without a word has changed nothing.

`Doors` belongs to the supervisor, `Orphan` and `Visit` to the one that comes after it; the worker's side of a door is in worker.py.
"""

import os
import secrets
import select
import socket
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path

from fastlb import _core
from fastlb.processes.channel import CREDENTIALS, Channel, ChannelError
from fastlb.processes.messages import Endpoints, FromOrphan, Lend, Outlived
from fastlb.processes.output import report
from fastlb.processes.sockets import can_be_listened_on

PREFIX = "worker."
# For all workers together: they answer between two pumps.
MEETING_SECONDS = 3.0
# For what one of them says when it has begun to: it says all at once.
ANSWER_SECONDS = 0.1
# More than listeners times addresses of any configuration that can be had.
MAX_SOCKETS = 1 << 16


class Doors:
    """The doors of one supervisor's workers, by slot. Owns the sockets and their files.

    Args:
        directory: where they are.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.name = secrets.token_hex(4)  # those of a supervisor before us stay until its workers are gone
        self._doors: dict[int, socket.socket] = {}
        self._failed = False

    def open(self, slot: int) -> socket.socket | None:
        """The door of a slot; the same one for each worker that it has. None: it cannot be had, which is said once."""
        if slot not in self._doors and not self._failed:
            try:
                self._doors[slot] = open_door(self._path(slot))
            except OSError as error:
                self._failed = True
                report(f"cannot bind {self._path(slot)}: {(error.strerror or str(error)).lower()}; workers do not outlive this supervisor")
        return self._doors.get(slot)

    def close(self) -> None:
        for slot, door in self._doors.items():
            door.close()
            self._path(slot).unlink(missing_ok=True)
        self._doors.clear()

    def _path(self, slot: int) -> Path:
        return self._directory / f"{PREFIX}{self.name}.{slot}"


def open_door(path: Path) -> socket.socket:
    """A listening socket that only this account can connect to. OSError."""
    door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    mask = os.umask(0o177)
    try:
        door.bind(str(path))
        door.listen(1)
    except BaseException:
        door.close()
        raise
    finally:
        os.umask(mask)
    return door


def peer_user(connection: socket.socket) -> int:
    """The account of the other end; of a door, who bound it."""
    uid = CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))[1]
    return int(uid)


def peer_process(connection: socket.socket) -> int:
    """The process at the other end; of a pair of sockets, which made it."""
    pid = CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))[0]
    return int(pid)


def states_to_copy(shared: _core.SharedMemory) -> dict[str, int]:
    """What the controller and the operator said of backends, by identity, without those that are up and ready."""
    said = sum(_core.ROW_STATES[name] for name in ("down", "drain", "maintenance"))
    states = {str(row["identity"]): int(row["state"]) & said for row in shared.backends()}
    return {identity: state for identity, state in states.items() if state}


@dataclass(slots=True)
class Orphan:
    """A worker that outlived its supervisor, met at its door. Owns the channel and all descriptors.

    Args:
        pid: as the kernel says; it is not our child.
        sockets: those that it accepts from.
        pidfd: tells of its end.
    """

    path: Path
    channel: Channel[FromOrphan]
    pid: int
    pidfd: int
    build_id: str
    slot: int
    shared_fd: int
    event_fd: int
    sockets: list[socket.socket] = field(default_factory=list)
    states: dict[str, int] = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)
    endpoints: Endpoints = field(default_factory=dict)

    def close(self) -> None:
        """Lets go of it: it serves on, or ends by itself when it has been told to."""
        self.channel.close()
        for descriptor in (self.pidfd, self.shared_fd, self.event_fd):
            if descriptor >= 0:
                os.close(descriptor)
        self.pidfd = self.shared_fd = self.event_fd = -1
        self.close_sockets()

    def close_sockets(self) -> None:
        """Closes our copies: it accepts on as it did."""
        for one in self.sockets:
            one.close()
        self.sockets.clear()


@dataclass(slots=True)
class Visit:
    """A door at which nobody has answered yet: a worker that is stopped, say.

    Args:
        connection: owned; None: others stand before that door.
    """

    path: Path
    connection: socket.socket | None = None

    def knock(self) -> bool:
        """Stands at the door, if there is room. False: it is none any more."""
        try:
            self.connection = _knock(self.path)
        except BlockingIOError:
            pass
        except ConnectionRefusedError:
            self.path.unlink(missing_ok=True)  # nobody has it open any more
            return False
        except OSError as error:
            report(f"{self.path} is no worker of ours: {(error.strerror or str(error)).lower()}")
            return False
        return True

    def is_answered(self, seconds: float) -> bool:
        """Whether there is something to hear, or the end of it."""
        if self.connection is None:
            return False
        poll = select.poll()
        poll.register(self.connection, select.POLLIN)
        return bool(poll.poll(max(seconds, 0) * 1000))

    def hear(self) -> Orphan | None:
        """What a worker that has begun to answer hands over; None: nothing, which is said. Ends the visit."""
        connection, self.connection = self.connection, None
        assert connection is not None
        try:
            return _hear(self.path, connection, time.monotonic() + ANSWER_SECONDS)
        except (OSError, EOFError, ChannelError) as error:
            report(f"the worker of {self.path} hands nothing over: {str(error) or 'it hung up'}")
            return None

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def find_orphans(directory: Path, but: str = "") -> tuple[list[Orphan], list[Visit]]:
    """Meets all workers that serve without a supervisor, and takes away the doors of those that are no more.

    Only for who has the directory.

    Args:
        but: the name of those doors that are our own workers'.

    Returns:
        Those that answer, and where nobody did yet.
    """
    visits = [Visit(path) for path in sorted(directory.glob(PREFIX + "*")) if not (but and path.name.startswith(f"{PREFIX}{but}."))]
    visits = [visit for visit in visits if visit.knock()]
    deadline = time.monotonic() + MEETING_SECONDS
    found, silent = [], []
    for visit in visits:
        if not visit.is_answered(deadline - time.monotonic()):
            report(f"the worker of {visit.path} does not answer: it drains when it does")
            silent.append(visit)
        elif (orphan := visit.hear()) is not None:
            found.append(orphan)
    return found, silent


def _knock(path: Path) -> socket.socket:
    """Connects to a door.

    Raises:
        OSError: it is none, or not one that our account has made.
    """
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise OSError("it is not a socket")
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(0)  # the queue of a door that is full: somebody else is there
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        connection.connect(str(path))
        if peer_user(connection) != os.geteuid():
            raise OSError(f"user {peer_user(connection)} has bound it")
    except BaseException:
        connection.close()
        raise
    return connection


def _hear(path: Path, connection: socket.socket, deadline: float) -> Orphan:
    """What a worker hands over.

    Raises:
        OSError, EOFError, ChannelError: it does not answer, or says what no worker says.
    """
    channel: Channel[FromOrphan] = Channel(connection, FromOrphan)
    orphan = Orphan(path, channel, 0, -1, "", 0, -1, -1)
    try:
        first, descriptors = _receive(connection, channel, deadline)
        if not isinstance(first, Outlived) or len(descriptors) != 2 or first.n_sockets > MAX_SOCKETS or not channel.sender:
            for descriptor in descriptors:
                os.close(descriptor)
            raise ChannelError("it does not say who it is")
        orphan.shared_fd, orphan.event_fd = descriptors
        orphan.build_id, orphan.slot, orphan.pid, orphan.states = first.build_id, first.slot, channel.sender, first.states
        orphan.weights, orphan.endpoints = first.weights, first.endpoints
        orphan.pidfd = os.pidfd_open(orphan.pid)
        while len(orphan.sockets) < first.n_sockets:
            message, descriptors = _receive(connection, channel, deadline)
            taken = take_listening(descriptors)
            orphan.sockets += taken
            if not isinstance(message, Lend) or not taken or len(taken) != len(descriptors):
                raise ChannelError("it does not hand over what it said")
        if _has_hung_up(connection):
            raise EOFError  # and its number may be somebody else's by now
        connection.settimeout(None)
    except BaseException:
        orphan.close()
        raise
    return orphan


def _receive(connection: socket.socket, channel: Channel[FromOrphan], deadline: float) -> tuple[FromOrphan, list[int]]:
    connection.settimeout(max(deadline - time.monotonic(), 0.001))
    received = channel.receive(wait=True)
    if received is None:
        raise TimeoutError("it does not answer")
    return received


def _has_hung_up(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, 0)
    return bool(poll.poll(0))


def take_listening(descriptors: list[int]) -> list[socket.socket]:
    """Those of them that are listening stream sockets; the others are closed."""
    taken = []
    for descriptor in descriptors:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            continue
        one = socket.socket(fileno=descriptor)
        if can_be_listened_on(one):
            one.setblocking(False)
            taken.append(one)
        else:
            one.close()
    return taken
