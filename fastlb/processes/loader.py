"""The loader: a process that reads the configuration again with the privileges of the supervisor, tells of it, and ends.

The supervisor forks it from itself, as it does the zygote, and parses nothing: what a file says is looked at here and in the controller.
"""

import os
import socket
from collections.abc import Callable

import msgspec

from fastlb.control_plane.reading import Reading, write_reading
from fastlb.processes import _system
from fastlb.processes.channel import Channel
from fastlb.processes.messages import Read, ToLoader
from fastlb.processes.zygote import run_child, start_afresh


def start_loader(end: socket.socket, read: Callable[[], Reading]) -> int:
    """Forks a loader that talks over `end`; returns its pid. Call it while no other thread runs.

    Args:
        read: what it does.

    Raises:
        OSError: the system refuses to fork.
    """
    pid = os.fork()
    if pid == 0:
        run_child(lambda: _load(end, read))
    return pid


def _load(end: socket.socket, read: Callable[[], Reading]) -> None:
    start_afresh(frozenset((end.fileno(),)))
    _system.set_process_title("fastlb: load")
    channel: Channel[ToLoader] = Channel(end, ToLoader)
    reading = read()
    descriptor = write_reading(reading)
    try:
        channel.send(Read(msgspec.json.encode(reading.tls.files)), descriptor)
    except ConnectionError:
        pass  # nobody waits for it any more
