"""Which certificates `fastlb plan` says that a reload would bring, take away or replace."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from fastlb.cli import main
from fastlb.control_plane.certificate_plan import Served, list_served, plan_certificates
from tests.support.issue import issue

LISTENER = '[[listeners]]\nname = "web"\nbind = ":443"\ntls = {{ certificates = {} }}\n[pools.p]\nbackends = ["10.0.0.1:80"]\n'
A = Served("a.pem", ("a.example", "www.a.example"), "ECDSA", "R3", "2027-01-01 00:00 UTC", "aa")
B = Served("b.pem", ("b.example",), "ECDSA", "R3", "2027-02-01 00:00 UTC", "bb")


def lines(before: list[Served], after: list[Served]) -> list[str]:
    return [line for change in plan_certificates(before, after) for line in change.lines()]


def renewed(one: Served, **changes: str) -> Served:
    facts = {"file": one.file, "key_type": one.key_type, "issuer": one.issuer, "expires": one.expires, "fingerprint": "cc", **changes}
    return Served(names=one.names, **facts)


def test_the_same_certificate_in_another_file_is_no_change() -> None:
    assert lines([A, B], [B, renewed(A, file="moved.pem", fingerprint="aa")]) == []


def test_one_that_comes_and_one_that_goes_are_told_with_what_clients_see() -> None:
    assert lines([A], [B]) == [
        "+ certificate b.pem (added)",
        "    names: b.example",
        "    key: ECDSA",
        "    issuer: R3",
        "    expires: 2027-02-01 00:00 UTC",
        "- certificate a.pem (removed)",
        "    names: a.example, www.a.example",
        "    key: ECDSA",
        "    issuer: R3",
        "    expires: 2027-01-01 00:00 UTC",
    ]


@pytest.mark.parametrize("file", ["a.pem", "new.pem"])
def test_one_that_takes_the_place_of_another_is_told_by_what_differs(file: str) -> None:
    moved = [] if file == A.file else ["    file: a.pem → new.pem"]
    assert lines([A, B], [renewed(A, file=file, issuer="E5", expires="2027-09-01 00:00 UTC"), B]) == [
        f"~ certificate {file} (changed)",
        *moved,
        "    issuer: R3 → E5",
        "    expires: 2027-01-01 00:00 UTC → 2027-09-01 00:00 UTC",
    ]


def test_one_with_another_kind_of_key_is_beside_and_not_instead() -> None:
    assert lines([A], [A, renewed(A, file="rsa.pem", key_type="RSA")])[0] == "+ certificate rsa.pem (added)"


def test_what_is_served_but_not_from_a_listeners_files_is_left_out() -> None:
    row = {"names": [], "key_type": "", "issuer": "", "expires": "", "fingerprint": "f"}
    assert [one.file for one in list_served([{**row, "file": "a", "listeners": []}, {**row, "file": "b", "listeners": ["web"]}])] == ["b"]


def test_command_reads_files_and_no_keys(tmp_path: Path) -> None:
    for name in ("a", "b"):
        chain, _ = issue(f"{name}.example")
        (tmp_path / f"{name}.pem").write_bytes(chain)
    old, new = tmp_path / "old.toml", tmp_path / "new.toml"
    old.write_text(LISTENER.format('[{ cert = "a.pem", key = "nowhere.key" }]'))
    new.write_text(LISTENER.format('[{ cert = "b.pem", key = "nowhere.key" }, { cert = "missing.pem", key = "nowhere.key" }]'))
    result = CliRunner().invoke(main, ["plan", str(new), "--against", str(old), "--json"], prog_name="fastlb")
    assert result.exit_code == 4, result.output
    changes = {change["name"]: change for change in json.loads(result.stdout)["changes"] if change["what"] == "certificate"}
    assert {name: change["how"] for name, change in changes.items()} == {"a.pem": "removed", "b.pem": "added", "missing.pem": "added"}
    assert "names: b.example" in changes["b.pem"]["notes"]
    assert changes["missing.pem"]["notes"] == ["error: cannot be read: no such file or directory; give the path of a PEM file"]
