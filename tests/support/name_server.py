"""A DNS server on loopback that answers what a test says, over UDP and TCP, from a thread."""

import socket
import socketserver
import struct
import threading
from dataclasses import dataclass, field
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset


@dataclass
class NameServer:
    """Owns its sockets and threads.

    Args:
        records: texts by name and type, such as ("app.example.", "A"): ["10.0.0.1"].
        ttl: of every record, in seconds.
        rcodes: what to answer instead, by name or by name and type.
        silent: names (with or without a type) that get no answer.
        raw: bytes to send as they are, whatever was asked.
        truncated: UDP answers hold nothing and say so.
        asked: names and types, in order.
    """

    records: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    ttl: int = 60
    rcodes: dict[Any, str] = field(default_factory=dict)
    silent: set[Any] = field(default_factory=set)
    raw: bytes = b""
    truncated: bool = False
    asked: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        server = self

        class Udp(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                answer = server.answer(self.request[0], udp=True)
                if answer:
                    self.request[1].sendto(answer, self.client_address)

        class Tcp(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while len(size := self.rfile.read(2)) == 2:
                    answer = server.answer(self.rfile.read(struct.unpack("!H", size)[0]), udp=False)
                    if answer:
                        self.wfile.write(struct.pack("!H", len(answer)) + answer)

        while True:  # one port for both
            self._tcp = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Tcp)
            self._tcp.daemon_threads = True
            try:
                self._udp = socketserver.ThreadingUDPServer(self._tcp.server_address[:2], Udp)
                break
            except OSError:
                self._tcp.server_close()
        self._udp.daemon_threads = True
        self.port = int(self._tcp.server_address[1])
        self._threads = [threading.Thread(target=one.serve_forever, args=(0.01,), daemon=True) for one in (self._tcp, self._udp)]
        for thread in self._threads:
            thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def answer(self, question: bytes, udp: bool) -> bytes:
        query = dns.message.from_wire(question)
        (asked,) = query.question
        name, kind = asked.name.to_text(), dns.rdatatype.to_text(asked.rdtype)
        self.asked.append((name, kind))
        if self.raw:
            return self.raw
        if self.silent & {name, (name, kind)}:
            return b""
        response = dns.message.make_response(query)
        rcode = self.rcodes.get((name, kind)) or self.rcodes.get(name)
        if rcode:
            response.set_rcode(dns.rcode.from_text(rcode))
        elif udp and self.truncated:
            response.flags |= dns.flags.TC
        else:
            while alias := self.records.get((name, "CNAME")):
                response.answer.append(dns.rrset.from_text(name, self.ttl, "IN", "CNAME", *alias))
                name = alias[0]
            texts = self.records.get((name, kind), [])
            if texts:
                response.answer.append(dns.rrset.from_text(name, self.ttl, "IN", kind, *texts))
            elif not any(known == name for known, _ in self.records):
                response.set_rcode(dns.rcode.NXDOMAIN)
        return response.to_wire(max_size=65535)

    def close(self) -> None:
        for one in (self._tcp, self._udp):
            one.shutdown()
            one.server_close()
        for thread in self._threads:
            thread.join()


def closed_port() -> int:
    """A UDP port that nobody listens on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
