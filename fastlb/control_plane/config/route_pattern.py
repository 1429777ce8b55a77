"""Which hosts and paths a route matches: "shop.example.com", "*.example.com"; "/prefix", "=/exact" and "~regex" of the normalised path."""

import posixpath
import re
from dataclasses import dataclass

from fastlb.control_plane.config.errors import Rejected, quote
from fastlb.control_plane.config.regex_pattern import RegexPattern, is_regex, parse_regex

ANY_HOST = ""
# A request's Host is compared as long as it is a possible DNS name (RFC 1035 section 2.3.4).
MAX_HOST_BYTES = 254
# The data plane's MATCH_LIMITS.
MAX_PATH_BYTES = 4096
MAX_GROUPS = 15

_LABELS = r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*"  # compiled by the first host


@dataclass(frozen=True, slots=True)
class RoutePath:
    """What a path has to be.

    Args:
        text: as it was written.
        literal: the whole path where `exact`, else what it begins with; of a regular expression what is known of that.
        regex: what it has to match besides.
    """

    text: str
    literal: str
    exact: bool = False
    regex: RegexPattern | None = None

    def __str__(self) -> str:
        return self.text


def parse_host(text: str) -> str:
    """The host in lower case, without a dot at its end; "" for "*", any host.

    Raises:
        Rejected: not a host name, a port, a wildcard that is not the whole first part.
    """
    right = 'a host is a name ("shop.example.com"), a wildcard ("*.example.com") or "*"'
    host = text.casefold().removesuffix(".")
    if host == "*":
        return ANY_HOST
    if not host:
        raise Rejected('found ""', f'{right}; for any host leave it out or write "*"', "*")
    if "://" in host:
        raise Rejected(f"{quote(text)} is a URL", right, host.partition("://")[2].partition("/")[0] or None)
    if host.startswith("~"):
        raise Rejected(f"{quote(text)} is a regular expression", f"they are not in this version; {right}")
    if host.startswith("."):
        raise Rejected(f"{quote(text)} starts with a dot", f"for a name and all below it list both: {quote(host[1:])}, {quote('*' + host)}")
    if host.startswith("[") and re.fullmatch(r"\[[0-9a-f:.]+\]", host):
        return host
    name, colon, port = host.rpartition(":")
    if colon and port.isdigit():
        raise Rejected(f"{quote(text)} has a port", "a route matches the host alone; a port belongs to a listener's bind", name or None)
    if "*" in host.removeprefix("*."):
        meant = "*." + host.rpartition("*")[2].lstrip(".")
        raise Rejected(f"{quote(text)} has a wildcard in a name", "a wildcard is the whole first part", meant if len(meant) > 2 else None)
    if not re.fullmatch(_LABELS, host.removeprefix("*.")) or len(host) > MAX_HOST_BYTES:
        raise Rejected(f"{quote(text)} is not a host", right, _in_ascii(host))
    return host


def parse_path(text: str) -> RoutePath:
    """A path as routes have it: "/prefix", "=/exact", "~regex", "~*regex".

    Raises:
        Rejected: no leading slash, something that no normalised path contains, or no regular expression.
    """
    if is_regex(text):
        return _parse_regex(text)
    exact = text.startswith("=")
    literal = text.removeprefix("=")
    try:
        _check_literal(literal)
    except Rejected as rejected:
        meant = None if rejected.suggestion is None else f"{'=' if exact else ''}{rejected.suggestion}"
        raise Rejected(rejected.found, rejected.right, meant) from None
    return RoutePath(text, literal, exact)


def _parse_regex(text: str) -> RoutePath:
    regex = parse_regex(text)
    if regex.groups > MAX_GROUPS:
        found = f"{quote(text)} has {regex.groups} groups"
        raise Rejected(found, f"at most {MAX_GROUPS}; (?:...) is a group that captures nothing")
    literal = regex.literal_prefix
    if literal and not literal.startswith("/"):
        raise Rejected(f"{quote(text)} matches no path", "a path starts with a slash", text.replace("^", "^/", 1))
    return RoutePath(text, literal or "/", False, regex)


def _check_literal(text: str) -> None:
    right = 'a path is a prefix such as "/api/", an exact one such as "=/login", or a regular expression such as "~^/u/[0-9]+$"'
    if not text.startswith("/"):
        raise Rejected(f"{quote(text)} does not start with a slash", right, f"/{text}" if text else "/")
    if "?" in text or "#" in text:
        more = 'a path ends before them; parameters are matched by query = { name = "value" }'
        raise Rejected(f"{quote(text)} is more than a path", more, re.split("[?#]", text)[0])
    if not text.isprintable():
        raise Rejected(f"{quote(text)} has a control character", right)
    if "%" in text and re.search("%[0-9A-Fa-f]{2}", text):
        from urllib.parse import unquote  # only a mistake needs it

        decoded = unquote(text)
        suggestion = decoded if decoded.isprintable() else None
        raise Rejected(f"{quote(text)} has escapes", "routes match the decoded path: write the characters themselves", suggestion)
    if "//" in text or "/./" in text or "/../" in text:
        normal = "/" + posixpath.normpath(text).lstrip("/")
        meant = normal + "/" if text.endswith("/") and normal != "/" else normal
        raise Rejected(f"{quote(text)} is not normal", "routes match paths without //, /./ and /../", meant)
    if len(text.encode("utf-8", "surrogateescape")) > MAX_PATH_BYTES:
        raise Rejected(f"{quote(text)} is too long", f"at most {MAX_PATH_BYTES} bytes")


def _in_ascii(host: str) -> str | None:
    if host.isascii():
        return None
    prefix = "*." if host.startswith("*.") else ""
    try:
        return prefix + host.removeprefix("*.").encode("idna").decode("ascii")
    except UnicodeError:
        return None
