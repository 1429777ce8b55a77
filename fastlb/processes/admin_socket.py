"""The listening sockets of the admin API: bound by who has the privileges, and lent to whichever controller runs.

So root's commands reach a controller that is not root, and a caller who comes while there is none waits for the next. The usual socket is
`fastlb.sock` in the runtime directory, where the commands look by themselves.
"""

import errno
import os
import time
from collections.abc import Iterable
from pathlib import Path

from fastlb import FastlbError
from fastlb.control_plane.config.address import BindAddress
from fastlb.control_plane.config.admin_address import AdminAddresses
from fastlb.processes.runtime_directory import find_runtime_directory
from fastlb.processes.sockets import BoundAddress, bind_address

FILE_NAME = "fastlb.sock"
# Callers that wait for the controller, or for its successor.
BACKLOG = 64
# A fastlb that has just been killed leaves a controller that is about to notice.
DYING_SECONDS = 1.0
SYSTEM_DIRECTORY = Path("/run/fastlb")


class AdminSocketError(FastlbError):
    """An address of the admin API that cannot be had."""


def admin_addresses(wanted: AdminAddresses, directory: Path | None) -> list[BindAddress]:
    """Where the admin API shall be.

    Args:
        directory: for the usual socket; None where there is none to be had.
    """
    usual = [BindAddress("", 0, str(directory / FILE_NAME))] if wanted.usual and directory is not None else []
    return [*wanted.addresses, *usual]


def open_admin(addresses: Iterable[BindAddress], kept: Iterable[BoundAddress] = ()) -> list[BoundAddress]:
    """Binds the addresses of the admin API; the caller closes them.

    Args:
        kept: those that are open already, as the fastlb before this one has handed them over.

    Raises:
        AdminSocketError: one of them cannot be bound; none is open then.
    """
    bound = list(kept)
    for address in addresses:
        if any(one.address == address for one in bound):
            continue
        try:
            bound.append(_bind(address))
        except OSError as error:
            for one in bound:
                one.close()
            raise AdminSocketError(f"cannot open the admin API at {address}: {(error.strerror or str(error)).lower()}") from error
    return bound


def usual_sockets() -> list[Path]:
    """Where a command looks for a fastlb: its own account's, then the system's."""
    return list(dict.fromkeys([find_runtime_directory() / FILE_NAME, SYSTEM_DIRECTORY / FILE_NAME]))


def _bind(address: BindAddress) -> BoundAddress:
    mask = os.umask(0o177)  # a unix socket is its owner's alone, from the first moment
    deadline = time.monotonic() + DYING_SECONDS
    try:
        while True:
            try:
                return bind_address(address, BACKLOG)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                    raise
                time.sleep(DYING_SECONDS / 50)
    finally:
        os.umask(mask)
