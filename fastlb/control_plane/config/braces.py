"""Texts with names in braces: `{NAME}` stands for a value, `{{` and `}}` for braces. What the names mean is the caller's."""

from typing import NamedTuple

from fastlb.control_plane.config.errors import Rejected


class Name(NamedTuple):
    """What stood in braces."""

    name: str


def split_braces(text: str, whole: str, part: str) -> list[str | Name]:
    """The texts and names of a text, in order; no text is empty and no two follow each other.

    Args:
        whole, part: what messages call the text and what stands in braces, such as "format" and "field".

    Raises:
        Rejected: a brace that opens or closes nothing.
    """
    parts: list[str | Name] = []
    literal = ""
    at = 0
    while at < len(text):
        if text[at : at + 2] in ("{{", "}}"):
            literal += text[at]
            at += 2
        elif text[at] == "{":
            end = text.find("}", at)
            if end < 0:
                found = f"the {{ at character {at + 1} of the {whole} is not closed"
                raise Rejected(found, f"a {part} is {{NAME}}; {{{{ stands for a brace")
            if literal:
                parts.append(literal)
                literal = ""
            parts.append(Name(text[at + 1 : end]))
            at = end + 1
        elif text[at] == "}":
            raise Rejected(f"the }} at character {at + 1} of the {whole} closes nothing", "}} stands for a brace")
        else:
            literal += text[at]
            at += 1
    if literal:
        parts.append(literal)
    return parts
