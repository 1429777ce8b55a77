"""Reloads under constant load: no request fails, what is open stays open, and of a replaced configuration nothing is left.

Most tunnels are plain bytes, because a thousand clients of a WebSocket library would be a thousand threads; one is a real WebSocket.
"""

import os
import resource
import signal

import pytest

from tests.support.configuration import configuration
from tests.support.load import Load
from tests.support.loop_backend import LoopBackend
from tests.support.message import request, response
from tests.support.waiting import SANITIZED
from tests.support.websocket import Chat, WebSocketEcho
from tests.support.wrk import WrkLoad

SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: proto\r\n\r\n"
PIECE = b"0123456789abcdef" * 4096
# What a tunnel may cost the worker: two connections and an exchange. (Its memory is mostly there already: 80 bytes were measured.)
TUNNEL_BYTES = 4 << 10
# What malloc and Python's heap may move by without any reason that we know.
SLACK_BYTES = 2 << 20


class Case:
    """A fastlb between a load, tunnels and a download that never end, and a configuration that changes all the time."""

    def __init__(self, fastlb, keep, scripted) -> None:
        self.paced = [keep(LoopBackend()) for _ in range(3)]
        self.slow = scripted()
        self.tunnels = []
        self.echo = keep(WebSocketEcho())
        self.lb = fastlb(self.text(0), workers=1)
        self.chat = Chat(self.lb.port)
        self.download = self.lb.connect()
        self.download.send(request("/slow/file"))
        self.source = self.slow.accept()
        self.source.read_request()
        self.n_pieces = 210  # some are left at the end of a thousand reloads
        self.source.send(response(b"", f"Content-Length: {self.n_pieces * len(PIECE)}", length=False))
        assert self.download.read_head().get("content-length") == str(self.n_pieces * len(PIECE))
        self.n_sent = 0

    def text(self, number: int) -> str:
        """Backends come and go, a route, too, and settings change; the pool of tunnels stays."""
        pools = {
            "main": {"backends": self.paced[: 1 + number % 3], "algorithm": ("round_robin", "consistent_hash", "maglev")[number % 3]},
            "slow": {"backends": [self.slow]},
            "chat": {"backends": [self.echo]},
        }
        routes = [
            {"path": "/slow/", "pool": "slow"},
            {"path": "=/chat", "pool": "chat"},
            {"path": "/", "pool": "main"},
            {"path": f"~^/{number}/[0-9]+$", "pool": "main"},
        ]
        return configuration(pools=pools, routes=routes, settings={"reason_header": f"X-Reason-{number % 2}"})

    def reload(self, number: int) -> None:
        """One reload, then one tunnel more, and a piece of the download."""
        self.lb.reload_ok(self.text(number))
        client = self.lb.connect()
        client.send(request("/slow/tunnel", "Connection: Upgrade", "Upgrade: proto"))
        backend, _ = self.slow.answer(SWITCHED)
        assert client.read_response().status == 101
        self.tunnels.append((client, backend))
        self.chat.say()
        if number % 5 == 0:
            self.go_on_with_download()

    def go_on_with_download(self) -> None:
        self.source.send(PIECE)
        self.n_sent += 1
        assert self.download.read_exactly(len(PIECE)) == PIECE

    def check_tunnels(self) -> None:
        """Each carries bytes in both directions."""
        for client, backend in self.tunnels:
            client.send(b"there")
            assert backend.read_exactly(5) == b"there"
            backend.send(b"back")
            assert client.read_exactly(4) == b"back"

    def finish_download(self) -> None:
        while self.n_sent < self.n_pieces:
            self.go_on_with_download()


def lost(lb) -> str:
    """What fastlb knows of requests that failed, for who has to find out why."""
    shown = {name: n for name, n in lb.counters().items() if n and name.startswith(("reason.", "accept", "workers_died", "exchanges_lost"))}
    return f"fastlb counts {shown}, has {lb.processes()}, and said:\n{lb.messages()[-4000:]}"


def by_ours(case: Case) -> Load:
    return Load(("127.0.0.1", case.lb.port), fresh=4, kept=4)


def by_wrk(case: Case) -> WrkLoad:
    return WrkLoad(("127.0.0.1", case.lb.port), lambda: sum(backend.n_requests for backend in case.paced), fresh=4, kept=4)


def run(case: Case, rounds: int, make_load) -> None:
    lb = case.lb
    with make_load(case) as load:
        load.wait_for_answers(50)
        for number in range(1, rounds + 1):
            if number == rounds // 2:
                half = lb.memory_bytes()
            case.reload(number)
            if number % 10 == 0:
                load.wait_for_answers(20)
        case.check_tunnels()
        grown = lb.memory_bytes() - half
        load.wait_for_answers(100)
        assert lb.reasons() == {}
    assert load.failures == [], lost(lb)
    # All tunnels and the download are still open, and need none of the snapshots that they came with.
    counters = lb.wait_for(lambda now: now["snapshots_opened"] - now["snapshots_closed"] == 1, "one snapshot is left")
    assert counters["snapshots_opened"] == rounds + 1
    assert counters["tunnels_opened"] - counters["tunnels_closed"] == rounds + 1
    case.chat.say()
    case.chat.close()
    case.finish_download()
    if make_load is by_ours:  # wrk ends in the middle of requests
        assert lb.reasons() == {}
    if not SANITIZED:
        assert grown <= rounds // 2 * TUNNEL_BYTES + SLACK_BYTES, f"{grown} bytes for {rounds // 2} reloads with a tunnel each"


@pytest.mark.parametrize("make_load", [by_ours, by_wrk])
def test_reloads_with_a_tunnel_each_lose_nothing_and_leave_nothing(fastlb, keep, scripted, make_load):
    run(Case(fastlb, keep, scripted), 30, make_load)


@pytest.mark.parametrize("make_load", [by_ours, by_wrk])
@pytest.mark.long
@pytest.mark.timeout(1200)  # a busy machine takes longer than the two minutes that other tests have
def test_a_thousand_reloads_with_a_tunnel_each_lose_nothing_and_leave_nothing(fastlb, keep, scripted, make_load):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        run(Case(fastlb, keep, scripted), 1000, make_load)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_controllers_and_zygotes_killed_during_reloads_cost_no_request(fastlb, keep, scripted):
    case = Case(fastlb, keep, scripted)
    lb = case.lb
    with Load(("127.0.0.1", lb.port), fresh=4, kept=4) as load:
        for number in range(1, 7):
            load.wait_for_answers(20)
            role = ("controller", "zygote")[number % 2]
            (pid,) = (row["pid"] for row in lb.processes() if row["role"] == role)
            lb.rewrite(case.text(number))
            lb.signal(signal.SIGHUP)
            os.kill(pid, signal.SIGKILL)
            lb.reconnect()
        answer = lb.reload()  # whatever became of the others
        assert answer["ok"], answer
        load.wait_for_answers(100)
    assert load.failures == [], lost(lb)
    case.chat.say()
    case.chat.close()
    assert lb.control.ask("counters")["generation"] == answer["generation"]
    case.source.close()
    assert lb.wait_for(lambda now: now["snapshots_opened"] - now["snapshots_closed"] == 1, "one snapshot is left")
