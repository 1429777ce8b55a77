"""What is wrong with a configuration, and where.

A `Rejected` is raised where one text is read and knows no place. The reader turns it into a `Problem`, which has one. All problems of a
source travel together in one `ConfigError`.
"""

import json
from collections.abc import Iterable
from typing import NamedTuple

from fastlb import FastlbError

# More than a person reads; a damaged file of thousands of lines should not scroll its first mistake away.
MOST_PROBLEMS_SHOWN = 100

MOST_QUOTED_CHARACTERS = 60


class Place(NamedTuple):
    """Where something was written.

    Args:
        line: counted from 1; 0 where the source has no lines (the command line, a missing file).
        column: in characters, counted from 1. Without lines, the ordinal of the argument.
        source: path of the file as the user gave it, or the command-line option.
    """

    line: int
    column: int
    source: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


class Problem(NamedTuple):
    """One mistake: its place, what was found there, what would be right, and the nearest right word (or None)."""

    place: Place
    found: str
    right: str
    suggestion: str | None = None

    def __str__(self) -> str:
        text = f"{self.place}: {self.found}; {self.right}"
        return text if self.suggestion is None else f"{text}; did you mean {quote(self.suggestion)}?"


class ConfigError(FastlbError):
    """A configuration that cannot be used; `problems` holds every mistake, sorted by place."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(dict.fromkeys(problems), key=lambda problem: problem.place))
        super().__init__("\n".join(self.lines()))

    def lines(self) -> list[str]:
        """One line per problem; past a hundred only how many more there are."""
        shown = [str(problem) for problem in self.problems[:MOST_PROBLEMS_SHOWN]]
        if len(self.problems) > len(shown):
            shown.append(f"… and {len(self.problems) - len(shown)} more")
        return shown


class Rejected(ValueError):
    """One value is not what it has to be. The fields are those of `Problem`, without the place."""

    def __init__(self, found: str, right: str, suggestion: str | None = None) -> None:
        super().__init__(found, right, suggestion)
        self.found = found
        self.right = right
        self.suggestion = suggestion


def quote(text: str) -> str:
    """The text as TOML would write it: in double quotes, on one line, cut when long, nothing in it that a terminal would obey."""
    shown = text if len(text) <= MOST_QUOTED_CHARACTERS else text[: MOST_QUOTED_CHARACTERS - 1] + "…"
    quoted = json.dumps(shown, ensure_ascii=False)
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in quoted)


def quote_all(words: Iterable[str]) -> str:
    """The words quoted, with commas and a last "or"."""
    *most, last = [quote(word) for word in words] or ["nothing"]
    return f"{', '.join(most)} or {last}" if most else last


def describe(value: object) -> str:
    """A TOML value the way its author would recognise it."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return quote(value)
        case int() | float():
            return str(value) if abs(value) < 1e18 else "a very large number"
        case list():
            return "an array" if value else "an empty array"
        case dict():
            return "a table"
        case _:
            return "a date or time"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant, or None."""
    import difflib  # only a mistake needs it

    words = list(known)
    folded = {candidate.casefold(): candidate for candidate in reversed(words)}
    # A misspelt word shares at least half of its letters in order: "least_con" and "weighted_least_connections" reach 0.51.
    close = difflib.get_close_matches(word.casefold()[:200], folded, n=1, cutoff=0.5)
    return folded[close[0]] if close else None
