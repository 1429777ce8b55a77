"""Active health checks with real processes: backends that are killed, hang, are full, slow, flap, answer nonsense; verdicts that outlive
reloads, workers and controllers."""

import os
import signal
import socket
import ssl
import time

import pytest

from tests.support.backend import ThreadedBackend, address_of, listen
from tests.support.certificates import make_certificates
from tests.support.configuration import configuration
from tests.support.load import Load, kill_worker, wait_for_end, wait_for_restart
from tests.support.loop_backend import LoopBackend
from tests.support.message import response
from tests.support.waiting import wait_until

# Long enough that no good backend fails three times on a busy machine, short enough to wait for.
HEALTH = {"type": "http", "path": "/health", "interval": "200ms", "fast_interval": "100ms", "timeout": "1s"}
TCP = {"type": "tcp", "interval": "200ms", "fast_interval": "100ms", "timeout": "1s"}


@pytest.fixture
def good(keep):
    return keep(LoopBackend(response(b"ok")))


def is_down(lb, address):
    (row,) = (row for row in lb.backends() if row["identity"] == f"main|{address}")
    return row["state"] & 1  # ROW_DOWN


def wait_down(lb, address):
    wait_until(lambda: is_down(lb, address), f"{address} is down")


def wait_up(lb, address):
    wait_until(lambda: not is_down(lb, address), f"{address} is up")


def known(lb, address):
    (found,) = (one for one in lb.control.ask("health")["backends"] if one["backend"] == address)
    return found


def wait_decided(lb, *addresses):
    wait_until(lambda: all(known(lb, address)["verdict"] != "undecided" for address in addresses), "all are decided about")


def forever(data):
    """Sends the same again and again until nobody wants it."""

    def serve(peer):
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\n")
        while True:
            peer.send(data)

    return serve


def say(data):
    def serve(peer):
        peer.read_request()
        peer.send(data)

    return serve


def hang(peer):
    peer.read_request()
    peer.expect_end()


@pytest.mark.parametrize(
    ("serve", "reason"),
    [
        (hang, "timed out after 1s waiting for the answer"),
        (say(b"garbage\r\n\r\n"), "no HTTP: illegal status line"),
        (say(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"), "status 503"),
        (say(b"HTTP/1.1 200 OK\r\nConte"), "closed in the middle of the answer"),
        (say(b""), "closed without an answer"),
        (forever(b"X-More: and more\r\n" * 50), "no HTTP: "),
    ],
    ids=["hangs", "garbage", "status", "cut", "silent", "endless"],
)
def test_a_backend_that_answers_badly_gets_no_requests(fastlb, keep, good, serve, reason):
    bad = keep(ThreadedBackend(serve))
    lb = fastlb([good, bad], pool={"health": HEALTH, "algorithm": "round_robin"})
    wait_down(lb, bad.address)
    wait_decided(lb, good.address)
    line = f'fastlb: backend {bad.address} of pool "main" is down: 3 of 3 checks failed, last: {reason}'
    assert line in lb.messages()
    found = known(lb, bad.address)
    assert (found["verdict"], found["last"]) == ("down", "failed")
    assert found["text"].startswith(reason)
    for _ in range(10):
        assert lb.get().body == b"ok"
    assert [row["requests"] for row in sorted(lb.backends(), key=lambda row: row["state"])] == [10, 0]
    assert known(lb, good.address)["verdict"] == "up"


def test_a_backend_whose_accept_queue_is_full_is_down_for_tcp_too(fastlb, good):
    listening = listen(backlog=0)
    fill = [socket.socket() for _ in range(4)]
    for one in fill:
        one.setblocking(False)
        one.connect_ex(listening.getsockname())
    lb = fastlb([good, address_of(listening)], pool={"health": TCP})
    wait_down(lb, address_of(listening))
    assert "last: timed out after 1s connecting" in lb.messages()
    for one in (*fill, listening):
        one.close()


def test_a_slow_backend_is_down_where_it_is_slower_than_the_time_out(fastlb, keep, good):
    pause = [1.3]

    def slow(peer):
        peer.read_request()
        time.sleep(pause[0])
        peer.send(response(b"ok"))

    backend = keep(ThreadedBackend(slow))
    lb = fastlb([good, backend], pool={"health": HEALTH})
    wait_down(lb, backend.address)
    pause[0] = 0
    wait_up(lb, backend.address)
    row = next(row for row in lb.backends() if row["identity"] == f"main|{backend.address}")
    assert (row["ups"], row["downs"]) == (1, 1)
    assert row["up_since_ms"] > 0


def test_a_flapping_backend_stays_what_it_is(fastlb, keep, good):
    n = [0]

    def flap(peer):
        peer.read_request()
        n[0] += 1
        peer.send(response(b"ok") if n[0] % 3 else b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")

    backend = keep(ThreadedBackend(flap))
    lb = fastlb([good, backend], pool={"health": HEALTH})
    wait_until(lambda: n[0] > 30, "it was probed often")
    assert not is_down(lb, backend.address)
    assert "is down" not in lb.messages()


def test_a_backend_is_killed_and_comes_back_under_load_and_nobody_notices(fastlb, keep, good):
    other = LoopBackend(response(b"ok"))
    lb = fastlb([good, other], pool={"health": HEALTH, "slow_start": "1s", "algorithm": "weighted_round_robin"}, workers=2)
    port = other.socket.getsockname()[1]
    with Load(("127.0.0.1", lb.port)) as load:
        for _ in range(2):
            load.wait_for_answers(200)
            other.close()
            wait_down(lb, other.address)
            load.wait_for_answers(200)
            other = LoopBackend(response(b"ok"), listen(port=port))
            wait_up(lb, other.address)
            wait_until(lambda: other.n_requests > 20, "it gets requests again")  # noqa: B023
            load.wait_for_answers(200)
    assert load.failures == []
    assert lb.messages().count("is up again: 2 of 2 checks passed, last: status 200") == 2
    other.close()


def test_all_down_is_said_aloud_and_answered_with_503(fastlb):
    listening = listen()
    address = address_of(listening)
    listening.close()
    lb = fastlb([address], pool={"health": TCP})
    wait_down(lb, address)
    wait_until(lambda: 'fastlb: pool "main" has NO BACKEND LEFT: its only one is down' in lb.messages(), "it is said")
    assert lb.get().status == 503


def test_verdicts_outlive_a_reload_and_a_worker(fastlb, keep, good):
    bad = keep(ThreadedBackend(hang))
    lb = fastlb([good, bad], pool={"health": HEALTH})
    wait_down(lb, bad.address)
    wait_decided(lb, good.address)
    wait_for_restart(lb, 1, kill_worker(lb, 0, exactly=False))
    assert is_down(lb, bad.address)
    third = keep(LoopBackend(response(b"ok")))
    lb.apply_ok(configuration([good, bad, third], pool={"health": HEALTH}))
    assert is_down(lb, bad.address)
    assert known(lb, bad.address)["verdict"] == "down"
    assert known(lb, good.address)["verdict"] == "up"
    wait_decided(lb, third.address)
    assert lb.messages().count("is down") == 1
    lb.apply_ok(configuration([good, bad, third]))
    assert not is_down(lb, bad.address)
    assert f'backend {bad.address} of pool "main" is not probed any more, and counts as up' in lb.messages()
    assert lb.control.ask("health")["backends"] == []


def test_the_next_controller_goes_on_from_what_the_last_one_found(fastlb, keep, good):
    healthy = []

    def serve(peer):
        peer.read_request()
        peer.send(response(b"ok") if healthy else b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")

    bad = keep(ThreadedBackend(serve))
    lb = fastlb([good, bad], pool={"health": HEALTH})
    wait_down(lb, bad.address)
    (pid,) = (row["pid"] for row in lb.processes() if row["role"] == "controller")
    os.kill(pid, signal.SIGKILL)
    wait_for_end(pid)
    lb.reconnect()
    assert is_down(lb, bad.address)
    assert known(lb, bad.address)["verdict"] == "down"
    before = known(lb, bad.address)["in_a_row"]
    wait_until(lambda: known(lb, bad.address)["in_a_row"] > before + 3, "it is probed")
    assert lb.messages().count("is down") == 1  # the same news is no news
    healthy.append(True)
    wait_up(lb, bad.address)


def test_a_script_is_told_and_decides(fastlb, good, tmp_path):
    script = tmp_path / "check"
    script.write_text('#!/bin/sh\necho "$FASTLB_POOL $FASTLB_ADDRESS:$FASTLB_PORT $FASTLB_WEIGHT"\ntest ! -e "$1"\n')
    script.chmod(0o755)
    mark = tmp_path / "mark"
    mark.touch()
    health = {**TCP, "type": "script", "command": [str(script), str(mark)], "timeout": "5s"}
    lb = fastlb([{"address": good, "weight": 3}, "127.0.0.1:1"], pool={"health": health})
    wait_down(lb, good.address)
    assert f"last: exit code 1, which wrote: main {good.address} 3" in lb.messages()
    mark.unlink()
    wait_up(lb, good.address)
    assert known(lb, good.address)["output"] == f"main {good.address} 3"


def test_tls_is_verified_unless_it_is_not_to_be(fastlb, keep, tmp_path):
    certificates = make_certificates(tmp_path, "shop.example.com")
    context = certificates.server_context()

    def serve(peer):
        with context.wrap_socket(peer.socket, server_side=True) as encrypted:
            if encrypted.recv(4096):
                encrypted.sendall(response(b"ok"))

    def quietly(peer):
        try:
            serve(peer)
        except ssl.SSLError:  # who verifies goes away
            pass

    backend = keep(ThreadedBackend(quietly))
    tls = {**HEALTH, "tls": True, "timeout": "5s"}
    lb = fastlb([backend], pool={"health": tls})
    wait_down(lb, backend.address)
    assert "last: its certificate is not accepted: " in lb.messages()
    lb.apply_ok(configuration([backend], pool={"health": {**tls, "tls_verify": False}}))
    wait_up(lb, backend.address)
    lb.apply_ok(configuration([backend], pool={"health": {**tls, "tls_ca_file": str(certificates.authority)}}))
    wait_down(lb, backend.address)
    assert "IP address mismatch" in lb.messages()
    named = {**tls, "tls_ca_file": str(certificates.authority), "tls_server_name": "shop.example.com"}
    lb.apply_ok(configuration([backend], pool={"health": named}))
    wait_up(lb, backend.address)
    answer = lb.apply(configuration([backend], pool={"health": {**named, "tls_ca_file": str(tmp_path / "none.pem")}}))
    assert answer["errors"] == [f'pool "main": cannot read the certificates in {tmp_path / "none.pem"}: no such file or directory']
    assert known(lb, backend.address)["verdict"] == "up"
