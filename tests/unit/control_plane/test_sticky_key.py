"""The key of sticky cookies: given, read, or made once; and the values it makes."""

import os
from pathlib import Path

import pytest

from fastlb.control_plane import sticky_key
from fastlb.control_plane.config.loader import load_text
from fastlb.control_plane.config.schema import Config
from fastlb.control_plane.sticky_key import StickyKeyError, default_directories, load_sticky_key
from fastlb.control_plane.sticky_plan import make_cookie_value


def config(**settings: str) -> Config:
    lines = "".join(f'{key} = "{value}"\n' for key, value in settings.items())
    text = f'[global]\n{lines}[[listeners]]\nname = "web"\nbind = ":1"\n[pools.main]\nbackends = ["10.0.0.1:80"]\n'
    return load_text(f'{text}sticky = {{ cookie = "ID" }}\n', "f").config


def key_of(known: sticky_key.StickyKey | None = None, /, **settings: str) -> bytes:
    found, warnings = load_sticky_key(config(**settings), known)
    assert found is not None
    assert warnings == []
    return found.key


def test_configuration_without_cookies_needs_no_key(tmp_path: Path) -> None:
    assert load_sticky_key(Config()) == (None, [])


def test_secret_of_the_configuration_always_gives_the_same_key() -> None:
    assert key_of(sticky_key="0123456789abcdef") == key_of(sticky_key="0123456789abcdef")
    assert key_of(sticky_key="0123456789abcdef") != key_of(sticky_key="0123456789abcdeg")
    assert len(key_of(sticky_key="x" * 1000)) == 32


def test_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    first = key_of(state_dir=str(directory))
    assert key_of(state_dir=str(directory)) == first
    assert (directory / "sticky.key").stat().st_mode & 0o777 == 0o600
    assert directory.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in directory.iterdir()] == ["sticky.key"]
    assert key_of(state_dir=str(tmp_path)) != first


def test_what_a_killed_process_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / f".sticky.key.{os.getpid()}").write_text("half of it")
    first = key_of(state_dir=str(tmp_path))
    assert key_of(state_dir=str(tmp_path)) == first
    assert [path.name for path in tmp_path.iterdir()] == ["sticky.key"]


def test_key_that_another_process_made_meanwhile_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def be_late(new: Path, path: Path) -> None:
        path.write_text("0" * 64)
        path.chmod(0o600)
        link(new, path)

    monkeypatch.setattr(os, "link", be_late)
    made = key_of(state_dir=str(tmp_path))
    monkeypatch.undo()
    assert key_of(state_dir=str(tmp_path)) == made
    assert (tmp_path / "sticky.key").read_text() == "0" * 64


def test_file_is_read_without_its_line_end_and_known_keys_are_not_read_again(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.touch(0o600)
    file.write_text("0123456789abcdef\n")
    found, _ = load_sticky_key(config(sticky_key_file=str(file)))
    assert found is not None
    assert found.key == key_of(sticky_key="0123456789abcdef")
    file.unlink()
    assert key_of(found, sticky_key_file=str(file)) == found.key
    assert found.key.hex() not in repr(found)


def test_file_that_others_can_read_is_warned_about(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("0123456789abcdef")
    file.chmod(0o640)
    _, (warning,) = load_sticky_key(config(sticky_key_file=str(file)))
    assert warning.startswith(f"{file} can be read or written by others than its owner")


@pytest.mark.parametrize(("content", "expected"), [("short", "holds no key: 16 to 4096 characters"), ("x" * 4097, "holds no key")])
def test_file_without_a_key_is_refused(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "sticky.key").write_text(content)
    for settings in ({"sticky_key_file": str(tmp_path / "sticky.key")}, {"state_dir": str(tmp_path)}):
        with pytest.raises(StickyKeyError, match=expected):
            load_sticky_key(config(**settings))
    assert (tmp_path / "sticky.key").read_text() == content  # never written over


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(StickyKeyError, match="is not a file"):
        load_sticky_key(config(sticky_key_file=str(tmp_path / "fifo")))
    with pytest.raises(StickyKeyError, match=r"cannot read sticky_key_file .*: no such file or directory"):
        load_sticky_key(config(sticky_key_file=str(tmp_path / "none")))


def test_second_directory_is_used_where_the_first_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(sticky_key, "SYSTEM_DIRECTORY", tmp_path / "file" / "fastlb")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    first = key_of()
    assert (tmp_path / "home" / "fastlb" / "sticky.key").exists()
    monkeypatch.setattr(sticky_key, "SYSTEM_DIRECTORY", tmp_path / "system")
    assert key_of() == first  # what is there is used, wherever it would be made today


def test_nowhere_to_keep_it_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StickyKeyError) as caught:
        load_sticky_key(config(state_dir=str(tmp_path / "file" / "x")))
    told = str(caught.value)
    assert told.startswith(f"there is nowhere to keep the key of sticky cookies ({tmp_path}/file/x: not a directory)")
    assert told.endswith("say where with state_dir in [global], or give one with sticky_key_file or sticky_key")


def test_usual_directories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    assert default_directories() == [Path("/var/lib/fastlb"), Path("/home/someone/.local/state/fastlb")]
    monkeypatch.setenv("XDG_STATE_HOME", "relative")  # to be ignored, says its specification
    assert default_directories()[1] == Path("/home/someone/.local/state/fastlb")
    monkeypatch.setenv("XDG_STATE_HOME", "/srv/state")
    assert default_directories()[1] == Path("/srv/state/fastlb")


def test_values_differ_by_key_and_identity_and_show_neither() -> None:
    identities = [f"{pool}|10.0.0.{n}:80" for pool in ("a", "b") for n in range(100)]
    values = {make_cookie_value(key, identity) for key in (b"k" * 32, b"l" * 32) for identity in identities}
    assert len(values) == 400
    assert {len(value) for value in values} == {22}
    assert make_cookie_value(b"k" * 32, "main|10.0.0.1:80") == "M-33NaFlhPT89OaCtcKcZQ"  # recorded: cookies must survive an upgrade
