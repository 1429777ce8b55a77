"""From what a route does to the calls of the snapshot's writer. What it matches is route_plan's."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from types import MappingProxyType

from fastlb import _core
from fastlb.control_plane.config.route_options import CLOSE, INHERIT_BODY, NO_ANSWER, RequestHeaders, ResponseHeaders, RouteTimeouts
from fastlb.control_plane.config.schema import Route
from fastlb.control_plane.config.template import Template

TemplatePiece = bytes | tuple[str, str, str]
HeaderOperation = tuple[str, str, Sequence[TemplatePiece]]
INHERITED = RouteTimeouts()
HSTS = "Strict-Transport-Security"
NO_GROUPS: Mapping[str, int] = MappingProxyType({})


def compile_template(template: Template, groups: Mapping[str, int] = NO_GROUPS) -> list[TemplatePiece]:
    """The segments that write a template.

    Args:
        groups: the named ones of the route's path, with their numbers.
    """
    compiled: list[TemplatePiece] = []
    for piece in template.pieces:
        if isinstance(piece, str):
            compiled.append(piece.encode("utf-8", "surrogateescape"))
            continue
        kind, dot, name = piece.name.partition(".")
        if kind == "capture":
            name = str(groups.get(name, name))
        compiled.append((f"{kind}_value" if dot and kind == "query" else kind, piece.encoding, name))
    return compiled


def compile_edits(edits: RequestHeaders | ResponseHeaders, groups: Mapping[str, int] = NO_GROUPS) -> list[HeaderOperation]:
    """In the order in which fields are written: those that are set, then those that are added."""
    if not (edits.remove or edits.set or edits.add):
        return []  # most routes, of which there may be thousands
    operations: list[HeaderOperation] = [("remove", name, ()) for name in edits.remove]
    operations += [("set", name, compile_template(value, groups)) for name, value in edits.set]
    operations += [("add", name, compile_template(value, groups)) for name, value in edits.add]
    return operations


def add_program(writer: _core.SnapshotWriter, index: int, route: Route, pool_indexes: Mapping[str, int], hsts: str = "") -> None:
    """Tells the writer what route number `index` does besides forwarding to a pool.

    Args:
        hsts: the Strict-Transport-Security field of its answers, unless it says something about that itself.
    """
    groups = groups_of(route)
    if any(name.startswith("capture.") for template in route.templates() for name in template.names()):
        writer.keep_match(index)
    if len(route.pool.shares) > 1:
        shares = [(pool_indexes[name], weight) for name, weight in route.pool.shares]
        writer.set_split(index, shares, key=compile_template(route.split_by, groups))
    if route.redirect.to:
        needs_host = not {"host", "http_host"}.isdisjoint(route.redirect.to.names())
        status = route.redirect.status
        writer.set_redirect(index, status, _phrase(status), compile_template(route.redirect.to, groups), needs_host=needs_host)
    elif route.respond.status == CLOSE:
        writer.set_close(index)
    elif route.respond.status != NO_ANSWER:
        status = route.respond.status
        body = compile_template(route.respond.body, groups)
        writer.set_response(index, status, _phrase(status), content_type=route.respond.content_type, body=body)
    if route.rewrite:
        writer.set_target(index, compile_template(route.rewrite, groups))
    elif route.strip_prefix or route.replace_prefix:
        writer.set_prefix(index, len((route.strip_prefix or route.path.literal).encode()), route.replace_prefix)
    if route.timeouts != INHERITED:
        writer.set_route_timeouts(
            index,
            connect_ms=route.timeouts.connect_ms,
            first_byte_ms=route.timeouts.first_byte_ms,
            between_bytes_ms=route.timeouts.between_bytes_ms,
            exchange_ms=route.timeouts.exchange_ms,
            tunnel_ms=route.timeouts.tunnel_ms,
        )
    if route.limits.body_bytes != INHERIT_BODY:
        writer.set_body_limit(index, route.limits.body_bytes)
    request, response = compile_edits(route.request_headers, groups), compile_edits(route.response_headers, groups)
    if hsts and not any(name.lower() == HSTS.lower() for _, name, _ in response):
        response.append(("set", HSTS, [hsts.encode()]))
    if request:
        writer.edit_request(index, request)
    if response:
        writer.edit_response(index, response)


def groups_of(route: Route) -> Mapping[str, int]:
    """The named groups of a route's path."""
    return dict(route.path.regex.names) if route.path.regex else NO_GROUPS


def name_of(route: Route) -> str:
    """What messages call a route: its own name, else its first host and its path."""
    return route.name or f"{route.hosts[0] or '*'}{route.path.text}"


def pool_of(route: Route, pool_indexes: Mapping[str, int]) -> int | None:
    """The pool that a route forwards to, the first of several; None where it answers by itself."""
    return pool_indexes[route.pool.shares[0][0]] if route.pool.shares else None


def _phrase(status: int) -> str:
    """The reason phrase of a status; "" for one without a name, as RFC 9112 section 4 allows."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
