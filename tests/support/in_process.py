"""A fastlb without processes: a configuration, compiled as the controller does it, and an engine in this process that a thread pumps.

It has the face of `Fastlb` as far as exchanges go, costs a hundredth of it, and talks to its clients over any wire. What is about processes
(signals, reloads, the admin API, health checks, names) is not here, and asking for it fails.
"""

import os
import select
import shutil
import socket
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastlb import FastlbError, _core
from fastlb.control_plane.config.address import BindAddress, format_host_port
from fastlb.control_plane.config.loader import load_file
from fastlb.control_plane.config.schema import Config
from fastlb.control_plane.config.tls import CertificateFiles
from fastlb.control_plane.log_plan import log_destinations
from fastlb.control_plane.snapshot import build_image
from fastlb.control_plane.tls.certificate import Certificate
from fastlb.control_plane.tls.material import Material
from fastlb.processes.log_files import open_destination
from tests.support.issue import issue
from tests.support.peer import Peer
from tests.support.process import Counters, Fastlb, unequal
from tests.support.wires import Http2Peer, Wire, speak

MAX_CONNECTIONS = 1000
STICKY_KEY = bytes(32)
TICKET_KEY = bytes(range(80))
FILES = CertificateFiles(cert="test.pem", key="test.pem")


def material() -> Material:
    """The one certificate of every listener."""
    chain, key = issue("test")
    one = Certificate(
        cert=FILES.cert,
        key_file=FILES.key,
        chain=chain,
        key=key,
        names=("test",),
        key_type="ECDSA",
        not_before=0,
        not_after=1 << 40,
        fingerprint="",
        issuer="",
    )
    return Material(certificates={FILES.pair: one})


class InProcess(Fastlb):
    """Owns the engine, its thread and its listening sockets."""

    def __init__(self, text: str, wire: Wire, *, pump_budget: int = 0, workers: int = 1, **options: Any) -> None:
        # However many workers are asked for: it is one.
        assert not options, f"only a process has {options}"
        self.wire = wire
        self.directory = Path(tempfile.mkdtemp(prefix="fastlb-"))
        self.peers: list[Peer] = []
        self.urls: list[str] = []
        self._said: list[str] = []
        self._n_files = 0
        self._generation = 0
        self._applied, self._sockets_at_start = True, 0  # which sockets are open is not looked at
        self._listening: dict[BindAddress | int, socket.socket] = {}  # of each address, and of each that lets the kernel choose
        self._shared = _core.SharedMemory.create()
        self._shared.open_worker(0, os.getpid())
        self._engine = _core.Engine(max_connections=MAX_CONNECTIONS, shared=self._shared, slot=0)
        self._budget = pump_budget
        self._lock = threading.RLock()  # the engine is one thread's at a time; `freeze` keeps it
        self._is_frozen = False
        self._is_ending = threading.Event()
        self.config_path = self.write(text)
        self._load(self.config_path)
        self._pump = threading.Thread(target=self._run, daemon=True)
        self._pump.start()

    def _run(self) -> None:
        wake = select.poll()
        wake.register(self._engine.fileno(), select.POLLIN)
        while not self._is_ending.is_set():
            wake.poll(100)  # without an event too, as the supervisor's heartbeat has it: what threads have counted is published
            with self._lock:
                self._engine.pump(self._budget)

    # ------------------------------------------------------------------------------------------------ configuration
    def _load(self, path: Path) -> None:
        """Puts a file in force, or raises and nothing has changed."""
        loaded = load_file(str(path))
        config = self._on_wire(loaded.config)
        self._generation += 1
        keys = [TICKET_KEY] if self.wire is not Wire.PLAIN else []
        image = build_image(config, {}, self._generation, sticky_key=STICKY_KEY, tls=material(), ticket_keys=keys)
        try:
            with self._lock:
                self._shared.add_rows(image)
                self._engine.apply(image, self._bind(config))
                for number, destination in enumerate(log_destinations(config)):
                    descriptor = open_destination(destination)
                    self._engine.set_log(number, descriptor)
                    os.close(descriptor)
        finally:
            os.close(image)
        self._said += [str(warning) for warning in loaded.warnings]

    def _on_wire(self, config: Config) -> Config:
        if self.wire is Wire.PLAIN:
            return config
        return replace(config, listeners=tuple(replace(one, tls=replace(one.tls, certificates=(FILES,))) for one in config.listeners))

    def _bind(self, config: Config) -> list[tuple[int, int]]:
        """The sockets of every listener; those of addresses that stay, stay."""
        before, self._listening = self._listening, {}
        bound = []
        for index, listener in enumerate(config.listeners):
            for address in listener.bind:
                key = address if address.port or address.unix_path else len(self._listening)
                listening = before.pop(key, None) or self._listen(address)
                self._listening[key] = listening
                bound.append((listening.fileno(), index))
        for left in before.values():
            left.close()
        return bound

    def _listen(self, address: BindAddress) -> socket.socket:
        if address.unix_path:
            listening = socket.socket(socket.AF_UNIX)
            listening.bind(address.unix_path)
            self.urls.append(str(address))
        else:
            family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
            listening = socket.create_server((address.host, address.port), family=family)
            self.urls.append(f"{self.scheme}://{format_host_port(*listening.getsockname()[:2])}")
        listening.listen(1024)
        listening.setblocking(False)
        return listening

    def apply_file(self, path: Path) -> dict[str, Any]:
        try:
            self._load(path)
        except FastlbError as error:
            return {"ok": False, "error": str(error)}
        return {"ok": True, "generation": self._generation}

    def apply_ok(self, text: str, new_sockets: int = 0) -> None:
        n_before = len(self.urls)
        answer = self.apply(text)
        assert answer["ok"], answer
        assert len(self.urls) == n_before + new_sockets

    def messages(self) -> str:
        return "\n".join(self._said)

    # ------------------------------------------------------------------------------------------------ clients
    @property
    def scheme(self) -> str:
        return "http" if self.wire is Wire.PLAIN else "https"

    def make_peer(self, connection: socket.socket) -> Peer:
        return speak(connection, self.wire)

    def turn(self) -> None:
        peer = self.connect()
        if isinstance(peer, Http2Peer):
            peer.ping()
        else:
            peer.send(b"x\r\n\r\n")
            assert peer.read_response().status == 400
        peer.close()

    # ------------------------------------------------------------------------------------------------ what it knows
    def counters(self) -> Counters:
        with self._lock:
            return self._shared.counters()

    def backends(self) -> list[dict[str, Any]]:
        with self._lock:
            rows = self._shared.backends()
        return [{**row, "address": str(row["identity"]).partition("|")[2]} for row in rows]

    def worker_pids(self) -> list[int]:
        return [os.getpid()]

    def count_sockets(self) -> int:
        return 0

    def freeze(self) -> None:
        self._lock.acquire()
        self._is_frozen = True

    def thaw(self) -> None:
        self._is_frozen = False
        self._lock.release()

    # ------------------------------------------------------------------------------------------------ the end
    def stop(self) -> None:
        if self._is_ending.is_set():
            return
        self.rest()
        self._end()
        assert not unequal(self._shared.counters()), self._shared.counters()

    def _end(self) -> None:
        if not self._is_ending.is_set():
            self._is_ending.set()
            if self._is_frozen:
                self.thaw()
            self._pump.join()
            self._engine.close()
            for listening in self._listening.values():
                listening.close()

    def kill(self) -> None:
        for peer in self.peers:
            peer.close()
        self._end()
        self._shared.close()
        shutil.rmtree(self.directory, ignore_errors=True)
