"""fastlb/data_plane/sticky.pyx and cookie.pxd: where a client belongs, what is left of its head, and which backends may have it back."""

import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlb import _core
from tests.support._probe import StickyTester, find_cookies
from tests.support.images import Writer
from tests.support.message import parse_head
from tests.support.world import World

A, B = "a" * 22, "b" * 22


def make_tester(lifetime_s: int = 0, **flags: bool) -> StickyTester:
    writer = Writer()
    pool = writer.pool()
    bits = sum(_core.STICKY_FLAGS[name] for name, is_on in {"indirect": True, **flags}.items() if is_on)
    writer.set_sticky_cookie(pool, name="ID", attributes="; Path=/", lifetime_s=lifetime_s, flags=bits)
    writer.backend(pool, 1, cookie=A)
    writer.backend(pool, 2, cookie=B)
    writer.add_route(host="", path_prefix="/", pool=pool)
    return StickyTester(writer.plane())


TESTER = make_tester()


def head(*fields: str) -> bytes:
    return "\r\n".join(["GET /x?y HTTP/1.1", "Host: a", *fields, "", ""]).encode("latin-1")


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (b"", []),
        (b"a=1", [(b"a", b"1")]),
        (b"a=1; b=2;c=3", [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]),
        (b" a \t=\t 1 ;", [(b"a", b"1")]),
        (b"a==;b=\"1\"", [(b"a", b"="), (b"b", b'"1"')]),
        (b'a="1;b=2"', [(b"a", b'"1'), (b"b", b'2"')]),
        (b"a;=1;;b=", [(b"b", b"")]),
        (b"\xff=\xfe", [(b"\xff", b"\xfe")]),
    ],
)  # fmt: skip
def test_field_is_split_into_its_cookies(field: bytes, expected: list[tuple[bytes, bytes]]) -> None:
    assert find_cookies(field) == expected


def test_values_lead_to_their_backends_and_others_nowhere() -> None:
    for value, place in ((A, 0), (B, 1), ("c" * 22, None), (A[1:], None), (A + "a", None), ("", None)):
        assert TESTER.begin(head(f"Cookie: ID={value}"))[0] == place
    assert TESTER.begin(head())[0] is None
    assert TESTER.begin(head(f"Cookie: ID=x; ID={A}"))[0] is None  # the first counts
    assert TESTER.begin(head(f"Cookie: id={A}"))[0] is None


def test_date_is_read_strictly() -> None:
    dated = make_tester(lifetime_s=3600)
    assert dated.begin(head(f"Cookie: ID={A}.00000000"))[:2] == (0, True)
    assert dated.begin(head(f"Cookie: ID={A}"))[:2] == (0, True)
    for date in (".0000000", ".000000000", ".0000000G", ".0000000A", "-00000000", ".+0000000"):
        assert dated.begin(head(f"Cookie: ID={A}{date}"))[0] is None
    assert TESTER.begin(head(f"Cookie: ID={A}"))[:2] == (0, False)
    assert TESTER.begin(head(f"Cookie: ID={A}.00000000"))[:2] == (0, True)  # there is no lifetime any more


def test_head_without_the_cookie_stays_as_it_is() -> None:
    for fields in ([], ["Cookie: a=1"], ["Cookie:"], ["Cookie: ;"], ["X: ID=1"]):
        assert TESTER.begin(head(*fields))[2] == head(*fields)
    assert make_tester(indirect=False).begin(head(f"Cookie: ID={A}"))[2] == head(f"Cookie: ID={A}")


PART = st.one_of(st.sampled_from(["ID=" + A, "ID=x", " ID = y ", "", " ", "ID", "=", "a=1", " b=2; c=3"]), st.text("aID= \t;", max_size=6))
LINES = st.lists(st.one_of(st.just("X: y"), st.lists(PART, max_size=5).map(lambda parts: f"Cookie: {';'.join(parts)}")), max_size=6)


def parts_of(value: str) -> list[str]:
    return [part.strip(" \t") for part in value.split(";") if part.strip(" \t")]


@given(LINES)
def test_only_the_cookie_goes_and_the_rest_keeps_its_order(lines: list[str]) -> None:
    raw = head(*lines)
    place, _, left = TESTER.begin(raw)
    expected: list[tuple[str, list[str]]] = []
    found: list[str] = []
    for name, value in parse_head(raw).fields:
        parts = []
        for part in parts_of(value):
            cookie, equals, text = part.partition("=")
            if name == "Cookie" and equals and cookie.rstrip(" \t") == "ID":
                found.append(text.lstrip(" \t"))
            else:
                parts.append(part)
        if parts:
            expected.append((name, parts))
    if not found:
        assert left == raw
        return
    kept = [(name, parts_of(value)) for name, value in parse_head(left).fields]
    assert [entry for entry in kept if entry[1]] == expected
    assert place == (0 if found[0] == A else None)
    assert len(left) < len(raw)


# ---------------------------------------------------------------------------------------------------------- states
class StickyWorld(World):
    """Two backends; round robin, so that a client who does not belong anywhere alternates."""

    def __init__(self, shared: _core.SharedMemory, slot: int = 0) -> None:
        super().__init__(shared, slot)
        self.backends = [self.listen(), self.listen()]
        self.web = self.listen()

    def start(self, **flags: bool) -> None:
        self.generation += 1
        writer = Writer(self.generation)
        writer.listener()
        pool = writer.pool(algorithm="round_robin")
        bits = sum(_core.STICKY_FLAGS[name] for name, is_on in flags.items() if is_on)
        writer.set_sticky_cookie(pool, name="ID", attributes="; Path=/", flags=bits)
        for backend, cookie in zip(self.backends, (A, B), strict=True):
            writer.backend(pool, backend.getsockname()[1], cookie=cookie)
        writer.add_route(host="", path_prefix="/", pool=pool)
        self.apply_image(writer.image(), self.web)

    def identity(self, number: int) -> str:
        return f"0|127.0.0.1:{self.backends[number].getsockname()[1]}"

    def ask(self, value: str) -> tuple[int, bytes]:
        """Which backend got the request of a client with this cookie, and the answer; -1 = none did."""
        client = self.connect(self.web)
        client.send(head(f"Cookie: ID={value}"))
        reached: list[tuple[int, socket.socket]] = []
        answer: list[bytes] = []

        def look() -> bool:
            for number, backend in enumerate(self.backends):
                try:
                    reached.append((number, self.stack.enter_context(backend.accept()[0])))
                except BlockingIOError:
                    pass
            try:
                answer.append(client.recv(65536))
            except BlockingIOError:
                pass
            return bool(reached or answer)

        self.pump_until(look)
        if answer:
            return -1, answer[0]
        number, peer = reached[0]
        peer.setblocking(False)
        self.read(peer)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        return number, self.read(client)


@pytest.fixture
def world() -> Iterator[StickyWorld]:
    shared = _core.SharedMemory.create()
    with StickyWorld(shared) as made:
        yield made
    shared.close()


STATES = _core.ROW_STATES


@pytest.mark.parametrize(
    ("state", "drain", "stays"),
    [
        (STATES["drain"], True, True),
        (STATES["drain"], False, False),
        (STATES["down"], True, False),
        (STATES["down"] | STATES["drain"], True, False),
        (STATES["maintenance"], True, False),
        (STATES["maintenance"] | STATES["drain"], True, False),
    ],
)
def test_draining_backend_keeps_its_clients_if_that_is_wanted(world: StickyWorld, state: int, drain: bool, stays: bool) -> None:
    assert world.shared is not None
    world.start(drain=drain)
    assert [world.ask(B)[0] for _ in range(3)] == [1, 1, 1]
    world.shared.set_state(world.identity(1), state)
    for _ in range(2):
        number, answer = world.ask(B)
        assert number == (1 if stays else 0)
        assert (b"Set-Cookie: ID=" + A.encode() in answer) is not stays
    assert [world.ask("nowhere")[0] for _ in range(2)] == [0, 0]  # new clients never go there
    world.shared.set_state(world.identity(1), 0)
    assert world.ask(B)[0] == 1


def test_client_of_a_backend_that_is_down_is_refused_where_that_is_wanted(world: StickyWorld) -> None:
    assert world.shared is not None
    world.start(reject=True)
    world.shared.set_state(world.identity(1), STATES["down"])
    number, answer = world.ask(B)
    assert number == -1
    assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert world.counters()["reason.no_sticky_backend"] == 1
    assert world.ask("nowhere")[0] == 0
