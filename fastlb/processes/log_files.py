"""Opens what log lines are written to. Workers get copies of the descriptors, and copy them once more into their
engine."""

import os
import socket
from collections.abc import Iterable

from fastlb import FastlbError
from fastlb.control_plane.config.log_destination import LogDestination

# The owner writes, its group reads, as other daemons have it.
FILE_MODE = 0o640


class LogFileError(FastlbError):
    """A log cannot be opened."""


def open_destination(destination: LogDestination) -> int:
    """A descriptor to write lines to.

    A file is made if it is missing and always appended to, so that several processes may write to it. A syslog socket is connected; a unix
    one has to have its daemon at this moment, a distant one is named by its IP address.

    Raises:
        LogFileError
    """
    try:
        if destination.kind == "file":
            # Not blocking while it is opened: a named pipe without a reader is an error and not a wait for ever.
            descriptor = os.open(destination.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, FILE_MODE)
            os.set_blocking(descriptor, True)
            return descriptor
        if destination.kind == "stream":
            return os.dup(1 if destination.stream == "stdout" else 2)
        return _connect(destination)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise LogFileError(f"cannot open the log {destination}: {reason}") from error


def _connect(destination: LogDestination) -> int:
    if destination.path:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address: object = destination.path
    else:
        # Numeric: a name server that does not answer must not hold up the supervisor.
        family, kind, protocol, _, address = socket.getaddrinfo(
            destination.host, destination.port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
        )[0]
        connection = socket.socket(family, kind, protocol)
    with connection:
        connection.connect(address)  # type: ignore[arg-type]  # of either family
        return connection.detach()


class LogFiles:
    """The destinations of the snapshot in force, open. Owns their descriptors."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[LogDestination, int]] = {}

    def open(self, destinations: Iterable[LogDestination]) -> None:
        """Opens those that are not open yet. What is not kept afterwards stays open until the next `keep`.

        Raises:
            LogFileError
        """
        for destination in destinations:
            if str(destination) not in self._open:
                self._open[str(destination)] = (destination, open_destination(destination))

    def keep(self, destinations: Iterable[LogDestination]) -> None:
        """Closes all others."""
        wanted = {str(destination) for destination in destinations}
        for name in self._open.keys() - wanted:
            os.close(self._open.pop(name)[1])

    def reopen(self) -> list[LogFileError]:
        """Opens every one anew; what goes wrong, with the old descriptor kept."""
        errors = []
        for name, (destination, descriptor) in self._open.items():
            try:
                opened = open_destination(destination)
            except LogFileError as error:
                errors.append(error)
                continue
            os.close(descriptor)
            self._open[name] = (destination, opened)
        return errors

    def fileno(self, destination: LogDestination) -> int:
        return self._open[str(destination)][1]

    def close(self) -> None:
        self.keep(())
