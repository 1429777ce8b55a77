"""A certificate authority with an OCSP responder, for tests: the responder is `openssl ocsp`, which knows nothing of our code."""

import datetime
import re
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

NOW = datetime.datetime.now(datetime.UTC)


@dataclass(frozen=True)
class Issued:
    """A certificate and its key. `chain`: PEM, with its issuer."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    chain: bytes

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class Authority:
    """Signs. Its files are those that `openssl ocsp` wants."""

    def __init__(self, directory: Path, name: str = "an authority of tests") -> None:
        self.directory = directory
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._sign(self.name, self.key, x509.BasicConstraints(ca=True, path_length=0), serial=1)
        self.index = directory / "index.txt"
        self.index.write_text("")
        (directory / "ca.pem").write_bytes(self.certificate.public_bytes(Encoding.PEM))
        self.write_signer("signer", self.certificate, self.key)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def issue(self, *names: str, responder: str = "", must_staple: bool = False, serial: int = 4660) -> Issued:
        """A certificate for a server, which names a responder."""
        key = ec.generate_private_key(ec.SECP256R1())
        extensions: list[x509.ExtensionType] = [x509.SubjectAlternativeName([x509.DNSName(name) for name in names])]
        if responder:
            location = x509.UniformResourceIdentifier(responder)
            extensions.append(x509.AuthorityInformationAccess([x509.AccessDescription(AuthorityInformationAccessOID.OCSP, location)]))
        if must_staple:
            extensions.append(x509.TLSFeature([x509.TLSFeatureType.status_request]))
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        certificate = self._sign(subject, key, *extensions, serial=serial)
        return Issued(certificate, key, certificate.public_bytes(Encoding.PEM) + self.pem)

    def delegate(self, *, for_ocsp: bool = True, days: int = 1) -> Issued:
        """A certificate for who answers in the place of the authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        purpose = ExtendedKeyUsageOID.OCSP_SIGNING if for_ocsp else ExtendedKeyUsageOID.SERVER_AUTH
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a delegate")])
        certificate = self._sign(subject, key, x509.ExtendedKeyUsage([purpose]), serial=2, days=days)
        return Issued(certificate, key, b"")

    def write_index(self, serial: int = 4660, *, revoked: bool = False) -> None:
        """What the responder knows, as `openssl ca` writes it (its man page: DATABASE)."""
        until = (NOW + datetime.timedelta(days=30)).strftime("%y%m%d%H%M%SZ")
        since = (NOW - datetime.timedelta(days=1)).strftime("%y%m%d%H%M%SZ")
        status, when = ("R", f"{since},keyCompromise") if revoked else ("V", "")
        self.index.write_text(f"{status}\t{until}\t{when}\t{serial:04X}\tunknown\t/CN=a server\n")

    def write_signer(self, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Path:
        path = self.directory / f"{name}.pem"
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.write_bytes(certificate.public_bytes(Encoding.PEM) + private)
        return path

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *extensions: x509.ExtensionType, serial: int, days: int = 30
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(serial)
            .not_valid_before(NOW - datetime.timedelta(days=40))
            .not_valid_after(NOW + datetime.timedelta(days=days))
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(self.key, hashes.SHA256())


class Responder:
    """`openssl ocsp` on a free port; answers what the authority's index says.

    Args:
        signer: of what it answers.
        minutes: how long its answers hold; 0: they do not say.
    """

    def __init__(self, authority: Authority, signer: str = "signer", minutes: int = 600, digest: str = "sha256") -> None:
        path = authority.directory / f"{signer}.pem"
        command = ["openssl", "ocsp", "-port", "0", "-index", str(authority.index), "-CA", str(authority.directory / "ca.pem")]
        command += ["-rsigner", str(path), "-rkey", str(path), "-rmd", digest, *(["-nmin", str(minutes)] if minutes else [])]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1)
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            found = re.search(r"ACCEPT .*:(\d+)", line)
            if found:
                break
        else:
            raise AssertionError(f"openssl ocsp ended: {said}")
        self.url = f"http://127.0.0.1:{found[1]}"
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
