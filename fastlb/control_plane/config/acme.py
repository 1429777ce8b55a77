"""The `acme` and `ocsp` tables of a listener's `tls`: certificates that are had from a CA, and what is stapled to them."""

import re
from dataclasses import dataclass

from fastlb.control_plane.config.errors import Rejected, describe, quote
from fastlb.control_plane.config.kind import Choice, Flag, ListOf, Text
from fastlb.control_plane.config.option import TextOrTable, option, read_table
from fastlb.control_plane.config.reader import Reader
from fastlb.control_plane.config.route_pattern import ANY_HOST, parse_host
from fastlb.control_plane.config.toml import KeyPath

LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"
HTTP_01 = "http-01"
TLS_ALPN_01 = "tls-alpn-01"
KEY_TYPES = ("ecdsa-p256", "ecdsa-p384", "rsa-2048", "rsa-4096")
# Of one certificate: what Let's Encrypt allows.
MOST_DOMAINS = 100

_URL = r"https?://[A-Za-z0-9._~\[\]:-]+(:[0-9]+)?(/[!-~]*)?"
_EMAIL = r"[^@\s:,<>\"\\]{1,64}@[A-Za-z0-9._-]{1,253}"
_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_BASE64URL = r"[A-Za-z0-9_-]{16,1024}={0,2}"
_HIDDEN = r"hidden [0-9a-f]{16}"  # what config/writer.py has in place of a secret


def parse_directory_url(text: str) -> str:
    """The URL of an ACME directory."""
    if text.startswith("https://") and re.fullmatch(_URL, text):
        return text
    meant = f"https://{text}" if "://" not in text and re.fullmatch(_URL, f"https://{text}") else None
    raise Rejected(f"{quote(text)} is not the URL of a CA's directory", f"it is an https:// URL, such as {quote(LETS_ENCRYPT)}", meant)


def parse_responder(text: str) -> str:
    """The URL of an OCSP responder, or "" for those that certificates name."""
    if not text or (text.startswith("http://") and re.fullmatch(_URL, text)):
        return text
    raise Rejected(
        f"{quote(text)} is not the URL of a responder", "it is an http:// URL: answers are signed, and nothing is secret in them"
    )


def parse_email(text: str) -> str:
    """An address for the CA, or "" for none."""
    if text and not re.fullmatch(_EMAIL, text):
        meant = text.removeprefix("mailto:")
        right = 'it is one address, such as "ops@example.com"'
        raise Rejected(f"{quote(text)} is not an address", right, meant if re.fullmatch(_EMAIL, meant) else None)
    return text


def parse_domain(text: str) -> str:
    """A name that a CA looks at over HTTP or TLS."""
    host = parse_host(text)
    right = 'it is a whole name, such as "shop.example.com"'
    if host == ANY_HOST or host.startswith("*."):
        raise Rejected(f"{quote(text)} is a wildcard", f"CAs issue those for DNS challenges only, which are not in this version; {right}")
    labels = host.split(".")
    if len(labels) < 2 or len(host) > 253 or labels[-1].isdigit() or not all(re.fullmatch(_LABEL, label) for label in labels):
        raise Rejected(f"{quote(text)} is no name that a CA issues for", right)
    return host


def parse_ca_path(text: str) -> str:
    """The path of a PEM file, or "" for none."""
    if "\0" in text or (text and not text.startswith("/")):
        raise Rejected(f"{quote(text)} is not an absolute path", "the controller runs in a directory of its own: begin with /")
    return text


def parse_key_id(text: str) -> str:
    """What a CA calls an account that it has made by itself, or ""."""
    if not text.isascii() or not text.isprintable() or len(text) > 256:
        raise Rejected("this is no key id", "it is a short text that the CA has handed out")
    return text


def parse_hmac_key(text: str) -> str:
    """The key that a CA has handed out with a key id, or "". Messages never repeat it."""
    if text and not re.fullmatch(_BASE64URL, text) and not re.fullmatch(_HIDDEN, text):
        raise Rejected("this is no HMAC key", "it is 16 or more letters, digits, - and _ (base64url), as the CA has handed it out")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class AcmeOptions:
    """One certificate that is had from a CA."""

    domains: tuple[str, ...] = option(
        "domains",
        ListOf(Text("a name", parse_domain, "shop.example.com"), least=1, identity=lambda name: name),
        also_called=("domain", "names", "hosts", "identifiers", "host"),
    )
    email: str = option("email", Text("an address", parse_email, "ops@example.com"), "", ("contact", "account_email", "mail"))
    directory: str = option(
        "directory",
        Text("a URL", parse_directory_url, "https://acme.example.com/directory"),
        LETS_ENCRYPT,
        ("server", "ca_server", "caserver", "directory_url", "url", "uri"),
    )
    challenge: str = option(
        "challenge",
        Choice(
            (HTTP_01, TLS_ALPN_01),
            not_yet=("dns-01",),
            also_called={"http": HTTP_01, "http01": HTTP_01, "tls": TLS_ALPN_01, "alpn": TLS_ALPN_01, "tls-alpn": TLS_ALPN_01},
        ),
        HTTP_01,
        ("challenges", "challenge_type"),
    )
    key_type: str = option(
        "key_type",
        Choice(KEY_TYPES, also_called={"ecdsa": "ecdsa-p256", "ec256": "ecdsa-p256", "ec384": "ecdsa-p384", "rsa": "rsa-2048"}),
        "ecdsa-p256",
        ("keytype", "key"),
    )
    ca: str = option("ca", Text("a path", parse_ca_path, "/etc/fastlb/acme-ca.pem"), "", ("ca_file", "cacertificates", "trusted_roots"))
    eab_key_id: str = option("eab_key_id", Text("a text", parse_key_id, "kid-1"), "", ("eab_kid", "kid", "key_id"))
    eab_hmac: str = option("eab_hmac", Text("a key", parse_hmac_key, "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajV"), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class OcspOptions:
    """Whether OCSP responses are stapled."""

    staple: bool = option("staple", Flag(), True, ("enabled", "on", "ssl_stapling", "stapling"))
    responder: str = option(
        "responder", Text("a URL", parse_responder, "http://ocsp.example.com"), "", ("ssl_stapling_responder", "url", "uri")
    )


class FlagOrTable(TextOrTable[OcspOptions]):
    """A table, or a flag that is short for a table with nothing but this key."""

    def read(self, written: object, path: KeyPath, reader: Reader) -> OcspOptions | None:
        if isinstance(written, bool):
            return read_table(self.cls, {self.key: written}, path, reader)
        if isinstance(written, dict):
            return read_table(self.cls, written, path, reader)
        reader.reject(path, f"found {describe(written)}", f"{path[-1]} is true, false or a table: {{ responder = … }}")
        return None


def check_acme(reader: Reader, has_plain_listener: bool) -> None:
    """What the acme tables of all listeners say together."""
    owners: dict[str, KeyPath] = {}
    for path, acme in reader.all_read(AcmeOptions):
        if len(acme.domains) > MOST_DOMAINS:
            reader.reject((*path, "domains"), f"found {len(acme.domains)} names", f"at most {MOST_DOMAINS} in one certificate")
        if bool(acme.eab_key_id) != bool(acme.eab_hmac):
            missing = "eab_hmac" if acme.eab_key_id else "eab_key_id"
            reader.reject_key(path, f"{missing} is missing", "a CA hands out both of them")
        if acme.challenge == HTTP_01 and not has_plain_listener and reader.source.complete:
            right = 'add one with bind = ":80" and without tls, or choose challenge = "tls-alpn-01"'
            reader.reject_key((*path, "challenge"), "http-01 is looked at over plain HTTP, which no listener speaks", right)
        for domain in acme.domains:
            first = owners.setdefault(domain, path)
            if first[:2] == path[:2] and first != path:
                reader.reject(
                    (*path, "domains"), f"{quote(domain)} is in another certificate of this listener", "one is enough: remove it from one"
                )
