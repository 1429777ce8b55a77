"""Regular expressions: "~pattern", or "~*pattern" where case does not matter. PCRE2 syntax, compiled here once to be sure that it works."""

import re
from dataclasses import dataclass

from fastlb.control_plane.config.errors import Rejected, quote

# What the literal prefix is not looked for behind: quoting, comments, verbs, white space that may not count, control escapes, and sets of
# sets. Each can hide where a group or an alternative begins.
_HARD_TO_READ = re.compile(r"\\[QEc]|#|\(\*|\(\?\[|\(\?[\^A-Za-z-]*x")
_POSIX_CLASS = re.compile(r"\[:\^?[a-z]+:\]")


@dataclass(frozen=True, slots=True)
class RegexPattern:
    """A pattern that compiles.

    Args:
        pattern: without the tilde.
        caseless: ASCII letters match whatever their case.
        groups: how many there are, without group 0.
        names: of groups, each with its number, in order of the names.
        literal_prefix: what a subject starts with if it matches; "" = nothing is known.
    """

    pattern: str
    caseless: bool
    groups: int
    names: tuple[tuple[str, int], ...]
    literal_prefix: str

    def encode(self) -> bytes:
        """As the data plane takes it: it matches bytes."""
        return encode(self.pattern)


def is_regex(text: str) -> bool:
    return text.startswith("~")


def parse_regex(text: str) -> RegexPattern:
    """The pattern behind "~" or "~*".

    Raises:
        Rejected: no such pattern; what PCRE2 has against it, and where in the text.
    """
    right = 'a regular expression is "~" and PCRE2 syntax, such as "~^/users/[0-9]+$"; "~*" for any case'
    from fastlb import _core  # only a regular expression needs the data plane

    if not is_regex(text):
        raise Rejected(f"{quote(text)} does not start with a tilde", right, f"~{text}")
    caseless = text.startswith("~*")
    pattern = text.removeprefix("~*") if caseless else text.removeprefix("~")
    if not pattern:
        raise Rejected(f"{quote(text)} is empty", right)
    if pattern[0].isspace():
        meant = text[: len(text) - len(pattern)] + pattern.lstrip()
        raise Rejected(f"{quote(text)} has a space behind the tilde", r'leave it out; one that is meant is written "\x20"', meant)
    try:
        groups, names = _core.check_regex(encode(pattern), caseless)
    except ValueError as error:
        message, offset = error.args
        before = len(text) - len(pattern) + len(encode(pattern)[:offset].decode("utf-8", "replace"))
        place = "end" if before >= len(text) else f"character {before + 1}"
        raise Rejected(f"{quote(text)} is no regular expression: {message} (at its {place})", right) from None
    return RegexPattern(pattern, caseless, groups, tuple(sorted(names.items())), "" if caseless else find_literal_prefix(pattern))


def encode(pattern: str) -> bytes:
    return pattern.encode("utf-8", "surrogateescape")


def find_literal_prefix(pattern: str) -> str:
    r"""What every subject that matches starts with: "^/api/v(\d+)" -> "/api/v". "" when nothing is certain.

    Args:
        pattern: compiles, and is not caseless.
    """
    if pattern.startswith("^"):
        start = 1
    elif pattern.startswith(r"\A"):
        start = 2
    else:
        return ""
    if _HARD_TO_READ.search(pattern) or _has_alternatives(pattern):
        return ""
    literals: list[str] = []
    at = start
    while at < len(pattern):
        character = pattern[at]
        if character in "*+?{":  # how often the one before it
            return "".join(literals[:-1])
        if character in "^$.[]|()}":
            break
        if character == "\\":
            at += 1
            character = pattern[at]
            if character.isalnum() or not character.isascii():  # a class, an assertion, a character by its number
                break
        literals.append(character)
        at += 1
    return "".join(literals)


def _has_alternatives(pattern: str) -> bool:
    """Whether a "|" may stand outside of all groups."""
    depth = at = 0
    while at < len(pattern):
        match pattern[at]:
            case "\\":
                at += 1
            case "(":
                depth += 1
            case ")":
                depth -= 1
            case "|" if depth == 0:
                return True
            case "[":
                end = _find_end_of_class(pattern, at)
                if end is None:
                    return True
                at = end
        at += 1
    return False


def _find_end_of_class(pattern: str, at: int) -> int | None:
    """Where the "]" is that ends the class at `at`; None = hard to say."""
    at += 1
    if pattern.startswith("^", at):
        at += 1
    if pattern.startswith("]", at):  # as the first it is a member
        at += 1
    while at < len(pattern):
        if pattern[at] == "]":
            return at
        if pattern[at] == "\\":
            at += 1
        elif pattern.startswith(("[:", "[.", "[="), at):
            posix = _POSIX_CLASS.match(pattern, at)
            if posix is None:
                return None
            at = posix.end() - 1
        at += 1
    return None
