"""Which certificates a reload would bring, take away or replace: a part of `fastlb plan`.

Certificates are the same by their fingerprints and not by their files. Only what clients see of them is read, and no private key.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from fastlb.control_plane.config.schema import Config
from fastlb.control_plane.plan import NOTHING, Change, Difference
from fastlb.control_plane.tls.certificate import format_time
from fastlb.control_plane.tls.files import TlsError, TlsFiles


@dataclass(frozen=True, slots=True)
class Served:
    """A certificate as clients see it.

    Args:
        file: its path as written.
        fingerprint: SHA-256, in hex; "" where it cannot be read.
        error: why it cannot.
    """

    file: str
    names: tuple[str, ...] = ()
    key_type: str = ""
    issuer: str = ""
    expires: str = ""
    fingerprint: str = ""
    error: str = ""

    def facts(self) -> dict[str, str]:
        """What people want to know of it."""
        if self.error:
            return {"file": self.file, "error": self.error}
        return {"file": self.file, "names": ", ".join(self.names), "key": self.key_type, "issuer": self.issuer, "expires": self.expires}


def read_served(config: Config, base: str) -> list[Served]:
    """Those of a configuration's listeners, as their files are now.

    Args:
        base: where paths begin that do not begin with /.
    """
    listeners = [listener.tls for listener in config.listeners if listener.tls.is_on]
    paths = dict.fromkeys(files.cert for tls in listeners for files in tls.certificates)
    return [_read(TlsFiles(base), path) for path in paths]


def list_served(rows: Iterable[dict[str, Any]]) -> list[Served]:
    """Those that a running fastlb serves from files, as its status has them."""
    return [
        Served(row["file"], tuple(row["names"]), row["key_type"], row["issuer"], row["expires"], row["fingerprint"])
        for row in rows
        if row["listeners"]
    ]


def plan_certificates(before: Iterable[Served], after: Iterable[Served]) -> Iterator[Change]:
    """What changes from one set to the other. One that takes the place of another has its file, or its kind of key and a name of it."""
    was, now = list(before), list(after)
    kept = {one.fingerprint for one in was} & {one.fingerprint for one in now} - {""}
    removed = [one for one in was if one.fingerprint not in kept]
    for one in now:
        if one.fingerprint in kept:
            continue
        other = next((its for its in removed if its.file == one.file), None) or next(
            (its for its in removed if its.key_type == one.key_type and set(its.names) & set(one.names)), None
        )
        if other is None:
            yield Change("certificate", one.file, "added", notes=_tell(one))
        else:
            removed.remove(other)
            if differences := _compare(other.facts(), one.facts()):
                yield Change("certificate", one.file, "changed", differences)
    for one in removed:
        yield Change("certificate", one.file, "removed", notes=_tell(one))


def _tell(one: Served) -> tuple[str, ...]:
    return tuple(f"{key}: {value}" for key, value in one.facts().items() if key != "file")


def _compare(before: dict[str, str], after: dict[str, str]) -> tuple[Difference, ...]:
    keys = dict.fromkeys((*before, *after))
    return tuple(Difference(key, before.get(key, NOTHING), after.get(key, NOTHING)) for key in keys if before.get(key) != after.get(key))


def _read(files: TlsFiles, path: str) -> Served:
    from fastlb.control_plane.tls.certificates import read_leaf  # with cryptography, which takes a tenth of a second

    try:
        leaf = read_leaf(files, path)
    except TlsError as error:
        return Served(path, error=f"{error.finding.found}; {error.finding.right}")
    return Served(path, leaf.names, leaf.key_type, leaf.issuer, format_time(leaf.not_after), leaf.fingerprint)
