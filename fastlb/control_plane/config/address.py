"""Addresses as configurations write them: what a listener binds, where a backend is, which networks are trusted.

"127.0.0.1:8080"   "[::1]:8080"   "unix:/run/app.sock"      listeners and backends
":8080"                                                     listeners: every IPv4 and, where the kernel has it, IPv6 address
"app.example:8080"                                          backends: a name, resolved by the control plane
"srv:_http._tcp.app.example"                                backends: a service of DNS, which also says ports, weights and priorities
"""

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network, NetmaskValueError

from fastlb.control_plane.config.errors import Rejected, quote

Network = IPv4Network | IPv6Network

ANY_HOST = "*"
# sockaddr_un.sun_path holds 108 bytes with the zero byte at the end (unix(7)).
MAX_UNIX_PATH_BYTES = 107
# RFC 1035 section 2.3.4: a name takes 255 bytes on the wire, which is 253 characters, and 63 between dots.
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = rf"(?=.{{1,254}}$)(?:{_LABEL}\.)*{_LABEL}\.?"  # compiled by the first name: a start of fastlb should not wait for it
_FORMS = '"127.0.0.1:8080", "[::1]:8080"'
_SERVICE = "srv:"


@dataclass(frozen=True, slots=True)
class BindAddress:
    """What one entry of a listener's `bind` asks for.

    Args:
        host: numeric; "*" for every address of the machine; "" for a unix socket.
        port: 0 lets the kernel choose; 0 for a unix socket too.
        unix_path: "" unless this is a unix socket.
        udp: whether datagrams come there, and no connections.
    """

    host: str
    port: int
    unix_path: str = ""
    udp: bool = False

    def __str__(self) -> str:
        if self.unix_path:
            return f"unix:{self.unix_path}"
        return f":{self.port}" if self.host == ANY_HOST else format_host_port(self.host, self.port)

    def overlaps(self, other: "BindAddress") -> bool:
        """Whether the kernel would refuse to bind the second one."""
        if self.unix_path or other.unix_path:
            return self.unix_path == other.unix_path
        if self.port != other.port or not self.port or self.udp != other.udp:
            return False
        if ANY_HOST in (self.host, other.host):
            return True
        same_family = (":" in self.host) == (":" in other.host)
        return same_family and (self.host == other.host or bool({self.host, other.host} & {"0.0.0.0", "::"}))


@dataclass(frozen=True, slots=True)
class BackendAddress:
    """Where a backend is.

    Args:
        host: an IP address, or a name to resolve; "" for a unix socket.
        port: 1…65535; 0 for a unix socket, and for a service, which says the ports itself.
        unix_path: "" unless this is a unix socket.
        is_name: `host` has to be resolved.
        is_service: `host` is the name of SRV records (RFC 2782).
    """

    host: str
    port: int
    unix_path: str = ""
    is_name: bool = False
    is_service: bool = False

    def __str__(self) -> str:
        if self.unix_path:
            return f"unix:{self.unix_path}"
        return self.question if self.is_service else format_host_port(self.host, self.port)

    @property
    def question(self) -> str:
        """What the resolver is asked; "" where there is nothing to ask."""
        return f"{_SERVICE}{self.host}" if self.is_service else self.host if self.is_name else ""


def format_host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_bind_address(text: str) -> BindAddress:
    """Reads one entry of `bind`.

    Raises:
        Rejected: not an address, no port, a name, an abstract socket, a path that is too long.
    """
    if text.startswith("unix:"):
        return BindAddress("", 0, _parse_unix_path(text))
    host, port_text = _split_host_port(text, "a listener")
    port = _parse_port(text, host, port_text, least=0)
    if host in ("", ANY_HOST):
        if host == ANY_HOST:
            raise Rejected(f"{quote(text)} is not an address", "an empty host means every address", f":{port}")
        return BindAddress(ANY_HOST, port)
    address = _parse_ip(text, host, port)
    if address is None:
        suggestion = f"127.0.0.1:{port}" if host.casefold().startswith("localhost") else None
        raise Rejected(f"{quote(host)} is a name", f'a listener binds an IP address ({_FORMS}) or every address (":8080")', suggestion)
    return BindAddress(address, port)


def parse_backend_address(text: str) -> BackendAddress:
    """Reads the address of a backend.

    Raises:
        Rejected: not an address, no port, port 0, brackets that do not match, a URL, an abstract socket, a path that is too long.
    """
    if text.startswith("unix:"):
        return BackendAddress("", 0, _parse_unix_path(text))
    if text.startswith(_SERVICE):
        return _parse_service(text)
    host, port_text = _split_host_port(text, "a backend")
    port = _parse_port(text, host, port_text, least=1)
    if not host or host == ANY_HOST:
        raise Rejected(f"{quote(text)} has no host", f"a backend is one address with its port: {_FORMS}", f"127.0.0.1:{port}")
    address = _parse_ip(text, host, port)
    if address is None:
        _check_name(text, host, port)
        return BackendAddress(host.casefold().removesuffix("."), port, is_name=True)
    if "%" in address:
        raise Rejected(f"{quote(text)} has a zone", "link-local backends are not in this version: use a global or private address")
    return BackendAddress(address, port)


def parse_server_address(text: str) -> tuple[str, int]:
    """Reads the address of a name server; the port is 53 unless it is given.

    Raises:
        Rejected: a name, or not an address.
    """
    bare = text.removeprefix("[").removesuffix("]")
    if _is_ip(bare) or (not bare.strip("0123456789.") and bare.count(".") == 3):
        host, port_text = bare, "53"
    else:
        host, port_text = _split_host_port(text, "a name server")
    port = _parse_port(text, host, port_text, least=1)
    address = _parse_ip(text, host, port)
    if address is None:
        right = 'a name server is given by its IP address: "10.0.0.2", "10.0.0.2:5353", "[2001:db8::53]"'
        raise Rejected(f"{quote(text)} is a name", right)
    return address, port


def parse_network(text: str) -> Network:
    """Reads a network such as "10.0.0.0/8" or "2001:db8::/32", or one address.

    Raises:
        Rejected: not a network, a prefix out of range, host bits set.
    """
    right = 'a network is an address with its prefix length: "10.0.0.0/8", "2001:db8::/32"'
    kind = IPv6Network if ":" in text else IPv4Network
    try:
        return kind(text)
    except (AddressValueError, NetmaskValueError):
        raise Rejected(f"{quote(text)} is not a network", right) from None
    except ValueError:
        meant = str(kind(text, strict=False))
        raise Rejected(f"{quote(text)} has bits set behind its prefix", "a network has zeros there", meant) from None


def _split_host_port(text: str, whose: str) -> tuple[str, str]:
    """The host without brackets and the text of the port."""
    forms = f'{whose} is written {_FORMS} or "unix:/path"'
    scheme, is_url, rest = text.partition("://")
    if is_url:
        if scheme.casefold() in ("http", "tcp"):
            raise Rejected(f"{quote(text)} is a URL", forms, rest.partition("/")[0] or None)
        raise Rejected(f"{quote(text)} is a URL", f"{forms}; {quote(scheme)} is not in this version")
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket:
            raise Rejected(f'{quote(text)} lacks "]"', f"an IPv6 address stands in brackets, the port behind them: {_FORMS}")
        if not rest.startswith(":"):
            if rest:
                raise Rejected(f"{quote(text)} has no colon behind the bracket", "the port stands behind it", f"[{host}]:{rest}")
            return host, ""
        if ":" not in host:
            raise Rejected(f"{quote(host)} is not an IPv6 address", "only IPv6 addresses stand in brackets", f"{host}{rest}")
        return host, rest[1:]
    host, colon, port = text.rpartition(":")
    if ":" in host:
        fits = _is_ip(text) and not _is_ip(host)
        suggestion = f"[{text}]:8080" if fits else f"[{host}]:{port}" if _is_ip(host) else None
        raise Rejected(f"{quote(text)} has colons outside brackets", f"an IPv6 address stands in brackets: {_FORMS}", suggestion)
    return (host, port) if colon else (text, "")


def _parse_port(text: str, host: str, written: str, least: int) -> int:
    if not written:
        if not host.isdigit():
            shown = f"[{host}]:8080" if ":" in host else f"{host}:8080"
            raise Rejected(f"{quote(text)} has no port", f"the port stands behind the address, such as {quote(shown)}")
        meant = f":{host}" if least == 0 else f"127.0.0.1:{host}"
        raise Rejected(f"{quote(text)} is only a number", "a port stands behind a colon", meant)
    if not (written.isascii() and written.isdigit() and len(written) <= 5) or not least <= int(written) <= 65535:
        raise Rejected(f"{quote(written)} is not a port", f"a port is a number from {least} to 65535")
    return int(written)


def _parse_ip(text: str, host: str, port: int) -> str | None:
    """The address in its canonical form, or None for what may be a name."""
    if ":" in host:
        try:
            return str(IPv6Address(host))
        except AddressValueError:
            raise Rejected(f"{quote(host)} is not an IPv6 address", 'such as "[2001:db8::1]:8080" or "[::1]:8080"') from None
    if not host.strip("0123456789."):
        try:
            return str(IPv4Address(host))
        except AddressValueError:
            raise Rejected(f"{quote(host)} is not an IPv4 address", f'four numbers from 0 to 255, such as "10.0.0.1:{port}"') from None
    return None


def _is_ip(text: str) -> bool:
    try:
        IPv6Address(text)
    except AddressValueError:
        return False
    return True


def _check_name(text: str, name: str, port: int) -> None:
    if re.fullmatch(_NAME, name):
        return
    suggestion = None
    if not name.isascii():
        try:
            suggestion = f"{name.encode('idna').decode('ascii')}:{port}"
        except UnicodeError:
            pass
    right = "a host name is made of letters, digits, - and _, with dots between parts of at most 63 characters"
    raise Rejected(f"{quote(text)} is neither an address nor a name", right, suggestion)


def _parse_service(text: str) -> BackendAddress:
    name = text.removeprefix(_SERVICE)
    if ":" in name:
        raise Rejected(f"{quote(text)} has a port", "the service's records say the ports", f"{_SERVICE}{name.partition(':')[0]}")
    if not re.fullmatch(_NAME, name):
        raise Rejected(f"{quote(name)} is not the name of a service", 'such as "srv:_http._tcp.app.example"')
    return BackendAddress(name.casefold().removesuffix("."), 0, is_name=True, is_service=True)


def _parse_unix_path(text: str) -> str:
    path = text.removeprefix("unix:")
    if path.startswith("//"):
        raise Rejected(f"{quote(text)} is a URL", "a unix socket is written with its path", f"unix:/{path.lstrip('/')}")
    if not path:
        raise Rejected('"unix:" has no path', 'a unix socket is written with its path: "unix:/run/app.sock"')
    if path.startswith("@"):
        raise Rejected(f"{quote(text)} is an abstract socket", 'this version has sockets with a path only: "unix:/run/app.sock"')
    if "\0" in path:
        raise Rejected(f"{quote(text)} holds a zero byte", "a path cannot")
    size = len(path.encode("utf-8", "surrogateescape"))
    if size > MAX_UNIX_PATH_BYTES:
        raise Rejected(f"a unix socket path of {size} bytes", f"the kernel takes at most {MAX_UNIX_PATH_BYTES}: use a shorter directory")
    return path
