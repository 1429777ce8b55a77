"""TOML with places: the values are tomllib's, where each stands is found here.

tomllib gives values without positions and stops at the first error. `TomlDocument` says at which line and column any key or value stands,
and reports the syntax errors of all statements at once. tomllib stays the judge of what is right: a document it accepts has no problems
here, and one it refuses has at least one.

Most documents are right and nobody ever asks where anything stands: the statements are scanned (`toml_statements`) only when somebody does,
or when tomllib refused the document (`toml_recovery`).
"""

import tomllib
from bisect import bisect_right
from typing import TYPE_CHECKING, Any

from fastlb.control_plane.config.errors import Place, Problem

if TYPE_CHECKING:
    from fastlb.control_plane.config.toml_statements import Layout

KeyPath = tuple[str | int, ...]  # ("pools", "api", "backends", 0)


class Lines:
    """Offsets of a text as lines and columns, both counted from 1."""

    def __init__(self, text: str) -> None:
        self._starts = [0]
        at = text.find("\n")
        while at >= 0:
            self._starts.append(at + 1)
            at = text.find("\n", at + 1)

    def line(self, offset: int) -> int:
        return bisect_right(self._starts, offset)

    def column(self, offset: int) -> int:
        return offset - self._starts[self.line(offset) - 1] + 1


class TomlDocument:
    """One TOML text: its values, the syntax errors in it, and the place of everything.

    Args:
        text: the whole document.
        source: what to call it in places, usually the path of the file.
    """

    values: dict[str, Any]
    problems: tuple[Problem, ...] = ()

    def __init__(self, text: str, source: str) -> None:
        self._source = source
        self._text = text.replace("\r\n", "\n")  # as tomllib does, so that both count the same columns
        self._lines = Lines(self._text)
        self._layout: Layout | None = None
        try:
            self.values = tomllib.loads(text)  # a carriage return left in self._text would be taken for half a line end
        except (ValueError, RecursionError) as error:
            from fastlb.control_plane.config.toml_recovery import recover

            self.values, self._layout, damages = recover(self._text, self._lines, error)
            self.problems = tuple(sorted((Problem(self._place(d.offset), *d[1:4]) for d in damages), key=lambda problem: problem.place))

    @property
    def complete(self) -> bool:
        """Whether every statement was read, so that what is missing is really missing."""
        return not self.problems

    def key_place(self, path: KeyPath) -> Place:
        """Where the key at the end of this path stands; for an index of an array of tables, that table's header."""
        layout = self.layout()
        return self._nearest(path, layout.keys, layout.values)

    def value_place(self, path: KeyPath) -> Place:
        """Where the value at this path starts; a table made by headers or dotted keys stands where its key does."""
        layout = self.layout()
        return self._nearest(path, layout.values, layout.keys)

    def layout(self) -> "Layout":
        """The offsets of all keys and values that could be read."""
        if self._layout is None:
            from fastlb.control_plane.config.toml_statements import Layout, Scanner

            self._layout = Layout(Scanner(self._text, recover=False).statements())
        return self._layout

    def _nearest(self, path: KeyPath, first: dict[KeyPath, int], second: dict[KeyPath, int]) -> Place:
        for length in range(len(path), 0, -1):
            offset = first.get(path[:length], second.get(path[:length]))
            if offset is not None:
                return self._place(offset)
        return self._place(0)

    def _place(self, offset: int) -> Place:
        return Place(self._lines.line(offset), self._lines.column(offset), self._source)
