"""An authority for tests of TLS: certificates of every kind, right and wrong. Keys are made once in a run, as that takes the time."""

import functools
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

CURVES = {"ec": ec.SECP256R1, "ec384": ec.SECP384R1, "ec192": ec.SECP192R1}
DAY = timedelta(days=1)


@functools.cache
def make_key(kind: str = "ec", number: int = 0) -> Any:
    """A key: "ec" (P-256), "ec384", "ec192", "ed25519", or "rsa" and its size; another one for each number."""
    if kind in CURVES:
        return ec.generate_private_key(CURVES[kind]())
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, int(kind.removeprefix("rsa")))


def key_pem(key: Any, password: bytes = b"") -> bytes:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))


@dataclass(frozen=True)
class Issued:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Any

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return key_pem(self.key)

    def write(self, directory: Path, name: str, *chain: "Authority | Issued") -> tuple[Path, Path]:
        """NAME.pem with the certificate and those of `chain`, and NAME.key; each whole, by a rename."""
        cert, key = directory / f"{name}.pem", directory / f"{name}.key"
        put(cert, self.pem + b"".join(one.pem for one in chain))
        put(key, self.key_pem)
        return cert, key


class Authority:
    """Signs certificates; itself signed by another authority, or by itself.

    Args:
        number: authorities of different numbers have different keys.
    """

    def __init__(self, name: str = "tests of fastlb", above: "Authority | None" = None, number: int = 0) -> None:
        self.key = make_key("ec", 1000 + number)
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signer = above or self
        self.certificate = (
            _begin(self.name, signer.name, self.key, -1, 3650)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(signer.key, hashes.SHA256())
        )

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        *names: str,
        kind: str = "ec",
        number: int = 0,
        days: float = 90,
        since: float = -1,
        common_name: str = "",
        usage: Sequence[Any] = (),
        issuer_url: str = "",
        hash_algorithm: Any = None,
        more: Sequence[x509.ExtensionType] = (),
    ) -> Issued:
        """A certificate for these names and addresses.

        Args:
            kind, number: of its key.
            days: until it expires, from now; `since`: from when on it is valid.
            issuer_url: where the authority's own certificate can be had.
        """
        key = make_key(kind, number)
        builder = _begin(_subject(common_name or (names[0] if names else "nobody")), self.name, key, since, days)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_name(name) for name in names]), critical=False)
        if usage:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        if issuer_url:
            access = x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, x509.UniformResourceIdentifier(issuer_url))
            builder = builder.add_extension(x509.AuthorityInformationAccess([access]), critical=False)
        for extension in more:
            builder = builder.add_extension(extension, critical=False)
        return Issued(builder.sign(self.key, hash_algorithm or hashes.SHA256()), key)

    def issue_client(self, name: str, **options: Any) -> Issued:
        """A certificate for a client."""
        return self.issue(common_name=name, usage=[ExtendedKeyUsageOID.CLIENT_AUTH], **options)

    def revoke(self, *revoked: Issued, days: float = 30) -> bytes:
        """The list of what is revoked, as PEM."""
        now = datetime.now(UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.name).last_update(now - 2 * DAY).next_update(now + days * DAY)
        for one in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(one.certificate.serial_number).revocation_date(now - DAY).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def client_context(self, **options: Any) -> ssl.SSLContext:
        """For clients that trust this authority alone."""
        context = ssl.create_default_context(cadata=self.pem.decode())
        for name, value in options.items():
            setattr(context, name, value)
        return context


def put(path: Path, content: bytes) -> None:
    """Writes a file whole, by a rename."""
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(content)
    new.chmod(0o600)
    new.rename(path)


def _begin(subject: x509.Name, issuer: x509.Name, key: Any, since: float, days: float) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    start = min(now + since * DAY, now + days * DAY - DAY)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    return builder.serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(now + days * DAY)


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)
