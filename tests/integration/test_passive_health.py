"""Passive health, limits and panic with real processes: backends that flap, answer garbage and reset, and workers that are killed."""

import contextlib
import os
import signal
import socket
import struct

import pytest

from tests.support.backend import ThreadedBackend, listen
from tests.support.loop_backend import LoopBackend
from tests.support.message import request, response
from tests.support.waiting import wait_until

EJECTED = 8
LONG = {"consecutive_failures": 3, "ejection": "1h", "max_ejection": "1h", "max_ejected": 0.5}


def pool(**more):
    return {"algorithm": "round_robin", "retry": {"attempts": 1}, **more}


def ejected(lb):
    return [row["display"] for row in lb.backends() if row["state"] == EJECTED]


def statuses(lb, n):
    return [lb.get().status for _ in range(n)]


def garbage(peer):
    peer.read_request()
    peer.send(b"\x16\x03\x01 this is no HTTP\r\n\r\n")


def reset(peer):
    peer.read_request()
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def hang_up(peer):
    peer.read_request()


@pytest.mark.parametrize("serve", [garbage, reset, hang_up])
def test_backend_that_does_not_answer_is_ejected_by_all_workers(fastlb, keep, serve):
    good, bad = keep(LoopBackend()), keep(ThreadedBackend(serve))
    lb = fastlb([good.address, bad.address], pool=pool(passive_health=LONG), workers=2)
    wait_until(lambda: lb.get() and ejected(lb), "the backend is ejected")
    assert ejected(lb) == [bad.address]
    assert statuses(lb, 20) == [200] * 20
    assert lb.counter("ejections") == 1


def test_backend_that_flaps_comes_back_each_time(fastlb, keep):
    good, flapping = keep(LoopBackend()), keep(LoopBackend())
    health = {**LONG, "consecutive_failures": 2, "ejection": "50ms", "max_ejection": "100ms", "failures": ["5xx"]}
    lb = fastlb([good.address, flapping.address], pool=pool(passive_health=health), workers=2)
    for turn in range(1, 4):
        flapping.answer = response(b"", status="503 Service Unavailable")
        wait_until(lambda turn=turn: lb.get() and lb.counter("ejections") >= turn, "it is ejected")
        flapping.answer = response(b"ok")
        before = flapping.n_requests
        wait_until(lambda before=before: lb.get() and flapping.n_requests > before + 2 and not ejected(lb), "it is back")
    wait_until(lambda: lb.counter("ejections") == lb.counter("returns"), "all are back")
    assert statuses(lb, 10) == [200] * 10


def test_backend_that_is_gone_is_asked_no_more_and_found_again(fastlb, keep):
    good = keep(LoopBackend())
    listening = listen()
    port = listening.getsockname()[1]
    listening.close()
    health = {**LONG, "ejection": "100ms"}
    lb = fastlb([good.address, f"127.0.0.1:{port}"], pool={"algorithm": "round_robin", "passive_health": health})
    wait_until(lambda: lb.get().status == 200 and ejected(lb), "it is ejected")
    back = keep(LoopBackend(listening=listen(port=port)))
    wait_until(lambda: lb.get().status == 200 and back.n_requests, "it is back")


def test_ejection_outlives_the_worker_that_decided_it_and_ends_without_it(fastlb, keep):
    good, bad = keep(LoopBackend()), keep(LoopBackend(response(b"", status="502 Bad Gateway")))
    health = {**LONG, "ejection": "1500ms", "max_ejection": "1500ms"}
    lb = fastlb([good.address, bad.address], pool=pool(passive_health=health), workers=1)
    wait_until(lambda: lb.get() and ejected(lb), "it is ejected")
    dead = lb.worker_pid()
    os.kill(dead, signal.SIGKILL)
    wait_until(lambda: lb.worker_pids() and dead not in lb.worker_pids(), "another worker runs")
    bad.answer = response(b"ok")
    wait_until(lambda: ask(lb) and not ejected(lb), "it is back")
    before = bad.n_requests
    wait_until(lambda: ask(lb) and bad.n_requests > before, "it is asked again")


def ask(lb):
    """Whether or not the worker is there to answer."""
    with contextlib.suppress(OSError, EOFError, AssertionError):
        lb.get()
    return True


def test_ejection_survives_a_reload_and_ends_with_the_option(fastlb, keep):
    good, bad = keep(LoopBackend()), keep(LoopBackend(response(b"", status="502 Bad Gateway")))
    lb = fastlb([good.address, bad.address], pool=pool(passive_health=LONG), workers=2)
    wait_until(lambda: lb.get() and ejected(lb), "it is ejected")
    text = lb.config_path.read_text()
    lb.apply_ok(text.replace("consecutive_failures = 3", "consecutive_failures = 2"))
    assert ejected(lb) == [bad.address]
    assert statuses(lb, 10) == [200] * 10
    lb.apply_ok(text.replace("consecutive_failures = 3", "consecutive_failures = 0"))
    assert ejected(lb) == []
    assert 502 in statuses(lb, 10)


def test_requests_beyond_a_limit_are_refused_over_all_workers(fastlb, keep):
    backend = keep(LoopBackend())
    lb = fastlb([backend.address], pool=pool(limits={"requests": 4}), workers=2)
    backend.hold()
    clients = [lb.connect() for _ in range(12)]
    for client in clients:
        client.send(request())
    backend.wait_for_held(4)
    wait_until(lambda: lb.reasons() == {"requests_limit": 8}, "eight are refused")
    backend.release()
    answers = [client.read_response() for client in clients]
    assert sorted(answer.status for answer in answers) == [200] * 4 + [503] * 8
    assert {answer.reason for answer in answers if answer.status == 503} == {"requests_limit"}
    assert statuses(lb, 4) == [200] * 4
    # A worker that dies with requests under way: their places come back.
    backend.hold()
    for client in (clients := [lb.connect() for _ in range(12)]):
        client.send(request())
    backend.wait_for_held(4)
    for pid in lb.worker_pids():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(lb.worker_pids()) == 2, "two workers run again")
    backend.release()
    wait_until(lambda: ask(lb) and lb.counter("workers_died") == 2, "both are settled")
    assert statuses(lb, 6) == [200] * 6
