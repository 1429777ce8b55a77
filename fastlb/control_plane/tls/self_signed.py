"""Keys, and certificates that nobody else has signed: what is served until a CA has answered, and what a CA looks for (RFC 8737)."""

import datetime
import hashlib
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

# RFC 8737 section 3: id-pe-acmeIdentifier, the SHA-256 of the key authorization in an OCTET STRING.
ACME_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")
VALID_DAYS = 90

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def make_key(key_type: str) -> Key:
    """A new private key of one of `config.acme.KEY_TYPES`."""
    kind, _, size = key_type.partition("-")
    if kind == "rsa":
        return rsa.generate_private_key(65537, int(size))
    return ec.generate_private_key(ec.SECP384R1() if size == "p384" else ec.SECP256R1())


def write_key(key: Key) -> bytes:
    """PEM, PKCS #8."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def make_request(key: Key, domains: Sequence[str]) -> bytes:
    """The PEM of a request for a certificate. Its subject is empty: CAs take the names from subjectAltName."""
    names = x509.SubjectAlternativeName([x509.DNSName(domain) for domain in domains])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def make_placeholder(key: Key, domains: Sequence[str]) -> bytes:
    """The PEM of a certificate that no client trusts, so that there is one."""
    return _sign(key, domains).public_bytes(Encoding.PEM)


def make_challenge_certificate(key: Key, domain: str, key_authorization: str) -> bytes:
    """The PEM of what a CA looks for with TLS-ALPN-01."""
    digest = hashlib.sha256(key_authorization.encode()).digest()
    extension = x509.UnrecognizedExtension(ACME_IDENTIFIER, b"\x04\x20" + digest)
    return _sign(key, [domain], extension).public_bytes(Encoding.PEM)


def _sign(key: Key, domains: Sequence[str], critical: x509.ExtensionType | None = None) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fastlb, until there is a certificate")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(domain) for domain in domains]), critical=False)
    )
    if critical is not None:
        builder = builder.add_extension(critical, critical=True)
    return builder.sign(key, hashes.SHA256())
