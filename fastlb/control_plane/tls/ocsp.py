"""OCSP (RFC 6960, in the profile of RFC 5019): what is asked about a certificate, and whether an answer may be stapled.

Knows nothing of time-outs, files or when to ask: that is stapling.py. An answer is believed only if everything about it is right, because
clients would refuse a handshake with a wrong one, and show its user a page that says so.
"""

import base64
import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from fastlb import FastlbError

REQUEST_TYPE = "application/ocsp-request"
# RFC 5019 section 5: up to so many bytes a request is part of the URL, which caches understand.
MAX_GET_BYTES = 255
# Real ones have 300 to 3,000 bytes.
MAX_RESPONSE_BYTES = 1 << 16
# How far a responder's clock may be ahead of ours.
SKEW = datetime.timedelta(minutes=5)
TLS_FEATURE_STATUS_REQUEST = x509.TLSFeatureType.status_request


class OcspError(FastlbError):
    """An answer that cannot be stapled; the text says why."""


class RevokedError(OcspError):
    """A valid answer says that the certificate is revoked."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A certificate that is asked about.

    Args:
        responders: URLs that it names.
        must_staple: it says that clients shall refuse it without a staple (RFC 7633).
    """

    leaf: x509.Certificate
    issuer: x509.Certificate
    responders: tuple[str, ...]
    must_staple: bool

    @property
    def fingerprint(self) -> str:
        return self.leaf.fingerprint(hashes.SHA256()).hex()


@dataclass(frozen=True, slots=True)
class Staple:
    """An answer that has been verified: `der` may be stapled before `next_update`."""

    der: bytes = field(repr=False)
    this_update: datetime.datetime
    next_update: datetime.datetime

    def refresh_at(self) -> datetime.datetime:
        """Half-way through what is left of a response's validity when it is made, so that there is time for many tries."""
        return self.this_update + (self.next_update - self.this_update) / 2


def make_subject(chain: Sequence[x509.Certificate]) -> Subject | None:
    """From a chain, its leaf first; None where its issuer is not in it, and so nothing can be asked."""
    leaf = chain[0]
    issuer = next((one for one in chain[1:] if one.subject == leaf.issuer and _has_signed(one, leaf)), None)
    if issuer is None:
        return None
    return Subject(leaf, issuer, responders_of(leaf), requires_staple(leaf))


def requires_staple(leaf: x509.Certificate) -> bool:
    """Whether clients refuse this certificate without a staple."""
    try:
        return TLS_FEATURE_STATUS_REQUEST in leaf.extensions.get_extension_for_class(x509.TLSFeature).value
    except (x509.ExtensionNotFound, ValueError):
        return False


def make_request(subject: Subject) -> bytes:
    """The DER of the question. SHA-1 names the issuer here, as RFC 5019 wants it; nothing is protected by it."""
    builder = ocsp.OCSPRequestBuilder().add_certificate(subject.leaf, subject.issuer, hashes.SHA1())  # noqa: S303
    return builder.build().public_bytes(Encoding.DER)


def make_question(responder: str, request: bytes) -> tuple[str, bytes]:
    """URL and body; no body: it is a GET."""
    encoded = quote(base64.b64encode(request), safe="")
    if len(encoded) <= MAX_GET_BYTES:
        return f"{responder.rstrip('/')}/{encoded}", b""
    return responder, request


def read_response(der: bytes, subject: Subject, now: datetime.datetime) -> Staple:
    """Verifies an answer.

    Raises:
        RevokedError: the certificate is revoked.
        OcspError: it may not be stapled for another reason.
    """
    try:
        response = ocsp.load_der_ocsp_response(der)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise OcspError(f'the responder says "{response.response_status.name.lower().replace("_", " ")}"')
        answers = list(response.responses)
        _verify_signature(response, subject.issuer, now)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise OcspError(f"it is no OCSP response: {error}") from None
    if len(answers) != 1:
        raise OcspError(f"it speaks of {len(answers)} certificates")
    (answer,) = answers
    if not _is_about(answer, subject):
        raise OcspError("it speaks of another certificate")
    this_update, next_update = answer.this_update_utc, answer.next_update_utc
    if this_update > now + SKEW:
        raise OcspError(f"it holds from {this_update:%Y-%m-%d %H:%M} UTC on, which is in the future: one of the clocks is wrong")
    if next_update is None:
        raise OcspError("it does not say until when it holds")
    if next_update <= now or next_update <= this_update:
        raise OcspError(f"it held until {next_update:%Y-%m-%d %H:%M} UTC")
    if answer.certificate_status is ocsp.OCSPCertStatus.REVOKED:
        since = answer.revocation_time_utc
        reason = f" ({answer.revocation_reason.value})" if answer.revocation_reason is not None else ""
        raise RevokedError(f"the certificate is REVOKED since {since:%Y-%m-%d %H:%M} UTC{reason}")
    if answer.certificate_status is not ocsp.OCSPCertStatus.GOOD:
        raise OcspError("the responder does not know the certificate")
    return Staple(der, this_update, next_update)


def _is_about(answer: ocsp.OCSPSingleResponse, subject: Subject) -> bool:
    """Whether serial number and issuer are those of the certificate, in whatever hash the responder has chosen."""
    asked = ocsp.OCSPRequestBuilder().add_certificate(subject.leaf, subject.issuer, answer.hash_algorithm).build()
    return (answer.serial_number, answer.issuer_name_hash, answer.issuer_key_hash) == (
        asked.serial_number,
        asked.issuer_name_hash,
        asked.issuer_key_hash,
    )


def _verify_signature(response: ocsp.OCSPResponse, issuer: x509.Certificate, now: datetime.datetime) -> None:
    """By the issuer, or by who holds a certificate of the issuer's for this purpose (RFC 6960 section 4.2.2.2)."""
    signer = next((one for one in (issuer, *response.certificates) if _is_responder(response, one)), None)
    if signer is None:
        raise OcspError("its signer is neither the issuer nor one whose certificate it holds")
    if signer != issuer:
        try:
            signer.verify_directly_issued_by(issuer)
            purposes = signer.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            raise OcspError("its signer's certificate is not of the issuer, or not for OCSP") from None
        if ExtendedKeyUsageOID.OCSP_SIGNING not in purposes:
            raise OcspError("its signer's certificate is not for OCSP")
        if not signer.not_valid_before_utc - SKEW <= now <= signer.not_valid_after_utc:
            raise OcspError("its signer's certificate has expired")
    _verify(signer, response)


def _verify(signer: x509.Certificate, response: ocsp.OCSPResponse) -> None:
    key, algorithm = signer.public_key(), response.signature_hash_algorithm
    if isinstance(algorithm, hashes.SHA1 | hashes.MD5):
        raise OcspError(f"it is signed with {algorithm.name.upper()}, which can be forged")
    try:
        if isinstance(key, rsa.RSAPublicKey) and algorithm is not None:
            key.verify(response.signature, response.tbs_response_bytes, padding.PKCS1v15(), algorithm)
        elif isinstance(key, ec.EllipticCurvePublicKey) and algorithm is not None:
            key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(algorithm))
        elif isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
            key.verify(response.signature, response.tbs_response_bytes)
        else:
            raise OcspError("it is signed with a kind of key that is not known here")
    except InvalidSignature:
        raise OcspError("its signature is wrong") from None


def _is_responder(response: ocsp.OCSPResponse, certificate: x509.Certificate) -> bool:
    """Whether the response names this certificate as its signer's."""
    if response.responder_name is not None:
        return response.responder_name == certificate.subject
    return response.responder_key_hash == x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest  # RFC 6960: SHA-1


def _has_signed(issuer: x509.Certificate, leaf: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def responders_of(leaf: x509.Certificate) -> tuple[str, ...]:
    """The URLs of responders that a certificate names."""
    try:
        access = leaf.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    return tuple(
        one.access_location.value
        for one in access
        if one.access_method == AuthorityInformationAccessOID.OCSP and isinstance(one.access_location, x509.UniformResourceIdentifier)
    )
