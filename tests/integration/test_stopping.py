"""SIGTERM stops at once; SIGQUIT finishes what is in flight, and tells clients before it closes on them."""

import signal
import socket
import threading

import pytest

from tests.support.configuration import configuration
from tests.support.loop_backend import LoopBackend
from tests.support.message import request, response
from tests.support.peer import Peer
from tests.support.waiting import DEADLINE_SECONDS, wait_until


def is_refused(lb):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", lb.port)) != 0


def drain(lb):
    lb.signal(signal.SIGQUIT)
    wait_until(lambda: is_refused(lb), "nobody listens any more")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_stops_at_once_with_everything_open(fastlb, backend, number):
    lb = fastlb([backend])
    busy, idle, half = lb.connect(), lb.connect(), lb.connect()
    idle.send(request())
    backend.answer()
    assert idle.read_response().status == 200
    busy.send(request())
    connection = backend.peers[0]
    connection.read_request()
    half.send(b"GET / HT")
    lb.signal(number)
    lb.wait_exit()
    for client in (busy, idle, half):
        assert client.read_to_ending()[0] == b""
    assert connection.ending() in ("end", "reset")


def test_sigquit_without_clients_ends_at_once(fastlb, backend):
    lb = fastlb([backend])
    lb.signal(signal.SIGQUIT)
    lb.wait_exit()


def test_sigquit_finishes_what_is_in_flight(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request())
    connection = backend.accept()
    connection.read_request()
    drain(lb)
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
    assert client.read_until(b"half").count(b"Connection: close\r\n") == 1
    assert lb.process.poll() is None
    connection.send(b"rest")
    assert client.read_to_end() == b"rest"
    lb.wait_exit()
    assert lb.final_counters()["exchanges_closed"] == 1


def test_sigquit_lets_an_upload_end(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/", "Content-Length: 8", method="POST"), b"half")
    connection = backend.accept()
    connection.read_until(b"half")
    drain(lb)
    client.send(b"rest")
    assert connection.read_exactly(4) == b"rest"
    connection.send(response(b"done"))
    answer = client.read_response()
    assert (answer.body, answer.closes) == (b"done", True)
    client.expect_end()
    lb.wait_exit()


def test_sigquit_gives_idle_clients_one_more_request(fastlb, backend):
    lb = fastlb([backend], settings={"drain_idle_grace": "60s"})
    client = lb.connect()
    client.send(request("/1"))
    connection, _ = backend.answer()
    assert not client.read_response().closes
    drain(lb)
    client.send(request("/2"))
    assert connection.read_request().target == "/2"
    connection.send(response(b"last"))
    answer = client.read_response()
    assert (answer.body, answer.closes) == (b"last", True)
    client.expect_end()
    lb.wait_exit()


def test_sigquit_closes_idle_clients_after_their_grace(fastlb, instant):
    lb = fastlb([instant()], settings={"drain_idle_grace": "50ms"}, listener={"defer_accept": False})
    clients = [lb.connect() for _ in range(5)]
    for client in clients[1:]:
        assert client.ask(request()).status == 200
    drain(lb)
    for client in clients:
        client.expect_end()
    lb.wait_exit()


def test_sigquit_closes_no_idle_client_before_its_time(fastlb, instant):
    lb = fastlb([instant()], settings={"drain_timeout": "1h"}, listener={"timeouts": {"idle": "1h"}})
    client = lb.connect()
    assert not client.ask(request()).closes
    drain(lb)
    client.socket.settimeout(0.2)  # what would close it is not there to be waited for
    with pytest.raises(TimeoutError):
        client.receive()
    client.socket.settimeout(DEADLINE_SECONDS)
    assert client.ask(request()).closes
    client.expect_end()
    lb.wait_exit()


def test_sigquit_leaves_idle_clients_their_idle_time_out(fastlb, instant):
    lb = fastlb([instant()], settings={"drain_timeout": "1h"}, listener={"timeouts": {"idle": "300ms"}})
    clients = [lb.connect() for _ in range(5)]
    for client in clients:
        assert client.ask(request()).status == 200
    drain(lb)
    for client in clients:
        client.expect_end()
    lb.wait_exit()


def test_who_is_idle_when_drain_timeout_is_over_sees_an_end(fastlb, instant):
    lb = fastlb([instant()], settings={"drain_timeout": "200ms"}, listener={"timeouts": {"idle": "1h"}})
    client = lb.connect()
    assert client.ask(request()).status == 200
    drain(lb)
    client.expect_end()
    lb.wait_exit()


def test_sigquit_serves_a_client_that_had_connected_and_speaks_later(fastlb, instant):
    lb = fastlb([instant()], settings={"drain_idle_grace": "60s"}, listener={"defer_accept": False})
    client = lb.connect()
    drain(lb)
    answer = client.ask(request())
    assert (answer.status, answer.closes) == (200, True)
    client.expect_end()
    lb.wait_exit()


def test_sigquit_serves_what_waits_in_the_accept_queue(fastlb, instant):
    lb = fastlb([instant()], settings={"drain_idle_grace": "60s"})
    lb.freeze()
    clients = [lb.connect() for _ in range(200)]
    for client in clients:
        client.send(request())
    lb.signal(signal.SIGQUIT)
    lb.thaw()
    for client in clients:
        assert client.read_response().status == 200
        client.close()
    lb.wait_exit()


def test_local_answers_announce_the_end_as_well(fastlb, backend):
    lb = fastlb(pools={"main": {"backends": [backend]}}, routes=[{"path": "/yes", "pool": "main"}], settings={"drain_idle_grace": "60s"})
    client = lb.connect()
    assert not client.ask(request("/no")).closes
    drain(lb)
    answer = client.ask(request("/no"))
    assert (answer.status, answer.closes) == (404, True)
    client.expect_end()
    client.close()
    lb.wait_exit()


def test_sigquit_waits_no_longer_than_its_time_out(fastlb, backend):
    lb = fastlb([backend], settings={"drain_timeout": "100ms"})
    client = lb.connect()
    client.send(request())
    backend.accept().read_request()
    lb.signal(signal.SIGQUIT)
    lb.wait_exit()
    assert client.read_to_ending()[0] == b""


def test_sigterm_cuts_a_drain_short(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request())
    backend.accept().read_request()
    drain(lb)
    lb.signal(signal.SIGTERM)
    lb.wait_exit()


def test_configuration_is_not_changed_any_more_while_it_drains(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request())
    connection = backend.accept()
    connection.read_request()
    drain(lb)
    answer = lb.apply(configuration([backend]))
    assert (answer["ok"], len(answer["errors"])) == (False, 1)
    connection.send(response(b"last"))
    assert client.read_response().body == b"last"
    lb.wait_exit()


def test_drain_by_the_control_socket_is_the_same(fastlb, backend):
    lb = fastlb([backend])
    assert lb.control.ask("drain") == {"ok": True}
    lb.wait_exit()


class Load(threading.Thread):
    """A client that asks again and again until it is told that its connection closes. Every request must be answered."""

    def __init__(self, peer: Peer) -> None:
        super().__init__(daemon=True)
        self.peer = peer
        self.answered = 0
        self.told = False
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.told:
                answer = self.peer.ask(request(f"/{self.answered}"))
                assert (answer.status, answer.body) == (200, b"ok"), answer
                self.answered += 1
                self.told = answer.closes
            self.peer.expect_end()
        except BaseException as error:
            self.error = error


def test_sigquit_under_load_fails_no_request(fastlb, instant):
    backends: list[LoopBackend] = [instant(), instant()]
    lb = fastlb(backends, settings={"drain_idle_grace": "60s"})
    clients = [Load(lb.connect()) for _ in range(32)]
    for client in clients:
        client.start()
    lb.wait_for(lambda counters: counters["exchanges_closed"] > 2000, "the load is on")
    lb.signal(signal.SIGQUIT)
    for client in clients:
        client.join()
    assert [client.error for client in clients if client.error] == []
    assert all(client.told for client in clients)
    lb.wait_exit()
    final = lb.final_counters()
    assert final["exchanges_closed"] == final["responses_2xx"] == sum(client.answered for client in clients)
