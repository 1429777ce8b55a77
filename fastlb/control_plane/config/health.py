"""The `health` table of a pool: how its backends are probed, and the checks that concern several of its keys."""
# ruff: noqa: RUF009  option() declares fields, as dataclasses.field() does

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fastlb.control_plane.config.address import BackendAddress
from fastlb.control_plane.config.errors import Rejected, describe, quote, quote_all
from fastlb.control_plane.config.kind import Choice, Count, Flag, ListOf, Text, duration
from fastlb.control_plane.config.option import option, options_of
from fastlb.control_plane.config.quantity import format_duration
from fastlb.control_plane.config.reader import Reader
from fastlb.control_plane.config.regex_pattern import RegexPattern, is_regex, parse_regex
from fastlb.control_plane.config.toml import KeyPath

OFF = "off"
TCP = "tcp"
UDP = "udp"
HTTP = "http"
GRPC = "grpc"
SCRIPT = "script"

MOST_HEADERS = 32
MAX_VALUE_BYTES = 1024  # of a header field; a request stays below what a new connection takes at once
MAX_MATCH_BYTES = 1024
MAX_PAYLOAD_BYTES = 1024  # of a datagram that every way has room for
_HEX_MARK = "hex:"

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}"  # RFC 9110 section 5.6.2
# What a probe writes itself; "host" has a key of its own.
_FIXED_HEADERS = frozenset(("connection", "content-length", "expect", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"))
_HOST = r"[A-Za-z0-9._~%!$&'()*+,;=-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?"
_NAME = r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?|[0-9A-Fa-f:.]{2,45}"


@dataclass(frozen=True, slots=True)
class StatusRange:
    """Statuses of a response, both ends included."""

    first: int
    last: int

    def __contains__(self, status: int) -> bool:
        return self.first <= status <= self.last


class Statuses:
    """A status, or a range of them."""

    unit = "status or range"

    def range_text(self) -> str:
        return 'such as 200 or "200-399"'

    def read(self, written: object, path: KeyPath, reader: Reader) -> StatusRange | None:
        if type(written) is int and 200 <= written <= 599:
            return StatusRange(written, written)
        text = re.sub(r"\s", "", written) if isinstance(written, str) else ""
        if found := re.fullmatch("([2-5][0-9][0-9])(?:-([2-5][0-9][0-9]))?", text):
            first, last = int(found[1]), int(found[2] or found[1])
            if first <= last:
                return StatusRange(first, last)
            reader.reject(path, f"the range {describe(written)} is empty", self.range_text(), f"{last}-{first}")
            return None
        classes = re.fullmatch("([2-5])[xX]{2}", text)
        meant = f"{classes[1]}00-{classes[1]}99" if classes else None
        reader.reject(path, f"found {describe(written)}", f"a final status is 200 to 599, {self.range_text()}", meant)
        return None


@dataclass(frozen=True, slots=True)
class BodyMatch:
    """What the body of a response has to hold; neither text nor pattern: anything will do."""

    text: str = ""
    regex: RegexPattern | None = None

    def __bool__(self) -> bool:
        return bool(self.text) or self.regex is not None


class ProbeHeaders:
    """A table of header fields with their values."""

    unit = "table of fields"

    def range_text(self) -> str:
        return 'such as { X-Probe = "fastlb" }'

    def read(self, written: object, path: KeyPath, reader: Reader) -> tuple[tuple[str, str], ...] | None:
        if not isinstance(written, dict):
            reader.reject(path, f"found {describe(written)}", f"{path[-1]} is a table of fields, {self.range_text()}")
            return None
        value_kind = Text("a value", _parse_header_value, "fastlb")
        read = []
        for name, value in written.items():
            inner = (*path, name)
            if not re.fullmatch(_WORD, name):
                reader.reject_key(inner, f"{quote(name)} is not a header name", "a header name is made of letters, digits and -")
            elif name.lower() == "host":
                reader.reject_key(inner, f"{quote(name)} has a key of its own", 'write host = "shop.example.com" beside headers')
            elif name.lower() in _FIXED_HEADERS:
                reader.reject_key(inner, f"{quote(name)} says how the message is framed", "fastlb writes it itself")
            elif (text := value_kind.read(value, inner, reader)) is not None:
                read.append((name, text))
        if len(written) > MOST_HEADERS:
            reader.reject(path, f"found {len(written)} fields", f"at most {MOST_HEADERS}")
        return tuple(read)


def _parse_header_value(text: str) -> str:
    if not re.fullmatch(r"[\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?|", text):
        raise Rejected(f"{quote(text)} is not the value of a header field", "it is printable ASCII without spaces at its ends")
    if len(text) > MAX_VALUE_BYTES:
        raise Rejected(f"this value has {len(text)} characters", f"at most {MAX_VALUE_BYTES}")
    return text


def parse_probe_path(text: str) -> str:
    """What a probe asks for: a path, with a query if need be."""
    if not text.startswith("/"):
        raise Rejected(f"{quote(text)} does not start with a slash", 'a path is as it stands in a URL, such as "/health"', f"/{text}")
    if not re.fullmatch(r"[!-~]{1,1024}", text) or "#" in text:
        raise Rejected(f"{quote(text)} is not a path", "it is written as in a URL, without spaces and #, and has at most 1024 characters")
    return text


def parse_probe_method(text: str) -> str:
    """The method of a probe's request."""
    if not re.fullmatch(_WORD, text) or text == "CONNECT":
        raise Rejected(f"{quote(text)} is not a method for a probe", 'such as "GET", "HEAD" or "OPTIONS"')
    if text != text.upper() and text.upper() in ("GET", "HEAD", "OPTIONS", "POST"):
        raise Rejected(f"{quote(text)} is not a method", "upper and lower case differ", text.upper())
    return text


def parse_probe_host(text: str) -> str:
    """What stands in `Host`, or "" for the backend's address as it was written."""
    if text and not re.fullmatch(_HOST, text):
        raise Rejected(f"{quote(text)} is not a host", 'a host is a name such as "shop.example.com", with a port if need be')
    return text


def parse_server_name(text: str) -> str:
    """The name that a certificate has to be for, or ""."""
    if text and not re.fullmatch(_NAME, text):
        raise Rejected(f"{quote(text)} is not a name", 'a name is such as "shop.example.com", without a port')
    return text


def parse_match(text: str) -> BodyMatch:
    """A text that the body has to hold, or a regular expression behind a tilde."""
    if len(text.encode("utf-8", "surrogateescape")) > MAX_MATCH_BYTES:
        raise Rejected("this text is too long", f"at most {MAX_MATCH_BYTES} bytes")
    return BodyMatch(regex=parse_regex(text)) if is_regex(text) else BodyMatch(text)


def parse_service(text: str) -> str:
    """The name of a gRPC service, or "" for the server as a whole."""
    if not re.fullmatch(r"[!-~]{0,256}", text):
        raise Rejected(f"{quote(text[:64])} is not the name of a service", 'it is such as "shop.Orders", at most 256 printable characters')
    return text


def parse_payload(text: str) -> str:
    """What a datagram holds: a text, or hexadecimal digits behind "hex:"."""
    try:
        size = len(read_payload(text))
    except ValueError as error:
        right = 'behind "hex:" stand bytes of two hexadecimal digits each, such as "hex:0a1b"'
        raise Rejected(f"{quote(text[:64])} is not a payload", right) from error
    if size > MAX_PAYLOAD_BYTES:
        raise Rejected(f"this payload has {size} bytes", f"at most {MAX_PAYLOAD_BYTES}")
    return text


def read_payload(text: str) -> bytes:
    """The bytes themselves. ValueError."""
    if text.startswith(_HEX_MARK):
        return bytes.fromhex(text.removeprefix(_HEX_MARK))
    return text.encode("utf-8", "surrogateescape")


def parse_certificates(text: str) -> str:
    """An absolute path, or "" for the system's."""
    if text and (not text.startswith("/") or "\0" in text):
        raise Rejected(f"{quote(text)} is not an absolute path", "begin with /")
    return text


def parse_argument(text: str) -> str:
    """The path of a program, or one of its arguments."""
    if "\0" in text or len(text) > 4096:
        raise Rejected(f"{quote(text[:64])} cannot be an argument", "it holds no zero byte and at most 4096 characters")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """`health` of a pool. Off unless `type` says how."""

    type: str = option(
        "type",
        Choice(
            (OFF, TCP, UDP, HTTP, GRPC, SCRIPT),
            also_called={
                "none": OFF,
                "false": OFF,
                "connect": TCP,
                "tcp-check": TCP,
                "datagram": UDP,
                "https": HTTP,
                "httpchk": HTTP,
                "grpc_health": GRPC,
                "grpc-health": GRPC,
                "external": SCRIPT,
                "external-check": SCRIPT,
                "exec": SCRIPT,
                "command": SCRIPT,
            },
        ),
        OFF,
        ("kind", "mode", "protocol"),
    )
    path: str = option("path", Text("a path", parse_probe_path, "/health"), "/", ("uri", "url", "target", "endpoint"))
    method: str = option("method", Text("a method", parse_probe_method, "HEAD"), "GET", ("verb", "meth"))
    host: str = option("host", Text("a host", parse_probe_host, "shop.example.com"), "", ("hostname", "authority"))
    headers: tuple[tuple[str, str], ...] = option("headers", ProbeHeaders(), {}, ("header", "hdr"))
    expect: tuple[StatusRange, ...] = option(
        "expect", ListOf(Statuses(), least=1), "200-399", ("status", "statuses", "expected_statuses", "expect_status", "codes", "matcher")
    )
    match: BodyMatch = option("match", Text("a text", parse_match, "ok"), "", ("body", "string", "rstring", "expect_body", "contains"))
    service: str = option(
        "service", Text("a service", parse_service, "shop.Orders"), "", ("service_name", "grpc_service", "grpc_service_name")
    )
    send: str = option("send", Text("a payload", parse_payload, "ping"), "", ("payload", "data", "send-binary"))
    reply: bool = option("reply", Flag(), True, ("answer", "expect_reply", "wait_for_reply"))
    interval_ms: int = option("interval", duration("100ms", "1h"), "5s", ("inter", "period", "every", "interval_seconds"))
    fast_interval_ms: int = option(
        "fast_interval", duration("100ms", "1h"), "1s", ("fastinter", "downinter", "fast", "unhealthy_interval", "no_traffic_interval")
    )
    timeout_ms: int = option("timeout", duration("10ms", "1m"), "3s", ("timeout_check", "connect_timeout", "timeout_seconds"))
    # One result alone is never a verdict.
    rise: int = option("rise", Count(2, 100), 2, ("passes", "healthy_threshold", "success_threshold"))
    fall: int = option("fall", Count(2, 100), 3, ("fails", "unhealthy_threshold", "failure_threshold", "max_fails"))
    port: int = option("port", Count(1, 65535, "the backend's own"), 0, ("check_port",))
    tls: bool = option("tls", Flag(), False, ("ssl", "check-ssl", "https"))
    tls_verify: bool = option("tls_verify", Flag(), True, ("verify", "ssl_verify"))
    tls_ca_file: str = option(
        "tls_ca_file", Text("a path", parse_certificates, "/etc/fastlb/backends-ca.pem"), "", ("ca_file", "ca-file", "ca", "cafile")
    )
    authorities: str = ""  # what that file holds, once it was read (health/authorities.py)
    tls_server_name: str = option("tls_server_name", Text("a name", parse_server_name, "shop.example.com"), "", ("sni", "check-sni"))
    command: tuple[str, ...] = option(
        "command", ListOf(Text("a program, or an argument", parse_argument, "/usr/lib/fastlb/check-orders")), [], ("script", "argv", "exec")
    )


# Which keys belong to which types; the others belong to all but "off".
_KEYS = {
    TCP: ("port", "tls", "tls_verify", "tls_ca_file", "tls_server_name"),
    UDP: ("send", "reply", "match", "port"),
    HTTP: (
        *("path", "method", "host", "headers", "expect", "match"),
        *("port", "tls", "tls_verify", "tls_ca_file", "tls_server_name"),
    ),
    GRPC: ("service", "host", "headers", "port", "tls", "tls_verify", "tls_ca_file", "tls_server_name"),
    SCRIPT: ("command",),
}


def check_healths(reader: Reader, addresses: dict[KeyPath, Sequence[BackendAddress]]) -> None:
    """What the health tables of all pools say together; `addresses`: of each pool's backends, by the path of the pool."""
    untouched = {key: getattr(Health(), found.field_name) for key, found in options_of(Health).items()}
    for path, health in reader.all_read(Health):
        changed = {key for key, found in options_of(Health).items() if getattr(health, found.field_name) != untouched[key]}
        if health.type == OFF:
            if changed:
                reader.reject_key(path, "health does not say how backends are probed", 'type is "tcp", "udp", "http", "grpc" or "script"')
            continue
        kinds = {key for keys in _KEYS.values() for key in keys}
        for key in sorted((changed & kinds) - set(_KEYS[health.type])):
            right = quote_all(kind for kind, keys in _KEYS.items() if key in keys)
            reader.reject_key((*path, key), f"{key} has no meaning for type {quote(health.type)}", f"it belongs to {right}")
        if health.type == SCRIPT:
            _check_command(reader, path, health)
        if not health.reply and health.match:
            reader.reject_key((*path, "match"), "match says what an answer holds, and reply = false that none has to come", "leave one out")
        for name, _ in health.headers if health.type == GRPC else ():
            if name.lower() == "content-type" or name.lower().startswith("grpc-"):
                reader.reject_key((*path, "headers", name), f"{quote(name)} belongs to the gRPC call itself", "fastlb writes it itself")
        for key in sorted(changed & {"tls_verify", "tls_ca_file", "tls_server_name"}):
            if not health.tls and health.type != SCRIPT:
                reader.reject_key((*path, key), f"{key} has no meaning without tls", "say tls = true")
        if health.tls_ca_file and not health.tls_verify:
            reader.reject_key((*path, "tls_ca_file"), "nothing is verified where tls_verify is false", "leave one of them out")
        if "fast_interval" in changed and health.fast_interval_ms > health.interval_ms:
            found = f"fast_interval, {format_duration(health.fast_interval_ms)}, is above interval, {format_duration(health.interval_ms)}"
            reader.reject((*path, "fast_interval"), found, "it is how often a backend is probed that is down or not decided about")
        is_unix = any(address.unix_path for address in addresses.get(path[:2], ()))
        if is_unix and health.tls and health.tls_verify and not (health.tls_server_name or health.host):
            reader.reject_key(
                (*path, "tls"), "a backend of this pool is a unix socket", 'say what its certificate is for: tls_server_name = "…"'
            )
        if is_unix and health.type == UDP:
            reader.reject_key(path, "a backend of this pool is a unix socket", "which takes no datagrams: probe it in another way")
        if is_unix and health.port:
            reader.reject((*path, "port"), "a backend of this pool is a unix socket", "which has no other port: leave it out")


def _check_command(reader: Reader, path: KeyPath, health: Health) -> None:
    right = 'it is the path of a program and its arguments, such as ["/usr/lib/fastlb/check-orders", "--quick"]'
    if not health.command:
        reader.reject_key(path, '"command" is missing', right)
    elif not health.command[0].startswith("/"):
        found = f"{quote(health.command[0])} is not an absolute path"
        reader.reject((*path, "command"), found, f"programs are not searched for, and no shell is asked; {right}")
