"""What a route does with its requests, as options: header edits, redirects, answers, splits, time-outs and limits of its own."""
# ruff: noqa: RUF009  option() and table() declare fields, as dataclasses.field() does

import re
from collections.abc import Callable
from dataclasses import dataclass

from fastlb.control_plane.config.errors import Rejected, describe, nearest, quote
from fastlb.control_plane.config.kind import Kind, ListOf, OrWord, Text, WholeNumbers, duration, size
from fastlb.control_plane.config.option import option
from fastlb.control_plane.config.reader import Reader
from fastlb.control_plane.config.template import Template, parse_body, parse_redirect, parse_request_value, parse_response_value
from fastlb.control_plane.config.toml import KeyPath

LONGEST = "30d"
MOST_EDITS = 56  # of the data plane's 64; the usual ones stand in front of them
MOST_SHARES = 64

_FIELD_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}"  # RFC 9110 section 5.6.2
# How a message ends, and what belongs to one connection: a proxy writes these itself (RFC 9110 section 7.6.1).
_FRAMING = ("connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade")
_FIXED_IN_REQUESTS = (*_FRAMING, "expect", "http2-settings")

NO_ANSWER = -1  # Respond.status: the route has a pool or redirects
CLOSE = 0  # Respond.status: the connection is closed without an answer
INHERIT_BODY = -1  # RouteLimits.body_bytes: what the listener says


def parse_edited_field(text: str, fixed: tuple[str, ...]) -> str:
    """The name of a header field that may be edited, as it was written; `fixed`: those that may not."""
    if not re.fullmatch(_FIELD_NAME, text):
        meant = re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[:128]
        raise Rejected(f"{quote(text)} is not a header name", "a header name is made of letters, digits and -", meant or None)
    if text.lower() in fixed:
        if text.lower() == "host":
            raise Rejected(f"{quote(text)} can be set and nothing else", "a request has it once")
        raise Rejected(f"{quote(text)} says how the message is framed", "fastlb writes it itself, as the connection needs it")
    return text


def _parse_fixed(fixed: tuple[str, ...]) -> Callable[[str], str]:
    return lambda text: parse_edited_field(text, fixed)


class Fields:
    """A table of header fields with their values.

    Args:
        fixed: fields that are not in it.
        several: whether a field may have a list of values.
    """

    unit = "table of fields"

    def __init__(self, parse: Callable[[str], Template], fixed: tuple[str, ...], several: bool = False) -> None:
        self.fixed = fixed
        value = Text("a value", parse, "{client}")
        self._value: Kind[Template] | Kind[tuple[Template, ...]] = ListOf(value, least=1) if several else value

    def range_text(self) -> str:
        return 'such as { X-Client = "{client}" }'

    def read(self, written: object, path: KeyPath, reader: Reader) -> tuple[tuple[str, Template], ...] | None:
        if not isinstance(written, dict):
            reader.reject(path, f"found {describe(written)}", f"{path[-1]} is a table of fields, {self.range_text()}")
            return None
        read: list[tuple[str, Template]] = []
        seen: dict[str, str] = {}
        for name, value in written.items():
            try:
                parse_edited_field(name, self.fixed)
            except Rejected as rejected:
                reader.reject_key((*path, name), rejected.found, rejected.right, rejected.suggestion)
            if name.lower() in seen:
                reader.reject_key((*path, name), f"{quote(name)} is {quote(seen[name.lower()])} again", "case makes no difference")
            seen[name.lower()] = name
            values = self._value.read(value, (*path, name), reader)
            read += [(name, template) for template in (values if isinstance(values, tuple) else (values,)) if template is not None]
        if len(read) > MOST_EDITS:
            reader.reject(path, f"found {len(read)} fields", f"at most {MOST_EDITS}")
        return tuple(read)


class Status:
    """The status of an answer of the route's own."""

    unit = "status"

    def range_text(self) -> str:
        return '"none", "close" or 200 … 599'

    def read(self, written: object, path: KeyPath, reader: Reader) -> int | None:
        if written == "none":
            return NO_ANSWER
        if written == "close":
            return CLOSE
        if type(written) is int and 200 <= written <= 599:
            return written
        digits = isinstance(written, str) and re.fullmatch("[2-5][0-9][0-9]", written.strip())
        right = f"{self.range_text()}, a number without quotes" if digits else self.range_text()
        meant = nearest(written, ("none", "close")) if isinstance(written, str) and not digits else None
        reader.reject(path, f"found {describe(written)}", right, "close" if type(written) is int and written == 444 else meant)
        return None


@dataclass(frozen=True, slots=True)
class PoolShares:
    """Pools and how many requests each gets of all: their weights. None: the route does not forward."""

    shares: tuple[tuple[str, int], ...] = ()

    def names(self) -> list[str]:
        return [name for name, _ in self.shares]


class PoolChoice:
    """The name of a pool, or a table of several with their weights."""

    unit = "a pool's name, or a table of weights"

    def range_text(self) -> str:
        return 'such as "api", or { api = 95, api-canary = 5 }'

    def read(self, written: object, path: KeyPath, reader: Reader) -> PoolShares | None:
        if isinstance(written, str):
            return PoolShares(((written, 1),) if written else ())
        if not isinstance(written, dict):
            reader.reject(path, f"found {describe(written)}", f"{path[-1]} is {self.unit}, {self.range_text()}")
            return None
        read = []
        for name, weight in written.items():
            if type(weight) is int and 0 <= weight <= 1_000_000:
                read.append((name, weight))
            else:
                reader.reject((*path, name), f"found {describe(weight)}", "a weight is a number from 0 to 1000000")
        if len(written) > MOST_SHARES:
            reader.reject(path, f"found {len(written)} pools", f"at most {MOST_SHARES}")
        elif read and not any(weight for _, weight in read):
            reader.reject(path, "every weight is 0", "one pool at least gets requests")
        elif not written:
            reader.reject(path, "found an empty table", f"{path[-1]} is {self.unit}, {self.range_text()}")
        return PoolShares(tuple(read))


def parse_prefix(text: str) -> str:
    """A prefix of paths as a client or backend sees it, or "" for none."""
    right = 'a prefix is a path such as "/api"'
    if text and not text.startswith("/"):
        raise Rejected(f"{quote(text)} does not start with a slash", right, f"/{text}")
    bad = re.search(r'[^!-~]|["#%<>?\\^`{|}]', text)
    if bad:
        raise Rejected(f"{quote(text)} holds {quote(bad[0])}", "it is written as it stands in a URL that needs no escapes")
    if "//" in text or re.search(r"/\.\.?(/|$)", text):
        raise Rejected(f"{quote(text)} is not normal", "paths are without //, /./ and /../")
    return text


def parse_route_name(text: str) -> str:
    """What messages and {route} call a route; "" for its host and path."""
    if not text.isprintable() or len(text.encode("utf-8", "surrogateescape")) > 256:
        raise Rejected(f"{quote(text)} is no name of a route", "a name is at most 256 bytes of printable text")
    return text


def parse_content_type(text: str) -> str:
    """A media type with its parameters."""
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+(\s*;[ -~]*)?", text):
        meant = f"text/{text}" if text in ("html", "plain", "css", "csv") else f"application/{text}" if text in ("json", "xml") else None
        raise Rejected(f"{quote(text)} is no media type", 'such as "text/plain; charset=utf-8" or "application/json"', meant)
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHeaders:
    """Header fields that a route changes on the way to the backend."""

    set: tuple[tuple[str, Template], ...] = option(
        "set", Fields(parse_request_value, _FIXED_IN_REQUESTS), {}, ("proxy_set_header", "replace", "override")
    )
    add: tuple[tuple[str, Template], ...] = option(
        "add", Fields(parse_request_value, (*_FIXED_IN_REQUESTS, "host"), several=True), {}, ("append", "add-header")
    )
    remove: tuple[str, ...] = option(
        "remove",
        ListOf(Text("a header name", _parse_fixed((*_FIXED_IN_REQUESTS, "host")), "X-Debug")),
        [],
        ("delete", "del", "del-header", "unset", "hide"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseHeaders:
    """Header fields that a route changes on the way to the client."""

    set: tuple[tuple[str, Template], ...] = option("set", Fields(parse_response_value, _FRAMING), {}, ("replace", "override"))
    add: tuple[tuple[str, Template], ...] = option(
        "add", Fields(parse_response_value, _FRAMING, several=True), {}, ("add_header", "append", "add-header")
    )
    remove: tuple[str, ...] = option(
        "remove",
        ListOf(Text("a header name", _parse_fixed(_FRAMING), "X-Powered-By")),
        [],
        ("delete", "del", "del-header", "unset", "hide", "proxy_hide_header"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect:
    """Where a route sends its clients; nothing: nowhere."""

    to: Template = option(
        "to", Text("a path or URL", parse_redirect, "https://{host}{uri}"), "", ("location", "url", "target", "return", "uri")
    )
    status: int = option("status", WholeNumbers((301, 302, 303, 307, 308)), 302, ("code",))


@dataclass(frozen=True, slots=True, kw_only=True)
class Respond:
    """What a route answers by itself."""

    status: int = option("status", Status(), "none", ("code", "return"))
    body: Template = option("body", Text("a text", parse_body, "Back at nine.\n"), "", ("content", "text"))
    content_type: str = option(
        "content_type", Text("a media type", parse_content_type, "application/json"), "text/plain; charset=utf-8", ("default_type", "type")
    )


_INHERITED = OrWord(duration("1ms", LONGEST), "inherit", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteTimeouts:
    """Time-outs of a route that are not its pool's; 0 where they are."""

    connect_ms: int = option("connect", OrWord(duration("1ms", "1h"), "inherit", 0), "inherit", ("proxy_connect_timeout",))
    first_byte_ms: int = option("first_byte", _INHERITED, "inherit", ("proxy_read_timeout", "read", "server", "response"))
    between_bytes_ms: int = option("between_bytes", _INHERITED, "inherit", ("proxy_send_timeout", "send", "write"))
    exchange_ms: int = option("exchange", _INHERITED, "inherit", ("request", "total"))
    tunnel_ms: int = option("tunnel", _INHERITED, "inherit", ("websocket", "upgrade"))


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteLimits:
    """Limits of a route that are not its listener's."""

    body_bytes: int = option(
        "body", OrWord(size("1B", "1024TiB", "no limit"), "inherit", INHERIT_BODY), "inherit", ("client_max_body_size",)
    )
