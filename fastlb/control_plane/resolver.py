"""From a name to endpoints, asked of DNS as TTLs want it.

Without servers of its own a resolver does as the system does: /etc/hosts, then the servers of resolv.conf, then, for what these do not
know, getaddrinfo with whatever else nsswitch.conf names. With servers it asks those and nothing else. What a server sends is bounded here.
"""

import asyncio
import queue
import socket
import threading
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import dns._features

# Nobody is asked over QUIC here. Where aioquic is installed it would come into every process, with cryptography.
dns._features.force("doq", False)

import dns.asyncbackend
import dns.asyncresolver
import dns.exception
import dns.name
import dns.nameserver
import dns.rcode
import dns.rdataclass
import dns.rdatatype

# dnspython imports these when an answer holds them; by then the account may not be able to read where Python lives.
import dns.rdtypes.ANY.CNAME
import dns.rdtypes.ANY.DNAME
import dns.rdtypes.ANY.NS
import dns.rdtypes.ANY.OPT
import dns.rdtypes.ANY.SOA
import dns.rdtypes.IN.A
import dns.rdtypes.IN.AAAA
import dns.rdtypes.IN.SRV
import dns.resolver

from fastlb import FastlbError

# What a question begins with that asks for services (SRV) instead of addresses.
SERVICE = "srv:"
# One question, over all servers and repetitions.
LIFETIME_SECONDS = 3.0
# A service with all its targets, and how many these may be. Questions of one resolver at a time: each has a socket of its own.
SERVICE_SECONDS = 10.0
MAX_TARGETS = 256
MAX_QUESTIONS = 128
# How long an answer holds that does not say so: of /etc/hosts or getaddrinfo.
DEFAULT_TTL_SECONDS = 30.0
MAX_ENDPOINTS = 1000
MAX_HOSTS_BYTES = 1 << 20
MAX_THREADS = 8


class LookupFailure(FastlbError):
    """A name has no answer now; the text says why."""


class Endpoint(NamedTuple):
    """One address that a name stands for.

    Args:
        port: 0 = the name does not say; what is configured.
        weight, priority: of a service, as RFC 2782 has them (the lowest priority is first); 0 otherwise.
    """

    ip: str
    port: int = 0
    weight: int = 0
    priority: int = 0


def believe_endpoints(told: Mapping[str, Sequence[tuple[str, int, int, int]]], names: Container[str]) -> dict[str, tuple[Endpoint, ...]]:
    """What another process says that these names stand for, as far as it can be so."""
    believed: dict[str, tuple[Endpoint, ...]] = {}
    for name, endpoints in told.items():
        if name in names and len(endpoints) <= MAX_ENDPOINTS:
            found = tuple(Endpoint(*one) for one in endpoints)
            if found and all(_can_be(one) for one in found):
                believed[name] = found
    return believed


def _can_be(endpoint: Endpoint) -> bool:
    try:
        return str(ip_address(endpoint.ip)) == endpoint.ip and all(0 <= number <= 0xFFFF for number in endpoint[1:])
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Answer:
    """What a name stands for, in a stable order, IPv4 first.

    Args:
        ttl_seconds: how long that holds.
        missing: IP versions for which the servers gave no answer, while they did for the other one: what was known of these still holds.
    """

    endpoints: tuple[Endpoint, ...]
    ttl_seconds: float = DEFAULT_TTL_SECONDS
    missing: frozenset[int] = frozenset()


Resolve = Callable[[str], Awaitable[Answer]]


class Resolver:
    """Answers questions: "app.example", or "srv:_http._tcp.app.example".

    Args:
        servers: IP addresses and ports to ask; () for what the system says.
        hosts, resolv_conf: files of the system, read again when they change.
    """

    def __init__(
        self, servers: Sequence[tuple[str, int]] = (), *, hosts: str = "/etc/hosts", resolv_conf: str = "/etc/resolv.conf"
    ) -> None:
        self.servers = tuple(servers)
        self._hosts = _File(hosts)
        self._known_hosts: dict[str, list[str]] = {}
        self._resolv_conf = _File(resolv_conf)
        self._dns: dns.asyncresolver.Resolver | None = None
        self._system = SystemLookups()
        self._questions = asyncio.Semaphore(MAX_QUESTIONS)

    async def resolve(self, question: str) -> Answer:
        """Looks a name up.

        Raises:
            LookupFailure: there is no answer.
        """
        if not question.startswith(SERVICE):
            return await self._resolve_name(question)
        try:
            async with asyncio.timeout(SERVICE_SECONDS):
                return await self._find_services(question.removeprefix(SERVICE))
        except TimeoutError:
            raise LookupFailure(f"its targets were not resolved within {SERVICE_SECONDS:g} s") from None

    async def _resolve_name(self, name: str) -> Answer:
        """Its addresses, from wherever they are to be had."""
        if self.servers:
            return await self._find_addresses(name)
        if ips := self._look_into_hosts(name):
            return Answer(_order(ips))
        try:
            return await self._find_addresses(name)
        except LookupFailure as failure:
            try:
                return Answer(_order(await self._system.look_up(name)))
            except OSError:
                raise failure from None

    def close(self) -> None:
        self._system.close()

    # -------------------------------------------------------------------------------------------------- DNS
    async def _find_addresses(self, name: str) -> Answer:
        types = _types_worth_asking()
        results = await asyncio.gather(*(self._ask(name, one) for one in types), return_exceptions=True)
        ips: list[str] = []
        ttl = None
        missing = set()
        failure: LookupFailure | None = None
        for record_type, result in zip(types, results, strict=True):
            if isinstance(result, LookupFailure):
                failure = failure or result
                missing.add(4 if record_type == dns.rdatatype.A else 6)
            elif isinstance(result, BaseException):
                raise result
            elif result.rrset is not None:
                ips += [str(record.address) for record in result.rrset][:MAX_ENDPOINTS]
                ttl = min(ttl, _ttl_of(result)) if ttl is not None else _ttl_of(result)
        if ttl is None:
            raise failure or LookupFailure("the name has no addresses")
        return Answer(_order(ips), ttl, frozenset(missing))

    async def _find_services(self, name: str) -> Answer:
        found = await self._ask(name, dns.rdatatype.SRV)
        if found.rrset is None:
            raise LookupFailure("the name has no services (SRV)")
        records = list(found.rrset)[:MAX_ENDPOINTS]
        targets = sorted({record.target.to_text(omit_final_dot=True) for record in records} - {"."})
        if not targets:  # a single "." says that there is decidedly no such service (RFC 2782)
            raise LookupFailure("the service is decidedly not available there")
        if len(targets) > MAX_TARGETS:
            raise LookupFailure(f"the service has {len(targets)} targets; at most {MAX_TARGETS} are looked up")
        # Their addresses and nothing else: a target is whatever a server says, and not a question of ours.
        answers = await asyncio.gather(*(self._resolve_name(target) for target in targets), return_exceptions=True)
        addresses: dict[str, Answer] = {}
        failure: BaseException | None = None
        for target, answer in zip(targets, answers, strict=True):
            if isinstance(answer, Answer):
                addresses[target] = answer
            elif isinstance(answer, LookupFailure):
                failure = failure or LookupFailure(f"{target}: {answer}")
            else:
                raise answer
        if failure is not None:
            raise failure  # part of a service would look as if the rest had been taken away
        endpoints = set()
        for record in records:
            target = addresses.get(record.target.to_text(omit_final_dot=True))
            for one in target.endpoints if target is not None and record.port else ():
                endpoints.add(Endpoint(one.ip, record.port, record.weight, record.priority))
        ttl = min(_ttl_of(found), *(answer.ttl_seconds for answer in addresses.values()))
        ordered = sorted(endpoints, key=lambda one: (one.priority, _ip_order(one.ip), one.port))[:MAX_ENDPOINTS]
        return Answer(tuple(ordered), ttl, frozenset().union(*(answer.missing for answer in addresses.values())))

    async def _ask(self, name: str, record_type: dns.rdatatype.RdataType) -> dns.resolver.Answer:
        """Raises LookupFailure. No records of this type is an answer, too."""
        try:
            async with self._questions:
                return await self._current_dns().resolve(
                    dns.name.from_text(name) if self.servers else name,
                    record_type,
                    lifetime=LIFETIME_SECONDS,
                    raise_on_no_answer=False,
                    search=None if self.servers else True,
                )
        except dns.resolver.NXDOMAIN:
            raise LookupFailure("there is no such name") from None
        except dns.resolver.LifetimeTimeout:
            raise LookupFailure(f"no name server answered within {LIFETIME_SECONDS:g} s") from None
        except dns.resolver.NoNameservers as error:
            raise LookupFailure(_explain(error)) from None
        except (dns.exception.DNSException, OSError, ValueError) as error:
            raise LookupFailure(str(error) or type(error).__name__) from None

    def _current_dns(self) -> dns.asyncresolver.Resolver:
        if self.servers:
            if self._dns is None:
                self._dns = dns.asyncresolver.Resolver(configure=False)
                self._dns.nameservers = [dns.nameserver.Do53Nameserver(host, port) for host, port in self.servers]
            return self._dns
        if self._resolv_conf.has_changed() or self._dns is None:
            self._dns = dns.asyncresolver.Resolver(configure=False)
            try:
                self._dns.read_resolv_conf(self._resolv_conf.path)
            except dns.resolver.NoResolverConfiguration:
                self._dns.nameservers = ["127.0.0.1"]  # resolv.conf(5)
        return self._dns

    # -------------------------------------------------------------------------------------------------- /etc/hosts
    def _look_into_hosts(self, name: str) -> list[str]:
        if self._hosts.has_changed():
            self._known_hosts = parse_hosts(self._hosts.read(MAX_HOSTS_BYTES))
        return self._known_hosts.get(name.casefold().removesuffix("."), [])


class SystemLookups:
    """getaddrinfo, which blocks for as long as it pleases: in daemon threads, because a process that stops must not wait for it."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[str, asyncio.Future[list[str]]] | None] = queue.SimpleQueue()
        self._n_threads = 0
        self._n_asked = 0

    async def look_up(self, name: str) -> list[str]:
        """Raises OSError: the system's resolver has no address."""
        future: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._n_asked += 1
        try:
            if self._n_threads < min(MAX_THREADS, self._n_asked):
                threading.Thread(target=self._work, name="fastlb-names", daemon=True).start()
                self._n_threads += 1
            self._jobs.put((name, future))
            return await future
        finally:
            self._n_asked -= 1

    def close(self) -> None:
        for _ in range(self._n_threads):
            self._jobs.put(None)

    def _work(self) -> None:
        """A thread: touches nothing but the queue, and hands each answer to its loop."""
        while (job := self._jobs.get()) is not None:
            name, future = job
            found: list[str] | OSError
            try:
                found = get_addresses(name)
            except OSError as error:
                found = error
            except UnicodeError as error:
                found = OSError(str(error))
            try:
                future.get_loop().call_soon_threadsafe(_settle, future, found)
            except RuntimeError:  # the loop has been closed meanwhile
                return


def get_addresses(name: str) -> list[str]:
    """What the system says of a name, as it comes.

    Raises:
        OSError: nothing, or link-local addresses only.
    """
    found = {str(entry[4][0]) for entry in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)}
    ips = [ip for ip in found if "%" not in ip]
    if not ips:
        raise OSError("it has link-local addresses only")
    return ips


def parse_hosts(text: str) -> dict[str, list[str]]:
    """The addresses of each name of a hosts file; lines that are none are left out, as the system's resolver does."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        ip, *names = line.partition("#")[0].split() or [""]
        try:
            address = str(ip_address(ip))
        except ValueError:
            continue
        if "%" not in address:
            for name in names:
                found.setdefault(name.casefold().removesuffix("."), []).append(address)
    return found


def _settle(future: "asyncio.Future[list[str]]", found: list[str] | OSError) -> None:
    if future.done():
        return
    if isinstance(found, OSError):
        future.set_exception(found)
    else:
        future.set_result(found)


def _order(ips: Iterable[str]) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(ip) for ip in sorted(set(ips), key=_ip_order)[:MAX_ENDPOINTS])


def _ip_order(text: str) -> tuple[int, int]:
    ip = ip_address(text)
    return ip.version, int(ip)


def _ttl_of(answer: dns.resolver.Answer) -> float:
    """Of the whole chain of aliases."""
    return float(answer.chaining_result.minimum_ttl)


def _explain(error: dns.resolver.NoNameservers) -> str:
    """What the last server that was asked had to say; the exception's own text is a paragraph."""
    errors = error.kwargs.get("errors") or ()
    for _, _, _, what, response in reversed(errors):
        if response is not None:
            return f"the name server answers {dns.rcode.to_text(response.rcode())}"
        return f"the name server cannot be asked: {what}"
    return "there is no name server to ask"


def _types_worth_asking() -> list[dns.rdatatype.RdataType]:
    """A and AAAA, without those of an IP version that this machine has no way to use (getaddrinfo's AI_ADDRCONFIG)."""
    families = {dns.rdatatype.A: (socket.AF_INET, "198.51.100.1"), dns.rdatatype.AAAA: (socket.AF_INET6, "2001:db8::1")}
    return [one for one, (family, address) in families.items() if _has_route(family, address)] or list(families)


def _has_route(family: socket.AddressFamily, address: str) -> bool:
    """Whether the kernel knows a way to the rest of the world; nothing is sent."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 53))
    except OSError:
        return False
    return True


class _File:
    """A file that others change."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None

    def has_changed(self) -> bool:
        """Since this was asked last."""
        try:
            now = Path(self.path).stat()
        except OSError:
            seen = (0, 0, 0)
        else:
            seen = (now.st_ino, now.st_mtime_ns, now.st_size)
        before, self._seen = self._seen, seen
        return before != seen

    def read(self, most: int) -> str:
        try:
            with Path(self.path).open("rb") as file:
                return file.read(most).decode("utf-8", "replace")
        except OSError:
            return ""
