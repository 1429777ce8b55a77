"""Texts with values of the exchange in braces, `"https://{host}{uri}"`. Their use decides what they hold and how values are written.

A template is compiled twice, as log formats are: here its text into pieces, and in `control_plane.route_program` the pieces into the
segments that the data plane writes. nginx's `$variables` will end in the same pieces.

A client can send anything as a value, so each has the encoding of the place where it stands (`_core.ENCODINGS`): control characters
cannot end a header field, and in a URL a value stays within the part where it was put.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fastlb.control_plane.config.braces import Name, split_braces
from fastlb.control_plane.config.errors import Rejected, nearest, quote

# Of a client's TLS: nothing where it speaks none.
OF_TLS = (
    "tls_version",
    "tls_cipher",
    "tls_server_name",
    "tls_resumed",
    "client_certificate_subject",
    "client_certificate_issuer",
    "client_certificate_serial",
    "client_certificate_fingerprint",
    "client_certificate_verify",
)
TLS_ELSEWHERE = {
    "ssl_protocol": "tls_version",
    "ssl_cipher": "tls_cipher",
    "ssl_server_name": "tls_server_name",
    "ssl_session_reused": "tls_resumed",
    "ssl_client_s_dn": "client_certificate_subject",
    "ssl_client_i_dn": "client_certificate_issuer",
    "ssl_client_serial": "client_certificate_serial",
    "ssl_client_fingerprint": "client_certificate_fingerprint",
    "ssl_client_verify": "client_certificate_verify",
    "sni": "tls_server_name",
}
# Of the PROXY header that a client's connection began with, likewise.
OF_PROXY = (
    "proxy_protocol_sender",
    "proxy_protocol_destination",
    "proxy_protocol_destination_port",
    "proxy_protocol_alpn",
    "proxy_protocol_authority",
    "proxy_protocol_unique_id",
    "proxy_protocol_tls_version",
    "proxy_protocol_tls_cipher",
    "proxy_protocol_certificate_name",
    "proxy_protocol_certificate_verify",
)
PROXY_ELSEWHERE = {
    "realip_remote_addr": "proxy_protocol_sender",
    "proxy_protocol_addr": "client",
    "proxy_protocol_port": "client_port",
    "proxy_protocol_server_addr": "proxy_protocol_destination",
    "proxy_protocol_server_port": "proxy_protocol_destination_port",
    "proxy_protocol_tlv_alpn": "proxy_protocol_alpn",
    "proxy_protocol_tlv_authority": "proxy_protocol_authority",
    "proxy_protocol_tlv_unique_id": "proxy_protocol_unique_id",
    "proxy_protocol_tlv_ssl_version": "proxy_protocol_tls_version",
    "proxy_protocol_tlv_ssl_cipher": "proxy_protocol_tls_cipher",
    "proxy_protocol_tlv_ssl_cn": "proxy_protocol_certificate_name",
    "proxy_protocol_tlv_ssl_verify": "proxy_protocol_certificate_verify",
    "fc_pp_authority": "proxy_protocol_authority",
    "fc_pp_unique_id": "proxy_protocol_unique_id",
}
# Values by when there are any, in the order of the documentation.
OF_REQUESTS = (
    *("client", "client_port", "scheme", "host", "http_host", "method", "uri", "path", "query", "request_id", "listener", "route"),
    *OF_TLS,
    *OF_PROXY,
)
OF_ATTEMPTS = ("pool", "backend")
OF_RESPONSES = ("status",)
# Those with a name of their own behind a dot.
NAMED_OF_REQUESTS = ("header", "cookie", "query", "capture")
NAMED_OF_RESPONSES = ("response",)

_NAMES = {
    "header": r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}",
    "response": r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}",
    "cookie": r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}",
    "query": r"[^\x00-\x20\x7f{}]{1,128}",
    "capture": r"[A-Za-z_][A-Za-z0-9_]{0,31}|[0-9]{1,2}",
}
# What nginx and the access log call a value.
_ALSO_CALLED = {
    **TLS_ELSEWHERE,
    **PROXY_ELSEWHERE,
    "remote_addr": "client",
    "client_ip": "client",
    "address": "client",
    "remote_port": "client_port",
    "request_uri": "uri",
    "target": "uri",
    "args": "query",
    "query_string": "query",
    "request_method": "method",
    "proto": "scheme",
    "protocol": "scheme",
    "document_uri": "path",
    "upstream_addr": "backend",
    "code": "status",
}
_PREFIXES = {
    "request.": "header.",
    "headers.": "header.",
    "http_": "header.",
    "arg_": "query.",
    "cookie_": "cookie.",
    "sent_http_": "response.",
    "upstream_http_": "response.",
}

MOST_PIECES = 64  # segments of the data plane
MOST_LITERAL_BYTES = 4096
MOST_BODY_BYTES = 16384


@dataclass(frozen=True, slots=True)
class Value:
    """A value of the exchange; `encoding` is one of the data plane's (`_core.ENCODINGS`)."""

    name: str
    encoding: str


Piece = str | Value


@dataclass(frozen=True, slots=True)
class Template:
    """What a text is put together from. `text` is how it was written."""

    text: str = ""
    pieces: tuple[Piece, ...] = ()

    def __str__(self) -> str:
        return self.text

    def __bool__(self) -> bool:
        return bool(self.pieces)

    def names(self) -> set[str]:
        return {piece.name for piece in self.pieces if isinstance(piece, Value)}


def parse_request_value(text: str) -> Template:
    """The value of a header field of a request."""
    return _parse_field_value(text, of_response=False)


def parse_response_value(text: str) -> Template:
    """The value of a header field of a response."""
    return _parse_field_value(text, of_response=True)


def parse_key(text: str) -> Template:
    """Bytes that something is chosen by."""
    parts = _split(text, attempts=False, of_response=False)
    if parts and not any(isinstance(part, Name) for part in parts):
        raise Rejected(f"{quote(text)} has no value", "the same for every request, it chooses nothing; a value is {NAME}, such as {client}")
    return Template(text, tuple(Value(part.name, "nothing") if isinstance(part, Name) else part for part in parts))


def parse_body(text: str) -> Template:
    """The body of an answer, with line ends."""
    if re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", text):
        raise Rejected(f"{quote(text)} has a control character", "a body is text")
    parts = _split(text, attempts=False, of_response=False, most_bytes=MOST_BODY_BYTES)
    return Template(text, tuple(Value(part.name, "nothing") if isinstance(part, Name) else part for part in parts))


def parse_target(text: str) -> Template:
    """The target that a backend gets: a path and perhaps a query."""
    parts = _split(text, attempts=False, of_response=False)
    _check_url_text(text, parts)
    first = parts[0] if parts else "/"
    if not (first.startswith("/") if isinstance(first, str) else first.name in ("path", "uri")):
        right = 'a target begins with "/", {path} or {uri}, such as "/new{path}?{query}"'
        raise Rejected(f"{quote(text)} is not a target", right, f"/{text}" if isinstance(first, str) and ":" not in first else None)
    if any("#" in part for part in parts if isinstance(part, str)):
        raise Rejected(f"{quote(text)} has a #", "what stands behind it is never sent")
    return Template(text, tuple(_encode_path_and_query(parts)))


def parse_redirect(text: str) -> Template:
    """Where a client is sent: a path of this host, or a URL.

    Raises:
        Rejected: also where a client could choose the host that it, or somebody whom it gives a link, is sent to.
    """
    parts = _split(text, attempts=False, of_response=False)
    _check_url_text(text, parts)
    right = 'a redirect leads to a path ("/new") or to a URL ("https://{host}{uri}")'
    host, rest = _split_host(text, parts)
    if not host:
        first = parts[0] if parts else "/"
        if isinstance(first, str) and first.startswith("//"):
            raise Rejected(f"{quote(text)} has no scheme", right, f"https:{text}")
        if not (first.startswith("/") if isinstance(first, str) else first.name in ("path", "uri")):
            meant = f"https://{text}" if isinstance(first, str) and re.match(r"[\w-]+\.[\w.-]+(/|$)", first) else None
            raise Rejected(f"{quote(text)} is neither a path nor a URL", right, meant)
        return Template(text, tuple(_encode_path_and_query(parts)))
    return Template(text, (*host, *_encode_path_and_query(rest)))


def parse_text_value(name: str, *, attempts: bool, of_response: bool) -> str:
    """The name of a value; those of header fields in lower case.

    Args:
        attempts: whether there is a backend already.
        of_response: whether there is its response.
    """
    known = [*OF_REQUESTS, *(OF_ATTEMPTS if attempts else ()), *(OF_RESPONSES if of_response else ())]
    named = [*NAMED_OF_REQUESTS, *(NAMED_OF_RESPONSES if of_response else ())]
    written = name.strip()
    kind, dot, own = written.partition(".")
    if written in known:
        return written
    if dot and kind in named and re.fullmatch(_NAMES[kind], own):
        return written.lower() if kind in ("header", "response") else written
    right = f"values are {', '.join(known)}, and {', '.join(f'{kind}.NAME' for kind in named)}"
    if written in (*OF_ATTEMPTS, *OF_RESPONSES):
        raise Rejected(f"there is no {written} yet", right)
    if dot and kind in NAMED_OF_RESPONSES:
        if of_response:
            raise Rejected(f"{quote(own)} is no name of a header field", right)
        raise Rejected("there is no response yet", right)
    if dot and kind in named:
        raise Rejected(f"{quote(own)} is no name of a {kind}", right)
    raise Rejected(f"there is no value {quote(written)}", right, _guess(written, known, named))


def _guess(written: str, known: Sequence[str], named: Sequence[str]) -> str | None:
    folded = written.lower().lstrip("$")
    if folded in known:
        return folded
    for prefix, ours in _PREFIXES.items():
        if folded.startswith(prefix) and ours.rstrip(".") in named:
            own = folded.removeprefix(prefix)
            return ours + (own.replace("_", "-") if prefix.endswith("http_") else own)
    if re.fullmatch("[0-9]{1,2}", folded):
        return f"capture.{folded}"
    meant = _ALSO_CALLED.get(folded) or nearest(folded, known)
    return meant if meant in known else None


def _split(text: str, *, attempts: bool, of_response: bool, most_bytes: int = MOST_LITERAL_BYTES) -> list[str | Name]:
    parts = [
        Name(parse_text_value(part.name, attempts=attempts, of_response=of_response)) if isinstance(part, Name) else part
        for part in split_braces(text, "text", "value")
    ]
    n_bytes = sum(len(part.encode("utf-8", "surrogateescape")) for part in parts if isinstance(part, str))
    if len(parts) > MOST_PIECES or n_bytes > most_bytes:
        raise Rejected("the text is too long", f"at most {MOST_PIECES} values and texts between them, and {most_bytes} bytes of text")
    return parts


def _parse_field_value(text: str, *, of_response: bool) -> Template:
    bad = re.search(r"[\x00-\x1f\x7f]", text)
    if bad:
        raise Rejected(f"character {bad.start() + 1} of the value is a control character", "a header field is one line of text")
    parts = _split(text, attempts=True, of_response=of_response)
    return Template(text, tuple(Value(part.name, "controls") if isinstance(part, Name) else part for part in parts))


def _check_url_text(text: str, parts: Sequence[str | Name]) -> None:
    bad = re.search(r'[^!-~]|["<>\\^`{|}]', "".join(part for part in parts if isinstance(part, str)))
    if bad:
        from urllib.parse import quote as escape  # only a mistake needs it

        raise Rejected(f"{quote(text)} holds {quote(bad[0])}", f"in a URL that is written {escape(bad[0])}")


def _encode_path_and_query(parts: Sequence[str | Name]) -> list[Piece]:
    """Values in a path keep its slashes; in a query they keep to one parameter."""
    pieces: list[Piece] = []
    in_query = False
    for part in parts:
        if isinstance(part, str):
            in_query = in_query or "?" in part or "#" in part
            pieces.append(part)
        elif part.name in ("uri", "query") and not (in_query and part.name == "uri"):
            pieces.append(Value(part.name, "nothing"))
        else:
            pieces.append(Value(part.name, "component" if in_query else "path"))
    return pieces


def _split_host(text: str, parts: Sequence[str | Name]) -> tuple[list[Piece], list[str | Name]]:
    """The scheme and host of a URL, and what follows; no pieces where it is no URL with a scheme."""
    rest = list(parts)
    pieces: list[Piece] = []
    start = "https?://"
    if rest and rest[0] == Name("scheme"):
        pieces.append(Value("scheme", "nothing"))
        rest.pop(0)
        start = "://"
    found = re.match(start, rest[0]) if rest and isinstance(rest[0], str) else None
    if not found:
        return [], list(parts)
    pieces.append(found[0])
    rest[0] = found.string[found.end() :]
    empty = True
    while rest:
        part = rest[0]
        if isinstance(part, str):
            authority = re.split("[/?#]", part, maxsplit=1)[0]
            if authority:
                pieces.append(authority)
                empty = False
            if len(authority) < len(part):
                rest[0] = part[len(authority) :]
                break
        elif part.name in ("uri", "path"):
            break
        elif part.name in ("host", "http_host"):
            pieces.append(Value(part.name, "nothing"))
            empty = False
        else:
            after = rest[1] if len(rest) > 1 else ""
            if not isinstance(after, str) or not re.match(r"\.[A-Za-z0-9-]+\.[A-Za-z0-9]", after):
                problem = f"in {quote(text)} a client could choose the host with {{{part.name}}}"
                raise Rejected(problem, "put a slash in front of it, or end the host in a text of your own, such as .example.com")
            pieces.append(Value(part.name, "component"))
        rest.pop(0)
    if empty:
        raise Rejected(f"{quote(text)} has no host", 'a URL names one, such as "https://{host}{uri}"')
    return pieces, rest
