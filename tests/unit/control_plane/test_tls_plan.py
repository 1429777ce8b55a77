"""What the tls table of a listener tells the writer of snapshot images."""

from pathlib import Path
from typing import Any

import pytest

from fastlb.control_plane.config.errors import ConfigError
from fastlb.control_plane.config.loader import load_text
from fastlb.control_plane.tls.material import NO_MATERIAL, load_material, settle
from fastlb.control_plane.tls_plan import TlsPlan
from tests.support.authority import Authority, put

ROOT = Authority()
POOL = '\n[pools.p]\nbackends = "127.0.0.1:1"\n'


class RecordingWriter:
    """Stands for _core.SnapshotWriter."""

    def __init__(self) -> None:
        self.certificates: list[tuple[bytes, bytes]] = []
        self.listeners: dict[int, dict[str, Any]] = {}
        self.pools: dict[int, dict[str, Any]] = {}

    def add_certificate(self, chain: bytes, key: bytes, ocsp: bytes = b"") -> int:
        self.certificates.append((chain, key))
        return len(self.certificates) - 1

    def set_backend_tls(self, index: int, **options: Any) -> None:
        self.pools[index] = options

    def set_tls(self, index: int, **options: Any) -> None:
        self.listeners[index] = options


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    ROOT.issue("a.example", "both.example").write(tmp_path, "a")
    ROOT.issue("a.example", "*.a.example", kind="rsa2048").write(tmp_path, "r")
    ROOT.issue("b.example", number=1).write(tmp_path, "b")
    put(tmp_path / "ca", ROOT.pem)
    put(tmp_path / "crl", ROOT.revoke())
    return tmp_path


def plan(directory: Path, *tables: str, pool: str = "") -> RecordingWriter:
    text = "".join(f'[[listeners]]\nname = "l{n}"\nbind = ":{n + 1}"\n{table}\n' for n, table in enumerate(tables))
    config = load_text(f"{text}{POOL}{pool}", "f").config
    material, _ = settle(load_material(config, str(directory / "f")), config)
    writer: Any = RecordingWriter()
    made = TlsPlan(writer, material)
    for index, listener in enumerate(config.listeners):
        made.set_listener(index, listener)
    made.set_backends(0, config.pools[0])
    return writer  # type: ignore[no-any-return]


def tls(*names: str, more: str = "") -> str:
    files = ", ".join(f'{{ cert = "{name}.pem", key = "{name}.key" }}' for name in names)
    return f"tls = {{ certificates = [{files}]{more} }}"


def test_a_plain_listener_is_left_alone(directory: Path) -> None:
    writer = plan(directory, "", tls("b"))
    assert list(writer.listeners) == [1]
    assert NO_MATERIAL.certificates == {}


def test_each_name_has_its_certificates_one_of_each_kind_of_key(directory: Path) -> None:
    writer = plan(directory, tls("b", "a", "r"))
    (options,) = writer.listeners.values()
    served = {name: options["identities"][identity] for name, identity in options["names"]}
    assert served == {"b.example": [0], "a.example": [1, 2], "both.example": [1], "*.a.example": [2]}
    assert options["identities"][options["default"]] == [0]
    assert [chain for chain, _ in writer.certificates] == [(directory / f"{name}.pem").read_bytes() for name in "bar"]
    assert [key for _, key in writer.certificates] == [(directory / f"{name}.key").read_bytes() for name in "bar"]


def test_a_certificate_of_two_listeners_is_written_once(directory: Path) -> None:
    writer = plan(directory, tls("a"), tls("b", "a"))
    assert len(writer.certificates) == 2
    assert writer.listeners[1]["identities"] == [[1], [0]]


def test_unknown_names_may_be_refused(directory: Path) -> None:
    assert plan(directory, tls("a", more=', unknown_names = "refuse"')).listeners[0]["default"] is None


def test_a_first_certificate_without_names_is_that_of_unknown_names(directory: Path) -> None:
    ROOT.issue("10.0.0.1").write(directory, "ip")
    options = plan(directory, tls("ip", "b")).listeners[0]
    assert (options["identities"], options["default"], options["names"]) == ([[0], [1]], 0, [("b.example", 1)])


def test_settings_are_those_of_the_table(directory: Path) -> None:
    more = (
        ', min_version = "1.3", ciphersuites = ["TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256"], curves = ["P-256", "X25519"], '
        'handshake_timeout = "3s", tickets = false, session_timeout = "1h", '
        'client_certificates = { mode = "optional", ca = "ca", crl = "crl", depth = 2 }'
    )
    options = plan(directory, tls("a", more=more)).listeners[0]
    for name in ("identities", "names", "default", "challenges"):
        del options[name]
    assert options == {
        "min_version": 0x0304,
        "max_version": 0x0304,
        "ciphers": "",
        "ciphersuites": "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256",
        "groups": "P-256:X25519",
        "alpn": [b"h2", b"http/1.1"],
        "handshake_timeout_ms": 3000,
        "tickets": False,
        "session_timeout_s": 3600,
        "early_data_bytes": 0,
        "client_auth": "optional",
        "client_ca": ROOT.pem,
        "client_crl": (directory / "crl").read_bytes(),
        "client_depth": 2,
    }


def test_backends_are_spoken_to_plainly_unless_the_pool_says_otherwise(directory: Path) -> None:
    assert plan(directory, tls("a")).pools == {}
    usual = {
        "verify": True,
        "server_name": "",
        "ca": b"",
        "certificate": None,
        "min_version": 0x0303,
        "max_version": 0x0304,
        "alpn": (),
        "ciphers": "",
        "ciphersuites": "",
        "groups": "",
        "resume": True,
    }
    assert plan(directory, "", pool="tls = true").pools == {0: usual}


def test_a_pool_has_ciphers_and_curves_of_its_own(directory: Path) -> None:
    table = 'tls = { ciphers = "ECDHE+AESGCM", ciphersuites = ["TLS_AES_256_GCM_SHA384"], curves = ["P-256", "X25519"] }'
    options = plan(directory, tls("a"), pool=table).pools[0]
    assert (options["ciphers"], options["ciphersuites"], options["groups"]) == ("ECDHE+AESGCM", "TLS_AES_256_GCM_SHA384", "P-256:X25519")


def test_early_data_is_taken_where_that_is_said(directory: Path) -> None:
    assert plan(directory, tls("a", more=", early_data = true")).listeners[0]["early_data_bytes"] == 16384


def test_a_pool_has_its_authorities_and_shows_a_certificate(directory: Path) -> None:
    ROOT.issue_client("fastlb", number=3).write(directory, "client")
    table = 'tls = { ca = "ca", cert = "client.pem", key = "client.key", server_name = "app", min_version = "1.3", resume = false }'
    writer = plan(directory, tls("a"), pool=table)
    options = writer.pools[0]
    assert (options["ca"], options["certificate"], options["server_name"], options["min_version"]) == (ROOT.pem, 1, "app", 0x0304)
    assert writer.certificates[1][0] == (directory / "client.pem").read_bytes()
    assert options["resume"] is False


def test_a_certificate_that_is_shown_to_backends_needs_no_names_and_is_no_servers(directory: Path) -> None:
    ROOT.issue_client("fastlb", number=3).write(directory, "client")
    text = f'[[listeners]]\nname = "l"\nbind = ":1"\n{POOL}tls = {{ cert = "client.pem", key = "client.key" }}\n'
    config = load_text(text, "f").config
    assert settle(load_material(config, str(directory / "f")), config)[1] == []
    (directory / "client.key").unlink()
    with pytest.raises(ConfigError, match=r"client\.key: cannot be read"):
        settle(load_material(config, str(directory / "f")), config)
