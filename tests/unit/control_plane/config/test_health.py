"""The `health` table of a pool: what it may say, and what its keys say together."""

import pytest

from fastlb.control_plane.config.errors import ConfigError
from fastlb.control_plane.config.health import Health, StatusRange, read_payload
from fastlb.control_plane.config.loader import Loaded, load_text

SITE = """\
[[listeners]]
name = "web"
bind = ":8080"
[pools.main]
backends = ["10.0.0.1:80"]
"""


def load(health: str, site: str = SITE) -> Loaded:
    return load_text(f"{site}health = {health}\n", "f")


def read(health: str) -> Health:
    return load(health).config.pools[0].health


def errors(health: str, site: str = SITE) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(health, site)
    return [line.split(": ", 1)[1] for line in caught.value.lines()]


def test_pools_are_not_probed_unless_they_say_so() -> None:
    assert load_text(SITE, "f").config.pools[0].health == Health(type="off")


def test_a_type_alone_is_enough() -> None:
    assert read('"tcp"') == read('{ type = "tcp" }')
    assert read('"http"') == Health(
        type="http",
        path="/",
        method="GET",
        host="",
        headers=(),
        expect=(StatusRange(200, 399),),
        interval_ms=5000,
        fast_interval_ms=1000,
        timeout_ms=3000,
        rise=2,
        fall=3,
        port=0,
        tls=False,
        tls_verify=True,
    )
    assert not read('"http"').match


def test_statuses_are_numbers_ranges_and_lists_of_them() -> None:
    assert read('{ type = "http", expect = 204 }').expect == (StatusRange(204, 204),)
    assert read('{ type = "http", expect = [200, "300 - 399", "503"] }').expect == (
        StatusRange(200, 200),
        StatusRange(300, 399),
        StatusRange(503, 503),
    )


def test_a_body_is_matched_by_text_or_pattern() -> None:
    assert read('{ type = "http", match = "all ok" }').match.text == "all ok"
    regex = read("{ type = 'http', match = '~*^all' }").match.regex
    assert regex is not None
    assert (regex.pattern, regex.caseless) == ("^all", True)


def test_everything_there_is_for_http() -> None:
    health = read(
        '{ type = "http", path = "/health?x=1", method = "HEAD", host = "a.example:81", headers = { X-A = "1", X-B = "" }, port = 81,'
        ' interval = "1s", fast_interval = "500ms", timeout = "250ms", rise = 3, fall = 5, tls = true, tls_ca_file = "/ca.pem",'
        ' tls_server_name = "b.example" }'
    )
    assert (health.path, health.method, health.host) == ("/health?x=1", "HEAD", "a.example:81")
    assert health.headers == (("X-A", "1"), ("X-B", ""))
    assert (health.interval_ms, health.fast_interval_ms, health.timeout_ms, health.rise, health.fall) == (1000, 500, 250, 3, 5)
    assert (health.port, health.tls, health.tls_ca_file, health.tls_server_name) == (81, True, "/ca.pem", "b.example")


def test_grpc_has_a_service_an_authority_and_metadata() -> None:
    health = read('{ type = "grpc", service = "shop.Orders", host = "orders.example", headers = { X-A = "1" }, port = 81, tls = true }')
    assert (health.type, health.service, health.host, health.headers) == ("grpc", "shop.Orders", "orders.example", (("X-A", "1"),))
    assert read('"grpc"') == Health(type="grpc")


def test_a_pool_that_is_probed_over_grpc_and_asked_in_http1_is_warned_of() -> None:
    (warning,) = load('"grpc"').warnings
    assert warning.found == 'the backends of the pool "main" are probed over gRPC, and asked in HTTP/1.1'
    for health in ('"grpc"\nprotocol = "http2"', '{ type = "grpc", port = 81 }'):
        assert load(health).warnings == ()
    site = SITE.replace('bind = ":8080"', 'bind = ":8080"\nprotocol = "tcp"\npool = "main"')
    assert load('"grpc"', site).warnings == ()
    site = site.replace('pool = "main"', 'sni = [{ names = "a.example", pool = "main" }]', 1)
    assert load('"grpc"', site).warnings == ()


def test_a_datagram_is_a_text_or_bytes() -> None:
    health = read('{ type = "udp", send = "hex:0a1B", match = "~x", port = 54 }')
    assert (read_payload(health.send), health.reply, health.port) == (b"\x0a\x1b", True, 54)
    assert read_payload(read('{ type = "udp", send = "hex" }').send) == b"hex"
    assert read('"udp"') == Health(type="udp")


def test_a_script_is_a_list_of_arguments() -> None:
    assert read('{ type = "script", command = ["/bin/check", "$HOME"] }').command == ("/bin/check", "$HOME")
    assert read('{ type = "script", command = "/bin/check" }').command == ("/bin/check",)


@pytest.mark.parametrize(
    ("health", "expected"),
    [
        ('"https"', 'unknown type "https"; type is "off", "tcp", "udp", "http", "grpc" or "script"; did you mean "http"?'),
        ("true", 'found true; word is a text, "off", "tcp", "udp", "http", "grpc" or "script"'),
        ("{ }", ""),
        ('{ path = "/health" }', 'health does not say how backends are probed; type is "tcp", "udp", "http", "grpc" or "script"'),
        ('{ type = "tcp", send = "x" }', 'send has no meaning for type "tcp"; it belongs to "udp"'),
        ('{ type = "udp", send = "hex:0" }', '"hex:0" is not a payload; behind "hex:" stand bytes'),
        ('{ type = "udp", send = "' + "x" * 1025 + '" }', "this payload has 1025 bytes; at most 1024"),
        ('{ type = "udp", reply = false, match = "x" }', "match says what an answer holds, and reply = false that none has to come"),
        ('{ type = "udp", tls = true }', 'tls has no meaning for type "udp"'),
        ('{ type = "http", path = "health" }', '"health" does not start with a slash'),
        ('{ type = "http", path = "/a b" }', '"/a b" is not a path'),
        ('{ type = "http", method = "get" }', '"get" is not a method; upper and lower case differ; did you mean "GET"?'),
        ('{ type = "http", method = "CONNECT" }', '"CONNECT" is not a method for a probe'),
        ('{ type = "http", host = "http://a" }', '"http://a" is not a host'),
        ('{ type = "http", headers = { Host = "a" } }', '"Host" has a key of its own'),
        ('{ type = "http", headers = { Content-Length = "5" } }', '"Content-Length" says how the message is framed'),
        ('{ type = "http", headers = { "X A" = "5" } }', '"X A" is not a header name'),
        ('{ type = "http", headers = { X-A = "a\\r\\nB: c" } }', "is not the value of a header field"),
        ('{ type = "http", headers = "X-A: 1" }', 'found "X-A: 1"; headers is a table of fields'),
        (
            '{ type = "http", expect = "2xx" }',
            'found "2xx"; a final status is 200 to 599, such as 200 or "200-399"; did you mean "200-299"?',
        ),
        ('{ type = "http", expect = "399-200" }', 'the range "399-200" is empty'),
        ('{ type = "http", expect = 100 }', "found 100; a final status is 200 to 599"),
        ('{ type = "http", expect = [] }', "found an empty array"),
        ('{ type = "http", match = "~(" }', "missing"),
        ('{ type = "tcp", rise = 1 }', "1 is out of range; 2 … 100"),
        ('{ type = "tcp", fall = 0 }', "0 is out of range; 2 … 100"),
        ('{ type = "tcp", interval = 5 }', "found 5 without a unit"),
        ('{ type = "tcp", interval = "10ms" }', '"10ms" is out of range'),
        ('{ type = "tcp", interval = "2s", fast_interval = "3s" }', "fast_interval, 3s, is above interval, 2s"),
        ('{ type = "tcp", inter = "2s" }', 'unknown key "inter"'),
        ('{ type = "tcp", path = "/health" }', 'path has no meaning for type "tcp"; it belongs to "http"'),
        ('{ type = "tcp", command = ["/bin/true"] }', 'command has no meaning for type "tcp"; it belongs to "script"'),
        (
            '{ type = "script", command = ["/bin/true"], port = 81 }',
            'port has no meaning for type "script"; it belongs to "tcp", "udp", "http" or "grpc"',
        ),
        ('{ type = "grpc", path = "/health" }', 'path has no meaning for type "grpc"; it belongs to "http"'),
        ('{ type = "http", service = "a" }', 'service has no meaning for type "http"; it belongs to "grpc"'),
        ('{ type = "grpc", service = "a b" }', '"a b" is not the name of a service'),
        ('{ type = "grpc", headers = { Grpc-Timeout = "1S" } }', '"Grpc-Timeout" belongs to the gRPC call itself'),
        ('{ type = "grpc", headers = { Content-Type = "a/b" } }', '"Content-Type" belongs to the gRPC call itself'),
        ('{ type = "script" }', '"command" is missing; it is the path of a program and its arguments'),
        ('{ type = "script", command = ["check"] }', '"check" is not an absolute path; programs are not searched for'),
        ('{ type = "tcp", tls_server_name = "a.example" }', "tls_server_name has no meaning without tls; say tls = true"),
        ('{ type = "tcp", tls = true, tls_verify = false, tls_ca_file = "/ca.pem" }', "nothing is verified where tls_verify is false"),
        ('{ type = "tcp", tls = true, tls_ca_file = "ca.pem" }', '"ca.pem" is not an absolute path'),
    ],
)
def test_what_is_wrong_is_said(health: str, expected: str) -> None:
    if not expected:
        assert load(health).config.pools[0].health.type == "off"
        return
    (error,) = errors(health)
    assert expected in error


def test_unix_sockets_have_no_port_and_no_name_of_their_own() -> None:
    site = SITE.replace('"10.0.0.1:80"', '"10.0.0.1:80", "unix:/run/app.sock"')
    assert "a backend of this pool is a unix socket" in errors('{ type = "tcp", port = 81 }', site)[0]
    assert "tls_server_name" in errors('{ type = "tcp", tls = true }', site)[0]
    assert load('{ type = "tcp", tls = true, tls_server_name = "a.example" }', site).warnings == ()
    assert load('{ type = "http" }', site).warnings == ()
