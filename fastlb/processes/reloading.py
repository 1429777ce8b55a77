"""Reloads as the supervisor sees them: one at a time, from the wish to the controller's word that it is done.

Owns the loader process and the watch on the configuration file. SIGHUP, the controller (for the admin API) and a changed file lead to the
same. Who asks while one goes on gets another one afterwards, once for all. It never looks into what a loader leaves: that is the
controller's.

The files that the configuration names for TLS are watched as well. When one of them changes a loader reads them alone, and nothing else of
the configuration changes. Which they are is known from loaders and from the start, never from the controller, which could have any file
read.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Protocol

import msgspec

from fastlb import FastlbError
from fastlb.control_plane.reading import Reading, read_tls_again
from fastlb.control_plane.tls.files import NO_FILES, TlsFiles
from fastlb.processes.channel import Channel, open_pair
from fastlb.processes.child import Child
from fastlb.processes.loader import start_loader
from fastlb.processes.messages import FromLoader, Read, Reread, ToController
from fastlb.processes.nursery import Nursery
from fastlb.processes.output import report
from fastlb.processes.systemd import notify

# Ten thousand routes take about a second to read. A loader that takes longer waits for a file system that does not answer.
LOAD_SECONDS = 30.0
# How often a watched file is looked at. It is read when it looks the same twice: whoever writes it has finished by then.
WATCH_SECONDS = 0.5
# Of many files so many at a time: each costs 3 µs, and the watch no more than half a percent of a core. 10,000 certificates with their keys
# are looked at in 17 seconds; one that differs is looked at every time.
FILES_PER_LOOK = 600
# A changed file of TLS that could not be put in force (no process, a worker that refused) is read again after this, then after twice as
# long, and so on: nobody else would do it before the certificate in use has expired.
RETRY_SECONDS = 60.0
MOST_RETRY_SECONDS = 3600.0

Identity = tuple[int, int, int, int]


class LoadError(FastlbError):
    """The configuration could not be read again, for reasons that are not in it."""


class Parent(Protocol):
    """Who has the controller."""

    @property
    def is_started(self) -> bool:
        """Whether every worker has been ready: a reload before that would come between."""

    @property
    def is_ending(self) -> bool:
        """Whether no configuration is taken any more."""

    @property
    def is_watching(self) -> bool:
        """Whether the configuration in force has its file watched."""

    @property
    def controller(self) -> Child | None:
        """The one that runs, if it has said hello."""

    def tell_controller(self, message: ToController, *descriptors: int) -> None:
        """Says something to the controller, if there is one."""

    async def wait_for(self, holds: Callable[[], bool]) -> None:
        """Looks again whenever a child has moved on."""


class Reloading:
    """Reads the configuration file again and has the controller apply it.

    Args:
        path: of the file; "" where fastlb was started without one.
        read: what the loader does.
        tls_files: what the configuration of the start names.
    """

    def __init__(self, parent: Parent, nursery: Nursery, path: str, read: Callable[[], Reading], tls_files: TlsFiles = NO_FILES) -> None:
        self._parent = parent
        self._nursery = nursery
        self._path = path
        self._read = read
        self._watched = WatchedFile(path)
        self._tls_files = self._found_files = tls_files  # of the configuration in force; of the one that was read last
        self._watched_files = WatchedFiles(tls_files.paths())
        self._wants_all = False  # the configuration too, not only the files of TLS
        self._loader: Child | None = None
        self._wanted = asyncio.Event()
        self._ticket = 0  # the last that the controller drew; tickets are its own
        self._number = 0  # of the reload that goes on
        self._done = 0  # the last that a controller has finished
        self._was_applied = False
        self._retry_seconds = RETRY_SECONDS

    def request(self, ticket: int | None = None) -> None:
        """Has a reload begin, or another one when the one that goes on is done.

        Args:
            ticket: the controller's, which it recognises its own wish by.
        """
        if ticket is not None:
            self._ticket = ticket
        self._wants_all = True
        self._wanted.set()

    def on_done(self, number: int, applied: bool = True) -> None:
        """The controller has applied what was read, or said why not. A number that is not due means nothing."""
        if number != self._number:
            return
        self._done = number
        self._was_applied = applied
        if applied and self._found_files != self._tls_files:
            self._tls_files = self._found_files
            self._watched_files = WatchedFiles(self._tls_files.paths())
            self._wanted.set()  # one of them may have changed since it was read

    async def run(self) -> None:
        """Reloads whenever it is wished. Runs until it is cancelled."""
        while True:
            await self._wanted.wait()
            await self._parent.wait_for(lambda: self._parent.is_started and self._parent.controller is not None)
            self._wanted.clear()
            if not self._wants_all:
                if await self._reload(0, partial(read_tls_again, self._tls_files)):
                    self._retry_seconds = RETRY_SECONDS
                elif not self._parent.is_ending:
                    asyncio.get_running_loop().call_later(self._retry_seconds, self._wanted.set)
                    self._retry_seconds = min(2 * self._retry_seconds, MOST_RETRY_SECONDS)
                continue
            self._wants_all = False
            if not self._parent.is_ending:
                notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
            await self._reload(self._ticket, self._read)
            if not self._parent.is_ending:
                notify("READY=1")

    async def watch(self) -> None:
        """Wishes a reload whenever the file has changed, and files of TLS to be read when one of them has. Runs until it is cancelled."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if self._path and self._parent.is_watching and self._watched.has_changed():
                self.request()
            if self._watched_files.has_changed():
                self._wanted.set()

    def close(self) -> None:
        """Ends a loader that still runs."""
        if self._loader is not None:
            self._loader.signal(signal.SIGKILL)

    async def _reload(self, ticket: int, read: Callable[[], Reading]) -> bool:
        """Whether what was read is in force."""
        self._number += 1
        number = self._number
        controller = self._parent.controller
        try:
            descriptor = await self._load(read)
        except LoadError as error:
            self._parent.tell_controller(Reread(number, ticket, str(error)))
        else:
            self._parent.tell_controller(Reread(number, ticket, ""), descriptor)
            os.close(descriptor)
        await self._parent.wait_for(lambda: self._done >= number or self._parent.controller is not controller)
        if self._done < number:
            report("the controller ended during a reload: whether the new configuration is in force is said above; reload again if not")
        return self._done >= number and self._was_applied

    async def _load(self, read: Callable[[], Reading]) -> int:
        """Has a loader read; returns what it left, which the caller closes.

        Raises:
            LoadError: there was nothing to read, or it did not come to its end.
        """
        if self._parent.is_ending:
            raise LoadError("fastlb is ending and takes no configuration any more")
        if not self._path and read is self._read:
            raise LoadError("there is nothing to reload: fastlb was started without a configuration file (fastlb serve -c FILE)")
        if read is self._read:
            self._watched.note()
        else:  # what a reload has read of them may come to nothing
            self._watched_files.note()
        try:
            loader = self._loader = self._start_loader(read)
        except OSError as error:
            raise LoadError(f"cannot fork the process that reads the configuration: {(error.strerror or str(error)).lower()}") from error
        left: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._nursery.watch(loader, partial(self._on_exit, loader, left), partial(self._on_read, left))
        try:
            async with asyncio.timeout(LOAD_SECONDS):
                return await left
        except TimeoutError:
            loader.signal(signal.SIGKILL)
            what = self._path if read is self._read else "the files of TLS"
            raise LoadError(f"{what}: reading it took more than {LOAD_SECONDS:g} s, and was given up") from None

    def _start_loader(self, read: Callable[[], Reading]) -> Child:
        """OSError: there is none, and nothing is left of it."""
        ours, theirs = open_pair()
        try:
            with theirs:
                pid = start_loader(theirs, read)
            try:
                return Child(pid, Channel(ours, FromLoader))
            except OSError:
                os.kill(pid, signal.SIGKILL)  # a child of ours that is not reaped: the number is its own
                os.waitpid(pid, 0)
                raise
        except OSError:
            ours.close()
            raise

    def _on_read(self, left: asyncio.Future[int], message: object, descriptors: list[int]) -> None:
        if descriptors and not left.done():
            if isinstance(message, Read) and message.tls_files:
                self._found_files = msgspec.json.decode(message.tls_files, type=TlsFiles)
            left.set_result(os.dup(descriptors[0]))

    def _on_exit(self, loader: Child, left: asyncio.Future[int]) -> None:
        while not left.done() and (received := _receive(loader)) is not None:  # what it said last may not have been read yet
            self._on_read(left, *received)
            for descriptor in received[1]:
                os.close(descriptor)
        how = self._nursery.bury(loader)
        if self._loader is loader:
            self._loader = None
        if not left.done():
            left.set_exception(LoadError(f"the process that reads the configuration ended ({how or 'without a reason'})"))


class WatchedFiles:
    """Files of which any may change, looked at in turns."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._files = [WatchedFile(path) for path in paths]
        self._next = 0
        self._differing: set[WatchedFile] = set()  # from what was read, at the last look

    def note(self) -> None:
        """They are about to be read."""
        for file in self._files:
            file.note()
        self._differing.clear()

    def has_changed(self) -> bool:
        """Whether one has, of those whose turn it is and those that differed when they were looked at last."""
        due = self._differing.union(self._files[self._next : self._next + FILES_PER_LOOK])
        self._next = self._next + FILES_PER_LOOK if self._next + FILES_PER_LOOK < len(self._files) else 0
        changed = [file for file in due if file.has_changed()]  # each of them looks
        self._differing = {file for file in due if file.differs}
        return bool(changed)


class WatchedFile:
    """Whether a file is another one than the one that was read: written in place, replaced by a rename, or by a link on its path.

    Args:
        path: "" for none.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._read: Identity | None = None
        self._seen: Identity | None = None
        self.note()

    def note(self) -> None:
        """It is about to be read."""
        self._read = self._seen = self._identify()

    @property
    def differs(self) -> bool:
        """Whether it is another one than the one that was read, as it looked the last time."""
        return self._seen is not None and self._seen != self._read

    def has_changed(self) -> bool:
        """Whether it differs from what was read and has not changed since the last look. One that is gone has not changed: an editor that
        moves it away puts another one there."""
        before, self._seen = self._seen, self._identify()
        return self._seen is not None and self._seen == before and self._seen != self._read

    def _identify(self) -> Identity | None:
        with suppress(OSError, ValueError):
            status = os.stat(self._path)  # noqa: PTH116  a Path costs three times as much
            return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
        return None


def _receive(child: Child) -> tuple[object, list[int]] | None:
    with suppress(EOFError, FastlbError, OSError):
        return child.channel.receive()
    return None
