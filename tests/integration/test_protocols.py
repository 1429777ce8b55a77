"""Servers and their own benchmarks through TCP and UDP sessions: PostgreSQL, iperf3, DNS. Each says by itself whether anything was lost."""

import contextlib
import getpass
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.integration.test_tcp import free_port
from tests.support.configuration import configuration
from tests.support.process import Fastlb, listening_inodes
from tests.support.waiting import wait_until

pytestmark = pytest.mark.long
Start = Callable[..., Fastlb]
RESOLVER = """
import asyncio, struct, sys
import dns.message, dns.rrset

def answer(data):
    question = dns.message.from_wire(data)
    response = dns.message.make_response(question)
    response.answer.append(dns.rrset.from_text(question.question[0].name, 60, "IN", "A", "192.0.2.1"))
    return response.to_wire()

class Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.transport.sendto(answer(data), address)

async def serve(reader, writer):
    try:
        while True:
            size, = struct.unpack(">H", await reader.readexactly(2))
            data = answer(await reader.readexactly(size))
            writer.write(struct.pack(">H", len(data)) + data)
    except asyncio.IncompleteReadError:
        writer.close()

async def main():
    where = "127.0.0.1", int(sys.argv[1])
    await asyncio.get_running_loop().create_datagram_endpoint(Datagrams, where)
    await (await asyncio.start_server(serve, *where)).serve_forever()

asyncio.run(main())
"""


@contextlib.contextmanager
def running(command: Sequence[str], port: int, user: str | None = None) -> Iterator[None]:
    """A server that listens at this port."""
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=user, cwd="/")

    def listens() -> bool:
        assert server.poll() is None, f"{command[0]} has ended"
        return bool(listening_inodes(port))

    try:
        wait_until(listens, f"{command[0]} listens")
        yield
    finally:
        server.terminate()
        server.wait()


def free_port_of_both() -> int:
    """One that neither TCP nor UDP has in use."""
    while True:
        port = free_port()
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", port))
            return port


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def through(port: int, *, udp: bool = False) -> str:
    """A configuration for TCP sessions to this port, and for UDP sessions beside them."""
    listeners = [{"name": "tcp", "protocol": "tcp", "pool": "servers"}]
    if udp:
        listeners.append({"name": "udp", "protocol": "udp", "pool": "servers", "udp": {"idle_timeout": "1s"}})
    return configuration(listeners=listeners, pools={"servers": {"backends": [f"127.0.0.1:{port}"], "algorithm": "consistent_hash"}})


def test_postgresql_commits_every_transaction(fastlb: Start, tmp_path: Path) -> None:
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))[-1].parent
    data, port = tmp_path / "data", free_port()
    data.mkdir()
    user = "postgres" if os.geteuid() == 0 else None  # it does not run as root
    if user:
        for directory in (*tmp_path.parents[:2], tmp_path):
            directory.chmod(0o755)
        shutil.chown(data, user)
    name = user or getpass.getuser()
    subprocess.run([programs / "initdb", "-D", data, "-A", "trust", "-U", name], user=user, cwd="/", check=True, stdout=subprocess.DEVNULL)
    options = ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "unix_socket_directories="]
    with running([str(programs / "postgres"), "-D", str(data), "-p", str(port), *options], port, user):
        lb = fastlb(through(port))
        bench = [str(programs / "pgbench"), "-n", "-h", "127.0.0.1", "-p", str(lb.port), "-U", name]
        run(*bench, "-i", "-q", "postgres")
        for how in (["-M", "simple"], ["-M", "extended", "-S"], ["-S", "-C"]):  # the last with a connection for each transaction
            shown = run(*bench, *how, "-c", "8", "-t", "50", "postgres")
            assert "number of transactions actually processed: 400/400" in shown
            assert "number of failed transactions: 0 " in shown
        lb.rest()
        assert lb.reasons() == {}


def test_iperf3_moves_bulk_both_ways_on_several_streams(fastlb: Start) -> None:
    port = free_port()
    with running(["iperf3", "-s", "-p", str(port), "-B", "127.0.0.1"], port):
        lb = fastlb(through(port))
        for how in ([], ["-R"], ["-P", "4", "--bidir"]):
            shown = json.loads(run("iperf3", "-c", "127.0.0.1", "-p", str(lb.port), "-n", "200M", "-J", *how))
            assert "error" not in shown
            assert shown["end"]["sum_received"]["bytes"] > 100 << 20
        assert lb.counter("spliced_bytes") > 100 << 20
        lb.rest()


def test_dns_loses_no_question_over_udp_or_tcp(fastlb: Start, tmp_path: Path) -> None:
    port = free_port_of_both()
    (tmp_path / "queries").write_text("".join(f"h{number}.example A\n" for number in range(1000)))
    with running([sys.executable, "-c", RESOLVER, str(port)], port):
        lb = fastlb(through(port, udp=True))
        ports = {"tcp": lb.port_of(0), "udp": lb.port_of(1)}
        for mode, at in ports.items():
            shown = run("dnsperf", "-s", "127.0.0.1", "-p", str(at), "-d", str(tmp_path / "queries"), "-m", mode, "-c", "8", "-n", "2")
            assert re.search(r"Queries completed: +2000 \(100.00%\)", shown), shown
            assert re.search(r"Response codes: +NOERROR 2000 ", shown), shown
        assert lb.counter("udp_sessions_opened") == 8
