"""What an operator does to single backends while requests go on: drain, maint, ready, weight. Commands as people type them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from urllib.parse import quote

import pytest

from tests.support.configuration import configuration
from tests.support.load import Load, assert_consistent, process_state, wait_for_end, wait_for_workers
from tests.support.loop_backend import LoopBackend
from tests.support.message import request, response
from tests.support.name_server import NameServer
from tests.support.process import ROOT
from tests.support.waiting import wait_until
from tests.support.wrk import WrkLoad

ROUND_ROBIN = {"algorithm": "round_robin"}
DEADLINE_SECONDS = 30


@pytest.fixture
def paced(keep):
    return lambda n: [keep(LoopBackend()) for _ in range(n)]


@pytest.fixture
def name_server():
    server = NameServer()
    yield server
    server.close()


def fastlb_command(lb, *arguments):
    """`fastlb ARGUMENTS` for this process: exit code, standard output, standard error."""
    command = [sys.executable, "-m", "fastlb", *arguments, "--admin", f"unix:{lb.directory}/control"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False)
    return done.returncode, done.stdout, done.stderr


def ok(lb, *arguments):
    """A command that must succeed; what it says."""
    code, out, err = fastlb_command(lb, *arguments)
    assert (code, err) == (0, ""), (code, out, err)
    return out


def row_of(lb, backend):
    (row,) = (row for row in lb.backends() if row["address"] == backend.address)
    return row


def change(lb, backend, **content):
    status, answer = lb.control.request("POST", f"/v1/backends/main/{quote(backend.address, safe='')}", content)
    assert status == 200, answer
    (row,) = answer["backends"]
    return row


# ------------------------------------------------------------------------------------------------------------ under load
def test_wrk_sees_no_error_while_backends_come_go_and_are_weighted(fastlb, paced):
    backends = paced(3)
    lb = fastlb(backends[:2], workers=2)
    with WrkLoad(("127.0.0.1", lb.port), lambda: sum(backend.n_requests for backend in backends)) as load:
        load.wait_for_answers()
        for number in range(1, 7):
            lb.apply_ok(configuration(backends[: 2 + number % 2]))
            load.wait_for_answers(50)
            for state in ("drain", "ready", "maint", "ready"):
                change(lb, backends[number % 2], admin=state)
                load.wait_for_answers(50)
            change(lb, backends[0], weight=number)
            load.wait_for_answers(50)
        assert lb.reasons() == {}
    assert load.failures == []


def test_draining_and_adding_backends_under_load_fails_no_request(fastlb, paced):
    backends = paced(3)
    lb = fastlb(backends[:2], pool=ROUND_ROBIN, workers=2)
    with Load(("127.0.0.1", lb.port)) as load:
        load.wait_for_answers()
        lb.apply_ok(configuration(backends, pool=ROUND_ROBIN))
        wait_until(lambda: backends[2].n_requests > 0, "the new one is asked")
        for backend in backends:
            assert ok(lb, "backend", "drain", "main", backend.address).endswith(f"main {backend.address}: drained\n")
            assert row_of(lb, backend)["in_flight"] == 0
            asked = backend.n_requests
            load.wait_for_answers()
            assert backend.n_requests == asked
            assert ok(lb, "backend", "ready", "main", backend.address).startswith(f"main {backend.address}: ready, ")
            wait_until(lambda backend=backend, asked=asked: backend.n_requests > asked, "it is asked again")
        assert ok(lb, "backend", "maint", "main", backends[0].address).startswith(f"main {backends[0].address}: in maintenance, ")
        wait_until(lambda: row_of(lb, backends[0])["in_flight"] == 0, "what was in flight has ended")
        asked = backends[0].n_requests
        load.wait_for_answers()
        assert backends[0].n_requests == asked
    assert load.failures == []
    assert_consistent(lb)
    lb.rest()
    assert sum(row["requests"] for row in lb.backends()) == sum(backend.n_requests for backend in backends) == load.answered
    assert sum(row["failures"] for row in lb.backends()) == 0


def test_weights_change_under_load_without_a_failed_request(fastlb, paced):
    backends = paced(2)
    lb = fastlb(backends, pool={"algorithm": "weighted_round_robin"}, workers=2)
    with Load(("127.0.0.1", lb.port)) as load:
        for weight in (3, 7, 0, 256, 1):
            assert ok(lb, "backend", "weight", "main", backends[0].address, str(weight)) == f"main {backends[0].address}: weight {weight}\n"
            load.wait_for_answers(50)
        ok(lb, "backend", "weight", "main", backends[0].address, "0")
        wait_until(lambda: row_of(lb, backends[0])["in_flight"] == 0, "what was in flight has ended")
        asked = backends[0].n_requests
        load.wait_for_answers(50)
        assert backends[0].n_requests == asked
        assert ok(lb, "backend", "weight", "main", backends[0].address, "default") == f"main {backends[0].address}: weight 1\n"
        wait_until(lambda: backends[0].n_requests > asked, "it is asked again")
    assert load.failures == []


# ------------------------------------------------------------------------------------------------------------ draining
def test_drain_waits_for_what_is_in_flight_and_says_how_much_that_is(fastlb, scripted):
    first, second = scripted(), scripted()
    lb = fastlb([first, second], pool=ROUND_ROBIN)
    client = lb.connect()
    client.send(request("/slow"))
    peer = first.accept()
    peer.read_request()
    arguments = ["backend", "drain", "main", first.address, "--admin", f"unix:{lb.directory}/control"]
    draining = subprocess.Popen([sys.executable, "-m", "fastlb", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert draining.stdout is not None
    assert draining.stdout.readline().startswith("draining: 1 in flight, at most ")
    assert row_of(lb, first)["admin"] == "drain"
    for _ in range(3):
        other = lb.connect()
        other.send(request())
        second.answer()[0].close()
        assert other.read_response().status == 200
    peer.send(response(b"at last"))
    assert client.read_response().body == b"at last"
    assert draining.communicate(timeout=DEADLINE_SECONDS)[0] == f"main {first.address}: drained\n"
    assert draining.returncode == 0
    assert first.saw_nothing()


def test_what_is_in_flight_after_the_timeout_is_cut_and_counted(fastlb, scripted):
    first = scripted()
    lb = fastlb([first], pool={**ROUND_ROBIN, "retry": {"attempts": 3}})
    unanswered = lb.connect()
    unanswered.send(request("/unanswered"))
    first.accept().read_request()
    begun = lb.connect()
    begun.send(request("/begun"))
    peer = first.accept()
    peer.read_request()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    assert begun.read_head().status == 200
    out = ok(lb, "backend", "drain", "main", first.address, "--timeout", "100ms")
    assert out.endswith(f"main {first.address}: drained; exchanges cut: 2\n")
    answer = unanswered.read_response()
    assert (answer.status, answer.get("X-Fastlb-Reason")) == (503, "backend_drained")
    assert begun.read_to_ending()[0] == b"half"
    lb.wait_for_exchange_end()
    assert lb.reasons() == {"backend_drained": 1, "backend:truncated": 1}
    row = row_of(lb, first)
    assert (row["in_flight"], row["admin"], row["drain"]["over"], row["drain"]["cut"]) == (0, "drain", True, 2)
    assert lb.get().status == 503  # it stays out of use
    assert "exchanges cut: 2" in lb.messages()


def test_a_drain_that_is_not_waited_for_ends_by_itself(fastlb, scripted):
    first = scripted()
    lb = fastlb([first])
    client = lb.connect()
    client.send(request())
    first.accept().read_request()
    assert ok(lb, "backend", "drain", "main", first.address, "--timeout", "50ms", "--no-wait") == (
        f"main {first.address}: draining, 1 in flight\n"
    )
    assert client.read_response().status == 503
    wait_until(lambda: row_of(lb, first)["drain"]["over"], "the drain is over")


def test_ready_ends_a_drain_and_nothing_is_cut(fastlb, scripted):
    first = scripted()
    lb = fastlb([first])
    client = lb.connect()
    client.send(request())
    peer = first.accept()
    peer.read_request()
    assert change(lb, first, admin="drain", timeout_ms=60_000)["drain"]["left_ms"] > 30_000
    row = change(lb, first, admin="ready")
    assert (row["admin"], row["drain"]) == ("ready", None)
    peer.send(response(b"ok"))
    assert client.read_response().status == 200


@pytest.mark.parametrize("drain", [True, False])
def test_sticky_clients_follow_the_setting_while_their_backend_drains(fastlb, paced, drain):
    backends = paced(2)
    sticky = {"cookie": "SERVERID", "drain": drain}
    lb = fastlb(backends, pool={**ROUND_ROBIN, "sticky": sticky}, settings={"sticky_key": "a key that is long enough for tests"})
    answer = lb.get()
    cookie = answer.get("Set-Cookie").partition(";")[0]
    (home,) = (backend for backend in backends if backend.n_requests)
    change(lb, home, admin="drain", timeout_ms=60_000)
    asked = home.n_requests
    for _ in range(4):
        assert lb.get("/", f"Cookie: {cookie}").status == 200
        assert lb.get().status == 200
    assert home.n_requests - asked == (4 if drain else 0)
    change(lb, home, admin="maint")
    asked = home.n_requests
    assert lb.get("/", f"Cookie: {cookie}").status == 200
    assert home.n_requests == asked


# ------------------------------------------------------------------------------------------------------------ what is kept
def test_what_was_asked_for_survives_the_controller_and_a_reload(fastlb, paced):
    backends = paced(3)
    text = configuration(backends, pool={"algorithm": "weighted_round_robin"})
    lb = fastlb(text)
    change(lb, backends[0], admin="drain", timeout_ms=0)
    change(lb, backends[1], weight=9)
    (controller,) = (row["pid"] for row in lb.processes() if row["role"] == "controller")
    os.kill(controller, signal.SIGKILL)
    wait_for_end(controller)
    lb.reconnect()
    rows = {row["address"]: row for row in lb.backends()}
    assert rows[backends[0].address]["admin"] == "drain"
    assert (rows[backends[1].address]["weight"], rows[backends[1].address]["configured_weight"]) == (9, 1)
    wait_until(lambda: row_of(lb, backends[0])["drain"]["over"], "the drain is over, again")
    lb.apply_ok(text)
    rows = {row["address"]: row for row in lb.backends()}
    assert (rows[backends[0].address]["admin"], rows[backends[1].address]["weight"]) == ("drain", 9)
    lb.apply_ok(configuration([backends[2]]))
    lb.apply_ok(text)
    assert row_of(lb, backends[1])["weight"] == 1  # who went comes back as configured
    assert row_of(lb, backends[0])["admin"] == "ready"


def test_a_caller_who_comes_while_there_is_no_controller_waits_for_the_next(fastlb, paced):
    (backend,) = paced(1)
    lb = fastlb([backend])
    (controller,) = (row["pid"] for row in lb.processes() if row["role"] == "controller")
    os.kill(controller, signal.SIGKILL)
    wait_for_end(controller)
    shown = json.loads(ok(lb, "status", "--json"))
    assert shown["generation"] == 1
    lb.reconnect()


def test_a_worker_that_dies_while_it_is_to_cut_owes_no_answer(fastlb, scripted):
    first = scripted()
    lb = fastlb([first], workers=2)
    clients = [lb.connect() for _ in range(8)]
    for client in clients:
        client.send(request())
        first.accept().read_request()
    held = row_of(lb, first)["in_flight"]
    assert held == 8
    pid = lb.worker_pid(1)
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: process_state(pid) == "T", "a worker stands still")
    change(lb, first, admin="drain", timeout_ms=0)
    with contextlib.suppress(ProcessLookupError):  # on a busy machine the supervisor may have done it
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: row_of(lb, first)["drain"]["over"], "the drain is over")
    wait_until(lambda: row_of(lb, first)["in_flight"] == 0, "the counts are right again")
    wait_for_workers(lb, 2)
    assert_consistent(lb)


# ------------------------------------------------------------------------------------------------------------ refusals
def test_wrong_requests_are_told_with_what_was_meant(fastlb, paced):
    (backend,) = paced(1)
    lb = fastlb([backend], pool=ROUND_ROBIN)
    for arguments, text in [
        (("drain", "mian", backend.address), 'fastlb: there is no pool "mian"; did you mean "main"?\n'),
        (("ready", "main", "127.0.0.1:1"), 'fastlb: pool "main" has no backend "127.0.0.1:1"'),
        (
            ("weight", "main", backend.address, "2"),
            'fastlb: pool "main" has the algorithm "round_robin", which knows no weights but 0 and 1\n',
        ),
        (("weight", "main", backend.address, "257"), 'fastlb: "weight" is 0 (never picked) … 256, or null for the configured one\n'),
        (("list", "mian"), 'fastlb: there is no pool "mian"'),
    ]:
        code, out, err = fastlb_command(lb, "backend", *arguments)
        assert (code, out) == (1, "")
        assert err.startswith(text)
    code, out, err = fastlb_command(lb, "backend", "drain", "mian", backend.address, "--json")
    assert (code, json.loads(out), err) == (1, {"errors": ['there is no pool "mian"; did you mean "main"?']}, "")
    assert fastlb_command(lb, "backend", "weight", "main", backend.address, "many")[0] == 2
    assert fastlb_command(lb, "backend", "drain", "main", backend.address, "--timeout", "5")[0] == 2
    path = f"/v1/backends/main/{quote(backend.address, safe='')}"
    for content, status in [
        ({}, 400),
        ({"admin": "drian"}, 400),
        ({"admin": "ready", "timeout_ms": 1}, 400),
        ({"admin": "drain", "timeout_ms": -1}, 400),
        ({"admin": "drain", "timeout_ms": 1 << 70}, 400),
        ({"weight": "3"}, 400),
        ({"weight": 1.5}, 400),
    ]:
        assert lb.control.request("POST", path, content)[0] == status, content
    assert lb.control.request("POST", "/v1/backends", {})[0] == 405
    assert row_of(lb, backend)["admin"] == "ready"


# ------------------------------------------------------------------------------------------------------------ status
def test_status_shows_processes_listeners_pools_and_backends(fastlb, paced):
    backends = paced(2)
    lb = fastlb(backends, pool={"algorithm": "weighted_round_robin"}, workers=2)
    assert lb.get().status == 200
    lb.rest()
    change(lb, backends[0], weight=5)
    text = ok(lb, "status")
    assert text.splitlines()[0].startswith("fastlb ")
    assert "generation 2" in text
    words = [line.split() for line in text.splitlines()]
    assert ["worker", "1", str(lb.worker_pid(1)), "ready", "0", "2", "0"] in words
    assert ["web", "127.0.0.1:0"] in words
    assert "pool main (weighted_round_robin)" in text
    (line,) = (line for line in words if line[:1] == [backends[0].address])
    assert line[1:6] == ["5", "(configured:", "1)", "ready", "up"]
    shown = json.loads(ok(lb, "status", "--json"))
    assert [one["role"] for one in shown["processes"]] == ["supervisor", "zygote", "controller", "worker", "worker"]
    assert {one["generation"] for one in shown["processes"] if one["role"] == "worker"} == {2}
    (pool,) = shown["pools"]
    assert [(row["address"], row["weight"]) for row in pool["backends"]] == [(backends[0].address, 5), (backends[1].address, 1)]
    assert sum(row["requests"] for row in pool["backends"]) == 1


def test_status_tells_of_a_pool_without_a_backend_by_its_exit_code(fastlb, paced):
    (backend,) = paced(1)
    lb = fastlb([backend])
    assert fastlb_command(lb, "status")[0] == 0
    ok(lb, "backend", "maint", "main", backend.address)
    code, out, _ = fastlb_command(lb, "status")
    assert code == 4
    assert " maint " in out


def test_a_pool_whose_only_name_has_no_address_has_no_backend(fastlb, name_server):
    lb = fastlb(configuration(["app.example:80"], settings={"resolver": [name_server.address]}))
    code, out, _ = fastlb_command(lb, "status")
    assert code == 4
    assert any(line.split()[:1] == ["app.example:80"] and " no address " in line for line in out.splitlines())
    assert lb.get().status == 503


def test_commands_say_what_to_do_when_nobody_answers(fastlb, paced, tmp_path):
    lb = fastlb(paced(1))
    command = [sys.executable, "-m", "fastlb", "status", "--admin"]
    nowhere = subprocess.run([*command, f"unix:{tmp_path}/none"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert nowhere.returncode == 3
    assert nowhere.stderr.startswith(f"fastlb: no fastlb was found at unix:{tmp_path}/none; is it running? ")
    (tmp_path / "off.toml").write_text(configuration(["127.0.0.1:1"], settings={"admin": "off"}))
    off = subprocess.run([*command[:-1], "-c", f"{tmp_path}/off.toml"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert off.returncode == 3
    assert "turns the admin API off" in off.stderr
    named = configuration(["127.0.0.1:1"], settings={"admin": f"unix:{lb.directory}/control"})
    (tmp_path / "lb.toml").write_text(named)
    assert subprocess.run([*command[:-1], "-c", f"{tmp_path}/lb.toml"], cwd=ROOT, capture_output=True, check=False).returncode == 0
