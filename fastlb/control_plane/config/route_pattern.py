"""What a route matches: hosts ("shop.example.com", "*.example.com") and prefixes of the normalised path ("/api/")."""

import posixpath
import re

from fastlb.control_plane.config.errors import Rejected, quote

ANY_HOST = ""
# A request's Host is compared as long as it is a possible DNS name (RFC 1035 section 2.3.4).
MAX_HOST_BYTES = 254
MAX_PATH_BYTES = 4096

_LABELS = r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*"  # compiled by the first host


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


def parse_path(text: str) -> str:
    """A prefix of normalised paths.

    Raises:
        Rejected: no leading slash, or something that no normalised path contains.
    """
    right = 'a path is a prefix such as "/" or "/api/"'
    if text.startswith(("=", "~")):
        raise Rejected(f"{quote(text)} is not a prefix", f"exact paths and regular expressions are not in this version; {right}")
    if not text.startswith("/"):
        raise Rejected(f"{quote(text)} does not start with a slash", right, f"/{text}" if text else "/")
    if "?" in text or "#" in text:
        raise Rejected(f"{quote(text)} is more than a path", "routes match the path alone", re.split("[?#]", text)[0])
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
    return text


def _in_ascii(host: str) -> str | None:
    if host.isascii():
        return None
    prefix = "*." if host.startswith("*.") else ""
    try:
        return prefix + host.removeprefix("*.").encode("idna").decode("ascii")
    except UnicodeError:
        return None
