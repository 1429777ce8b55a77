"""The pid file: says who to send signals to, and keeps a second fastlb with the same file from starting.

A `PidFile` owns the file, and a lock on it for as long as its process lives. The lock and not the number says whether the writer is alive:
numbers are used again, locks end with their process. It is a record lock (fcntl(2), F_SETLK), which a fork does not inherit: workers that
outlive the supervisor for a moment do not keep the next one from starting. Only the process that called `write` may call `remove`.
"""

import fcntl
import os
import re
import stat
from pathlib import Path

from fastlb import FastlbError

MODE = 0o644
# More digits than any process id has.
MAX_BYTES = 32
# Others that start or end at the same moment can get in between; each of them makes one try fail.
TRIES = 100
# Of the pid file of a fastlb whose successor runs.
SUFFIX = ".oldbin"


class PidFileError(FastlbError):
    """The file belongs to a fastlb that is alive, or cannot be written."""


class PidFile:
    """One file with the number of this process.

    Args:
        path: "" for none; both functions do nothing then.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path) if path else None
        self._descriptor = -1  # owned; holds the lock
        self._aside = False

    def write(self) -> None:
        """Puts the number of this process there, whole or not at all. What a process left behind that is gone is replaced.

        Raises:
            PidFileError: a live fastlb has the file, it is no pid file, or it cannot be written.
        """
        if self._path is None:
            return
        new = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            self._descriptor = _create(new)
            try:
                _publish(new, self._path)
            finally:
                new.unlink(missing_ok=True)
        except OSError as error:
            self._forget()
            reason = (error.strerror or str(error)).lower()
            raise PidFileError(f"cannot write the pid file {self._path}: {reason}; choose another path or none (pid_file)") from error
        except PidFileError:
            self._forget()
            raise

    def step_aside(self) -> None:
        """Leaves the path to the fastlb that takes our place: what was written here is found under the name with ".oldbin", as nginx has
        it. OSError."""
        if self._path is not None and self._descriptor >= 0 and not self._aside and _is_at(self._descriptor, self._path):
            aside = self._path.with_name(self._path.name + SUFFIX)
            self._path.rename(aside)
            self._path, self._aside = aside, True

    def come_back(self) -> None:
        """Takes the path again, that the other one is gone. OSError; PidFileError: somebody alive has it."""
        if self._path is not None and self._aside:
            path = self._path.with_name(self._path.name.removesuffix(SUFFIX))
            try:
                os.link(self._path, path)
                self._path.unlink()
            except FileExistsError:
                if not _replace(self._path, path):
                    raise PidFileError(f"the pid file {path} keeps changing hands") from None
            self._path, self._aside = path, False

    def remove(self) -> None:
        """Removes the file if it is still the one that was written here."""
        if self._path is None or self._descriptor < 0:
            return
        try:
            if _is_at(self._descriptor, self._path):
                self._path.unlink(missing_ok=True)
        except OSError:
            pass  # the directory has been taken away or belongs to somebody else by now: there is nothing more to do
        self._forget()

    def _forget(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)  # and with it the lock
            self._descriptor = -1


def _create(path: Path) -> int:
    """A locked file with the number of this process."""
    path.unlink(missing_ok=True)  # of an earlier process with our number
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, MODE)
    try:
        os.fchmod(descriptor, MODE)  # whatever the umask is: everybody may know the number
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(descriptor, b"%d\n" % os.getpid())
    except BaseException:
        os.close(descriptor)
        path.unlink(missing_ok=True)
        raise
    return descriptor


def _publish(new: Path, path: Path) -> None:
    """Gives the new file its name, unless somebody alive has it."""
    for _ in range(TRIES):
        try:
            os.link(new, path)
        except FileExistsError:
            if _replace(new, path):
                return
        else:
            return
    raise PidFileError(f"the pid file {path} keeps changing hands: several processes are starting or ending with it")


def _replace(new: Path, path: Path) -> bool:
    """Puts the new file in the place of one that nobody owns any more.

    Returns:
        False if what was there has gone or changed meanwhile.
    """
    try:
        old = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        content = os.read(old, MAX_BYTES + 1) if stat.S_ISREG(os.fstat(old).st_mode) else b"?"
        if not re.fullmatch(rb"[0-9]*\s*", content) or len(content) > MAX_BYTES:  # a wrong path must not cost anybody a file
            raise PidFileError(f"{path} is there and is no pid file: remove it or choose another path (pid_file)")
        try:
            fcntl.lockf(old, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            who = content.decode().strip() or "unknown"
            raise PidFileError(
                f"fastlb runs already: process {who} has the pid file {path}; stop it (kill {who}), or choose another path (pid_file)"
            ) from None
        if not _is_at(old, path):  # somebody else replaced it before we had the lock
            return False
        new.rename(path)
        return True
    finally:
        os.close(old)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether this open file is what the path leads to."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False
