"""The key that makes the values of sticky cookies: from the configuration, from a file, or made once and kept.

With the same key a backend has the same value after every reload and restart, and on every node. It is read when fastlb starts, by the
account that starts it, so that a file for root alone is enough; workers never see it.
"""

import hashlib
import os
import pwd
import secrets
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from fastlb import FastlbError
from fastlb.control_plane.config.schema import Config, GlobalSettings

FILE_NAME = "sticky.key"
SYSTEM_DIRECTORY = Path("/var/lib/fastlb")  # where the FHS keeps such things (section 5.8)
KEY_BYTES = 32
MAX_FILE_BYTES = 4096
# Of a key that somebody wrote: 16 characters drawn at random are beyond guessing, shorter ones are words.
LEAST_CHARACTERS = 16


class StickyKeyError(FastlbError):
    """There is no key for sticky cookies; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class StickyKey:
    """A key and what the settings said about it.

    Args:
        origin: `sticky_key`, `sticky_key_file` and `state_dir` that led to it.
        key: 32 bytes.
    """

    origin: tuple[str, str, str]
    key: bytes = field(repr=False)

    def is_for(self, settings: GlobalSettings) -> bool:
        """Whether these settings lead to the same key."""
        return self.origin == _origin(settings)


def load_sticky_key(config: Config, known: StickyKey | None = None) -> tuple[StickyKey | None, list[str]]:
    """The key of a configuration, and warnings about it. None where no pool makes cookies.

    Args:
        known: a key that was read earlier: a file is not read twice.

    Raises:
        StickyKeyError: the file cannot be read, or a new one cannot be written anywhere.
    """
    settings = config.settings
    if not any(pool.sticky.cookie for pool in config.pools):
        return None, []
    if known is not None and known.is_for(settings):
        return known, []
    if settings.sticky_key:
        return StickyKey(_origin(settings), _derive(settings.sticky_key.encode())), []
    if settings.sticky_key_file:
        path = Path(settings.sticky_key_file)
        try:
            key, warnings = _read(path)
        except OSError as error:
            raise StickyKeyError(f"cannot read sticky_key_file {path}: {_reason(error)}") from error
    else:
        directories = [Path(settings.state_dir)] if settings.state_dir else default_directories()
        key, warnings = _read_or_make(directories)
    return StickyKey(_origin(settings), key), warnings


def default_directories() -> list[Path]:
    """Where state is kept unless `state_dir` says otherwise, the best first."""
    base = os.environ.get("XDG_STATE_HOME", "")
    if not base.startswith("/"):
        home = os.environ.get("HOME", "")
        if not home:
            with suppress(KeyError):
                home = pwd.getpwuid(os.geteuid()).pw_dir
        base = f"{home}/.local/state" if home.startswith("/") else ""
    return [SYSTEM_DIRECTORY, *([Path(base) / "fastlb"] if base else [])]


def _read_or_make(directories: Sequence[Path]) -> tuple[bytes, list[str]]:
    """The key that one of these directories has; else a new one in the first that can be written."""
    reasons: dict[Path, str] = {}
    for directory in directories:
        try:
            return _read(directory / FILE_NAME)
        except OSError as error:
            reasons[directory] = _reason(error)
    for directory in directories:
        try:
            _make(directory)
            return _read(directory / FILE_NAME)
        except OSError as error:
            reasons[directory] = _reason(error)
    told = "; ".join(f"{directory}: {reason}" for directory, reason in reasons.items())
    right = "say where with state_dir in [global], or give one with sticky_key_file or sticky_key"
    raise StickyKeyError(f"there is nowhere to keep the key of sticky cookies ({told}); {right}")


def _make(directory: Path) -> None:
    """Writes a new key, whole or not at all; one that is there meanwhile stays."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / FILE_NAME
    new = directory / f".{FILE_NAME}.{os.getpid()}"
    with suppress(FileNotFoundError):
        new.unlink()  # left by a process of this number that was killed here
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_hex(KEY_BYTES).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(new, path)
    finally:
        new.unlink()
    parent = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def _read(path: Path) -> tuple[bytes, list[str]]:
    """The key of a file, with what is wrong with the file. OSError; StickyKeyError where it holds no key."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO does not keep us
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise StickyKeyError(f"{path} is not a file")
        text = file.read(MAX_FILE_BYTES + 1)
    if not LEAST_CHARACTERS <= len(text.strip()) <= MAX_FILE_BYTES:
        right = f"{LEAST_CHARACTERS} to {MAX_FILE_BYTES} characters, such as `openssl rand -hex 32` makes"
        raise StickyKeyError(f"{path} holds no key: {right}")
    warnings = []
    if status.st_mode & 0o077:
        warnings.append(f"{path} can be read or written by others than its owner, who could then send clients where they like: chmod 600")
    return _derive(text.strip()), warnings


def _derive(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=KEY_BYTES, person=b"fastlb key").digest()


def _origin(settings: GlobalSettings) -> tuple[str, str, str]:
    return settings.sticky_key, settings.sticky_key_file, settings.state_dir


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
