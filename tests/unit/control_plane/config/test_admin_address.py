"""`[global] admin`: where the admin API listens, and that nobody else can reach it."""

import pytest

from fastlb.control_plane.config.admin_address import AdminAddresses
from fastlb.control_plane.config.errors import ConfigError
from fastlb.control_plane.config.loader import load_text

BASE = '[[listeners]]\nname = "web"\nbind = "127.0.0.1:0"\n[pools.p]\nbackends = "127.0.0.1:1"\n'


def read(written: str) -> AdminAddresses:
    return load_text(f"[global]\nadmin = {written}\n{BASE}", "f").config.settings.admin


def test_without_it_the_usual_socket_is_meant() -> None:
    assert load_text(BASE, "f").config.settings.admin == AdminAddresses(usual=True) == read('"auto"')


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ('"off"', "off"),
        ('"unix:/run/lb.sock"', "unix:/run/lb.sock"),
        ('"127.0.0.1:9090"', "127.0.0.1:9090"),
        ('["unix:/run/lb.sock", "127.1.2.3:0", "[::1]:9090"]', "unix:/run/lb.sock, 127.1.2.3:0, [::1]:9090"),
        ("[]", "off"),
    ],
)
def test_addresses_of_this_machine_are_read(written: str, shown: str) -> None:
    assert str(read(written)) == shown


@pytest.mark.parametrize(
    ("written", "error"),
    [
        ('":9090"', '":9090" can be reached by others than this machine; the admin API has no authentication yet, so it listens on unix'),
        ('"0.0.0.0:9090"', '"0.0.0.0:9090" can be reached'),
        ('"[::]:9090"', '"[::]:9090" can be reached'),
        ('"192.0.2.1:9090"', '"192.0.2.1:9090" can be reached'),
        ('"[::ffff:192.0.2.1]:9090"', "can be reached"),
        ('"/run/lb.sock"', '"/run/lb.sock" is a path; a unix socket is written with its scheme; did you mean "unix:/run/lb.sock"?'),
        ("true", 'found true; "auto", "off", or such as "unix:/run/fastlb/fastlb.sock"; did you mean "auto"?'),
        ("false", 'did you mean "off"?'),
        ("9090", "found 9090; an address is a text"),
        ('["127.0.0.1:1", "127.0.0.1:1"]', "127.0.0.1:1 is listed a second time"),
        ('["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4", "127.0.0.1:5"]', "found 5 addresses; at most 4"),
    ],
)
def test_others_are_refused_with_what_would_be_right(written: str, error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(written)
    assert error in caught.value.lines()[0]
