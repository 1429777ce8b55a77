"""UDP sessions while fastlb changes: reloads, upgrades, workers that die. Clients keep their addresses and go on asking."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.configuration import configuration
from tests.support.load import wait_for_end
from tests.support.udp_echo import UdpEcho, UdpTalk
from tests.support.waiting import DEADLINE_SECONDS, wait_until


@pytest.fixture
def backend() -> Iterator[UdpEcho]:
    with UdpEcho() as made:
        yield made


def configure(backend: UdpEcho, **udp: object) -> str:
    listener = {"name": "echo", "protocol": "udp", "pool": "main", "bind": "127.0.0.1:0", "udp": {"idle_timeout": "300ms", **udp}}
    return configuration(listeners=[listener], pools={"main": {"backends": [f"127.0.0.1:{backend.port}"]}})


def test_reloads_lose_no_datagram(fastlb: Any, backend: UdpEcho) -> None:
    lb = fastlb(configure(backend), workers=2)
    with UdpTalk(lb.port) as talk:
        talk.wait_for(100)
        for responses in (1, 2, "any", 1, "any"):
            lb.apply_ok(configure(backend, responses=responses))
            talk.wait_for(100)
    assert (talk.lost, talk.wrong) == (set(), [])
    lb.wait_for(lambda counters: counters["udp_sessions_opened"] == counters["udp_sessions_closed"], "all have ended")


def test_a_worker_that_dies_takes_only_what_was_under_way_with_it(fastlb: Any, backend: UdpEcho) -> None:
    lb = fastlb(configure(backend), workers=2)
    with UdpTalk(lb.port, 16, patience=0.5) as talk:
        for slot in (0, 1):
            talk.wait_for(200)
            before = lb.worker_pid(slot)
            os.kill(before, signal.SIGKILL)
            wait_until(lambda slot=slot, before=before: lb.worker_pid(slot) not in (0, None, before), "another worker")
        talk.wait_for(200)
    assert len(talk.lost) <= 32, "at most one of each client, twice"
    assert talk.wrong == []


def test_an_upgrade_loses_no_datagram(fastlb: Any, backend: UdpEcho) -> None:
    lb = fastlb(configure(backend), workers=2)
    lb.control.patience(60)
    port = lb.port
    with UdpTalk(port) as talk:
        talk.wait_for(100)
        status, answer = lb.control.request("POST", "/v1/upgrade")
        assert status == 200, answer
        talk.wait_for(100)
        assert lb.process.wait(DEADLINE_SECONDS) == 0, lb.messages()
        lb._was_killed = True  # nothing is left to be stopped
        talk.wait_for(100)
    assert (talk.lost, talk.wrong) == (set(), [])
    os.kill(answer["pid"], signal.SIGTERM)
    wait_for_end(answer["pid"])
