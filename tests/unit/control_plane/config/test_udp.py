"""Listeners of UDP sessions and the pools that they lead to: what follows from them, what is refused, and how it is said."""

import pytest

from fastlb.control_plane.config.schema import Config
from fastlb.control_plane.groups import Row
from fastlb.control_plane.session_plan import add_sessions
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


# ---------------------------------------------------------------------------------------------------- names in connection ids of QUIC
def quic(*ids: str, offset: int = 1, listener: dict[str, object] | None = None) -> str:
    backends = [{"address": f"10.0.0.{number}:443", "server_id": one} for number, one in enumerate(ids, 1)]
    wanted = {"protocol": "udp", "pool": "main", "udp": {"server_id_offset": offset}} if listener is None else listener
    return configuration(listener=wanted, pools={"main": {"backends": backends}})


def test_backends_have_names_in_connection_ids() -> None:
    config = load(quic("0A01", "", "0a02"))
    assert [backend.server_id for backend in config.pools[0].backends] == ["0a01", "", "0a02"]
    writer = Recorder()
    rows = [Row(backend, "", "", "", b"") for backend in config.pools[0].backends]
    add_sessions(writer, config, {"main": 0}, {"main": [*rows, rows[2]]})  # type: ignore[arg-type]
    assert writer.wanted["server_ids"] == [(b"\x0a\x01", 0), (b"\x0a\x02", 2)], "the first address of a name counts"
    assert writer.wanted["server_id_offset"] == 1


class Recorder:
    """What a writer is told of datagrams."""

    def __init__(self) -> None:
        self.wanted: dict[str, object] = {}

    def add_route(self, **_: object) -> int:
        return 0

    def set_datagrams(self, *_: object, **wanted: object) -> None:
        self.wanted = wanted


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (quic("0a0"), '"0a0" is not a server id; a server id is 1 to 16 bytes'),
        (quic("xy"), '"xy" is not a server id'),
        (quic("00" * 17), "is not a server id"),
        (quic("0a", "0a"), 'two backends have the server id "0a"; each has one of its own'),
        (quic("0a", "0a0b"), 'the server id "0a0b" has 2 bytes; all of a pool have one size, as "0a" has it'),
        (quic("00" * 16, offset=5), "server_id_offset = 5, with server ids of 16 bytes; a connection id of QUIC has 20 bytes at most"),
        (quic("0a", listener={}), 'backends with a server_id; no listener with protocol = "udp" leads to the pool "main"'),
    ],
)
def test_names_that_cannot_be_told_apart_are_refused(text: str, said: str) -> None:
    assert said in "\n".join(errors(text))
