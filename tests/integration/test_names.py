"""Backends by name, with a DNS server that the test plays: new addresses are used, those that are gone finish what they have."""

import threading

import pytest

from tests.support.configuration import configuration
from tests.support.load import Load
from tests.support.loop_backend import LoopBackend
from tests.support.name_server import NameServer
from tests.support.waiting import wait_until


@pytest.fixture
def name_server():
    server = NameServer(ttl=1)
    yield server
    server.close()


@pytest.fixture
def paced(keep):
    return [keep(LoopBackend()) for _ in range(2)]


def port_of(backend):
    return int(backend.address.rpartition(":")[2])


def service(backends, weights=(1, 1), priorities=(0, 0)):
    """SRV records of backends on this machine."""
    records = [
        f"{priority} {weight} {port_of(backend)} here.example."
        for backend, weight, priority in zip(backends, weights, priorities, strict=False)
    ]
    return {("_http._tcp.app.example.", "SRV"): records, ("here.example.", "A"): ["127.0.0.1"]}


def wait_for_new_answer(lb):
    """Until every worker uses what the name stands for now; for the first change."""
    wait_until(lambda: all(row.get("generation", 2) == 2 for row in lb.processes()), "workers use the new answer")


def with_service(name_server, **pool):
    return configuration(["srv:_http._tcp.app.example"], settings={"resolver": [name_server.address]}, pool=pool)


def test_a_name_is_looked_up_at_the_configured_server(fastlb, name_server, paced):
    name_server.records = {("app.example.", "A"): ["127.0.0.1"]}
    lb = fastlb(configuration([f"app.example:{port_of(paced[0])}"], settings={"resolver": [name_server.address]}))
    assert lb.get().status == 200
    assert paced[0].n_requests == 1


def test_a_service_moves_to_another_backend_without_a_failed_request(fastlb, name_server, paced):
    name_server.records = service(paced[:1])
    lb = fastlb(with_service(name_server), workers=2)
    with Load(("127.0.0.1", lb.port)) as load:
        for turn in (1, 0, 1):
            load.wait_for_answers(50)
            name_server.records = service([paced[turn]])
            gone, came = paced[1 - turn], paced[turn]
            before = came.n_requests
            wait_until(lambda came=came, before=before: came.n_requests > before + 50, "the new address is used")
            wait_until(lambda gone=gone: gone.open == 0, "the old one has finished")
    assert load.failures == []


def test_an_address_that_is_gone_finishes_what_it_has(fastlb, name_server, paced):
    name_server.records = service(paced[:1])
    lb = fastlb(with_service(name_server))
    paced[0].hold()
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(lb.get().status))
    waiting.start()
    wait_until(lambda: paced[0].open == 1, "the request is there")
    name_server.records = service(paced[1:])
    wait_for_new_answer(lb)
    assert lb.get().status == 200
    assert paced[1].n_requests == 1
    assert answers == []
    paced[0].release()
    waiting.join()
    assert answers == [200]


def test_weights_and_priorities_of_a_service_count(fastlb, name_server, paced):
    name_server.records = service(paced, weights=(3, 1))
    lb = fastlb(with_service(name_server, algorithm="weighted_round_robin"))
    for _ in range(8):
        assert lb.get().status == 200
    assert [backend.n_requests for backend in paced] == [6, 2]
    name_server.records = service(paced, priorities=(20, 10))
    wait_for_new_answer(lb)
    before = paced[0].n_requests
    for _ in range(8):
        assert lb.get().status == 200
    assert paced[0].n_requests == before


def test_a_server_that_fails_leaves_the_last_good_answer(fastlb, name_server, paced):
    name_server.records = service(paced[:1])
    lb = fastlb(with_service(name_server))
    name_server.rcodes = {"_http._tcp.app.example.": "SERVFAIL"}
    asked = len(name_server.asked)
    wait_until(lambda: len(name_server.asked) > asked + 1, "it was asked again")
    assert lb.get().status == 200
    wait_until(lambda: "keeping 127.0.0.1" in lb.messages(), "the operator is told")
