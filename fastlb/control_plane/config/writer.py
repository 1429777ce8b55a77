"""From a `Config` back to what a file would say: the running configuration for the admin API, and texts for what `fastlb plan` shows.

Defaults are left out. Reading what was written gives an equal configuration again, but for secrets: a digest stands in their place, which
tells whether two of them differ and nothing else.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import MISSING, fields
from typing import Any

from fastlb.control_plane.config.address import format_host_port
from fastlb.control_plane.config.admin_address import AdminList
from fastlb.control_plane.config.errors import Place
from fastlb.control_plane.config.health import BodyMatch, ProbeHeaders, StatusRange
from fastlb.control_plane.config.kind import CountOrWord, Kind, ListOf, OrWord, Quantity
from fastlb.control_plane.config.log_destination import LogDestination
from fastlb.control_plane.config.option import InnerTable, NamedTables, TableArray, TextOrTable
from fastlb.control_plane.config.regex_pattern import RegexPattern
from fastlb.control_plane.config.request_condition import NamedCondition, NamedConditions, TextPattern, Wanted
from fastlb.control_plane.config.route_options import CLOSE, NO_ANSWER, Fields, PoolShares, Status
from fastlb.control_plane.config.route_pattern import ANY_HOST, parse_host
from fastlb.control_plane.config.schema import AccessLogs, Config, LogList
from fastlb.control_plane.config.template import Template
from fastlb.control_plane.config.tls import BackendTlsKind, CertificateList
from fastlb.control_plane.config.toml import KeyPath

# A header field, parameter or cookie that must not be there: "!" without a value.
ABSENT = Wanted(TextPattern("any"), negated=True)

SECRETS = frozenset(("sticky_key", "eab_hmac"))


class WrittenConfig:
    """A configuration that was written by `write_config`, as a source to read."""

    complete = True

    def __init__(self, values: dict[str, Any], name: str) -> None:
        self.values = values
        self._name = name

    def value_place(self, path: KeyPath) -> Place:
        """It has no lines: the keys that lead there."""
        return Place(0, 0, f"{self._name}: {'.'.join(map(str, path))}")

    key_place = value_place


def write_config(config: Config) -> dict[str, Any]:
    """The values of a file that says this."""
    return write_table(config)


def write_table(table: Any) -> dict[str, Any]:
    """The keys of one table whose values are not the default."""
    written = {}
    for field in fields(table):
        if "key" not in field.metadata:
            continue
        value = getattr(table, field.name)
        if value == _default_of(field):
            continue
        key = field.metadata["key"]
        written[key] = hide(value) if key in SECRETS else write_value(value, field.metadata["kind"])
    return written


def write_value(value: Any, kind: Kind[Any]) -> Any:
    """A value as this kind of option reads it."""
    match kind:
        case OrWord():
            return kind.word if value == kind.held else write_value(value, kind.kind)
        case CountOrWord():
            return value or kind.word
        case Quantity():
            return 0 if value == 0 and kind.zero_means else kind.format_amount(value)
        case Status():
            return {NO_ANSWER: "none", CLOSE: "close"}.get(value, value)
        case InnerTable() | TextOrTable() | BackendTlsKind():
            return write_table(value)
        case TableArray() | CertificateList():
            return [write_table(one) for one in value]
        case NamedTables():
            return {one.name: write_table(one) for one in value}
        case ListOf():
            return [write_value(one, kind.kind) for one in value]
        case AdminList():
            return [str(one) for one in value.addresses] or str(value)
        case LogList():
            return _write_logs(value)
        case Fields():
            return _write_fields(value)
        case NamedConditions():
            return _write_conditions(value)
        case ProbeHeaders():
            return dict(value)
    if value == ANY_HOST and getattr(kind, "parse", None) is parse_host:
        return "*"
    return _write_text(value)


def show(written: object) -> str:
    """A written value as TOML has it, on one line."""
    if isinstance(written, dict) and written:
        return "{ " + ", ".join(f"{_show_key(key)} = {show(value)}" for key, value in written.items()) + " }"
    if isinstance(written, list):
        return f"[{', '.join(show(one) for one in written)}]"
    return json.dumps(written, ensure_ascii=False)


def hide(secret: str) -> str:
    """What stands for a secret, "" for none: long enough to be read as one, and then the same again."""
    if re.fullmatch(r"hidden [0-9a-f]{16}", secret):
        return secret
    return secret and f"hidden {hashlib.blake2b(secret.encode(), digest_size=8, person=b'fastlb hide').hexdigest()}"


def _show_key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else json.dumps(key, ensure_ascii=False)


def _default_of(field: Any) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _write_text(value: Any) -> Any:
    match value:
        case bool() | int() | float() | str():
            return value
        case PoolShares(()):
            return ""
        case PoolShares(shares):
            return shares[0][0] if len(shares) == 1 and shares[0][1] == 1 else dict(shares)
        case (str() as host, int() as port):  # a name server
            return format_host_port(host, port)
        case Wanted():
            return f"{'!' if value.negated else ''}{_write_text(value.value)}"
        case TextPattern():
            return _write_pattern(value)
        case StatusRange(first, last):
            return first if first == last else f"{first}-{last}"
        case BodyMatch():
            return value.text if value.regex is None else _write_text(value.regex)
        case RegexPattern():
            return f"~{'*' if value.caseless else ''}{value.pattern}"
        case LogDestination(kind="datagrams"):
            return f"{value},facility={value.facility},severity={value.severity},tag={value.tag}"
    return str(value)


def _write_pattern(pattern: TextPattern) -> str:
    match pattern.kind:
        case "regex":
            return str(_write_text(pattern.regex))
        case "any":
            return "*"
        case "prefix":
            return f"{pattern.text}*"
        case "suffix":
            return f"*{pattern.text}"
        case "part":
            return f"*{pattern.text}*"
    plain = not pattern.text.startswith(("=", "!", "~")) and "*" not in pattern.text
    return pattern.text if plain else f"={pattern.text}"


def _write_conditions(conditions: Iterable[NamedCondition]) -> dict[str, list[str]]:
    return {one.name: ["!" if value == ABSENT else str(_write_text(value)) for value in one.values] for one in conditions}


def _write_fields(edits: Iterable[tuple[str, Template]]) -> dict[str, Any]:
    several: dict[str, list[str]] = {}
    for name, template in edits:
        several.setdefault(name, []).append(template.text)
    return {name: texts[0] if len(texts) == 1 else texts for name, texts in several.items()}


def _write_logs(logs: AccessLogs) -> Any:
    if logs.inherited:
        return "inherit"
    return [write_table(log) for log in logs.logs] or "off"
