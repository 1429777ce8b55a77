"""`fastlb plan`: what a reload would change."""

import sys

import click

from fastlb import FastlbError
from fastlb.cli.client import Client, end, find, print_json, talks_to_fastlb
from fastlb.control_plane.config.loader import load_file, read_config
from fastlb.control_plane.config.schema import Config
from fastlb.control_plane.config.writer import WrittenConfig

EXIT_CHANGES = 4  # 3: nobody answers (client.py)


@click.command()
@click.argument("new", type=click.Path())
@click.option("--against", metavar="OLD", default="", help="Compare with this file instead of the running configuration.")
@talks_to_fastlb
def plan(new: str, against: str, admin: str, config: str | None, as_json: bool) -> None:
    """Say what changes when the file NEW takes the place of the running configuration, or of OLD.

    Listeners, routes, header edits, pools and backends; and for pools that hash, the share of keys that go to another backend. Nothing is
    applied. Exit code 0 if nothing changes, 4 if something does, 2 if a file is wrong, 3 if no fastlb answers.
    """
    try:
        loaded = load_file(new)
        old = load_file(against).config if against else _ask_running(find(admin, config))
    except FastlbError as error:
        end(error)
    from fastlb.control_plane.plan import make_plan  # with the data plane, which a wrong file need not wait for

    changes = make_plan(old, loaded.config)
    if as_json:
        print_json({"changes": [change.as_json() for change in changes], "warnings": [str(warning) for warning in loaded.warnings]})
    else:
        for warning in loaded.warnings:
            click.echo(f"fastlb: warning: {warning}", err=True)
        for change in changes:
            click.echo("\n".join(change.lines()))
        click.echo(f"{len(changes)} change{'' if len(changes) == 1 else 's'}" if changes else "nothing changes")
    if changes:
        sys.exit(EXIT_CHANGES)


def _ask_running(client: Client) -> Config:
    answer = client.get("/v1/config")
    return read_config(WrittenConfig(answer["config"], "the running configuration")).config
