"""fastlb/_core.pyx: what SnapshotWriter and the address functions accept. What they write is tested with what reads it."""

import fcntl
import mmap
import os
import re
import socket
import struct
from typing import Any

import pytest

from fastlb import _core
from tests.support.images import LISTENER, POOL, Writer


def test_versions_are_named() -> None:
    versions = _core.versions()
    assert versions["build"] == _core.BUILD_ID
    assert re.fullmatch(r"3\.\d+\.\d+", versions["cython"])
    assert re.match(r"(gcc|clang) \d+\.\d+", versions["compiler"])
    assert versions["OpenSSL"].startswith("OpenSSL 3.")
    assert re.match(r"10\.\d+ \d{4}-\d\d-\d\d, ", versions["PCRE2"])


def test_regular_expression_is_checked() -> None:
    assert _core.check_regex(rb"^/(?<id>\d+)/(.*)$") == (2, {"id": 1})
    assert _core.check_regex(b"a", caseless=True) == (0, {})
    with pytest.raises(ValueError, match="missing closing parenthesis") as caught:
        _core.check_regex(b"a(b")
    assert caught.value.args[1] == 3


def test_idle_connection_is_small() -> None:
    # An idle keep-alive client may cost 400 bytes of user memory altogether.
    assert _core.struct_sizes()["connection"] <= 320


# ---------------------------------------------------------------------------------------------------------- addresses
def test_ipv4_address_is_a_sockaddr() -> None:
    assert _core.pack_address("192.0.2.1", 8080) == struct.pack("=H", socket.AF_INET) + b"\x1f\x90\xc0\x00\x02\x01" + bytes(8)


def test_ipv6_address_is_a_sockaddr() -> None:
    packed = _core.pack_address("2001:db8::1", 80)
    assert packed == struct.pack("=H", socket.AF_INET6) + b"\x00\x50" + bytes(4) + b"\x20\x01\x0d\xb8" + bytes(11) + b"\x01" + bytes(4)


@pytest.mark.parametrize(
    ("ip", "port"), [("192.0.2.1", 0), ("192.0.2.1", 65536), ("192.0.2.1", -1), ("x", 80), ("", 80), ("1.2.3", 80), ("::g", 80)]
)
def test_bad_address_is_refused(ip: str, port: int) -> None:
    with pytest.raises(ValueError, match=re.escape(str(port) if not 0 < port < 65536 else repr(ip))):
        _core.pack_address(ip, port)


def test_unix_path_is_a_sockaddr() -> None:
    assert _core.pack_unix("/run/x") == struct.pack("=H", socket.AF_UNIX) + b"/run/x\0"
    assert len(_core.pack_unix("x" * 107)) == 110


@pytest.mark.parametrize("path", ["", "x" * 108])
def test_unix_path_of_a_bad_size_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="1 to 107 bytes"):
        _core.pack_unix(path)


# ---------------------------------------------------------------------------------------------------------- the writer
def test_generation_counts_from_one() -> None:
    with pytest.raises(ValueError, match="generation"):
        _core.SnapshotWriter(0)


@pytest.mark.parametrize("changes", [{"max_headers": 0}, {"max_headers": 257}, {"max_head_bytes": 0}, {"max_head_bytes": 65473}])
def test_listener_beyond_the_hard_limits_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at most"):
        Writer().listener(**changes)


@pytest.mark.parametrize("name", [name for name in LISTENER if name.endswith("_ms")])
def test_negative_time_is_refused(name: str) -> None:
    with pytest.raises(OverflowError):
        Writer().listener(**{name: -1})


@pytest.mark.parametrize("changes", [{"algorithm": "least_con"}, {"attempts": 0}, {"attempts": 256}])
def test_bad_pool_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"least_con|attempts"):
        Writer().pool(**changes)


@pytest.mark.parametrize("name", [name for name in POOL if name not in ("algorithm", "attempts")])
def test_negative_setting_of_a_pool_is_refused(name: str) -> None:
    with pytest.raises(OverflowError):
        Writer().pool(**{name: -1})


@pytest.mark.parametrize("changes", [{"share": 1.1}, {"share": -0.1}, {"floor": 100_001}, {"floor": -1}])
def test_budget_beyond_its_limits_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="share must be 0 to 1"):
        Writer().pool(retry=changes)


@pytest.mark.parametrize("algorithm", _core.ALGORITHMS)
def test_each_algorithm_can_be_chosen(algorithm: str) -> None:
    writer = Writer()
    pool = writer.pool(algorithm=algorithm)
    writer.backend(pool)
    assert writer.plane().pick(pool) == 0


def test_route_needs_its_pool_and_a_slash() -> None:
    writer = Writer()
    for pool in (0, -1):
        with pytest.raises(ValueError, match="no pool"):
            writer.add_route(host="", path_prefix="/", pool=pool)
    writer.pool()
    with pytest.raises(ValueError, match="does not begin"):
        writer.add_route(host="", path_prefix="x", pool=0)


def test_overlong_packed_address_is_refused() -> None:
    writer = Writer()
    with pytest.raises(ValueError, match="packed"):
        writer.add_backend(writer.pool(), identity="a", display="a", address=b"x" * 111, weight=1, max_in_flight=0)


def test_finished_image_cannot_be_changed() -> None:
    fd = Writer().finish()
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        assert seals == fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        assert not os.get_inheritable(fd)
        with pytest.raises(PermissionError):
            os.write(fd, b"x")
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
        with pytest.raises(PermissionError):
            mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_WRITE)
    finally:
        os.close(fd)


def test_same_calls_write_the_same_image() -> None:
    assert Writer(3).image() == Writer(3).image()
