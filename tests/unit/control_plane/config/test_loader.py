"""From a file to a Config: defaults, and every mistake at its place with what would be right."""

from pathlib import Path

import pytest

from fastlb.control_plane.config.errors import ConfigError
from fastlb.control_plane.config.loader import MAX_FILE_BYTES, load_file, load_text
from fastlb.control_plane.config.schema import WEIGHTED_LEAST_CONNECTIONS, Config, GlobalSettings, ListenerTimeouts, PoolTimeouts, Retry

MINIMAL = """\
[[listeners]]
name = "web"
bind = "127.0.0.1:8080"
[pools.api]
backends = ["10.0.0.1:80"]
"""


def errors(text: str) -> list[str]:
    """The problems of a text, each without the name of the file."""
    with pytest.raises(ConfigError) as caught:
        load_text(text, "f")
    return [line.removeprefix("f:") for line in caught.value.lines()]


def warnings(text: str) -> list[str]:
    return [str(warning).removeprefix("f:") for warning in load_text(text, "f").warnings]


def load(text: str) -> Config:
    return load_text(text, "f").config


def test_a_minimal_file_gets_every_default() -> None:
    config = load(MINIMAL)
    assert config.settings == GlobalSettings()
    assert (config.settings.workers, config.settings.user, config.settings.pid_file) == (0, "", "")
    assert config.settings.drain_timeout_ms == 30_000
    (listener,) = config.listeners
    assert listener.timeouts == ListenerTimeouts()
    assert (listener.timeouts.head_ms, listener.limits.head_bytes, listener.limits.body_bytes, listener.backlog) == (
        10_000,
        32_768,
        0,
        4096,
    )
    (pool,) = config.pools
    assert (pool.name, pool.algorithm, pool.keepalive.max_idle) == ("api", WEIGHTED_LEAST_CONNECTIONS, 1024)
    assert pool.retry == Retry(on=("connect", "closed", "reset"), attempts=3, within_ms=10_000, budget=0.2, budget_floor=10, unsafe=False)
    assert pool.timeouts == PoolTimeouts()
    assert [(str(backend.address), backend.weight, backend.max_in_flight) for backend in pool.backends] == [("10.0.0.1:80", 1, 0)]


def test_without_a_route_the_only_pool_serves_everything() -> None:
    (route,) = load(MINIMAL).routes
    assert (route.hosts, str(route.path), route.pool.names()) == (("",), "/", ["api"])


def test_two_pools_need_routes() -> None:
    assert errors(MINIMAL + '[pools.b]\nbackends = "10.0.0.2:80"\n') == [
        '4:2: there are 2 pools and no route; say which requests go where: [[routes]] with pool = "NAME", host and path'
    ]


def test_a_pool_without_a_route_is_a_warning() -> None:
    text = MINIMAL + '[pools.b]\nbackends = "10.0.0.2:80"\n[[routes]]\npool = "api"\n'
    assert warnings(text) == ['6:8: no route leads to the pool "b"; it gets no requests']


def test_a_target_limit_above_the_head_limit_is_a_warning() -> None:
    text = MINIMAL.replace("[pools", 'limits = { head = "4KiB", target = "8KiB" }\n[pools')
    assert warnings(text) == ["4:27: limits.target is larger than limits.head; the target is part of the head, whose limit is met first"]
    assert warnings(text.replace(', target = "8KiB"', "")) == []


def test_everything_can_be_set() -> None:
    config = load("""
[global]
reason_header = ""
forwarded_headers = false
request_id = false
trusted_networks = ["10.0.0.0/8", "::1"]
drain_timeout = "1m"
drain_idle_grace = 0
max_connections = 1000
workers = 4
user = "www-data"
group = "33"
pid_file = "/run/fastlb.pid"
max_descriptors = 65536

[[listeners]]
name = "web"
bind = ["127.0.0.1:8080", "[::1]:8080", "unix:/run/x.sock"]
protocol = "http"
timeouts = { head = "1s", body = "2s", idle = "3s", write = "4s" }
limits = { head = "16KiB", target = "4KiB", headers = 50, body = "1MiB" }
backlog = 128

[[routes]]
host = ["shop.example.com", "*.example.com"]
path = "/api/"
pool = "api"

[pools.api]
algorithm = "weighted_least_connections"
backends = ["10.0.0.11:8080", { address = "10.0.0.12:8080", weight = 3, max_connections = 10 }, "unix:/run/app.sock", "app.example:80"]
retry = { on = "5xx", attempts = 1, within = "1s", budget = 1, budget_floor = 0, unsafe = true }
replay_limit = "0B"
keepalive = { max_idle = 0, idle = "1s" }
timeouts = { connect = "1s", first_byte = "2s", between_bytes = "3s", exchange = "4s", tunnel = "5s" }
""")
    settings = config.settings
    assert (settings.reason_header, settings.forwarded_headers, settings.request_id, settings.max_connections) == ("", False, False, 1000)
    assert (settings.workers, settings.user, settings.group) == (4, "www-data", "33")
    assert (settings.pid_file, settings.max_descriptors) == ("/run/fastlb.pid", 65536)
    assert [str(network) for network in settings.trusted_networks] == ["10.0.0.0/8", "::1/128"]
    assert (settings.drain_timeout_ms, settings.drain_idle_grace_ms) == (60_000, 0)
    (listener,) = config.listeners
    assert [str(address) for address in listener.bind] == ["127.0.0.1:8080", "[::1]:8080", "unix:/run/x.sock"]
    timeouts = listener.timeouts
    assert (timeouts.head_ms, timeouts.body_ms, timeouts.idle_ms, timeouts.write_ms) == (1000, 2000, 3000, 4000)
    limits = listener.limits
    assert (limits.head_bytes, limits.target_bytes, limits.headers, limits.body_bytes, listener.backlog) == (16384, 4096, 50, 1 << 20, 128)
    assert config.routes[0].hosts == ("shop.example.com", "*.example.com")
    (pool,) = config.pools
    assert [(b.weight, b.max_in_flight, b.address.is_name) for b in pool.backends] == [
        (1, 0, False),
        (3, 10, False),
        (1, 0, False),
        (1, 0, True),
    ]
    assert pool.retry == Retry(on=("5xx",), attempts=1, within_ms=1000, budget=1.0, budget_floor=0, unsafe=True)
    assert (pool.replay_limit_bytes, pool.keepalive.max_idle, pool.keepalive.idle_ms) == (0, 0, 1000)
    pool_timeouts = pool.timeouts
    assert (pool_timeouts.connect_ms, pool_timeouts.first_byte_ms, pool_timeouts.between_bytes_ms) == (1000, 2000, 3000)
    assert (pool_timeouts.exchange_ms, pool_timeouts.tunnel_ms) == (4000, 5000)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "[[listeners]]",
            "nonsense = 1\n[[listeners]]",
            '1:1: unknown key "nonsense"; known here: global, access_log, listeners, routes, pools',
        ),
        (
            "[[listeners]]",
            "[glob]\n[[listeners]]",
            '1:2: unknown key "glob"; known here: global, access_log, listeners, routes, pools; did you mean "global"?',
        ),
        (
            "[pools.api]",
            "[upstreams.api]",
            '4:2: unknown key "upstreams"; known here: global, access_log, listeners, routes, pools; did you mean "pools"?',
        ),
        (
            "name =",
            "nam =",
            '2:1: unknown key "nam"; known here: name, bind, protocol, pool, sni, timeouts, limits, http2, backlog, access_log, '
            'defer_accept, tcp_keepalive, tls, hsts, udp, redirect_https, proxy_protocol; did you mean "name"?',
        ),
        (
            "bind =",
            "listen =",
            '3:1: unknown key "listen"; known here: name, bind, protocol, pool, sni, timeouts, limits, http2, backlog, access_log, '
            'defer_accept, tcp_keepalive, tls, hsts, udp, redirect_https, proxy_protocol; did you mean "bind"?',
        ),
        (
            "backends =",
            "servers =",
            '5:1: unknown key "servers"; known here: algorithm, backends, retry, hedge, replay_limit, keepalive, timeouts',
        ),
        (
            "[[listeners]]",
            'drain_timeout = "1s"\n[[listeners]]',
            '1:1: "drain_timeout" does not belong here; it belongs into global; known here: global, access_log, listeners, routes, pools',
        ),
        (
            "[pools.api]",
            'idle = "1s"\n[pools.api]',
            '4:1: "idle" does not belong here; it belongs into listeners.timeouts or listeners.tcp_keepalive; known here: name,',
        ),
        (
            "[[listeners]]",
            "[listeners]",
            "1:2: found a table; each of the listeners has a header of its own, in double brackets: [[listeners]]",
        ),
        ("[pools.api]", "[[pools]]", "4:3: found an array; each of the pools has a header with its name: [pools.NAME]"),
        (
            "[pools.api]",
            "[pools]",
            '5:1: "backends" does not belong here; backends belongs below the header of one of the pools: [pools.NAME]',
        ),
        ("[pools.api]", '[pools."a b"]', '4:8: "a b" is not a name; a name is 1 to 64 letters, digits, _, . and -; did you mean "a-b"?'),
        (
            "[pools.api]",
            'timeouts = "5s"\n[pools.api]',
            '4:12: found "5s"; timeouts is a table: { head = …, body = …, idle = …, write = …, session = … }',
        ),
        (
            "[pools.api]",
            "timeouts.head = 5\n[pools.api]",
            '4:17: found 5 without a unit; a duration is a text with its unit, such as "1ms"; did you mean "5s"?',
        ),
        ("[pools.api]", 'timeouts.head = "5"\n[pools.api]', '4:17: "5" is not a duration; a duration is a number with its unit'),
        ("[pools.api]", 'timeouts.head = "2h"\n[pools.api]', '4:17: "2h" is out of range; "1ms" … "1h"'),
        ("[pools.api]", 'timeouts.head = "0s"\n[pools.api]', '4:17: "0s" is out of range; "1ms" … "1h"'),
        ("[pools.api]", "timeouts.head = true\n[pools.api]", "4:17: found true; a duration is a text with its unit"),
        (
            "[pools.api]",
            "limits.head = 65536\n[pools.api]",
            '4:15: found 65536 without a unit; a size is a text with its unit, such as "1KiB"; did you mean "64KiB"?',
        ),
        ("[pools.api]", 'limits.head = "65KiB"\n[pools.api]', '4:15: "65KiB" is out of range; "1KiB" … "64KiB"'),
        ("[pools.api]", "limits.headers = 257\n[pools.api]", "4:18: 257 is out of range; 1 … 256"),
        ("[pools.api]", 'limits.headers = "100"\n[pools.api]', '4:18: found "100"; a number without quotes, 1 … 256'),
        ("[pools.api]", "limits.headers = 1.5\n[pools.api]", "4:18: found 1.5; a number, 1 … 256"),
        ("[pools.api]", 'protocol = "h2"\n[pools.api]', '4:12: protocol "h2" is not in this version; protocol is "http", "tcp" or "udp"'),
        (
            "[pools.api]",
            'protocol = "htp"\n[pools.api]',
            '4:12: unknown protocol "htp"; protocol is "http", "tcp" or "udp"; did you mean "http"?',
        ),
        (
            "backends",
            'algorithm = "least_con"\nbackends',
            '5:13: unknown algorithm "least_con"; algorithm is "weighted_least_connections", "least_connections", "round_robin"',
        ),
        ("backends", 'algorithm = "maglev"\nhash_key = "{urj}"\nbackends', '6:12: there is no value "urj"'),
        ("backends", "balance_factor = 1.25\nbackends", '5:18: algorithm "weighted_least_connections" has no balance factor'),
        (
            "backends",
            'algorithm = "hash"\nbalance_factor = 1\nbackends',
            '6:18: algorithm "hash" has no balance factor; only "consistent_hash"',
        ),
        ("backends", "balance_factor = 0.5\nbackends", "5:18: found 0.5; a number without quotes, 0 (no bound) or 1.0 … 100.0"),
        (
            "backends",
            'algorithm = "round_robin"\nslow_start = "30s"\nbackends',
            '6:14: algorithm "round_robin" has no slow start; it knows no weights that could grow; "weighted_round_robin" does',
        ),
        (
            "backends",
            'algorithm = "maglev"\nslow_start = "30s"\nbackends',
            '6:14: algorithm "maglev" has no slow start; each step would move keys to another backend; leave slow_start out',
        ),
        ("backends", "retry = { attempts = 0 }\nbackends", "5:22: 0 is out of range; 1 … 8"),
        ("backends", "attempts = 2\nbackends", '5:1: "attempts" does not belong here; it belongs into pools.retry; known here: '),
        (
            "backends",
            'retry = { attempts = 1 }\nhedge = { after = "1s" }\nbackends',
            "6:1: a hedge is a second attempt, and retry.attempts is 1; ",
        ),
        (
            "backends",
            'hedge = { after = "60s" }\nretry = { within = "2m" }\nbackends',
            "5:1: hedge.after, 1m, is not below timeouts.first_byte, 1m; no hedge would ever begin",
        ),
        (
            "backends",
            'hedge = { after = "10s" }\nbackends',
            "5:1: hedge.after, 10s, is not below retry.within, 10s; no hedge would ever begin",
        ),
        ("backends", 'retry = { on = ["http_503"] }\nbackends', '5:17: unknown on "http_503"; on is "connect", '),
        ("backends", 'retry = { on = ["reset", "reset"] }\nbackends', "5:26: reset is listed a second time; list it once"),
        ('"web"', '"web site"', '2:8: "web site" is not a name; a name is 1 to 64 letters, digits, _, . and -; did you mean "web-site"?'),
        ('"web"', "5", '2:8: found 5; a name is a text, such as "web"'),
        ('"127.0.0.1:8080"', "8080", '3:8: found 8080; an address is a text, such as "127.0.0.1:8080"'),
        ('"127.0.0.1:8080"', "[]", "3:8: found an empty array; at least one is needed"),
        (
            '"127.0.0.1:8080"',
            '["127.0.0.1:80", "127.0.0.1:80"]',
            "3:25: 127.0.0.1:80 is bound a second time; the first is in line 3: an address has one listener",
        ),
        (
            '"127.0.0.1:8080"',
            '[":80", "[::1]:80"]',
            "3:16: [::1]:80 overlaps with :80; the first is in line 3: an address has one listener",
        ),
        ('["10.0.0.1:80"]', '["10.0.0.1:80", "10.0.0.1:80"]', "5:28: 10.0.0.1:80 is listed a second time; list it once"),
        (
            '["10.0.0.1:80"]',
            '["10.0.0.1:80", { address = "10.0.0.1:80", weight = 2 }]',
            "5:28: 10.0.0.1:80 is listed a second time; list it once",
        ),
        (
            '["10.0.0.1:80"]',
            '["app.example"]',
            '5:13: "app.example" has no port; the port stands behind the address, such as "app.example:8080"',
        ),
        ('["10.0.0.1:80"]', "[{ weight = 2 }]", '5:13: "address" is missing; address is a backend, such as "10.0.0.11:8080"'),
        ('["10.0.0.1:80"]', '[{ address = "a:1", weight = 257 }]', "5:41: 257 is out of range; 0 (never picked) or 1 … 256"),
        ('["10.0.0.1:80"]', '[{ address = "a:1", max_in_flight = 3 }]', '5:32: unknown key "max_in_flight"'),
        ('["10.0.0.1:80"]', '[{ address = "a:1", backup = 1 }]', "5:41: found 1; true or false"),
        ('["10.0.0.1:80"]', '[{ address = "a:1", priority = 256 }]', "5:43: 256 is out of range; 0 … 255"),
        ('["10.0.0.1:80"]', '[{ address = "a:1", zone = "a b" }]', '5:39: "a b" is not a name'),
        ('["10.0.0.1:80"]', "[5]", '5:13: found 5; a backend is a text, such as "10.0.0.11:8080"'),
        (
            '["10.0.0.1:80"]',
            '[{ address = "a:1", weight = 2 }]\nalgorithm = "round_robin"',
            '5:41: weight 2 in a pool with algorithm "round_robin", which knows no weights',
        ),
        ('["10.0.0.1:80"]', '"a:1"\n[[routes]]\npool = "apo"', '7:8: there is no pool "apo"; the pools are "api"; did you mean "api"?'),
        ('["10.0.0.1:80"]', '"a:1"\n[[routes]]\npath = "/"', '6:1: "pool" is missing; a route has a pool, or redirect'),
        ('["10.0.0.1:80"]', '"a:1"\n[[routes]]\npool = "api"\nhost = []', "8:8: found an empty array; at least one is needed"),
        (
            '["10.0.0.1:80"]',
            '"a:1"\n[[routes]]\npool = "api"\npath = "x"',
            '8:8: "x" does not start with a slash; a path is a prefix such as "/api/", an exact one such as "=/login"',
        ),
        (
            '["10.0.0.1:80"]',
            '"a:1"\n[[routes]]\npool = "api"\n[[routes]]\npool = "api"',
            '8:1: a second route for host "*" and path "/"; the first is in line 6: keep one of them',
        ),
        (
            '["10.0.0.1:80"]',
            '"a:1"\n[[routes]]\npool = "api"\nhost = ["A.b", "a.B"]',
            '6:1: a second route for host "a.b" and path "/"; the first is in line 6: keep one of them',
        ),
        (
            "[[listeners]]",
            '[global]\nreason_header = "a b"\n[[listeners]]',
            '2:17: "a b" is not a header name; a header name is made of letters, digits and -; "" turns it off; did you mean "a-b"?',
        ),
        (
            "[[listeners]]",
            '[global]\nreason_header = "Content-Length"\n[[listeners]]',
            '2:17: "Content-Length" has a meaning of its own; choose a name that HTTP does not use',
        ),
        ("[[listeners]]", '[global]\nrequest_id = "true"\n[[listeners]]', '2:14: found "true"; true or false, without quotes'),
        (
            "[[listeners]]",
            '[global]\ntrusted_networks = ["10.0.0.1/8"]\n[[listeners]]',
            '2:21: "10.0.0.1/8" has bits set behind its prefix; a network has zeros there; did you mean "10.0.0.0/8"?',
        ),
        ("[[listeners]]", "[global]\nworkers = 129\n[[listeners]]", '2:11: 129 is out of range; "auto" or 1 … 128'),
        ("[[listeners]]", "[global]\nworkers = 0\n[[listeners]]", '2:11: 0 is out of range; "auto" or 1 … 128; did you mean "auto"?'),
        (
            "[[listeners]]",
            '[global]\nworkers = "4"\n[[listeners]]',
            '2:11: found "4"; "auto" or 1 … 128, a number without quotes',
        ),
        ("[[listeners]]", '[global]\nworkers = "Auto"\n[[listeners]]', '2:11: found "Auto"; "auto" or 1 … 128; did you mean "auto"?'),
        ("[[listeners]]", "[global]\nworkers = true\n[[listeners]]", '2:11: found true; "auto" or 1 … 128'),
        ("[[listeners]]", "[global]\nworkers = []\n[[listeners]]", '2:11: found an empty array; "auto" or 1 … 128'),
        (
            "[[listeners]]",
            "[global]\nworker_processes = 4\n[[listeners]]",
            '2:1: unknown key "worker_processes"; known here: reason_header, forwarded_headers, ',
        ),
        (
            "[[listeners]]",
            '[global]\nuser = "www-data:adm"\n[[listeners]]',
            '2:8: "www-data:adm" is not the name of an account; a user or group is its name or its number in /etc/passwd or /etc/group; '
            'the group has a key of its own; did you mean "www-data"?',
        ),
        ("[[listeners]]", '[global]\ngroup = "-x"\n[[listeners]]', '2:9: "-x" is not the name of an account; a user or group is its name'),
        ("[[listeners]]", "[global]\nuser = 33\n[[listeners]]", '2:8: found 33; a user is a text, such as "www-data"'),
        (
            "[[listeners]]",
            '[global]\npid_file = "/run/"\n[[listeners]]',
            '2:12: "/run/" is a directory; give the path of a file in it; did you mean "/run/fastlb.pid"?',
        ),
        ("[[listeners]]", '[global]\npid_file = "a\\u0000b"\n[[listeners]]', '2:12: "a\\u0000b" holds a zero byte; a path cannot'),
        ("[[listeners]]", "[global]\nmax_descriptors = 10\n[[listeners]]", "2:19: 10 is out of range; 0 (as high as allowed) or 256 …"),
        ("[[listeners]]", "global = 5\n[[listeners]]", "1:10: found 5; global is a table"),
        ("[[listeners]]", "[[global]]\n[[listeners]]", "1:3: found an array; global is a table"),
        ("[[listeners]]", "[global]\nmax_connections = 2024-01-01\n[[listeners]]", "2:19: found a date or time; a number"),
    ],
)
def test_one_mistake_gives_one_error_at_its_place(old: str, new: str, expected: str) -> None:
    assert old in MINIMAL
    found = errors(MINIMAL.replace(old, new, 1))
    assert found[0].startswith(expected), found
    assert len(found) == 1, found


def test_two_listeners_need_two_names_and_two_addresses() -> None:
    text = MINIMAL + '[[listeners]]\nname = "web"\nbind = "0.0.0.0:8080"\n'
    assert errors(text) == [
        '7:8: a second listener is called "web"; the first is in line 2: each needs a name of its own',
        "8:8: 0.0.0.0:8080 overlaps with 127.0.0.1:8080; the first is in line 3: an address has one listener",
    ]


def test_an_empty_file_lacks_a_listener_and_a_pool() -> None:
    assert [line.partition(";")[0] for line in errors("")] == ["1:1: there is no listener", "1:1: there is no pool"]


def test_all_errors_come_at_once_sorted_by_place() -> None:
    text = """\
[global]
drain_timeout = 5
reason_header = X
[[listeners]]
nmae = "web"
bind = "localhost:80"
[pools.api]
backends = ["a", "b:0"]
atempts = 3
"""
    assert [line.partition("; ")[0] for line in errors(text)] == [
        "2:17: found 5 without a unit",
        "3:17: found X without quotes",
        '5:1: unknown key "nmae"',
        '6:8: "localhost" is a name',
        '8:13: "a" has no port',
        '8:18: "0" is not a port',
        '9:1: unknown key "atempts"',
    ]


def test_a_damaged_header_does_not_make_what_it_held_missing() -> None:
    assert [line.partition("; ")[0] for line in errors(MINIMAL.replace("[pools.api]", "[pools.api"))] == ["4:11: found the end of the line"]
    assert [line.partition("; ")[0] for line in errors(MINIMAL.replace("[[listeners]]", "[[listeners]"))] == ['1:12: found "]"']


def test_a_thousand_errors_are_a_hundred_and_a_number() -> None:
    shown = errors("".join(f"k{n} = 1\n" for n in range(1000)))
    assert len(shown) == 101
    assert shown[-1] == "… and 902 more"


def test_an_nginx_configuration_is_one_error() -> None:
    assert errors("events {}\nhttp {\n  server {\n    listen 80;\n  }\n}\n") == [
        "1:1: this looks like an nginx configuration; this version reads TOML only"
    ]


def test_a_file_that_is_not_there_or_no_file_says_so(tmp_path: Path) -> None:
    for path, says in (
        (tmp_path / "absent.toml", "no such file"),
        (tmp_path, "this is a directory"),
        (tmp_path / ("x" * 300), "cannot be read"),
    ):
        with pytest.raises(ConfigError) as caught:
            load_file(str(path))
        assert str(caught.value).startswith(f"{path}: {says}")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_file("a\0b")


def test_a_file_of_any_size_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "large.toml"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(ConfigError, match="the file is too large; at most 16 MiB"):
        load_file(str(path))


def test_bytes_that_are_not_utf_8_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "latin1.toml"
    path.write_bytes(b"# gr\xfc\xdfe\n" + MINIMAL.encode().replace(b'"web"', b'"w\xe9b"') + b"nonsense = 1\n")
    with pytest.raises(ConfigError) as caught:
        load_file(str(path))
    assert [line.removeprefix(f"{path}:").partition(";")[0] for line in caught.value.lines()] == [
        "1:5: the byte 0xFC is not UTF-8",
        "3:10: the byte 0xE9 is not UTF-8",
        '7:1: unknown key "nonsense"',
    ]


def test_a_byte_order_mark_is_nothing(tmp_path: Path) -> None:
    path = tmp_path / "bom.toml"
    path.write_bytes(b"\xef\xbb\xbf" + MINIMAL.encode())
    assert load_file(str(path)).config.pools[0].name == "api"


def test_a_terminal_never_sees_what_a_file_wants_it_to_obey() -> None:
    (error,) = errors(MINIMAL.replace('"web"', '"\\u001b[31mred\\u009b"'))
    assert "\x1b" not in error
    assert "\x9b" not in error
