"""The runtime directory: where a running fastlb is found, by its own commands and by the fastlb that comes after it.

Holds unix sockets and nothing that is worth keeping. A `RuntimeDirectory` owns a lock on it (flock(2) on the directory itself, so there is
no file to leave behind): two that run at the same time never share one. The lock belongs to the open descriptor, so a binary upgrade hands
it on by handing on the descriptor, and it ends with the last process that has it; nothing that is forked below the supervisor may keep it.
"""

import fcntl
import os
import stat
from pathlib import Path

from fastlb import FastlbError

# Others may look for a socket that a listener has there, and only its owner makes anything; a directory below /tmp is for its owner alone.
SYSTEM_MODE = 0o755
OWN_MODE = 0o700
# Others that start or end at the same moment can remove the directory that was just opened; each of them makes one try fail.
TRIES = 100


class RuntimeDirectoryError(FastlbError):
    """The directory cannot be used; the text says why."""


def find_runtime_directory() -> Path:
    """Where it is, for whoever this process runs as: that of systemd, or /run/fastlb for root, or one of the user's own."""
    given = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]  # systemd.exec(5): several are separated by colons
    if given:
        return Path(given)
    if os.geteuid() == 0:
        return Path("/run/fastlb")
    of_the_session = os.environ.get("XDG_RUNTIME_DIR", "")
    # In /tmp anybody may have made it before us: `open` looks whose it is.
    return Path(of_the_session) / "fastlb" if of_the_session else Path(f"/tmp/fastlb-{os.geteuid()}")  # noqa: S108


class RuntimeDirectory:
    """The directory, made if it was not there, and held against others until `close`.

    Args:
        path: of the directory.
        descriptor: of it, locked; owned.
        made: it was not there before, and goes when it is empty.
    """

    def __init__(self, path: Path, descriptor: int, made: bool) -> None:
        self.path = path
        self._descriptor = descriptor
        self.made = made

    @classmethod
    def open(cls, path: Path | None = None) -> "RuntimeDirectory":
        """Takes it.

        Raises:
            RuntimeDirectoryError: a running fastlb has it, somebody else could make files in it, or it cannot be made.
        """
        path = path if path is not None else find_runtime_directory()
        made = False
        try:
            for _ in range(TRIES):
                made = _make(path) or made
                try:
                    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                except FileNotFoundError:
                    continue  # as below, a moment earlier
                try:
                    _check_owner(path, os.fstat(descriptor))
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if os.path.samestat(os.fstat(descriptor), path.lstat()):
                        return cls(path, descriptor, made)
                except FileNotFoundError:
                    pass  # whoever had it has ended, and taken it away
                except BaseException:
                    os.close(descriptor)
                    raise
                os.close(descriptor)
        except BlockingIOError:
            raise RuntimeDirectoryError(f"another running fastlb has the runtime directory {path}") from None
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise RuntimeDirectoryError(f"cannot use the runtime directory {path}: {reason}") from error
        raise RuntimeDirectoryError(f"the runtime directory {path} keeps changing hands")

    @classmethod
    def share(cls, descriptor: int, made: bool, path: Path | None = None) -> "RuntimeDirectory":
        """That of another fastlb, which has given us its descriptor and with it the lock. Owned, and closed on errors.

        Args:
            made: as that one had it.

        Raises:
            RuntimeDirectoryError: ours is another one.
        """
        path = path if path is not None else find_runtime_directory()
        try:
            if os.path.samestat(os.fstat(descriptor), path.lstat()):
                return cls(path, descriptor, made)
        except OSError:
            pass
        os.close(descriptor)
        raise RuntimeDirectoryError(f"the runtime directory {path} is not that of the fastlb before this one")

    def fileno(self) -> int:
        """The descriptor with the lock; whoever gets a copy has the directory, too."""
        return self._descriptor

    def close(self) -> None:
        """Gives it back; removes it if it was made here and nothing is left in it."""
        if self._descriptor < 0:
            return
        if self.made:
            try:
                self.path.rmdir()
            except OSError:
                pass  # workers that outlive us have their sockets in it, or somebody else has it by now
        os.close(self._descriptor)
        self._descriptor = -1


def _make(path: Path) -> bool:
    """Makes the directory; False if it is there."""
    try:
        path.mkdir(SYSTEM_MODE if path.parts[:2] == ("/", "run") and os.geteuid() == 0 else OWN_MODE)
    except FileExistsError:
        return False
    return True


def _check_owner(path: Path, status: os.stat_result) -> None:
    """Whoever can make files here could pass for a fastlb, or for its workers.

    Raises:
        RuntimeDirectoryError
    """
    if status.st_uid not in (0, os.geteuid()):
        raise RuntimeDirectoryError(f"the runtime directory {path} belongs to somebody else (user {status.st_uid})")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise RuntimeDirectoryError(f"others may write to the runtime directory {path}: `chmod go-w {path}`")
