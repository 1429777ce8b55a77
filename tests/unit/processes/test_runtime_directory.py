"""The runtime directory: where it is, who may have it, and that it goes when nobody needs it."""

import os
from pathlib import Path

import pytest

from fastlb.processes.runtime_directory import RuntimeDirectory, RuntimeDirectoryError, find_runtime_directory


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run"


def test_it_is_that_of_systemd_where_there_is_one(monkeypatch):
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/first:/run/second")
    assert find_runtime_directory() == Path("/run/first")


def test_root_has_one_in_run_and_others_one_of_their_own(monkeypatch):
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert find_runtime_directory() == Path("/run/fastlb")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert find_runtime_directory() == Path("/run/user/1000/fastlb")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert find_runtime_directory() == Path("/tmp/fastlb-1000")


def test_it_is_made_for_its_owner_and_goes_when_it_is_empty(path):
    directory = RuntimeDirectory.open(path)
    assert path.stat().st_mode & 0o777 == 0o700
    directory.close()
    assert not path.exists()
    directory.close()  # nothing more happens


def test_one_that_was_there_or_holds_something_stays(path):
    path.mkdir(0o700)
    RuntimeDirectory.open(path).close()
    assert path.is_dir()
    path.rmdir()
    directory = RuntimeDirectory.open(path)
    (path / "left").touch()
    directory.close()
    assert (path / "left").exists()


def test_second_one_is_refused_while_the_first_has_it_or_a_copy_of_its_descriptor(path):
    first = RuntimeDirectory.open(path)
    with pytest.raises(RuntimeDirectoryError, match="another running fastlb has"):
        RuntimeDirectory.open(path)
    copy = os.dup(first.fileno())
    (path / "kept").touch()
    first.close()
    with pytest.raises(RuntimeDirectoryError, match="another running fastlb has"):
        RuntimeDirectory.open(path)
    os.close(copy)
    RuntimeDirectory.open(path).close()


def test_one_in_which_others_may_write_is_refused(path):
    path.mkdir()
    path.chmod(0o777)
    with pytest.raises(RuntimeDirectoryError, match="others may write"):
        RuntimeDirectory.open(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_one_of_somebody_else_is_refused(path):
    path.mkdir(0o700)
    os.chown(path, 12345, 12345)
    with pytest.raises(RuntimeDirectoryError, match="belongs to somebody else"):
        RuntimeDirectory.open(path)


def test_link_and_missing_parent_are_refused(path, tmp_path):
    (tmp_path / "real").mkdir(0o700)
    path.symlink_to(tmp_path / "real")
    with pytest.raises(RuntimeDirectoryError, match="cannot use"):
        RuntimeDirectory.open(path)
    with pytest.raises(RuntimeDirectoryError, match="no such file"):
        RuntimeDirectory.open(tmp_path / "missing" / "run")


def test_one_that_is_taken_away_before_it_is_opened_is_made_again(path, monkeypatch):
    path.mkdir(0o700)
    tries = []

    def open_late(name, *arguments, really=os.open):
        if name == path and not tries:
            tries.append(name)
            path.rmdir()
        return really(name, *arguments)

    monkeypatch.setattr(os, "open", open_late)
    RuntimeDirectory.open(path).close()
    assert tries == [path]
    assert not path.exists(), "it was made here"


def test_refusal_leaves_no_descriptor(path):
    first = RuntimeDirectory.open(path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(RuntimeDirectoryError):
            RuntimeDirectory.open(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    first.close()
