"""The acme and ocsp tables of a listener's tls."""

from typing import Any

import pytest

from fastlb.control_plane.config.acme import LETS_ENCRYPT, AcmeOptions, OcspOptions
from fastlb.control_plane.config.errors import ConfigError
from fastlb.control_plane.config.loader import load_text
from fastlb.control_plane.config.schema import Config
from fastlb.control_plane.config.writer import write_config
from tests.support.configuration import configuration

PLAIN = {"name": "plain", "bind": "127.0.0.1:81"}


def load(tls: dict[str, Any], *others: dict[str, Any]) -> Config:
    listeners = [{"name": "secure", "bind": "127.0.0.1:443", "tls": tls}, *others]
    return load_text(configuration(["127.0.0.1:9000"], listeners=listeners), "lb.toml").config


def problems(tls: dict[str, Any], *others: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tls, *others)
    return str(caught.value)


def test_names_are_all_that_is_needed() -> None:
    (listener, _) = load({"acme": {"domains": "Shop.Example.com."}}, PLAIN).listeners
    assert listener.tls.is_on
    (acme,) = listener.tls.acme
    assert acme == AcmeOptions(domains=("shop.example.com",))
    assert (acme.directory, acme.challenge, acme.key_type) == (LETS_ENCRYPT, "http-01", "ecdsa-p256")
    assert listener.tls.ocsp == OcspOptions()


def test_a_listener_may_have_several_and_certificates_of_files_beside_them() -> None:
    tls = {"certificates": "shop.pem", "acme": [{"domains": ["a.example.com"]}, {"domains": ["b.example.com"], "key_type": "rsa-2048"}]}
    assert [one.domains for one in load(tls, PLAIN).listeners[0].tls.acme] == [("a.example.com",), ("b.example.com",)]


@pytest.mark.parametrize(
    ("acme", "said"),
    [
        ({"domains": []}, "found an empty array"),
        ({"email": "ops@example.com"}, '"domains" is missing'),
        ({"domains": ["*.example.com"]}, '"*.example.com" is a wildcard'),
        ({"domains": ["localhost"]}, '"localhost" is no name that a CA issues for'),
        ({"domains": ["10.0.0.1"]}, '"10.0.0.1" is no name that a CA issues for'),
        ({"domains": ["[::1]"]}, '"[::1]" is no name that a CA issues for'),
        ({"domains": ["a_b.example.com"]}, "is no name that a CA issues for"),
        ({"domains": ["a.example.com", "A.example.com"]}, "is listed a second time"),
        ({"domains": [f"{n}.example.com" for n in range(101)]}, "found 101 names"),
        ({"domains": "a.example.com", "directory": "http://ca.example.com"}, "is not the URL of a CA's directory"),
        ({"domains": "a.example.com", "directory": "ca.example.com/dir"}, 'did you mean "https://ca.example.com/dir"?'),
        ({"domains": "a.example.com", "email": "mailto:ops@example.com"}, 'did you mean "ops@example.com"?'),
        ({"domains": "a.example.com", "challenge": "dns-01"}, 'challenge "dns-01" is not in this version'),
        ({"domains": "a.example.com", "ca": "ca.pem"}, '"ca.pem" is not an absolute path'),
        ({"domains": "a.example.com", "eab_key_id": "kid-1"}, "eab_hmac is missing"),
        ({"domains": "a.example.com", "eab_key_id": "kid-1", "eab_hmac": "short"}, "this is no HMAC key"),
    ],
)
def test_what_a_ca_would_not_do_is_refused(acme: dict[str, Any], said: str) -> None:
    assert said in problems({"acme": acme}, PLAIN)


def test_http_01_needs_a_listener_without_tls() -> None:
    assert "http-01 is looked at over plain HTTP, which no listener speaks" in problems({"acme": {"domains": "a.example.com"}})
    assert load({"acme": {"domains": "a.example.com", "challenge": "tls-alpn-01"}})


def test_a_name_is_in_one_certificate_of_a_listener() -> None:
    acme = [{"domains": ["a.example.com", "b.example.com"]}, {"domains": ["b.example.com"]}]
    assert '"b.example.com" is in another certificate of this listener' in problems({"acme": acme}, PLAIN)


def test_the_key_that_a_ca_has_handed_out_is_shown_to_nobody() -> None:
    secret = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajV"
    acme = {"domains": "a.example.com", "eab_key_id": "kid-1", "eab_hmac": secret}
    config = load({"acme": acme}, PLAIN)
    written = write_config(config)
    assert secret not in str(written)
    assert "hidden" in str(written)
    assert secret not in problems({"acme": {**acme, "eab_hmac": f"{secret}!"}}, PLAIN)


@pytest.mark.parametrize(
    ("ocsp", "wanted"),
    [
        (True, OcspOptions()),
        (False, OcspOptions(staple=False)),
        ({"responder": "http://ocsp.example.com/x"}, OcspOptions(responder="http://ocsp.example.com/x")),
    ],
)
def test_ocsp_is_a_flag_or_a_table(ocsp: Any, wanted: OcspOptions) -> None:
    assert load({"certificates": "shop.pem", "ocsp": ocsp}).listeners[0].tls.ocsp == wanted


@pytest.mark.parametrize(
    ("ocsp", "said"),
    [
        ("on", "ocsp is true, false or a table"),
        ({"responder": "https://ocsp.example.com"}, "is not the URL of a responder"),
        ({"staple": 1}, "found 1"),
    ],
)
def test_ocsp_that_is_something_else_is_refused(ocsp: Any, said: str) -> None:
    assert said in problems({"certificates": "shop.pem", "ocsp": ocsp})
