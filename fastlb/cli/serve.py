"""`fastlb serve`: a configuration, a listener and backends from the command line, or the demo."""

import contextlib
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

import click

from fastlb import FastlbError
from fastlb.cli import fail
from fastlb.cli.arguments import Arguments
from fastlb.cli.overrides import override
from fastlb.control_plane.config.loader import Loaded, load_file, read_config
from fastlb.processes.demo import DemoBackend, run_demo_backends

DEFAULT_LISTEN = "127.0.0.1:8080"


@click.command()
@click.option("-c", "--config", metavar="FILE", help="A TOML configuration; `fastlb check FILE` explains it.")
@click.option(
    "--listen", "listens", metavar="ADDRESS", multiple=True, help='Where to accept clients: ":8080", "unix:/path". May be repeated.'
)
@click.option(
    "--backend",
    "backends",
    metavar="ADDRESS[,weight=N][,max_connections=N]",
    multiple=True,
    help="Where to forward requests. May be repeated.",
)
@click.option("--cert", metavar="FILE", default="", help="A certificate with its chain (PEM): clients speak HTTPS.")
@click.option("--key", metavar="FILE", default="", help="Its private key, if that is not in the same file.")
@click.option("--algorithm", metavar="NAME", default="", help='"weighted_least_connections" (default) or "round_robin".')
@click.option("--workers", metavar="N|auto", default="", help="How many worker processes relay requests; one for each CPU by default.")
@click.option(
    "--user", metavar="NAME[:GROUP]", default="", help='The account that workers run under; "nobody" by default, if this is root.'
)
@click.option(
    "--admin",
    metavar="ADDRESS",
    default="",
    help='Where the admin API listens: "unix:/path", "127.0.0.1:9090", "off"; `fastlb.sock` in the runtime directory by default.',
)
@click.option("--counters", metavar="FILE", default="", hidden=True, help="Write the counters here at the end.")
@click.option("--pump-budget", metavar="N", type=click.IntRange(0), default=0, hidden=True, help="Events that one pump handles.")
def serve(
    config: str | None,
    listens: Sequence[str],
    backends: Sequence[str],
    cert: str,
    key: str,
    algorithm: str,
    workers: str,
    user: str,
    admin: str,
    counters: str,
    pump_budget: int,
) -> None:
    """Relay requests between clients and backends.

    Without a file and without backends a demo runs, with three small backends of its own. SIGTERM and Ctrl-C stop at once; SIGQUIT finishes
    what is in flight; SIGHUP reads the file again.
    """
    # First of all: OpenSSL takes its memory as whoever uses it first has said, and Python's ssl, which the rest imports, says nothing.
    with contextlib.suppress(ImportError):  # _load_data_plane will say so
        import_module("fastlb.data_plane.tls")
    if config is not None and (listens or backends or algorithm or cert or key):
        given = "--listen, --backend, --cert, --key and --algorithm"
        raise click.UsageError(f"-c FILE already says what to listen on and where to forward: leave out {given}")
    if key and not cert:
        raise click.UsageError("--key is the key of a certificate: name that with --cert")
    if counters and not Path(counters).parent.is_dir():
        raise click.UsageError(f"there is no directory {Path(counters).parent}")
    listens = listens or (DEFAULT_LISTEN,)

    def run(loaded: Loaded, demo: Sequence[DemoBackend] = ()) -> None:
        _load_data_plane()
        from fastlb.processes.launch import LaunchOptions, launch

        greet = (lambda urls: explain_demo(urls, demo)) if demo else None
        overriding = partial(override, workers=workers, user=user, admin=admin)
        spared = frozenset(backend.pid for backend in demo)
        launch(loaded, LaunchOptions(counters, pump_budget, greet, spared, overriding, config or ""))

    try:
        if config is not None:
            run(load_file(config))
        elif backends:
            run(read_config(Arguments(listens, backends, algorithm, cert, key)))
        else:
            _load_data_plane()  # before the fork, so that the demo's processes share its pages
            with run_demo_backends() as demo:
                run(read_config(Arguments(listens, [backend.address for backend in demo], algorithm, cert, key)), demo)
    except FastlbError as error:
        fail(error)


def _load_data_plane() -> None:
    try:
        import fastlb.processes.launch  # noqa: F401
    except ImportError as error:
        raise FastlbError(f"the compiled data plane is missing ({error}); build it with ./dev build, or install fastlb with pip") from error


def explain_demo(urls: Sequence[str], backends: Sequence[DemoBackend]) -> str:
    """What a newcomer may want to try."""
    url = urls[0].replace("//0.0.0.0:", "//127.0.0.1:")
    curl = f"curl -i --unix-socket {url.removeprefix('unix:')} http://localhost" if url.startswith("unix:") else f"curl -i {url}"
    running = ", ".join(f"{backend.name} (pid {backend.pid}, {backend.address})" for backend in backends)
    return f"""
A demo: requests to {url} go to three small backends of our own,
{running}. To try next:

  {curl}/hello
        what a backend receives; again, and another one answers
  kill {backends[0].pid}
        one backend less, and no request fails
  wrk -c 64 -d 5 {url}/
        how fast it is
  fastlb serve --listen :8080 --backend 10.0.0.1:80 --backend 10.0.0.2:80,weight=3
        your own backends; or write them into a file: fastlb serve -c fastlb.toml

Ctrl-C stops it.
"""
