"""Listening sockets: bound and kept by the supervisor, lent to workers, and kept over a change of configuration while their address stays.

An address has one socket per worker, which share its port (SO_REUSEPORT): the kernel spreads new connections over them, and no worker
wakes for another's. A unix socket, or one that systemd opened, cannot be had several times: all workers accept from the one.
"""

import errno
import os
import socket
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Protocol

from fastlb import FastlbError
from fastlb.control_plane.config.address import ANY_HOST, BindAddress, format_host_port
from fastlb.processes.udp_sockets import steer

# How often ":0" tries to find a port that is free for IPv4 and IPv6 alike.
PORT_TRIES = 16
# The home of a socket that is nobody's: there are more of them than workers.
NOBODY = -1


class BindError(FastlbError):
    """Listening sockets that could not be had; the text has one line for each."""


class Binds(Protocol):
    """What has to be known of a listener to bind it; `config.schema.Listener` is one."""

    @property
    def name(self) -> str: ...
    @property
    def bind(self) -> tuple[BindAddress, ...]: ...
    @property
    def backlog(self) -> int: ...
    @property
    def defer_accept(self) -> bool: ...
    @property
    def keepalive(self) -> tuple[int, int, int]: ...


@dataclass(frozen=True, slots=True)
class ListeningSocket:
    """One socket.

    Args:
        number: never used twice in the life of a process.
        home: the slot of the worker that it is for; None when all accept from it.
        inherited: it was there before us.
    """

    socket: socket.socket
    number: int
    home: int | None
    inherited: bool = False


_numbers = count()


@dataclass(slots=True)
class BoundAddress:
    """One entry of a listener's `bind` with its sockets: for each worker one, or two for every address of the machine (IPv4 and IPv6)."""

    address: BindAddress
    sockets: list[ListeningSocket] = field(default_factory=list)
    unix_file: tuple[int, int] | None = None  # device and inode, so that nobody else's socket is removed
    inherited: bool = False  # somebody else accepts there too, or keeps it for us: nothing is lost when we end

    def urls(self, scheme: str = "http") -> list[str]:
        """What to connect to, with the ports that the kernel chose."""
        if self.address.unix_path:
            return [str(self.address)]
        scheme = "udp" if self.address.udp else scheme
        urls = (f"{scheme}://{format_host_port(*one.socket.getsockname()[:2])}" for one in self.sockets)
        return list(dict.fromkeys(urls))

    def close(self) -> None:
        """Closes what is still open and removes the file of a unix socket. What was inherited stays for a later configuration;
        what we have bound beside it does not, as nobody else accepts there, or has a copy."""
        if self.inherited:
            for one in self.sockets:
                if not one.inherited:
                    one.socket.close()
            return
        if self.unix_file is not None:
            path = Path(self.address.unix_path)
            try:
                status = path.stat()
                if (status.st_dev, status.st_ino) == self.unix_file:
                    path.unlink()
            except OSError:
                pass  # somebody else removed it
            self.unix_file = None
        for one in self.sockets:
            one.socket.close()


def bind_listeners(
    listeners: Sequence[Binds], kept: Iterable[BoundAddress] = (), homes: Sequence[int] = (0,)
) -> list[tuple[int, BoundAddress]]:
    """Opens the sockets of a configuration.

    Args:
        homes: the slots of the workers.
        kept: what is bound already; an address that is wanted again keeps its sockets and with them its clients, and gets more of them if
            there are more workers now. Those of workers that are no more stay too: closing one would reset who waits there. What the
            kernel is told of the others is left to `update_listening`, once the configuration is in force.

    Returns:
        The index of the listener and its sockets, for each address in the order of the configuration.

    Raises:
        BindError: with all the addresses that could not be bound; what was opened for the others is closed again.
    """
    by_address: dict[BindAddress, list[BoundAddress]] = {}
    for bound in kept:
        by_address.setdefault(bound.address, []).append(bound)
    result: list[tuple[int, BoundAddress]] = []
    opened: list[BoundAddress] = []
    growing: list[tuple[BoundAddress, Binds]] = []
    failures: list[str] = []
    for index, listener in enumerate(listeners):
        for address in listener.bind:
            if by_address.get(address):
                bound = by_address[address].pop(0)
                growing.append((bound, listener))
            else:
                try:
                    bound = bind_address(address, listener.backlog, listener.defer_accept, homes[0])
                    opened.append(bound)
                    _set_keepalive(bound, listener)
                    _add_sockets(bound, homes, listener)
                except OSError as error:
                    own = next((str(other) for other in by_address if other.overlaps(address)), "")
                    failures.append(f'cannot bind {address} (listener "{listener.name}"): {_explain(address, error, own)}')
                    continue
            result.append((index, bound))
    # Last, because clients come to a socket beside others at once: closing it again would reset them.
    for bound, listener in () if failures else growing:
        try:
            _add_sockets(bound, homes, listener)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            failures.append(f'cannot bind {bound.address} (listener "{listener.name}") for more workers: {reason}')
    if failures:
        for bound in opened:
            bound.close()
        raise BindError("\n".join(failures))
    return result


def update_listening(listeners: Sequence[Binds], bound: Iterable[tuple[int, BoundAddress]]) -> None:
    """Gives sockets that were there before the settings of their listener in a configuration that has come in force."""
    for index, address in bound:
        for one in address.sockets:
            _listen(one.socket, listeners[index].backlog, listeners[index].defer_accept)
        _set_keepalive(address, listeners[index])


def bind_address(address: BindAddress, backlog: int, defer_accept: bool = False, home: int = 0) -> BoundAddress:
    """Opens, binds and listens, for the worker in this slot.

    Raises:
        OSError: as the kernel said it.
    """
    if address.unix_path:
        return _bind_unix(address, backlog)

    def bind(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
        return bind_udp(family, host, port) if address.udp else _bind_tcp(family, host, port, backlog, defer_accept)

    if address.host != ANY_HOST:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        return BoundAddress(address, [_own(bind(family, address.host, address.port), home)])
    for tries_left in reversed(range(PORT_TRIES if address.port == 0 else 1)):
        first = bind(socket.AF_INET, "0.0.0.0", address.port)
        try:
            second = bind(socket.AF_INET6, "::", first.getsockname()[1])
        except OSError as error:
            if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):  # no IPv6 here
                return BoundAddress(address, [_own(first, home)])
            first.close()
            if error.errno != errno.EADDRINUSE or not tries_left:
                raise
        else:
            return BoundAddress(address, [_own(first, home), _own(second, home)])
    raise AssertionError("the last try returns or raises")


def adopt_sockets(address: BindAddress, inherited: Iterable[socket.socket], home: int) -> BoundAddress:
    """Sockets that the service manager has opened for us. All workers accept from those that listen. UDP has sessions, so its sockets are
    for the worker in this slot, and the others get some beside them, where that can be."""
    sockets = list(inherited)
    if address.udp:
        for one in sockets:
            # Those that we bind are for one family. Beside one for both the kernel would not share datagrams out.
            is_dual = one.family == socket.AF_INET6 and not one.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, not is_dual)
    found = [ListeningSocket(one, next(_numbers), home if address.udp else None, inherited=True) for one in sockets]
    return BoundAddress(address, found, inherited=True)


def take_over(address: BindAddress, sockets: Iterable[socket.socket], homes: Sequence[int]) -> BoundAddress:
    """Listening sockets of the fastlb before this one, whose workers accept from them, too: each is for one of our workers, as far as there
    are so many. The others are lent: closing them would reset who waits there.

    As long as `inherited` is not taken back, they are left to the other fastlb when this one ends.
    """
    found: list[ListeningSocket] = []
    used: dict[int, int] = {}  # by family
    unix_file = None
    for one in sockets:
        if one.family == socket.AF_UNIX:
            home: int | None = None
            with suppress(OSError):
                status = Path(address.unix_path).stat()
                unix_file = (status.st_dev, status.st_ino)
        else:
            at = used[one.family] = used.get(one.family, -1) + 1
            home = homes[at] if at < len(homes) else NOBODY
        found.append(ListeningSocket(one, next(_numbers), home, inherited=True))
    return BoundAddress(address, found, unix_file, inherited=True)


def _own(first: socket.socket, home: int) -> ListeningSocket:
    return ListeningSocket(first, next(_numbers), home)


def _add_sockets(bound: BoundAddress, homes: Sequence[int], listener: Binds) -> None:
    """Binds what is missing for these workers.

    Raises:
        OSError: nothing was added.
    """
    present = {one.home for one in bound.sockets}
    if None in present:
        return
    added: list[ListeningSocket] = []
    try:
        for slot in homes:
            if slot in present:
                continue
            for one in {one.socket.family: one for one in bound.sockets}.values():
                name = one.socket.getsockname()
                if bound.address.udp:
                    another = bind_udp(one.socket.family, name[0], name[1], name)
                else:
                    another = _bind_tcp(one.socket.family, name[0], name[1], listener.backlog, listener.defer_accept, name)
                added.append(ListeningSocket(another, next(_numbers), slot))
    except BaseException as error:
        for one in added:
            one.socket.close()
        if isinstance(error, OSError) and bound.inherited and bound.address.udp:
            return  # bound by another account, or for both families: its worker has all of it
        raise
    bound.sockets += added
    if bound.address.udp and added:
        steer([one.socket for one in bound.sockets])
    _set_keepalive(bound, listener)


def bind_udp(family: socket.AddressFamily, host: str, port: int, beside: tuple[object, ...] | None = None) -> socket.socket:
    """A bound UDP socket; `beside`: see _place. SO_REUSEADDR is not for UDP: it would let anybody bind over us.

    Raises:
        OSError: as the kernel said it.
    """
    bound = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        _place(bound, host, port, beside)
    except BaseException:
        bound.close()
        raise
    return bound


def _bind_tcp(
    family: int, host: str, port: int, backlog: int, defer_accept: bool, beside: tuple[object, ...] | None = None
) -> socket.socket:
    """Binds and listens; `beside`: see _place."""
    bound = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted sockets inherit it; a head and its small body are one send anyway.
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _place(bound, host, port, beside)
        _listen(bound, backlog, defer_accept)
    except BaseException:
        bound.close()
        raise
    return bound


def _place(bound: socket.socket, host: str, port: int, beside: tuple[object, ...] | None) -> None:
    """Gives a socket its address; `beside`: the name of a socket of ours whose address it shares.

    The first socket of an address binds as if it wanted to be alone, so that an address which somebody else has is found out, and allows
    others beside it only then.
    """
    if bound.family == socket.AF_INET6:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own
    if beside is not None:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(beside)
    else:
        address = socket.getaddrinfo(host, port, bound.family, bound.type, flags=socket.AI_NUMERICHOST)[0][4]  # knows zones
        bound.bind(address)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def _listen(bound: socket.socket, backlog: int, defer_accept: bool) -> None:
    """Listens, or changes how a listening socket listens.

    With `defer_accept` the kernel shows a connection only when its first bytes are here, or after about a second: one wake-up instead of
    two for each new connection.
    """
    if bound.type == socket.SOCK_DGRAM:
        return
    if bound.family != socket.AF_UNIX:
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, int(defer_accept))
    bound.listen(backlog)


def can_be_listened_on(one: socket.socket) -> bool:
    """Whether clients come to this socket: connections wait there, or datagrams."""
    if one.type == socket.SOCK_DGRAM:
        return one.family in (socket.AF_INET, socket.AF_INET6)
    return one.type == socket.SOCK_STREAM and bool(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _set_keepalive(bound: BoundAddress, listener: Binds) -> None:
    """Whether and when the kernel probes clients that are silent: accepted sockets inherit it."""
    idle, interval, probes = listener.keepalive
    for one in bound.sockets:
        if one.socket.family == socket.AF_UNIX or one.socket.type == socket.SOCK_DGRAM:
            continue
        one.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(idle != 0))
        if idle:
            one.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
            one.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval)
            one.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, probes)


def end_deferring(sockets: Iterable[socket.socket]) -> bool:
    """Has the kernel show every connection as soon as it stands. Whether there may be some that it still holds back: closing the socket
    would reset them, so wait before you do.
    """
    tcp = [one for one in sockets if one.family != socket.AF_UNIX and one.type == socket.SOCK_STREAM]
    deferring = [one for one in tcp if one.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT)]
    for one in deferring:
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 0)
    return bool(deferring)


def _bind_unix(address: BindAddress, backlog: int) -> BoundAddress:
    path = Path(address.unix_path)
    _remove_stale(path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        bound.bind(str(path))
        status = path.stat()
        bound.listen(backlog)
    except BaseException:
        bound.close()
        raise
    return BoundAddress(address, [ListeningSocket(bound, next(_numbers), None)], (status.st_dev, status.st_ino))


def _remove_stale(path: Path) -> None:
    """Removes a socket file that a process left behind when it died: nobody accepts there.

    Raises:
        OSError: EADDRINUSE for a socket in use, EEXIST for a file that is no socket.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as caller:
        try:
            caller.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EPROTOTYPE):  # EAGAIN: it listens and its backlog is full
                raise
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _explain(address: BindAddress, error: OSError, own: str) -> str:
    """What the kernel said, and what to do about it. `own` is an address of this process that is in the way, or nothing."""
    what = (error.strerror or str(error)).lower()
    if error.errno == errno.EADDRINUSE and own:
        return f"{what}; this process listens on {own}, which includes it: restart to change from one to the other"
    if error.errno == errno.EADDRINUSE and address.unix_path:
        return f"{what}; stop the process that accepts there or choose another path"
    if error.errno == errno.EADDRINUSE:
        return f"{what}; stop the process that listens there (`ss -ltnp sport = :{address.port}` names it) or choose another port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{what}; no interface of this machine has it (`ip address` lists them)"
    if error.errno in (errno.EACCES, errno.EPERM) and 0 < address.port < 1024:
        return f"{what}; ports below 1024 need root or CAP_NET_BIND_SERVICE: choose a higher port"
    if error.errno == errno.ENOENT:
        return f"{what}; its directory has to exist"
    if error.errno == errno.EAFNOSUPPORT:
        return f"{what}; this kernel has no IPv6"
    return what
