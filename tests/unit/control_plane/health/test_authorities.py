"""health/authorities.py: what is read for a configuration, and what is wrong with files."""

import os
import pickle
from pathlib import Path

import pytest

from fastlb.control_plane.config.loader import load_text
from fastlb.control_plane.config.schema import Config
from fastlb.control_plane.health.authorities import MAX_FILE_BYTES, AuthoritiesError, read_authorities
from fastlb.control_plane.reading import read_again, take_reading, write_reading


def config_text(*paths: Path | None) -> str:
    text = '[[listeners]]\nname = "web"\nbind = "127.0.0.1:0"\n'
    for number, path in enumerate(paths):
        health = f'{{ type = "tcp", tls = true, tls_ca_file = "{path}" }}' if path is not None else '"off"'
        text += f'[[routes]]\npath = "/{number}/"\npool = "p{number}"\n[pools.p{number}]\nbackends = "10.0.0.1:80"\nhealth = {health}\n'
    return text


def config(*paths: Path | None) -> Config:
    return load_text(config_text(*paths), "f").config


def held(read: Config) -> list[str]:
    return [pool.health.authorities for pool in read.pools]


def test_each_file_is_read_once_and_goes_with_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "a.pem"
    path.write_bytes("# Zürich\nA CERTIFICATE\n".encode())
    read = read_authorities(config(path, None, path))
    path.unlink()
    assert held(read) == ["# Zrich\nA CERTIFICATE\n", "", "# Zrich\nA CERTIFICATE\n"]
    first, _, last = held(pickle.loads(pickle.dumps(read)))
    assert first is last, "and costs once what it costs"


def test_configuration_without_files_stays_what_it_is() -> None:
    before = config(None)
    assert read_authorities(before) is before


def test_every_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    (tmp_path / "empty").write_text("\n")
    os.mkfifo(tmp_path / "fifo")
    names = ("missing", "large", "empty", "fifo")
    with pytest.raises(AuthoritiesError) as raised:
        read_authorities(config(*(tmp_path / name for name in names)))
    told = [line.partition(f"cannot read the certificates in {tmp_path}/")[2] for line in str(raised.value).splitlines()]
    assert told == [
        "missing: no such file or directory",
        "large: it has more than 1048576 bytes",
        "empty: it is empty",
        "fifo: it is not a file",
    ]
    assert str(raised.value).startswith('pool "p0": ')


def test_a_loader_hands_over_what_the_file_holds(tmp_path: Path) -> None:
    path, file = tmp_path / "a.pem", tmp_path / "fastlb.toml"
    path.write_text("A CERTIFICATE")
    file.write_text(config_text(path))
    reading = take_reading(write_reading(read_again(str(file), lambda loaded: loaded)))
    assert reading.config is not None
    assert held(reading.config) == ["A CERTIFICATE"]
    path.unlink()
    reading = read_again(str(file), lambda loaded: loaded)
    assert reading.config is None
    assert reading.errors == (f'pool "p0": cannot read the certificates in {path}: no such file or directory',)
