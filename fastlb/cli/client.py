"""How the commands talk to a running fastlb: HTTP over its admin socket.

One request on a connection of its own each; nothing is kept. Where the socket is: `--admin`, what a configuration file says (`-c`), or the
usual place.
"""

import http.client
import json
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from fastlb import FastlbError
from fastlb.control_plane.config.address import BindAddress
from fastlb.control_plane.config.admin_address import parse_admin_address
from fastlb.control_plane.config.errors import Rejected
from fastlb.processes.admin_socket import usual_sockets

# Longer than a controller is ever busy, or gone; applying a configuration has its own time.
ANSWER_SECONDS = 30.0
# More than the largest configuration needs to describe itself.
MAX_ANSWER_BYTES = 256 << 20

EXIT_NOT_REACHED = 3

Command = TypeVar("Command", bound=Callable[..., Any])


class NotReached(FastlbError):
    """Nobody answers; the text says what to do."""


class Refused(FastlbError):
    """fastlb answered that it will not; the text says why, a line for each reason.

    Args:
        status: of the HTTP answer.
    """

    def __init__(self, status: int, errors: Sequence[str]) -> None:
        super().__init__("\n".join(errors))
        self.status = status


class Client:
    """Asks one fastlb.

    Args:
        places: where it may be; the first that exists is it.
    """

    def __init__(self, places: Sequence[BindAddress]) -> None:
        self._places = places

    def get(self, path: str) -> Any:
        """What is at this path. Raises NotReached, Refused."""
        return self.request("GET", path)

    def post(self, path: str, timeout: float = ANSWER_SECONDS, **content: Any) -> Any:
        """Has something done. Raises NotReached, Refused."""
        return self.request("POST", path, content, timeout)

    def request(self, method: str, path: str, content: Any = None, timeout: float = ANSWER_SECONDS) -> Any:
        """One request and what the JSON of its answer holds.

        Raises:
            NotReached: nobody answers. Refused: the answer is an error.
        """
        place = self._choose()
        connection = _UnixConnection(place.unix_path, timeout) if place.unix_path else _tcp(place, timeout)
        body = None if content is None else json.dumps(content)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            response = connection.getresponse()
            raw = response.read(MAX_ANSWER_BYTES)
            answer = json.loads(raw)
        except TimeoutError:
            raise NotReached(f"fastlb at {place} does not answer for {timeout:g} s; its controller may be stopped or very busy") from None
        except OSError as error:
            raise NotReached(self._explain(place, error)) from error
        except (ValueError, http.client.HTTPException) as error:
            raise NotReached(f"what answers at {place} is not a fastlb of this version") from error
        finally:
            connection.close()
        if response.status >= 300:
            errors = answer.get("errors") if isinstance(answer, dict) else None
            raise Refused(response.status, errors or [f"HTTP status {response.status}"])
        return answer

    def _choose(self) -> BindAddress:
        for place in self._places:
            try:
                if not place.unix_path or Path(place.unix_path).exists():
                    return place
            except OSError:
                return place  # it may be there: connecting tells why not
        return self._places[0]

    def _explain(self, place: BindAddress, error: OSError) -> str:
        if isinstance(error, PermissionError):
            owner = _owner(place.unix_path)
            who = f"it belongs to {owner}: run this as {owner}" if owner else "run this as who started fastlb"
            return f"no permission to talk to fastlb at {place}; {who}" + (" (sudo)" if owner == "root" else "")
        tried = " and ".join(dict.fromkeys([str(place), *map(str, self._places)]))
        if isinstance(error, FileNotFoundError):
            hint = "--admin ADDRESS or -c FILE say where else"
            return f"no fastlb was found at {tried}; is it running? {hint}"
        if isinstance(error, ConnectionRefusedError):
            return f"nothing answers at {place}: that fastlb has ended, or listens elsewhere (--admin ADDRESS, -c FILE)"
        return f"cannot talk to fastlb at {place}: {(error.strerror or str(error)).lower()}"


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._unix_path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._unix_path)


def _tcp(place: BindAddress, timeout: float) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(place.host, place.port, timeout=timeout)


def _owner(path: str) -> str:
    try:
        return Path(path).owner()
    except (OSError, KeyError):
        return ""


def find(admin: str, config: str | None) -> Client:
    """The fastlb that the options of a command mean.

    Raises:
        FastlbError: the file is wrong, or turns the admin API off.
    """
    if admin:
        try:
            return Client([parse_admin_address(admin)])
        except Rejected as rejected:
            hint = f"; did you mean {rejected.suggestion}?" if rejected.suggestion else ""
            raise click.UsageError(f"--admin {admin}: {rejected.found}; {rejected.right}{hint}") from None
    if config is not None:
        from fastlb.control_plane.config.loader import load_file

        wanted = load_file(config).config.settings.admin
        if wanted.addresses:
            return Client(wanted.addresses)
        if not wanted.usual:
            raise NotReached(f'{config} turns the admin API off (admin = "off" in [global])')
    return Client([BindAddress("", 0, str(path)) for path in usual_sockets()])


def talks_to_fastlb(command: Command) -> Command:
    """The options that every command has which asks a running fastlb: --admin, -c, --json."""
    for decorate in (
        click.option("--json", "as_json", is_flag=True, help="Print what the admin API answered."),
        click.option("-c", "--config", metavar="FILE", help="Of the fastlb that is meant: its `admin` says where it listens."),
        click.option("--admin", metavar="ADDRESS", default="", help='Where its admin API listens: "unix:/path", "127.0.0.1:9090".'),
    ):
        command = decorate(command)
    return command


def end(error: FastlbError, as_json: bool = False) -> NoReturn:
    """Ends the command with what went wrong: 3 when nobody answered, otherwise as `fastlb.cli.fail`. A refusal is an answer:
    with --json it goes to standard output like any other."""
    from fastlb.cli import EXIT_FAILED, fail

    if as_json and isinstance(error, Refused):
        print_json({"errors": str(error).splitlines()})
        sys.exit(EXIT_FAILED)
    if isinstance(error, NotReached):
        click.echo(f"fastlb: {error}", err=True)
        sys.exit(EXIT_NOT_REACHED)
    fail(error)


def print_json(content: Any) -> None:
    click.echo(json.dumps(content, indent=1))
