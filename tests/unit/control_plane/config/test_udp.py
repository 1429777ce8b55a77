"""Listeners of UDP sessions and the pools that they lead to: what follows from them, what is refused, and how it is said."""

import pytest

from fastlb.control_plane.config.schema import Config
from tests.support.configuration import configuration
from tests.unit.control_plane.config.test_loader import errors, load

BACKENDS = ["10.0.0.1:53"]


def udp(listener: dict[str, object] | None = None, backends: list[str] | None = None, **pool: object) -> str:
    return configuration(backends or BACKENDS, listener={"protocol": "udp", "pool": "main", **(listener or {})}, pool=dict(pool))


def test_a_udp_listener_and_its_pool_are_a_whole_configuration() -> None:
    config = load(udp({"udp": {"responses": 1}}))
    assert isinstance(config, Config)
    assert config.routes == ()
    assert [address.udp for address in config.listeners[0].bind] == [True]
    assert config.listeners[0].udp.responses == 1


def test_a_pool_for_udp_alone_goes_by_the_clients_address_unless_it_says_otherwise() -> None:
    assert load(udp()).pools[0].algorithm == "consistent_hash"
    assert load(udp(algorithm="round_robin")).pools[0].algorithm == "round_robin"
    shared = configuration(
        listeners=[{"name": "a", "protocol": "udp", "pool": "main"}, {"name": "b", "protocol": "tcp", "pool": "main"}],
        pools={"main": {"backends": BACKENDS}},
    )
    assert load(shared).pools[0].algorithm == "weighted_least_connections"


def test_tcp_and_udp_may_have_the_same_port() -> None:
    both = configuration(
        listeners=[
            {"name": "a", "protocol": "udp", "pool": "main", "bind": ":53"},
            {"name": "b", "protocol": "tcp", "pool": "main", "bind": ":53"},
        ],
        pools={"main": {"backends": BACKENDS}},
    )
    first, second = load(both).listeners
    assert (first.bind[0].udp, second.bind[0].udp) == (True, False)
    assert first.bind != second.bind


def test_two_udp_listeners_may_not() -> None:
    twice = configuration(
        listeners=[{"name": name, "protocol": "udp", "pool": "main", "bind": ":53"} for name in ("a", "b")],
        pools={"main": {"backends": BACKENDS}},
    )
    (error,) = errors(twice)
    assert ":53 is bound a second time" in error


@pytest.mark.parametrize(
    "setting",
    [
        {"backlog": 5},
        {"proxy_protocol": ["10.0.0.0/8"]},
        {"defer_accept": True},
        {"tcp_keepalive": {"idle": "60s"}},
        {"timeouts": {"idle": "5s"}},
        {"http2": {"enabled": True}},
    ],
)
def test_options_of_connections_are_refused(setting: dict[str, object]) -> None:
    (error,) = errors(udp(setting))
    assert 'of a listener with protocol = "udp"' in error


def test_what_only_udp_has_is_refused_elsewhere() -> None:
    (error,) = errors(configuration(["10.0.0.1:80"], listener={"udp": {"responses": 1}}))
    assert 'udp of a listener with protocol = "http"' in error


def test_neither_side_may_be_a_unix_socket() -> None:
    (error,) = errors(udp({"bind": "unix:/run/x"}))
    assert 'protocol = "udp" takes a port' in error
    (error,) = errors(udp(backends=["unix:/run/x"]))
    assert "a backend of it is a unix socket" in error


def test_backends_of_udp_do_not_speak_tls() -> None:
    (error,) = errors(udp(tls={"verify": False}))
    assert "there is no TLS over UDP" in error
