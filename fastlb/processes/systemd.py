"""What systemd and fastlb say to each other: readiness, the watchdog, and sockets that were bound before fastlb started.

Owns nothing but what it returns. All of it comes through environment variables, so without systemd nothing happens here.
Sources: sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3), systemd.socket(5).
"""

import os
import socket
import stat
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from pathlib import Path

from fastlb.control_plane.config.address import ANY_HOST, BindAddress, format_host_port

FIRST_INHERITED = 3  # SD_LISTEN_FDS_START: they follow standard error
_HANDOVER_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


@dataclass(frozen=True, slots=True)
class InheritedSocket:
    """A listening stream socket, or a UDP socket, that whoever started fastlb has bound and keeps.

    Args:
        name: FileDescriptorName= of the socket unit, usually the name of that unit; "" if it has none.
    """

    socket: socket.socket
    name: str

    def __str__(self) -> str:
        return f"{_describe(self.socket)} ({self.name})" if self.name else _describe(self.socket)


@dataclass(frozen=True, slots=True)
class Handover:
    """Which inherited sockets serve which address, and what is odd about that."""

    by_address: dict[BindAddress, list[socket.socket]]
    warnings: list[str]


def notify(*lines: str, descriptors: Sequence[int] = ()) -> bool:
    """Tells the service manager: "READY=1", "STOPPING=1", "WATCHDOG=1", "STATUS=what a person reads", "MAINPID=…", "FDSTORE=1".

    Args:
        descriptors: go with it; they stay the caller's.

    Returns:
        Whether there is one and it was told. That it could not be told is no reason to stop serving.
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return False
    address = "\0" + path[1:] if path.startswith("@") else path  # an abstract socket
    message = "\n".join(line.replace("\n", " ") for line in lines)
    try:
        # Non-blocking: a manager that does not read must not stop us.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sender:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
            sender.sendmsg([message.encode("utf-8", "surrogateescape")], rights, 0, address)
    except OSError:
        return False
    return True


def watchdog_interval() -> float | None:
    """How often to send "WATCHDOG=1", in seconds: twice in the time after which systemd would end this process. None: it does not watch."""
    try:
        microseconds = int(os.environ["WATCHDOG_USEC"])
        watched = int(os.environ.get("WATCHDOG_PID", os.getpid()))
    except (KeyError, ValueError):
        return None
    return microseconds / 2 / 1e6 if watched == os.getpid() and microseconds > 0 else None


def inherited_sockets() -> tuple[list[InheritedSocket], list[str]]:
    """Takes over the sockets that were passed to this process. Call it once: the variables are gone afterwards, so that no process below
    this one takes them for its own.

    Returns:
        Those that can be listened on, in their order, and a warning for each of the others, which is closed.
    """
    variables = {name: os.environ.pop(name, "") for name in _HANDOVER_VARIABLES}
    try:
        count = int(variables["LISTEN_FDS"])
        if int(variables["LISTEN_PID"]) != os.getpid():
            return [], []
    except ValueError:
        return [], []
    names = variables["LISTEN_FDNAMES"].split(":")
    inherited: list[InheritedSocket] = []
    warnings: list[str] = []
    for index in range(count):
        descriptor = FIRST_INHERITED + index
        name = names[index] if index < len(names) else ""
        try:
            taken = _take(descriptor)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            warnings.append(f"LISTEN_FDS={count} is not true of the descriptor {descriptor} ({name or 'without a name'}): {reason}")
            break  # whatever the number says, there is nothing behind it
        if isinstance(taken, socket.socket):
            inherited.append(InheritedSocket(taken, name))
        else:
            warnings.append(f"the inherited descriptor {descriptor} ({name or 'without a name'}) is not used: {taken}")
    return inherited, warnings


def match(inherited: Iterable[InheritedSocket], address: BindAddress) -> list[socket.socket]:
    """The inherited sockets that are bound to this address. For every address of the machine (":80") that is one for IPv4 and IPv6
    together, or one for each.
    """
    return [one.socket for one in inherited if _serves(one.socket, address)]


def hand_over(inherited: Iterable[InheritedSocket], addresses: Iterable[BindAddress]) -> Handover:
    """Which inherited sockets to use instead of binding, for the addresses of a configuration.

    A socket that no listener names stays open, since a later configuration may name it; the service manager holds it in any case, so
    that clients would wait there.
    """
    inherited = list(inherited)
    addresses = list(addresses)
    matched = {address: match(inherited, address) for address in addresses}
    by_address = {address: sockets for address, sockets in matched.items() if sockets}
    warnings = [warning for address, sockets in by_address.items() if (warning := _warn_of_one_family(address, sockets))]
    used = {one for sockets in by_address.values() for one in sockets}
    for one in inherited:
        if one.socket not in used:
            wanted = ", ".join(str(address) for address in addresses) or "nothing"
            hint = _hint(one.socket, addresses)
            warnings.append(f"no listener binds the inherited socket {one}, so nobody accepts there; the listeners bind {wanted}{hint}")
    return Handover(by_address, warnings)


def _take(descriptor: int) -> socket.socket | str:
    """The socket of an inherited descriptor, or what keeps it from being listened on.

    Raises:
        OSError: there is no such descriptor.
    """
    os.set_inheritable(descriptor, False)
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return "it is not a socket"
    taken = socket.socket(fileno=descriptor)  # asks the kernel for family and type
    reason = _refuse(taken)
    if reason:
        taken.close()
        return reason
    taken.setblocking(False)
    if taken.family != socket.AF_UNIX and taken.type == socket.SOCK_STREAM:
        taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it, as from those that we bind
    return taken


def _refuse(taken: socket.socket) -> str:
    if taken.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        return "it is of an address family that listeners do not know"
    if taken.type == socket.SOCK_DGRAM and taken.family != socket.AF_UNIX:
        return "" if taken.getsockname()[1] else "it is not bound"
    if taken.type != socket.SOCK_STREAM:
        return "it is neither a stream socket nor one for UDP (in a socket unit: ListenStream=, or ListenDatagram= with a port)"
    if not taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "it does not listen (in a socket unit: Accept=no)"
    return ""


def _serves(one: socket.socket, address: BindAddress) -> bool:
    name = one.getsockname()
    if (one.type == socket.SOCK_DGRAM) != address.udp:
        return False
    if one.family == socket.AF_UNIX:
        return bool(address.unix_path) and isinstance(name, str) and _is_same_file(name, address.unix_path)
    host, port = name[:2]
    if address.unix_path or port != address.port:
        return False
    if address.host == ANY_HOST:
        return _as_ip(host) in (IPv4Address("0.0.0.0"), IPv6Address("::"))
    return _as_ip(host) == _as_ip(address.host)


def _is_same_file(name: str, path: str) -> bool:
    """Whether both lead to the same socket: systemd knows absolute paths only, and /var/run is a link to /run."""
    try:
        return name == path or (bool(name) and Path(name).samefile(path))
    except OSError:
        return False


def _as_ip(host: str) -> IPv4Address | IPv6Address | None:
    """Compared as numbers: there are several ways to write an IPv6 address."""
    try:
        return IPv6Address(host) if ":" in host else IPv4Address(host)
    except AddressValueError:
        return None


def _is_dual(one: socket.socket) -> bool:
    """Whether it takes IPv4 as well as IPv6."""
    return one.family == socket.AF_INET6 and not one.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


def _warn_of_one_family(address: BindAddress, sockets: list[socket.socket]) -> str:
    """What is not served of an address that stands for all of them."""
    families = {one.family for one in sockets}
    if address.host != ANY_HOST or len(families) == 2 or any(_is_dual(one) for one in sockets):
        return ""
    given, missing = ("IPv4", "IPv6") if socket.AF_INET in families else ("IPv6", "IPv4")
    return f"the inherited socket for {address} is for {given} only: nobody accepts {missing} there"


def _hint(one: socket.socket, addresses: Iterable[BindAddress]) -> str:
    """What was probably meant by a socket for all addresses beside a listener for all IPv4 addresses."""
    if one.family == socket.AF_UNIX or not _is_dual(one):
        return ""
    port = one.getsockname()[1]
    meant = any(address.port == port and address.host == "0.0.0.0" for address in addresses)
    return f'; this socket is for IPv4 and IPv6, which is written bind = ":{port}"' if meant else ""


def _describe(one: socket.socket) -> str:
    name = one.getsockname()
    if one.family == socket.AF_UNIX:
        return f"unix:{name}" if isinstance(name, str) else f"unix:@{name[1:].decode(errors='replace')}"
    return format_host_port(*name[:2])
