"""Another configuration under load: no request fails, sockets that stay are kept, and new requests on old connections follow it.

An address that is written the same stays the same socket, also where the kernel chose the port.
"""

import shutil
import signal
import socket
import subprocess
import threading

import pytest

from tests.support.configuration import configuration
from tests.support.message import request, response


def test_new_requests_on_old_connections_use_the_new_routes(fastlb, instant):
    one, two = instant(response(b"one")), instant(response(b"two"))
    lb = fastlb([one])
    client = lb.connect()
    assert client.ask(request()).body == b"one"
    lb.apply_ok(configuration([two]))
    assert client.ask(request()).body == b"two"
    lb.apply_ok(
        configuration(
            pools={"a": {"backends": [one]}, "b": {"backends": [two]}}, routes=[{"path": "/a", "pool": "a"}, {"path": "/b", "pool": "b"}]
        )
    )
    assert [client.ask(request(target)).body for target in ("/a", "/b")] == [b"one", b"two"]
    assert client.ask(request("/c")).reason == "no_route"
    assert lb.control.ask("counters")["generation"] == 3
    assert lb.counter("clients_opened") == 1


def test_exchange_in_flight_ends_on_its_old_backend(fastlb, backend, instant):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request())
    connection = backend.accept()
    connection.read_request()
    lb.apply_ok(configuration([instant(response(b"new"))]))
    connection.send(response(b"old"))
    assert client.read_response().body == b"old"
    assert connection.ending() == "end"  # it is in no pool any more, so its connection is not kept
    assert client.ask(request()).body == b"new"
    lb.wait_for(lambda counters: counters["snapshots_opened"] - counters["snapshots_closed"] == 1, "the old snapshot is gone")
    lb.wait_for(lambda counters: counters["backend_rows"] == 1, "the old backend is forgotten")


def test_tunnel_outlives_its_configuration_and_pins_nothing(fastlb, backend, instant):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/", "Connection: Upgrade", "Upgrade: proto"))
    connection, _ = backend.answer(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: proto\r\n\r\n")
    client.read_response()
    for _ in range(3):
        lb.apply_ok(configuration([instant()]))
        client.send(b"still")
        assert connection.read_exactly(5) == b"still"
    counters = lb.counters()
    assert counters["snapshots_opened"] - counters["snapshots_closed"] == 1
    client.close()
    connection.expect_end()


def test_idle_connections_of_a_removed_backend_close(fastlb, backend, instant):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request())
    connection, _ = backend.answer()
    client.read_response()
    lb.apply_ok(configuration([instant()]))
    connection.expect_end()


def test_idle_connections_and_counts_of_a_backend_that_stays_stay(fastlb, backend, instant):
    lb = fastlb([backend])
    client, busy = lb.connect(), lb.connect()
    client.send(request("/1"))
    connection, _ = backend.answer()
    client.read_response()
    busy.send(request("/busy"))
    assert connection.read_request().target == "/busy"
    lb.apply_ok(configuration([backend, instant()]))
    assert [row["in_flight"] for row in lb.backends() if row["display"] == backend.address] == [1]
    connection.send(response(b"busy"))
    assert busy.read_response().body == b"busy"
    lb.apply_ok(configuration([backend]))
    client.send(request("/2"))
    assert connection.read_request().target == "/2"
    connection.send(response())
    assert client.read_response().status == 200


def test_listeners_come_and_go(fastlb, instant):
    backend = instant()
    first, second = "127.0.0.1:0", "127.0.0.2:0"

    def at(*addresses):
        return configuration([backend], listener={"bind": list(addresses)})

    lb = fastlb(at(first))
    old = lb.connect(0)
    assert not old.ask(request()).closes
    lb.apply_ok(at(first, second), new_sockets=1)
    assert lb.connect(1).ask(request()).status == 200
    lb.apply_ok(at(second))
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", lb.port_of(0))) != 0
    answer = old.ask(request())  # its listener is gone: it is served, and told
    assert (answer.status, answer.closes) == (200, True)
    old.expect_end()
    assert lb.connect(1).ask(request()).status == 200
    lb.apply_ok(at(first), new_sockets=1)
    assert lb.connect(2).ask(request()).status == 200


def test_what_waits_at_a_removed_listener_is_served(fastlb, instant):
    backend = instant()
    lb = fastlb([backend], listener={"bind": ["127.0.0.1:0", "127.0.0.2:0"]})
    after = lb.write(configuration([backend], listener={"bind": "127.0.0.2:0"}))
    lb.freeze()
    clients = [lb.connect(0) for _ in range(100)]
    for client in clients:
        client.send(request())
    lb.thaw()
    assert lb.apply_file(after)["ok"]
    for client in clients:
        assert client.read_response().status == 200


def test_settings_of_a_listener_change_for_open_connections(fastlb, instant):
    backend = instant()

    def limited(size):
        return configuration([backend], listener={"limits": {"target": size}})

    lb = fastlb(limited("8KiB"))
    client = lb.connect()
    assert client.ask(request("/" + "x" * 1000)).status == 200
    lb.apply_ok(limited("64B"))
    assert client.ask(request("/" + "x" * 1000)).reason == "client:target_too_long"


@pytest.mark.parametrize("text", ["nonsense", "[[listeners]]\nbind = '127.0.0.1:0'\n", ""])
def test_bad_configuration_changes_nothing_and_says_why(fastlb, instant, text):
    lb = fastlb([instant()])
    client = lb.connect()
    assert client.ask(request()).status == 200
    answer = lb.apply(text)
    assert answer["ok"] is False
    assert answer["errors"]
    assert client.ask(request()).status == 200
    assert lb.control.ask("counters")["generation"] == 1


def test_address_in_use_changes_nothing_and_says_why(fastlb, instant, backend):
    lb = fastlb([instant()])
    answer = lb.apply(configuration([backend], listener={"bind": backend.address}))
    assert answer["ok"] is False
    assert "address already in use" in answer["errors"][0]
    assert lb.get().status == 200


def test_many_snapshots_leave_nothing_behind(fastlb, instant):
    backends = [instant() for _ in range(3)]
    lb = fastlb([backends[0]])
    client = lb.connect()
    for number in range(30):
        lb.apply_ok(configuration(backends[: number % 3 + 1]))
        assert client.ask(request()).status == 200
    counters = lb.counters()
    assert (counters["snapshots_opened"], counters["snapshots_closed"]) == (31, 30)


class Load(threading.Thread):
    """A client that never stops asking."""

    def __init__(self, lb):
        super().__init__(daemon=True)
        self.lb, self.peer = lb, lb.connect()
        self.answered, self.error, self.stop = 0, None, False

    def run(self):
        try:
            while not self.stop:
                answer = self.peer.ask(request(f"/{self.answered}", method="POST", body=b"x" * 1000))
                assert answer.status == 200, answer
                self.answered += 1
                if answer.closes:
                    self.peer.expect_end()
                    self.peer = self.lb.connect()
        except BaseException as error:
            self.error = error


def test_no_request_fails_while_configurations_change_under_load(fastlb, instant):
    backends = [instant() for _ in range(3)]
    texts = [
        configuration(backends[:1]),
        configuration(backends[1:], pool={"algorithm": "round_robin"}),
        configuration(backends, pool={"keepalive": {"max_idle": 1}}),
    ]
    lb = fastlb(texts[0])
    clients = [Load(lb) for _ in range(16)]
    for client in clients:
        client.start()
    for number in range(12):
        served = lb.counter("exchanges_closed")
        lb.wait_for(lambda counters, served=served: counters["exchanges_closed"] > served + 200, "the load is on")
        lb.apply_ok(texts[(number + 1) % 3])
    for client in clients:
        client.stop = True
    for client in clients:
        client.join()
    assert [client.error for client in clients if client.error] == []
    assert lb.reasons() == {}


@pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not installed")
def test_wrk_sees_no_error_while_two_configurations_are_applied(fastlb, instant):
    backends = [instant(), instant()]
    texts = [configuration([backend]) for backend in backends]
    lb = fastlb(texts[0])
    wrk = subprocess.Popen(["wrk", "-t1", "-c64", "-d60s", f"{lb.urls[0]}/"], stdout=subprocess.PIPE, text=True)
    for number in (1, 0):
        served = lb.counter("exchanges_closed")
        lb.wait_for(lambda counters, served=served: counters["exchanges_closed"] > served + 3000, "wrk is at work")
        lb.apply_ok(texts[number])
    served = lb.counter("exchanges_closed")
    lb.wait_for(lambda counters: counters["exchanges_closed"] > served + 3000, "wrk is at work")
    wrk.send_signal(signal.SIGINT)  # it reports and ends
    report = wrk.communicate()[0]
    assert "requests in" in report
    assert "Socket errors" not in report
    assert "Non-2xx" not in report
    assert {reason: n for reason, n in lb.reasons().items() if not reason.startswith("client:")} == {}
    assert all(backend.n_requests > 1000 for backend in backends)
