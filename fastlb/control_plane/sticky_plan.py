"""What a pool's `sticky` table tells the writer of a snapshot image."""

import base64
import hashlib

from fastlb import _core
from fastlb.control_plane.config.sticky import Sticky


def make_cookie_value(key: bytes, identity: str) -> str:
    """What a sticky cookie calls a backend: 22 characters that nobody without the key can make, or make anything of."""
    digest = hashlib.blake2b(identity.encode(), digest_size=16, key=key, person=b"fastlb sticky").digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def make_cookie_attributes(sticky: Sticky) -> str:
    """What stands behind the value in Set-Cookie; Secure is added per response."""
    parts = [f"; Path={sticky.path}"]
    if sticky.domain:
        parts.append(f"; Domain={sticky.domain}")
    if sticky.lifetime_ms:
        parts.append(f"; Max-Age={sticky.lifetime_ms // 1000}")
    if sticky.http_only:
        parts.append("; HttpOnly")
    if sticky.same_site != "off":
        parts.append(f"; SameSite={sticky.same_site.capitalize()}")
    return "".join(parts)


def set_sticky(writer: _core.SnapshotWriter, pool: int, sticky: Sticky) -> None:
    """Compiles the table of a pool; nothing where it is off."""
    wanted = {
        "reject": sticky.fallback == "reject",
        "drain": sticky.drain,
        "indirect": sticky.indirect,
        "secure": sticky.secure is True,
        "secure_auto": sticky.secure == "auto",
        "nocache": sticky.nocache,
    }
    flags = sum(_core.STICKY_FLAGS[name] for name, is_on in wanted.items() if is_on)
    if sticky.cookie:
        attributes = make_cookie_attributes(sticky)
        writer.set_sticky_cookie(pool, name=sticky.cookie, attributes=attributes, lifetime_s=sticky.lifetime_ms // 1000, flags=flags)
    elif sticky.learn or sticky.source:
        writer.set_sticky_table(
            pool,
            learn=sticky.learn,
            size=sticky.size,
            expires_ms=sticky.expires_ms,
            v4_bits=sticky.v4_prefix,
            v6_bits=sticky.v6_prefix,
            flags=flags,
        )
