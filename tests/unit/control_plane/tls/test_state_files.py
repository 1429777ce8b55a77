"""What is kept over restarts: whole files, for their owner alone."""

import os
import stat
import time
from pathlib import Path

import pytest

from fastlb.control_plane.config.schema import GlobalSettings
from fastlb.control_plane.tls.state_files import MAX_FILE_BYTES, StateError, StateFiles, find_state_files, make_state_directory

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another account")


def test_what_is_written_is_read_again_and_belongs_to_its_owner_alone(tmp_path: Path) -> None:
    files = StateFiles(tmp_path / "tls")
    old_mask = os.umask(0)
    try:
        files.write("acme/ca/shop.pem", b"one")
        files.write("acme/ca/shop.pem", b"two")
    finally:
        os.umask(old_mask)
    assert files.read("acme/ca/shop.pem") == b"two"
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "tls").rglob("*")} == {0o700, 0o600}
    assert [path.name for path in (tmp_path / "tls/acme/ca").iterdir()] == ["shop.pem"]
    assert files.list("acme/ca") == ["shop.pem"]
    files.remove("acme/ca/shop.pem")
    files.remove("acme/ca/shop.pem")
    assert files.read("acme/ca/shop.pem") == b""
    assert files.list("nothing") == []


def test_what_cannot_be_kept_is_said(tmp_path: Path) -> None:
    (tmp_path / "acme").write_text("a file where a directory should be")
    files = StateFiles(tmp_path)
    for what in (lambda: files.write("acme/x", b""), lambda: files.lock("acme/x"), lambda: files.read("acme/x")):
        with pytest.raises(StateError, match=r"^cannot (read|write|lock) .*acme/x: "):
            what()
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "large").write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    os.mkfifo(tmp_path / "fifo")
    for name, said in (("link", "cannot read"), ("large", "is larger than 1 MiB"), ("fifo", "is not a file")):
        with pytest.raises(StateError, match=said):
            files.read(name)


def test_without_a_directory_nothing_is_kept_and_nothing_fails() -> None:
    files = StateFiles(None)
    files.write("x", b"y")
    files.remove("x")
    files.prune("x", 0)
    assert (files.read("x"), files.list("x")) == (b"", [])
    lock = files.lock("x")
    assert lock is not None
    lock.close()


def test_a_lock_keeps_others_out_until_it_is_closed(tmp_path: Path) -> None:
    files = StateFiles(tmp_path)
    lock = files.lock("acme/ca/lock")
    assert lock is not None
    assert files.lock("acme/ca/lock") is None
    lock.close()
    lock.close()
    again = files.lock("acme/ca/lock")
    assert again is not None
    del again  # as of a task that was cancelled
    third = files.lock("acme/ca/lock")
    assert third is not None
    third.close()


def test_old_files_are_removed(tmp_path: Path) -> None:
    files = StateFiles(tmp_path)
    for name, age in (("new", 10), ("old", 1000)):
        files.write(f"ocsp/{name}", b"x")
        os.utime(tmp_path / "ocsp" / name, (time.time() - age,) * 2)
    files.prune("ocsp", 500)
    assert files.list("ocsp") == ["new"]


def test_the_directory_is_made_below_state_dir(tmp_path: Path) -> None:
    settings = GlobalSettings(state_dir=str(tmp_path / "state"))
    assert find_state_files(settings).directory is None
    assert make_state_directory(settings, None) == []
    assert find_state_files(settings).directory == tmp_path / "state" / "tls"
    assert stat.S_IMODE((tmp_path / "state" / "tls").stat().st_mode) == 0o700


@needs_root
def test_the_directory_belongs_to_the_account_of_the_controller_which_can_reach_it(tmp_path: Path) -> None:
    settings = GlobalSettings(state_dir=str(tmp_path / "state"))
    (tmp_path / "state").mkdir(mode=0o700)
    assert make_state_directory(settings, (NOBODY, NOBODY)) == []
    status = (tmp_path / "state" / "tls").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (NOBODY, NOBODY, 0o700)
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o711  # passed through, and not listed


@needs_root
def test_a_directory_that_may_not_be_passed_through_is_as_good_as_none(tmp_path: Path) -> None:
    """Made by a fastlb of another account."""
    settings = GlobalSettings(state_dir=str(tmp_path / "state"))
    (tmp_path / "state" / "tls").mkdir(parents=True)
    (tmp_path / "state").chmod(0o700)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setuid(NOBODY)
            status = 0 if find_state_files(settings).directory is None else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@needs_root
def test_a_link_in_the_place_of_the_directory_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "victim").mkdir()
    (tmp_path / "state" / "tls").symlink_to(tmp_path / "victim")
    (warning,) = make_state_directory(GlobalSettings(state_dir=str(tmp_path / "state")), (NOBODY, NOBODY))
    assert "there is nowhere to keep certificates and OCSP responses" in warning
    assert (tmp_path / "victim").stat().st_uid == 0


def test_it_is_said_where_there_is_nowhere(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (warning,) = make_state_directory(GlobalSettings(state_dir=str(tmp_path / "file")), None)
    assert "say where with state_dir in [global]" in warning
