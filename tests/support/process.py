"""A real `fastlb serve` process: started on free ports, asked over its admin API, and checked for leaks when it ends."""

import contextlib
import http.client
import json
import os
import queue
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from tests.support.hatchery import Hatched, hatchery
from tests.support.message import request
from tests.support.peer import Peer
from tests.support.waiting import DEADLINE_SECONDS, wait_until

ROOT = Path(__file__).parents[2]
Counters = dict[str, int]
LISTEN = "0A"  # TCP_LISTEN of the kernel's tcp_states.h, as /proc/net/tcp shows it


# What tests ask for, as HTTP has it.
QUESTIONS = {
    **{name: ("GET", f"/v1/{name}") for name in ("counters", "backends", "queues", "processes", "verify", "health")},
    **{name: ("POST", f"/v1/{name}") for name in ("apply", "drain", "reload")},
}


class UnixConnection(http.client.HTTPConnection):
    """HTTP to a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=DEADLINE_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Control:
    """One connection to the admin API."""

    def __init__(self, path: Path) -> None:
        self._connection = UnixConnection(path)
        self._connection.connect()

    def patience(self, seconds: float) -> None:
        """How long an answer is waited for."""
        self._connection.timeout = seconds
        if self._connection.sock is not None:
            self._connection.sock.settimeout(seconds)

    def send(self, method: str, path: str, content: Any = None) -> None:
        """Asks, and does not wait for the answer."""
        body = None if content is None else json.dumps(content)
        self._connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})

    def request(self, method: str, path: str, content: Any = None) -> tuple[int, Any]:
        """The status and what the JSON of the answer holds."""
        self.send(method, path, content)
        response = self._connection.getresponse()
        return response.status, json.loads(response.read())

    def read(self, path: str, accept: str = "") -> tuple[int, str, bytes]:
        """The status, the kind and the content of what is no JSON."""
        self._connection.request("GET", path, headers={"Accept": accept} if accept else {})
        response = self._connection.getresponse()
        return response.status, response.headers["content-type"], response.read()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """The answer with whether it is a good one ("ok")."""
        status, answer = self.request(*QUESTIONS[do], arguments or None)
        return {"ok": status < 300, **answer}

    def close(self) -> None:
        self._connection.close()


class Fastlb:
    """Owns the process, its files and the client connections that `connect` makes.

    Args:
        text: the configuration.
        descriptors: soft and hard limit of open files.
        workers: how many, whatever the configuration says; most tests want to know which one has their connections. 0: as it says.
        pump_budget: events that one pump of a worker handles; 0 for the default.
        user: the account of the workers, if this is root; "" for the default. Others than root cannot use the files of a test.
        open_directory: everybody may make files in `directory`.
        prefix: a command that runs the one which is given after it, in its own process.
        fresh: begins with a new interpreter, as a user's does; otherwise the process is forked by the hatchery, which is cheap.
        environment: variables beside those that this process has.
        runtime: the runtime directory; None for one of its own.
    """

    def __init__(
        self,
        text: str,
        *,
        descriptors: int = 0,
        workers: int = 1,
        pump_budget: int = 0,
        user: str = "root",
        open_directory: bool = False,
        prefix: Sequence[str] = (),
        fresh: bool = False,
        environment: dict[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        runtime: Path | None = None,
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="fastlb-"))  # short: a unix path has at most 107 bytes
        if open_directory:
            self.directory.chmod(0o777)
        self.peers: list[Peer] = []
        self.urls: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()
        self._stderr = (self.directory / "stderr").open("wb")
        self._n_files = 0
        self._was_killed = False
        self.config_path = self.write(text)
        arguments = ["serve", "-c", str(self.config_path)]
        arguments += ["--admin", f"unix:{self.directory}/control", "--counters", str(self.directory / "counters")]
        arguments += ["--pump-budget", str(pump_budget)]
        if workers:
            arguments += ["--workers", str(workers)]
        if os.geteuid() == 0 and user:
            arguments += ["--user", user]
        variables = {**os.environ, "RUNTIME_DIRECTORY": str(runtime or self.directory / "run"), **(environment or {})}
        self.process: subprocess.Popen[str] | Hatched
        if prefix or fresh:
            assert not descriptors
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "fastlb", *arguments],
                cwd=ROOT,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                text=True,
                pass_fds=pass_fds,
                start_new_session=True,  # which tells its processes from all others
            )
            assert self.process.stdout is not None
            self._stdout: IO[str] = self.process.stdout
        else:
            readable, writable = os.pipe()
            self._stdout = os.fdopen(readable)  # closed by `kill`
            try:
                self.process = hatchery().start(
                    arguments,
                    stdout=writable,
                    stderr=self._stderr.fileno(),
                    environment=variables,
                    pass_fds=pass_fds,
                    descriptors=descriptors,
                )
            finally:
                os.close(writable)
        self._reader = threading.Thread(target=self._read_lines, daemon=True)
        self._reader.start()
        while "ready (pid" not in (line := self.next_line()):
            self._note_url(line)
        self.control = Control(self.directory / "control")
        self.control.ask("counters")
        self.note_sockets()
        self._applied = False

    def _read_lines(self) -> None:
        for line in self._stdout:
            self._lines.put(line)
        self._lines.put("")

    def next_line(self) -> str:
        """The next line of standard output."""
        line = self._lines.get(timeout=DEADLINE_SECONDS)
        assert line, f"the process ended: {self.messages()}"
        return line

    def _note_url(self, line: str) -> None:
        found = re.fullmatch(r'fastlb: listening on (\S+) \(listener "(.*)"\)\n', line)
        assert found or " room for " in line, line
        if found:
            self.urls.append(found[1])

    def write(self, text: str) -> Path:
        """A configuration file."""
        self._n_files += 1
        path = self.directory / f"{self._n_files}.toml"
        path.write_text(text)
        return path

    # ------------------------------------------------------------------------------------------------ clients
    @property
    def scheme(self) -> str:
        return "http"

    @property
    def port(self) -> int:
        return self.port_of(0)

    def port_of(self, bind: int) -> int:
        return int(self.urls[bind].rpartition(":")[2])

    def connect(self, bind: int = 0, *, small_buffers: bool = False) -> Peer:
        """A new client connection to the socket of that number."""
        url = self.urls[bind]
        if url.startswith("unix:"):
            connection = socket.socket(socket.AF_UNIX)
            address: Any = url.removeprefix("unix:")
        else:
            host, _, port = url.partition("://")[2].rpartition(":")
            connection = socket.socket(socket.AF_INET6 if host.startswith("[") else socket.AF_INET)
            address = (host.strip("[]"), int(port))
        if small_buffers:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        connection.settimeout(DEADLINE_SECONDS)
        connection.connect(address)
        peer = self.make_peer(connection)
        self.peers.append(peer)
        return peer

    def make_peer(self, connection: socket.socket) -> Peer:
        """What speaks on a connection that stands."""
        return Peer(connection)

    def get(self, target: str = "/", *fields: str, bind: int = 0, **options: Any) -> Any:
        """One request on a connection of its own."""
        peer = self.connect(bind)
        message = peer.ask(request(target, *fields, **options), options.get("method", "GET"))
        peer.close()
        return message

    def turn(self) -> None:
        """Has the worker answer somebody else: whatever had arrived before has been looked at by then. For one worker."""
        peer = self.connect()
        peer.send(b"x\r\n\r\n")
        assert peer.read_response().status == 400
        peer.close()

    # ------------------------------------------------------------------------------------------------ control
    def reconnect(self) -> None:
        """Begins a conversation with the controller that runs now."""

        def look() -> bool:
            try:
                self.control.close()
                self.control = Control(self.directory / "control")
                return bool(self.control.ask("processes")["processes"])
            except (OSError, AssertionError):
                return False

        wait_until(look, "a controller answers")

    def counters(self) -> Counters:
        answer = self.control.ask("counters")
        assert answer["ok"]
        counters: Counters = answer["counters"]
        return counters

    def counter(self, name: str) -> int:
        return self.counters()[name]

    def reasons(self) -> Counters:
        """How often each failure happened, without those that never did."""
        return {name.removeprefix("reason."): n for name, n in self.counters().items() if name.startswith("reason.") and n}

    def backends(self) -> list[dict[str, Any]]:
        answer = self.control.ask("backends")
        assert answer["ok"]
        rows: list[dict[str, Any]] = answer["backends"]
        return rows

    def wait_for(self, holds: Callable[[Counters], bool], what: str) -> Counters:
        """Asks for the counters until they are as wanted."""
        last: Counters = {}

        def look() -> bool:
            nonlocal last
            last = self.counters()
            return holds(last)

        try:
            wait_until(look, what)
        except AssertionError as error:
            shown = {name: n for name, n in last.items() if n}
            raise AssertionError(f"{what}: it did not happen; counters: {shown}") from error
        return last

    def wait_for_counter(self, name: str, at_least: int = 1) -> None:
        self.wait_for(lambda counters: counters[name] >= at_least, f"{name} is {at_least}")

    def wait_for_exchange_end(self) -> Counters:
        return self.wait_for(lambda counters: counters["exchanges_opened"] == counters["exchanges_closed"], "no exchange is open")

    def apply(self, text: str) -> dict[str, Any]:
        """Applies another configuration."""
        return self.apply_file(self.write(text))

    def apply_file(self, path: Path) -> dict[str, Any]:
        self._applied = True
        return self.control.ask("apply", config=str(path))

    def apply_ok(self, text: str, new_sockets: int = 0) -> None:
        """Applies another configuration, which must succeed; its new sockets are appended to `urls`."""
        answer = self.apply(text)
        assert answer["ok"], answer
        for _ in range(new_sockets):
            self._note_url(self.next_line())

    def rewrite(self, text: str) -> None:
        """Puts another text into the file that a reload reads, as editors do: whole, by a rename."""
        self._applied = True
        self.write(text).rename(self.config_path)

    def reload(self) -> dict[str, Any]:
        """Has the file read again."""
        return self.control.ask("reload")

    def reload_ok(self, text: str, new_sockets: int = 0) -> dict[str, Any]:
        """Reloads another configuration, which must succeed; its new sockets are appended to `urls`."""
        self.rewrite(text)
        answer = self.reload()
        assert answer["ok"], answer
        self.wait_for_reload(new_sockets)
        return answer

    def wait_for_reload(self, new_sockets: int = 0) -> None:
        """Reads standard output up to the line that a reload ends with."""
        while "fastlb: reloaded (generation " not in (line := self.next_line()):
            self._note_url(line)
            new_sockets -= 1
        assert new_sockets == 0

    # ------------------------------------------------------------------------------------------------ the process
    @property
    def pid(self) -> int:
        """The supervisor's."""
        return self.process.pid

    def processes(self) -> list[dict[str, Any]]:
        """A dict for each process: role, slot, pid, state, restarts."""
        answer = self.control.ask("processes")
        assert answer["ok"]
        rows: list[dict[str, Any]] = answer["processes"]
        return rows

    def worker_pid(self, slot: int = 0) -> int:
        (pid,) = (row["pid"] for row in self.processes() if row["role"] == "worker" and row["slot"] == slot)
        return int(pid)

    def worker_pids(self) -> list[int]:
        """Those of the workers that run."""
        return [int(row["pid"]) for row in self.processes() if row["role"] == "worker" and row["pid"]]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def freeze(self) -> None:
        """Stops the first worker, so that several things can happen before it sees any of them."""
        self._frozen = pid = self.worker_pid()
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", "the worker stands still")

    def thaw(self) -> None:
        os.kill(self._frozen, signal.SIGCONT)

    def memory_bytes(self) -> int:
        """Resident memory of the first worker."""
        pages = int(Path(f"/proc/{self.worker_pid()}/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    def count_sockets(self) -> int:
        """The sockets of all workers, but for those that listen: they are lent and given back."""
        count = 0
        for pid in self.worker_pids():
            with contextlib.suppress(FileNotFoundError):  # it has ended since
                count += len(socket_inodes(pid) - listening_inodes())
        return count

    def note_sockets(self) -> None:
        """Now there is nothing in flight, and no socket open that could be a leak later."""
        self._sockets_at_start = self.count_sockets() - sum(row["idle"] for row in self.backends())

    def messages(self) -> str:
        """What the process wrote to standard error."""
        return (self.directory / "stderr").read_text(errors="replace")

    # ------------------------------------------------------------------------------------------------ the end
    def rest(self) -> Counters:
        """Closes the clients and waits until nothing is held any more. What never balances is a leak."""
        for peer in self.peers:
            peer.close()
        what = {}

        def balanced() -> bool:
            nonlocal what
            counters = self.counters()
            rows = self.backends()
            idle = sum(row["idle"] for row in rows)
            what = imbalance(counters, idle, len(self.worker_pids()))
            what |= {f"in_flight of {row['identity']}": row["in_flight"] for row in rows if row["in_flight"]}
            sockets = self.count_sockets() - self._sockets_at_start - idle
            if sockets and not self._applied:
                what["sockets beyond those at the start and the idle ones"] = sockets
            return not what

        try:
            wait_until(balanced, "the counters balance")
        except AssertionError:
            raise AssertionError(f"not balanced at rest: {what}; counters: {self.counters()}; backends: {self.backends()}") from None
        return self.counters()

    def wait_exit(self) -> None:
        """The process has ended by itself, in order, and its last counters balance."""
        status = self.process.wait(DEADLINE_SECONDS)
        assert status == 0, f"exit code {status}; {self.messages()}"
        for line in self.messages().splitlines():
            assert line.startswith("fastlb: "), self.messages()

    def final_counters(self) -> Counters:
        counters: Counters = json.loads((self.directory / "counters").read_text())
        return counters

    def kill_supervisor(self) -> None:
        """An end that is in no order."""
        self._was_killed = True
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """The usual end of a test."""
        if self._was_killed:
            return
        if self.process.returncode is None and self.process.poll() is None:
            self.rest()
            self.control.close()
            self.signal(signal.SIGTERM)
        self.wait_exit()
        last = self.final_counters()
        wrong = unequal(last)
        assert not wrong, f"not balanced after the end: {wrong}; {last}"

    def kill(self) -> None:
        """Leaves nothing behind, whatever happened."""
        for peer in self.peers:
            peer.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pid in session_members(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._reader.join()
        self._stdout.close()
        self._stderr.close()
        if hasattr(self, "control"):
            self.control.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def session_members(session: int) -> list[int]:
    """The processes of a session, those too that have ended and nobody has taken off the list."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if int((entry / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                    found.append(int(entry.name))
    return found


def socket_inodes(pid: int) -> set[str]:
    """The sockets that a process has open."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(entry.readlink())
        except FileNotFoundError:
            continue  # the listing's own, or closed meanwhile
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    return inodes


def listening_inodes(port: int = 0) -> set[str]:
    """The TCP sockets that listen, on this port or on any."""
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTEN and port in (0, int(fields[1].rpartition(":")[2], 16)):
                found.add(fields[9])
    return found


def closing_name(name: str) -> str:
    """The counter that must catch up with this one; "" for those that are no half of a pair."""
    for opened, closed in (("_opened", "_closed"), ("_taken", "_returned")):
        if name.endswith(opened):
            return name.removesuffix(opened) + closed
    return ""


def unequal(counters: Counters) -> dict[str, int]:
    """The pairs of counters that differ, and by how much."""
    differences = {}
    for opened, closed in (("_opened", "_closed"), ("_taken", "_returned")):
        for name in counters:
            if name.endswith(opened):
                differences[name] = counters[name] - counters[name.removesuffix(opened) + closed]
    return {name: difference for name, difference in differences.items() if difference}


def imbalance(counters: Counters, idle: int, workers: int) -> dict[str, int]:
    """What is held although nothing is in flight: everything but the snapshot that each worker uses and `idle` backend connections, with
    the TLS and the HTTP/2 that some of them speak."""
    wrong = unequal(counters)
    for name in ("tls_opened", "backend_sessions_opened"):
        if 0 < wrong.get(name, 0) <= idle:
            del wrong[name]
    for name, held in (("snapshots_opened", workers), ("backend_connections_opened", idle)):
        difference = wrong.pop(name, 0) - held
        if difference:
            wrong[name] = difference
    return wrong
