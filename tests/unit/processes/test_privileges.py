"""Choosing an account, and root given up so that it cannot be had back."""

import grp
import json
import os
import pwd
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastlb.processes import _system, privileges
from fastlb.processes.privileges import Identity, PrivilegeError, choose_identity, drop

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change accounts")
NOBODY = pwd.getpwnam("nobody")


def in_child(work: Callable[[], Any]) -> Any:
    """What `work` returns (as JSON) in a forked process, which is then gone: what it gave up cannot be had back here."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            try:
                answer = {"value": work()}
            except BaseException as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            os.write(writing, json.dumps(answer).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answered:
        answer = json.loads(answered.read())
    os.waitpid(pid, 0)
    assert "error" not in answer, answer["error"]
    return answer["value"]


def status() -> dict[str, str]:
    """/proc/self/status, which dumpability does not hide from its owner."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.fixture
def be_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.fixture
def be_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY.pw_uid)
    monkeypatch.setattr(os, "getegid", lambda: NOBODY.pw_gid)


# ---------------------------------------------------------------------------------------------------------- choosing
@pytest.mark.usefixtures("be_root")
def test_root_becomes_nobody_unless_told_otherwise() -> None:
    identity, warnings = choose_identity("", "")
    assert (identity, warnings) == (Identity(NOBODY.pw_uid, NOBODY.pw_gid, (NOBODY.pw_gid,), "nobody"), [])


@pytest.mark.usefixtures("be_root")
def test_a_user_comes_with_its_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getgrouplist", lambda name, gid: [gid, 7, 8])
    daemon = pwd.getpwnam("daemon")
    assert choose_identity("daemon", "")[0] == Identity(daemon.pw_uid, daemon.pw_gid, (daemon.pw_gid, 7, 8), "daemon")
    tty = grp.getgrnam("tty").gr_gid
    for group in ("tty", str(tty)):
        assert choose_identity("daemon", group)[0] == Identity(daemon.pw_uid, tty, (tty, 7, 8), "daemon")
    assert choose_identity(str(daemon.pw_uid), "")[0] == choose_identity("daemon", "")[0]


@pytest.mark.usefixtures("be_root")
def test_a_number_without_an_account_needs_a_group() -> None:
    assert choose_identity("54321", "54322")[0] == Identity(54321, 54322, (54322,), "54321")
    with pytest.raises(PrivilegeError, match="no account has the number 54321, so it has no group either"):
        choose_identity("54321", "")


@pytest.mark.usefixtures("be_root")
@pytest.mark.parametrize(
    ("user", "group", "expected"),
    [
        ("no-such-user", "", 'there is no user "no-such-user" on this system; create it'),
        ("4294967295", "nogroup", 'there is no user "4294967295"'),  # -1 would mean "leave it as it is"
        ("nobody", "no-such-group", 'there is no group "no-such-group" on this system'),
        ("nobody", "4294967295", 'there is no group "4294967295"'),
    ],
)
def test_an_account_that_does_not_exist_is_an_error(user: str, group: str, expected: str) -> None:
    with pytest.raises(PrivilegeError, match=expected):
        choose_identity(user, group)


@pytest.mark.usefixtures("be_root")
def test_a_system_without_nobody_has_to_name_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privileges, "DEFAULT_USER", "no-such-user")
    with pytest.raises(PrivilegeError, match="name the account to run under: --user NAME"):
        choose_identity("", "")


@pytest.mark.usefixtures("be_root")
def test_staying_root_is_possible_and_warned_of() -> None:
    for user in ("root", "0"):
        identity, (warning,) = choose_identity(user, "")
        assert identity is not None
        assert (identity.uid, identity.name) == (0, "root")
        assert warning.startswith("workers run as root")


@pytest.mark.usefixtures("be_nobody")
def test_anybody_else_stays_what_they_are() -> None:
    for user, group in (("", ""), ("nobody", ""), (str(NOBODY.pw_uid), str(NOBODY.pw_gid))):
        assert choose_identity(user, group) == (None, [])


@pytest.mark.usefixtures("be_nobody")
@pytest.mark.parametrize(
    ("user", "group", "ignored"),
    [
        ("daemon", "", 'user = "daemon"'),
        ("root", "", 'user = "root"'),
        ("no-such-user", "no-such-group", 'user = "no-such-user" and group = "no-such-group"'),
        ("", "tty", 'group = "tty"'),
    ],
)
def test_what_only_root_could_do_is_a_warning(user: str, group: str, ignored: str) -> None:
    assert choose_identity(user, group) == (None, [f"{ignored} is ignored: only root can change accounts, and this is nobody"])


@pytest.mark.usefixtures("be_nobody")
def test_a_number_without_a_name_is_called_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    assert choose_identity("54321", "") == (None, [])
    (warning,) = choose_identity("daemon", "")[1]
    assert warning.endswith("and this is 54321")


# ---------------------------------------------------------------------------------------------------------- dropping
@as_root
def test_root_is_given_up_in_all_its_forms() -> None:
    def work() -> dict[str, str]:
        identity, _ = choose_identity("nobody", "")
        drop(identity)
        return status()

    after = in_child(work)
    assert after["Uid"].split() == [str(NOBODY.pw_uid)] * 4
    assert after["Gid"].split() == [str(NOBODY.pw_gid)] * 4
    assert after["Groups"].split() == [str(NOBODY.pw_gid)]
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(after[kind], 16) == 0, kind
    assert after["NoNewPrivs"] == "1"
    assert after["Umask"] == "0077"


@as_root
def test_root_cannot_be_had_back() -> None:
    def work() -> list[str]:
        drop(choose_identity("nobody", "")[0])
        refused = []
        for name in ("setuid", "seteuid", "setgid", "setegid"):
            try:
                getattr(os, name)(0)
            except PermissionError:
                refused.append(name)
        below = subprocess.run(["sh", "-c", "id -u; id -g"], capture_output=True, text=True, check=True, cwd="/")
        return [*refused, *below.stdout.split()]

    assert in_child(work) == ["setuid", "seteuid", "setgid", "setegid", str(NOBODY.pw_uid), str(NOBODY.pw_gid)]


@as_root
def test_a_process_that_was_root_cannot_be_traced_by_others_of_its_account() -> None:
    def work() -> list[bool]:
        before = _system.is_dumpable()
        drop(choose_identity("nobody", "")[0])
        return [before, _system.is_dumpable(), os.access("/proc/self/fd", os.R_OK) or any(Path("/proc/self/fd").iterdir())]

    assert in_child(work) == [True, False, True]


@as_root
def test_whoever_asked_for_root_keeps_it_without_new_privileges() -> None:
    def work() -> dict[str, str]:
        drop(choose_identity("root", "")[0])
        return status()

    before, after = status(), in_child(work)
    assert [after[name] for name in ("Uid", "Gid", "Groups", "CapEff")] == [before[name] for name in ("Uid", "Gid", "Groups", "CapEff")]
    assert after["NoNewPrivs"] == "1"


@as_root
def test_root_with_another_group_has_that_group() -> None:
    def work() -> dict[str, str]:
        drop(choose_identity("root", "tty")[0])
        return status()

    after = in_child(work)
    assert (after["Uid"].split()[0], after["Gid"].split()) == ("0", [str(grp.getgrnam("tty").gr_gid)] * 4)


@as_root
def test_a_supplementary_group_stays_with_its_user() -> None:
    def work() -> dict[str, str]:
        drop(Identity(NOBODY.pw_uid, NOBODY.pw_gid, (NOBODY.pw_gid, 54321), "nobody"))
        return status()

    assert set(in_child(work)["Groups"].split()) == {str(NOBODY.pw_gid), "54321"}


@as_root
def test_root_without_the_capability_to_change_says_what_is_missing() -> None:
    def work() -> str:
        _system.clear_capabilities()  # root, as in a container that was given none
        try:
            drop(choose_identity("nobody", "")[0])
        except PrivilegeError as error:
            return str(error)
        return "dropped"

    said = in_child(work)
    assert said.startswith("cannot become nobody: operation not permitted; root needs CAP_SETUID and CAP_SETGID")
    assert "--user root" in said


@as_root
def test_a_change_that_the_system_only_pretends_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "setresuid", lambda *_: None)

    def work() -> str:
        try:
            drop(choose_identity("nobody", "")[0])
        except PrivilegeError as error:
            return str(error)
        return "dropped"

    assert in_child(work).startswith("the system did not change to nobody")


@as_root
def test_root_that_can_be_had_back_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a saved user id that a change left behind."""
    really = os.setresuid
    monkeypatch.setattr(os, "setresuid", lambda real, effective, saved: really(real, effective, 0 if saved > 0 else saved))
    monkeypatch.setattr(os, "getresuid", lambda: (NOBODY.pw_uid,) * 3)

    def work() -> str:
        try:
            drop(choose_identity("nobody", "")[0])
        except PrivilegeError as error:
            return str(error)
        return "dropped"

    assert in_child(work) == "root could be had back after the change to nobody"


def test_anybody_else_loses_what_capabilities_they_have() -> None:
    def work() -> dict[str, str]:
        if os.geteuid() == 0:  # somebody else with capabilities, as systemd's AmbientCapabilities= makes them
            os.setresuid(0, NOBODY.pw_uid, 0)
        drop(None)
        return status()

    after = in_child(work)
    for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(after[kind], 16) == 0, kind
    assert (after["NoNewPrivs"], after["Umask"]) == ("1", "0077")
