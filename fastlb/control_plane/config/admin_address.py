"""Where the admin API listens: `[global] admin`.

"auto"                                    a unix socket in the runtime directory
"off"                                     nowhere
"unix:/run/lb.sock", "127.0.0.1:9090"     here; only the machine itself can reach either
"""

from dataclasses import dataclass
from ipaddress import ip_address

from fastlb.control_plane.config.address import ANY_HOST, BindAddress, parse_bind_address
from fastlb.control_plane.config.errors import Rejected, describe, quote
from fastlb.control_plane.config.kind import ListOf, Text
from fastlb.control_plane.config.reader import Reader
from fastlb.control_plane.config.toml import KeyPath

EXAMPLE = "unix:/run/fastlb/fastlb.sock"
# A unix socket for the operator and a port for the collector of metrics are two.
MOST_ADDRESSES = 4


@dataclass(frozen=True, slots=True)
class AdminAddresses:
    """Where to listen; `usual` for the socket in the runtime directory, wherever that is."""

    addresses: tuple[BindAddress, ...] = ()
    usual: bool = False

    def __str__(self) -> str:
        return "auto" if self.usual else ", ".join(map(str, self.addresses)) or "off"


def parse_admin_address(text: str) -> BindAddress:
    """Reads one address.

    Raises:
        Rejected: it is none, or others than this machine could reach it: nobody is asked who they are yet.
    """
    if text.startswith("/"):
        raise Rejected(f"{quote(text)} is a path", "a unix socket is written with its scheme", f"unix:{text}")
    address = parse_bind_address(text)
    if not address.unix_path and (address.host == ANY_HOST or not ip_address(address.host.partition("%")[0]).is_loopback):
        right = "the admin API has no authentication yet, so it listens on unix sockets and on loopback addresses only"
        raise Rejected(f"{quote(text)} can be reached by others than this machine", right, f"127.0.0.1:{address.port}")
    return address


class AdminList:
    """ "auto", "off", one address or a list of them."""

    unit = "an address, or a list"

    def __init__(self) -> None:
        self._kind = ListOf(Text("an address", parse_admin_address, EXAMPLE), identity=str)

    def range_text(self) -> str:
        return f'"auto", "off", or {self._kind.range_text()}'

    def read(self, written: object, path: KeyPath, reader: Reader) -> AdminAddresses | None:
        if written == "auto":
            return AdminAddresses(usual=True)
        if written == "off":
            return AdminAddresses()
        if isinstance(written, bool):
            reader.reject(path, f"found {describe(written)}", self.range_text(), "auto" if written else "off")
            return None
        addresses = self._kind.read(written, path, reader)
        if addresses is None:
            return None
        if len(addresses) > MOST_ADDRESSES:
            reader.reject(path, f"found {len(addresses)} addresses", f"at most {MOST_ADDRESSES}")
        return AdminAddresses(addresses)
