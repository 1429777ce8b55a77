"""Reading the configuration again for a reload, and what of it can be used only by the next start.

It happens in a process of its own, the loader (processes/loader.py), with the privileges that fastlb was started with: the file and the
keys that it names may be root's alone. What comes of it travels to the controller in a memfd, pickled: the loader has more privileges than
the controller, which may trust it; the supervisor passes the descriptor on and never looks inside.
"""

import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from fastlb import FastlbError
from fastlb.control_plane.config.errors import ConfigError
from fastlb.control_plane.config.loader import Loaded, load_file
from fastlb.control_plane.config.schema import Config, GlobalSettings
from fastlb.control_plane.health.authorities import read_authorities
from fastlb.control_plane.sticky_key import StickyKey, load_sticky_key
from fastlb.control_plane.tls.automation import wants_state
from fastlb.control_plane.tls.files import TlsFiles
from fastlb.control_plane.tls.material import NO_MATERIAL, Material, load_material, reread_material
from fastlb.control_plane.tls.state_files import make_state_directory

# What is decided before the first fork: key and field have the same names here.
READ_ONCE = ("user", "group", "pid_file", "max_descriptors", "admin")


@dataclass(frozen=True, slots=True)
class Reading:
    """A configuration and the keys that it names; or, where `config` is None, why there is none.

    Args:
        tls: what the files hold that the configuration names for TLS. Without a configuration and without errors: these files alone have
            been read again, for the configuration in force.
        errors: as `fastlb check` writes them.
        frozen: the pickle of `config` once it has travelled: thousands of routes take a while, and the next controller gets the same.
    """

    config: Config | None = None
    sticky_key: StickyKey | None = None
    warnings: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    frozen: bytes = b""
    tls: Material = NO_MATERIAL

    @property
    def is_renewal(self) -> bool:
        return self.config is None and not self.errors


def read_again(path: str, override: Callable[[Loaded], Loaded], account: tuple[int, int] | None = None) -> Reading:
    """Reads a configuration file with what belongs to it, as a start would. Never raises for what is wrong with them.

    Args:
        override: puts in what the command line said.
        account: user and group of the controller, where they are not those of this process.
    """
    try:
        loaded = override(load_file(path))
        config = read_authorities(loaded.config)
        sticky_key, warnings = load_sticky_key(config)
        tls = load_material(config, path, loaded.places)
        if wants_state(config, tls):
            warnings += make_state_directory(config.settings, account)
    except ConfigError as error:
        return Reading(errors=tuple(error.lines()))
    except FastlbError as error:
        return Reading(errors=tuple(str(error).splitlines()))
    return Reading(config, sticky_key=sticky_key, warnings=(*map(str, loaded.warnings), *warnings), tls=tls)


def read_tls_again(files: TlsFiles) -> Reading:
    """Reads the files of TLS alone."""
    return Reading(tls=reread_material(files))


def write_reading(reading: Reading) -> int:
    """A memfd that holds it; the caller closes it."""
    descriptor = os.memfd_create("fastlb-reading", os.MFD_CLOEXEC)
    frozen = pickle.dumps(reading.config) if reading.config is not None else b""
    view = memoryview(pickle.dumps(replace(reading, config=None, frozen=frozen)))
    while view:
        view = view[os.write(descriptor, view) :]
    return descriptor


def take_reading(descriptor: int) -> Reading:
    """What a loader left; closes the descriptor."""
    try:
        reading = pickle.loads(os.pread(descriptor, os.fstat(descriptor).st_size, 0))  # noqa: S301  the loader has more privileges than we
    finally:
        os.close(descriptor)
    assert isinstance(reading, Reading)
    return replace(reading, config=pickle.loads(reading.frozen)) if reading.frozen else reading  # noqa: S301  as above


def warn_of_settings_that_stay(started: GlobalSettings, wanted: GlobalSettings) -> Iterator[str]:
    """What a reload cannot change, for settings that differ from those of the start."""
    for name in READ_ONCE:
        before, after = getattr(started, name), getattr(wanted, name)
        if before != after:
            yield f"{name} is read once, at the start: it stays {_show(before)} until fastlb is started again with {_show(after)}"
    before, after = started.max_connections, wanted.max_connections
    if needs_more_room(before, after):
        yield f"max_connections can only be lowered while fastlb runs: the workers have room for {before}; a start makes it {_show(after)}"


def needs_more_room(before: int, after: int) -> bool:
    """Whether `max_connections` is raised, which workers that run cannot do; 0 is as many as descriptors allow."""
    return before > 0 and (after == 0 or after > before)


def _show(value: object) -> str:
    return str(value) if isinstance(value, int) else f'"{value}"'
