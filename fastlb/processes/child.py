"""A process that the supervisor watches: its pid, the descriptor that tells of its end, and the channel to it.

Owns the pidfd and the supervisor's end of the channel. The number of a process means nothing once it is reaped, so signals go through the
pidfd.
"""

import asyncio
import os
import signal
from collections import deque
from typing import Any

from fastlb.processes.channel import Channel
from fastlb.processes.messages import Message

# Messages that wait for a child that does not read; a stopped one is killed long before.
MAX_WAITING = 10_000


class Child:
    """A running (or ended and not yet reaped) child process."""

    def __init__(self, pid: int, channel: Channel[Any]) -> None:
        self.pid = pid
        self.channel = channel
        self._waiting: deque[tuple[Message, tuple[int, ...]]] = deque()  # with copies of the descriptors, owned
        try:
            self.pidfd = os.pidfd_open(pid)
        except ProcessLookupError:  # gone, and reaped by somebody else
            self.pidfd = -1

    def send(self, message: Message, *descriptors: int) -> bool:
        """Sends without waiting. What the other end has no room for yet is sent as soon as it has; the watchdog ends one that stands still.

        Returns:
            False when it is gone, or so much waits for it that it must be taken for dead.
        """
        if not self._waiting:
            try:
                self.channel.send(message, *descriptors, wait=False)
            except BlockingIOError:
                asyncio.get_running_loop().add_writer(self.channel.fileno(), self._send_waiting)
            except OSError:  # its end follows
                return False
            else:
                return True
        if len(self._waiting) >= MAX_WAITING:
            return False
        self._waiting.append((message, tuple(os.dup(descriptor) for descriptor in descriptors)))
        return True

    def _send_waiting(self) -> None:
        while self._waiting:
            message, descriptors = self._waiting[0]
            try:
                self.channel.send(message, *descriptors, wait=False)
            except BlockingIOError:
                return
            except OSError:
                self._forget_waiting()
                return
            self._waiting.popleft()
            for descriptor in descriptors:
                os.close(descriptor)
        asyncio.get_running_loop().remove_writer(self.channel.fileno())

    def _forget_waiting(self) -> None:
        """What could not be sent any more."""
        if self._waiting:
            asyncio.get_running_loop().remove_writer(self.channel.fileno())
        for _, descriptors in self._waiting:
            for descriptor in descriptors:
                os.close(descriptor)
        self._waiting.clear()

    def signal(self, number: signal.Signals) -> None:
        if self.pidfd >= 0:
            try:
                signal.pidfd_send_signal(self.pidfd, number)
            except ProcessLookupError:
                pass

    def is_ours(self) -> bool:
        """Whether it is a child of this process, running or ended."""
        if self.pidfd < 0:
            return True  # it was, and is gone
        try:
            os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return True

    def release(self) -> None:
        """Lets go of it without waiting for its end."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        self._forget_waiting()
        self.channel.close()

    def reap(self) -> str:
        """Takes it off the system's list once it has ended, closes what belongs to it and says how it ended; "" if that was in order."""
        status = 0
        if self.pidfd >= 0:
            try:
                result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
                if result is not None:
                    status = result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
            except ChildProcessError:
                pass
        self.release()
        if status == 0:
            return ""
        return f"exit code {status}" if status > 0 else f"killed by {_name_signal(-status)}"


def _name_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
