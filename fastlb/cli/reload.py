"""`fastlb reload`: have the running fastlb read its configuration file again."""

from typing import Any

import click

from fastlb import FastlbError
from fastlb.cli.client import end, find, print_json, talks_to_fastlb

# Reading (30 s at most), names, and every worker's step.
RELOAD_SECONDS = 90.0


@click.command()
@talks_to_fastlb
def reload(admin: str, config: str | None, as_json: bool) -> None:
    """Have the running fastlb read its configuration file again, and wait until every worker uses it.

    It reads the file that it was started with. Exit code 0 when done; 1 if the file is wrong or cannot be used: then nothing has changed;
    3 if no fastlb answers.
    """
    try:
        done: dict[str, Any] = find(admin, config).post("/v1/reload", RELOAD_SECONDS)
    except FastlbError as error:
        end(error, as_json)
    else:
        if as_json:
            print_json(done)
            return
        for warning in done["warnings"]:
            click.echo(f"fastlb: warning: {warning}", err=True)
        click.echo(f"reloaded: generation {done['generation']}, in {done['milliseconds']:.0f} ms")
