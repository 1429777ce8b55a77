"""Listeners of TCP sessions and the pools that they lead to: what is refused, and how it is said."""

import pytest

from fastlb.control_plane.config.schema import Config
from tests.support.configuration import configuration
from tests.unit.control_plane.config.test_loader import errors, load, warnings

BACKENDS = ["10.0.0.1:5432"]


def tcp(listener: dict[str, object] | None = None, **pool: object) -> str:
    return configuration(BACKENDS, listener={"protocol": "tcp", "pool": "main", **(listener or {})}, pool=dict(pool))


def test_a_tcp_listener_and_its_pool_are_a_whole_configuration() -> None:
    config = load(tcp())
    assert isinstance(config, Config)
    assert config.routes == ()
    assert config.listeners[0].pool == "main"
    assert warnings(tcp()) == []


def test_the_pool_has_to_be_named_and_known() -> None:
    (error,) = errors(configuration(BACKENDS, listener={"protocol": "tcp"}))
    assert 'the listener "web" does not say where its sessions go' in error
    (error,) = errors(tcp({"pool": "mian"}))
    assert 'there is no pool "mian"' in error
    assert 'did you mean "main"?' in error


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("limits", {"head": "16KiB"}),
        ("http2", {"enabled": True}),
        ("redirect_https", True),
        ("timeouts", {"idle": "5s"}),
        ("timeouts", {"head": "5s"}),
    ],
)
def test_options_of_http_are_refused_on_a_tcp_listener(key: str, value: object) -> None:
    (error,) = errors(tcp({key: value}))
    assert 'of a listener with protocol = "tcp"' in error


@pytest.mark.parametrize(("key", "value"), [("pool", "main"), ("timeouts", {"session": "5s"})])
def test_options_of_tcp_are_refused_on_an_http_listener(key: str, value: object) -> None:
    (error,) = errors(configuration(BACKENDS, listener={key: value}))
    assert "of a listener that speaks HTTP" in error


@pytest.mark.parametrize(
    "pool",
    [
        {"algorithm": "consistent_hash", "hash_key": "{cookie.id}"},
        {"sticky": {"cookie": "SERVERID"}},
        {"sticky": {"learn": "JSESSIONID"}},
        {"protocol": "http2"},
        {"protocol": "auto", "tls": True},
    ],
)
def test_a_pool_that_needs_a_request_cannot_have_sessions(pool: dict[str, object]) -> None:
    (error,) = errors(tcp(**pool))
    assert 'the pool "main" gets sessions' in error


def test_what_needs_no_more_than_an_address_can() -> None:
    load(tcp(algorithm="maglev", hash_key="{client}", sticky={"source": True}, queue={"max": 3}))


def test_a_route_cannot_be_for_a_tcp_listener() -> None:
    text = configuration(
        listeners=[{"name": "db", "protocol": "tcp", "pool": "main"}, {"name": "web", "bind": "127.0.0.1:1"}],
        pools={"main": {"backends": BACKENDS}},
        routes=[{"pool": "main", "listener": "db"}],
    )
    (error,) = errors(text)
    assert 'the listener "db" has protocol = "tcp"' in error


def test_beside_http_the_pool_without_sessions_gets_the_requests() -> None:
    listeners = [{"name": "db", "protocol": "tcp", "pool": "db"}, {"name": "web", "bind": "127.0.0.1:1"}]
    pools = {"db": {"backends": BACKENDS}, "app": {"backends": ["10.0.0.2:80"]}}
    (route,) = load(configuration(listeners=listeners, pools=pools)).routes
    assert route.pool.names() == ["app"]
    (error,) = errors(configuration(listeners=listeners, pools={**pools, "other": {"backends": ["10.0.0.3:80"]}}))
    assert "there are 3 pools and no route" in error


def test_a_pool_that_nothing_leads_to_is_told() -> None:
    pools = {"main": {"backends": BACKENDS}, "spare": {"backends": ["10.0.0.2:80"]}}
    (warning,) = warnings(configuration(listeners=[{"name": "db", "protocol": "tcp", "pool": "main"}], pools=pools))
    assert 'no route leads to the pool "spare"' in warning


@pytest.mark.parametrize(
    ("listener", "defers"),
    [
        ({"protocol": "http"}, True),
        ({"protocol": "http", "defer_accept": False}, False),
        ({"protocol": "tcp", "pool": "main"}, False),
        ({"protocol": "tcp", "pool": "main", "defer_accept": True}, True),
    ],
)
def test_the_kernel_keeps_clients_back_where_they_speak_first(listener: dict[str, object], defers: bool) -> None:
    assert load(configuration(BACKENDS, listener=listener)).listeners[0].defers_accept() is defers


CERTIFICATES: dict[str, object] = {"certificates": "/etc/fastlb/db.pem"}


def test_protocols_are_agreed_on_where_the_listener_says_which() -> None:
    assert load(tcp({"tls": CERTIFICATES})).listeners[0].tls.alpn == ()
    config = load(tcp({"tls": {**CERTIFICATES, "alpn": ["postgresql", "h2"]}}))
    assert config.listeners[0].tls.alpn == ("postgresql", "h2")
    assert load(configuration(BACKENDS, listener={"tls": CERTIFICATES})).listeners[0].tls.alpn == ("h2", "http/1.1")


def test_protocols_of_a_listener_fit_into_a_handshake() -> None:
    long = [f"{number}{'x' * 250}" for number in range(5)]
    for listener in ({"tls": {**CERTIFICATES, "alpn": long}}, {"sni": [{"alpn": long, "pool": "main"}]}):
        (error,) = errors(tcp(listener))
        assert "the names of these protocols are too long; together at most 1024 bytes" in error


def test_where_tls_ends_here_rules_are_for_protocols_that_are_offered() -> None:
    rule = {"names": "a.example", "alpn": "postgresql", "pool": "main"}
    config = load(tcp({"tls": {**CERTIFICATES, "alpn": "postgresql"}, "sni": [rule]}))
    assert config.listeners[0].sni[0].alpn == ("postgresql",)
    for offered in ({}, {"alpn": "h2"}):
        (error,) = errors(tcp({"tls": {**CERTIFICATES, **offered}, "sni": [rule]}))
        assert '"postgresql" is not agreed on with anybody' in error


def test_a_client_hello_has_a_time_of_its_own_where_it_is_passed_on_only() -> None:
    listener: dict[str, object] = {"sni": [{"pool": "main"}], "timeouts": {"head": "5s"}}
    load(tcp(listener))
    (error,) = errors(tcp({**listener, "tls": CERTIFICATES}))
    assert "timeouts.head of a listener" in error


def test_only_sessions_come_from_their_clients_address() -> None:
    assert load(tcp(source_address="client")).pools[0].source_address == "client"
    own = {"main": {"backends": BACKENDS, "source_address": "client"}}
    listeners = [{"name": "db", "protocol": "tcp", "pool": "main"}, {"name": "web", "bind": "127.0.0.1:1"}]
    for text in (
        configuration(BACKENDS, pool={"source_address": "client"}),
        configuration(listeners=listeners, pools=own, routes=[{"pool": "main"}]),
    ):
        (error,) = errors(text)
        assert 'the pool "main" gets requests, and connects from the client\'s address' in error
