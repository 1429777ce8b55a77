"""`fastlb check`: every mistake of a configuration at once, without starting anything."""

import click

from fastlb import FastlbError
from fastlb.cli import fail
from fastlb.control_plane.config.loader import load_file
from fastlb.control_plane.config.schema import Config
from fastlb.control_plane.tls.material import load_material, settle


@click.command()
@click.argument("file", type=click.Path())
def check(file: str) -> None:
    """Say what is wrong with FILE, all at once, or that it is ok.

    The certificates and keys that it names are read as well: do it as the user that starts fastlb.

    Exit code 0 if fastlb would start with it (warnings allowed), 2 if not.
    """
    try:
        loaded = load_file(file)
        _, warnings = settle(load_material(loaded.config, file, loaded.places), loaded.config)
    except FastlbError as error:
        fail(error)
    for warning in (*loaded.warnings, *warnings):
        click.echo(f"fastlb: warning: {warning}", err=True)
    click.echo(f"{file}: ok ({summarise(loaded.config)})")


def summarise(config: Config) -> str:
    """How many of each thing there are."""
    n_backends = sum(len(pool.backends) for pool in config.pools)
    counts = {"listener": len(config.listeners), "route": len(config.routes), "pool": len(config.pools), "backend": n_backends}
    return ", ".join(f"{count} {word}" if count == 1 else f"{count} {word}s" for word, count in counts.items())
