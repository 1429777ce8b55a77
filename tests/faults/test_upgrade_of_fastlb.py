"""Binary upgrades under constant load: a new fastlb takes over, or does not, and no request is lost."""

import os
import signal
import socket
import sys
from functools import partial
from urllib.parse import quote

import pytest

from tests.support.configuration import configuration
from tests.support.load import Load, assert_consistent, process_state, wait_for_end, wait_for_workers
from tests.support.loop_backend import LoopBackend
from tests.support.message import request
from tests.support.name_server import NameServer
from tests.support.process import Control, session_members
from tests.support.waiting import DEADLINE_SECONDS, SANITIZED, wait_until
from tests.support.websocket import Chat, WebSocketEcho
from tests.support.wrk import WrkLoad

# Installed in place of Python, as far as a process that is started anew can see: it fails before it is ready.
BROKEN = "#!/bin/sh\nexit 7\n"
NEVER_READY = "#!/bin/sh\nexec sleep 600\n"


@pytest.fixture
def fastlb(fastlb):
    """With an interpreter each: the start is what is tried here."""
    return partial(fastlb, fresh=True)


@pytest.fixture
def paced(keep):
    return [keep(LoopBackend()) for _ in range(2)]


class Upgraded:
    """What has taken over from a Fastlb, as far as the tests look at it."""

    def __init__(self, old, pid):
        self.port, self.pid = old.port, pid
        self.directory = old.directory
        self.control = wait_until(lambda: self._connect(), "the new one answers")

    def _connect(self):
        try:
            control = Control(self.directory / "control")
            rows = control.ask("processes")["processes"]
        except (OSError, AssertionError, ValueError):
            return None
        if any(row["pid"] == self.pid for row in rows):
            return control
        control.close()
        return None

    def processes(self):
        return self.control.ask("processes")["processes"]

    def workers(self):
        return [row["slot"] for row in self.processes() if row["role"] == "worker"]

    def counters(self):
        return self.control.ask("counters")["counters"]

    def wait_for_rest(self):
        wait_until(lambda: (c := self.counters())["exchanges_opened"] == c["exchanges_closed"] and c["clients"] == 0, "rest")
        assert_consistent(self)
        return self.counters()

    def stop(self, number=signal.SIGTERM):
        self.control.close()
        os.kill(self.pid, number)
        wait_for_end(self.pid)


@pytest.fixture
def start(fastlb, paced):
    def make(backends=paced, **options):
        return fastlb(backends, workers=2, settings={"drain_timeout": "5s", **options.pop("settings", {})}, **options)

    return make


def upgrade(lb):
    """By the API; the new one's process."""
    lb.control.patience(60)
    status, answer = lb.control.request("POST", "/v1/upgrade")
    assert status == 200, answer
    return answer["pid"]


def begin(lb):
    """By SIGUSR2; the new one's process, when it serves."""
    lb.signal(signal.SIGUSR2)
    line = wait_until(lambda: next((one for one in lb.messages().splitlines() if "has taken over" in one), ""), "the new one is ready")
    return int(line.split()[2])


def end_new(lb, pid):
    """A roll-back's last step: the new one is told to end, and the old one answers its clients and its commands, with exact counts."""
    os.kill(pid, signal.SIGQUIT)
    wait_until(lambda: "this one goes on" in lb.messages(), "the old one has noticed")
    lb.control.close()
    lb.control = wait_until(lambda: connect(lb), "the old one answers")
    assert lb.get().status == 200
    lb._applied = True
    lb.rest()
    assert_consistent(lb)


def end_of_old(lb):
    """It has ended in order."""
    assert lb.process.wait(DEADLINE_SECONDS) == 0, lb.messages()
    lb._was_killed = True  # nothing is left to be stopped


def test_no_request_is_lost_in_an_upgrade_that_does_all_by_itself(start, tmp_path):
    pid_file = tmp_path / "pid"
    lb = start(settings={"pid_file": str(pid_file)})
    with Load(("127.0.0.1", lb.port)) as load:
        load.wait_for_answers(50)
        pid = upgrade(lb)
        load.wait_for_answers(50)
        end_of_old(lb)
        new = Upgraded(lb, pid)
        wait_for_workers(new, 2)
        load.wait_for_answers(50)
    assert load.failures == []
    assert new.workers() == [2, 3]
    assert "hands nothing over" not in lb.messages(), "it does not take the doors of one that ends in order for those of orphans"
    assert pid_file.read_text() == f"{pid}\n"
    counters = new.wait_for_rest()
    assert counters["exchanges_opened"] == load.answered
    assert counters["workers_died"] == 0
    new.stop()
    assert list(tmp_path.iterdir()) == []
    assert not (lb.directory / "control").exists()
    assert not (lb.directory / "run").exists()
    wait_until(lambda: [pid for pid in session_members(lb.pid) if process_state(pid) not in ("Z", "")] == [], "no process is left")


def test_wrk_sees_no_error_over_an_upgrade(start, paced):
    lb = start()
    with WrkLoad(("127.0.0.1", lb.port), lambda: sum(backend.n_requests for backend in paced)) as load:
        load.wait_for_answers(500)
        new = Upgraded(lb, upgrade(lb))
        end_of_old(lb)
        load.wait_for_answers(500)
    assert load.failures == []
    new.wait_for_rest()
    new.stop(signal.SIGQUIT)


def test_upgrades_follow_each_other_and_slots_are_used_again(start):
    lb = start()
    with Load(("127.0.0.1", lb.port)) as load:
        new = Upgraded(lb, upgrade(lb))
        end_of_old(lb)
        for slots in ([0, 1], [2, 3]):
            load.wait_for_answers(50)
            wait_for_workers(new, 2)
            new.control.patience(60)
            status, answer = new.control.request("POST", "/v1/upgrade")
            assert status == 200, answer
            new.control.close()
            wait_for_end(new.pid)
            new = Upgraded(lb, answer["pid"])
            wait_for_workers(new, 2)
            assert new.workers() == slots
        load.wait_for_answers(50)
    assert load.failures == []
    new.wait_for_rest()
    new.stop(signal.SIGQUIT)


def test_step_by_step_with_signals_as_nginx_has_it(start, tmp_path):
    pid_file = tmp_path / "pid"
    lb = start(settings={"pid_file": str(pid_file)})
    with Load(("127.0.0.1", lb.port)) as load:
        load.wait_for_answers(30)
        pid = begin(lb)
        assert pid_file.read_text() == f"{pid}\n"
        assert (tmp_path / "pid.oldbin").read_text() == f"{lb.pid}\n"
        load.wait_for_answers(30)
        lb.signal(signal.SIGWINCH)
        new = Upgraded(lb, pid)
        wait_for_workers(new, 2)
        wait_until(lambda: workers_of(lb) == [], "the old workers have drained")
        load.wait_for_answers(30)
        assert process_state(lb.pid) not in ("", "Z"), "the old supervisor waits"
        lb.signal(signal.SIGQUIT)
        end_of_old(lb)
        load.wait_for_answers(30)
    assert load.failures == []
    assert [path.name for path in tmp_path.iterdir()] == ["pid"]
    new.wait_for_rest()
    new.stop()


def workers_of(lb):
    """The old one's: who had a conversation with its controller may go on with it."""
    return [row for row in lb.processes() if row["role"] == "worker" and row["pid"]]


def test_roll_back_starts_the_workers_of_the_old_one_again(start, tmp_path):
    pid_file = tmp_path / "pid"
    lb = start(settings={"pid_file": str(pid_file)})
    with Load(("127.0.0.1", lb.port)) as load:
        load.wait_for_answers(30)
        pid = begin(lb)
        lb.signal(signal.SIGWINCH)
        wait_until(lambda: workers_of(lb) == [], "the old workers have drained")
        load.wait_for_answers(30)
        lb.signal(signal.SIGHUP)
        wait_for_workers(lb, 2)
        load.wait_for_answers(30)
        os.kill(pid, signal.SIGQUIT)
        wait_until(lambda: "this one goes on" in lb.messages(), "the old one has noticed")
        lb.control.close()
        lb.control = wait_until(lambda: connect(lb), "the old one answers")
        load.wait_for_answers(50)
    assert load.failures == []
    assert pid_file.read_text() == f"{lb.pid}\n"
    assert_consistent(lb)
    lb._applied = True


def test_roll_back_keeps_out_of_the_slots_of_the_new_one_while_old_workers_drain(start, paced):
    lb = start(settings={"drain_timeout": "60s"})
    for backend in paced:
        backend.hold()
    client = lb.connect()
    client.send(request())
    wait_until(lambda: sum(backend.open for backend in paced) == 1, "the request is with a backend")
    old = {row["pid"] for row in workers_of(lb)}
    pid = begin(lb)
    theirs = set(Upgraded(lb, pid).workers())
    lb.signal(signal.SIGWINCH)
    wait_until(lambda: len(workers_of(lb)) == 1, "one of the old workers has ended, the other one drains")
    lb.signal(signal.SIGHUP)
    again = wait_until(lambda: len(rows := [row for row in workers_of(lb) if row["pid"] not in old]) == 2 and rows, "it goes on")
    assert theirs.isdisjoint(row["slot"] for row in again)
    for backend in paced:
        backend.release()
    assert client.read_response().status == 200
    client.close()
    end_new(lb, pid)


def test_roll_back_has_rows_again_for_backends_that_the_new_one_has_forgotten(start, paced):
    lb = start()
    (lb.directory / "1.toml").write_text(configuration(paced[:1], listener={"bind": f"127.0.0.1:{lb.port}"}))
    pid = begin(lb)
    new = Upgraded(lb, pid)
    lb.signal(signal.SIGWINCH)
    wait_until(lambda: workers_of(lb) == [], "the old workers have drained")
    assert new.control.ask("reload")["ok"]
    assert len(new.control.ask("backends")["backends"]) == 1, "no worker used the other row any more"
    lb.signal(signal.SIGHUP)
    wait_for_workers(lb, 2)
    assert len(new.control.ask("backends")["backends"]) == 2
    new.control.close()
    end_new(lb, pid)


def test_service_manager_hears_of_who_goes_on_and_of_no_end_in_a_roll_back(start, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(DEADLINE_SECONDS)

        def hear(word):
            said = []
            while word not in said:
                said += manager.recv(4096).decode().splitlines()
            return said

        lb = start(environment={"NOTIFY_SOCKET": manager.getsockname()})
        hear(f"MAINPID={lb.pid}")
        pid = begin(lb)
        hear(f"MAINPID={pid}")
        os.kill(pid, signal.SIGQUIT)
        said = hear(f"MAINPID={lb.pid}")  # from the one that ends
        wait_until(lambda: "this one goes on" in lb.messages(), "the old one has noticed")
        said += hear(f"MAINPID={lb.pid}")
        assert "STOPPING=1" not in said, "the service goes on"
        lb.control.close()
        lb.control = wait_until(lambda: connect(lb), "the old one answers")
        assert lb.get().status == 200
        lb._applied = True
        lb.rest()


def connect(lb):
    try:
        control = Control(lb.directory / "control")
        control.ask("processes")
    except (OSError, AssertionError, ValueError):
        return None
    return control


def test_new_one_that_is_killed_while_the_old_one_rests_costs_nothing(start):
    """Its workers serve on as orphans, and the old one starts its own again and takes over from them."""
    lb = start()
    with Load(("127.0.0.1", lb.port)) as load:
        pid = begin(lb)
        lb.signal(signal.SIGWINCH)
        load.wait_for_answers(50)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: "this one goes on" in lb.messages(), "the old one has noticed")
        load.wait_for_answers(50)
        lb.control.close()
        lb.control = wait_until(lambda: connect(lb), "the old one answers")
        wait_until(lambda: len([row for row in lb.processes() if row["role"] == "worker"]) == 2, "the orphans have ended")
        load.wait_for_answers(50)
    assert load.failures == []
    lb._applied = True
    lb.rest()
    assert_consistent(lb)


def test_new_one_is_not_upgraded_before_the_old_one_has_ended(start):
    """Three at a time: if the second ended, the first would come back beside the third, for ever."""
    lb = start()
    with Load(("127.0.0.1", lb.port)) as load:
        new = Upgraded(lb, begin(lb))
        for _ in range(2):  # the first refusal does not make it forget the old one
            status, answer = new.control.request("POST", "/v1/upgrade")
            assert status == 409, answer
            assert "the one before it has not ended" in answer["errors"][0]
        load.wait_for_answers(30)
        lb.signal(signal.SIGQUIT)
        end_of_old(lb)
        wait_for_workers(new, 2)
        new.control.patience(60)
        status, answer = new.control.request("POST", "/v1/upgrade")
        assert status == 200, answer
        new.control.close()
        wait_for_end(new.pid)
        new = Upgraded(lb, answer["pid"])
        load.wait_for_answers(30)
    assert load.failures == []
    new.wait_for_rest()
    new.stop()


def test_new_one_that_is_killed_while_the_old_one_ends_leaves_its_workers_serving(start, fastlb, paced):
    """Who ends does not take over: it would have them drain, and nobody would be left."""
    lb = start(settings={"drain_timeout": "60s"})
    for backend in paced:
        backend.hold()
    client = lb.connect()
    client.send(request())
    wait_until(lambda: sum(backend.open for backend in paced) == 1, "the request is with a backend")
    pid = begin(lb)
    orphans = [row["pid"] for row in Upgraded(lb, pid).processes() if row["role"] == "worker"]
    lb.signal(signal.SIGQUIT)
    wait_until(lambda: "draining, at most" in lb.messages(), "the old one accepts nothing any more")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: "this one is ending already" in lb.messages(), "the old one has noticed")
    for backend in paced:
        backend.release()
    assert client.read_response().status == 200
    client.close()
    end_of_old(lb)
    with Load(("127.0.0.1", lb.port)) as load:
        load.wait_for_answers(30)
        text = configuration(paced, listener={"bind": f"127.0.0.1:{lb.port}"})
        after = fastlb(text, workers=2, runtime=lb.directory / "run")
        after._applied = True  # the sockets of the orphans are no leak when they go
        for orphan in orphans:
            wait_until(lambda orphan=orphan: process_state(orphan) in ("", "Z"), f"worker {orphan} has ended")
        load.wait_for_answers(30)
    assert load.failures == []
    after.rest()
    assert_consistent(after)


def test_only_one_of_the_two_probes_and_the_old_one_does_again_when_it_is_alone(start):
    lb = start(pool={"health": "tcp"})
    pid = begin(lb)
    wait_until(lambda: lb.control.ask("health")["backends"] == [], "the old one, with which this conversation is, probes no more")
    new = Upgraded(lb, pid)
    assert len(new.control.ask("health")["backends"]) == 2
    new.stop(signal.SIGQUIT)
    wait_until(lambda: len(lb.control.ask("health")["backends"]) == 2, "the old one probes again")


def test_old_one_probes_again_what_the_new_one_has_forgotten(start, paced):
    health = {"health": "tcp"}
    lb = start(pool=health)
    (lb.directory / "1.toml").write_text(configuration(paced[:1], pool=health, listener={"bind": f"127.0.0.1:{lb.port}"}))
    new = Upgraded(lb, begin(lb))
    lb.signal(signal.SIGWINCH)
    wait_until(lambda: workers_of(lb) == [], "the old workers have drained")
    assert new.control.ask("reload")["ok"]
    assert len(new.control.ask("backends")["backends"]) == 1, "no worker used the other row any more"
    new.stop(signal.SIGQUIT)
    wait_until(lambda: lb.control.ask("health")["backends"], "the old one probes again")
    assert len(lb.control.ask("health")["backends"]) == 2
    wait_for_workers(lb, 2)


def test_a_drain_has_a_clock_at_the_new_one(start, paced):
    lb = start()
    path = f"/v1/backends/main/{quote(paced[0].address, safe='')}"
    assert lb.control.request("POST", path, {"admin": "drain"})[0] == 200
    new = Upgraded(lb, begin(lb))
    assert {row["address"] for row in new.control.ask("backends")["backends"] if row["drain"] is not None} == {paced[0].address}
    lb.signal(signal.SIGQUIT)
    end_of_old(lb)
    new.stop()


def test_a_drain_that_has_taken_too_long_cuts_what_the_old_one_has_in_flight_too(start, paced):
    lb = start(pool={"algorithm": "least_connections"}, settings={"drain_timeout": "1m"})
    for backend in paced:
        backend.hold()
    clients = [lb.connect() for _ in paced]
    for number, client in enumerate(clients, 1):  # at the same time both could be given to one
        client.send(request())
        wait_until(lambda number=number: sum(backend.open for backend in paced) == number, "a backend has it")
    assert [backend.open for backend in paced] == [1, 1]
    new = Upgraded(lb, begin(lb))
    path = f"/v1/backends/main/{quote(paced[0].address, safe='')}"

    def cut():
        (row,) = new.control.request("GET", path)[1]["backends"]
        return row["drain"]["over"] and row["drain"]["cut"], row["in_flight"]

    assert new.control.request("POST", path, {"admin": "drain", "timeout_ms": 1})[0] == 200
    wait_until(lambda: cut() == (1, 0), "the new one knows what became of it")
    assert [backend.open for backend in paced][1] == 1
    lb.kill_supervisor()
    wait_until(lambda: len(new.workers()) > 2, "who has the other one is met")
    path = f"/v1/backends/main/{quote(paced[1].address, safe='')}"
    assert new.control.request("POST", path, {"admin": "drain", "timeout_ms": 1})[0] == 200
    wait_until(lambda: cut() == (1, 0), "nor is it left with workers that have no supervisor")
    new.stop()


@pytest.fixture
def name_server():
    server = NameServer(ttl=1)
    yield server
    server.close()


def test_what_names_stand_for_is_known_to_those_that_come_when_no_name_server_answers(start, fastlb, paced, name_server):
    port = paced[0].address.rpartition(":")[2]
    name_server.records = {("_http._tcp.app.example.", "SRV"): [f"0 1 {port} here.example."], ("here.example.", "A"): ["127.0.0.1"]}
    settings = {"resolver": [name_server.address]}
    service = "srv:_http._tcp.app.example"
    lb = start([service], settings=settings)
    assert lb.get().status == 200
    name_server.rcodes = {"_http._tcp.app.example.": "SERVFAIL"}
    new = Upgraded(lb, upgrade(lb))
    end_of_old(lb)
    assert lb.get().status == 200, "by the one that was upgraded to"
    new.control.close()
    os.kill(new.pid, signal.SIGKILL)
    wait_for_end(new.pid)
    text = configuration([service], listener={"bind": f"127.0.0.1:{lb.port}"}, settings=settings)
    after = fastlb(text, workers=2, runtime=lb.directory / "run")
    after._applied = True  # the sockets of the orphans are no leak when they go
    assert "taking over from 2 workers" in after.messages()
    assert f"keeping 127.0.0.1:{port}" in after.messages()
    assert after.get().status == 200
    after.rest()


def test_old_one_that_is_killed_leaves_everything_to_the_new_one(start):
    lb = start()
    with Load(("127.0.0.1", lb.port)) as load:
        pid = begin(lb)
        load.wait_for_answers(30)
        lb.kill_supervisor()
        new = Upgraded(lb, pid)
        load.wait_for_answers(30)
        wait_for_workers(new, 2)
        load.wait_for_answers(30)
    assert load.failures == []
    new.wait_for_rest()
    new.stop()


def test_upgrade_to_what_does_not_start_changes_nothing(start, tmp_path):
    pid_file = tmp_path / "pid"
    lb = start(settings={"pid_file": str(pid_file)}, prefix=installed(tmp_path, BROKEN))
    with Load(("127.0.0.1", lb.port)) as load:
        load.wait_for_answers(30)
        for _ in range(2):
            status, answer = lb.control.request("POST", "/v1/upgrade")
            assert status == 409
            assert "ended before it was ready (exit code 7)" in answer["errors"][0]
        assert pid_file.read_text() == f"{lb.pid}\n"
        load.wait_for_answers(30)
    assert load.failures == []
    assert_consistent(lb)


def installed(directory, program):
    """Starts a fastlb that has this installed as its heir's Python."""
    path = directory / "python"
    path.write_text(program)
    path.chmod(0o755)
    launcher = f"import sys, runpy; sys.executable = {str(path)!r}; sys.argv[0] = 'fastlb'; runpy.run_module('fastlb', run_name='__main__')"
    return [sys.executable, "-c", SHIFT, launcher]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_old_one_that_ends_before_the_new_one_is_ready_ends_both(start, tmp_path, number):
    lb = start(prefix=installed(tmp_path, NEVER_READY))
    lb.signal(signal.SIGUSR2)
    line = wait_until(lambda: next((one for one in lb.messages().splitlines() if "is to take over" in one), ""), "it has begun")
    pid = int(line.split()[3])
    lb.signal(number)
    end_of_old(lb)
    assert process_state(pid) == "", "it has been waited for"
    assert f"process {pid}, ended before it was ready (killed by SIGTERM): this one ends, too" in lb.messages()


# Runs the second argument as a program of Python, with the arguments of `python -m fastlb …` behind it.
SHIFT = "import sys; code = sys.argv[1]; sys.argv = sys.argv[4:]; exec(code)"


def test_new_one_that_cannot_listen_changes_nothing(start, paced):
    """The file has changed since: it names a port that somebody else has."""
    lb = start()
    with Load(("127.0.0.1", lb.port)) as load, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        bind = [f"127.0.0.1:{lb.port}", f"127.0.0.1:{taken.getsockname()[1]}"]
        (lb.directory / "1.toml").write_text(configuration(paced, listener={"bind": bind}))
        lb.control.patience(60)
        status, answer = lb.control.request("POST", "/v1/upgrade")
        assert status == 409
        assert "ended before it was ready (exit code 1)" in answer["errors"][0]
        assert "address already in use" in lb.messages()
        load.wait_for_answers(50)
    assert load.failures == []
    assert_consistent(lb)


def test_websocket_goes_on_over_reloads_and_an_upgrade_until_it_is_closed(start, keep):
    echo = keep(WebSocketEcho())
    lb = start(backends=[echo], settings={"drain_timeout": "1m"})
    first = Chat(lb.port)
    first.say()
    assert lb.reload()["ok"]
    first.say()
    new = Upgraded(lb, upgrade(lb))
    first.say()
    assert new.control.ask("reload")["ok"]
    second = Chat(lb.port)
    for chat in (first, second):
        chat.say()
        assert sum(row["in_flight"] for row in new.control.ask("backends")["backends"]) == 2
    first.close()
    end_of_old(lb)
    second.say()
    second.close()
    new.wait_for_rest()
    new.stop()


@pytest.mark.skipif(SANITIZED, reason="grpcio's own threads are not built for the sanitizers")
def test_grpc_clients_move_to_the_new_one_without_an_error(start, keep):
    pytest.importorskip("grpc")
    from tests.support.grpc_backend import Calls, GrpcBackend

    lb = start([keep(GrpcBackend())], pool={"protocol": "http2"})
    with Calls(f"127.0.0.1:{lb.port}") as calls:
        calls.wait_for_answers(50)
        new = Upgraded(lb, upgrade(lb))
        end_of_old(lb)
        calls.wait_for_answers(100)
    assert calls.failures == []
    assert new.wait_for_rest()["exchanges_opened"] == calls.answered
    new.stop()


def test_request_of_the_old_one_is_in_the_counts_of_both(start, paced):
    lb = start(settings={"drain_timeout": "1s"})
    client = lb.connect()
    assert client.ask(request()).status == 200
    for backend in paced:
        backend.hold()
    client.send(request())
    wait_until(lambda: sum(backend.open for backend in paced) == 1, "the request is with a backend")
    pid = upgrade(lb)
    new = Upgraded(lb, pid)
    rows = new.control.ask("backends")["backends"]
    assert sum(row["in_flight"] for row in rows) == 1, "in the old worker, counted in the memory of both"
    for backend in paced:
        backend.release()
    assert client.read_response().status == 200
    client.close()
    end_of_old(lb)
    new.wait_for_rest()
    new.stop()


def test_signals_without_an_upgrade_change_nothing(start):
    lb = start()
    for _ in range(2):
        lb.signal(signal.SIGWINCH)
        assert lb.get().status == 200
        assert len(wait_for_workers(lb, 2)) == 2
    assert "upgrade" not in lb.messages()


def test_new_one_gets_more_workers_when_the_old_one_has_ended_and_not_before(fastlb, paced):
    """The old one may start its own again, in any slot that is free."""
    settings = {"drain_timeout": "5s", "workers": 2}
    lb = fastlb(paced, workers=0, settings=settings)
    new = Upgraded(lb, begin(lb))
    more = str(lb.write(configuration(paced, settings={**settings, "workers": 3})))
    refusal = new.control.ask("apply", config=more)
    assert not refusal["ok"]
    assert refusal["errors"] == ["an upgrade is under way: there can be more workers when the old fastlb has ended"]
    lb.signal(signal.SIGQUIT)
    end_of_old(lb)
    wait_until(lambda: new.control.ask("apply", config=more)["ok"], "it may have more now")
    wait_for_workers(new, 3)
    new.stop()
