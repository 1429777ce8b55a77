"""`fastlb serve --workers N --user NAME:GROUP --admin ADDRESS`: values of [global] that the command line knows better than the file.

They are read by the kinds of the schema, as a source of their own, so every rule of the file holds here too and errors name the argument.
"""

from dataclasses import replace
from typing import Any

from fastlb.control_plane.config.errors import ConfigError, Place
from fastlb.control_plane.config.loader import Loaded
from fastlb.control_plane.config.option import read_table
from fastlb.control_plane.config.reader import Reader
from fastlb.control_plane.config.schema import Config
from fastlb.control_plane.config.toml import KeyPath


class Overrides:
    """A part of a configuration: [global] alone, of what the arguments say.

    Args:
        workers: a number or "auto"; "" for what the file says.
        user: "NAME" or "NAME:GROUP"; "" for what the file says.
        admin: an address, "auto" or "off"; "" for what the file says.
    """

    complete = False

    def __init__(self, workers: str = "", user: str = "", admin: str = "") -> None:
        self._shown: dict[KeyPath, str] = {}
        settings: dict[str, Any] = {}
        if workers:
            self._shown["global", "workers"] = f"--workers {workers}"
            settings["workers"] = int(workers) if workers.isascii() and workers.isdigit() and len(workers) < 10 else workers
        if user:
            self._shown["global", "user"] = self._shown["global", "group"] = f"--user {user}"
            # The group of the file belongs to the user of the file.
            settings["user"], _, settings["group"] = user.partition(":")
        if admin:
            self._shown["global", "admin"] = f"--admin {admin}"
            settings["admin"] = admin
        self.values: dict[str, Any] = {"global": settings}

    def value_place(self, path: KeyPath) -> Place:
        """The argument that this path comes from."""
        return Place(0, list(self._shown).index(path), self._shown[path])

    key_place = value_place


def override(loaded: Loaded, workers: str = "", user: str = "", admin: str = "") -> Loaded:
    """The configuration with the values of the command line in place of its own.

    Args:
        workers: of `--workers`, "" without it.
        user: of `--user`, "" without it.
        admin: of `--admin`, "" without it.

    Raises:
        ConfigError: one of them cannot be what it has to be.
    """
    source = Overrides(workers, user, admin)
    reader = Reader(source, Config)
    read = read_table(Config, source.values, (), reader)
    if reader.problems or read is None:
        raise ConfigError(reader.problems)
    given = {key: getattr(read.settings, key) for key in source.values["global"]}  # keys and fields have the same names here
    return replace(loaded, config=replace(loaded.config, settings=replace(loaded.config.settings, **given)), overridden=tuple(given))
