"""The whole data plane, in this process: whatever is asked and answered, however both streams are cut, everybody reads what was sent.

The client writes its requests without waiting (pipelining); the backend answers on any connection; h11 reads on both sides.
"""

import contextlib
import dataclasses
import socket
import struct

import h11
from hypothesis import given, note
from hypothesis import strategies as st

from tests.property.examples import examples
from tests.support.world import World

# What fits a read, what fills one exactly (heads are read with 16 KiB), what is spliced, what no socket takes at once.
sizes = st.one_of(st.integers(0, 40), st.integers(0, 40), st.sampled_from([0, 1000, 8192, 16384, 65536, 131072, 300_000]))


@dataclasses.dataclass(frozen=True)
class Plan:
    """One exchange. Framings: "none", "length", "chunked", "close" (until the connection ends)."""

    method: str
    request_size: int
    request_framing: str
    request_chunk: int
    status: int
    response_size: int
    response_framing: str
    response_chunk: int
    interim: int
    last_on_backend: bool

    def body(self, number: int, size: int) -> bytes:
        return (b"%d-" % number * (size // 2 + 1))[:size]

    def request(self, number: int) -> bytes:
        field, body = frame(self.request_framing, self.body(number, self.request_size), self.request_chunk)
        return f"{self.method} /{number} HTTP/1.1\r\nHost: a\r\n".encode() + field + b"\r\n" + body

    def response(self, number: int) -> bytes:
        head = "HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" * self.interim + f"HTTP/1.1 {self.status} x\r\nDate: y\r\n"
        if self.last_on_backend:
            head += "Connection: close\r\n"
        field, body = frame(self.response_framing, self.body(number, self.response_size), self.response_chunk)
        return head.encode() + field + b"\r\n" + (b"" if self.has_no_body else body)

    @property
    def has_no_body(self) -> bool:
        return self.method == "HEAD" or self.status in (204, 304)

    @property
    def closes_backend(self) -> bool:
        return self.last_on_backend or (self.response_framing == "close" and not self.has_no_body)


def frame(framing: str, body: bytes, chunk: int) -> tuple[bytes, bytes]:
    """The field that says how the body ends, and the body so framed."""
    if framing == "length":
        return b"Content-Length: %d\r\n" % len(body), body
    if framing == "chunked":
        pieces = [body[at : at + chunk] for at in range(0, len(body), chunk)]
        return b"Transfer-Encoding: chunked\r\n", b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    return b"", body


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    method = draw(st.sampled_from(["GET", "POST", "PUT", "HEAD", "DELETE"]))
    framing = draw(st.sampled_from(["none", "length", "chunked"]))
    status = draw(st.sampled_from([200, 200, 200, 204, 304, 404, 500]))
    answer = draw(st.sampled_from(["length", "chunked", "close"]))
    return Plan(
        method=method,
        request_size=0 if framing == "none" else draw(sizes),
        request_framing=framing,
        request_chunk=draw(st.sampled_from([1000, 4096, 70_000])),
        status=status,
        response_size=draw(sizes),
        response_framing=answer,
        response_chunk=draw(st.sampled_from([1000, 4096, 70_000])),
        interim=draw(st.sampled_from([0, 0, 0, 1, 2])),
        last_on_backend=draw(st.sampled_from([False, False, False, True])),
    )


class Stream:
    """Bytes on their way into a socket, cut where the test says; what the socket does not take waits."""

    def __init__(self, peer: socket.socket, cuts: list[int]) -> None:
        self.peer = peer
        self.cuts = cuts
        self.left = b""
        self.ends = False

    def send(self) -> None:
        """One piece."""
        if self.left:
            size = self.cuts.pop(0) if self.cuts else len(self.left)
            with contextlib.suppress(BlockingIOError):
                self.left = self.left[self.peer.send(self.left[:size]) :]
        if self.ends and not self.left:
            self.peer.close()


class Backend:
    """Answers the requests of one connection with what the plans say, and keeps what it read."""

    def __init__(self, peer: socket.socket, cuts: list[int], plans: list[Plan], seen: dict[int, bytes]) -> None:
        self.peer, self.plans, self.seen = peer, plans, seen
        self.stream = Stream(peer, cuts)
        self.begin()

    def begin(self) -> None:
        self.reader = h11.Connection(h11.SERVER)
        self.number, self.body = -1, b""

    def step(self) -> None:
        if self.peer.fileno() < 0:
            return
        with contextlib.suppress(BlockingIOError):
            data = self.peer.recv(1 << 20)
            if not data:
                self.peer.close()
                return
            self.reader.receive_data(data)
        while (event := self.reader.next_event()) is not h11.NEED_DATA and event is not h11.PAUSED:
            if isinstance(event, h11.Request):
                self.number = int(event.target[1:])
                assert dict(event.headers)[b"x-forwarded-for"] == b"127.0.0.1"
                assert event.method.decode() == self.plans[self.number].method
            elif isinstance(event, h11.Data):
                self.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert self.number not in self.seen, "a request came twice"
                assert not self.reader.trailing_data[0], "a request came before the answer to the one before"
                self.seen[self.number] = self.body
                self.stream.left += self.plans[self.number].response(self.number)
                self.stream.ends = self.plans[self.number].closes_backend
                self.begin()
        self.stream.send()


def read_responses(received: bytes, plans: list[Plan]) -> list[tuple[int, bytes, int]] | None:
    """Status, body and number of interim responses for each plan, in order; None while something is missing."""
    found = []
    for plan in plans:
        reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        reader.send(h11.Request(method=plan.method, target="/", headers=[("Host", "a")]))
        reader.send(h11.EndOfMessage())
        if received:  # nothing would mean the end to h11
            reader.receive_data(received)
        status, body, interim = 0, b"", 0
        while not isinstance(event := reader.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                return None
            if isinstance(event, h11.InformationalResponse):
                interim += 1
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
        found.append((status, body, interim))
        received = reader.trailing_data[0]
    assert not received, "something came behind the last response"
    return found


cuts = st.lists(st.one_of(st.integers(1, 60), st.integers(1, 5000)), max_size=12)


@examples(120)
@given(st.lists(plans(), min_size=1, max_size=4), cuts, st.lists(cuts, min_size=8, max_size=8), st.sampled_from([0, 1, 2]), st.booleans())
def test_everybody_reads_what_was_sent(
    exchanges: list[Plan], client_cuts: list[int], backend_cuts: list[list[int]], budget: int, pipelined: bool
) -> None:
    seen: dict[int, bytes] = {}
    backends: list[Backend] = []
    with World() as world:
        web = world.listen()
        world.apply(web)
        client = Stream(world.connect(web), list(client_cuts))
        received, last, answered = b"", (-1, -1), 0
        requests = [plan.request(number) for number, plan in enumerate(exchanges)]
        if pipelined:
            client.left, requests = b"".join(requests), []

        def look() -> bool:
            nonlocal received, last, answered
            if requests and read_if_new(exchanges[:answered]) is not None:
                client.left += requests.pop(0)
                answered += 1
            client.send()
            with contextlib.suppress(BlockingIOError):
                backends.append(
                    Backend(world.stack.enter_context(world.backend.accept()[0]), list(backend_cuts[len(backends) % 8]), exchanges, seen)
                )
                backends[-1].peer.setblocking(False)
            for backend in backends:
                backend.step()
            with contextlib.suppress(BlockingIOError):
                data = client.peer.recv(1 << 20)
                assert data, "the connection ended before the last response"
                received += data
            return not requests and read_if_new(exchanges) is not None

        found: list[tuple[int, bytes, int]] | None = None

        def read_if_new(upto: list[Plan]) -> list[tuple[int, bytes, int]] | None:
            """Parsing everything again is dear: only when something came."""
            nonlocal found, last
            if (len(received), len(upto)) != last:
                last = (len(received), len(upto))
                found = read_responses(received, upto)
            return found

        world.pump_until(look, budget)
        counters = world.counters()
        note(str({name: n for name, n in counters.items() if n}))
        expected = [
            (plan.status, b"" if plan.has_no_body else plan.body(number, plan.response_size), plan.interim)
            for number, plan in enumerate(exchanges)
        ]
        assert found == expected
        assert seen == {number: plan.body(number, plan.request_size) for number, plan in enumerate(exchanges)}
        assert not any(n for name, n in counters.items() if name.startswith("reason."))
        assert counters["exchanges_opened"] == counters["exchanges_closed"] == len(exchanges)
        assert counters["attempts_opened"] == counters["attempts_closed"]
        assert counters["claims_taken"] == counters["claims_returned"]


def balance(counters: dict[str, int]) -> None:
    for name in ("exchanges", "attempts", "claims", "tunnels", "clients"):
        opened, closed = ("taken", "returned") if name == "claims" else ("opened", "closed")
        assert counters[f"{name}_{opened}"] == counters[f"{name}_{closed}"], name
    assert counters["buffers_taken"] == counters["buffers_returned"]
    assert counters["pipes_taken"] == counters["pipes_returned"]


def end(peer: socket.socket, reset: bool) -> None:
    if reset:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def is_whole(received: bytes, method: str, reset: bool) -> tuple[int, bytes, str] | None:
    """Status, body and reason id, where a client takes the answer for complete."""
    reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    reader.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    reader.send(h11.EndOfMessage())
    if received:
        reader.receive_data(received)
    if not reset:
        reader.receive_data(b"")
    status, body, reason = 0, b"", ""
    try:
        while not isinstance(event := reader.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                return None
            if isinstance(event, h11.Response):
                status = event.status_code
                reason = dict(event.headers).get(b"x-fastlb-reason", b"").decode()
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
    except h11.RemoteProtocolError:
        return None
    return status, body, reason


@examples(150)
@given(plans(), st.sampled_from(["1.1", "1.0"]), st.booleans(), st.floats(0, 1), cuts)
def test_answer_that_was_cut_never_looks_whole(plan: Plan, version: str, reset: bool, share: float, at: list[int]) -> None:
    plan = dataclasses.replace(plan, last_on_backend=False)
    whole = plan.response(0)
    sent = whole[: int(share * len(whole))]
    with World() as world:
        web = world.listen()
        world.apply(web)
        client = world.connect(web)
        client.send(f"{plan.method} /0 HTTP/{version}\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        peer = world.accept()
        world.read(peer)
        stream = Stream(peer, list(at))
        stream.left = sent
        received = b""
        was_reset: bool | None = None

        def look() -> bool:
            nonlocal received, was_reset
            if stream.left:
                stream.send()
            if not stream.left and peer.fileno() >= 0:
                end(peer, reset)
            try:
                data = client.recv(1 << 20)
            except BlockingIOError:
                return False
            except ConnectionResetError:
                was_reset = True
            else:
                received += data
                was_reset = None if data else False
            return was_reset is not None

        world.pump_until(look)
        seen = is_whole(received, plan.method, bool(was_reset))
        note(f"sent {len(sent)} of {len(whole)} bytes, received {len(received)}{' and a reset' if was_reset else ''}: {seen and seen[0]}")
        if seen is not None and seen[2]:
            assert seen[0] in (502, 504), "a local answer that does not blame the backend"
            assert seen[2].startswith("backend:")
        elif seen is not None:
            until_close = plan.response_framing == "close" and not plan.has_no_body
            complete = sent[sent.rindex(b"\r\n\r\n") + 4 :] if until_close and not reset else plan.body(0, plan.response_size)
            assert seen[:2] == (plan.status, b"" if plan.has_no_body else complete)
        else:
            assert len(sent) < len(whole) or reset, "the whole answer was sent and did not arrive"
        client.close()
        world.pump_until(lambda: world.engine.connections() == 0)
        balance(world.counters())


@examples(150)
@given(plans(), st.booleans(), st.floats(0, 1), st.floats(0, 1), st.sampled_from([0, 1]))
def test_client_that_goes_away_leaves_nothing_behind(
    plan: Plan, reset: bool, request_share: float, response_share: float, budget: int
) -> None:
    """At any point of its request, or of the answer."""
    request, response = plan.request(0), plan.response(0)
    with World() as world:
        web = world.listen()
        world.apply(web)
        client = Stream(world.connect(web), [int(request_share * len(request))])
        client.left = request
        client.send()
        peers: list[socket.socket] = []
        for _ in range(4):
            world.engine.pump(budget)
            with contextlib.suppress(BlockingIOError):
                peers.append(world.stack.enter_context(world.backend.accept()[0]))
                peers[-1].setblocking(False)
                peers[-1].send(response[: int(response_share * len(response))])
        end(client.peer, reset)
        if reset:  # is noticed at once; an orderly end may be a half-close, whose answer is still wanted
            world.pump_until(lambda: world.engine.connections() == 0, budget)

        def is_over() -> bool:
            with contextlib.suppress(BlockingIOError):
                peers.append(world.stack.enter_context(world.backend.accept()[0]))
            for peer in peers:
                peer.close()
            return world.engine.connections() == 0

        world.pump_until(is_over, budget)
        world.pump_until(lambda: sum(row["in_flight"] + row["idle"] for row in world.engine.backends()) == 0)
        balance(world.counters())
