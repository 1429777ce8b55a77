"""fastlb/data_plane/select/consistent_hash.pxd and its ring. Order: fair share, down, up, full, none left."""

import zlib
from bisect import bisect_left
from collections import Counter

import pytest

from tests.support._probe import Pool

KEYS = [b"/item/%d" % number for number in range(20_000)]


def spread(pool: Pool) -> list[int]:
    picks: list[int] = pool.pick_each(pool.keys(KEYS))
    return picks


def make_ring(servers: dict[bytes, int]) -> list[tuple[int, int]]:
    """nginx's, as its source says it: `servers` are host, zero byte and port, with their weights."""
    points: dict[int, int] = {}
    for number, (server, weight) in enumerate(servers.items()):
        before = 0
        for _ in range(160 * weight):
            before = zlib.crc32(server + before.to_bytes(4, "little"))
            points.setdefault(before, number)
    return sorted(points.items())


def test_ring_is_that_of_nginx() -> None:
    names = ["127.0.0.1:8001", "app.example", "[::1]:80", "unix:/run/a.sock", "UNIX:/b", "a:b:12", "a:", ":1", "12", "host:12a"]
    servers = [b"127.0.0.1\0008001", b"app.example\0", b"[::1]\00080", b"/run/a.sock\0", b"/b\0", b"a:b\00012", b"a\0", b"\0001", b"12\0"]
    weights = [1, 2, 3, 1, 1, 1, 1, 4, 1, 1]
    pool = Pool("consistent_hash", weights, names=names)
    assert pool.ring() == make_ring(dict(zip([*servers, b"host:12a\0"], weights, strict=True)))


def test_key_belongs_to_the_first_point_at_or_behind_its_hash() -> None:
    pool = Pool("consistent_hash", 50)
    ring = pool.ring()
    hashes = [point for point, _ in ring]
    keys = pool.keys(KEYS)
    expected = [ring[bisect_left(hashes, zlib.crc32(key)) % len(ring)][1] for key in KEYS]
    assert pool.pick_each(keys) == expected
    some = 1 << 32  # a key that is not empty
    for at in (0, 1, 77, len(ring) - 1):
        assert pool.pick(key=hashes[at] | some) == ring[at][1]
        assert pool.pick(key=(hashes[at] + 1) % (1 << 32) | some) == ring[(at + 1) % len(ring)][1]


@pytest.mark.parametrize("weights", [[0, 0], [], [0]])
def test_ring_without_points_has_nobody(weights: list[int]) -> None:
    pool = Pool("consistent_hash", weights)
    assert pool.ring() == []
    assert pool.pick(key=pool.key(b"x")) is None


def test_ring_is_thinned_out_where_it_would_be_too_large() -> None:
    pool = Pool("consistent_hash", [256] * 400)
    assert 4_000_000 < len(pool.ring()) <= 4_194_304
    shares = Counter(spread(pool))
    assert len(shares) == 400


def test_keys_of_a_backend_that_is_down_go_on_along_the_ring_and_no_other_moves() -> None:
    pool = Pool("consistent_hash", 10)
    before = spread(pool)
    pool.set_state(3, 1)
    after = spread(pool)
    assert all(a == b for a, b in zip(after, before, strict=True) if b != 3)
    assert {a for a, b in zip(after, before, strict=True) if b == 3} == set(range(10)) - {3}
    pool.set_state(3, 0)
    assert spread(pool) == before


def test_full_backend_keeps_its_other_keys_away_until_a_request_ends() -> None:
    pool = Pool("consistent_hash", 3)
    key = pool.key(b"x")
    home = pool.pick(key=key)
    pool.configure(home, max_in_flight=1, in_flight=1)
    assert pool.pick(key=key) != home
    pool.configure(home, in_flight=0)
    assert pool.pick(key=key) == home


def test_tried_backend_is_not_picked_again() -> None:
    pool = Pool("consistent_hash", 3)
    key = pool.key(b"x")
    tried: list[int] = []
    for _ in range(3):
        number = pool.pick(tried, key=key)
        assert number not in tried
        tried.append(number)
    assert pool.pick(tried, key=key) is None


def test_requests_without_a_key_take_turns() -> None:
    pool = Pool("consistent_hash", 3)
    assert [pool.pick(key=0) for _ in range(4)] == [0, 1, 2, 0]


def test_backend_above_its_bound_gives_keys_away() -> None:
    pool = Pool("consistent_hash", 4, balance_permille=1250)
    key = pool.key(b"x")
    home = pool.pick(key=key)
    for held in range(60):
        number = pool.pick(key=key)
        pool.now_ms += 1
        assert pool.claim(number)
        # No more than ceil(1.25 * (requests with this one) / 4).
        assert pool.in_flight(number) <= -(-5 * (held + 1) // 16)
    assert pool.in_flight(home) == 19
    assert [pool.in_flight(number) for number in range(4)].count(0) == 0


def test_bound_follows_the_weights() -> None:
    pool = Pool("consistent_hash", [1, 3], balance_permille=1000)
    for _ in range(40):
        assert pool.claim(pool.pick(key=pool.key(b"x")))
        pool.now_ms += 1
    assert [pool.in_flight(0), pool.in_flight(1)] == [10, 30]


def test_bound_is_of_the_backends_that_are_up() -> None:
    pool = Pool("consistent_hash", 4, balance_permille=1000)
    for number in (1, 2):
        pool.set_state(number, 1)
    for _ in range(10):
        assert pool.claim(pool.pick(key=pool.key(b"x")))
        pool.now_ms += 1
    assert [pool.in_flight(number) for number in range(4)] == [5, 0, 0, 5]


def test_bound_is_ignored_where_nobody_is_within_it() -> None:
    pool = Pool("consistent_hash", 2, balance_permille=1000)
    key = pool.key(b"x")
    home = pool.pick(key=key)
    pool.configure(home, in_flight=9)
    pool.configure(1 - home, max_in_flight=1, in_flight=1)
    pool.now_ms += 1
    assert pool.pick(key=key) == home
