"""What a log line says: texts with named fields in braces, the format of nginx by its name, and JSON.

A format is compiled twice: here its text into pieces, and in `control_plane.log_plan` the pieces into the operations that the data plane
runs. Any other language of formats (nginx's `log_format`) ends in the same pieces.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from fastlb.control_plane.config.braces import Name, split_braces
from fastlb.control_plane.config.errors import Rejected, nearest, quote
from fastlb.control_plane.config.template import OF_PROXY, OF_TLS, PROXY_ELSEWHERE, TLS_ELSEWHERE

# Every field, in the order of the documentation. Besides these: request.NAME and response.NAME, header fields of either head.
FIELDS = (
    "time",
    "time_local",
    "time_seconds",
    "client",
    "client_port",
    "listener",
    "scheme",
    "request",
    "method",
    "target",
    "path",
    "query",
    "protocol",
    "host",
    "user",
    "status",
    "reason",
    "grpc_status",
    "bytes_sent",
    "body_bytes_sent",
    "request_bytes",
    "request_body_bytes",
    "duration",
    "duration_ms",
    "pool",
    "backend",
    "backends",
    "backend_status",
    "backend_statuses",
    "attempts",
    "queue_ms",
    "connect_ms",
    "first_byte_ms",
    "backend_ms",
    "request_id",
    "connection",
    "connection_requests",
    "keep_alive",
    "tunnel",
    "pid",
    *OF_TLS,
    *OF_PROXY,
)
JSON_FIELDS = (
    "time",
    "listener",
    "client",
    "method",
    "host",
    "target",
    "protocol",
    "status",
    "reason",
    "bytes_sent",
    "duration_ms",
    "pool",
    "backend",
    "attempts",
    "request_id",
    "request.referer",
    "request.user-agent",
)
# What other load balancers call a field.
_ALSO_CALLED = {
    **TLS_ELSEWHERE,
    **PROXY_ELSEWHERE,
    "remote_addr": "client",
    "client_ip": "client",
    "remote_user": "user",
    "request_uri": "target",
    "uri": "path",
    "url": "target",
    "args": "query",
    "request_time": "duration",
    "msec": "time_seconds",
    "timestamp": "time",
    "request_method": "method",
    "server_protocol": "protocol",
    "grpc_status_number": "grpc_status",
    "upstream_addr": "backends",
    "upstream_status": "backend_statuses",
    "upstream_connect_time": "connect_ms",
    "upstream_queue_time": "queue_ms",
    "upstream_header_time": "first_byte_ms",
    "upstream_response_time": "backend_ms",
    "user_agent": "request.user-agent",
    "http_user_agent": "request.user-agent",
    "referer": "request.referer",
    "http_referer": "request.referer",
}
_HEADER_FIELD = r"(?:request|response)\.[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}"

MOST_LITERAL_BYTES = 4096
MOST_FIELDS = 120  # each may take two operations of the plan's 256


@dataclass(frozen=True, slots=True)
class Field:
    """A value of the exchange; `escape` is one of the data plane's (`_core.LOG_ESCAPES`)."""

    name: str
    escape: str


Piece = str | Field


@dataclass(frozen=True, slots=True)
class LogFormat:
    """What a line is put together from. `text` is how it was written."""

    text: str
    pieces: tuple[Piece, ...]

    def __str__(self) -> str:
        return self.text


COMBINED_TEXT = '{client} - {user} [{time_local}] "{request}" {status} {body_bytes_sent} "{request.referer}" "{request.user-agent}"'


def parse_field(text: str) -> str:
    """The name of a field; those of headers in lower case."""
    name = text.strip()
    if re.fullmatch(_HEADER_FIELD, name):
        return name.lower()
    if name not in FIELDS:
        prefix, dot, _ = name.partition(".")
        right = "fields are listed in docs/options/access_log.format.md; headers are request.NAME and response.NAME"
        meant = _ALSO_CALLED.get(name.lower().lstrip("$")) or nearest(name, FIELDS)
        raise Rejected(f"there is no field {quote(name)}", right, None if dot and prefix in ("request", "response") else meant)
    return name


def parse_format(text: str) -> LogFormat:
    """`combined`, `json` (whose fields are an option of their own), or a text with fields in braces."""
    if text == "combined":
        return LogFormat(text, _parse_text(COMBINED_TEXT))
    if text == "json":
        return make_json_format(JSON_FIELDS)
    if re.fullmatch(r"[\w-]*", text):
        right = 'a format is "combined", "json" or a text with fields in braces, such as \'{client} {request} {status}\''
        raise Rejected(f"unknown format {quote(text)}", right, nearest(text, ("combined", "json")))
    return LogFormat(text, _parse_text(text))


def make_json_format(fields: Sequence[str]) -> LogFormat:
    """An object with these fields, in this order."""
    pieces: list[Piece] = []
    for number, name in enumerate(fields):
        pieces += [f"{',' if number else '{'}{json.dumps(name)}:", Field(name, "json")]
    return LogFormat("json", (*pieces, "}"))


def _parse_text(text: str) -> tuple[Piece, ...]:
    bad = re.search(r"[\x00-\x08\x0a-\x1f\x7f]", text)
    if bad:
        raise Rejected(f"character {bad.start() + 1} of the format is a control character", "a line is one line of text")
    pieces: list[Piece] = [
        Field(parse_field(part.name), "text") if isinstance(part, Name) else part for part in split_braces(text, "format", "field")
    ]
    n_fields = sum(isinstance(piece, Field) for piece in pieces)
    if n_fields == 0:
        raise Rejected("the format has no field", "a field is {NAME}, such as {status}")
    if n_fields > MOST_FIELDS or sum(len(piece.encode()) for piece in pieces if isinstance(piece, str)) > MOST_LITERAL_BYTES:
        raise Rejected("the format is too long", f"at most {MOST_FIELDS} fields and {MOST_LITERAL_BYTES} bytes of text between them")
    return tuple(pieces)
