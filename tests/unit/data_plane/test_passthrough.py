"""fastlb/data_plane/passthrough.pyx: TLS that is passed on, by the names and protocols of real ClientHellos; the test pumps."""

import socket
import ssl
from collections.abc import Iterator, Sequence

import pytest

from tests.support.images import Writer, find_sections, load, patch
from tests.support.sessions import Sessions, reset

UNRECOGNIZED_NAME = b"\x15\x03\x01\x00\x02\x02\x70"
Choices = Sequence[tuple[Sequence[bytes], int]]


def client_hello(name: str | None, protocols: Sequence[str] = ()) -> bytes:
    """What OpenSSL says first."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(list(protocols))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


def names_image(
    ports: Sequence[int], names: Sequence[tuple[str, Choices]], others: Choices, *, generation: int = 1, head_timeout_ms: int = 60_000
) -> bytes:
    """A pool for each port; choices count them."""
    writer = Writer(generation)
    listener = writer.listener(http2_streams=0, head_timeout_ms=head_timeout_ms)
    routes = []
    for number, port in enumerate(ports):
        pool = writer.pool(f"pool{number}")
        writer.backend(pool, port)
        routes.append(writer.add_route(pool=pool))
    writer.set_session(listener, None)

    def compiled(choices: Choices) -> list[tuple[Sequence[bytes], int]]:
        return [(protocols, routes[number]) for protocols, number in choices]

    writer.set_sni(listener, [(name, compiled(choices)) for name, choices in names], compiled(others))
    return writer.image()


class Named(Sessions):
    def choose(self, names: Sequence[tuple[str, Choices]], others: Choices, **settings: int) -> None:
        self.generation += 1
        ports = [backend.getsockname()[1] for backend in self.backends]
        self.apply_image(names_image(ports, names, others, generation=self.generation, **settings), self.listening)


@pytest.fixture
def world() -> Iterator[Named]:
    with Named(3) as made:
        yield made


def arrives_at(world: Named, hello: bytes) -> int:
    """The number of the backend that gets these very bytes."""
    client = world.dial()
    client.send(hello)
    found: list[int] = []
    accepted: list[socket.socket] = []

    def look() -> bool:
        for number, backend in enumerate(world.backends):
            try:
                accepted.append(world.stack.enter_context(backend.accept()[0]))
            except BlockingIOError:
                continue
            found.append(number)
        return bool(found)

    world.pump_until(look)
    accepted[0].setblocking(False)
    assert world.read_all(accepted[0], len(hello)) == hello
    accepted[0].send(b"server hello")
    assert world.read(client) == b"server hello"
    return found[0]


def test_a_name_leads_to_its_pool_a_wildcard_to_its_own_and_the_rest_elsewhere(world: Named) -> None:
    world.choose([("a.example", [([], 0)]), ("*.b.example", [([], 1)])], [([], 2)])
    asked = ("a.example", "A.Example", "x.b.example", "y.x.b.example", "b.example", "other.example", None)
    assert [arrives_at(world, client_hello(name)) for name in asked] == [0, 0, 1, 2, 2, 2, 2]


def test_protocols_choose_among_the_rules_of_a_name(world: Named) -> None:
    world.choose([("a.example", [([b"h2", b"h3"], 0), ([b"postgresql"], 1), ([], 2)])], [])
    offers = (["h2", "http/1.1"], ["http/1.1", "postgresql"], ["http/1.1"], [])
    assert [arrives_at(world, client_hello("a.example", offered)) for offered in offers] == [0, 1, 2, 2]


def test_what_fits_no_rule_is_told_so(world: Named) -> None:
    world.choose([("a.example", [([b"h2"], 0)])], [])
    for hello in (client_hello("b.example"), client_hello(None), client_hello("a.example", ["http/1.1"])):
        client = world.dial()
        client.send(hello)
        assert world.read_all(client, 99) == UNRECOGNIZED_NAME
    assert world.counters()["reason.client:tls_unknown_name"] == 3


def test_a_message_in_single_bytes_is_understood_and_arrives_whole(world: Named) -> None:
    world.choose([("a.example", [([], 1)])], [])
    hello = client_hello("a.example")
    client = world.dial()
    for at in range(len(hello) - 1):
        client.send(hello[at : at + 1])
        world.pump_until(lambda at=at: world.counters()["client_bytes_in"] == at + 1)  # type: ignore[misc]
    client.send(hello[-1:] + b"and more")
    peer = world.accept_from(world.backends[1])
    assert world.read_all(peer, len(hello) + 8) == hello + b"and more"


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00", b"\x16\x03\x01\xff\xff"])
def test_what_is_no_client_hello_is_reset(world: Named, said: bytes) -> None:
    world.choose([], [([], 0)])
    client = world.dial()
    client.send(said)
    assert world.end_of(client) == "reset"
    assert world.counters()["reason.client:tls_protocol"] == 1


def test_a_client_that_says_nothing_or_half_of_it_has_its_time(world: Named) -> None:
    world.choose([], [([], 0)], head_timeout_ms=40)
    silent, half = world.dial(), world.dial()
    half.send(client_hello("a.example")[:50])
    assert [world.end_of(silent), world.end_of(half)] == ["reset", "reset"]
    assert world.counters()["reason.client:tls_timeout"] == 2


def test_a_client_that_leaves_in_the_middle_is_counted(world: Named) -> None:
    world.choose([], [([], 0)])
    first, second = world.dial(), world.dial()
    for client in (first, second):
        client.send(client_hello("a.example")[:50])
    world.pump_until(lambda: world.counters()["client_bytes_in"] == 100)
    first.close()
    reset(second)
    world.pump_until(world.is_at_rest)
    assert world.counters()["reason.client:tls_closed"] == 1
    assert world.counters()["reason.client:reset"] == 1


def test_one_that_leaves_before_it_has_said_anything_is_no_failure(world: Named) -> None:
    world.choose([], [([], 0)])
    world.dial().close()
    world.pump_until(lambda: world.counters()["clients_closed"] == 1)
    counters = world.counters()
    assert not [name for name in counters if name.startswith("reason.") and counters[name]]


def test_a_client_whose_listener_is_bound_elsewhere_meanwhile_goes_where_its_name_says(world: Named) -> None:
    world.choose([("a.example", [([], 0)])], [])
    hello = client_hello("a.example")
    client = world.dial()
    client.send(hello[:50])
    world.pump_until(lambda: world.counters()["client_bytes_in"] == 50)
    world.listening = world.listen()
    world.choose([("a.example", [([], 2)])], [])
    client.send(hello[50:])
    peer = world.accept_from(world.backends[2])
    assert world.read_all(peer, len(hello)) == hello


def test_a_reload_between_two_pieces_decides_by_the_new_names(world: Named) -> None:
    world.choose([("a.example", [([], 0)])], [])
    hello = client_hello("a.example")
    client = world.dial()
    client.send(hello[:50])
    world.pump_until(lambda: world.counters()["client_bytes_in"] == 50)
    world.choose([("a.example", [([], 2)])], [])
    client.send(hello[50:])
    peer = world.accept_from(world.backends[2])
    assert world.read_all(peer, len(hello)) == hello


def test_an_image_whose_choices_lead_nowhere_is_refused() -> None:
    image = names_image([1, 2], [("a.example", [([b"h2"], 0), ([], 1)])], [([], 1)])
    load(image)
    at, count = find_sections(image)["sni_choices"]
    assert count == 3
    protocols, _, route, is_last = 0, 4, 8, 12
    for offset, value in (
        (route, 2),
        (2 * 16 + is_last, 0),
        (protocols + 4, 0xFFFF),
        (protocols + 4, 2),  # cuts a name of a protocol
    ):
        with pytest.raises(ValueError, match="image"):
            load(patch(image, at + offset, value))
