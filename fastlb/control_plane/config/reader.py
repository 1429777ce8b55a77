"""Where a configuration is read from, and what has been found in it so far."""

from typing import Any, Protocol, TypeVar

from fastlb.control_plane.config.errors import Place, Problem
from fastlb.control_plane.config.toml import KeyPath

T = TypeVar("T")


class Source(Protocol):
    """What a configuration is read from: a file, or the command line."""

    @property
    def values(self) -> dict[str, Any]: ...
    @property
    def complete(self) -> bool:
        """Whether `values` is all that was written, so that what is missing is really missing."""
        ...

    def key_place(self, path: KeyPath) -> Place: ...
    def value_place(self, path: KeyPath) -> Place: ...


class Reader:
    """Collects the problems, the warnings and the place of everything that is read from one source.

    Nothing raises while a source is read: a value that is wrong is reported here and left out, so that every mistake is found.
    """

    def __init__(self, source: Source, root: type | None = None) -> None:
        """`root` is the schema class of the whole source, where keys that stand in the wrong table are looked up."""
        self.source = source
        self.root = root
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self.misspelt: set[KeyPath] = set()  # paths that were meant by keys which nobody knows: not missing, therefore
        self._read: list[tuple[KeyPath, object]] = []

    def reject(self, path: KeyPath, found: str, right: str, suggestion: str | None = None) -> None:
        """The value at this path is wrong."""
        self.problems.append(Problem(self.source.value_place(path), found, right, suggestion))

    def reject_key(self, path: KeyPath, found: str, right: str, suggestion: str | None = None) -> None:
        """The key at the end of this path is wrong, or something is missing under it."""
        self.problems.append(Problem(self.source.key_place(path), found, right, suggestion))

    def warn(self, path: KeyPath, found: str, right: str) -> None:
        """What stands under this key can be used and is probably not what was meant."""
        self.warnings.append(Problem(self.source.key_place(path), found, right))

    def remember(self, path: KeyPath, value: object) -> None:
        """Keeps where a value came from, for the checks that concern several values."""
        self._read.append((path, value))

    def all_read(self, cls: type[T]) -> list[tuple[KeyPath, T]]:
        """Every value of this class that was read, with its path, in the order of reading."""
        return [(path, value) for path, value in self._read if isinstance(value, cls)]
