"""The JSON file of a run: one line per measurement, so that a committed file stays readable and short."""

import json
from typing import Any


def to_json(run: dict[str, Any]) -> str:
    return _value(run, "") + "\n"


def _value(value: Any, indent: str) -> str:
    inner = indent + " "
    if isinstance(value, dict) and any(isinstance(item, dict | list) for item in value.values()) and not _is_measurement(value):
        items = [f"{inner}{json.dumps(key)}: {_value(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(f"{inner}{_value(item, inner)}" for item in value) + f"\n{indent}]"
    return json.dumps(_rounded(value), ensure_ascii=False)


def _is_measurement(value: dict[str, Any]) -> bool:
    return "proxy" in value


def _rounded(value: Any) -> Any:
    """Further digits are noise."""
    if isinstance(value, float):
        return round(value, 3 if abs(value) >= 10 else 5)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return value
