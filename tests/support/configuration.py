"""Configurations for tests: TOML from keyword arguments. Time-outs are long unless a test says otherwise."""

import json
from collections.abc import Sequence
from typing import Any, Protocol


class HasAddress(Protocol):
    address: str


BackendLike = str | HasAddress | dict[str, Any]
Table = dict[str, Any]


def toml(value: Any) -> str:
    """A value as TOML writes it, tables inline."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | str):
        return json.dumps(value)
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(entry)}" for key, entry in value.items()) + " }"
    return "[" + ", ".join(toml(entry) for entry in value) + "]"


def backend_entry(backend: BackendLike) -> str | Table:
    if isinstance(backend, dict):
        return {**backend, "address": backend_entry(backend["address"])}
    return backend if isinstance(backend, str) else backend.address


def table(name: str, entries: Table) -> str:
    return f"{name}\n" + "".join(f"{key} = {toml(value)}\n" for key, value in entries.items())


def configuration(
    backends: Sequence[BackendLike] = (),
    *,
    pool: Table | None = None,
    listener: Table | None = None,
    settings: Table | None = None,
    listeners: Sequence[Table] = (),
    pools: dict[str, Table] | None = None,
    routes: Sequence[Table] = (),
) -> str:
    """One listener and one pool from `backends`, `pool` and `listener`; or several of them, and routes, where given."""
    every_listener = listeners or [{"name": "web", "bind": "127.0.0.1:0", **(listener or {})}]
    every_pool = pools or {"main": {"backends": list(backends), **(pool or {})}}
    parts = [table("[global]", settings or {})]
    parts += [table("[[listeners]]", {"bind": "127.0.0.1:0", **entries}) for entries in every_listener]
    parts += [table("[[routes]]", entries) for entries in routes]
    for name, entries in every_pool.items():
        entries = {**entries, "backends": [backend_entry(backend) for backend in entries["backends"]]}
        parts.append(table(f"[pools.{name}]", entries))
    return "\n".join(parts)
