"""fastlb below a service manager that passes sockets and wants to hear of it; systemd itself is played by the test."""

import os
import signal
import socket
import sys
import time
from functools import partial

import pytest

from tests.support.backend import listen
from tests.support.configuration import configuration
from tests.support.load import Load, kill_worker, wait_for_end, wait_for_restart
from tests.support.loop_backend import LoopBackend
from tests.support.process import listening_inodes
from tests.support.udp_echo import UdpEcho, ask, count_sockets, udp_client
from tests.support.waiting import DEADLINE_SECONDS, wait_until

# What systemd does between fork and exec: the sockets from descriptor 3 on, and whom they are for.
LAUNCH = """
import os, sys
count = int(sys.argv[1])
for index in range(count):
    os.dup2(int(sys.argv[2 + index]), 100 + index)
for index in range(count):
    os.dup2(100 + index, 3 + index)
    os.close(100 + index)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(count))
os.execvp(sys.argv[2 + count], sys.argv[2 + count:])
"""


@pytest.fixture
def fastlb(fastlb):
    """With an interpreter each, as a service manager starts it."""
    return partial(fastlb, fresh=True)


@pytest.fixture
def manager(tmp_path):
    """Where the words to the service manager arrive."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "notify"))
        made.settimeout(DEADLINE_SECONDS)
        yield made


def hear(manager, word):
    """Listens until the service manager is told this; everything that was said up to there."""
    said = []
    while not any(word in message for message in said):
        said.append(manager.recv(4096).decode().splitlines())
    return said


def with_sockets(fastlb, sockets, backend, bind, **options):
    descriptors = [one.fileno() for one in sockets]
    prefix = [sys.executable, "-c", LAUNCH, str(len(sockets)), *map(str, descriptors)]
    text = configuration([backend], listener={"bind": bind})
    return fastlb(text, prefix=prefix, pass_fds=descriptors, **options)


def test_inherited_sockets_are_served_by_all_workers_and_outlive_fastlb(fastlb, keep, tmp_path):
    inherited = listen()
    path = tmp_path / "web"
    local = listen(path=path)
    port = inherited.getsockname()[1]
    lb = with_sockets(fastlb, [inherited, local], keep(LoopBackend()), [f"127.0.0.1:{port}", f"unix:{path}"], workers=2)
    assert lb.port == port
    assert len(listening_inodes(port)) == 1, "there is no socket beside the inherited one"
    with Load(("127.0.0.1", port)) as load, Load(str(path)) as local_load:
        load.wait_for_answers(50)
        death = kill_worker(lb, 0, exactly=False)
        wait_for_restart(lb, 2, death)
        load.wait_for_answers(50)
        local_load.wait_for_answers(50)
    assert load.unexcused([death]) == []
    assert local_load.unexcused([death]) == []
    for slot in range(2):
        pid = lb.worker_pid(1 - slot)
        os.kill(pid, signal.SIGSTOP)
        assert lb.get().status == 200
        os.kill(pid, signal.SIGCONT)
    lb.rest()
    lb.signal(signal.SIGTERM)
    lb.wait_exit()
    assert listening_inodes(port), "the service manager still has it"
    assert path.exists()
    with socket.create_connection(("127.0.0.1", port)), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))  # they wait for the next fastlb
    inherited.close()
    local.close()


def test_files_of_the_service_manager_outlive_an_upgrade_and_both_of_its_fastlbs(fastlb, keep, tmp_path):
    inherited, spare = listen(), listen()
    path = tmp_path / "web"
    local = listen(path=path)
    binds = [f"127.0.0.1:{inherited.getsockname()[1]}", f"unix:{path}"]
    backend = keep(LoopBackend())
    lb = with_sockets(fastlb, [inherited, local, spare], backend, binds, workers=1)
    lb.control.patience(60)
    status, answer = lb.control.request("POST", "/v1/upgrade")
    assert status == 200, answer
    assert lb.process.wait(DEADLINE_SECONDS) == 0, lb.messages()
    lb._was_killed = True  # nothing is left to be stopped
    assert path.exists()
    assert lb.get().status == 200
    assert lb.messages().count(f"127.0.0.1:{spare.getsockname()[1]}") == 2, "each says that nobody listens there"
    os.kill(answer["pid"], signal.SIGTERM)
    wait_for_end(answer["pid"])
    assert path.exists(), "it was not the new one's either"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    for one in (inherited, local, spare):
        one.close()


def test_client_that_waited_for_the_start_is_served(fastlb, keep):
    """Socket activation: the first client comes before the service."""
    with listen() as inherited:
        port = inherited.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.settimeout(DEADLINE_SECONDS)
            client.sendall(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
            lb = with_sockets(fastlb, [inherited], keep(LoopBackend()), f"127.0.0.1:{port}", workers=2)
            answer = b""
            while part := client.recv(4096):
                answer += part
        assert answer.startswith(b"HTTP/1.1 200 ")
        lb.wait_for_exchange_end()
        lb.note_sockets()  # it was not at rest when it started


def test_service_manager_hears_of_readiness_and_end(fastlb, instant, manager):
    lb = fastlb([instant()], workers=2, environment={"NOTIFY_SOCKET": manager.getsockname()})
    said = hear(manager, "READY=1")
    assert all(message[0] == "FDSTORE=1" for message in said[:-1]), "nothing comes before readiness but what is to be kept"
    assert f"MAINPID={lb.pid}" in said[-1]
    lb.rest()
    lb.signal(signal.SIGTERM)
    hear(manager, "STOPPING=1")
    lb.wait_exit()


def test_service_manager_hears_of_a_reload_from_its_beginning_to_its_end(fastlb, instant, manager):
    lb = fastlb([instant()], environment={"NOTIFY_SOCKET": manager.getsockname()})
    hear(manager, "READY=1")
    before = time.monotonic_ns() // 1000
    for text in (configuration([instant()]), "nonsense"):
        lb.rewrite(text)
        lb.signal(signal.SIGHUP)
        began, ended = hear(manager, "READY=1")
        assert began[0] == "RELOADING=1"
        assert before <= int(began[1].removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
        assert ended == ["READY=1"]
    assert "was not reloaded" in lb.messages()


def test_service_manager_hears_of_a_drain(fastlb, instant, manager):
    lb = fastlb([instant()], environment={"NOTIFY_SOCKET": manager.getsockname()})
    hear(manager, "READY=1")
    lb.signal(signal.SIGQUIT)
    hear(manager, "STOPPING=1")
    lb.wait_exit()


def test_service_manager_hears_that_fastlb_lives_whatever_its_workers_do(fastlb, instant, manager):
    environment = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "200000"}
    lb = fastlb([instant()], workers=2, environment=environment)
    hear(manager, "READY=1")
    os.kill(lb.worker_pid(1), signal.SIGSTOP)
    for _ in range(5):
        hear(manager, "WATCHDOG=1")
    wait_for_restart(lb, 2, kill_worker(lb, 1, exactly=False))
    hear(manager, "WATCHDOG=1")


# ------------------------------------------------------------------------------------------------------------ what it keeps
LAUNCH_STORED = """
import os, sys
names, count = sys.argv[1], int(sys.argv[2])
for index in range(count):
    os.dup2(int(sys.argv[3 + index]), 100 + index)
for index in range(count):
    os.dup2(100 + index, 3 + index)
    os.close(100 + index)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(count), LISTEN_FDNAMES=names)
os.execvp(sys.argv[3 + count], sys.argv[3 + count:])
"""


class Store:
    """The descriptor store of the service manager."""

    def __init__(self, manager):
        self.manager = manager
        self.kept = []  # names and descriptors

    def hear(self, word):
        """Does as it is told, until it is told this."""
        while True:
            data, descriptors, _, _ = socket.recv_fds(self.manager, 4096, 250)
            lines = data.decode().splitlines()
            name = next((line.removeprefix("FDNAME=") for line in lines if line.startswith("FDNAME=")), "")
            if "FDSTOREREMOVE=1" in lines:
                self.drop([one for one in self.kept if one[0] == name])
            known = {os.fstat(descriptor).st_ino for _, descriptor in self.kept}
            for descriptor in descriptors:
                if os.fstat(descriptor).st_ino in known:
                    os.close(descriptor)
                else:
                    self.kept.append((name, descriptor))
            if word in lines:
                return

    def drop(self, some):
        for one in some:
            os.close(one[1])
            self.kept.remove(one)

    def prefix(self):
        names = ":".join(name for name, _ in self.kept)
        return [sys.executable, "-c", LAUNCH_STORED, names, str(len(self.kept)), *(str(descriptor) for _, descriptor in self.kept)]


def test_sockets_and_counts_are_kept_when_the_whole_service_is_killed(fastlb, keep, manager, tmp_path):
    backend = keep(LoopBackend())
    path = tmp_path / "web"
    environment = {"NOTIFY_SOCKET": manager.getsockname()}
    listener = {"bind": ["127.0.0.1:0", f"unix:{path}"]}
    first = fastlb([backend], workers=2, environment=environment, listener=listener)
    store = Store(manager)
    store.hear("READY=1")
    assert len(store.kept) == 4, "two sockets of the port, the unix one, and the memory"
    for _ in range(3):
        assert first.get().status == 200
    port = first.port
    backend.hold()
    busy = first.connect()
    busy.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    wait_until(lambda: backend.open == 1, "a request is in flight")
    first._was_killed = True
    for pid in [first.pid, *(row["pid"] for row in first.processes() if row["role"] != "supervisor")]:
        os.kill(pid, signal.SIGKILL)
    first.process.wait()
    backend.release()
    with socket.create_connection(("127.0.0.1", port)) as client, socket.socket(socket.AF_UNIX) as local:
        local.connect(str(path))
        for one in (client, local):
            one.settimeout(DEADLINE_SECONDS)
            one.sendall(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        text = configuration([backend], listener={"bind": [f"127.0.0.1:{port}", f"unix:{path}"]})
        descriptors = [descriptor for _, descriptor in store.kept]
        second = fastlb(text, workers=2, prefix=store.prefix(), pass_fds=descriptors, environment=environment)
        second._applied = True  # it was not at rest when it started
        for one in (client, local):
            assert one.recv(100).startswith(b"HTTP/1.1 200 "), "it waited for the next one"
    store.hear("READY=1")
    assert len(store.kept) == 4
    counters = second.rest()
    assert counters["responses_2xx"] == 5
    assert (counters["workers_died"], counters["exchanges_lost"]) == (2, 1)
    assert [row["in_flight"] for row in second.backends()] == [0]
    second.stop()
    store.hear("STOPPING=1")
    while store.kept:
        store.hear("FDSTOREREMOVE=1")
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "an orderly end leaves nothing open"
    assert not path.exists()


def test_what_is_kept_follows_the_configuration(fastlb, instant, manager):
    lb = fastlb([instant()], workers=1, environment={"NOTIFY_SOCKET": manager.getsockname()})
    store = Store(manager)
    store.hear("READY=1")
    before = [name for name, _ in store.kept]
    lb.apply_ok(configuration([instant()], listener={"bind": "127.0.0.2:0"}), new_sockets=1)
    store.hear("FDSTORE=1")
    names = [name for name, _ in store.kept]
    assert len(names) == len(before) == 2
    assert set(names) & set(before) == {"fastlb.memory"}
    store.drop(list(store.kept))


def test_udp_sockets_of_the_service_manager_are_shared_with_workers_where_that_can_be(fastlb):
    single, dual = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    with single, dual, UdpEcho() as backend:
        single.bind(("127.0.0.1", 0))
        dual.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        dual.bind(("::", 0))
        ports = [one.getsockname()[1] for one in (single, dual)]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as early:
            early.settimeout(DEADLINE_SECONDS)
            early.sendto(b"before the start", ("127.0.0.1", ports[0]))
            listeners = [
                {"name": name, "protocol": "udp", "pool": "main", "bind": bind, "udp": {"responses": 1}}
                for name, bind in (("single", f"127.0.0.1:{ports[0]}"), ("dual", f":{ports[1]}"))
            ]
            text = configuration(listeners=listeners, pools={"main": {"backends": [f"127.0.0.1:{backend.port}"]}})
            descriptors = [one.fileno() for one in (single, dual)]
            prefix = [sys.executable, "-c", LAUNCH, "2", *map(str, descriptors)]
            lb = fastlb(text, prefix=prefix, pass_fds=descriptors, workers=2)
            assert early.recv(100) == b"before the start"
        assert [count_sockets(port) for port in ports] == [2, 1], "beside one for both families there is no other"
        for host, port in (("127.0.0.1", ports[0]), ("127.0.0.1", ports[1]), ("::1", ports[1])):
            for _ in range(10):
                with udp_client(host, port) as client:
                    assert ask(client, b"?") == b"?"
        lb.rest()
        lb.signal(signal.SIGTERM)
        lb.wait_exit()
        assert [count_sockets(port) for port in ports] == [1, 1], "the service manager still has them"
