"""Where the supervisor's children come from and how their ends are noticed.

Owns the zygote and the channels to processes that it is about to fork. A zygote that dies, or does not answer, is replaced by another one
forked from this very process, which has the same code whatever is installed by now. Whoever asked for a process is told when it is there,
or that it will not be; asking again is up to them.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from fastlb.processes.channel import Channel, ChannelError, open_pair
from fastlb.processes.child import Child
from fastlb.processes.messages import Fork, ForkFailed, FromZygote, Message
from fastlb.processes.output import report
from fastlb.processes.zygote import ZygoteOptions, start_zygote

# Then others have their turn, and the loop comes back to who still has something to say.
MESSAGES_PER_TURN = 32
# After a zygote that could not be forked.
RETRY_SECONDS = 1.0
# How long a fork may take; usually two milliseconds.
FORK_SECONDS = 5.0

OnMessage = Callable[[Any, list[int]], None]


class Parent(Protocol):
    """Who wants the children."""

    def on_born(self, role: int, child: Child) -> None:
        """The process that was asked for runs; nobody watches it yet."""

    def on_not_born(self, role: int, why: str) -> None:
        """It does not, and will not."""

    def on_zygote_replaced(self) -> None:
        """There is another zygote now."""

    def on_zygote_failed(self) -> None:
        """The first zygote ended before it had forked anything: it has said why."""


class Nursery:
    """Forks and watches.

    Args:
        options: what a zygote does.
        spared: children that were there before, for somebody else to look after.
    """

    def __init__(self, parent: Parent, options: ZygoteOptions, spared: frozenset[int]) -> None:
        self._parent = parent
        self._options = options
        self._spared = spared
        self._zygote: Child | None = None
        self._asked: dict[int, tuple[Channel[Any], float]] = {}  # our ends, and since when
        self._refused: set[int] = set()  # asked for while there was no zygote
        self._watched: set[int] = set()  # pids
        self._fruitful = False  # something has been forked
        self._on_ended: Callable[[], None] | None = None

    @property
    def zygote_pid(self) -> int:
        """0 once it has ended for good."""
        return self._zygote.pid if self._zygote is not None else 0

    @property
    def is_expecting(self) -> bool:
        """Whether a process that was asked for is not there yet."""
        return bool(self._asked)

    def open(self) -> None:
        """Forks the zygote. The first time before there is a loop, or anything else that a fork should not copy."""
        ours, theirs = open_pair()
        pid = start_zygote(theirs, self._options)
        theirs.close()
        self._zygote = Child(pid, Channel(ours, FromZygote))

    def start(self) -> None:
        """Begins to listen to the zygote; needs a running loop."""
        assert self._zygote is not None
        self.watch(self._zygote, self._on_zygote_exit, self._on_zygote_message)

    def close(self, ended: Callable[[], None]) -> None:
        """Lets the zygote end, which it does as soon as it is not listened to; `ended` is called when it has."""
        self._on_ended = ended
        if self._zygote is not None:
            asyncio.get_running_loop().remove_reader(self._zygote.channel.fileno())
            self._zygote.channel.close()

    def kill(self) -> None:
        """Ends a zygote that did not end by itself."""
        if self._zygote is not None:
            self._zygote.signal(signal.SIGKILL)
            self.bury(self._zygote)
            self._zygote = None

    def fork(self, role: int, n_workers: int, received: Any, *descriptors: int) -> None:
        """Asks the zygote for a process.

        Args:
            received: the messages that it may send.
            descriptors: what it gets besides its end of the channel.
        """
        if role in self._asked:
            return
        if self._zygote is None:
            self._refused.add(role)
            return
        ours, theirs = open_pair()
        self._asked[role] = (Channel(ours, received), asyncio.get_running_loop().time())
        if not self._zygote.send(Fork(role, n_workers), theirs.fileno(), *descriptors):
            self._zygote.signal(signal.SIGKILL)  # what was asked of it is then not born
        theirs.close()

    def watch(self, child: Child, on_exit: Callable[[], None], on_message: OnMessage) -> None:
        """Calls one of the two whenever there is reason to."""
        loop = asyncio.get_running_loop()
        self._watched.add(child.pid)
        if child.pidfd < 0:
            loop.call_soon(on_exit)
            return
        loop.add_reader(child.pidfd, on_exit)
        loop.add_reader(child.channel.fileno(), self._read, child, on_message)

    def bury(self, child: Child) -> str:
        """Stops watching an ended child and reaps it; how it ended, "" when in order."""
        loop = asyncio.get_running_loop()
        for descriptor in (child.pidfd, child.channel.fileno()):
            if descriptor >= 0:
                loop.remove_reader(descriptor)
        self._watched.discard(child.pid)
        return child.reap()

    def look_around(self) -> None:
        """Kills a zygote that does not answer, and reaps strangers: orphans below us become our children, all of the system's when we are
        process 1."""
        now = asyncio.get_running_loop().time()
        if self._zygote is not None and any(now - since > FORK_SECONDS for _, since in self._asked.values()):
            report(f"the zygote {self._zygote.pid} does not answer: killed")
            self._zygote.signal(signal.SIGKILL)
        with suppress(ChildProcessError):
            while not self._asked and (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                if ended.si_pid in self._watched | self._spared:
                    return  # its own descriptor tells of it
                os.waitpid(ended.si_pid, 0)

    def _read(self, child: Child, on_message: OnMessage) -> None:
        """Handles what a child says. One that says what it must not say has lost its mind."""
        try:
            for _ in range(MESSAGES_PER_TURN):
                received = child.channel.receive() if child.channel.fileno() >= 0 else None
                if received is None:
                    break
                message, descriptors = received
                try:
                    on_message(message, descriptors)
                finally:
                    for descriptor in descriptors:
                        os.close(descriptor)
        except EOFError:
            asyncio.get_running_loop().remove_reader(child.channel.fileno())  # its exit follows
        except ChannelError as error:
            report(f"process {child.pid}: {error}: killed")
            asyncio.get_running_loop().remove_reader(child.channel.fileno())
            child.signal(signal.SIGKILL)

    # -------------------------------------------------------------------------------------------------- the zygote
    def _on_zygote_message(self, message: Message, _: list[int]) -> None:
        assert isinstance(message, FromZygote)
        asked = self._asked.pop(message.role, None)
        if asked is None:
            return
        channel = asked[0]
        if isinstance(message, ForkFailed):
            channel.close()
            self._parent.on_not_born(message.role, message.text.lower())
        else:
            self._fruitful = True
            child = Child(message.pid, channel)
            if child.is_ours():
                self._parent.on_born(message.role, child)
                return
            # Whatever that is: we would signal it with our privileges.
            child.release()
            report(f"the zygote named a process, {message.pid}, that is not our child: killed")
            self._parent.on_not_born(message.role, "it was not born")
            if self._zygote is not None:
                self._zygote.signal(signal.SIGKILL)

    def _on_zygote_exit(self) -> None:
        zygote, self._zygote = self._zygote, None
        assert zygote is not None
        how = self.bury(zygote)
        if self._on_ended is not None:
            self._on_ended()
            return
        asked, self._asked = self._asked, {}
        for channel, _ in asked.values():
            channel.close()
        if not self._fruitful:
            self._parent.on_zygote_failed()
            return
        report(f"the zygote {zygote.pid} ended ({how or 'without a reason'}); starting another")
        if asked:
            self._end_strangers(_children())
        self._replace(list(asked))

    def _replace(self, asked: list[int]) -> None:
        """Forks another zygote, if need be after a while, and says what was not born."""
        if self._on_ended is not None:
            return
        try:
            self.open()
        except OSError as error:
            report(f"cannot fork a zygote: {(error.strerror or str(error)).lower()}; trying again: no worker can be replaced meanwhile")
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self._replace, asked)
            return
        self.start()
        self._parent.on_zygote_replaced()
        for role in [*asked, *self._refused]:
            self._parent.on_not_born(role, "the zygote ended")
        self._refused.clear()

    def _end_strangers(self, children: Iterable[int]) -> None:
        """Ends what a zygote had forked and could not tell of any more."""
        for pid in set(children) - self._watched - self._spared:
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)  # a child of ours that is not reaped: the number is its own
                os.waitpid(pid, 0)


def _children() -> list[int]:
    """All children of this process, the adopted ones too."""
    own = os.getpid()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == own:
                    found.append(int(entry.name))
    return found
