"""What is used of what the files of a configuration hold: the last good one, none, or nothing at all."""

import base64
import pickle
import secrets
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from fastlb.control_plane.config.errors import ConfigError
from fastlb.control_plane.config.loader import Loaded, load_file
from fastlb.control_plane.tls import material as module
from fastlb.control_plane.tls.certificate import Certificate
from fastlb.control_plane.tls.files import TlsError, TlsFiles
from fastlb.control_plane.tls.material import NO_MATERIAL, Material, list_served, load_material, reread_material, settle
from fastlb.control_plane.tls.tickets import KEPT, KEY_BYTES, TicketKeys, read_ticket_keys
from fastlb.control_plane.tls.trial import find_refused
from tests.support.authority import Authority, key_pem, make_key, put

ROOT = Authority()
TEXT = """
[[listeners]]
name = "web"
bind = "127.0.0.1:0"
tls = { certificates = [{ cert = "a.pem", key = "a.key" }, { cert = "b.pem", key = "b.key" }] }
[[listeners]]
name = "other"
bind = "127.0.0.1:0"
tls = { certificates = { cert = "a.pem", key = "a.key" } }
[pools.p]
backends = "127.0.0.1:1"
"""
MTLS = TEXT.replace('"b.key" }] }', '"b.key" }], client_certificates = { mode = "required", ca = "ca.pem", crl = "ca.crl" } }')


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    ROOT.issue("a.example").write(tmp_path, "a")
    ROOT.issue("b.example", number=1).write(tmp_path, "b")
    put(tmp_path / "ca.pem", ROOT.pem)
    put(tmp_path / "ca.crl", ROOT.revoke())
    return tmp_path


def load(directory: Path, text: str = TEXT) -> Loaded:
    (directory / "f.toml").write_text(text)
    return load_file(str(directory / "f.toml"))


def read(directory: Path, loaded: Loaded) -> Material:
    return load_material(loaded.config, str(directory / "f.toml"), loaded.places)


def names(material: Material) -> list[tuple[str, ...]]:
    return [certificate.names for certificate in material.certificates.values()]


def test_all_that_is_named_is_read_once_from_the_directory_of_the_configuration(directory: Path) -> None:
    loaded = load(directory, MTLS)
    material, warnings = settle(read(directory, loaded), loaded.config)
    assert names(material) == [("a.example",), ("b.example",)]
    assert set(material.bundles) == {"ca.pem", "ca.crl"}
    assert warnings == []
    assert material.files.paths() == [str(directory / name) for name in ("a.pem", "a.key", "b.pem", "b.key", "ca.pem", "ca.crl")]
    assert msgspec.json.decode(msgspec.json.encode(material.files), type=TlsFiles) == material.files
    assert pickle.loads(pickle.dumps(material)) == material


def test_authorities_and_what_they_have_revoked_may_be_in_one_file(directory: Path) -> None:
    put(directory / "ca.pem", ROOT.pem + ROOT.revoke())
    loaded = load(directory, MTLS.replace("ca.crl", "ca.pem"))
    material, _ = settle(read(directory, loaded), loaded.config)
    assert b"BEGIN CERTIFICATE" in material.bundles["ca.pem"]
    assert b"BEGIN X509 CRL" in material.bundles["ca.pem"]


def test_without_tls_nothing_is_read_and_cryptography_not_imported() -> None:
    code = (
        "import sys; from fastlb.control_plane.tls.material import load_material; from fastlb.control_plane.config.schema import Config\n"
        "import fastlb.control_plane.controller; load_material(Config(), '')\nprint('cryptography' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_wrong_certificate_is_left_out_and_the_others_are_served(directory: Path) -> None:
    put(directory / "b.key", key_pem(make_key("ec", 5)))
    loaded = load(directory)
    material, (warning,) = settle(read(directory, loaded), loaded.config)
    assert names(material) == [("a.example",)]
    assert warning.startswith(f"{directory}/f.toml:5:69: b.pem: the private key b.key does not belong to the certificate; ")
    assert warning.endswith("; it is not served until it is right")


def test_a_listener_without_any_right_certificate_is_an_error_with_its_place(directory: Path) -> None:
    (directory / "a.key").unlink()
    loaded = load(directory)
    with pytest.raises(ConfigError) as raised:
        settle(read(directory, loaded), loaded.config)
    assert raised.value.lines() == [
        f"{directory}/f.toml:5:49: a.key: cannot be read: no such file or directory; give the path of a PEM file"
    ]


def test_the_last_good_certificate_stays_while_its_files_are_wrong(directory: Path) -> None:
    loaded = load(directory)
    good, _ = settle(read(directory, loaded), loaded.config)
    put(directory / "a.pem", ROOT.issue("a.example", "new.example", number=2).pem)  # its key has not come yet
    material, (warning,) = settle(reread_material(good.files), loaded.config, good)
    assert material.holds_the_same(good)
    assert warning.startswith("a.pem: the private key a.key does not belong to the certificate; ")
    assert warning.endswith("; what it held before stays in use")
    put(directory / "a.key", key_pem(make_key("ec", 2)))
    material, warnings = settle(reread_material(good.files), loaded.config, material)
    assert (names(material)[0], warnings) == (("a.example", "new.example"), [])


def test_another_file_under_the_same_name_is_no_earlier_version(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    loaded = load(directory)
    good, _ = settle(read(directory, loaded), loaded.config)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    moved = load(elsewhere)
    with pytest.raises(ConfigError):
        settle(read(elsewhere, moved), moved.config, good)


@pytest.mark.parametrize("name", ["ca.pem", "ca.crl"])
def test_a_bundle_that_is_wrong_never_opens_the_door(directory: Path, name: str) -> None:
    loaded = load(directory, MTLS)
    good, _ = settle(read(directory, loaded), loaded.config)
    put(directory / name, b"nothing")
    with pytest.raises(ConfigError, match=name):
        settle(read(directory, loaded), loaded.config)
    material, (warning,) = settle(read(directory, loaded), loaded.config, good)
    assert material.holds_the_same(good)
    assert warning.endswith("; what it held before stays in use")


def test_a_name_of_two_certificates_is_served_with_the_first_and_said(directory: Path) -> None:
    ROOT.issue("b.example", "a.example", number=1).write(directory, "b")
    loaded = load(directory)
    material, (warning,) = settle(read(directory, loaded), loaded.config)
    assert warning == (
        'b.pem: "a.example" is served with a.pem, which stands before it at listener "web"; '
        "a name has one certificate of each kind of key (ECDSA here)"
    )
    ROOT.issue("b.example", "a.example", kind="rsa2048").write(directory, "b")
    assert settle(read(directory, loaded), loaded.config)[1] == []
    assert material.certificates


def test_a_certificate_that_nobody_would_get_is_said(directory: Path) -> None:
    ROOT.issue("10.0.0.1", number=1).write(directory, "b")
    loaded = load(directory)
    _, (warning,) = settle(read(directory, loaded), loaded.config)
    assert warning.startswith('b.pem: listener "web" never serves it, as it has no names; ')
    named = load(directory, TEXT.replace('key = "b.key"', 'key = "b.key", names = ["Inner.example", "*.b.example"]'))
    material, warnings = settle(read(directory, named), named.config)
    assert warnings == []
    assert list_served(named.config.listeners[0], material)[1][1] == ("inner.example", "*.b.example")


# ---------------------------------------------------------------------------------------------------- keys of tickets
def lines(*keys: bytes) -> bytes:
    return b"# ours\n\n" + b"".join(base64.b64encode(key) + b"  # one\n" for key in keys)


def test_keys_of_a_file_are_read_in_its_order(tmp_path: Path) -> None:
    keys = tuple(secrets.token_bytes(KEY_BYTES) for _ in range(3))
    put(tmp_path / "k", lines(*keys))
    assert read_ticket_keys(TlsFiles(str(tmp_path)), "k") == (keys, [])
    (tmp_path / "k").chmod(0o640)
    (finding,) = read_ticket_keys(TlsFiles(str(tmp_path)), "k")[1]
    assert str(finding).startswith("k: these keys can be read or written by others than their owner; ")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "k: there are 0 keys in it; 1 to 8 different ones, the newest first"),
        (lines(b"x" * 48), "k: line 3 is no key; a line is 80 random bytes in base64: openssl rand -base64 80"),
        (b"!!!\n", "k: line 1 is no key; "),
        (lines(b"x" * 80, b"x" * 80), "k: there are 2 keys in it; "),
        (lines(*(bytes([n]) * 80 for n in range(9))), "k: there are 9 keys in it; "),
        (b"\xff\xfe", "k: line 1 is no key; "),
    ],
)
def test_what_are_no_keys_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    put(tmp_path / "k", content)
    with pytest.raises(TlsError) as raised:
        read_ticket_keys(TlsFiles(str(tmp_path)), "k")
    assert str(raised.value).startswith(says)


def test_ticket_keys_that_are_wrong_leave_the_last_ones(directory: Path) -> None:
    put(directory / "k", lines(b"1" * 80))
    loaded = load(directory, f'[global]\nticket_key_file = "k"\n{TEXT}')
    good, _ = settle(read(directory, loaded), loaded.config)
    assert good.ticket_keys == (b"1" * 80,)
    put(directory / "k", b"nonsense")
    material, (warning,) = settle(read(directory, loaded), loaded.config, good)
    assert material.ticket_keys == good.ticket_keys
    assert "line 1 is no key" in warning
    with pytest.raises(ConfigError, match="line 1 is no key"):
        settle(read(directory, loaded), loaded.config, NO_MATERIAL)


def test_keys_are_changed_when_it_is_time_and_older_ones_kept() -> None:
    hour = 3_600_000
    keys = TicketKeys()
    assert keys.is_due(hour, 1000.0)
    made = []
    for number in range(KEPT + 1):
        keys = keys.rotate(1000.0 + number * 3600)
        made.insert(0, keys.keys[0])
        assert keys.keys == tuple(made[:KEPT])
    now = keys.born
    assert not keys.is_due(hour, now + 3599)
    assert keys.is_due(hour, now + 3600)
    assert keys.seconds_left(hour, now + 600) == 3000
    assert keys.is_due(hour, now - 1)  # the clock was wrong when they were made
    assert len(set(made)) == KEPT + 1
    assert {len(key) for key in made} == {KEY_BYTES}
    assert made[0].hex() not in repr(keys)
    assert replace(keys, born=0.0).is_due(hour, now)


# ---------------------------------------------------------------------------------------------------- what OpenSSL says
def test_what_openssl_would_refuse_in_a_worker_is_found_one_by_one() -> None:
    kept = {}
    for number in range(5):
        issued = ROOT.issue(f"{number}.example", number=number)
        key = issued.key_pem if number not in (1, 4) else key_pem(make_key("ec", 9))
        kept[number] = Certificate(f"{number}.pem", "k", issued.pem, key, (), "ECDSA", 0, 0, "", "")
    assert [(one.cert, reason) for one, reason in find_refused(list(kept.values()))] == [
        ("1.pem", "key values mismatch"),
        ("4.pem", "key values mismatch"),
    ]
    assert find_refused([kept[0], kept[2]]) == find_refused([]) == []


def test_a_certificate_that_openssl_refuses_is_left_out(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_refused", lambda certificates: [(certificates[1], "no such thing")])
    loaded = load(directory)
    material, (warning,) = settle(read(directory, loaded), loaded.config)
    assert names(material) == [("a.example",)]
    assert "b.pem: OpenSSL does not take this certificate: no such thing; " in warning
