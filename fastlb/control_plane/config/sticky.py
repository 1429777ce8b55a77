"""The `sticky` table of a pool: how clients come back to the backend that they had, and the checks that concern several of its keys."""

import re
from dataclasses import dataclass

from fastlb.control_plane.config.errors import Rejected, quote, quote_all
from fastlb.control_plane.config.kind import Choice, Count, Flag, FlagOrWord, Text, duration
from fastlb.control_plane.config.option import option
from fastlb.control_plane.config.reader import Reader

_COOKIE_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}"  # RFC 6265 section 4.1.1: a token
_ATTRIBUTE = r"[\x20-\x3a\x3c-\x7e]*"  # the same section: no control character and no semicolon
_DOMAIN = r"\.?[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*"

# Browsers keep no cookie longer (draft-ietf-httpbis-rfc6265bis section 5.5).
LONGEST_LIFETIME = "400d"


def parse_cookie_name(text: str) -> str:
    """The name of a cookie, or "" for none."""
    if not text or re.fullmatch(_COOKIE_NAME, text):
        return text
    meant = re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_")[:64]
    raise Rejected(f"{quote(text)} is not a cookie's name", "it is made of 1 to 64 letters, digits, _ and -", meant or None)


def parse_cookie_path(text: str) -> str:
    """The path below which browsers send a cookie."""
    if not text.startswith("/") or len(text) > 256 or not re.fullmatch(_ATTRIBUTE, text):
        right = "it begins with /, holds no semicolon and has at most 256 characters"
        raise Rejected(f"{quote(text)} is not a cookie's path", right, f"/{text}" if re.fullmatch(r"[\w/.-]{1,200}", text) else None)
    return text


def parse_cookie_domain(text: str) -> str:
    """The domain whose hosts get a cookie, or "" for the host of the request alone."""
    if text and (len(text) > 253 or not re.fullmatch(_DOMAIN, text)):
        raise Rejected(f"{quote(text)} is not a domain", 'a domain is a name such as "example.com", without a port')
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Sticky:
    """`sticky` of a pool. Off where neither a cookie is named nor `source` is true."""

    cookie: str = option("cookie", Text("a cookie's name", parse_cookie_name, "SERVERID"), "", ("insert", "name"))
    path: str = option("path", Text("a path", parse_cookie_path, "/shop"), "/")
    domain: str = option("domain", Text("a domain", parse_cookie_domain, "example.com"), "")
    secure: bool | str = option("secure", FlagOrWord("auto"), "auto")
    http_only: bool = option("http_only", Flag(), True, ("httponly",))
    same_site: str = option("same_site", Choice(("lax", "strict", "none", "off")), "lax", ("samesite",))
    lifetime_ms: int = option("lifetime", duration("1m", LONGEST_LIFETIME, "until the browser ends"), 0, ("max_age", "maxlife", "maxidle"))
    indirect: bool = option("indirect", Flag(), True)
    nocache: bool = option("nocache", Flag(), False, ("no_cache",))
    learn: str = option("learn", Text("a cookie's name", parse_cookie_name, "JSESSIONID"), "", ("appsession",))
    source: bool = option("source", Flag(), False, ("src", "ip_hash", "source_address", "client_ip"))
    v4_prefix: int = option("v4_prefix", Count(1, 32), 32, ("mask",))
    v6_prefix: int = option("v6_prefix", Count(1, 128), 64)
    size: int = option("size", Count(8, 1 << 20), 131072)
    expires_ms: int = option("expires", duration("10s", "30d"), "30m", ("expire", "timeout"))
    fallback: str = option("fallback", Choice(("pick", "reject")), "pick", ("redispatch",))
    drain: bool = option("drain", Flag(), True)


# Which keys belong to which way of being known again; the others belong to all.
_KEYS = {
    "cookie": ("path", "domain", "secure", "http_only", "same_site", "lifetime", "indirect", "nocache"),
    "learn": ("size", "expires"),
    "source": ("size", "expires", "v4_prefix", "v6_prefix"),
}


def check_stickies(reader: Reader) -> None:
    """What the sticky tables of all pools say together."""
    inserted: dict[tuple[str, str, str], str] = {}
    for path, sticky in reader.all_read(Sticky):
        pool = str(path[1])
        written = reader.source.values["pools"][pool]["sticky"]
        ways = [key for key, is_used in (("cookie", sticky.cookie), ("learn", sticky.learn), ("source", sticky.source)) if is_used]
        if len(ways) > 1:
            reader.reject_key(
                (*path, ways[1]), f"{ways[1]} beside {ways[0]}", "a pool knows its clients again in one way: keep one of them"
            )
            continue
        if not ways:
            if not written.keys() & _KEYS.keys():
                right = 'name a cookie (cookie = "SERVERID"), one of the application (learn = "JSESSIONID"), or say source = true'
                reader.reject_key(path, "sticky does not say by what", right)
            continue
        for key in written.keys() & {key for keys in _KEYS.values() for key in keys} - set(_KEYS[ways[0]]):
            right = quote_all(way for way, keys in _KEYS.items() if key in keys)
            reader.reject_key((*path, key), f"{key} has no meaning beside {ways[0]}", f"it belongs to {right}")
        if not sticky.cookie:
            continue
        _check_cookie(reader, (*path, "cookie"), sticky)
        where = (sticky.cookie, sticky.path, sticky.domain)
        if where in inserted:
            found = f"the pools {quote(inserted[where])} and {quote(pool)} use the same cookie {quote(sticky.cookie)}"
            reader.warn(
                (*path, "cookie"), found, "whoever uses both loses its place in one whenever it goes to the other: give them two names"
            )
        inserted.setdefault(where, pool)


def _check_cookie(reader: Reader, path: tuple[str | int, ...], sticky: Sticky) -> None:
    """What browsers refuse a cookie for (RFC 6265bis sections 4.1.3 and 5.7)."""
    name = sticky.cookie.casefold()
    if sticky.same_site == "none" and sticky.secure is False:
        reader.reject(path, 'same_site "none" without secure', "browsers take such a cookie over HTTPS only: secure = true")
    if name.startswith(("__secure-", "__host-")) and sticky.secure is not True:
        reader.reject(path, f"{quote(sticky.cookie)} without secure = true", "browsers refuse such a name unless the cookie is secure")
    if name.startswith("__host-") and (sticky.path != "/" or sticky.domain):
        reader.reject(path, f"{quote(sticky.cookie)} with a path or a domain", 'browsers want path "/" and no domain for __Host-')
