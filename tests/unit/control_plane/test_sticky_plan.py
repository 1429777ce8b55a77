"""What a `sticky` table tells the writer of snapshot images."""

from typing import Any

from fastlb import _core
from fastlb.control_plane.config.sticky import Sticky
from fastlb.control_plane.sticky_plan import make_cookie_attributes, set_sticky

FLAGS = _core.STICKY_FLAGS


class Writer:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, dict[str, Any]]] = []

    def set_sticky_cookie(self, pool: int, **options: Any) -> None:
        self.told.append(("cookie", pool, options))

    def set_sticky_table(self, pool: int, **options: Any) -> None:
        self.told.append(("table", pool, options))


def told(sticky: Sticky) -> list[tuple[str, int, dict[str, Any]]]:
    writer = Writer()
    set_sticky(writer, 3, sticky)  # type: ignore[arg-type]
    return writer.told


def test_pool_that_is_not_sticky_tells_nothing() -> None:
    assert told(Sticky()) == []


def test_cookie_tells_its_name_attributes_and_flags() -> None:
    usual = FLAGS["drain"] | FLAGS["indirect"] | FLAGS["secure_auto"]
    assert told(Sticky(cookie="ID")) == [
        ("cookie", 3, {"name": "ID", "attributes": "; Path=/; HttpOnly; SameSite=Lax", "lifetime_s": 0, "flags": usual})
    ]
    ((_, _, options),) = told(
        Sticky(cookie="ID", secure=True, nocache=True, indirect=False, drain=False, fallback="reject", lifetime_ms=60_000)
    )
    assert options["flags"] == FLAGS["secure"] | FLAGS["nocache"] | FLAGS["reject"]
    assert options["lifetime_s"] == 60
    assert told(Sticky(cookie="ID", secure=False))[0][2]["flags"] == FLAGS["drain"] | FLAGS["indirect"]


def test_attributes_are_those_that_are_wanted() -> None:
    assert make_cookie_attributes(Sticky(http_only=False, same_site="off")) == "; Path=/"
    everything = Sticky(path="/a", domain="example.com", lifetime_ms=3_600_999, same_site="none")
    assert make_cookie_attributes(everything) == "; Path=/a; Domain=example.com; Max-Age=3600; HttpOnly; SameSite=None"


def test_longest_attributes_fit_what_the_writer_takes() -> None:
    longest = Sticky(path="/" * 256, domain="d" * 253, lifetime_ms=34_560_000_000, same_site="strict")
    writer = _core.SnapshotWriter(1)
    pool = writer.add_pool(
        "p", algorithm="round_robin", attempts=1, replay_limit_bytes=0, max_idle=1, idle_timeout_ms=1, connect_timeout_ms=1,
        first_byte_timeout_ms=1, between_bytes_timeout_ms=1, exchange_timeout_ms=1, tunnel_timeout_ms=1,
    )  # fmt: skip
    writer.set_sticky_cookie(pool, name="x" * 64, attributes=make_cookie_attributes(longest))


def test_tables_tell_how_large_they_are_and_for_how_long() -> None:
    common = {"size": 131072, "expires_ms": 1_800_000, "v4_bits": 32, "v6_bits": 64}
    ((kind, pool, options),) = told(Sticky(learn="JSESSIONID"))
    assert (kind, pool) == ("table", 3)
    assert {key: options[key] for key in common} == common
    assert options["learn"] == "JSESSIONID"
    ((_, _, options),) = told(Sticky(source=True, v4_prefix=24, v6_prefix=48, size=9, expires_ms=10_000, fallback="reject"))
    assert (options["learn"], options["v4_bits"], options["v6_bits"], options["size"], options["expires_ms"]) == ("", 24, 48, 9, 10_000)
    assert options["flags"] & FLAGS["reject"]
