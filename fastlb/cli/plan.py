"""`fastlb plan`: what a reload would change."""

import sys
from dataclasses import replace

import click

from fastlb import FastlbError
from fastlb.cli.client import Client, end, find, print_json, talks_to_fastlb
from fastlb.control_plane.config.loader import load_file, read_config
from fastlb.control_plane.config.schema import Config
from fastlb.control_plane.config.writer import WrittenConfig
from fastlb.control_plane.tls.files import base_of

EXIT_CHANGES = 4  # 3: nobody answers (client.py)


@click.command()
@click.argument("new", type=click.Path())
@click.option("--against", metavar="OLD", default="", help="Compare with this file instead of the running configuration.")
@talks_to_fastlb
def plan(new: str, against: str, admin: str, config: str | None, as_json: bool) -> None:
    """Say what changes when the file NEW takes the place of the running configuration, or of OLD.

    Listeners, routes, header edits, pools, backends and certificates; and for pools that hash, the share of keys that go to another
    backend. Nothing is applied. Exit code 0 if nothing changes, 4 if something does, 2 if a file is wrong, 3 if no fastlb answers.
    """
    try:
        loaded = load_file(new)
        wanted = loaded.config
        if against:
            old = load_file(against).config
        else:
            client = find(admin, config)
            old, overridden = _ask_running(client)
            served = client.get("/v1/status")["certificates"]
            wanted = replace(wanted, settings=replace(wanted.settings, **{key: getattr(old.settings, key) for key in overridden}))
    except FastlbError as error:
        end(error)
    # With the data plane, which a wrong file need not wait for.
    from fastlb.control_plane.certificate_plan import list_served, plan_certificates, read_served
    from fastlb.control_plane.plan import make_plan

    before = read_served(old, base_of(against)) if against else list_served(served)
    changes = [*make_plan(old, wanted), *plan_certificates(before, read_served(wanted, base_of(new)))]
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


def _ask_running(client: Client) -> tuple[Config, list[str]]:
    """The configuration in force, and the keys of [global] that are the command line's whatever a file says."""
    answer = client.get("/v1/config")
    return read_config(WrittenConfig(answer["config"], "the running configuration")).config, answer["overridden"]
