"""What is wrong with a piece of TOML: tomllib's judgement, in our words."""

import re
import tomllib
from typing import NamedTuple

# tomllib recurses and fails near 500 levels; nothing in a configuration is nested deeper than five.
MOST_NESTED = 64


class Damage(NamedTuple):
    """One mistake at an offset of a text. After one that `misleads`, what is found on the same line is probably a consequence."""

    offset: int
    found: str
    right: str
    suggestion: str | None = None
    misleads: bool = False


def judge(piece: str) -> Damage | None:
    """What tomllib finds wrong in a piece of a document on its own."""
    try:
        tomllib.loads(piece)
    except (ValueError, RecursionError) as error:
        return explain(error, piece)
    return None


def explain(error: Exception, text: str) -> Damage:
    """An error of tomllib in our words, at its offset in the text it was shown."""
    what, line, column = read_error(error)
    offset = len(text.rstrip("\n"))
    if line is not None and column is not None:
        line_starts = [0, *(newline.end() for newline in re.finditer("\n", text))]
        offset = line_starts[line - 1] + column - 1
    if isinstance(error, RecursionError):
        return Damage(0, "brackets are nested too deeply", f"at most {MOST_NESTED} levels")
    if "Unescaped" in what:
        return Damage(
            max(text.rfind("\\", 0, offset), 0),
            "a backslash that starts no escape",
            "double it, or put the text into single quotes: 'C:\\temp'",
        )
    if "uplicate" in what:
        return Damage(offset, "a key is given twice in this inline table", "keep one of them")
    if not isinstance(error, tomllib.TOMLDecodeError):
        return Damage(offset, "a number or date that does not exist", "use one that does")
    return Damage(offset, what[:1].lower() + what[1:], "this is not TOML; https://toml.io has the rules")


def read_error(error: Exception) -> tuple[str, int | None, int | None]:
    """What tomllib says, with line and column unless it means the end of the document."""
    match = re.fullmatch(r"(.*?) \(at line (\d+), column (\d+)\)", str(error), re.DOTALL)
    if match is None:
        return str(error).removesuffix(" (at end of document)"), None, None
    return match[1], int(match[2]), int(match[3])
