"""`fastlb upgrade`: have the fastlb that is installed by now take over from the one that runs."""

from typing import Any

import click

from fastlb import FastlbError
from fastlb.cli.client import Refused, end, find, print_json, talks_to_fastlb

# The new one has a minute to get ready (processes/upgrade.py).
UPGRADE_SECONDS = 75.0


@click.command()
@talks_to_fastlb
def upgrade(admin: str, config: str | None, as_json: bool) -> None:
    """Have the fastlb that is installed by now take over from the one that runs, without losing a request.

    The running one starts it with its own arguments and hands over sockets and counts; when its workers serve, the old workers finish what
    they have, for at most drain_timeout, and the old fastlb ends. Exit code 0 when the new one has taken over; 1 if it did not start or did
    not get ready: then the old one goes on, and standard error of the service says why; 3 if no fastlb answers.
    """
    try:
        done: dict[str, Any] = find(admin, config).post("/v1/upgrade", UPGRADE_SECONDS)
    except Refused as error:
        if as_json:
            print_json({"errors": str(error).splitlines()})
            raise SystemExit(1) from error
        end(error)
    except FastlbError as error:
        end(error)
    else:
        if as_json:
            print_json(done)
        else:
            click.echo(f"upgraded: process {done['pid']} has taken over; the old one ends when its clients are gone")
