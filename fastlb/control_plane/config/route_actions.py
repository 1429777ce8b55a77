"""Checks of what a route does that concern several of its options at once."""

from collections.abc import Mapping

from fastlb.control_plane.config.errors import quote, quote_all
from fastlb.control_plane.config.reader import Reader
from fastlb.control_plane.config.regex_pattern import RegexPattern
from fastlb.control_plane.config.route_options import NO_ANSWER, RequestHeaders, ResponseHeaders
from fastlb.control_plane.config.schema import Route
from fastlb.control_plane.config.template import Template
from fastlb.control_plane.config.toml import KeyPath

# Statuses whose answers have no body (RFC 9110 section 6.4.1); 205 may not have one either.
_WITHOUT_BODY = (204, 205, 304)
# What means something only where a request is forwarded.
_OF_FORWARDING = ("split_by", "strip_prefix", "replace_prefix", "rewrite", "request_headers", "timeouts", "mirror")


def check_actions(reader: Reader) -> None:
    for path, route in reader.all_read(Route):
        written = reader.source.values["routes"][path[1]]
        _check_kind(reader, path, route, written)
        _check_target(reader, path, route)
    every_edits: list[tuple[KeyPath, RequestHeaders | ResponseHeaders]] = [*reader.all_read(RequestHeaders)]
    every_edits += reader.all_read(ResponseHeaders)
    for path, edits in every_edits:
        changed = {name.lower() for name, _ in edits.set} | {name.lower() for name, _ in edits.add}
        for number, name in enumerate(edits.remove):
            if name.lower() in changed:
                reader.reject((*path, "remove", number), f"{quote(name)} is removed and set", "set alone replaces what was there")
    regexes = {path[1]: route.path.regex for path, route in reader.all_read(Route) if route.path.regex}
    for path, template in reader.all_read(Template):
        _check_captures(reader, path, template, regexes)


def _check_kind(reader: Reader, path: KeyPath, route: Route, written: dict[str, object]) -> None:
    """A route does one thing."""
    kinds = [
        key
        for key, is_used in (("pool", route.pool.shares), ("redirect", route.redirect.to), ("respond", route.respond.status != NO_ANSWER))
        if is_used
    ]
    if len(kinds) > 1:
        reader.reject_key((*path, kinds[1]), f"the route has {' and '.join(kinds)}", "it forwards, redirects or responds: keep one of them")
    elif not kinds:
        misread = [key for key in ("pool", "redirect", "respond") if key in written or (*path, key) in reader.misspelt]
        if reader.source.complete and not misread:
            right = 'a route has a pool, or redirect = "https://…", or respond = { status = 404 }'
            reader.reject_key(path, '"pool" is missing', right)
    if "pool" not in kinds:
        for key in _OF_FORWARDING if kinds else ():
            if key in written:
                reader.warn((*path, key), f"{key} of a route that forwards nothing", f"{kinds[0]} does not look at it")
    elif route.split_by and len(route.pool.shares) < 2:
        reader.warn((*path, "split_by"), "split_by of a route with one pool", "there is nothing to choose from")
    if route.respond.body and route.respond.status in _WITHOUT_BODY:
        reader.reject((*path, "respond", "body"), f"an answer {route.respond.status} has no body", "leave it out, or choose another status")
    if route.respond.body.names() and not route.respond.content_type.startswith("text/plain"):
        found = f"a value in a body of the type {quote(route.respond.content_type)}"
        reader.reject((*path, "respond", "body"), found, 'a client could put markup there: only "text/plain" may hold values')
    answer = written.get("respond")
    if isinstance(answer, dict) and "status" not in answer and not kinds:
        reader.reject_key((*path, "respond"), "respond without a status", 'status = 200 … 599, or "close"')


def _check_target(reader: Reader, path: KeyPath, route: Route) -> None:
    """What a backend gets instead of the target."""
    if route.rewrite and (route.strip_prefix or route.replace_prefix):
        key = "strip_prefix" if route.strip_prefix else "replace_prefix"
        reader.reject_key((*path, key), f"the route has rewrite and {key}", "rewrite says the whole target: keep one of them")
    elif route.strip_prefix and not route.path.literal.startswith(route.strip_prefix):
        found = f"strip_prefix {quote(route.strip_prefix)} is no prefix of the path {quote(route.path.text)}"
        reader.reject((*path, "strip_prefix"), found, "it is taken off each request of this route", route.path.literal.rstrip("/") or None)

    elif route.replace_prefix and not route.strip_prefix and route.path.regex:
        right = "say with strip_prefix what it takes the place of; or use rewrite"
        reader.reject_key((*path, "replace_prefix"), "replace_prefix of a route whose path is a regular expression", right)


def _check_captures(reader: Reader, path: KeyPath, template: Template, regexes: Mapping[str | int, RegexPattern]) -> None:
    """{capture.NAME} is a group of the route's own path."""
    captures = sorted(name.partition(".")[2] for name in template.names() if name.startswith("capture."))
    if captures and path[0] != "routes":
        reader.reject(path, f"there is no {{capture.{captures[0]}}} here", "captures are of a route's path")
        return
    regex = regexes.get(path[1])
    known = [*map(str, range(regex.groups + 1)), *(name for name, _ in regex.names)] if regex else []
    for name in captures:
        if name not in known:
            right = f"its groups are {quote_all(known)}" if known else 'a path with groups is a regular expression, "~^/users/([0-9]+)"'
            reader.reject(path, f"the path of this route has no group {quote(name)}", right)
