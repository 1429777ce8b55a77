"""How backends are picked, as seen from outside under concurrency."""

import socket
from collections import Counter

import pytest

from tests.support.message import request, response


def named(instant, count):
    return [instant(response(b"%d" % number)) for number in range(count)]


def held_by(backends):
    return [len(backend.held) for backend in backends]


def test_round_robin_takes_each_backend_in_turn(fastlb, instant):
    lb = fastlb(named(instant, 3), pool={"algorithm": "round_robin"})
    client = lb.connect()
    assert b"".join(client.ask(request()).body for _ in range(9)) == b"012" * 3


def test_round_robin_shares_concurrent_requests_equally(fastlb, instant):
    backends = named(instant, 3)
    lb = fastlb(backends, pool={"algorithm": "round_robin"})
    clients = [lb.connect() for _ in range(60)]
    for client in clients:
        client.send(request())
    assert Counter(client.read_response().body for client in clients) == {b"0": 20, b"1": 20, b"2": 20}


def test_weighted_least_connections_fills_in_proportion_to_weight(fastlb, instant):
    backends = named(instant, 3)
    for backend in backends:
        backend.hold()
    lb = fastlb([{"address": backends[0], "weight": 1}, {"address": backends[1], "weight": 2}, {"address": backends[2], "weight": 3}])
    clients = [lb.connect() for _ in range(60)]
    for client in clients:
        client.send(request())
    for backend, share in zip(backends, (10, 20, 30), strict=True):
        backend.wait_for_held(share)
    assert held_by(backends) == [10, 20, 30]
    assert sorted(row["in_flight"] for row in lb.backends()) == [10, 20, 30]
    for backend in backends:
        backend.release()
    assert Counter(client.read_response().body for client in clients) == {b"0": 10, b"1": 20, b"2": 30}


def test_least_connections_avoids_the_busy_backend(fastlb, instant):
    backends = named(instant, 2)
    backends[0].hold()
    lb = fastlb(backends)
    busy = lb.connect()
    client = lb.connect()
    busy.send(request())
    backends[0].wait_for_held(1)
    assert {client.ask(request()).body for _ in range(10)} == {b"1"}
    backends[0].release()
    assert busy.read_response().body == b"0"
    assert {client.ask(request()).body for _ in range(10)} == {b"0", b"1"}  # ties go round


def test_least_connections_counts_tunnels_and_slow_answers_as_in_flight(fastlb, scripted):
    first, second = scripted(), scripted()
    lb = fastlb([first, second])
    slow = lb.connect()
    slow.send(request())
    connection = first.accept()
    connection.read_request()
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhal")
    slow.read_head()
    for _ in range(3):
        client = lb.connect()
        client.send(request())
        peer = second.peers[0] if second.peers else second.accept()
        peer.read_request()
        peer.send(response())
        assert client.read_response().status == 200
    assert [row["in_flight"] for row in lb.backends() if row["display"] == first.address] == [1]


def test_backend_at_its_cap_gets_no_more(fastlb, instant):
    backends = named(instant, 2)
    for backend in backends:
        backend.hold()
    lb = fastlb([{"address": backends[0], "max_connections": 3}, backends[1]])
    clients = [lb.connect() for _ in range(20)]
    for client in clients:
        client.send(request())
    backends[0].wait_for_held(3)
    backends[1].wait_for_held(17)
    for backend in backends:
        backend.release()
    assert Counter(client.read_response().body for client in clients) == {b"0": 3, b"1": 17}


def test_pool_whose_backends_are_all_at_their_cap_is_full(fastlb, instant):
    backend = instant(response(b"ok"))
    backend.hold()
    lb = fastlb([{"address": backend, "max_connections": 1}])
    first, second = lb.connect(), lb.connect()
    first.send(request())
    backend.wait_for_held(1)
    answer = second.ask(request())
    assert (answer.status, answer.reason, answer.closes) == (503, "pool_full", False)
    backend.release()
    assert first.read_response().body == b"ok"
    assert second.ask(request()).body == b"ok"  # the same connection, once there is room again
    assert lb.reasons() == {"pool_full": 1}


@pytest.mark.parametrize("algorithm", ["ip_hash", "hash", "consistent_hash", "maglev"])
def test_client_comes_to_the_same_backend_whatever_the_worker(fastlb, instant, algorithm):
    lb = fastlb(named(instant, 5), workers=2, pool={"algorithm": algorithm})
    clients = [lb.connect() for _ in range(10)]
    assert len({client.ask(request()).body for client in clients for _ in range(3)}) == 1


@pytest.mark.parametrize("algorithm", ["round_robin", "random_two_choices", "peak_ewma", "maglev"])
def test_backup_takes_over_while_the_others_are_full(fastlb, instant, algorithm):
    first, backup = named(instant, 2)
    backends = [{"address": backup, "backup": True}, {"address": first, "max_connections": 1}]
    lb = fastlb(backends, pool={"algorithm": algorithm})
    client = lb.connect()
    assert [client.ask(request()).body for _ in range(3)] == [b"0"] * 3
    first.hold()
    busy = lb.connect()
    busy.send(request())
    first.wait_for_held(1)
    assert [client.ask(request()).body for _ in range(3)] == [b"1"] * 3
    first.release()
    assert busy.read_response().body == b"0"
    assert client.ask(request()).body == b"0"


def test_next_priority_is_asked_when_the_first_refuses(fastlb, instant):
    refusing = socket.socket()  # bound and not listening: nobody else gets the port
    refusing.bind(("127.0.0.1", 0))
    first = f"127.0.0.1:{refusing.getsockname()[1]}"
    second, third = named(instant, 2)
    lb = fastlb([{"address": third, "priority": 7}, {"address": second, "priority": 3}, first])
    client = lb.connect()
    assert [client.ask(request()).body for _ in range(3)] == [b"0"] * 3
    assert lb.counters()["retries"] == 3
    refusing.close()
