"""From the access logs of a configuration to the log plan of a snapshot, and to the destinations that somebody has to open.

The order of `log_destinations` is the order of the plan's destinations, by which `Engine.set_log` counts them.
"""

import json
import re
import socket
from collections.abc import Iterator, Sequence

from fastlb import _core
from fastlb.control_plane.config.log_condition import AllOf, AnyOf, Comparison, Expression, LogCondition, Not
from fastlb.control_plane.config.log_destination import LogDestination
from fastlb.control_plane.config.log_format import Field, Piece
from fastlb.control_plane.config.schema import AccessLog, Config, Listener

Operation = bytes | tuple[str, int, str]
Term = tuple[str, int, str, int, bytes, int | bool, int | bool]


def logs_of(config: Config, listener: Listener) -> tuple[AccessLog, ...]:
    """What a listener logs: its own logs, or those of the whole configuration."""
    return config.access_log.logs if listener.access_log.inherited else listener.access_log.logs


def log_destinations(config: Config) -> list[LogDestination]:
    """Every destination that some listener logs to, each once. What syslog messages say about themselves makes no difference here."""
    found = {str(log.to): log.to for listener in config.listeners for log in logs_of(config, listener)}
    return list(found.values())


def build_log_plan(config: Config) -> tuple[bytes, list[int | None]]:
    """Compiles all logs.

    Returns:
        The plan (b"" without any log), and for each listener the index of its set, None where it logs nothing.
    """
    destinations = log_destinations(config)
    if not destinations:
        return b"", [None] * len(config.listeners)
    writer = _core.LogPlanWriter(config.settings.log_buffer_bytes)
    indexes = {str(destination): writer.add_destination(str(destination), destination.kind) for destination in destinations}
    sets: list[int | None] = []
    for listener in config.listeners:
        logs = logs_of(config, listener)
        if not logs:
            sets.append(None)
            continue
        compiler = LogCompiler(listener)
        compiled = []
        for log in logs:
            operations = [*compiler.prefix(log.to), *compiler.operations(log.pieces())]
            compiled.append((indexes[str(log.to)], log.sample, operations, compiler.terms(log.when)))
        sets.append(writer.add_set(compiler.captures, compiled))
    return writer.finish(), sets


class LogCompiler:
    """Turns formats and conditions of one listener's logs into operations and terms; `captures` is what they need of the heads."""

    def __init__(self, listener: Listener) -> None:
        self.captures: list[tuple[str, str]] = []
        self._literals = {"listener": listener.name, "scheme": listener.scheme()}

    def operations(self, pieces: Sequence[Piece]) -> Iterator[Operation]:
        """What writes a line, without its newline."""
        for piece in pieces:
            if isinstance(piece, str):
                yield piece.encode()
            elif piece.name in self._literals:
                yield _escape_literal(self._literals[piece.name], piece)
            else:
                yield (*self._field(piece.name), piece.escape)

    def prefix(self, destination: LogDestination) -> Iterator[Operation]:
        """What a syslog message begins with (RFC 3164): a local daemon knows the machine, a distant one is told its name."""
        if destination.kind != "datagrams":
            return
        yield f"<{destination.priority}>".encode()
        yield "time_syslog", 0, "text"
        host = re.sub("[^A-Za-z0-9.-]", "-", socket.gethostname()) if destination.host else ""
        yield f"{f' {host}' if host else ''} {destination.tag}[".encode()
        yield "pid", 0, "text"
        yield b"]: "

    def terms(self, condition: LogCondition) -> list[Term]:
        """Comparisons in order, each with what follows it: a later one, or the decision."""
        if condition.expression is None:
            return []
        listed: list[tuple[Comparison, _Follower, _Follower]] = []
        _list_terms(condition.expression, True, False, listed)
        terms = []
        for comparison, on_true, on_false in listed:
            field, argument = self._field(comparison.field)
            text = comparison.text.encode()
            terms.append((field, argument, comparison.operator, comparison.number, text, _resolve(on_true), _resolve(on_false)))
        return terms

    def _field(self, name: str) -> tuple[str, int]:
        kind, dot, header = name.partition(".")
        if dot:
            return "capture", self._capture(f"{kind}_field", header)
        if name == "request_id":
            return name, self._capture(name)
        if name == "grpc_status":
            self._capture(name)  # which has it looked for
            return name, 0
        if name in _core.LOG_CAPTURES:
            return "capture", self._capture(name)
        return name, 0

    def _capture(self, kind: str, name: str = "") -> int:
        if (kind, name) not in self.captures:
            self.captures.append((kind, name))
        return self.captures.index((kind, name))


class _Later:
    """A place in the list of terms that is not reached yet."""

    at = 0


_Follower = bool | _Later


def _resolve(follower: _Follower) -> int | bool:
    return follower.at if isinstance(follower, _Later) else follower


def _list_terms(
    expression: Expression, on_true: _Follower, on_false: _Follower, listed: list[tuple[Comparison, _Follower, _Follower]]
) -> None:
    """Appends the comparisons of an expression, from left to right; what is decided is not looked at any further."""
    match expression:
        case Comparison():
            listed.append((expression, on_true, on_false))
        case Not(inner):
            _list_terms(inner, on_false, on_true, listed)
        case AllOf(parts) | AnyOf(parts):
            for part in parts[:-1]:
                later = _Later()
                if isinstance(expression, AllOf):
                    _list_terms(part, later, on_false, listed)
                else:
                    _list_terms(part, on_true, later, listed)
                later.at = len(listed)
            _list_terms(parts[-1], on_true, on_false, listed)


def _escape_literal(text: str, field: Field) -> bytes:
    # Names of listeners are letters, digits, _ . and -: nothing in them needs escaping in a text.
    return json.dumps(text).encode() if field.escape == "json" else text.encode()
