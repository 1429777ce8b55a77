"""The supervisor is killed under constant load: its workers serve on, and the next fastlb takes over without one request lost."""

import contextlib
import os
import socket
import threading
from pathlib import Path

import pytest

from fastlb import _core
from fastlb.processes.channel import Channel, ChannelError
from fastlb.processes.handover import PREFIX, find_orphans
from fastlb.processes.messages import FromOrphan, Outlived
from tests.support.configuration import configuration
from tests.support.load import Load, assert_consistent, kill_worker, process_state, wait_for_end, wait_for_workers
from tests.support.loop_backend import LoopBackend
from tests.support.message import request
from tests.support.process import listening_inodes, session_members
from tests.support.waiting import wait_until

SERVING_ON = "the supervisor is gone: serving on"


@pytest.fixture
def paced(keep):
    return [keep(LoopBackend()) for _ in range(2)]


@pytest.fixture
def orphan(fastlb, paced):
    """A fastlb whose supervisor is killed, and the one that comes after it."""

    class Case:
        def __init__(self, workers=2, backends=paced, **settings):
            self.backends = backends
            self.first = fastlb(backends, workers=workers, **settings)
            self.settings = settings
            self.pids = self.first.worker_pids()

        def kill(self):
            rows = self.first.processes()
            self.first.kill_supervisor()
            for row in rows:
                if row["role"] in ("zygote", "controller"):
                    wait_for_end(row["pid"])
            wait_until(lambda: self.first.messages().count(SERVING_ON) == len(self.pids), "the workers know")

        def succeed(self, workers=2, bind=None, **settings):
            settings = {**self.settings, **settings}
            listener = {**settings.pop("listener", {}), "bind": bind or f"127.0.0.1:{self.first.port}"}
            text = configuration(self.backends, listener=listener, **settings)
            self.second = fastlb(text, workers=workers, runtime=self.first.directory / "run")
            self.second._applied = True  # the sockets of the old workers are counted at its start: they are no leak when they go
            return self.second

        def wait_for_end(self):
            for pid in self.pids:
                wait_until(lambda pid=pid: process_state(pid) in ("", "Z"), f"worker {pid} has ended")

    return Case


def doors(lb):
    return sorted(path.name for path in (lb.directory / "run").glob(PREFIX + "*"))


def test_no_request_is_lost_from_the_death_of_the_supervisor_to_the_end_of_its_workers(orphan):
    case = orphan()
    with Load(("127.0.0.1", case.first.port)) as load:
        load.wait_for_answers(50)
        case.kill()
        load.wait_for_answers(100)
        assert len(listening_inodes(case.first.port)) == 2
        second = case.succeed()
        load.wait_for_answers(50)
        case.wait_for_end()
        load.wait_for_answers(50)
        wait_for_workers(second, 2)
    assert load.failures == []
    assert [row["slot"] for row in second.processes() if row["role"] == "worker"] == [2, 3], "beside the old ones"
    counters = second.rest()
    assert_consistent(second)
    assert counters["exchanges_opened"] == load.answered, "those of both, counted in one memory"
    assert counters["workers_died"] == 0
    assert len(doors(case.first)) == 2
    second.stop()
    assert list((case.first.directory / "run").iterdir()) == []
    assert [pid for pid in session_members(case.first.pid) if process_state(pid) != "Z"] == []


def test_supervisors_are_killed_again_and_again_and_slots_are_used_again(orphan, fastlb, paced):
    case = orphan()
    port, runtime = case.first.port, case.first.directory / "run"
    text = configuration(paced, listener={"bind": f"127.0.0.1:{port}"})
    lb = case.first
    slots = []
    with Load(("127.0.0.1", port)) as load:
        for _ in range(3):
            load.wait_for_answers(30)
            pids = lb.worker_pids()
            lb.kill_supervisor()
            lb = fastlb(text, workers=2, runtime=runtime)
            lb._applied = True  # as above
            for pid in pids:
                wait_until(lambda pid=pid: process_state(pid) in ("", "Z"), f"worker {pid} has ended")
            wait_for_workers(lb, 2)
            slots.append([row["slot"] for row in lb.processes() if row["role"] == "worker"])
        load.wait_for_answers(30)
    assert load.failures == []
    assert slots == [[2, 3], [0, 1], [2, 3]]
    lb.rest()
    assert_consistent(lb)


def test_counts_caps_and_open_exchanges_are_those_of_both(orphan, paced, fastlb):
    """In-flight is one number over old and new workers, so a cap holds over the take-over."""
    case = orphan(backends=[{"address": backend, "max_connections": 2} for backend in paced])
    for backend in paced:
        backend.hold()
    old = [case.first.connect() for _ in range(4)]
    for client in old:
        client.send(request())
    wait_until(lambda: sum(backend.open for backend in paced) == 4, "all requests are with the backends")
    case.kill()
    second = case.succeed()
    assert [row["in_flight"] for row in second.backends()] == [2, 2]
    assert second.get().status == 503, "both backends are full, with what the old workers have"
    for backend in paced:
        backend.release()
    for client in old:
        assert client.read_response().status == 200
    for client in old:
        client.close()
    case.wait_for_end()
    assert second.get().status == 200
    second.rest()
    assert_consistent(second)


def test_tunnel_lasts_until_drain_timeout_of_the_next_fastlb_and_no_longer(orphan):
    case = orphan(settings={"drain_timeout": "1s"}, listener={"timeouts": {"head": "5m"}})  # however long the next start takes
    case.kill()
    client = case.first.connect()
    assert client.ask(request()).status == 200
    client.send(b"GET / HT")  # a request that never ends
    case.succeed()
    case.wait_for_end()
    client.expect_end()


def test_worker_that_dies_without_a_supervisor_leaves_its_port_to_its_siblings(orphan):
    """Its socket goes with it: who waits in its queue is reset, and whoever connects after that comes to a sibling."""
    case = orphan()
    with Load(("127.0.0.1", case.first.port)) as load:
        load.wait_for_answers(50)
        dead = kill_worker_of(case, 0)
        load.wait_for_answers(100)
        second = case.succeed()
        case.wait_for_end()
        load.wait_for_answers(50)
    assert load.unexcused([dead]) == []
    second.rest()
    assert_consistent(second)
    counters = second.counters()
    assert counters["workers_died"] == 1


def kill_worker_of(case, index):
    """Kills the supervisor and then one of its workers."""
    lb, pid = case.first, case.pids[index]
    processes = lb.processes()
    case.kill()
    lb.worker_pid = lambda slot: processes_pid(processes, slot)
    death = kill_worker(lb, index, exactly=False)
    assert death.pid == pid
    return death


def processes_pid(rows, slot):
    (pid,) = (row["pid"] for row in rows if row["role"] == "worker" and row["slot"] == slot)
    return pid


def test_unix_socket_and_pid_file_are_taken_over_and_go_with_the_last(orphan, fastlb, paced, tmp_path_factory):
    directory = Path(os.path.realpath(tmp_path_factory.mktemp("u")))
    path, pid_file = directory / "web", directory / "pid"
    settings = {"pid_file": str(pid_file)}
    case = orphan(listener={"bind": ["127.0.0.1:0", f"unix:{path}"]}, settings=settings)
    with Load(str(path)) as load:
        load.wait_for_answers(30)
        inode = path.stat().st_ino
        case.kill()
        load.wait_for_answers(30)
        second = case.succeed(bind=[f"127.0.0.1:{case.first.port}", f"unix:{path}"], settings=settings)
        case.wait_for_end()
        load.wait_for_answers(30)
        assert path.stat().st_ino == inode
    assert load.failures == []
    assert pid_file.read_text() == f"{second.pid}\n"
    second.stop()
    assert list(directory.iterdir()) == []


def test_tunnel_that_was_open_all_the_time_ends_with_its_worker_and_not_before(orphan, fastlb, backend):
    """A WebSocket over the death of the supervisor and the whole take-over."""
    case = orphan(backends=[backend], settings={"drain_timeout": "20s"})
    client = case.first.connect()
    client.send(request("/chat", "Connection: Upgrade", "Upgrade: proto/1"))
    connection, _ = backend.answer(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: proto/1\r\n\r\n")
    assert client.read_response().status == 101

    def talk(number):
        for sender, receiver in ((client, connection), (connection, client)):
            sender.send(b"message %d" % number)
            assert receiver.read_until(b"%d" % number).endswith(b"message %d" % number)

    talk(1)
    case.kill()
    talk(2)
    second = case.succeed()
    talk(3)
    second.wait_for(
        lambda counters: counters["tunnels_opened"] - counters["tunnels_closed"] == 1, "the old worker's tunnel is counted here"
    )
    client.close()
    connection.close()
    case.wait_for_end()
    second.rest()
    assert_consistent(second)


def spoil_layout(pid):
    """The shared memory of this process says that it was made by a build with other structs."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        if "memfd:fastlb-shared" in str(entry.readlink()):
            with entry.open("r+b", buffering=0) as memory:
                memory.seek(208)  # SharedHeader.layout_sizes
                memory.write(b"another!")
            return
    raise AssertionError("it has no shared memory")


def test_memory_of_another_layout_is_left_and_sockets_and_states_are_taken(orphan, paced):
    case = orphan()
    identity = case.first.backends()[0]["identity"]
    with Load(("127.0.0.1", case.first.port)) as load:
        load.wait_for_answers(30)
        case.kill()
        spoil_state(case.pids[0], identity)
        spoil_layout(case.pids[0])
        second = case.succeed()
        assert "the memory is not laid out as ours: what it says is copied" in second.messages()
        assert {row["identity"]: row["state"] for row in second.backends()}[identity] == 4, "maintenance, as before"
        case.wait_for_end()
        load.wait_for_answers(30)
    assert load.failures == []
    assert [row["slot"] for row in second.processes() if row["role"] == "worker"] == [0, 1]
    second.rest()
    assert_consistent(second)


def spoil_state(pid, identity):
    """The operator had put a backend out of use."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        if "memfd:fastlb-shared" in str(entry.readlink()):
            descriptor = os.open(entry, os.O_RDWR)
            memory = _core.SharedMemory(descriptor)
            os.close(descriptor)
            memory.set_state(identity, 4)
            memory.close()
            return
    raise AssertionError("it has no shared memory")


def test_another_number_of_workers_and_addresses_is_no_matter(orphan, fastlb, paced):
    case = orphan(workers=3)
    port = case.first.port
    with Load(("127.0.0.1", port)) as load:
        load.wait_for_answers(30)
        case.kill()
        second = case.succeed(workers=1, bind=[f"127.0.0.1:{port}", "127.0.0.1:0"])
        case.wait_for_end()
        load.wait_for_answers(100)
        assert len(listening_inodes(port)) == 3, "none is closed: somebody may wait there"
        assert second.get(bind=1).status == 200
        second.apply_ok(configuration(paced, listener={"bind": f"127.0.0.1:{port}"}, settings={"drain_timeout": "2s"}))
        load.wait_for_answers(30)
    assert load.failures == []


def test_start_that_fails_changes_nothing_for_the_workers(orphan, fastlb, paced):
    case = orphan()
    with Load(("127.0.0.1", case.first.port)) as load, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        case.kill()
        with pytest.raises(AssertionError, match="the process ended"):
            case.succeed(bind=[f"127.0.0.1:{case.first.port}", f"127.0.0.1:{taken.getsockname()[1]}"])
        load.wait_for_answers(50)
        second = case.succeed()
        case.wait_for_end()
        load.wait_for_answers(50)
    assert load.failures == []
    second.rest()
    assert_consistent(second)


def test_fastlb_of_other_addresses_leaves_them_alone(orphan, fastlb, paced):
    case = orphan()
    case.kill()
    other = case.succeed(bind="127.0.0.2:0")
    assert "they are left alone" in other.messages()
    other.stop()
    assert all(process_state(pid) not in ("", "Z") for pid in case.pids)
    second = case.succeed()
    case.wait_for_end()
    assert second.get().status == 200


# ------------------------------------------------------------------------------------------------------------ hostile visitors
def knock(case, index=0):
    path = case.first.directory / "run" / doors(case.first)[index]
    visitor = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    visitor.connect(str(path))
    return visitor


def test_visitors_that_talk_nonsense_or_leave_in_the_middle_cost_nothing(orphan):
    case = orphan()
    case.kill()
    with Load(("127.0.0.1", case.first.port)) as load:
        knock(case).close()
        with knock(case) as visitor:
            visitor.send(b"i" + b"{" * 1000)
        with knock(case) as visitor:
            visitor.send(b'i{"type":"Prepare","generation":1}')  # a worker's, and not for a visitor to say
        with knock(case) as visitor:
            assert visitor.recv(1)  # half a hand-over: what came with it is closed here
        load.wait_for_answers(30)
        second = case.succeed()
        case.wait_for_end()
        load.wait_for_answers(30)
    assert load.failures == []
    second.rest()


def test_visitor_that_stays_keeps_others_out_but_not_for_ever(orphan):
    case = orphan()
    case.kill()
    with knock(case) as visitor:
        assert visitor.recv(1)
        assert len(find_orphans(case.first.directory / "run")[0]) == 1, "the other worker"
    second = case.succeed()
    case.wait_for_end()
    second.rest()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_door_is_for_its_own_account(orphan):
    case = orphan()
    case.kill()
    path = str(case.first.directory / "run" / doors(case.first)[0])
    case.first.directory.chmod(0o755)
    (case.first.directory / "run").chmod(0o755)
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setresuid(65534, 65534, 65534)
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect(path)
            os.write(writable, b"in")
        except PermissionError:
            os.write(writable, b"no")
        finally:
            os._exit(0)
    os.close(writable)
    os.waitpid(pid, 0)
    assert os.read(readable, 2) == b"no"
    os.close(readable)
    (case.first.directory / "run").chmod(0o700)
    case.succeed()
    case.wait_for_end()


def test_socket_of_somebody_else_in_the_directory_is_not_believed(orphan):
    """It says that it is a worker and hands over what is no shared memory; and one that never answers."""
    case = orphan()
    case.kill()
    run = case.first.directory / "run"
    liar, silent = (socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2))
    liar.bind(str(run / f"{PREFIX}0.liar"))
    silent.bind(str(run / f"{PREFIX}0.silent"))
    (run / f"{PREFIX}0.file").touch()
    for one in (liar, silent):
        one.listen()

    def lie():
        visitor, _ = liar.accept()
        channel: Channel[FromOrphan] = Channel(visitor, FromOrphan)
        memory = os.memfd_create("lie")
        os.truncate(memory, 1 << 20)
        channel.send(Outlived("x", 0, 0), memory, memory)
        os.close(memory)
        with contextlib.suppress(EOFError, ChannelError):
            channel.receive(wait=True)
        channel.close()

    thread = threading.Thread(target=lie)
    thread.start()
    try:
        second = case.succeed()
        assert "worker.0.silent does not answer" in second.messages()
        assert "is no worker of ours" in second.messages()
        assert [row["slot"] for row in second.processes() if row["role"] == "worker" and row["state"] == "ready"] == [2, 3]
        case.wait_for_end()
    finally:
        thread.join()
        liar.close()
        silent.close()


def test_of_two_that_start_at_once_one_takes_over(orphan, fastlb, paced):
    case = orphan()
    with Load(("127.0.0.1", case.first.port)) as load:
        case.kill()
        second = case.succeed()
        with pytest.raises(AssertionError, match="the process ended"):
            case.succeed()  # without the directory it has neither their sockets nor a right to the port
        load.wait_for_answers(50)
        case.wait_for_end()
        load.wait_for_answers(50)
    assert load.failures == []
    second.rest()


def test_what_the_operator_said_is_known_to_the_next_fastlb(orphan, paced):
    case = orphan(pool={"algorithm": "weighted_round_robin"})
    first, second = (backend.address for backend in paced)
    set_backend(case.first, first, weight=7)
    set_backend(case.first, second, admin="maint")
    case.kill()
    lb = case.succeed()
    shown = {row["address"]: (row["weight"], row["admin"]) for row in lb.control.request("GET", "/v1/backends")[1]["backends"]}
    assert shown == {first: (7, "ready"), second: (1, "maint")}
    case.wait_for_end()


def set_backend(lb, address, **wanted):
    status, answer = lb.control.request("POST", f"/v1/backends/main/{address}", wanted)
    assert status == 200, answer
