"""The listening sockets of the admin API: bound by who has the privileges, and lent to whichever controller runs.

So root's commands reach a controller that is not root, and a caller who comes while there is none waits for the next. The usual socket is
`fastlb.sock` in the runtime directory, where the commands look by themselves.
"""

import os
from pathlib import Path

from fastlb import FastlbError
from fastlb.control_plane.config.address import BindAddress
from fastlb.control_plane.config.admin_address import AdminAddresses
from fastlb.processes.runtime_directory import find_runtime_directory
from fastlb.processes.sockets import BoundAddress, bind_address

FILE_NAME = "fastlb.sock"
# Callers that wait for the controller, or for its successor.
BACKLOG = 64
SYSTEM_DIRECTORY = Path("/run/fastlb")


class AdminSocketError(FastlbError):
    """An address of the admin API that cannot be had."""


def open_admin(wanted: AdminAddresses, directory: Path | None) -> list[BoundAddress]:
    """Binds the addresses of the admin API; the caller closes them.

    Args:
        directory: for the usual socket; None where there is none to be had.

    Raises:
        AdminSocketError: one of them cannot be bound; none is open then.
    """
    addresses = list(wanted.addresses)
    if wanted.usual and directory is not None:
        addresses.append(BindAddress("", 0, str(directory / FILE_NAME)))
    bound: list[BoundAddress] = []
    for address in addresses:
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
    try:
        return bind_address(address, BACKLOG)
    finally:
        os.umask(mask)
