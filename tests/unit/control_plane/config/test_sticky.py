"""The `sticky` table of a pool: what it may say, and what its keys say together."""

import pytest

from fastlb.control_plane.config.errors import ConfigError
from fastlb.control_plane.config.loader import Loaded, load_text
from fastlb.control_plane.config.sticky import Sticky

SITE = """\
[[listeners]]
name = "web"
bind = ":8080"
[pools.main]
backends = ["10.0.0.1:80"]
"""


def load(sticky: str, above: str = "") -> Loaded:
    return load_text(f"{above}{SITE}sticky = {sticky}\n", "f")


def errors(sticky: str, above: str = "") -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(sticky, above)
    return [line.split(": ", 1)[1] for line in caught.value.lines()]


def test_pools_are_not_sticky_unless_they_say_so() -> None:
    assert load_text(SITE, "f").config.pools[0].sticky == Sticky(cookie="")


def test_cookie_alone_is_enough() -> None:
    assert load('{ cookie = "SERVERID" }').config.pools[0].sticky == Sticky(
        cookie="SERVERID",
        path="/",
        domain="",
        secure="auto",
        http_only=True,
        same_site="lax",
        lifetime_ms=0,
        indirect=True,
        nocache=False,
        learn="",
        source=False,
        v4_prefix=32,
        v6_prefix=64,
        size=131072,
        expires_ms=1_800_000,
        fallback="pick",
        drain=True,
    )


@pytest.mark.parametrize(
    ("sticky", "expected"),
    [
        ('{ cookie = "a b" }', '"a b" is not a cookie\'s name; it is made of 1 to 64 letters, digits, _ and -; did you mean "a_b"?'),
        ('{ cookie = "a;b" }', '"a;b" is not a cookie\'s name'),
        (f'{{ cookie = "{"x" * 65}" }}', f'"{"x" * 59}…" is not a cookie\'s name'),
        ('{ cookie = "a", path = "shop" }', '"shop" is not a cookie\'s path; it begins with /, holds no semicolon'),
        ('{ cookie = "a", path = "/; Domain=evil" }', '"/; Domain=evil" is not a cookie\'s path'),
        ('{ cookie = "a", path = "/\\r\\nX: y" }', '"/\\r\\nX: y" is not a cookie\'s path'),
        ('{ cookie = "a", domain = "example.com:80" }', '"example.com:80" is not a domain'),
        ('{ cookie = "a", secure = "yes" }', 'found "yes"; true, false or "auto"'),
        ('{ cookie = "a", secure = "true" }', 'found "true"; true, false or "auto", true and false without quotes'),
        ('{ cookie = "a", same_site = "some" }', 'unknown same_site "some"; same_site is "lax", "strict", "none" or "off"'),
        ('{ cookie = "a", same_site = "none", secure = false }', 'same_site "none" without secure; browsers take such a cookie'),
        ('{ cookie = "a", lifetime = "401d" }', '"401d" is out of range; 0 (until the browser ends) or "1m" … "400d"'),
        ('{ cookie = "a", fallback = "wait" }', 'unknown fallback "wait"; fallback is "pick" or "reject"'),
        ('{ cookie = "__Host-a" }', '"__Host-a" without secure = true; browsers refuse such a name'),
        ('{ cookie = "__host-a", secure = true, path = "/a" }', '"__host-a" with a path or a domain'),
        ('{ path = "/shop" }', 'sticky does not say by what; name a cookie (cookie = "SERVERID")'),
        ('{ cookie = "a", learn = "b" }', "learn beside cookie; a pool knows its clients again in one way"),
        ('{ source = true, learn = "b" }', "source beside learn; a pool knows its clients again in one way"),
        ('{ learn = "a", path = "/" }', 'path has no meaning beside learn; it belongs to "cookie"'),
        ('{ learn = "a", v4_prefix = 24 }', 'v4_prefix has no meaning beside learn; it belongs to "source"'),
        ('{ cookie = "a", size = 100 }', 'size has no meaning beside cookie; it belongs to "learn" or "source"'),
        ("{ source = true, v4_prefix = 33 }", "33 is out of range; 1 … 32"),
        ('{ source = true, expires = "31d" }', '"31d" is out of range; "10s" … "30d"'),
        ('{ cookie = "a", name = "a" }', 'unknown key "name"'),
    ],
)
def test_mistake_is_told_with_what_would_be_right(sticky: str, expected: str) -> None:
    found = errors(sticky)
    assert len(found) == 1, found
    assert found[0].startswith(expected), found


def test_names_that_browsers_bind_to_conditions_are_taken_where_these_are_met() -> None:
    for sticky in ('{ cookie = "__Host-a", secure = true }', '{ cookie = "__Secure-a", secure = true, path = "/a" }'):
        assert load(sticky).warnings == ()


def test_two_pools_with_the_same_cookie_are_warned_about() -> None:
    text = '[[routes]]\npath = "/a"\npool = "main"\n[[routes]]\npath = "/b"\npool = "other"\n' + SITE
    text += 'sticky = { cookie = "ID" }\n[pools.other]\nbackends = ["10.0.0.1:80"]\n'
    (warning,) = load_text(f'{text}sticky = {{ cookie = "ID" }}\n', "f").warnings
    assert warning.found == 'the pools "main" and "other" use the same cookie "ID"'
    assert load_text(f'{text}sticky = {{ cookie = "ID", path = "/b" }}\n', "f").warnings == ()


def test_secret_is_never_repeated_and_has_to_be_long() -> None:
    (found,) = errors('{ cookie = "a" }', '[global]\nsticky_key = "hunter2"\n')
    assert found.startswith("this secret has 7 characters; it has to have 16 to 1024")
    assert "hunter2" not in found


def test_secret_stands_in_one_place() -> None:
    (found,) = errors('{ cookie = "a" }', '[global]\nsticky_key = "0123456789abcdef"\nsticky_key_file = "/x"\n')
    assert found.startswith("there is a sticky_key as well; the secret is in one place")
