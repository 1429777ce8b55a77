"""What the files of TLS held when they were read: certificates with their keys, bundles, keys of tickets.

Read with the privileges that fastlb was started with: at the start, by the loader of a reload, and by one that reads these files alone when
one of them has changed (`reread_material`). It travels to the controller with the configuration. There `settle` decides what is used: one
certificate that is wrong never keeps the others from being served, and where there is an earlier one that was right, it stays.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from fastlb.control_plane.config.errors import ConfigError, Place, Problem
from fastlb.control_plane.config.schema import Config, Listener
from fastlb.control_plane.tls.certificate import Certificate
from fastlb.control_plane.tls.files import Finding, TlsError, TlsFiles, base_of, list_files
from fastlb.control_plane.tls.tickets import read_ticket_keys
from fastlb.control_plane.tls.trial import find_refused, find_refused_block

T = TypeVar("T")
Pair = tuple[str, str]
NO_PLACES: Mapping[str, Place] = {}


@dataclass(frozen=True, slots=True)
class Material:
    """What was read.

    Args:
        files: where.
        certificates: by the paths of certificate and key, as written.
        bundles: authorities and lists of revoked certificates as PEM, by path.
        ticket_keys: of a file, the newest first; () without one.
        failures: what could not be used, by path; of a certificate by that of the certificate and its key.
        findings: what a person should know.
        places: where the configuration names each file.
    """

    files: TlsFiles = field(default_factory=TlsFiles)
    certificates: Mapping[Pair, Certificate] = field(default_factory=dict)
    bundles: Mapping[str, bytes] = field(default_factory=dict)
    ticket_keys: tuple[bytes, ...] = field(default=(), repr=False)
    failures: Mapping[str | Pair, Finding] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    places: Mapping[str, Place] = field(default_factory=dict, compare=False)

    def holds_the_same(self, other: "Material") -> bool:
        """Whether a snapshot of it would serve the same."""
        return (self.certificates, self.bundles, self.ticket_keys) == (other.certificates, other.bundles, other.ticket_keys)


NO_MATERIAL = Material()


def load_material(config: Config, config_path: str, places: Mapping[str, Place] = NO_PLACES) -> Material:
    """Reads what a configuration names. Never raises for what is wrong with it.

    Args:
        config_path: of the file, whose directory its paths begin in; "" for the command line.
        places: where it names each.
    """
    return replace(reread_material(list_files(config, base_of(config_path))), places=places)


def reread_material(files: TlsFiles) -> Material:
    """Reads these files."""
    if not files:
        return Material(files)
    from fastlb.control_plane.tls.certificates import read_authorities, read_certificate, read_crls  # with cryptography

    certificates: dict[Pair, Certificate] = {}
    bundles: dict[str, bytes] = {}
    ticket_keys: list[tuple[bytes, ...]] = []
    failures: dict[str | Pair, Finding] = {}
    findings: list[Finding] = []

    def take(key: str | Pair, read: Callable[[], tuple[T, list[Finding]]]) -> Iterator[T]:
        """The value, unless there is none."""
        try:
            value, found = read()
        except TlsError as error:
            failures[key] = error.finding
        else:
            findings.extend(found)
            yield value

    for pair in files.certificates:
        certificates.update((pair, one) for one in take(pair, partial(read_certificate, files, *pair)))
    for pair in files.shown:
        certificates.update((pair, one) for one in take(pair, partial(read_certificate, files, *pair, is_shown=True)))
    for refused, reason in find_refused(list(certificates.values())):
        pair = refused.cert, refused.key_file
        failures[pair] = Finding(refused.cert, f"OpenSSL does not take this certificate: {reason}", "ask its authority for another one")
        del certificates[pair]
    for name in files.authorities:
        bundles.update((name, pem) for pem in take(name, partial(_read_tried, read_authorities, files, name)))
    whoever = next(iter(bundles.values()), b"")
    for name in files.crls:  # one file may hold both
        read_lists = partial(_read_tried, read_crls, files, name, whoever) if whoever else partial(read_crls, files, name)
        bundles.update((name, bundles.get(name, b"") + pem) for pem in take(name, read_lists))
    if files.ticket_keys:
        ticket_keys.extend(take(files.ticket_keys, partial(read_ticket_keys, files, files.ticket_keys)))
    return Material(files, certificates, bundles, ticket_keys[0] if ticket_keys else (), failures, tuple(findings))


def _read_tried(
    read: Callable[[TlsFiles, str], tuple[bytes, list[Finding]]], files: TlsFiles, name: str, authorities: bytes = b""
) -> tuple[bytes, list[Finding]]:
    """A bundle, if workers will be able to read all of it."""
    bundle, found = read(files, name)
    if refused := find_refused_block(bundle, authorities):
        number, reason = refused
        what = "list of revoked certificates" if authorities else "certificate"
        raise TlsError(name, f"OpenSSL cannot read {what} {number} in it: {reason}", "ask its authority for another one, or remove it")
    return bundle, found


def settle(read: Material, config: Config, last: Material = NO_MATERIAL) -> tuple[Material, list[str]]:
    """What a configuration uses of what was read and, where that cannot be used, of what was in use; and what a person should know.

    Args:
        last: what is in use.

    Raises:
        ConfigError: a listener would have no certificate at all, or would let in clients that it should not.
    """
    certificates, bundles = dict(read.certificates), dict(read.bundles)
    ticket_keys = read.ticket_keys
    warnings = [str(finding) for finding in read.findings]
    fatal: dict[str | Pair, Problem] = {}
    left_out: dict[str | Pair, Problem] = {}
    for key, finding in read.failures.items():
        problem = _place(finding, read.places)
        if isinstance(key, tuple):
            known = last.certificates.get(key) if _is_same_place(read, last, key[0]) else None
            if known is not None:
                certificates[key] = known
            else:
                left_out[key] = problem
        elif key == read.files.ticket_keys:
            if last.ticket_keys and key == last.files.ticket_keys and _is_same_place(read, last, key):
                ticket_keys = last.ticket_keys
            else:
                fatal[key] = problem
        elif key in last.bundles and _is_same_place(read, last, key):
            bundles[key] = last.bundles[key]
        else:
            fatal[key] = problem
        if key not in left_out and key not in fatal:
            warnings.append(f"{problem}; what it held before stays in use")
    for listener in config.listeners:
        if listener.tls.is_on and not listener.tls.acme and not any(files.pair in certificates for files in listener.tls.certificates):
            fatal |= {files.pair: left_out[files.pair] for files in listener.tls.certificates if files.pair in left_out}
    for pool in config.pools:
        if pool.tls.enabled and pool.tls.pair in left_out:
            fatal[pool.tls.pair] = left_out[pool.tls.pair]
    if fatal:
        raise ConfigError(fatal.values())
    warnings += [f"{problem}; it is not served until it is right" for problem in left_out.values()]
    settled = replace(read, certificates=certificates, bundles=bundles, ticket_keys=ticket_keys)
    for listener in config.listeners:
        if listener.tls.is_on:
            warnings += list_overlaps(listener, settled)
    return settled, list(dict.fromkeys(warnings))


def list_served(listener: Listener, material: Material) -> list[tuple[Certificate, tuple[str, ...]]]:
    """The certificates of a listener that can be served, in its order, each with all of its names."""
    served = []
    for files in listener.tls.certificates:
        certificate = material.certificates.get(files.pair)
        if certificate is not None:
            served.append((certificate, tuple(dict.fromkeys((*certificate.names, *files.names)))))
    return served


def list_overlaps(listener: Listener, material: Material) -> list[str]:
    """Names that two certificates of one kind have, and certificates that nobody would be served."""
    warnings = []
    owners: dict[tuple[str, str], Certificate] = {}
    for number, (certificate, names) in enumerate(list_served(listener, material)):
        for name in names:
            first = owners.setdefault((name, certificate.key_type), certificate)
            if first is not certificate:
                found = f'{certificate.cert}: "{name}" is served with {first.cert}, which stands before it at listener "{listener.name}"'
                warnings.append(f"{found}; a name has one certificate of each kind of key ({certificate.key_type} here)")
        if not names and number:
            right = "give it some with names = [...], or leave it out"
            warnings.append(f'{certificate.cert}: listener "{listener.name}" never serves it, as it has no names; {right}')
    return warnings


def _is_same_place(read: Material, last: Material, name: str) -> bool:
    return read.files.resolve(name) == last.files.resolve(name)


def _place(finding: Finding, places: Mapping[str, Place]) -> Problem:
    place = places.get(finding.file, Place(0, 0, finding.file))
    return Problem(place, f"{finding.file}: {finding.found}" if place.line else finding.found, finding.right)
