"""What `fastlb plan` says of two configurations."""

import pytest

from fastlb.balancer import Balancer
from fastlb.control_plane.config.loader import load_text
from fastlb.control_plane.config.schema import Config
from fastlb.control_plane.plan import Change, make_plan

LISTENER = '[[listeners]]\nname = "web"\nbind = ":80"\n'
POOL = '[pools.p]\nbackends = ["10.0.0.1:80", "10.0.0.2:80"]\n'


def config(text: str) -> Config:
    return load_text(text, "f").config


def plan(old: str, new: str) -> list[str]:
    """The lines that people see."""
    return [line for change in make_plan(config(old), config(new), keys=1000) for line in change.lines()]


def with_routes(routes: str) -> str:
    return LISTENER + POOL + routes


def hashing(addresses: list[str], algorithm: str = "consistent_hash", more: str = "") -> str:
    return LISTENER + f'[pools.p]\nalgorithm = "{algorithm}"\nbackends = {addresses}\n{more}'


TEN = [f"10.0.0.{number}:80" for number in range(1, 11)]


def test_the_same_written_otherwise_is_no_change() -> None:
    written = '[pools.p]\nbackends = [{ address = "10.0.0.1:80", weight = 1 }, "10.0.0.2:80"]\nalgorithm = "weighted_least_connections"\n'
    route = '[[routes]]\npath = "/"\npool = { p = 1 }\n'
    assert make_plan(config(LISTENER + POOL), config(written + route + LISTENER + "[global]\nworkers = 'auto'\n")) == []


def test_listeners() -> None:
    new = (
        '[[listeners]]\nname = "web"\nbind = [":80", ":81"]\nlimits.body = "1MiB"\n[[listeners]]\nname = "inner"\nbind = "127.0.0.1:9000"\n'
    )
    assert plan(LISTENER + POOL, new + POOL) == [
        "~ listener web (changed)",
        '    bind: [":80"] → [":80", ":81"]',
        '    limits.body: 0 → "1MiB"',
        "+ listener inner (added)",
        "    accepts at 127.0.0.1:9000",
    ]
    assert plan(new + POOL, LISTENER + POOL)[:2] == [
        "- listener inner (removed)",
        "    127.0.0.1:9000: closed; its clients get one more answer and are told to come again",
    ]


def test_routes_come_go_and_do_something_else() -> None:
    old = with_routes('[[routes]]\nhost = "a.b"\npath = "/old/"\npool = "p"\n[[routes]]\nname = "api"\npath = "/api/"\npool = "p"\n')
    new = with_routes(
        '[[routes]]\nname = "api"\npath = "/api/"\nrespond.status = 403\n'
        '[[routes]]\nmethod = ["GET"]\nheaders = { X = "1" }\npath = "/n"\nredirect = "/old/"\n[[routes]]\npool = "p"\n'
    )
    assert plan(old, new) == [
        "- route a.b/old/ (removed)",
        "    its requests go to the next route that fits, or are answered with 404",
        '+ route */n method = ["GET"] headers = { X = ["1"] } (added)',
        "    redirects to /old/",
        "+ route */ (added)",
        "    goes to pool p",
        "~ route api (*/api/) (changed)",
        '    pool: "p" → ""',
        '    respond.status: "none" → 403',
    ]


def test_a_route_with_a_name_stays_the_same_when_it_matches_something_else() -> None:
    def named(path: str) -> str:
        return with_routes(f'[[routes]]\nname = "api"\npath = "{path}"\npool = "p"\n')

    assert plan(named("/v1/"), named("/v2/")) == ["~ route api (*/v2/) (changed)", '    path: "/v1/" → "/v2/"']


def test_header_edits_are_told_field_by_field() -> None:
    def edited(fields: str) -> str:
        return with_routes(f'[[routes]]\npool = "p"\nresponse_headers.set = {{ {fields} }}\n')

    assert plan(edited('A = "1", B = "{host}"'), edited('B = "{client}", C = "3"')) == [
        "~ route */ (changed)",
        '    response_headers.set.A: "1" → nothing',
        '    response_headers.set.B: "{host}" → "{client}"',
        '    response_headers.set.C: nothing → "3"',
    ]


def test_a_route_that_another_one_hides_is_told_and_so_is_the_end_of_that() -> None:
    narrow = '[[routes]]\nmethod = "GET"\nheaders = { X = "1" }\npool = "p"\n'
    wide = '[[routes]]\nmethod = "GET"\npool = "p"\n'
    rest = '[[routes]]\npool = "p"\n'
    told = plan(with_routes(narrow + rest), with_routes(wide + narrow + rest))
    assert told[-2:] == [
        '! route */ method = ["GET"] headers = { X = ["1"] } (shadowed)',
        '    never reached: */ method = ["GET"] takes all of its requests',
    ]
    told = plan(with_routes(wide + narrow + rest), with_routes(narrow + rest))
    assert told[-2] == '~ route */ method = ["GET"] headers = { X = ["1"] } (reached)'


def test_routes_with_conditions_that_change_places_are_told() -> None:
    one = '[[routes]]\nheaders = { X = "1" }\npool = "p"\n'
    two = '[[routes]]\ncookies = { c = "2" }\nrespond.status = 403\n'
    rest = '[[routes]]\npool = "p"\n'
    assert plan(with_routes(one + two + rest), with_routes(two + one + rest)) == [
        '~ route */ cookies = { c = ["2"] } (reordered)',
        '    tried before */ headers = { X = ["1"] } now',
    ]
    other_places = '[[routes]]\npath = "/x"\npool = "p"\n'
    assert plan(with_routes(rest + other_places), with_routes(other_places + rest)) == []  # no order between these


def test_pools_and_backends() -> None:
    old = LISTENER + POOL + '[pools.gone]\nbackends = "10.1.0.1:80"\n[[routes]]\npool = "p"\n[[routes]]\npath = "/g"\npool = "gone"\n'
    pool = '[pools.p]\nretry.attempts = 1\nbackends = [{ address = "10.0.0.2:80", weight = 3 }, "10.0.0.3:80"]\n'
    new = LISTENER + pool + '[pools.more]\nbackends = ["10.1.0.1:80"]\n[[routes]]\npool = "p"\n[[routes]]\npath = "/g"\npool = "more"\n'
    assert plan(old, new) == [
        "~ route */g (changed)",
        '    pool: "gone" → "more"',
        "- pool gone (removed)",
        "    1 backend: no new requests; what is in flight there ends",
        "~ pool p (changed)",
        "    retry.attempts: 3 → 1",
        "- backend 10.0.0.1:80 of pool p (removed)",
        "    no new requests; what is in flight there ends",
        "~ backend 10.0.0.2:80 of pool p (changed)",
        "    weight: 1 → 3",
        "+ backend 10.0.0.3:80 of pool p (added)",
        "    weight 1",
        "+ pool more (added)",
        "    1 backend, weighted_least_connections",
    ]


def test_sticky_clients_that_lose_their_backend_are_told() -> None:
    def sticky(name: str) -> str:
        return LISTENER + POOL + f'sticky.cookie = "{name}"\n'

    assert plan(sticky("A"), sticky("B")) == [
        "~ pool p (changed)",
        '    sticky.cookie: "A" → "B"',
        "    clients that stick to a backend are picked one anew",
    ]
    assert plan(LISTENER + POOL, sticky("A"))[1:] == ['    sticky.cookie: "" → "A"']


def test_settings_that_wait_for_the_next_start_are_told_and_secrets_are_not() -> None:
    told = plan(LISTENER + POOL, '[global]\nuser = "www-data"\nsticky_key = "0123456789abcdef"\n' + LISTENER + POOL)
    assert told[0] == "~ global (changed)"
    assert '    user: "" → "www-data"' in told
    assert "    user is read once, at the start: it waits for the next one" in told
    assert "0123456789abcdef" not in "".join(told)
    assert any(line.startswith('    sticky_key: "" → "hidden ') for line in told)


@pytest.mark.parametrize(("before", "after", "told"), [(100, 50, False), (100, 200, True), (100, 0, True), (0, 100, False)])
def test_room_for_connections_that_waits_for_the_next_start_is_told(before: int, after: int, told: bool) -> None:
    lines = plan(*(f"[global]\nmax_connections = {count}\n{LISTENER}{POOL}" for count in (before, after)))
    assert lines[:2] == ["~ global (changed)", f"    max_connections: {before} → {after}"]
    note = "    max_connections can only be lowered while fastlb runs: more than at the start waits for the next one"
    assert lines[2:] == [note] * told


def test_access_log() -> None:
    assert plan(LISTENER + POOL, 'access_log = "stdout"\n' + LISTENER + POOL) == [
        "~ access_log (changed)",
        '    access_log: "off" → [{ to = "stdout" }]',
    ]


@pytest.mark.parametrize("algorithm", ["consistent_hash", "maglev"])
def test_a_backend_less_moves_about_its_own_share_of_keys(algorithm: str) -> None:
    changes = make_plan(config(hashing(TEN, algorithm)), config(hashing(TEN[1:], algorithm)))
    (pool,) = (change for change in changes if change.what == "pool")
    assert pool.remapped is not None
    assert 0.07 < pool.remapped < 0.2


@pytest.mark.parametrize("algorithm", ["hash", "ip_hash"])
def test_a_backend_less_moves_most_keys_of_plain_hashing(algorithm: str) -> None:
    changes = make_plan(config(hashing(TEN, algorithm)), config(hashing(TEN[1:], algorithm)))
    (pool,) = (change for change in changes if change.what == "pool")
    assert pool.remapped is not None
    assert pool.remapped > 0.5


def test_the_share_is_what_the_real_pickers_do() -> None:
    keys = [f"10.0.{number >> 8}.{number & 255}" for number in range(500)]
    old, new = Balancer(TEN, "consistent_hash"), Balancer(TEN[1:], "consistent_hash")
    changes = make_plan(config(hashing(TEN)), config(hashing(TEN[1:])), keys=500)
    (pool,) = (change for change in changes if change.what == "pool")
    assert pool.remapped == sum(old.pick(key) != new.pick(key) for key in keys) / 500


def test_what_a_hash_does_not_see_moves_nothing() -> None:
    backup = '{ address = "10.9.0.1:80", backup = true }'
    more = f"backends = [{', '.join(repr(one) for one in TEN)}, {backup}]"
    old = hashing(TEN)
    new = LISTENER + f'[pools.p]\nalgorithm = "consistent_hash"\n{more}\nretry.attempts = 1\n'
    (pool, backend) = make_plan(config(old), config(new))
    assert (pool.remapped, backend.how) == (None, "added")


def test_another_key_is_told_and_other_algorithms_have_no_share() -> None:
    told = plan(hashing(TEN), hashing(TEN, more='hash_key = "{cookie.uid}"\n'))
    assert told[1:] == ['    hash_key: "{client}" → "{cookie.uid}"', "    hashed by something else, requests keep no backend"]
    (change,) = make_plan(config(hashing(TEN)), config(hashing(TEN, "round_robin")))
    assert change.remapped is None


def test_a_change_as_json() -> None:
    assert Change("backend", "10.0.0.1:80", "added", notes=("weight 1",), pool="p").as_json() == {
        "what": "backend",
        "name": "10.0.0.1:80",
        "how": "added",
        "differences": [],
        "notes": ["weight 1"],
        "pool": "p",
    }


def test_changes_of_tls_are_told_option_by_option() -> None:
    text = '[[listeners]]\nname = "web"\nbind = ":443"\ntls = { certificates = %s }\n[pools.p]\nbackends = "10.0.0.1:80"\n'
    one, two = '[{ cert = "a.pem" }]', '[{ cert = "a.pem" }, { cert = "b.pem", key = "b.key" }], min_version = "1.3"'
    (change,) = make_plan(load_text(text % one, "f").config, load_text(text % two, "f").config)
    assert change.lines() == [
        "~ listener web (changed)",
        '    tls.certificates: [{ cert = "a.pem" }] → [{ cert = "a.pem" }, { cert = "b.pem", key = "b.key" }]',
        '    tls.min_version: "1.2" → "1.3"',
    ]
