"""Certificates for tests that need them as bytes: some that signed themselves, and an authority that signs and revokes."""

import datetime
import ipaddress
from collections.abc import Sequence
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID


@cache
def private_key(kind: str) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048) if kind == "rsa" else ec.generate_private_key(ec.SECP256R1())


@cache
def issue(*names: str, kind: str = "ecdsa", serial: int = 7) -> tuple[bytes, bytes]:
    """A certificate for these names that signed itself, and its key: PEM."""
    key = private_key(kind)
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .public_key(key.public_key())
        .serial_number(serial)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(serialization.Encoding.PEM), private


class Authority:
    """Who signs certificates of others."""

    def __init__(self, name: str = "authority.example") -> None:
        self.key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.now = datetime.datetime.now(datetime.UTC)
        self.pem = self._sign(self.name, self.key.public_key(), 1, [x509.BasicConstraints(ca=True, path_length=0)])

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        serial: int,
        extensions: Sequence[x509.ExtensionType],
        seconds: int = 30 * 86400,
    ) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .not_valid_before(self.now - datetime.timedelta(days=1))
            .not_valid_after(datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds))
            .public_key(key)
            .serial_number(serial)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def issue(
        self, name: str, *, serial: int = 7, addresses: Sequence[str] = (), named: bool = True, seconds: int = 30 * 86400
    ) -> tuple[bytes, bytes]:
        """A certificate for this name and these addresses, and its key: PEM. Without `named` its subject alone says the name."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName(name), *(x509.IPAddress(ipaddress.ip_address(address)) for address in addresses)]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "A, B\r\nX: y")])
        chain = self._sign(subject, key.public_key(), serial, [x509.SubjectAlternativeName(names)] if named else [], seconds)
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return chain, private

    def revoke(self, *serials: int) -> bytes:
        """The list of what is revoked: PEM."""
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.name).last_update(self.now)
        builder = builder.next_update(self.now + datetime.timedelta(days=1))
        for serial in serials:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(self.now).build()
            )
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
