"""Options and tables: which keys a table has, and how a table becomes a schema object.

`schema` declares each option as a dataclass field with `option()` or `table()`; the field's metadata holds the key it is written with, its
kind and its default. `read_table` follows those declarations.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, field, fields
from typing import Any, Generic, NamedTuple, TypeVar

from fastlb.control_plane.config.errors import Place, Rejected, describe, nearest, quote
from fastlb.control_plane.config.kind import Kind
from fastlb.control_plane.config.reader import Reader
from fastlb.control_plane.config.toml import KeyPath

T = TypeVar("T")


class Option(NamedTuple):
    """One option of a table.

    Args:
        key: as it is written in a configuration.
        default: as it would be written in TOML; "" for one that has to be given.
        field_name: of the schema class.
        also_called: names that other load balancers have for it, for suggestions.
        inner: the schema class of the tables that stand below this key, or None.
    """

    key: str
    kind: Kind[Any]
    default: str
    field_name: str
    also_called: tuple[str, ...]
    inner: type | None

    @property
    def is_required(self) -> bool:
        return not self.default


def option(key: str, kind: Kind[Any], default: object = MISSING, also_called: Sequence[str] = (), inner: type | None = None) -> Any:
    """Declares a dataclass field as an option; for the arguments see `Option`, with the default as a Python value."""
    metadata = {"key": key, "kind": kind, "default": default, "also_called": tuple(also_called), "inner": inner}
    if default is MISSING:
        return field(metadata=metadata)
    return field(default=kind.read(default, (key,), Reader(_SchemaSource())), metadata=metadata)


def table(key: str, cls: type, also_called: Sequence[str] = ()) -> Any:
    """Declares a dataclass field as a table of further options, each of which has a default. All that leave the table out share one object,
    which also makes a configuration of a thousand routes smaller and quicker to hand over."""
    metadata = {"key": key, "kind": InnerTable(cls), "default": {}, "also_called": tuple(also_called), "inner": cls}
    return field(default=cls(), metadata=metadata)


def options_of(cls: type) -> dict[str, Option]:
    """The options that a schema class declares, by key, in its order."""
    options = {}
    for item in fields(cls):
        if "key" in item.metadata:
            m = item.metadata
            default = "" if m["default"] is MISSING else json.dumps(m["default"])
            options[m["key"]] = Option(m["key"], m["kind"], default, item.name, m["also_called"], m["inner"])
    return options


def walk_options(cls: type, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Option]]:
    """Every option of a schema class and of the tables below it, with the keys that lead to it."""
    for key, found in options_of(cls).items():
        yield (*above, key), found
        if found.inner is not None:
            yield from walk_options(found.inner, (*above, key))


def read_table(cls: type[T], written: object, path: KeyPath, reader: Reader, **given: object) -> T | None:
    """Reads a table into a schema class.

    Args:
        given: fields that are not keys of the table, such as the name of a pool, which is the key that the table stands under.

    Returns:
        The object, with defaults for what is absent or wrong; None when something required is.
    """
    if not isinstance(written, dict):
        keys = ", ".join(f"{key} = …" for key in options_of(cls))
        reader.reject(path, f"found {describe(written)}", f"{path[-1]} is a table: {{ {keys} }}")
        return None
    options = options_of(cls)
    for key in written:
        if key not in options:
            _reject_unknown_key(options, (*path, key), reader)
    read: dict[str, object] = dict(given)
    usable = True
    for key, found in options.items():
        if key in written:
            value = found.kind.read(written[key], (*path, key), reader)
            if value is not None:
                read[found.field_name] = value
                continue
        elif found.is_required and reader.source.complete and (*path, key) not in reader.misspelt:
            reader.reject_key(path, f"{quote(key)} is missing", f"{key} is {found.kind.unit}, {found.kind.range_text()}")
        usable = usable and not found.is_required
    if not usable:
        return None
    result = cls(**read)
    reader.remember(path, result)
    return result


def _reject_unknown_key(options: dict[str, Option], path: KeyPath, reader: Reader) -> None:
    key = str(path[-1])
    known = f"known here: {', '.join(options)}"
    renamed = next((other.key for other in options.values() if key.casefold() in other.also_called), None)
    homes = [] if renamed else _find_homes(key, path, reader)
    if homes:
        reader.reject_key(path, f"{quote(key)} does not belong here", f"it belongs into {' or '.join(homes)}; {known}")
    else:
        meant = renamed or nearest(key, options)
        reader.reject_key(path, f"unknown key {quote(key)}", known, meant)
        if meant is not None:
            reader.misspelt.add((*path[:-1], meant))


def _find_homes(key: str, path: KeyPath, reader: Reader) -> list[str]:
    """The tables that know this key: those near the path if there are any, else all of them."""
    if reader.root is None:
        return []
    tables = [keys[:-1] for keys, _ in walk_options(reader.root) if keys[-1] == key]
    near = [table for table in tables if table and table[0] == path[0]]
    return [".".join(table) or "the top level" for table in near or tables]


class InnerTable(Generic[T]):
    """A table: { key = value } or, under a header of its own, key = value lines."""

    unit = "table"

    def __init__(self, cls: type[T]) -> None:
        self.cls = cls

    def range_text(self) -> str:
        return ", ".join(options_of(self.cls))

    def read(self, written: object, path: KeyPath, reader: Reader) -> T | None:
        return read_table(self.cls, written, path, reader)


class TableArray(Generic[T]):
    """Any number of tables, each below its own [[header]]."""

    unit = "tables"

    def __init__(self, cls: type[T]) -> None:
        self.cls = cls

    def range_text(self) -> str:
        return ", ".join(options_of(self.cls))

    def read(self, written: object, path: KeyPath, reader: Reader) -> tuple[T, ...] | None:
        if not isinstance(written, list):
            right = f"each of the {path[-1]} has a header of its own, in double brackets: [[{path[-1]}]]"
            reader.reject_key(path, f"found {describe(written)}", right)
            return None
        read = [read_table(self.cls, element, (*path, index), reader) for index, element in enumerate(written)]
        return tuple(element for element in read if element is not None)


class NamedTables(Generic[T]):
    """Any number of tables, each below a header with its name: [pools.api]. The class has a field `name`."""

    unit = "named tables"

    def __init__(self, cls: type[T], parse_name: Callable[[str], str]) -> None:
        self.cls = cls
        self.parse_name = parse_name

    def range_text(self) -> str:
        return ", ".join(options_of(self.cls))

    def read(self, written: object, path: KeyPath, reader: Reader) -> tuple[T, ...] | None:
        if not isinstance(written, dict):
            reader.reject_key(path, f"found {describe(written)}", f"each of the {path[-1]} has a header with its name: [{path[-1]}.NAME]")
            return None
        read = []
        for name, inner in written.items():
            if not isinstance(inner, dict) and name in options_of(self.cls):
                right = f"{name} belongs below the header of one of the {path[-1]}: [{path[-1]}.NAME]"
                reader.reject_key((*path, name), f"{quote(name)} does not belong here", right)
                continue
            try:
                self.parse_name(name)
            except Rejected as rejected:
                reader.reject_key((*path, name), rejected.found, rejected.right, rejected.suggestion)
            read.append(read_table(self.cls, inner, (*path, name), reader, name=name))
        return tuple(element for element in read if element is not None)


class TextOrTable(Generic[T]):
    """A table, or a text that is short for a table with nothing but this key."""

    def __init__(self, cls: type[T], key: str) -> None:
        self.cls = cls
        self.key = key
        self.unit = f"{options_of(cls)[key].kind.unit} or a table"

    def range_text(self) -> str:
        return options_of(self.cls)[self.key].kind.range_text()

    def read(self, written: object, path: KeyPath, reader: Reader) -> T | None:
        if isinstance(written, str):
            return read_table(self.cls, {self.key: written}, path, reader)
        if isinstance(written, dict):
            return read_table(self.cls, written, path, reader)
        reader.reject(path, f"found {describe(written)}", f"{options_of(self.cls)[self.key].kind.unit} is a text, {self.range_text()}")
        return None


class _SchemaSource:
    """Where defaults come from. A default that its own kind rejects is a mistake in `schema`, found when that is imported."""

    values: dict[str, Any] = {}  # noqa: RUF012 never changed
    complete = True

    def key_place(self, path: KeyPath) -> Place:
        raise AssertionError(f"the schema's default of {path} is out of range")

    value_place = key_place
