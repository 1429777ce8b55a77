"""The `tls` tables of listeners and pools. Whether the files that they name can be used is looked at when they are read (tls/).

Also what goes with it at a listener: HSTS.
"""
# ruff: noqa: RUF009  option() and table() declare fields, as dataclasses.field() does

import re
from dataclasses import dataclass

from fastlb.control_plane.config.acme import AcmeOptions, FlagOrTable, OcspOptions, check_acme
from fastlb.control_plane.config.errors import Place, Rejected, describe, quote
from fastlb.control_plane.config.health import parse_server_name
from fastlb.control_plane.config.kind import Choice, Count, Flag, ListOf, OrWord, Text, duration
from fastlb.control_plane.config.option import InnerTable, TextOrTable, option, options_of, read_table, table
from fastlb.control_plane.config.reader import Reader
from fastlb.control_plane.config.route_pattern import ANY_HOST, parse_host
from fastlb.control_plane.config.toml import KeyPath

OFF = "off"
VERSIONS = ("1.2", "1.3")
# Those of OpenSSL 3.0 that need nothing but to be named (RFC 8446 appendix B.4).
CIPHERSUITES = (
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_AES_128_CCM_SHA256",
    "TLS_AES_128_CCM_8_SHA256",
)
CURVES = ("X25519", "P-256", "P-384", "P-521", "X448")
_CURVES_ELSEWHERE = {"prime256v1": "P-256", "secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521", "curve25519": "X25519"}
_VERSIONS_ELSEWHERE = {f"{prefix}{version}": version for prefix in ("tls", "tlsv", "tls ") for version in VERSIONS}
_CIPHERS = r"[A-Za-z0-9+!@:,=_-]{1,1023}"

# Of one listener. Each takes some 20 KB in every worker.
MOST_CERTIFICATES = 10_000
# Servers may refuse to resume for longer than a week, and clients of TLS 1.3 do not try (RFC 8446 section 4.6.1).
LONGEST_SESSION = "7d"
NO_HSTS = -1
HTTP_PROTOCOLS = ("h2", "http/1.1")


def parse_pem_path(text: str) -> str:
    """The path of a PEM file, or "" for none. One that does not begin with / begins where the configuration file is."""
    if "\0" in text:
        raise Rejected(f"{quote(text[:64])} holds a zero byte", "a path cannot")
    if "-----BEGIN" in text:
        raise Rejected("this is the content of a file", "give the path of a file that holds it")
    if text.endswith("/"):
        raise Rejected(f"{quote(text)} is a directory", "give the path of a file in it")
    return text


def parse_needed_path(text: str) -> str:
    if not text:
        raise Rejected('found ""', "give the path of a file")
    return parse_pem_path(text)


def parse_served_name(text: str) -> str:
    """A name that clients ask for: a host, or "*.example.com" for every name of one more part."""
    host = parse_host(text)
    if host == ANY_HOST:
        raise Rejected('found "*"', "for unknown names the first certificate is served anyway, unless unknown_names says otherwise")
    if host.startswith("[") or re.fullmatch("[0-9.]+", host):
        raise Rejected(f"{quote(text)} is an address", "clients that connect to an address name nothing: leave it out")
    return host


def parse_passed_name(text: str) -> str:
    """A name that clients of a passthrough ask for; "*" for any, and for none."""
    return parse_served_name(text) if text != "*" else text


def parse_protocol_name(text: str) -> str:
    """The name of a protocol as ALPN has it (RFC 7301 section 3.1)."""
    if re.fullmatch("[!-~]{1,255}", text):
        return text
    raise Rejected(f"{quote(text)} is no name of a protocol", 'ALPN has names such as "h2", "http/1.1" and "postgresql"')


def parse_ciphers(text: str) -> str:
    """A cipher list of OpenSSL for TLS 1.2, or "" for the usual ones."""
    if not text:
        return text
    right = 'it is a list as `openssl ciphers` takes it, such as "ECDHE+AESGCM:ECDHE+CHACHA20"'
    if not re.fullmatch(_CIPHERS, text):
        raise Rejected(f"{quote(text)} is no cipher list", right)
    import ssl  # few name ciphers

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_ciphers(text)
    except ssl.SSLError:
        raise Rejected(f"{quote(text)} selects no cipher", right) from None
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFiles:
    """One of the certificates of a listener."""

    cert: str = option(
        "cert",
        Text("a path", parse_needed_path, "/etc/fastlb/shop.pem"),
        also_called=("certificate", "crt", "ssl_certificate", "file", "fullchain", "chain", "cert_file"),
    )
    key: str = option(
        "key", Text("a path", parse_pem_path, "/etc/fastlb/shop.key"), "", ("ssl_certificate_key", "private_key", "key_file", "privkey")
    )
    names: tuple[str, ...] = option(
        "names",
        ListOf(Text("a name", parse_served_name, "shop.example.com"), identity=lambda name: name),
        [],
        ("name", "hosts", "domains", "server_names", "sni"),
    )

    @property
    def pair(self) -> tuple[str, str]:
        """The files of certificate and key, which may be one."""
        return self.cert, self.key or self.cert


class CertificateList:
    """One certificate or a list of them, each a table or the path of a file that holds both certificate and key."""

    unit = "a certificate, or a list"

    def __init__(self) -> None:
        self._kind = ListOf(TextOrTable(CertificateFiles, "cert"))

    def range_text(self) -> str:
        return f"a path, or a table: {', '.join(options_of(CertificateFiles))}"

    def read(self, written: object, path: KeyPath, reader: Reader) -> tuple[CertificateFiles, ...] | None:
        if isinstance(written, bool | int | float):
            reader.reject(path, f"found {describe(written)}", '{ cert = "shop.pem", key = "shop.key" }, or a list of those')
            return None
        read = self._kind.read(written, path, reader)
        if read is not None and len(read) > MOST_CERTIFICATES:
            reader.reject(path, f"found {len(read)} certificates", f"at most {MOST_CERTIFICATES}")
        return read


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCertificates:
    """Whether clients show certificates of their own, and who signs them."""

    mode: str = option(
        "mode",
        Choice((OFF, "optional", "required"), also_called={"on": "required", "require": "required", "none": OFF, "request": "optional"}),
        OFF,
        ("verify", "ssl_verify_client"),
    )
    ca: str = option(
        "ca", Text("a path", parse_pem_path, "/etc/fastlb/clients-ca.pem"), "", ("ca_file", "ca-file", "ssl_client_certificate", "cafile")
    )
    crl: str = option("crl", Text("a path", parse_pem_path, "/etc/fastlb/clients.crl"), "", ("crl_file", "crl-file", "ssl_crl"))
    depth: int = option("depth", Count(0, 20), 4, ("verify_depth", "ssl_verify_depth"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerTls:
    """`tls` of a listener. Off where there is no certificate."""

    certificates: tuple[CertificateFiles, ...] = option(
        "certificates", CertificateList(), [], ("certificate", "certs", "crt", "ssl_certificate"), CertificateFiles
    )
    min_version: str = option(
        "min_version", Choice(VERSIONS, also_called=_VERSIONS_ELSEWHERE), "1.2", ("ssl_protocols", "ssl-min-ver", "minimum")
    )
    max_version: str = option("max_version", Choice(VERSIONS, also_called=_VERSIONS_ELSEWHERE), "1.3", ("ssl-max-ver", "maximum"))
    ciphers: str = option(
        "ciphers", Text("a cipher list", parse_ciphers, "ECDHE+AESGCM:ECDHE+CHACHA20"), "", ("ssl_ciphers", "cipher_list")
    )
    ciphersuites: tuple[str, ...] = option(
        "ciphersuites", ListOf(Choice(CIPHERSUITES), identity=lambda name: name), [], ("tls13_ciphers", "cipher_suites")
    )
    curves: tuple[str, ...] = option(
        "curves",
        ListOf(Choice(CURVES, also_called=_CURVES_ELSEWHERE), identity=lambda name: name),
        [],
        ("groups", "ecdhe", "ssl_ecdh_curve"),
    )
    # Of a listener of TCP sessions that does not say, none (config/tcp.py).
    alpn: tuple[str, ...] = option(
        "alpn",
        ListOf(Text("a protocol", parse_protocol_name, "h2"), identity=lambda name: name),
        list(HTTP_PROTOCOLS),
        ("protocols", "next_protocols", "ssl_alpn"),
    )
    unknown_names: str = option(
        "unknown_names",
        Choice(("default", "refuse"), also_called={"strict": "refuse", "reject": "refuse", "first": "default"}),
        "default",
        ("strict_sni", "strict-sni", "sni_strict", "ssl_reject_handshake"),
    )
    handshake_timeout_ms: int = option("handshake_timeout", duration("100ms", "10m"), "10s", ("ssl_handshake_timeout", "handshake"))
    tickets: bool = option("tickets", Flag(), True, ("session_tickets", "ssl_session_tickets"))
    session_timeout_ms: int = option("session_timeout", duration("1m", LONGEST_SESSION), "1d", ("ssl_session_timeout", "lifetime"))
    early_data: bool = option("early_data", Flag(), False, ("ssl_early_data", "allow_0rtt", "allow-0rtt", "zero_rtt", "0rtt"))
    client_certificates: ClientCertificates = table("client_certificates", ClientCertificates, ("client_auth", "mtls", "verify_client"))
    acme: tuple[AcmeOptions, ...] = option("acme", ListOf(InnerTable(AcmeOptions)), [], ("letsencrypt", "autocert", "auto"), AcmeOptions)
    ocsp: OcspOptions = option("ocsp", FlagOrTable(OcspOptions, "staple"), True, ("ssl_stapling", "stapling", "ocsp_stapling"), OcspOptions)

    @property
    def is_on(self) -> bool:
        return bool(self.certificates or self.acme)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendTls:
    """`tls` of a pool: how its backends are spoken to."""

    enabled: bool = option("enabled", Flag(), False, ("on", "ssl"))
    verify: bool = option("verify", Flag(), True, ("proxy_ssl_verify", "ssl_verify"))
    server_name: str = option(
        "server_name", Text("a name", parse_server_name, "app.internal"), "", ("sni", "proxy_ssl_name", "verifyhost", "host")
    )
    ca: str = option(
        "ca", Text("a path", parse_pem_path, "/etc/fastlb/backends-ca.pem"), "", ("ca_file", "ca-file", "proxy_ssl_trusted_certificate")
    )
    cert: str = option(
        "cert", Text("a path", parse_pem_path, "/etc/fastlb/client.pem"), "", ("crt", "proxy_ssl_certificate", "certificate")
    )
    key: str = option("key", Text("a path", parse_pem_path, "/etc/fastlb/client.key"), "", ("proxy_ssl_certificate_key",))
    min_version: str = option("min_version", Choice(VERSIONS, also_called=_VERSIONS_ELSEWHERE), "1.2", ("proxy_ssl_protocols",))
    max_version: str = option("max_version", Choice(VERSIONS, also_called=_VERSIONS_ELSEWHERE), "1.3")
    ciphers: str = option(
        "ciphers", Text("a cipher list", parse_ciphers, "ECDHE+AESGCM:ECDHE+CHACHA20"), "", ("proxy_ssl_ciphers", "cipher_list")
    )
    ciphersuites: tuple[str, ...] = option(
        "ciphersuites", ListOf(Choice(CIPHERSUITES), identity=lambda name: name), [], ("tls13_ciphers", "cipher_suites")
    )
    curves: tuple[str, ...] = option(
        "curves", ListOf(Choice(CURVES, also_called=_CURVES_ELSEWHERE), identity=lambda name: name), [], ("groups", "ecdhe")
    )
    resume: bool = option("resume", Flag(), True, ("session_reuse", "proxy_ssl_session_reuse", "sessions"))

    @property
    def pair(self) -> tuple[str, str]:
        """The files of our certificate and its key, which may be one."""
        return self.cert, self.key or self.cert


class BackendTlsKind:
    """true, false, or a table, which says true."""

    unit = "flag, or a table"

    def range_text(self) -> str:
        return f"true, false or a table: {', '.join(options_of(BackendTls))}"

    def read(self, written: object, path: KeyPath, reader: Reader) -> BackendTls | None:
        if isinstance(written, bool):
            return read_table(BackendTls, {"enabled": written}, path, reader)
        if isinstance(written, dict):
            return read_table(BackendTls, {"enabled": True, **written}, path, reader)
        reader.reject(path, f"found {describe(written)}", self.range_text())
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hsts:
    """For how long browsers use HTTPS only (RFC 6797)."""

    max_age_ms: int = option("max_age", OrWord(duration("0s", "3650d"), OFF, NO_HSTS), OFF, ("age", "seconds", "maxage"))
    subdomains: bool = option("subdomains", Flag(), False, ("include_subdomains", "includesubdomains", "include_sub_domains"))
    preload: bool = option("preload", Flag(), False)

    @property
    def text(self) -> str:
        """What the header field says; "" where there is none."""
        if self.max_age_ms == NO_HSTS:
            return ""
        text = f"max-age={self.max_age_ms // 1000}"
        return text + ("; includeSubDomains" if self.subdomains else "") + ("; preload" if self.preload else "")


# Browsers' list of such sites wants a year (hstspreload.org).
_PRELOAD_MS = 365 * 24 * 3600 * 1000


def check_tls(reader: Reader) -> None:
    """What the tls tables of all listeners say together."""
    for path, tls in reader.all_read(ListenerTls):
        if not any(reader.source.values["listeners"][path[1]]["tls"].get(key) for key in ("certificates", "acme")):
            right = 'certificates = [{ cert = "shop.pem", key = "shop.key" }], or acme = { domains = ["shop.example.com"] }'
            reader.reject_key(path, "tls has no certificates", right)
        _check_versions(reader, path, tls)
        _check_client_certificates(reader, (*path, "client_certificates"), tls.client_certificates)
        if tls.early_data and tls.client_certificates.mode != OFF:
            found = "early_data does not go with client certificates, which are verified when the handshake is over"
            reader.reject_key((*path, "early_data"), found, "leave one of them out")
        if tls.early_data and (not tls.tickets or tls.max_version < "1.3"):
            found = "early_data comes with resumed sessions of TLS 1.3"
            reader.reject_key((*path, "early_data"), found, 'tickets = true, max_version = "1.3"')
        pairs: set[tuple[str, str]] = set()
        for number, files in enumerate(tls.certificates):
            if files.pair in pairs:
                reader.reject((*path, "certificates", number), f"{quote(files.cert)} is listed a second time", "list it once")
            pairs.add(files.pair)
    for path, backend in reader.all_read(BackendTls):
        _check_versions(reader, path, backend)
        if backend.key and not backend.cert:
            reader.reject_key((*path, "key"), "the key of no certificate", 'name that: cert = "client.pem"')
        if backend.ca and not backend.verify:
            reader.reject_key((*path, "ca"), "nothing is verified where verify is false", "leave one of them out")
    listeners = reader.source.values.get("listeners")
    plain = [one for one in listeners if isinstance(one, dict) and "tls" not in one] if isinstance(listeners, list) else []
    check_acme(reader, bool(plain))
    for path, hsts in reader.all_read(Hsts):
        if hsts.max_age_ms == NO_HSTS and (hsts.subdomains or hsts.preload):
            reader.reject_key(path, "hsts does not say for how long", 'max_age = "365d"')
        elif hsts.preload and (not hsts.subdomains or hsts.max_age_ms < _PRELOAD_MS):
            reader.reject_key((*path, "preload"), "browsers' list takes no such site", 'it wants subdomains = true and a max_age of "365d"')


def _check_versions(reader: Reader, path: KeyPath, tls: ListenerTls | BackendTls) -> None:
    if tls.min_version > tls.max_version:
        reader.reject((*path, "min_version"), f"min_version {tls.min_version} is above max_version {tls.max_version}", "swap them")
    if tls.ciphersuites and tls.max_version < "1.3":
        reader.reject_key((*path, "ciphersuites"), "ciphersuites are of TLS 1.3, which max_version forbids", "leave them out")
    if tls.ciphers and tls.min_version > "1.2":
        reader.reject_key((*path, "ciphers"), "ciphers are of TLS 1.2, which min_version forbids", "ciphersuites are those of TLS 1.3")


def _check_client_certificates(reader: Reader, path: KeyPath, clients: ClientCertificates) -> None:
    if clients.mode != OFF and not clients.ca:
        reader.reject_key((*path, "mode"), f"client certificates are {clients.mode}, and nobody may sign them", 'ca = "clients-ca.pem"')
    for key, value in (("ca", clients.ca), ("crl", clients.crl)):
        if value and clients.mode == OFF:
            reader.reject_key((*path, key), f"{key} without client certificates", 'mode is "optional" or "required"')


def find_places(reader: Reader) -> dict[str, Place]:
    """Where each file of the tls tables was named first, by its path as it was written."""
    places: dict[str, Place] = {}
    for path, files in reader.all_read(CertificateFiles):
        places.setdefault(files.cert, reader.source.value_place((*path, "cert")))
        if files.key:
            places.setdefault(files.key, reader.source.value_place((*path, "key")))
    for path, backend in reader.all_read(BackendTls):
        for key, name in (("cert", backend.cert), ("key", backend.key), ("ca", backend.ca)):
            if name:
                places.setdefault(name, reader.source.value_place((*path, key)))
    for path, clients in reader.all_read(ClientCertificates):
        for key, name in (("ca", clients.ca), ("crl", clients.crl)):
            if name:
                places.setdefault(name, reader.source.value_place((*path, key)))
    return places
