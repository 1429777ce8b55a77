"""What a CA looks for to know that a name is ours: a file over HTTP, or a certificate of a special kind (RFC 8555 section 8, RFC 8737)."""

from dataclasses import dataclass, field

WELL_KNOWN = "/.well-known/acme-challenge/"


@dataclass(frozen=True, slots=True)
class Challenge:
    """One name that a CA is about to look at.

    Args:
        kind: HTTP_01 or TLS_ALPN_01.
        answer: what is answered under WELL_KNOWN and the token.
        chain, key: PEM, of the certificate that is shown to who asks for the protocol `acme-tls/1`.
    """

    kind: str
    domain: str
    token: str
    answer: str = ""
    chain: bytes = b""
    key: bytes = field(default=b"", repr=False)
