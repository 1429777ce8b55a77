"""Which exchanges are logged: comparisons of fields, joined by `and`, `or`, `not` and parentheses.

status >= 500 or duration > 1s
method == POST and not path starts_with "/health"
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from fastlb.control_plane.config.errors import Rejected, nearest, quote, quote_all
from fastlb.control_plane.config.log_format import FIELDS, parse_field
from fastlb.control_plane.config.quantity import parse_duration_ms, parse_size_bytes
from fastlb.control_plane.config.template import OF_PROXY, OF_TLS

_SIZES = ("bytes_sent", "body_bytes_sent", "request_bytes", "request_body_bytes")
_FLAGS = ("keep_alive", "tunnel")
_NUMBERS = (
    "status",
    "grpc_status",
    "backend_status",
    "attempts",
    "client_port",
    "duration_ms",
    "queue_ms",
    "connect_ms",
    "first_byte_ms",
    "backend_ms",
    "connection",
    "connection_requests",
    "pid",
)
_TEXTS = (
    *("client", "request", "method", "target", "path", "query", "protocol", "host", "user", "reason", "pool", "backend", "request_id"),
    *OF_TLS,
    *OF_PROXY,
)
_COMPARABLE = (*_TEXTS, *_NUMBERS, *_SIZES, *_FLAGS, "duration")
_ORDER = ("<", "<=", ">", ">=")
_TEXT_COMPARISONS = ("==", "!=", "starts_with", "ends_with", "contains")

_TOKEN = re.compile(r"""\s*(?:(?P<quoted>"[^"]*"|'[^']*')|(?P<sign>[()]|[=!<>~]+)|(?P<word>[^\s()=!<>~"']+))""")
MOST_COMPARISONS = 100
MOST_TEXT_BYTES = 1024
MOST_DEPTH = 50


@dataclass(frozen=True, slots=True)
class Comparison:
    """A field (as formats name it; durations as `duration_ms`) compared with a number, or with a text."""

    field: str
    operator: str
    number: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True)
class Not:
    inner: "Expression"


@dataclass(frozen=True, slots=True)
class AllOf:
    parts: tuple["Expression", ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    parts: tuple["Expression", ...]


Expression = Comparison | Not | AllOf | AnyOf


@dataclass(frozen=True, slots=True)
class LogCondition:
    """`text` is how it was written; `expression` is None where every exchange is meant."""

    text: str
    expression: Expression | None = field(compare=False)

    def __str__(self) -> str:
        return self.text

    def fields(self) -> set[str]:
        """The names of what is compared."""
        return set() if self.expression is None else set(_fields_of(self.expression))


def _fields_of(expression: Expression) -> Iterator[str]:
    match expression:
        case Comparison():
            yield expression.field
        case Not(inner):
            yield from _fields_of(inner)
        case AllOf(parts) | AnyOf(parts):
            for part in parts:
                yield from _fields_of(part)


def parse_condition(text: str) -> LogCondition:
    """A condition; "" holds always."""
    if not text.strip():
        return LogCondition("", None)
    return LogCondition(text, _Parser(text).parse())


class _Parser:
    """Reads one condition from left to right. Places are characters of its text, counted from 1."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_split(text))
        self._at = 0
        self._end = len(text) + 1
        self._n_comparisons = 0
        self._depth = 0

    def parse(self) -> Expression:
        expression = self._any_of()
        if self._at < len(self._tokens):
            token, place = self._tokens[self._at]
            raise Rejected(f"{quote(token)} at character {place} of the condition", 'comparisons are joined by "and" or "or"')
        return expression

    def _peek(self) -> str:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else ""

    def _next(self, wanted: str) -> tuple[str, int]:
        if self._at == len(self._tokens):
            raise Rejected(f"the condition ends where {wanted} should come (character {self._end})", "such as status >= 400")
        self._at += 1
        return self._tokens[self._at - 1]

    def _any_of(self) -> Expression:
        parts = [self._all_of()]
        while self._peek() == "or":
            self._at += 1
            parts.append(self._all_of())
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))

    def _all_of(self) -> Expression:
        parts = [self._one()]
        while self._peek() == "and":
            self._at += 1
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))

    def _one(self) -> Expression:
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise Rejected("the condition is nested too deeply", f"at most {MOST_DEPTH} levels")
        if self._peek() == "not":
            self._at += 1
            result: Expression = Not(self._one())
        elif self._peek() == "(":
            _, place = self._next("(")
            result = self._any_of()
            if self._peek() != ")":
                raise Rejected(f"the ( at character {place} of the condition is not closed", "each ( has its )")
            self._at += 1
        else:
            result = self._comparison()
        self._depth -= 1
        return result

    def _comparison(self) -> Comparison:
        self._n_comparisons += 1
        if self._n_comparisons > MOST_COMPARISONS:
            raise Rejected("the condition is too long", f"at most {MOST_COMPARISONS} comparisons")
        word, place = self._next("a field")
        try:
            name = parse_field(word)
        except Rejected as rejected:
            raise Rejected(f"{rejected.found} (character {place} of the condition)", rejected.right, rejected.suggestion) from None
        is_text = name in _TEXTS or name not in FIELDS
        if name not in _COMPARABLE and not is_text:
            right = f"conditions know {', '.join(_COMPARABLE)}, request.NAME and response.NAME"
            raise Rejected(f"{quote(name)} at character {place} of the condition cannot be compared", right)
        allowed = _TEXT_COMPARISONS if is_text else ("==", "!=") if name in _FLAGS else ("==", "!=", *_ORDER)
        operator, place = self._next(f"one of {quote_all(allowed)}")
        if operator not in allowed:
            meant = "==" if operator == "=" else nearest(operator, allowed)
            raise Rejected(f"{quote(operator)} at character {place} of the condition", f"{name} is compared by {quote_all(allowed)}", meant)
        written, place = self._next("a value")
        if is_text:
            return Comparison(name, operator, text=_read_text(written, place))
        return Comparison("duration_ms" if name == "duration" else name, operator, number=_read_number(name, written, place))


def _split(text: str) -> Iterator[tuple[str, int]]:
    at = 0
    end = len(text.rstrip())
    while at < end:
        found = _TOKEN.match(text, at)
        if not found:
            place = at + len(text[at:]) - len(text[at:].lstrip()) + 1
            raise Rejected(f"{quote(text[place - 1 : place + 9])} at character {place} of the condition", "a text is closed by its quote")
        yield found[found.lastgroup or 0], found.start(found.lastgroup or 0) + 1
        at = found.end()


def _read_text(written: str, place: int) -> str:
    text = written[1:-1] if written[0] in "\"'" else written
    if written in ("(", ")", "and", "or", "not"):
        raise Rejected(f"{quote(written)} at character {place} of the condition is no value", 'a text stands in quotes: "and"')
    if len(text.encode()) > MOST_TEXT_BYTES:
        raise Rejected(f"the text at character {place} of the condition is too long", f"at most {MOST_TEXT_BYTES} bytes")
    return text


def _read_number(name: str, written: str, place: int) -> int:
    text = written[1:-1] if written[0] in "\"'" else written
    where = f"at character {place} of the condition"
    if name in _FLAGS:
        if text not in ("true", "false"):
            raise Rejected(f"{quote(text)} {where}", f"{name} is true or false")
        return int(text == "true")
    if re.fullmatch("[0-9]{1,18}", text) and name != "duration":
        return int(text)
    try:
        if name == "duration":
            return parse_duration_ms(text)
        if name in _SIZES:
            return parse_size_bytes(text)
    except Rejected as rejected:
        raise Rejected(f"{rejected.found} ({where})", rejected.right, rejected.suggestion) from None
    raise Rejected(f"{quote(text)} {where}", f"{name} is a whole number")
