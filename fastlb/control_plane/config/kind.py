"""The kinds of values that options take: durations, sizes, counts, flags, words, lists, and texts with a grammar of their own.

Each kind reads what was written into our own terms, or tells the reader what is wrong and returns None. `unit` and `range_text` are what
the option's documentation page says (a test compares them).
"""

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from fastlb.control_plane.config import quantity
from fastlb.control_plane.config.errors import Rejected, describe, nearest, quote, quote_all
from fastlb.control_plane.config.reader import Reader
from fastlb.control_plane.config.toml import KeyPath

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Kind(Protocol[T_co]):
    """What values an option takes."""

    unit: str

    def range_text(self) -> str: ...
    def read(self, written: object, path: KeyPath, reader: Reader) -> T_co | None: ...


class Quantity:
    """A number with a unit, written as text and held as an int.

    Args:
        usual_unit: what a number without a unit probably meant.
        least, most: as they would be written.
        zero_means: what 0 stands for where it is not just a small amount; "" if 0 is not allowed, or is only the `least`.
    """

    def __init__(
        self,
        unit: str,
        parse: Callable[[str], int],
        format_amount: Callable[[int], str],
        usual_unit: str,
        least: str,
        most: str,
        zero_means: str = "",
    ) -> None:
        self.unit = unit
        self.parse = parse
        self.format_amount = format_amount
        self.usual_unit = usual_unit
        self.least = least
        self.most = most
        self.zero_means = zero_means

    def range_text(self) -> str:
        text = f"{quote(self.least)} … {quote(self.most)}"
        return f"0 ({self.zero_means}) or {text}" if self.zero_means else text

    def read(self, written: object, path: KeyPath, reader: Reader) -> int | None:
        if isinstance(written, str):
            try:
                amount = self.parse(written)
            except Rejected as rejected:
                reader.reject(path, rejected.found, rejected.right, rejected.suggestion)
                return None
        elif type(written) is int and written == 0:
            amount = 0
        else:
            is_number = type(written) in (int, float)
            suggestion = self._guess(written) if is_number else None
            found = f"found {describe(written)}" + (" without a unit" if is_number else "")
            reader.reject(path, found, f"a {self.unit} is a text with its unit, such as {quote(self.least)}", suggestion)
            return None
        if amount == 0 and self.zero_means:
            return 0
        least, most = self.parse(self.least), self.parse(self.most)
        if least <= amount <= most:
            return amount
        reader.reject(path, f"{describe(written)} is out of range", self.range_text())
        return None

    def _guess(self, written: object) -> str | None:
        if type(written) is int and 0 < written < 1 << 50:
            return self.format_amount(written * self.parse(f"1{self.usual_unit}"))
        return None


def duration(least: str, most: str, zero_means: str = "") -> Quantity:
    """A duration, held in milliseconds."""
    return Quantity("duration", quantity.parse_duration_ms, quantity.format_duration, "s", least, most, zero_means)


def size(least: str, most: str, zero_means: str = "") -> Quantity:
    """A size, held in bytes."""
    return Quantity("size", quantity.parse_size_bytes, quantity.format_size, "B", least, most, zero_means)


class Count:
    """A whole number without a unit. `zero_means` says what 0 stands for where `least` is above it."""

    unit = "count"

    def __init__(self, least: int, most: int, zero_means: str = "") -> None:
        self.least = least
        self.most = most
        self.zero_means = zero_means

    def range_text(self) -> str:
        text = f"{self.least} … {self.most}"
        return f"0 ({self.zero_means}) or {text}" if self.zero_means else text

    def read(self, written: object, path: KeyPath, reader: Reader) -> int | None:
        if type(written) is not int:  # not a bool
            digits = isinstance(written, str) and re.fullmatch("[0-9]{1,9}", written.strip())
            right = f"a number without quotes, {self.range_text()}" if digits else f"a number, {self.range_text()}"
            reader.reject(path, f"found {describe(written)}", right)
            return None
        if self.least <= written <= self.most or (written == 0 and self.zero_means):
            return written
        reader.reject(path, f"{describe(written)} is out of range", self.range_text())
        return None


class Share:
    """A part of all, from 0 to 1."""

    unit = "share"

    def range_text(self) -> str:
        return "0.0 … 1.0"

    def read(self, written: object, path: KeyPath, reader: Reader) -> float | None:
        if type(written) in (int, float) and 0 <= written <= 1:  # type: ignore[operator]  # not a bool, nor nan
            return float(written)  # type: ignore[arg-type]
        meant = None
        percent = re.fullmatch(r"\s*([0-9]{1,3}(?:\.[0-9]{1,6})?)\s*%\s*", written) if isinstance(written, str) else None
        if percent and float(percent[1]) <= 100:
            meant = str(float(percent[1]) / 100)
        reader.reject(path, f"found {describe(written)}", f"a number without quotes, {self.range_text()}", meant)
        return None


class Factor:
    """A number that something is multiplied by. `zero_means` says what 0 stands for."""

    unit = "factor"

    def __init__(self, least: float, most: float, zero_means: str) -> None:
        self.least = least
        self.most = most
        self.zero_means = zero_means

    def range_text(self) -> str:
        return f"0 ({self.zero_means}) or {self.least} … {self.most}"

    def read(self, written: object, path: KeyPath, reader: Reader) -> float | None:
        if type(written) in (int, float) and (self.least <= written <= self.most or written == 0):  # type: ignore[operator]  # not a bool, nor nan
            return float(written)  # type: ignore[arg-type]
        reader.reject(path, f"found {describe(written)}", f"a number without quotes, {self.range_text()}")
        return None


class CountOrWord:
    """A whole number without a unit, or the one word that has it chosen, which is held as 0."""

    unit = "count, or a word"

    def __init__(self, least: int, most: int, word: str) -> None:
        self.word = word
        self.count = Count(least, most)

    def range_text(self) -> str:
        return f"{quote(self.word)} or {self.count.range_text()}"

    def read(self, written: object, path: KeyPath, reader: Reader) -> int | None:
        if written == self.word:
            return 0
        if type(written) is int:
            if self.count.least <= written <= self.count.most:
                return written
            reader.reject(path, f"{written} is out of range", self.range_text(), None if written else self.word)
            return None
        text = written.strip().casefold() if isinstance(written, str) else ""
        digits = re.fullmatch("[0-9]{1,9}", text)
        right = f"{self.range_text()}, a number without quotes" if digits else self.range_text()
        reader.reject(path, f"found {describe(written)}", right, nearest(text, [self.word]) if text and not digits else None)
        return None


class OrWord(Generic[T]):
    """A value of another kind, or the one word that stands for `held`."""

    def __init__(self, kind: Kind[T], word: str, held: T) -> None:
        self.kind = kind
        self.word = word
        self.held = held
        self.unit = f"{kind.unit}, or a word"

    def range_text(self) -> str:
        return f"{quote(self.word)} or {self.kind.range_text()}"

    def read(self, written: object, path: KeyPath, reader: Reader) -> T | None:
        return self.held if written == self.word else self.kind.read(written, path, reader)


class WholeNumbers:
    """One of a few numbers."""

    unit = "number"

    def __init__(self, numbers: Sequence[int]) -> None:
        self.numbers = numbers

    def range_text(self) -> str:
        *most, last = map(str, self.numbers)
        return f"{', '.join(most)} or {last}"

    def read(self, written: object, path: KeyPath, reader: Reader) -> int | None:
        if type(written) is int and written in self.numbers:
            return written
        reader.reject(path, f"found {describe(written)}", f"a number without quotes, {self.range_text()}")
        return None


class Flag:
    """true or false."""

    unit = "flag"

    def range_text(self) -> str:
        return "true or false"

    def read(self, written: object, path: KeyPath, reader: Reader) -> bool | None:
        if isinstance(written, bool):
            return written
        quoted = isinstance(written, str) and written.casefold() in ("true", "false")
        reader.reject(path, f"found {describe(written)}", f"{self.range_text()}{', without quotes' if quoted else ''}")
        return None


class FlagOrWord:
    """true, false, or the one word that has it chosen for each case."""

    unit = "flag, or a word"

    def __init__(self, word: str) -> None:
        self.word = word

    def range_text(self) -> str:
        return f"true, false or {quote(self.word)}"

    def read(self, written: object, path: KeyPath, reader: Reader) -> bool | str | None:
        if isinstance(written, bool) or written == self.word:
            return written
        text = written.casefold() if isinstance(written, str) else ""
        right = f"{self.range_text()}, true and false without quotes" if text in ("true", "false") else self.range_text()
        reader.reject(path, f"found {describe(written)}", right, nearest(text, [self.word]) if text else None)
        return None


class Choice:
    """One of a few words.

    Args:
        not_yet: words that name something real which this version does not do.
        also_called: what other load balancers call a word.
    """

    unit = "word"

    def __init__(self, words: Sequence[str], not_yet: Sequence[str] = (), also_called: Mapping[str, str] | None = None) -> None:
        self.words = words
        self.not_yet = not_yet
        self.also_called = also_called or {}

    def range_text(self) -> str:
        return quote_all(self.words)

    def read(self, written: object, path: KeyPath, reader: Reader) -> str | None:
        if isinstance(written, str) and written in self.words:
            return written
        name = next(key for key in reversed(path) if isinstance(key, str))  # of the list, where it is one of several
        if not isinstance(written, str):
            reader.reject(path, f"found {describe(written)}", f"{name} is {self.range_text()}")
        elif written in self.not_yet:
            reader.reject(path, f"{name} {quote(written)} is not in this version", f"{name} is {self.range_text()}")
        else:
            meant = self.also_called.get(written.casefold()) or nearest(written, self.words)
            reader.reject(path, f"unknown {name} {quote(written)}", f"{name} is {self.range_text()}", meant)
        return None


class Text(Generic[T]):
    """A text with a grammar of its own; `parse` raises Rejected."""

    def __init__(self, unit: str, parse: Callable[[str], T], example: str) -> None:
        self.unit = unit
        self.parse = parse
        self.example = example

    def range_text(self) -> str:
        return f"such as {quote(self.example)}"

    def read(self, written: object, path: KeyPath, reader: Reader) -> T | None:
        if not isinstance(written, str):
            reader.reject(path, f"found {describe(written)}", f"{self.unit} is a text, such as {quote(self.example)}")
            return None
        try:
            value = self.parse(written)
        except Rejected as rejected:
            reader.reject(path, rejected.found, rejected.right, rejected.suggestion)
            return None
        reader.remember(path, value)
        return value


class ChoiceOr(Choice):
    """One of a few words, or another text, told from them by a character that no word has."""

    def __init__(self, words: Sequence[str], mark: str, text: Text[str], also_called: Mapping[str, str] | None = None) -> None:
        super().__init__(words, also_called=also_called)
        self.mark = mark
        self.text = text
        self.unit = f"{Choice.unit} or {text.unit}"

    def range_text(self) -> str:
        return f"{super().range_text()}; or {self.text.unit} {self.text.range_text()}"

    def read(self, written: object, path: KeyPath, reader: Reader) -> str | None:
        if isinstance(written, str) and self.mark in written:
            return self.text.read(written, path, reader)
        return super().read(written, path, reader)


class ListOf(Generic[T]):
    """An array; one value alone stands for an array of one.

    Args:
        least: how many values there have to be.
        identity: what must differ between them, if anything.
    """

    def __init__(self, kind: Kind[T], least: int = 0, identity: Callable[[T], Hashable] | None = None) -> None:
        self.kind = kind
        self.least = least
        self.identity = identity
        self.unit = f"{kind.unit}, or a list"

    def range_text(self) -> str:
        return self.kind.range_text()

    def read(self, written: object, path: KeyPath, reader: Reader) -> tuple[T, ...] | None:
        if not isinstance(written, list):
            value = self.kind.read(written, path, reader)
            return None if value is None else (value,)
        if len(written) < self.least:
            reader.reject(path, "found an empty array", f"at least one is needed, {self.kind.range_text()}")
            return None
        read: list[T] = []
        seen: set[Hashable] = set()
        for index, element in enumerate(written):
            value = self.kind.read(element, (*path, index), reader)
            if value is None:
                continue
            key = self.identity(value) if self.identity else index
            if key in seen:
                reader.reject((*path, index), f"{key} is listed a second time", "list it once")
            seen.add(key)
            read.append(value)
        return tuple(read)
