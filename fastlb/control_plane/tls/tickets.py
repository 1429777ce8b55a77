"""The keys that encrypt what clients keep to resume their sessions.

From a file that several nodes share, or made here and changed every so often: the newest encrypts, the ones before it still decrypt. Those
made here are never written down; they go from one controller to the next, and to the next fastlb, in memory.
"""

import base64
import binascii
import secrets
from dataclasses import dataclass, field, replace

from fastlb.control_plane.tls.files import Finding, TlsError, TlsFiles, read_file

KEY_BYTES = 80  # 16 for the name, 32 for HMAC-SHA-256, 32 for AES-256
# The newest and two older: after one change of keys a session may be a day old with the usual settings.
KEPT = 3
MOST_KEYS = 8  # the data plane's


@dataclass(frozen=True, slots=True)
class TicketKeys:
    """Keys, the newest first.

    Args:
        born: when the newest was made, in seconds since 1970; 0 where they come from a file.
    """

    keys: tuple[bytes, ...] = field(default=(), repr=False)
    born: float = 0.0

    def is_due(self, rotation_ms: int, now: float) -> bool:
        """Whether it is time for a new one; a clock that has gone back does not put it off for ever."""
        return not self.keys or not 0 <= now - self.born < rotation_ms / 1000

    def seconds_left(self, rotation_ms: int, now: float) -> float:
        """Until it is."""
        return 0.0 if self.is_due(rotation_ms, now) else self.born + rotation_ms / 1000 - now

    def rotate(self, now: float) -> "TicketKeys":
        """With a new one before them."""
        return replace(self, keys=(secrets.token_bytes(KEY_BYTES), *self.keys[: KEPT - 1]), born=now)


def read_ticket_keys(files: TlsFiles, name: str) -> tuple[tuple[bytes, ...], list[Finding]]:
    """The keys of a file, a line for each in base64, and what is odd about the file.

    Raises:
        TlsError: a line is no key, or there is none.
    """
    content, status = read_file(files, name)
    keys = []
    for number, line in enumerate(content.splitlines(), 1):
        text = line.partition(b"#")[0].strip()
        if not text:
            continue
        try:
            key = base64.b64decode(text, validate=True)
        except binascii.Error:
            key = b""
        if len(key) != KEY_BYTES:
            right = f"a line is {KEY_BYTES} random bytes in base64: openssl rand -base64 {KEY_BYTES} | tr -d '\\n'"
            raise TlsError(name, f"line {number} is no key", right)
        keys.append(key)
    if not 1 <= len(keys) <= MOST_KEYS or len({key[:16] for key in keys}) != len(keys):
        raise TlsError(name, f"there are {len(keys)} keys in it", f"1 to {MOST_KEYS} different ones, the newest first")
    found = []
    if status.st_mode & 0o077:
        right = f"they could read the sessions of its clients: chmod 600 {name}"
        found.append(Finding(name, "these keys can be read or written by others than their owner", right))
    return tuple(keys), found
