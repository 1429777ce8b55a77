"""The tls table of a listener, HSTS, and listeners that send their clients to HTTPS."""

import pytest

from fastlb.control_plane.config.errors import ConfigError
from fastlb.control_plane.config.loader import load_text
from fastlb.control_plane.config.schema import Listener, Pool
from fastlb.control_plane.config.tls import CertificateFiles

POOL = '\n[pools.p]\nbackends = "127.0.0.1:1"\n'
GOOD = 'certificates = { cert = "a.pem" }'


def listener(text: str) -> Listener:
    (found,) = load_text(f'[[listeners]]\nname = "web"\nbind = ":443"\n{text}{POOL}', "f").config.listeners
    return found


def errors(text: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        listener(text)
    return [line.removeprefix("f:") for line in raised.value.lines()]


def test_a_listener_without_certificates_speaks_no_tls() -> None:
    assert not listener("").tls.is_on


@pytest.mark.parametrize(
    ("written", "pairs"),
    [
        ('"both.pem"', [("both.pem", "both.pem")]),
        ('["x.pem", { cert = "y.pem", key = "y.key" }]', [("x.pem", "x.pem"), ("y.pem", "y.key")]),
        ('{ cert = "y.pem", key = "y.key" }', [("y.pem", "y.key")]),
    ],
)
def test_certificates_are_one_or_several_paths_or_tables(written: str, pairs: list[tuple[str, str]]) -> None:
    tls = listener(f"tls = {{ certificates = {written} }}").tls
    assert tls.is_on
    assert [files.pair for files in tls.certificates] == pairs


def test_names_are_hosts_in_lower_case() -> None:
    tls = listener('tls = { certificates = { cert = "a.pem", names = ["Shop.Example.com.", "*.x.example"] } }').tls
    assert tls.certificates == (CertificateFiles(cert="a.pem", names=("shop.example.com", "*.x.example")),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tls = {}", '4:1: tls has no certificates; certificates = [{ cert = "shop.pem", key = "shop.key" }]'),
        ('tls = { min_version = "1.3" }', "4:1: tls has no certificates; "),
        ("tls = { certificates = [] }", "4:1: tls has no certificates; "),
        ("tls = { certificates = true }", '4:24: found true; { cert = "shop.pem", key = "shop.key" }, or a list of those'),
        ('tls = { certificates = { key = "a.key" } }', '4:9: "cert" is missing; '),
        ('tls = { certificates = { cert = "" } }', '4:33: found ""; give the path of a file'),
        ('tls = { certificates = "/etc/ssl/" }', '4:24: "/etc/ssl/" is a directory; '),
        ('tls = { certificates = ["a.pem", "a.pem"] }', '4:34: "a.pem" is listed a second time; list it once'),
        ('tls = { certificates = { cert = "a.pem", names = "*" } }', '4:50: found "*"; for unknown names the first certificate'),
        ('tls = { certificates = { cert = "a.pem", names = "10.0.0.1" } }', '4:50: "10.0.0.1" is an address; '),
        (f'tls = {{ {GOOD}, min_version = "1.1" }}', '4:58: unknown min_version "1.1"; min_version is "1.2" or "1.3"'),
        (f'tls = {{ {GOOD}, min_version = "1.3", max_version = "1.2" }}', "4:58: min_version 1.3 is above max_version 1.2; "),
        (f'tls = {{ {GOOD}, ciphers = "NONSENSE" }}', '4:54: "NONSENSE" selects no cipher; '),
        (f'tls = {{ {GOOD}, ciphers = "a b" }}', '4:54: "a b" is no cipher list; '),
        (f'tls = {{ {GOOD}, ciphers = "ECDHE+AESGCM", min_version = "1.3" }}', "4:44: ciphers are of TLS 1.2, which min_version forbids; "),
        (
            f'tls = {{ {GOOD}, ciphersuites = "TLS_AES_128_GCM_SHA256", max_version = "1.2" }}',
            "4:44: ciphersuites are of TLS 1.3, which max_version forbids; ",
        ),
        (f'tls = {{ {GOOD}, curves = ["secp256r1"] }}', '4:54: unknown curves "secp256r1"; '),
        (f'tls = {{ {GOOD}, alpn = "h3" }}', '4:51: unknown alpn "h3"; '),
        (f"tls = {{ {GOOD}, strict_sni = true }}", '4:44: unknown key "strict_sni"; '),
        (f'tls = {{ {GOOD}, session_timeout = "8d" }}', '4:62: "8d" is out of range; '),
        (
            f'tls = {{ {GOOD}, client_certificates = {{ mode = "required" }} }}',
            '4:68: client certificates are required, and nobody may sign them; ca = "clients-ca.pem"',
        ),
        (f'tls = {{ {GOOD}, client_certificates = {{ ca = "x" }} }}', "4:68: ca without client certificates; "),
        (
            f'tls = {{ {GOOD}, early_data = true, client_certificates = {{ mode = "required", ca = "x" }} }}',
            "4:44: early_data does not go with client certificates",
        ),
        (f"tls = {{ {GOOD}, early_data = true, tickets = false }}", "4:44: early_data comes with resumed sessions of TLS 1.3; "),
        (f'tls = {{ {GOOD}, early_data = true, max_version = "1.2" }}', "4:44: early_data comes with resumed sessions of TLS 1.3; "),
        ('hsts = "365d"', "4:1: hsts of a listener without tls; "),
        (f"tls = {{ {GOOD} }}\nredirect_https = true", "5:1: redirect_https of a listener with tls; "),
        (f"tls = {{ {GOOD} }}\nhsts = {{ subdomains = true }}", '5:1: hsts does not say for how long; max_age = "365d"'),
        (f'tls = {{ {GOOD} }}\nhsts = {{ max_age = "1d", preload = true }}', "5:26: browsers' list takes no such site; "),
    ],
)
def test_one_mistake_gives_one_error_at_its_place(text: str, expected: str) -> None:
    (found,) = errors(text)
    assert found.startswith(expected)


def test_rotation_of_keys_from_a_file_is_a_mistake() -> None:
    text = f'[global]\nticket_key_file = "k"\nticket_key_rotation = "1h"\n[[listeners]]\nname = "web"\nbind = ":1"{POOL}'
    with pytest.raises(ConfigError, match="f:3:1: the keys of tickets come from ticket_key_file; "):
        load_text(text, "f")


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ('"365d"', "max-age=31536000"),
        ('"0s"', "max-age=0"),
        ('"off"', ""),
        ('{ max_age = "730d", subdomains = true, preload = true }', "max-age=63072000; includeSubDomains; preload"),
    ],
)
def test_hsts_is_written_as_browsers_read_it(written: str, text: str) -> None:
    assert listener(f"tls = {{ {GOOD} }}\nhsts = {written}").hsts.text == text


def test_where_each_file_is_named_is_known() -> None:
    loaded = load_text(
        '[[listeners]]\nname = "web"\nbind = ":443"\ntls = { certificates = ["x.pem", { cert = "y.pem", key = "y.key" }], '
        f'client_certificates = {{ mode = "optional", ca = "ca" }} }}{POOL}',
        "f",
    )
    assert {name: str(place) for name, place in loaded.places.items()} == {
        "x.pem": "f:4:25",
        "y.pem": "f:4:43",
        "y.key": "f:4:58",
        "ca": "f:4:118",
    }


# ---------------------------------------------------------------------------------------------------- pools
def pool(text: str) -> Pool:
    (found,) = load_text(
        f'[[listeners]]\nname = "web"\nbind = ":80"\n[pools.p]\nbackends = "app.internal:8443"\n{text}\n', "f"
    ).config.pools
    return found


@pytest.mark.parametrize(
    ("written", "enabled"),
    [("false", False), ("true", True), ("{}", True), ('{ ca = "ca.pem" }', True), ("{ enabled = false, resume = false }", False)],
)
def test_a_table_says_that_backends_speak_tls(written: str, enabled: bool) -> None:
    assert not pool("").tls.enabled
    assert pool(f"tls = {written}").tls.enabled == enabled


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tls = 1", "found 1; true, false or a table: enabled, verify, "),
        ('tls = { key = "a.key" }', "the key of no certificate; "),
        ('tls = { verify = false, ca = "ca.pem" }', "nothing is verified where verify is false; "),
        ('tls = { min_version = "1.3", max_version = "1.2" }', "min_version 1.3 is above max_version 1.2; "),
        ('tls = { server_name = "a b" }', '"a b" is not a name; '),
        ('tls = true\n[pools.q]\ntls = true\nbackends = "unix:/run/app"', "a backend of this pool is a unix socket; "),
    ],
)
def test_one_mistake_of_a_pool_gives_one_error(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as raised:
        pool(text)
    assert [problem for problem in raised.value.lines() if expected in problem], raised.value.lines()


def test_health_checks_that_speak_plain_http_to_backends_with_tls_are_probably_not_meant() -> None:
    text = '[[listeners]]\nname = "web"\nbind = ":80"\n[pools.p]\nbackends = "a.b:1"\ntls = true\nhealth = %s\n'
    (warning,) = load_text(text % '{ type = "http" }', "f").warnings
    assert warning.found == 'the backends of the pool "p" speak TLS, and its health checks do not'
    assert load_text(text % '{ type = "http", tls = true }', "f").warnings == ()
    assert load_text(text % '"tcp"', "f").warnings == ()
