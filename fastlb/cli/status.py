"""`fastlb status`: what a running fastlb is doing, for people or as JSON.

What answers may be older than this command, and not say all of it: what it says is shown, the rest is "-" or left out.
"""

import sys
import time
from collections.abc import Iterable
from typing import Any

import click

from fastlb import FastlbError
from fastlb.cli.client import end, find, print_json, talks_to_fastlb
from fastlb.cli.table import format_age, format_table

# Some pool has no backend that may be picked.
EXIT_NO_BACKEND = 4


@click.command()
@talks_to_fastlb
def status(admin: str, config: str | None, as_json: bool) -> None:
    """Show what a running fastlb is doing: processes, listeners, pools and their backends.

    Exit code 0: it answers, and every pool has a backend that may be picked; 4: a pool has none; 3: nobody answers; 2: wrong arguments.
    """
    try:
        shown = find(admin, config).get("/v1/status")
    except FastlbError as error:
        end(error, as_json)
    if as_json:
        print_json(shown)
    else:
        click.echo("\n".join(format_status(shown)))
    if not all(any(map(is_eligible, pool.get("backends", ()))) for pool in shown.get("pools", ())):
        sys.exit(EXIT_NO_BACKEND)


def format_status(shown: dict[str, Any]) -> Iterable[str]:
    """The lines for people."""
    head = [f"fastlb {shown.get('version', '(of unknown version)')}"]
    if "generation" in shown:
        head.append(f"generation {shown['generation']}")
    if "connections" in shown:
        head.append(_count(shown["connections"], "connection"))
    yield ", ".join(head)
    yield ""
    yield from format_table(
        ("PROCESS", "PID", "STATE", "RESTARTS", "GENERATION", "CONNECTIONS"),
        [
            (
                f"{one['role']} {one.get('slot', '-')}" if one["role"] == "worker" else one["role"],
                one.get("pid") or "-",
                one.get("state", "-"),
                one.get("restarts", "-"),
                one.get("generation", "-"),
                one.get("connections", "-"),
            )
            for one in shown.get("processes", ())
        ],
    )
    yield ""
    yield from format_table(("LISTENER", "ADDRESSES"), [(one["name"], ", ".join(one["bind"])) for one in shown.get("listeners", ())])
    yield from format_automated(shown)
    if shown.get("certificates"):
        yield ""
        yield from format_certificates(shown["certificates"])
    for pool in shown.get("pools", ()):
        yield ""
        algorithm = f" ({pool['algorithm']})" if "algorithm" in pool else ""
        yield f"pool {pool['name']}{algorithm}" + (f", {pool['waiting']} waiting" if pool.get("waiting") else "")
        yield from format_backends(pool.get("backends", ()))


def format_certificates(rows: Iterable[dict[str, Any]]) -> list[str]:
    """A line for each certificate that is served."""
    head = ("CERTIFICATE", "NAMES", "KEY", "EXPIRES", "LISTENERS")
    lines = []
    for row in rows:
        names = row["names"]
        more = f" and {len(names) - 2} more" if len(names) > 2 else ""
        expires = f"{row['expires']} (in {row['expires_in_s'] // 86400} d)" if row["expires_in_s"] >= 0 else f"{row['expires']}: expired"
        stale = f"; an earlier one: {row['error']}" if row["error"] else ""
        lines.append((row["file"], (", ".join(names[:2]) + more) or "-", row["key_type"], expires + stale, ", ".join(row["listeners"])))
    return format_table(head, lines)


def format_automated(shown: dict[str, Any]) -> Iterable[str]:
    """Certificates that are had from CAs, and OCSP responses."""
    now = time.time()
    if shown.get("acme"):
        rows = [
            (
                ", ".join(one["domains"]),
                "placeholder" if one["placeholder"] else f"ends in {format_age(int(max(0.0, one['not_after'] - now) * 1000))}",
                f"in {format_age(int(max(0.0, one['next_try'] - now) * 1000))}",
                one["error"] or "-",
            )
            for one in shown["acme"]
        ]
        yield from ("", *format_table(("ACME", "CERTIFICATE", "NEXT ORDER", "LAST ERROR"), rows))
    if shown.get("ocsp"):
        rows = [
            (
                one["certificate"],
                f"stapled, ends in {format_age(int(max(0.0, one['next_update'] - now) * 1000))}" if one["stapled"] else "not stapled",
                "REVOKED" if one["revoked"] else "-",
                one["error"] or "-",
            )
            for one in shown["ocsp"]
        ]
        yield from ("", *format_table(("OCSP", "RESPONSE", "REVOKED", "LAST ERROR"), rows))


def format_backends(rows: Iterable[dict[str, Any]], with_pool: bool = False) -> list[str]:
    """A line for each backend."""
    head = ("BACKEND", "WEIGHT", "ADMIN", "HEALTH", "IN FLIGHT", "IDLE", "REQUESTS", "FAILURES")
    lines = [
        (
            row["display"],
            format_weight(row),
            format_admin(row),
            format_health(row),
            *(row.get(count, "-") for count in ("in_flight", "idle", "requests", "failures")),
        )
        for row in rows
    ]
    if with_pool:
        return format_table(("POOL", *head), [(row["pool"], *line) for row, line in zip(rows, lines, strict=True)])
    return format_table(head, lines)


def format_weight(row: dict[str, Any]) -> str:
    weight = row.get("weight", "-")
    if not row.get("listed", True):
        return "-"
    if weight != row.get("configured_weight", weight):
        return f"{weight} (configured: {row['configured_weight']})"
    return str(weight)


def format_admin(row: dict[str, Any]) -> str:
    admin, drain = str(row.get("admin", "-")), row.get("drain")
    if not row.get("listed", True):
        return "leaving"
    if drain is None or admin != "drain":
        return admin
    if not drain["over"]:
        return f"drain, {format_age(drain['left_ms'] + 999)} left"
    return f"drain, {drain['cut']} cut" if drain["cut"] else "drain, done"


def format_health(row: dict[str, Any]) -> str:
    if not row.get("resolved", True):
        return "no address"
    text = str(row.get("health", "-"))
    if row.get("health_since_ms") is not None:
        text += f" for {format_age(row['health_since_ms'])}"
    if row.get("ejected"):
        text += ", ejected"
    return text + (f": {row['last_error']}" if row.get("last_error") else "")


def is_eligible(row: dict[str, Any]) -> bool:
    """Whether it may be picked, as far as is said."""
    is_well = row.get("resolved", True) and row.get("health", "up") == "up" and not row.get("ejected")
    return bool(row.get("listed", True) and row.get("weight", 1) and row.get("admin", "ready") == "ready" and is_well)


def _count(n: int, word: str) -> str:
    return f"{n} {word}" if n == 1 else f"{n} {word}s"
