"""The statements of a TOML text: table headers and key/value pairs, with the offset of every key and value in them.

`Scanner` splits a text into statements, `Layout` says which path each key and value has. Values are not read here, only found.
"""

import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from fastlb.control_plane.config.errors import nearest, quote
from fastlb.control_plane.config.toml import KeyPath
from fastlb.control_plane.config.toml_damage import MOST_NESTED, Damage, judge

_BLANK = re.compile(r"[ \t]*")
_BLANK_LINES = re.compile(r"(?:[ \t\n]|#[^\n]*)*+")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_LINE_STRING = re.compile(r"\"(?:[^\\\"\n]|\\[^\n])*+\"|'[^'\n]*'")
_BLOCK_STRING = re.compile(r'"""(?:[^\\"]|\\.|"(?!""))*+"""(?:"{0,2})|\'\'\'(?:[^\']|\'(?!\'\'))*+\'\'\'(?:\'{0,2})', re.DOTALL)
_BARE_VALUE = re.compile(r"[^\n#]*")
_BARE_ELEMENT = re.compile(r"[^\n#,\]}]*")
_TO_EQUALS = re.compile(r"[^\n=#\"']*=")
_TO_NEXT_PAIR = re.compile(r"[^\n,}]*")
# Inside an array: a line that can only be a new statement, so the array was never closed.
_LOOKS_LIKE_STATEMENT = re.compile(
    r"[A-Za-z0-9_-]+(?:[ \t]*\.[ \t]*[A-Za-z0-9_-]+)*[ \t]*="
    r"|\[{1,2}(?!true\b|false\b|inf\b|nan\b)[A-Za-z_][A-Za-z0-9_.-]*\]{1,2}[ \t]*(?:#.*)?$",
    re.MULTILINE,
)

_MEANT = {"True": "true", "False": "false", "yes": "true", "no": "false", "on": "true", "off": "false"}


def _inline_tables_may_span_lines() -> bool:
    """TOML 1.1 allows what 1.0 forbids; which of them tomllib reads depends on the Python version."""
    try:
        tomllib.loads("a={\n}")
    except ValueError:
        return False
    return True


INLINE_TABLES_MAY_SPAN_LINES = _inline_tables_may_span_lines()


@dataclass(slots=True)
class Value:
    """Where a value starts and what is inside: `elements` of an array, `pairs` of an inline table, neither in anything else."""

    start: int
    elements: list["Value"] = field(default_factory=list)
    pairs: list["Pair"] = field(default_factory=list)


@dataclass(slots=True)
class Pair:
    key: list[tuple[str, int]]  # the parts of a dotted key, each with its offset
    value: Value


@dataclass(slots=True)
class Statement:
    """`brackets` is "[" or "[[" for a table header and "" for a pair; `end` is the offset of the line end after it."""

    start: int
    end: int = 0
    brackets: str = ""
    key: list[tuple[str, int]] = field(default_factory=list)
    value: Value | None = None
    damaged: bool = False


class Layout:
    """Where each key and each value of these statements stands, by path. Statements must not contradict each other."""

    def __init__(self, statements: Iterable[Statement]) -> None:
        self.keys: dict[KeyPath, int] = {}
        self.values: dict[KeyPath, int] = {}
        self._lengths: dict[KeyPath, int] = {}  # of arrays of tables
        self._table: KeyPath = ()
        for statement in statements:
            self._add(statement)

    def path_of(self, statement: Statement) -> KeyPath:
        """The path that a statement coming next would have; for [[table]] without its index."""
        path = () if statement.brackets else self._table
        for part, _ in statement.key[:-1]:
            path += (part,)
            if statement.brackets and path in self._lengths:
                path += (self._lengths[path] - 1,)
        return (*path, statement.key[-1][0]) if statement.key else path

    def _add(self, statement: Statement) -> None:
        if not statement.key:
            return
        if not statement.brackets:
            if statement.value is not None:
                self._add_pair(self._table, Pair(statement.key, statement.value))
            return
        path: KeyPath = ()
        for part, offset in statement.key:
            if path in self._lengths:
                path += (self._lengths[path] - 1,)
            path += (part,)
            self.keys.setdefault(path, offset)
        if statement.brackets == "[[":
            index = self._lengths.get(path, 0)
            self._lengths[path] = index + 1
            path += (index,)
            self.keys[path] = statement.start
        self._table = path

    def _add_pair(self, table: KeyPath, pair: Pair) -> None:
        path = table
        for part, offset in pair.key:
            path += (part,)
            self.keys.setdefault(path, offset)
        self._add_value(path, pair.value)

    def _add_value(self, path: KeyPath, value: Value) -> None:
        self.values.setdefault(path, value.start)
        for index, element in enumerate(value.elements):
            self._add_value((*path, index), element)
        for pair in value.pairs:
            self._add_pair(path, pair)


class Scanner:
    """Splits a text into statements. With `recover` it notes what is damaged and goes on; without, the text must be valid TOML."""

    def __init__(self, text: str, *, recover: bool) -> None:
        self.damages: list[Damage] = []
        self._text = text
        self._at = 0
        self._recover = recover
        self._table_blank = _BLANK if recover and not INLINE_TABLES_MAY_SPAN_LINES else _BLANK_LINES

    def statements(self) -> Iterator[Statement]:
        while True:
            self._skip(_BLANK_LINES)
            if self._at >= len(self._text):
                return
            yield self._statement()

    def _statement(self) -> Statement:
        statement = Statement(self._at)
        damages_before = len(self.damages)
        if self._char() == "[":
            self._header(statement)
        else:
            self._pair(statement)
        if len(self.damages) == damages_before:
            self._skip(_BLANK)
            if self._char() not in ("", "\n", "#"):
                rest = _BARE_VALUE.match(self._text, self._at)
                self._damage(f"found {quote(rest[0].strip() if rest else '')}", "nothing but a comment may follow on the line")
        newline = self._text.find("\n", self._at)
        self._at = statement.end = newline if newline >= 0 else len(self._text)
        statement.damaged = len(self.damages) > damages_before
        return statement

    def _header(self, statement: Statement) -> None:
        statement.brackets = "[[" if self._text.startswith("[[", self._at) else "["
        self._at += len(statement.brackets)
        statement.key = self._key() or []
        closing = statement.brackets.replace("[", "]")
        if self._text.startswith(closing, self._at):
            self._at += len(closing)
        elif statement.key:
            self._damage(f"found {self._show_char()}", f"{quote(closing)} closes this table header")

    def _pair(self, statement: Statement) -> None:
        key = self._key()
        statement.key = key or []
        if self._char() == "=":
            self._at += 1
        else:
            if key:
                self._damage(f"found {self._show_char()}", 'a key is followed by "=" and its value')
            equals = _TO_EQUALS.match(self._text, self._at)
            if equals is None:
                return
            self._at = equals.end()  # so that an array over several lines is still seen as one value
        self._skip(_BLANK)
        statement.value = self._value(_BARE_VALUE, 1)

    def _key(self) -> list[tuple[str, int]] | None:
        parts: list[tuple[str, int]] = []
        while True:
            self._skip(_BLANK)
            match = _BARE_KEY.match(self._text, self._at) or _LINE_STRING.match(self._text, self._at)
            if match is None:
                right = "a key is made of letters, digits, _ and -; with other characters it needs quotes"
                self._damage(f"found {self._show_char()}", right)
                return None
            parts.append((_read_key_part(match[0]), self._at))
            self._at = match.end()
            self._skip(_BLANK)
            if self._char() != ".":
                return parts
            self._at += 1

    def _value(self, bare: re.Pattern[str], depth: int) -> Value:
        start = self._at
        char = self._char()
        if depth > MOST_NESTED:
            self._damage("brackets are nested too deeply", f"at most {MOST_NESTED} levels")
            self._at = len(self._text)
            return Value(start)
        if char == "[":
            return self._array(depth)
        if char == "{":
            return self._inline_table(depth)
        if char and char in "\"'":
            self._string()
        else:
            match = bare.match(self._text, start)
            self._at = match.end() if match else start
            if self._recover:
                self._check_bare(start, self._text[start : self._at].strip())
        return Value(start)

    def _string(self) -> None:
        start = self._at
        quotes = self._text[start : start + 3]
        is_block = quotes in ('"""', "'''")
        match = (_BLOCK_STRING if is_block else _LINE_STRING).match(self._text, start)
        if match is None:
            shown = quotes if is_block else quotes[0]
            where = "in this file" if is_block else "on this line"
            self._damage(f"this text has no closing {shown} {where}", f"put {shown} after its last character")
            newline = self._text.find("\n", start)
            self._at = newline if newline >= 0 else len(self._text)
            return
        self._at = match.end()
        if self._recover:
            damage = judge("a=" + match[0])
            if damage is not None:
                self.damages.append(Damage(start + max(damage.offset - 2, 0), damage.found, damage.right))

    def _check_bare(self, start: int, token: str) -> None:
        if not token:
            found = f"found {self._show_char()}"
            right = "a value stands here: a text in quotes, a number, true, false, an array or a table"
            self.damages.append(Damage(start, found, right))
        elif judge("a=" + token) is not None:
            meant = _MEANT.get(token) or nearest(token, ("true", "false")) or token
            right = "a text is written in quotes" if meant == token else "true and false are written in lower case"
            self.damages.append(Damage(start, f"found {token if token.isprintable() else quote(token)} without quotes", right, meant))

    def _array(self, depth: int) -> Value:
        value = Value(self._at)
        self._at += 1
        while True:
            self._skip(_BLANK_LINES)
            char = self._char()
            if char == "]":
                self._at += 1
                return value
            if not char or self._is_new_statement():
                self._damage("this array is not closed", 'put "]" after its last element', value.start)
                self._at = max(self._text.rfind("\n", 0, self._at), value.start) if char else self._at
                return value
            before = self._at
            value.elements.append(self._value(_BARE_ELEMENT, depth + 1))
            self._skip(_BLANK_LINES)
            char = self._char()
            if char == ",":
                self._at += 1
            elif char and char != "]" and not self._is_new_statement():
                self._damage(f"found {self._show_char()}", "a comma stands between the elements of an array")
                self._at += self._at == before  # something that no value starts with

    def _is_new_statement(self) -> bool:
        if not self._recover or _LOOKS_LIKE_STATEMENT.match(self._text, self._at) is None:
            return False
        line_start = self._text.rfind("\n", 0, self._at) + 1
        return not self._text[line_start : self._at].strip(" \t")

    def _inline_table(self, depth: int) -> Value:
        value = Value(self._at)
        self._at += 1
        while True:
            self._skip(self._table_blank)
            char = self._char()
            if char == "}":
                self._at += 1
                return value
            if char in ("", "\n"):
                self._damage("this table is not closed on its line", 'put "}" after its last value', value.start)
                return value
            before = self._at
            key = self._key()
            if self._char() == "=":
                self._at += 1
                self._skip(_BLANK)
                inner = self._value(_BARE_ELEMENT, depth + 1)
                if key:
                    value.pairs.append(Pair(key, inner))
            elif key:
                self._damage(f"found {self._show_char()}", 'a key is followed by "=" and its value')
                self._skip(_TO_NEXT_PAIR)
            self._skip(self._table_blank)
            char = self._char()
            if char == ",":
                self._at += 1
            elif char not in ("}", "\n", ""):
                self._damage(f"found {self._show_char()}", "a comma stands between the pairs of an inline table")
                self._skip(_TO_NEXT_PAIR)
                self._at += self._at == before

    def _char(self) -> str:
        return self._text[self._at : self._at + 1]

    def _show_char(self) -> str:
        char = self._char()
        return "the end of the line" if char in ("", "\n") else "a comment" if char == "#" else quote(char)

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self._text, self._at)
        if match:
            self._at = match.end()

    def _damage(self, found: str, right: str, offset: int | None = None) -> None:
        self.damages.append(Damage(self._at if offset is None else offset, found, right, misleads=True))


def _read_key_part(written: str) -> str:
    """What a bare or quoted part of a key stands for."""
    if written[0] not in "\"'":
        return written
    if "\\" not in written or written[0] == "'":
        return written[1:-1]
    try:
        return next(iter(tomllib.loads(written + "=0")))
    except ValueError:  # a bad escape, which is reported with its statement
        return written[1:-1]
