"""Files that the controller keeps over restarts: OCSP responses, ACME accounts, certificates and their keys.

They lie in `tls` below the state directory, which belongs to the account that the controller runs under: it is made at the start and by
each reload, with the privileges of the start. A file is written whole or not at all, and for its owner alone.
"""

import fcntl
import os
import secrets
import stat
import time
from contextlib import suppress
from pathlib import Path

from fastlb import FastlbError
from fastlb.control_plane.config.schema import GlobalSettings
from fastlb.control_plane.sticky_key import default_directories

DIRECTORY = "tls"
# A chain of many certificates with their key has 20 KiB; an OCSP response 2.
MAX_FILE_BYTES = 1 << 20


class StateError(FastlbError):
    """Something cannot be kept; the text says why and what to do."""


class Lock:
    """Owns a descriptor that holds a lock; -1 where there is nothing to lock. It ends with its process at the latest."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __del__(self) -> None:
        self.close()  # whoever waited for it in a task that was cancelled never got it

    def close(self) -> None:
        """Gives it back. Safe to repeat."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


class StateFiles:
    """Reads and writes below one directory. It blocks: call it from a thread.

    Args:
        directory: None where nothing can be kept: whatever is read is absent, and what is written is lost.
    """

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory

    def read(self, name: str) -> bytes:
        """What a file holds; b"" if there is none.

        Raises:
            StateError: it is there, and cannot be read.
        """
        if self.directory is None:
            return b""
        path = self.directory / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise StateError(f"{path} is not a file")
                content = file.read(MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise StateError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
        if len(content) > MAX_FILE_BYTES:
            raise StateError(f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB")
        return content

    def write(self, name: str, content: bytes) -> None:
        """Puts a file there whole, on the disk itself, in place of one of that name.

        Raises:
            StateError: what was there before is there still.
        """
        if self.directory is None:
            return
        path = self.directory / name
        new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            self._make_folder(path.parent)
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                new.rename(path)
            except BaseException:
                new.unlink(missing_ok=True)
                raise
            parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(parent)
            finally:
                os.close(parent)
        except OSError as error:
            raise StateError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from error

    def remove(self, name: str) -> None:
        """It is not there any more, if it can be helped."""
        if self.directory is not None:
            with suppress(OSError):
                (self.directory / name).unlink()

    def lock(self, name: str) -> "Lock | None":
        """Keeps other processes, on other nodes too if the directory is shared, from what this file stands for; None: one has it.

        Raises:
            StateError: there can be no lock.
        """
        if self.directory is None:
            return Lock(-1)
        path = self.directory / name
        try:
            self._make_folder(path.parent)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
            except BaseException:
                os.close(descriptor)
                raise
        except OSError as error:
            raise StateError(f"cannot lock {path}: {(error.strerror or str(error)).lower()}") from error
        return Lock(descriptor)

    def prune(self, folder: str, seconds: float) -> None:
        """Removes the files of a folder that nobody has written for so long."""
        if self.directory is None:
            return
        for name in self.list(folder):
            path = self.directory / folder / name
            with suppress(OSError):
                if path.stat().st_mtime < time.time() - seconds:
                    path.unlink()

    def _make_folder(self, folder: Path) -> None:
        """With those above it, each for its owner alone, which `parents` of mkdir does not do."""
        if not folder.is_dir():
            self._make_folder(folder.parent)
            folder.mkdir(mode=0o700, exist_ok=True)

    def list(self, folder: str) -> list[str]:
        """The names of the files in a folder, without those that a process left half-written."""
        if self.directory is None:
            return []
        try:
            return sorted(path.name for path in (self.directory / folder).iterdir() if not path.name.startswith("."))
        except OSError:
            return []


def find_state_files(settings: GlobalSettings) -> StateFiles:
    """What `make_state_directory` has made for these settings, if this account may write there."""
    for directory in _candidates(settings):
        path = directory / DIRECTORY
        if os.access(path, os.R_OK | os.W_OK | os.X_OK) and path.is_dir():  # in this order: what may not be passed through is no error
            return StateFiles(path)
    return StateFiles(None)


def make_state_directory(settings: GlobalSettings, account: tuple[int, int] | None) -> list[str]:
    """Makes the directory that `find_state_files` finds, with the privileges of the start; returns warnings.

    Args:
        account: user and group of the controller, where they are not those of this process.
    """
    reasons: list[str] = []
    for directory in _candidates(settings):
        try:
            _make(directory, account)
            return []
        except OSError as error:
            reasons.append(f"{directory}: {(error.strerror or str(error)).lower()}")
    right = "say where with state_dir in [global]"
    return [f"there is nowhere to keep certificates and OCSP responses over restarts ({'; '.join(reasons)}); {right}"]


def _make(directory: Path, account: tuple[int, int] | None) -> None:
    """OSError: it cannot be used."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / DIRECTORY
    path.mkdir(mode=0o700, exist_ok=True)
    if account is None:
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(f"{path} belongs to another account")
        return
    # By descriptor: the account that owns the directory could put a link in its place.
    opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchmod(opened, 0o700)
        os.fchown(opened, *account)
    finally:
        os.close(opened)
    status = directory.stat()
    if status.st_uid != account[0] and not status.st_mode & 0o001:
        directory.chmod(stat.S_IMODE(status.st_mode) | 0o011)  # to pass through, not to list: what else lies there is its owner's still


def _candidates(settings: GlobalSettings) -> list[Path]:
    return [Path(settings.state_dir)] if settings.state_dir else default_directories()
