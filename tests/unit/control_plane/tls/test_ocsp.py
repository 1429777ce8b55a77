"""What is stapled and what is not: answers of `openssl ocsp`, and answers of our own making that are wrong in one way each."""

import asyncio
import datetime
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from fastlb.control_plane.tls.fetch import fetch
from fastlb.control_plane.tls.ocsp import (
    MAX_RESPONSE_BYTES,
    REQUEST_TYPE,
    OcspError,
    RevokedError,
    Subject,
    make_question,
    make_request,
    make_subject,
    read_response,
    requires_staple,
)
from tests.support.ocsp_authority import Authority, Issued, Responder

NOW = datetime.datetime.now(datetime.UTC)
HOUR = datetime.timedelta(hours=1)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def responder(authority: Authority) -> Iterator[Responder]:
    authority.write_index()
    running = Responder(authority)
    yield running
    running.close()


@pytest.fixture(scope="module")
def issued(authority: Authority) -> Issued:
    return authority.issue("shop.example.com", responder="http://ocsp.example.com/", serial=4660)


@pytest.fixture(scope="module")
def subject(issued: Issued) -> Subject:
    return subject_of(issued.chain)


def subject_of(chain: bytes) -> Subject:
    subject = make_subject(x509.load_pem_x509_certificates(chain))
    assert subject is not None
    return subject


def ask(url: str, body: bytes) -> bytes:
    options: dict[str, Any] = {"content_type": REQUEST_TYPE, "max_bytes": MAX_RESPONSE_BYTES, "timeout_seconds": 10}
    return asyncio.run(fetch(url, body=body, **options))


def answer(authority: Authority, subject: Subject, **changes: Any) -> bytes:
    """A good response, but for what `changes` says."""
    asked: dict[str, Any] = {
        "status": ocsp.OCSPCertStatus.GOOD,
        "this_update": NOW - HOUR,
        "next_update": NOW + 9 * HOUR,
        "signer": (authority.certificate, authority.key),
        "hash": hashes.SHA1(),
        "leaf": subject.leaf,
        "issuer": subject.issuer,
        "encoding": ocsp.OCSPResponderEncoding.HASH,
        "certificates": [],
        **changes,
    }
    revoked = asked["status"] is ocsp.OCSPCertStatus.REVOKED
    builder = ocsp.OCSPResponseBuilder().add_response(
        asked["leaf"],
        asked["issuer"],
        asked["hash"],
        asked["status"],
        asked["this_update"],
        asked["next_update"],
        NOW - HOUR if revoked else None,
        x509.ReasonFlags.key_compromise if revoked else None,
    )
    certificate, key = asked["signer"]
    builder = builder.responder_id(asked["encoding"], certificate)
    if asked["certificates"]:
        builder = builder.certificates(asked["certificates"])
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def refused(der: bytes, subject: Subject, now: datetime.datetime = NOW) -> str:
    with pytest.raises(OcspError) as caught:
        read_response(der, subject, now)
    return str(caught.value)


# ---------------------------------------------------------------------------------------------------- a real responder
def test_a_real_responder_is_asked_by_get_and_by_post(responder: Responder, subject: Subject) -> None:
    request = make_request(subject)
    url, body = make_question(responder.url, request)
    assert body == b""
    assert read_response(ask(url, body), subject, datetime.datetime.now(datetime.UTC)).next_update > NOW + 9 * HOUR
    assert read_response(ask(responder.url, request), subject, datetime.datetime.now(datetime.UTC)).this_update < NOW + HOUR


def test_what_a_real_responder_does_not_know_is_not_stapled(responder: Responder, authority: Authority) -> None:
    other = subject_of(authority.issue("other.example.com", serial=9).chain)
    assert refused(ask(responder.url, make_request(other)), other) == "the responder does not know the certificate"


def test_what_a_real_responder_calls_revoked_is_not_stapled(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.write_index(revoked=True)
    responder = Responder(authority)
    try:
        subject = subject_of(authority.issue("shop.example.com").chain)
        with pytest.raises(RevokedError, match=r"^the certificate is REVOKED since .* UTC \(keyCompromise\)$"):
            read_response(ask(responder.url, make_request(subject)), subject, NOW)
    finally:
        responder.close()


def test_a_real_responder_that_says_no_end_is_not_stapled(authority: Authority, subject: Subject) -> None:
    authority.write_index()
    responder = Responder(authority, minutes=0)
    try:
        assert refused(ask(responder.url, make_request(subject)), subject) == "it does not say until when it holds"
    finally:
        responder.close()


# ---------------------------------------------------------------------------------------------------- answers
@pytest.mark.parametrize("encoding", list(ocsp.OCSPResponderEncoding))
@pytest.mark.parametrize("algorithm", [hashes.SHA1(), hashes.SHA256(), hashes.SHA384()])
def test_a_good_answer_is_taken_however_it_names_its_parties(
    authority: Authority, subject: Subject, encoding: ocsp.OCSPResponderEncoding, algorithm: hashes.HashAlgorithm
) -> None:
    der = answer(authority, subject, encoding=encoding, hash=algorithm)
    staple = read_response(der, subject, NOW)
    assert staple.der == der
    assert abs(staple.refresh_at() - (NOW + 4 * HOUR)) < datetime.timedelta(seconds=1)


def test_an_answer_of_a_delegate_is_taken(authority: Authority, subject: Subject) -> None:
    delegate = authority.delegate()
    der = answer(authority, subject, signer=(delegate.certificate, delegate.key), certificates=[delegate.certificate])
    assert read_response(der, subject, NOW).der == der


def test_an_answer_of_somebody_else_is_not_taken(authority: Authority, subject: Subject, issued: Issued, tmp_path: Path) -> None:
    stranger = Authority(tmp_path)
    assert "neither the issuer" in refused(answer(authority, subject, signer=(issued.certificate, issued.key)), subject)
    delegate = stranger.delegate()
    for signer in ((stranger.certificate, stranger.key), (delegate.certificate, delegate.key)):  # names that we know, other keys
        said = refused(answer(authority, subject, signer=signer, certificates=[signer[0]]), subject)
        assert said == "its signer's certificate is not of the issuer, or not for OCSP"


def test_a_delegate_has_to_be_one_for_this_purpose_and_today(authority: Authority, subject: Subject, issued: Issued) -> None:
    other_purpose, expired = authority.delegate(for_ocsp=False), authority.delegate(days=-1)
    for signer, said in (
        (other_purpose, "its signer's certificate is not for OCSP"),
        (expired, "its signer's certificate has expired"),
        (issued, "its signer's certificate is not of the issuer, or not for OCSP"),
    ):
        der = answer(authority, subject, signer=(signer.certificate, signer.key), certificates=[signer.certificate])
        assert refused(der, subject) == said


def test_a_signature_that_is_wrong_or_weak_is_found_out(authority: Authority, subject: Subject, tmp_path: Path) -> None:
    namesake = Authority(tmp_path)
    der = answer(authority, subject, signer=(namesake.certificate, namesake.key), encoding=ocsp.OCSPResponderEncoding.NAME)
    assert refused(der, subject) == "its signature is wrong"
    authority.write_index()
    responder = Responder(authority, digest="sha1")
    try:
        assert "can be forged" in refused(ask(responder.url, make_request(subject)), subject)
    finally:
        responder.close()


def test_an_answer_about_another_certificate_is_not_taken(authority: Authority, subject: Subject, tmp_path: Path) -> None:
    other = subject_of(authority.issue("other.example.com", serial=9).chain)
    assert refused(answer(authority, subject, leaf=other.leaf), subject) == "it speaks of another certificate"
    namesake = Authority(tmp_path)  # the same name and serial number, another key
    assert refused(answer(authority, subject, issuer=namesake.certificate), subject) == "it speaks of another certificate"


def test_an_answer_holds_from_its_beginning_to_its_end(authority: Authority, subject: Subject) -> None:
    der = answer(authority, subject)
    assert read_response(der, subject, NOW + 8 * HOUR).der == der
    assert read_response(der, subject, NOW - HOUR).der == der
    assert refused(der, subject, NOW + 9 * HOUR).startswith("it held until")
    assert "one of the clocks is wrong" in refused(der, subject, NOW - 2 * HOUR)
    assert "until when" in refused(answer(authority, subject, next_update=None), subject)


@pytest.mark.parametrize("status", [one for one in ocsp.OCSPResponseStatus if one is not ocsp.OCSPResponseStatus.SUCCESSFUL])
def test_a_responder_that_cannot_answer_says_so(subject: Subject, status: ocsp.OCSPResponseStatus) -> None:
    der = ocsp.OCSPResponseBuilder.build_unsuccessful(status).public_bytes(Encoding.DER)
    assert refused(der, subject).startswith("the responder says")


def test_bytes_that_are_damaged_anywhere_are_never_taken(authority: Authority, subject: Subject) -> None:
    der = answer(authority, subject)
    assert read_response(der, subject, NOW)
    for n in range(0, len(der), 3):
        with pytest.raises(OcspError):
            read_response(der[:n], subject, NOW)
        damaged = bytearray(der)
        damaged[n] ^= 0x01
        try:
            assert read_response(bytes(damaged), subject, NOW).next_update == read_response(der, subject, NOW).next_update
        except OcspError:
            continue
        pytest.fail(f"a response with another byte {n} was taken")


# ---------------------------------------------------------------------------------------------------- certificates
def test_a_subject_needs_its_issuer_in_the_chain(authority: Authority, issued: Issued, tmp_path: Path) -> None:
    leaf = issued.certificate.public_bytes(Encoding.PEM)
    assert make_subject(x509.load_pem_x509_certificates(leaf)) is None
    assert make_subject(x509.load_pem_x509_certificates(leaf + Authority(tmp_path).pem)) is None
    assert subject_of(leaf + Authority(tmp_path).pem + authority.pem).issuer == authority.certificate


def test_must_staple_and_responders_are_read(authority: Authority) -> None:
    plain = authority.issue("shop.example.com")
    assert subject_of(plain.chain).responders == ()
    assert not requires_staple(plain.certificate)
    strict = authority.issue("shop.example.com", responder="http://ocsp.example.com/", must_staple=True)
    assert subject_of(strict.chain).responders == ("http://ocsp.example.com/",)
    assert subject_of(strict.chain).must_staple


def test_a_question_that_is_too_long_for_a_url_is_posted(subject: Subject) -> None:
    assert make_question("http://ocsp.example.com/x/", b"\xfb\xff")[0] == "http://ocsp.example.com/x/%2B%2F8%3D"
    assert make_question("http://ocsp.example.com/", b"x" * 300) == ("http://ocsp.example.com/", b"x" * 300)
    assert replace(subject, must_staple=True).fingerprint == subject.leaf.fingerprint(hashes.SHA256()).hex()
