"""Reading on in a TOML text that tomllib refused: every damaged statement is reported, the others are read all the same.

A statement is damaged where the scanner says so, where tomllib refuses it alone, or where it collides with those above it. It is left out,
and with a damaged header the pairs below it, for nobody knows to which table they belong.
"""

import re
import tomllib
from collections.abc import Iterable
from typing import Any

from fastlb.control_plane.config.errors import quote
from fastlb.control_plane.config.toml import Lines
from fastlb.control_plane.config.toml_damage import Damage, explain, judge, read_error
from fastlb.control_plane.config.toml_statements import Layout, Scanner, Statement

# Statements that collide with earlier ones (a key given twice) are found one by one, and each costs another reading of the document.
MOST_CONFLICTS = 50
CONTROL_CHARACTER = r"[\x00-\x08\x0b-\x1f\x7f]"


def recover(text: str, lines: Lines, error: Exception) -> tuple[dict[str, Any], Layout, list[Damage]]:
    """What can be read of a text, where it stands, and what is wrong with the rest (at least one thing).

    Args:
        error: what tomllib said about the whole text.
    """
    damages = [
        Damage(found.start(), f"the control character U+{ord(found[0]):04X}", "a TOML file has none but tab and line feed", misleads=True)
        for found in re.finditer(CONTROL_CHARACTER, text)
    ]
    text = re.sub(CONTROL_CHARACTER, "\N{REPLACEMENT CHARACTER}", text)  # reported once, and in the way no more
    scanner = Scanner(text, recover=True)
    statements = list(scanner.statements())
    damages += scanner.damages
    for statement in statements:
        damage = None if statement.damaged else judge(text[statement.start : statement.end])
        if damage is not None:
            statement.damaged = True
            damages.append(damage._replace(offset=statement.start + damage.offset))
    values, sound = _read_around_conflicts(text, lines, _without_damaged(statements), damages)
    return values, Layout(sound), _without_consequences(damages, lines) or [explain(error, text)]


def _read_around_conflicts(
    text: str, lines: Lines, sound: list[Statement], damages: list[Damage]
) -> tuple[dict[str, Any], list[Statement]]:
    """The values of statements that are right one by one; those that collide with earlier ones are reported and left out."""
    for _ in range(MOST_CONFLICTS):
        try:
            return tomllib.loads(_only(text, sound)), sound
        except (ValueError, RecursionError) as error:
            if isinstance(error, RecursionError) or not sound:
                break
            _, line, _ = read_error(error)
            conflict = sound[-1] if line is None else [s for s in sound if lines.line(s.start) <= line][-1]
            damages.append(_explain_conflict(lines, sound, conflict))
            conflict.damaged = True
            sound = _without_damaged(sound)
    return {}, []


def _only(text: str, statements: list[Statement]) -> str:
    """The text with nothing but these statements, each on the line where it was."""
    pieces: list[str] = []
    at = 0
    for statement in statements:
        pieces.append("\n" * text.count("\n", at, statement.start))
        pieces.append(text[statement.start : statement.end])
        at = statement.end
    return "".join(pieces)


def _without_damaged(statements: Iterable[Statement]) -> list[Statement]:
    kept: list[Statement] = []
    under_damaged_header = False
    for statement in statements:
        if statement.brackets:
            under_damaged_header = statement.damaged
        if not statement.damaged and not under_damaged_header:
            kept.append(statement)
    return kept


def _without_consequences(damages: list[Damage], lines: Lines) -> list[Damage]:
    kept: list[Damage] = []
    misleading_lines: set[int] = set()
    for damage in damages:
        line = lines.line(damage.offset)
        if line not in misleading_lines:
            kept.append(damage)
        if damage.misleads:
            misleading_lines.add(line)
    return kept


def _explain_conflict(lines: Lines, statements: list[Statement], conflict: Statement) -> Damage:
    layout = Layout(statement for statement in statements if statement.start < conflict.start)
    path = layout.path_of(conflict)
    name = ".".join(part for part, _ in conflict.key)
    closing = conflict.brackets.replace("[", "]")
    what = f"the table {conflict.brackets}{name}{closing}" if closing else f"the key {quote(name)}"
    offset = conflict.key[0][1]
    if path in layout.keys:
        return Damage(offset, f"{what} is given a second time", f"the first is in line {lines.line(layout.keys[path])}: keep one of them")
    known = next((path[:n] for n in range(len(path), 0, -1) if path[:n] in layout.keys), None)
    line = lines.line(layout.keys[known]) if known else 1
    return Damage(offset, f"{what} contradicts line {line}", "a table or value is given in one place and in one way")
