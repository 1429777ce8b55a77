"""The zygote: forks the controller and the workers from a process that has everything imported and nothing running.

A fork takes two milliseconds where a fresh interpreter takes a quarter of a second, memory that nobody writes is shared, and a worker that
is restarted after `pip install -U` still runs the code that its memory layout belongs to. It has no thread, no loop and no privileges:
those are dropped here, so that whatever it forks never had any. It ends when the supervisor does.

Nothing is imported once privileges are dropped: the account may not be allowed to read where Python lives. So what the standard library
would load at first use (threads for asyncio, the codec for names) is imported here.
"""

import asyncio
import concurrent.futures.thread  # noqa: F401  see below
import encodings.idna  # noqa: F401
import gc
import os
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from fastlb import FastlbError
from fastlb.processes.channel import Channel
from fastlb.processes.messages import Fork, Forked, ForkFailed, FromZygote, ToZygote
from fastlb.processes.output import report

# What a terminal sends to the whole group, and what the supervisor handles for all. Ctrl-C reaches everybody; the supervisor decides.
IGNORED_SIGNALS = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

# Runs a forked process to its end.
Run = Callable[[Fork, list[int]], None]


@dataclass(frozen=True, slots=True)
class ZygoteOptions:
    """What a zygote needs.

    Args:
        drop_privileges: called first; FastlbError when that cannot be done.
        run: what a forked child does, until it returns.
        kept: descriptors of the supervisor's that its children need.
    """

    drop_privileges: Callable[[], None]
    run: Run
    kept: frozenset[int] = frozenset()


def start_zygote(end: socket.socket, options: ZygoteOptions) -> int:
    """Forks a zygote that talks over `end`; returns its pid. Call it while no other thread runs."""
    pid = os.fork()
    if pid == 0:
        run_child(lambda: _serve(end, options))
    return pid


def _serve(end: socket.socket, options: ZygoteOptions) -> None:
    start_afresh(options.kept | {end.fileno()})
    options.drop_privileges()
    gc.collect()
    gc.freeze()  # what exists now is never collected, so that collections in the children do not write to shared pages
    channel: Channel[ToZygote] = Channel(end, ToZygote)
    while True:
        try:
            received = channel.receive(wait=True)
        except EOFError:
            return
        assert received is not None
        fork, descriptors = received
        try:
            channel.send(_fork_detached(fork, descriptors, channel, options))
        except ConnectionError:
            return
        finally:
            for descriptor in descriptors:
                os.close(descriptor)


def _fork_detached(fork: Fork, descriptors: list[int], channel: Channel[ToZygote], options: ZygoteOptions) -> FromZygote:
    """Forks twice: the process in between ends at once, and the supervisor, a child subreaper, becomes the new one's parent."""
    readable, writable = os.pipe()
    try:
        between = os.fork()
    except OSError as error:
        os.close(readable)
        os.close(writable)
        return ForkFailed(fork.role, error.strerror or str(error))
    if between == 0:
        run_child(lambda: _fork_again(fork, descriptors, channel, options, readable, writable))
    os.close(writable)
    told = os.read(readable, 8)  # one write of eight bytes, or the end
    os.close(readable)
    os.waitpid(between, 0)
    if len(told) != 8:
        return ForkFailed(fork.role, "the second fork did not answer")
    pid, error_number = struct.unpack("ii", told)
    return Forked(fork.role, pid) if pid else ForkFailed(fork.role, os.strerror(error_number))


def _fork_again(
    fork: Fork, descriptors: list[int], channel: Channel[ToZygote], options: ZygoteOptions, readable: int, writable: int
) -> None:
    try:
        pid = os.fork()
    except OSError as error:
        os.write(writable, struct.pack("ii", 0, error.errno))
        return
    if pid:
        os.write(writable, struct.pack("ii", pid, 0))
        return
    os.close(readable)
    os.close(writable)
    channel.close()
    options.run(fork, descriptors)


def run_child(run: Callable[[], None]) -> NoReturn:
    """The rest of the life of a forked process. It never returns into its parent's code, and no interpreter is taken down: that would copy
    pages which are shared, for nothing."""
    status = 1
    try:
        run()
        status = 0
    except FastlbError as error:
        report(str(error))
    except BaseException as error:
        # Its own words are all that is left to tell what happened.
        report(f"process {os.getpid()} ends because of a mistake in fastlb: {type(error).__name__}: {error}")
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                pass
        os._exit(status)


def start_afresh(kept: frozenset[int]) -> None:
    """Lets go of what was the supervisor's: its descriptors, its loop if it had one already, its signal handlers."""
    signal.set_wakeup_fd(-1)
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    asyncio._set_running_loop(None)
    # Closing a copy of an epoll descriptor changes nothing for the supervisor; closing its loop would.
    for entry in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        if entry > 2 and entry not in kept:
            try:
                os.close(entry)
            except OSError:
                pass  # the listing's own
