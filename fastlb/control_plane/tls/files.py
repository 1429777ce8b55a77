"""Which files the TLS of a configuration names, and reading one: bounded, and never waiting for a FIFO."""

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fastlb import FastlbError
from fastlb.control_plane.config.schema import Config

# The data plane's MAX_TLS_TEXT_BYTES. A chain of ten certificates has 20 KB; a bundle of every public authority 250.
MAX_FILE_BYTES = 1 << 20


class Finding(NamedTuple):
    """What is wrong with a file, or may be: its path as written, what was found there, what would be right."""

    file: str
    found: str
    right: str

    def __str__(self) -> str:
        return f"{self.file}: {self.found}; {self.right}"


class TlsError(FastlbError):
    """A file of TLS that cannot be used."""

    def __init__(self, file: str, found: str, right: str) -> None:
        self.finding = Finding(file, found, right)
        super().__init__(str(self.finding))


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What is to be read for a configuration; paths as they were written.

    Args:
        base: where paths begin that do not begin with /.
        certificates: the files of certificate and key, which may be one.
        authorities: bundles of certificates that sign others.
        crls: lists of revoked certificates.
        ticket_keys: "" where there is no such file.
        shown: certificates and keys that we show to backends.
    """

    base: str = ""
    certificates: tuple[tuple[str, str], ...] = ()
    authorities: tuple[str, ...] = ()
    crls: tuple[str, ...] = ()
    ticket_keys: str = ""
    shown: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.certificates or self.shown or self.authorities or self.crls or self.ticket_keys)

    def paths(self) -> list[str]:
        """Where they all are, each once."""
        pairs = (name for pair in (*self.certificates, *self.shown) for name in pair)
        named = (*pairs, *self.authorities, *self.crls, *([self.ticket_keys] if self.ticket_keys else []))
        return list(dict.fromkeys(str(self.resolve(name)) for name in named))

    def resolve(self, name: str) -> Path:
        """A path from here on the same, whatever the working directory is."""
        return Path(self.base, name)


NO_FILES = TlsFiles()


def base_of(config_path: str) -> str:
    """The directory that the paths of a configuration file begin in; that of this process for the command line (`config_path` is "")."""
    return str(Path(config_path).absolute().parent) if config_path else str(Path.cwd())


def list_files(config: Config, base: str) -> TlsFiles:
    """What a configuration names."""
    listeners = [listener.tls for listener in config.listeners if listener.tls.is_on]
    clients = [tls.client_certificates for tls in listeners]
    backends = [pool.tls for pool in config.pools if pool.tls.enabled]
    served = [files.pair for tls in listeners for files in tls.certificates]
    return TlsFiles(
        base,
        tuple(dict.fromkeys(served)),
        _unique((*(one.ca for one in clients), *(one.ca for one in backends))),
        _unique(one.crl for one in clients),
        config.settings.ticket_key_file if listeners else "",
        tuple(dict.fromkeys(one.pair for one in backends if one.cert and one.pair not in served)),
    )


def read_file(files: TlsFiles, name: str) -> tuple[bytes, os.stat_result]:
    """The content of a file, and what the system says of it.

    Raises:
        TlsError: it cannot be read, or is none that anybody meant.
    """
    try:
        descriptor = os.open(files.resolve(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise TlsError(name, "this is not a file", "give the path of a PEM file")
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise TlsError(name, f"cannot be read: {(error.strerror or str(error)).lower()}", "give the path of a PEM file") from error
    if len(content) > MAX_FILE_BYTES:
        raise TlsError(name, "the file is too large", f"at most {MAX_FILE_BYTES >> 20} MiB")
    return content, status


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in dict.fromkeys(names) if name)
