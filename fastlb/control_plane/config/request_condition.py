"""What a request has to be besides its host and path: methods, clients, header fields, query parameters and cookies.

Each takes one value or a list. A request matches when it has one of the plain values, where there are any, and none of those that begin
with "!".
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from fastlb.control_plane.config.address import Network, parse_network
from fastlb.control_plane.config.errors import Rejected, describe, quote
from fastlb.control_plane.config.kind import ListOf, Text
from fastlb.control_plane.config.reader import Reader
from fastlb.control_plane.config.regex_pattern import RegexPattern, is_regex, parse_regex
from fastlb.control_plane.config.toml import KeyPath

T = TypeVar("T")

_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}"  # RFC 9110 section 5.6.2
_METHOD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}"  # a longer one is refused with its request
_KNOWN_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"))
# Fields that a route asks for with a key of its own, and what that reads.
_OWN_KEYS = {"host": 'host = "shop.example.com"', "cookie": 'cookies = { name = "value" }'}


@dataclass(frozen=True, slots=True)
class Wanted(Generic[T]):
    """A value that a request has to have or, `negated`, must not have."""

    value: T
    negated: bool = False


@dataclass(frozen=True, slots=True)
class TextPattern:
    """How a text is compared.

    Args:
        kind: "exact", "prefix", "suffix", "part" or "regex"; "any" where it is enough that there is one.
        text: what with; "" for a regular expression.
    """

    kind: str
    text: str = ""
    regex: RegexPattern | None = None


@dataclass(frozen=True, slots=True)
class NamedCondition:
    """What the values of one header field, parameter or cookie have to be."""

    name: str
    values: tuple[Wanted[TextPattern], ...]


def parse_method(text: str) -> Wanted[str]:
    """A method, or "!" and one."""
    method = text.removeprefix("!")
    right = 'a method is a word such as "GET", "!" before it means any other'
    if not re.fullmatch(_METHOD, method):
        raise Rejected(f"{quote(text)} is not a method", right)
    if method == "CONNECT":
        raise Rejected("CONNECT is answered with 501 before routes are looked at", right)
    if method not in _KNOWN_METHODS and method.upper() in _KNOWN_METHODS:
        raise Rejected(f"{quote(text)} is not a method", f"upper and lower case differ; {right}", text.upper())
    return Wanted(method, text.startswith("!"))


def parse_client(text: str) -> Wanted[Network]:
    """A network, or "!" and one."""
    return Wanted(parse_network(text.removeprefix("!")), text.startswith("!"))


def parse_value(text: str) -> Wanted[TextPattern]:
    """What a value is compared with; docs/options/routes.headers.md says how it is written."""
    negated = text.startswith("!")
    rest = text.removeprefix("!")
    if negated and not rest:
        return Wanted(TextPattern("any"), True)
    if rest.startswith("!"):
        raise Rejected(f'{quote(text)} has two "!"', f"for a value that begins with one write {quote('=' + rest)}")
    return Wanted(_parse_text(rest), negated)


def _parse_text(text: str) -> TextPattern:
    if text.startswith("="):
        return TextPattern("exact", _checked(text[1:]))
    if is_regex(text):
        return TextPattern("regex", regex=parse_regex(text))
    if text == "*":
        return TextPattern("any")
    inner = text.removeprefix("*").removesuffix("*")
    if "*" in inner or (not inner and text):
        right = f'a "*" stands at the beginning or the end; the text itself is {quote("=" + text)}, a regular expression starts with "~"'
        raise Rejected(f'{quote(text)} has a "*" in it', right)
    kinds = {(False, False): "exact", (False, True): "prefix", (True, False): "suffix", (True, True): "part"}
    return TextPattern(kinds[text.startswith("*"), text.endswith("*")], _checked(inner))


def _checked(text: str) -> str:
    if re.search(r"[\0-\x1f\x7f]", text):
        raise Rejected(f"{quote(text)} has a control character", r'a regular expression can ask for one, such as "~\t"')
    return text


def parse_header(name: str) -> str:
    """The name of a header field that a route may ask for."""
    if not re.fullmatch(_NAME, name):
        raise Rejected(f"{quote(name)} is not a header name", "a header name is made of letters, digits and -")
    if name.casefold() in _OWN_KEYS:
        raise Rejected(f"{quote(name)} has a key of its own", f"write {_OWN_KEYS[name.casefold()]}")
    return name


def parse_parameter(name: str) -> str:
    """The name of a query parameter, decoded."""
    if not name:
        raise Rejected("found a parameter without a name", 'such as { beta = "1" }')
    return name


def parse_cookie(name: str) -> str:
    """The name of a cookie."""
    if not re.fullmatch(_NAME, name):
        raise Rejected(f"{quote(name)} is not the name of a cookie", "that is made of letters, digits, - and _")
    return name


class NamedConditions:
    """A table from names to values.

    Args:
        what: what has a name and values: "header field".
        parse_name: raises Rejected.
    """

    def __init__(self, what: str, parse_name: Callable[[str], str], example: str) -> None:
        self.unit = f"table of {what}s"
        self.example = example
        self._parse_name = parse_name
        self._values = ListOf(Text("a value", parse_value, "true"), least=1)

    def range_text(self) -> str:
        return f"such as {{ {self.example} }}"

    def read(self, written: object, path: KeyPath, reader: Reader) -> tuple[NamedCondition, ...] | None:
        if not isinstance(written, dict):
            reader.reject(path, f"found {describe(written)}", f"{path[-1]} is a table, {self.range_text()}")
            return None
        conditions = []
        for name, value in written.items():
            inner = (*path, name)
            try:
                self._parse_name(name)
            except Rejected as rejected:
                reader.reject_key(inner, rejected.found, rejected.right, rejected.suggestion)
                continue
            values = self._values.read(value, inner, reader)
            if values is None:
                continue
            if Wanted(TextPattern("any"), True) in values and len(values) > 1:
                right = f"a request without {quote(name)} has no other value of it: leave one out"
                reader.reject(inner, f'"!" stands beside other values of {quote(name)}', right)
                continue
            conditions.append(NamedCondition(name, values))
        return tuple(conditions)
