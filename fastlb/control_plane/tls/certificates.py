"""Reads a certificate with its chain and key, and looks at everything that would keep clients from accepting it.

What makes it unusable is a TlsError; what a person should know is a Finding. `cryptography` is imported here, and this module only where
TLS is used: it takes a tenth of a second.
"""

import re
import stat
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from fastlb.control_plane.tls.certificate import Certificate, look_at_dates
from fastlb.control_plane.tls.files import Finding, TlsError, TlsFiles, read_file
from fastlb.control_plane.tls.ocsp import requires_staple, responders_of

# OpenSSL's security level 2, the default of distributions, refuses shorter ones, and so does every browser.
LEAST_RSA_BITS = 2048
CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
WEAK_HASHES = ("md5", "sha1")
# Handshakes beyond are refused by clients (OpenSSL takes 100 KB of chain), and no authority has longer ones.
MOST_IN_CHAIN = 10

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----.*?-----END \1-----", re.DOTALL)
_BOUNDARY = re.compile(rb"^-----", re.MULTILINE)
_CERTIFICATE_LABELS = (b"CERTIFICATE", b"X509 CERTIFICATE")
_KEY_LABELS = (b"PRIVATE KEY", b"RSA PRIVATE KEY", b"EC PRIVATE KEY", b"ENCRYPTED PRIVATE KEY", b"DSA PRIVATE KEY")
_NAME = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey


def read_certificate(
    files: TlsFiles, cert: str, key_file: str, now: float | None = None, is_shown: bool = False
) -> tuple[Certificate, list[Finding]]:
    """A certificate that can be served, and what is odd about it.

    Args:
        is_shown: we show it to backends, and serve it to nobody.

    Raises:
        TlsError: it cannot be.
    """
    now = time.time() if now is None else now
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of cryptography, about what old authorities wrote
        found: list[Finding] = []
        content, status = read_file(files, cert)
        key_content, key_status = (content, status) if key_file == cert else read_file(files, key_file)
        key = _read_key(key_content, key_file)
        if key_status.st_mode & (stat.S_IRWXO | stat.S_IWGRP):
            found.append(Finding(key_file, "this private key can be read or written by others", f"chmod 600 {key_file}"))
        certificates = _read_certificates(content, cert)
        try:
            chain, odd = _order_chain(certificates, key, cert, key_file)
            leaf = chain[0]
            _refuse_weak(chain, cert)
            names, odd_names = ((), []) if is_shown else _read_names(leaf, cert)
            found += [*odd, *odd_names, *(() if is_shown else _look_at_purpose(leaf, cert)), *_look_at_chain(chain, cert)]
        except (ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound) as error:
            raise TlsError(cert, f"this certificate cannot be understood: {error}", "ask its authority for another one") from error
    not_before, not_after = (int(at.timestamp()) for at in (leaf.not_valid_before_utc, leaf.not_valid_after_utc))
    key_type = "RSA" if isinstance(key, rsa.RSAPrivateKey) else "ECDSA" if isinstance(key, ec.EllipticCurvePrivateKey) else "EdDSA"
    if key_type == "EdDSA":
        found.append(Finding(cert, "no browser takes an EdDSA key", "add a certificate with an ECDSA P-256 key for the same names"))
    pem = serialization.Encoding.PEM
    certificate = Certificate(
        cert,
        key_file,
        b"".join(one.public_bytes(pem) for one in chain),
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        names,
        key_type,
        not_before,
        not_after,
        leaf.fingerprint(hashes.SHA256()).hex(),
        _describe_name(leaf.issuer),
        responders_of(leaf),
        requires_staple(leaf),
    )
    return certificate, [*found, *look_at_dates(certificate, now)]


class Leaf(NamedTuple):
    """What clients see of a certificate, as `Certificate` has it."""

    names: tuple[str, ...]
    key_type: str
    not_after: int
    fingerprint: str
    issuer: str


def read_leaf(files: TlsFiles, cert: str) -> Leaf:
    """Of the file's certificates the one that has signed none of the others, without its key.

    Raises:
        TlsError: there is none in it, or it cannot be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as read_certificate
        content, _ = read_file(files, cert)
        certificates = _read_certificates(content, cert)
        signers = [one.issuer for one in certificates if one.issuer != one.subject]
        leaf = next((one for one in certificates if one.subject not in signers), certificates[0])
        try:
            names, _ = _read_names(leaf, cert)
            key = leaf.public_key()
            key_type = "RSA" if isinstance(key, rsa.RSAPublicKey) else "ECDSA" if isinstance(key, ec.EllipticCurvePublicKey) else "EdDSA"
            not_after = int(leaf.not_valid_after_utc.timestamp())
            return Leaf(names, key_type, not_after, leaf.fingerprint(hashes.SHA256()).hex(), _describe_name(leaf.issuer))
        except (ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound) as error:
            raise TlsError(cert, f"this certificate cannot be understood: {error}", "ask its authority for another one") from error


def read_authorities(files: TlsFiles, name: str, now: float | None = None) -> tuple[bytes, list[Finding]]:
    """A bundle of certificates that sign others, as PEM, and what is odd about it.

    Raises:
        TlsError: there is none in it, or one cannot be read.
    """
    now = time.time() if now is None else now
    content, _ = read_file(files, name)
    certificates = _read_certificates(content, name)
    found = []
    for one in certificates:
        title = _describe_name(one.subject)
        try:
            signs = one.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        except x509.ExtensionNotFound:
            signs = False
        except ValueError as error:
            raise TlsError(name, f"{title} cannot be understood: {error}", "remove it from the file") from error
        if not signs and one.issuer != one.subject:
            found.append(Finding(name, f"{title} is no certificate of an authority", "nothing that it has signed is accepted"))
        if one.not_valid_after_utc.timestamp() < now:
            found.append(Finding(name, f"{title} has expired", "what it has signed is refused"))
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates), found


def read_crls(files: TlsFiles, name: str, now: float | None = None) -> tuple[bytes, list[Finding]]:
    """Lists of revoked certificates, as PEM, and what is odd about them.

    Raises:
        TlsError: there is none in the file, or one cannot be read.
    """
    now = time.time() if now is None else now
    content, _ = read_file(files, name)
    try:
        if content.startswith(b"\x30"):
            lists = [x509.load_der_x509_crl(content)]
        else:
            lists = [x509.load_pem_x509_crl(block) for label, block in _find_blocks(content, name) if label == b"X509 CRL"]
    except ValueError as error:
        raise TlsError(name, "this list of revoked certificates cannot be read", "ask its authority for another one") from error
    if not lists:
        raise TlsError(name, "there is no list of revoked certificates in it", 'it is PEM, with "-----BEGIN X509 CRL-----"')
    found = []
    for one in lists:
        next_update = one.next_update_utc
        if next_update is not None and next_update.timestamp() < now:
            right = "OpenSSL refuses every client of this authority until there is a newer one"
            found.append(Finding(name, f"the list of {_describe_name(one.issuer)} has expired", right))
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in lists), found


# ---------------------------------------------------------------------------------------------------- PEM
def _find_blocks(content: bytes, name: str) -> list[tuple[bytes, bytes]]:
    """The blocks of a PEM file, each with its label."""
    blocks = [(found[1], found[0]) for found in _BLOCK.finditer(content)]
    if len(_BOUNDARY.findall(content)) != 2 * len(blocks):
        raise TlsError(name, "a block of the file has no end", 'it is PEM: each "-----BEGIN …-----" has its "-----END …-----"')
    return blocks


def _read_certificates(content: bytes, name: str) -> list[x509.Certificate]:
    blocks = [block for label, block in _find_blocks(content, name) if label in _CERTIFICATE_LABELS]
    if not blocks:
        raise TlsError(name, "there is no certificate in it", _say_what_is_right(content, name, "certificate"))
    certificates = []
    for number, block in enumerate(blocks, 1):
        try:
            certificates.append(x509.load_pem_x509_certificate(block.replace(b"X509 CERTIFICATE", b"CERTIFICATE")))
        except ValueError as error:
            which = f"certificate {number} of {len(blocks)}" if len(blocks) > 1 else "the certificate"
            raise TlsError(name, f"{which} cannot be read", "its text is damaged: copy the file again") from error
    return certificates


def _read_key(content: bytes, name: str) -> PrivateKey:
    blocks = [(label, block) for label, block in _find_blocks(content, name) if label in _KEY_LABELS]
    if not blocks:
        raise TlsError(name, "there is no private key in it", _say_what_is_right(content, name, "key"))
    if len(blocks) > 1:
        raise TlsError(name, f"there are {len(blocks)} private keys in it", "a certificate has one: put the others into files of their own")
    label, block = blocks[0]
    if label == b"ENCRYPTED PRIVATE KEY" or b"Proc-Type: 4,ENCRYPTED" in block:
        right = f"nobody is there to type the password: openssl pkey -in {name} -out {name}.plain, and chmod 600 that"
        raise TlsError(name, "the private key is encrypted", right)
    try:
        key = serialization.load_pem_private_key(block, None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise TlsError(name, "the private key cannot be read", "its text is damaged, or its algorithm is none that TLS uses") from error
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey):
        raise TlsError(name, "TLS has no use for a key of this kind", "make an ECDSA key (P-256) or an RSA key of 2048 bits or more")
    return key


def _say_what_is_right(content: bytes, name: str, what: str) -> str:
    """How to make PEM of what it seems to be."""
    if content.startswith(b"\x30"):
        if name.endswith((".p12", ".pfx")):
            return f"this looks like PKCS#12: openssl pkcs12 -in {name} -nodes -out shop.pem"
        command = "x509" if what == "certificate" else "pkey"
        return f"this looks like DER: openssl {command} -inform der -in {name} -out {name}.pem"
    label = "CERTIFICATE" if what == "certificate" else "PRIVATE KEY"
    return f'it is PEM, with "-----BEGIN {label}-----"' + ("; key = names the file that has it" if what == "key" else "")


# ---------------------------------------------------------------------------------------------------- checks
def _order_chain(
    certificates: Sequence[x509.Certificate], key: PrivateKey, cert: str, key_file: str
) -> tuple[list[x509.Certificate], list[Finding]]:
    """The leaf, which is the one that the key belongs to, and who signed whom."""
    wanted = _public_bytes(key.public_key())
    leaf = next((one for one in certificates if _public_bytes(one.public_key()) == wanted), None)
    if leaf is None:
        where = "the private key in it" if key_file == cert else f"the private key {key_file}"
        raise TlsError(
            cert, f"{where} does not belong to the certificate", "each certificate has its own key: give the one it was made with"
        )
    chain, rest = [leaf], [one for one in certificates if one is not leaf]
    while not _is_self_signed(chain[-1]) and len(chain) < MOST_IN_CHAIN:
        issuer = next((one for one in rest if _has_signed(one, chain[-1])), None)
        if issuer is None:
            break
        chain.append(issuer)
        rest.remove(issuer)
    found = []
    if rest:
        titles = ", ".join(_describe_name(one.subject) for one in rest[:3])
        found.append(Finding(cert, f"it holds certificates that have not signed this one ({titles})", "they are not sent; remove them"))
    if chain != [one for one in certificates if one in chain]:
        found.append(Finding(cert, "its certificates are not in order", "sent are the leaf first, then who signed it, and so on"))
    return chain, found


def _refuse_weak(chain: Sequence[x509.Certificate], cert: str) -> None:
    """What OpenSSL and browsers refuse: one of these would keep a worker from taking the whole snapshot."""
    for number, one in enumerate(chain):
        title = "the certificate" if number == 0 else f"the certificate of {_describe_name(one.subject)}"
        public = one.public_key()
        if isinstance(public, rsa.RSAPublicKey) and public.key_size < LEAST_RSA_BITS:
            raise TlsError(cert, f"{title} has an RSA key of {public.key_size} bits", f"clients refuse less than {LEAST_RSA_BITS}")
        if isinstance(public, ec.EllipticCurvePublicKey) and public.curve.name not in CURVES:
            raise TlsError(cert, f"{title} has an ECDSA key on the curve {public.curve.name}", "browsers take P-256 and P-384")
        algorithm = one.signature_hash_algorithm
        if algorithm is not None and algorithm.name in WEAK_HASHES and not _is_self_signed(one):
            raise TlsError(cert, f"{title} is signed with {algorithm.name.upper()}", "clients refuse that: it has to be SHA-256 or better")


def _read_names(leaf: x509.Certificate, cert: str) -> tuple[tuple[str, ...], list[Finding]]:
    try:
        alternative = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        right = "browsers look at nothing else: have it made anew, with its names there"
        return (), [Finding(cert, "the certificate has no subjectAltName", right)]
    names, found = [], []
    for name in alternative.get_values_for_type(x509.DNSName):
        lower = name.lower().removesuffix(".")
        if _NAME.fullmatch(lower) and len(lower) <= 253:
            names.append(lower)
        else:
            right = 'a wildcard is the whole first part, "*.example.com"' if "*" in name else "it is no name of a host"
            found.append(Finding(cert, f'the name "{_printable(name)}" of the certificate is not served', right))
    return tuple(dict.fromkeys(names)), found


def _look_at_purpose(leaf: x509.Certificate, cert: str) -> Iterator[Finding]:
    try:
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(usage):
        yield Finding(cert, "the certificate is not for servers (extendedKeyUsage)", "clients refuse it: have one made for serverAuth")


def _look_at_chain(chain: Sequence[x509.Certificate], cert: str) -> Iterator[Finding]:
    """A leaf alone whose authority publishes its own certificate was signed by an intermediate one, which has to be sent."""
    if len(chain) > 1 or _is_self_signed(chain[0]):
        return
    try:
        access = chain[0].extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except x509.ExtensionNotFound:
        return
    if any(one.access_method == AuthorityInformationAccessOID.CA_ISSUERS for one in access):
        right = f"append that of {_describe_name(chain[0].issuer)}: clients that do not have it refuse the certificate"
        yield Finding(cert, "the certificate of the authority that signed it is missing", right)


def _has_signed(issuer: x509.Certificate, one: x509.Certificate) -> bool:
    if issuer.subject != one.issuer:
        return False
    try:
        one.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def _is_self_signed(one: x509.Certificate) -> bool:
    return one.issuer == one.subject


def _public_bytes(public: object) -> bytes:
    assert hasattr(public, "public_bytes")
    encoded: bytes = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return encoded


def _describe_name(name: x509.Name) -> str:
    """What people call it: its common name, else all of it."""
    common: Iterable[str | bytes] = (one.value for one in name.get_attributes_for_oid(x509.NameOID.COMMON_NAME))
    text = next((value for value in common if isinstance(value, str)), "") or name.rfc4514_string() or "somebody without a name"
    return _printable(text)


def _printable(text: str) -> str:
    """Cut when long, nothing in it that a terminal would obey: whoever made a certificate may have written anything there."""
    cut = text if len(text) <= 80 else text[:79] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in cut)
