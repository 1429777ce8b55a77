"""`fastlb backend`: what an operator wants of single backends, while everything goes on."""

import sys
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import click

from fastlb import FastlbError
from fastlb.cli import EXIT_FAILED
from fastlb.cli.client import Client, end, find, print_json, talks_to_fastlb
from fastlb.cli.status import format_backends
from fastlb.control_plane.config.errors import Rejected
from fastlb.control_plane.config.quantity import format_duration, parse_duration_ms

# How often a drain is looked at, and how often it is shown.
LOOK_SECONDS = 0.2
SHOW_SECONDS = 1.0
# So many looks after its end before what is in flight counts as left: a request that sticks to the backend may just be there.
LOOKS_AFTERWARDS = 10


@click.group()
def backend() -> None:
    """Take backends out of use and back, and change their weights, while everything goes on.

    POOL is a name of the configuration; ADDRESS a backend as the pool lists it, or one address that a name stands for. What is asked for
    holds until it is changed, over reloads and restarts of the controller, and ends with fastlb.

    Exit code 0: done. 1: refused; standard error says why. 3: nobody answers.
    """


def _names_a_backend(command: Callable[..., None]) -> Callable[..., None]:
    return click.argument("pool")(click.argument("address")(talks_to_fastlb(command)))


@backend.command("list")
@click.argument("pool", required=False, default="")
@talks_to_fastlb
def list_(pool: str, admin: str, config: str | None, as_json: bool) -> None:
    """List the backends of POOL, or of all pools."""
    try:
        shown = find(admin, config).get("/v1/backends")
    except FastlbError as error:
        end(error, as_json)
    rows = [row for row in shown["backends"] if not pool or row["pool"] == pool]
    if pool and not rows:
        end(FastlbError(f'there is no pool "{pool}" that has a backend'))
    if as_json:
        print_json({"backends": rows})
    else:
        click.echo("\n".join(format_backends(rows, with_pool=True)))


@backend.command()
@_names_a_backend
@click.option("--timeout", metavar="DURATION", default="", help='The longest it may take, such as "5m"; drain_timeout by default.')
@click.option("--no-wait", is_flag=True, help="Do not wait until it is over.")
def drain(pool: str, address: str, admin: str, config: str | None, as_json: bool, timeout: str, no_wait: bool) -> None:
    """Give ADDRESS no new requests, and wait until what is in flight there has ended.

    Sticky clients still come if the pool says so (sticky.drain). What is in flight after the time-out is cut. It stays out of use until
    `fastlb backend ready`.

    Exit code 1 also where something is in flight still when it is over: it could not be cut, or sticky clients go on coming.
    """
    content: dict[str, Any] = {"admin": "drain"}
    if timeout:
        try:
            content["timeout_ms"] = parse_duration_ms(timeout)
        except Rejected as rejected:
            raise click.UsageError(f"--timeout {timeout}: {rejected.found}; {rejected.right}") from None
    try:
        client = find(admin, config)
        rows = client.post(_path(pool, address), **content)["backends"]
        if not no_wait:
            rows = _wait(client, _path(pool, address), rows, quiet=as_json)
    except FastlbError as error:
        end(error, as_json)
    is_other = any(row["admin"] != "drain" for row in rows)
    left = 0 if no_wait or is_other else _in_flight(rows)
    if as_json:
        print_json({"backends": rows})
        sys.exit(EXIT_FAILED if left else 0)
    if no_wait:
        click.echo(f"{pool} {address}: draining, {_in_flight(rows)} in flight")
    elif is_other:
        click.echo(f"{pool} {address}: not draining any more; somebody else has said otherwise")
    elif left:
        end(FastlbError(f"{pool} {address}: the drain is over, and {left} in flight still"))
    else:
        cut = sum(row["drain"]["cut"] for row in rows if row["drain"] is not None)
        click.echo(f"{pool} {address}: drained" + (f"; exchanges cut: {cut}" if cut else ""))


@backend.command()
@_names_a_backend
def maint(pool: str, address: str, admin: str, config: str | None, as_json: bool) -> None:
    """Take ADDRESS out of use: nothing new comes to it, from sticky clients neither; what is in flight goes on."""
    _set(pool, address, admin, config, as_json, "in maintenance", admin_state="maint")


@backend.command()
@_names_a_backend
def ready(pool: str, address: str, admin: str, config: str | None, as_json: bool) -> None:
    """Take ADDRESS into use again."""
    _set(pool, address, admin, config, as_json, "ready", admin_state="ready")


@backend.command()
@_names_a_backend
@click.argument("weight", metavar="N|default")
def weight(pool: str, address: str, admin: str, config: str | None, as_json: bool, weight: str) -> None:
    """Give ADDRESS the weight N (0: nothing new), or that of the configuration again ("default")."""
    if weight != "default" and not (weight.isascii() and weight.isdigit() and len(weight) < 10):
        raise click.UsageError(f'"{weight}" is not a weight: a whole number, or "default"')
    number = None if weight == "default" else int(weight)
    try:
        rows = find(admin, config).post(_path(pool, address), weight=number)["backends"]
    except FastlbError as error:
        end(error, as_json)
    if as_json:
        print_json({"backends": rows})
    else:
        click.echo(f"{pool} {address}: weight {', '.join(dict.fromkeys(str(row['weight']) for row in rows))}")


def _set(pool: str, address: str, admin: str, config: str | None, as_json: bool, done: str, *, admin_state: str) -> None:
    try:
        rows = find(admin, config).post(_path(pool, address), admin=admin_state)["backends"]
    except FastlbError as error:
        end(error, as_json)
    if as_json:
        print_json({"backends": rows})
    else:
        click.echo(f"{pool} {address}: {done}, {_in_flight(rows)} in flight")


def _wait(client: Client, path: str, rows: list[dict[str, Any]], *, quiet: bool) -> list[dict[str, Any]]:
    """Until the drain is over, showing what is left whenever that has changed."""
    shown, when = -1, 0.0
    while any(row["admin"] == "drain" and (row["drain"] is None or not row["drain"]["over"]) for row in rows):
        left, now = _in_flight(rows), time.monotonic()
        if not quiet and left and left != shown and now - when >= SHOW_SECONDS:
            left_ms = max((row["drain"]["left_ms"] for row in rows if row["drain"] is not None), default=None)
            at_most = f", at most {format_duration((left_ms + 999) // 1000 * 1000)} more" if left_ms is not None else ""
            click.echo(f"draining: {left} in flight{at_most}")
            shown, when = left, now
        time.sleep(LOOK_SECONDS)
        rows = client.get(path)["backends"]
    for _ in range(LOOKS_AFTERWARDS):
        if not _in_flight(rows) or any(row["admin"] != "drain" for row in rows):
            break
        time.sleep(LOOK_SECONDS)
        rows = client.get(path)["backends"]
    return rows


def _in_flight(rows: list[dict[str, Any]]) -> int:
    return sum(row["in_flight"] for row in rows)


def _path(pool: str, address: str) -> str:
    return f"/v1/backends/{quote(pool, safe='')}/{quote(address, safe='')}"
