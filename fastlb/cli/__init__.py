"""The `fastlb` command. Each group of commands has a file of its own, which is imported when one of them runs, so that all start fast."""

import sys
from importlib import import_module
from typing import NoReturn

import click

from fastlb import FastlbError

# command -> the module that has it, under its own name, and its line in `fastlb --help`
COMMANDS = {
    "serve": ("fastlb.cli.serve", "Relay requests between clients and backends; without arguments: a demo."),
    "status": ("fastlb.cli.status", "Show what a running fastlb is doing: processes, listeners, pools, backends."),
    "backend": ("fastlb.cli.backend", "Take backends out of use and back, change their weights; nothing is restarted."),
    "upgrade": ("fastlb.cli.upgrade", "Have the fastlb that is installed by now take over from the one that runs."),
    "check": ("fastlb.cli.check", "Say what is wrong with a configuration, all at once."),
    "plan": ("fastlb.cli.plan", "Say what a reload would change."),
    "reload": ("fastlb.cli.reload", "Have a running fastlb read its configuration file again."),
}

EXIT_FAILED = 1
EXIT_CONFIG = 2


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = getattr(import_module(COMMANDS[name][0]), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest command when there is none of that name."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from fastlb.control_plane.config.errors import nearest, quote, quote_all

            meant = nearest(args[0], COMMANDS)
            hint = f"; did you mean {quote(meant)}?" if meant else ""
            ctx.fail(f"there is no command {quote(args[0])}; the commands are {quote_all(COMMANDS)}{hint}")
        return super().resolve_command(ctx, args)


def _print_versions(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from fastlb.cli.versions import format_versions

        click.echo(format_versions())
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-V",
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_versions,
    help="Show the versions of fastlb and its parts.",
)
def main() -> None:
    """A load balancer and reverse proxy for Linux.

    `fastlb serve` runs a demo, `fastlb serve -c FILE` a configuration, `fastlb serve --listen :8080 --backend HOST:PORT` needs no file.
    """


def fail(error: FastlbError) -> NoReturn:
    """Ends the command with an error on standard error: 2 for a configuration, whose lines begin with the place, otherwise 1."""
    from fastlb.control_plane.config.errors import ConfigError

    if isinstance(error, ConfigError):
        for line in error.lines():
            click.echo(line, err=True)
        sys.exit(EXIT_CONFIG)
    for line in str(error).splitlines():
        click.echo(f"fastlb: {line}", err=True)
    sys.exit(EXIT_FAILED)
