"""fastlb/data_plane/tls.pyx: clients' certificates, and what backends and logs are told of TLS."""

import hashlib
import ssl
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from fastlb._core import TLS_FACTS
from tests.support.issue import Authority, issue
from tests.support.tls import TlsWorld, client_context, exchange, load_chain

AUTHORITY = Authority()
STRANGER = Authority("stranger.example")


def showing(certificate: tuple[bytes, bytes] | None, **changes: Any) -> ssl.SSLContext:
    context = client_context(**changes)
    return load_chain(context, certificate) if certificate else context


def told(world: TlsWorld, certificate: tuple[bytes, bytes] | None, **changes: Any) -> dict[str, str]:
    """What the backend is told of a client that shows this certificate."""
    world.edits = [("set", name.replace("_", "-"), [(name, "controls", "")]) for name in TLS_FACTS]
    world.load()
    client = world.tls_client(showing(certificate, **changes), "a.example").shake()
    exchange(world, client)
    client.sock.close()
    fields = dict(line.split(": ", 1) for line in world.request_head.decode("latin-1").split("\r\n")[1:-2])
    return {name: fields[name.replace("_", "-")] for name in TLS_FACTS if name.replace("_", "-") in fields}


def test_backend_is_told_of_the_certificate_and_the_connection() -> None:
    certificate = AUTHORITY.issue("ann.example", serial=0xABCDEF)
    with TlsWorld(client_auth="required", client_ca=AUTHORITY.pem) as world:
        facts = told(world, certificate)
    assert facts == {
        "tls_version": "TLSv1.3",
        "tls_cipher": "TLS_AES_128_GCM_SHA256",
        "tls_server_name": "a.example",
        "tls_resumed": "no",
        "client_certificate_subject": "O=A\\, B\\0D\\0AX: y,CN=ann.example",
        "client_certificate_issuer": "CN=authority.example",
        "client_certificate_serial": "ABCDEF",
        "client_certificate_fingerprint": hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate[0].decode())).hexdigest(),
        "client_certificate_verify": "SUCCESS",
    }


def test_client_without_a_certificate_is_told_apart_where_it_is_optional() -> None:
    with TlsWorld(client_auth="optional", client_ca=AUTHORITY.pem) as world:
        facts = told(world, None)
        assert facts["client_certificate_verify"] == "NONE"
        assert not {"client_certificate_subject", "client_certificate_serial"} & set(facts)
    with TlsWorld(client_auth="optional", client_ca=AUTHORITY.pem) as world:
        assert told(world, STRANGER.issue("eve.example"))["client_certificate_verify"].startswith("FAILED:")


def test_plain_client_has_no_facts_and_cannot_claim_them() -> None:
    with TlsWorld(client_auth="optional", client_ca=AUTHORITY.pem) as world:
        world.edits = [("set", "Subject", [("client_certificate_subject", "controls", "")])]
        world.load()
        client = world.tls_client().shake()
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nSubject: CN=forged\r\n\r\n")
        world.answer()
        assert b"forged" not in world.request_head


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_required_certificate_has_to_be_there_and_to_verify(version: ssl.TLSVersion) -> None:
    with TlsWorld(client_auth="required", client_ca=AUTHORITY.pem) as world:
        for certificate in (None, STRANGER.issue("eve.example")):
            assert world.tls_client(showing(certificate, maximum_version=version)).refusal()
        exchange(world, world.tls_client(showing(AUTHORITY.issue("ann.example"), maximum_version=version)).shake())
        assert world.counts("reason.client:tls_certificate", "tls_handshakes") == (2, 1)


def test_revoked_certificate_is_refused() -> None:
    with TlsWorld(client_auth="required", client_ca=AUTHORITY.pem, client_crl=AUTHORITY.revoke(13)) as world:
        assert world.tls_client(showing(AUTHORITY.issue("bad.example", serial=13))).refusal() == "SSLV3_ALERT_CERTIFICATE_REVOKED"
        exchange(world, world.tls_client(showing(AUTHORITY.issue("good.example", serial=14))).shake())


@pytest.mark.parametrize(
    "changes",
    [
        {"client_auth": "optional"},
        {"client_ca": STRANGER.pem},
        {"client_crl": AUTHORITY.revoke(7)},
    ],
)
def test_session_is_not_resumed_where_clients_are_verified_otherwise(changes: dict[str, Any]) -> None:
    context = showing(AUTHORITY.issue("ann.example"))
    with TlsWorld(client_auth="required", client_ca=AUTHORITY.pem) as world:
        client = world.tls_client(context, "a.example").shake()
        exchange(world, client)
        session = client.ssl.session
        assert session
        same = world.tls_client(context, "a.example", session).shake()
        assert same.ssl.session_reused
        world.load(**changes)
        other = world.tls_client(context, "a.example", session)
        try:
            other.shake()
        except ssl.SSLError:
            return
        assert not other.ssl.session_reused


def test_resumed_session_brings_its_certificate() -> None:
    context = showing(AUTHORITY.issue("ann.example"))
    with TlsWorld(client_auth="required", client_ca=AUTHORITY.pem) as world:
        world.edits = [
            ("set", "Subject", [("client_certificate_subject", "controls", "")]),
            ("set", "Resumed", [("tls_resumed", "controls", "")]),
        ]
        world.load()
        client = world.tls_client(context, "a.example").shake()
        peer = exchange(world, client)
        exchange(world, world.tls_client(context, "a.example", client.ssl.session).shake(), peer)
        assert b"Resumed: yes\r\n" in world.request_head
        assert b"CN=ann.example\r\n" in world.request_head


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_session_is_not_resumed_when_its_certificate_has_expired(version: ssl.TLSVersion) -> None:
    with TlsWorld(client_auth="required", client_ca=AUTHORITY.pem) as world:
        context = showing(AUTHORITY.issue("ann.example", seconds=2), maximum_version=version)
        expires = time.time() + 2.1
        client = world.tls_client(context, "a.example").shake()
        peer = exchange(world, client)
        again = world.tls_client(context, "a.example", client.ssl.session).shake()
        exchange(world, again, peer)
        assert again.ssl.session_reused
        time.sleep(max(0, expires - time.time()))
        assert world.tls_client(context, "a.example", again.ssl.session).refusal() == "SSLV3_ALERT_CERTIFICATE_EXPIRED"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_challenge_gives_no_session_that_spares_the_certificate(version: ssl.TLSVersion) -> None:
    context = client_context(maximum_version=version)
    context.set_alpn_protocols(["acme-tls/1"])
    with TlsWorld([issue("a.example")], challenges=[("a.example", 0)], client_auth="required", client_ca=AUTHORITY.pem) as world:
        client = world.tls_client(context, "a.example").shake()
        assert client.receive() == b""
        session = client.ssl.session
        assert session is None or not session.has_ticket
        context.set_alpn_protocols(["http/1.1"])
        assert world.tls_client(context, "a.example", session).refusal()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_optional_certificate_with_a_wrong_signature_is_told_and_not_refused(version: ssl.TLSVersion) -> None:
    forger = Authority()  # of the same name, with another RSA key: the verification leaves errors in OpenSSL's queue
    forger.key = rsa.generate_private_key(65537, 2048)
    with TlsWorld(client_auth="optional", client_ca=issue("authority.example", kind="rsa")[0]) as world:
        world.edits = [("set", "Verified", [("client_certificate_verify", "controls", "")])]
        world.load()
        client = world.tls_client(showing(forger.issue("eve.example"), maximum_version=version), "a.example")
        client.step = 1  # so that the handshake waits after the verification
        exchange(world, client.shake())
        assert b"Verified: FAILED:certificate signature failure\r\n" in world.request_head
