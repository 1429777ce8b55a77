"""fastlb/data_plane/connection_id.pxd: what QUIC clients say of their backends, and where their datagrams go for it."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import _probe
from tests.support.datagrams import Datagrams
from tests.support.images import Writer, find_sections, load, patch

NAMES = [b"\x0a\x01", b"\x0a\x02"]


def short(name: bytes, rest: bytes = b"payload") -> bytes:
    return b"\x41" + b"\x00" + name + b"random" + rest


def long(connection_id: bytes, rest: bytes = b"payload") -> bytes:
    return b"\xc0\0\0\0\x01" + bytes([len(connection_id)]) + connection_id + b"\x00" + rest


@pytest.fixture
def world() -> Iterator[Datagrams]:
    """Two backends with names, to which nobody is sent without naming them, and one without a name."""
    with Datagrams(3) as made:
        start(made)
        yield made


def start(world: Datagrams, **settings: object) -> None:
    world.start(weights=[0, 0, 1], server_ids=list(zip(NAMES, (0, 1), strict=True)), server_id_offset=1, **settings)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------- the id
@pytest.mark.parametrize(
    ("datagram", "found"),
    [
        (b"", None),
        (b"\x40", None),
        (b"\x40\x00ab", b"ab"),
        (b"\x40\x00a", None),
        (b"\x40\x00abcdef", b"ab"),
        (b"\xc0\0\0\0\x01\x03\x00ab", b"ab"),
        (b"\xc0\0\0\0\x01\x03\x00a", None),
        (b"\xc0\0\0\0\x01\x02\x00ab", None),
        (b"\xc0\0\0\0\x01\xff\x00ab", None),
        (b"\x80\0\0\0\0", None),
        (b"\xff\xff\xff\xff\xff\x14\x00ab" + bytes(17), b"ab"),
    ],
)
def test_a_name_is_read_where_the_id_has_room_for_it(datagram: bytes, found: bytes | None) -> None:
    assert _probe.find_server_id(datagram, 1, 2, True) == found


def test_ids_of_long_headers_count_only_where_they_are_to() -> None:
    assert _probe.find_server_id(long(b"\x00ab"), 1, 2, False) is None


@given(st.binary(max_size=60), st.integers(0, 19), st.integers(1, 16), st.booleans())
def test_whatever_comes_a_name_lies_in_its_id(datagram: bytes, offset: int, size: int, any_form: bool) -> None:
    connection_id = datagram[1:]
    if datagram and datagram[0] & 0x80:
        whole = len(datagram) >= 6 and len(datagram) >= 6 + datagram[5]
        connection_id = datagram[6 : 6 + datagram[5]] if whole and any_form else b""
    name = connection_id[offset : offset + size]
    assert _probe.find_server_id(datagram, offset, size, any_form) == (name if len(name) == size else None)


# ---------------------------------------------------------------------------------------------------- the backend
def test_a_new_address_goes_to_the_backend_that_its_id_names(world: Datagrams) -> None:
    for number, name in enumerate(NAMES):
        world.echo(world.client(), short(name), world.backends[number])
        world.echo(world.client(), long(b"\x00" + name + b"random"), world.backends[number])


@pytest.mark.parametrize(
    "datagram", [b"", b"\x40", short(b"\x0a\x03"), long(b"\x0a\x01"), long(b"12345678"), b"\xc0\0\0\0\x01\xff\0\x0a\x01"]
)
def test_whose_id_names_nobody_the_algorithm_picks_for(world: Datagrams, datagram: bytes) -> None:
    world.echo(world.client(), datagram, world.backends[2])


def test_a_client_that_moves_goes_on_at_its_backend(world: Datagrams) -> None:
    """As QUIC does it: the handshake with an id of the client's own, then with ids that the backend has given."""
    world.start(server_ids=list(zip(NAMES, (0, 1), strict=True)), server_id_offset=1, algorithm="consistent_hash")
    before = world.client()
    before.send(long(b"made up."))
    world.settle()
    number = next(number for number, one in enumerate(world.backends) if can_read(one))
    name = [*NAMES, b"\x0a\x03"][number]
    world.start(server_ids=list(zip([*NAMES, b"\x0a\x03"], (0, 1, 2), strict=True)), server_id_offset=1, algorithm="round_robin")
    world.echo(before, short(name), world.backends[number])
    for _ in range(6):
        world.echo(world.client(), short(name), world.backends[number])


def can_read(peer: object) -> bool:
    try:
        peer.recv(65536)  # type: ignore[attr-defined]
    except BlockingIOError:
        return False
    return True


def test_an_address_that_another_client_has_now_goes_where_that_one_belongs(world: Datagrams) -> None:
    client = world.client()
    first = world.echo(client, short(NAMES[0]), world.backends[0])
    assert world.echo(client, short(b"\x0a\x09"), world.backends[0]) == first
    assert world.echo(client, long(b"\x00" + NAMES[1]), world.backends[0]) == first, "perhaps the client has made it up"
    world.echo(client, short(NAMES[1]), world.backends[1])
    counters = world.counters()
    assert (counters["udp_sessions_opened"], counters["exchanges_opened"]) == (1, 2)


def test_a_named_backend_that_cannot_have_it_moves_nobody(world: Datagrams) -> None:
    start(world, caps=1)
    world.echo(world.client(), short(NAMES[0]), world.backends[0])
    client = world.client()
    peer = world.echo(client, short(NAMES[0]), world.backends[2])
    assert world.echo(client, short(NAMES[0]), world.backends[2]) == peer, "it is full"


def test_sessions_find_each_other_s_backends_after_a_reload(world: Datagrams) -> None:
    client = world.client()
    world.echo(client, short(NAMES[0]), world.backends[0])
    world.start(server_ids=[(NAMES[0], 1)], server_id_offset=1)
    world.echo(client, short(NAMES[0]), world.backends[1])
    world.start()
    world.echo(client, short(NAMES[1]), world.backends[1])


def test_names_lead_although_the_pool_knows_clients_by_their_address(world: Datagrams) -> None:
    world.start(sticky={"size": 1024, "expires_ms": 3_600_000}, server_ids=[(NAMES[0], 0), (NAMES[1], 1)], server_id_offset=1)
    for number in (1, 0):
        world.echo(world.client(), short(NAMES[number]), world.backends[number])
        world.echo(world.client(), b"nothing", world.backends[number])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([*NAMES, b"\x0a\x07", b"\x0a"]), st.booleans()), max_size=30))
def test_sessions_follow_the_names_of_short_headers(said: list[tuple[int, bytes, bool]]) -> None:
    with Datagrams(3) as world:
        start(world)
        clients = [world.client() for _ in range(4)]
        at: dict[int, int] = {}
        for number, name, is_long in said:
            datagram = long(b"\x00" + name) if is_long else b"\x40\x00" + name
            if name in NAMES and (number not in at or not is_long):
                at[number] = NAMES.index(name)
            world.echo(clients[number], datagram, world.backends[at.setdefault(number, 2)])


# ---------------------------------------------------------------------------------------------------- the image
def image_with(**settings: object) -> bytes:
    writer = Writer()
    listener = writer.listener()
    pool = writer.pool()
    writer.backend(pool, 8001)
    route = writer.add_route(pool=pool)
    writer.set_datagrams(listener, route, max_sessions=16, silence_ms=1, responses=1, **settings)  # type: ignore[arg-type]
    return writer.image()


def test_an_image_names_backends_that_it_has() -> None:
    load(image_with(server_ids=[(b"ab", 0)], server_id_offset=18))
    for settings_ in (
        {"server_ids": [(b"ab", 1)]},
        {"server_ids": [(b"ab", 0), (b"ab", 0)]},
        {"server_ids": [(b"a" * 17, 0)]},
        {"server_ids": [(b"ab", 0)], "server_id_offset": 20},
    ):
        with pytest.raises(ValueError, match="image"):
            load(image_with(**settings_))


def test_names_of_a_listener_lie_in_the_image() -> None:
    image = image_with(server_ids=[(b"ab", 0)], server_id_offset=18)
    start_, count = find_sections(image)["listeners"]
    assert count == 1
    at = image.index((18).to_bytes(4, "little") + (2).to_bytes(4, "little"), start_)
    load(patch(image, at, 19))
    with pytest.raises(ValueError, match="image"):
        load(patch(image, at + 4, 17))
