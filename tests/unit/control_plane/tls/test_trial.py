"""fastlb/control_plane/tls/trial.py: OpenSSL itself is asked."""

import ssl

import pytest

from fastlb.control_plane.tls.trial import find_refused_block
from tests.support.issue import Authority, issue
from tests.support.tls import TlsWorld


def damaged() -> bytes:
    """A certificate with a name that OpenSSL cannot read: half a character at its end."""
    der = ssl.PEM_cert_to_DER_cert(issue("aaa.example")[0].decode())
    at = der.index(b"aaa.example")
    return ssl.DER_cert_to_PEM_cert(der[: at - 2] + b"\x1e" + der[at - 1 :]).encode()


def test_block_that_cannot_be_read_is_found_by_its_number() -> None:
    good = issue("a.example")[0]
    assert find_refused_block(good + good) is None
    assert find_refused_block(good + damaged() + good) == (2, "bmpstring is wrong length")


def test_lists_of_revoked_certificates_are_tried_beside_an_authority() -> None:
    authority = Authority()
    lists = authority.revoke(7) + Authority("other.example").revoke(8)
    assert find_refused_block(lists, authority.pem) is None
    assert find_refused_block(b"", authority.pem) is None


def test_bundle_is_never_cut_where_it_cannot_be_read() -> None:
    with TlsWorld() as world, pytest.raises(ValueError, match="wrong length"):
        world.load(client_auth="optional", client_ca=issue("a.example")[0] + damaged())
