"""A certificate that can be served, as those know it who do not read the file: the controller may not be able to import cryptography."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from fastlb.control_plane.tls.files import Finding

EXPIRES_SOON_SECONDS = 14 * 86400


@dataclass(frozen=True, slots=True)
class Certificate:
    """What can be served.

    Args:
        cert, key_file: the files, as written.
        chain: PEM, the leaf first.
        key: PEM (PKCS#8).
        names: that it is for, in lower case.
        key_type: "RSA", "ECDSA" or "EdDSA": a name may have one of each.
        not_before, not_after: seconds since 1970.
        fingerprint: SHA-256 of the leaf, in hex.
        issuer: of the leaf, for people.
        responders: URLs of who says whether it is revoked (OCSP).
        must_staple: clients may refuse it where that is not stapled.
    """

    cert: str
    key_file: str
    chain: bytes
    key: bytes = field(repr=False)
    names: tuple[str, ...]
    key_type: str
    not_before: int
    not_after: int
    fingerprint: str
    issuer: str
    responders: tuple[str, ...] = ()
    must_staple: bool = False

    def seconds_left(self, now: float) -> int:
        """Until it expires; below 0 once it has."""
        return int(self.not_after - now)


def look_at_dates(certificate: Certificate, now: float) -> Iterator[Finding]:
    """Whether clients accept it today, and in two weeks."""
    left = certificate.seconds_left(now)
    if certificate.not_before > now:
        at = format_time(certificate.not_before)
        yield Finding(certificate.cert, f"the certificate is not valid before {at}", "clients refuse it until then; is the clock right?")
    elif left < 0:
        yield Finding(
            certificate.cert, f"the certificate has expired, at {format_time(certificate.not_after)}", "clients refuse it: renew it"
        )
    elif left < EXPIRES_SOON_SECONDS:
        days = left // 86400
        when = f"in {days} day{'' if days == 1 else 's'}" if days else "today"
        yield Finding(certificate.cert, f"the certificate expires {when}, at {format_time(certificate.not_after)}", "renew it")


def format_time(seconds: int) -> str:
    """A moment as people and logs have it, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
