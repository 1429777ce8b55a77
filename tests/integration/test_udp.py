"""UDP listeners, by whole processes: DNS through two workers, backends that die, reloads, logs."""

import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

import dns.message
import dns.query
import pytest

from tests.support.configuration import configuration
from tests.support.load import process_state
from tests.support.name_server import NameServer
from tests.support.process import Fastlb
from tests.support.waiting import DEADLINE_SECONDS, wait_until

NAME = "app.example."


@pytest.fixture
def servers() -> Iterator[list[NameServer]]:
    some = [NameServer({(NAME, "A"): [f"10.0.0.{number}"]}) for number in (1, 2)]
    yield some
    for one in some:
        one.close()


def configure(backends: list[str], log: str = "", ports: tuple[int, int] = (0, 0), **pool: object) -> str:
    listeners = [
        {"name": "dns", "protocol": "udp", "pool": "main", "bind": f"127.0.0.1:{ports[0]}", "udp": {"responses": 1}},
        {"name": "dns-tcp", "protocol": "tcp", "pool": "main", "bind": f"127.0.0.1:{ports[1]}"},
    ]
    settings = {"drain_timeout": "5s"}
    text = configuration(listeners=listeners, pools={"main": {"backends": backends, **pool}}, settings=settings)
    return (
        f'{text}\n[access_log]\nto = "{log}"\nformat = "{{client}} {{backend}} {{status}} {{request_bytes}} {{bytes_sent}}"\n'
        if log
        else text
    )


def resolve(lb: Fastlb, bind: int = 0) -> str:
    question = dns.message.make_query(NAME, "A")
    ask = dns.query.udp if bind == 0 else dns.query.tcp
    answer = ask(question, "127.0.0.1", port=lb.port_of(bind), timeout=DEADLINE_SECONDS)
    return str(answer.answer[0][0])


def test_dns_goes_through_two_workers_and_outlives_its_backends(fastlb: Any, servers: list[NameServer]) -> None:
    addresses = [f"127.0.0.1:{server.port}" for server in servers]
    lb = fastlb(configure(addresses, algorithm="round_robin"), workers=2)
    assert lb.urls[0].startswith("udp://")
    assert {resolve(lb) for _ in range(40)} == {"10.0.0.1", "10.0.0.2"}
    assert resolve(lb, 1) in ("10.0.0.1", "10.0.0.2")
    servers[0].close()
    assert {resolve(lb) for _ in range(10)} == {"10.0.0.2"}, "what the dead one was asked was asked again"
    counters = lb.wait_for(lambda counters: counters["udp_sessions_opened"] == counters["udp_sessions_closed"], "all are answered")
    assert counters["datagrams_out"] == 50
    lb.apply_ok(configure(addresses[1:]))
    assert resolve(lb) == "10.0.0.2"


def test_a_session_is_a_line_in_the_log(fastlb: Any, servers: list[NameServer]) -> None:
    address = f"127.0.0.1:{servers[0].port}"
    lb = fastlb(configure([address]))
    log = lb.directory / "log"
    lb.apply_ok(configure([address], str(log)))
    resolve(lb)
    wait_until(lambda: log.exists() and log.read_text().count("\n") == 1, "a line")
    client, backend, status, asked, answered = log.read_text().split()
    assert (client, backend, status) == ("127.0.0.1", address, "200")
    assert 0 < int(asked) < int(answered)


def test_a_worker_that_dies_leaves_its_clients_to_the_next_one(fastlb: Any, servers: list[NameServer]) -> None:
    lb = fastlb(configure([f"127.0.0.1:{servers[0].port}"]), workers=2)
    resolve(lb)
    before = set(lb.worker_pids())
    os.kill(lb.worker_pid(0), signal.SIGKILL)
    wait_until(lambda: len(set(lb.worker_pids()) - before) == 1, "another worker")
    clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(8)]
    for client in clients:
        client.settimeout(DEADLINE_SECONDS)
        client.sendto(dns.message.make_query(NAME, "A").to_wire(), ("127.0.0.1", lb.port))
        assert dns.message.from_wire(client.recv(512)).answer
        client.close()


def test_the_next_fastlb_takes_over_the_sockets_and_no_question_is_lost(fastlb: Any, servers: list[NameServer]) -> None:
    address = f"127.0.0.1:{servers[0].port}"
    first = fastlb(configure([address]), workers=2)
    ports = first.port_of(0), first.port_of(1)
    pids = first.worker_pids()
    first.kill_supervisor()
    assert resolve(first) == "10.0.0.1", "workers serve on"
    second = fastlb(configure([address], ports=ports), workers=2, runtime=first.directory / "run")
    second._applied = True  # the sockets of the old workers are counted at its start: they are no leak when they go
    assert second.port_of(0) == ports[0]
    for _ in range(10):
        assert resolve(second) == "10.0.0.1"
    for pid in pids:
        wait_until(lambda pid=pid: process_state(pid) in ("", "Z"), f"worker {pid} has ended")
    for _ in range(10):
        assert resolve(second) == "10.0.0.1"
