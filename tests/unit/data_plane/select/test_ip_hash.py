"""fastlb/data_plane/select/ip_hash.pxd; test_nginx_picks.py has nginx's picks. Order: fair share, down, up, full, none left."""

from collections import Counter

from tests.support._probe import Pool

CLIENTS = [b"%d.%d.%d.9" % (10 + number % 7, number % 251, number * 31 % 253) for number in range(5000)]


def test_clients_of_one_network_share_a_backend() -> None:
    pool = Pool("ip_hash", 5)
    assert pool.key(b"192.0.2.1") == pool.key(b"192.0.2.254") != pool.key(b"192.0.3.1")


def test_all_of_an_ipv6_address_counts() -> None:
    pool = Pool("ip_hash", 5)
    assert pool.key(b"2001:db8::1") != pool.key(b"2001:db8::2")
    assert pool.key(b"2001:db8::1") == pool.key(b"2001:db8:0:0:0:0:0:1")


def test_what_is_no_address_is_one_client() -> None:
    pool = Pool("ip_hash", 5)
    assert pool.key(b"unix:") == pool.key(b"0.0.0.7") == pool.key(b"x" * 1000)


def test_clients_are_spread_by_weight() -> None:
    pool = Pool("ip_hash", [1, 2, 1])
    shares = Counter(pool.pick_each(pool.keys(CLIENTS)))
    assert [round(shares[number] / 1250) for number in range(3)] == [1, 2, 1]


def test_clients_of_a_backend_that_is_down_go_elsewhere_and_come_back() -> None:
    pool = Pool("ip_hash", 5)
    keys = pool.keys(CLIENTS)
    before = pool.pick_each(keys)
    pool.set_state(2, 1)
    after = pool.pick_each(keys)
    assert all(a == b for a, b in zip(after, before, strict=True) if b != 2)
    assert {a for a, b in zip(after, before, strict=True) if b == 2} == {0, 1, 3, 4}
    pool.set_state(2, 0)
    assert pool.pick_each(keys) == before


def test_full_and_tried_backends_are_passed_over() -> None:
    pool = Pool("ip_hash", 3)
    key = pool.key(b"192.0.2.1")
    home = pool.pick(key=key)
    pool.configure(home, max_in_flight=1, in_flight=1)
    second = pool.pick(key=key)
    assert second != home
    third = pool.pick([second], key=key)
    assert {home, second, third} == {0, 1, 2}
    assert pool.pick([second, third], key=key) is None
