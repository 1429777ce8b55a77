"""Headers of the PROXY protocol: from whom a listener takes them, and what a pool tells its backends."""

from dataclasses import dataclass

from fastlb.control_plane.config.address import Network, parse_network
from fastlb.control_plane.config.errors import describe
from fastlb.control_plane.config.kind import Choice, ListOf, Text, duration
from fastlb.control_plane.config.option import TextOrTable, option, read_table
from fastlb.control_plane.config.reader import Reader
from fastlb.control_plane.config.toml import KeyPath

# Who connects through a unix socket, which has no address.
UNIX = "unix:"
OFF = "off"
REFUSE = "refuse"
PLAIN = "plain"


def parse_sender(text: str) -> Network | str:
    """A network, or "unix:"."""
    return UNIX if text == UNIX else parse_network(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyProtocol:
    """`proxy_protocol` of a listener. Off where nobody sends headers."""

    senders: tuple[Network | str, ...] = option(
        "from",
        ListOf(Text("a network", parse_sender, "10.0.0.0/8"), identity=lambda network: network),
        [],
        ("networks", "trusted", "trusted_networks", "trustedips", "set_real_ip_from", "senders", "proxies", "allow"),
    )
    timeout_ms: int = option("timeout", duration("10ms", "60s"), "3s", ("header_timeout", "proxy_header_timeout"))
    others: str = option(
        "others",
        Choice(
            (REFUSE, PLAIN), also_called={"reject": REFUSE, "deny": REFUSE, "close": REFUSE, "accept": PLAIN, "allow": PLAIN, "skip": PLAIN}
        ),
        REFUSE,
        ("fallback", "untrusted", "fallback_policy", "required"),
    )

    @property
    def is_on(self) -> bool:
        return bool(self.senders)

    @property
    def is_required(self) -> bool:
        """Whether every client has to be named by a header."""
        return self.is_on and self.others == REFUSE


class ProxyProtocolKind(TextOrTable[ProxyProtocol]):
    """A table, or those who send headers alone."""

    def __init__(self) -> None:
        super().__init__(ProxyProtocol, "from")

    def read(self, written: object, path: KeyPath, reader: Reader) -> ProxyProtocol | None:
        if isinstance(written, str | list):
            return read_table(ProxyProtocol, {"from": written}, path, reader)
        if isinstance(written, dict):
            return read_table(ProxyProtocol, written, path, reader)
        right = 'say who sends headers, as whoever does is believed about its clients: proxy_protocol = { from = ["10.0.0.0/8"] }'
        reader.reject(path, f"found {describe(written)}", right)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyHeader:
    """`proxy_protocol` of a pool: what each connection to its backends begins with."""

    version: str = option(
        "version",
        Choice((OFF, "v1", "v2"), also_called={"1": "v1", "2": "v2", "on": "v2", "send-proxy": "v1", "send-proxy-v2": "v2", "none": OFF}),
        OFF,
        ("send-proxy", "proxy_protocol_version"),
    )
    tlvs: tuple[str, ...] = option(
        "tlvs",
        ListOf(
            Choice(
                ("alpn", "authority", "unique_id", "tls", "crc32c"),
                also_called={
                    "ssl": "tls",
                    "cert-cn": "tls",
                    "ssl-cipher": "tls",
                    "unique-id": "unique_id",
                    "sni": "authority",
                    "checksum": "crc32c",
                },
            ),
            identity=lambda word: word,
        ),
        [],
        ("proxy-v2-options", "options", "tlv", "proxy_protocol_tlv"),
    )

    @property
    def is_on(self) -> bool:
        return self.version != OFF

    @property
    def of_probes(self) -> bytes:
        """What we say where we speak for ourselves."""
        return {OFF: b"", "v1": b"PROXY UNKNOWN\r\n", "v2": b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"}[self.version]


def check_proxy_protocol(reader: Reader) -> None:
    """That every listener with a table says who sends headers, and that pools can have theirs."""
    for path, header in reader.all_read(ProxyHeader):
        pool = reader.source.values["pools"][path[1]]
        if header.tlvs and header.version != "v2":
            reader.reject_key((*path, "tlvs"), "only version 2 tells more than addresses", 'version = "v2", or leave tlvs out')
        if header.is_on and pool.get("protocol", "http1") != "http1":
            right = 'protocol = "http1"; or leave it out: X-Forwarded-For tells of each request whose it is'
            reader.reject_key(path, "a PROXY header is about one client, and connections of HTTP/2 have many", right)
        if header.is_on and "keepalive" in pool:
            right = "leave it out: each connection is for one client"
            reader.reject_key((*path[:2], "keepalive"), "connections that begin with a PROXY header are not kept", right)
    for path, _ in reader.all_read(ProxyProtocol):
        written = reader.source.values["listeners"][path[1]][path[2]]
        if isinstance(written, dict) and "from" not in written:
            reader.reject_key(path, f"{path[2]} does not say who sends headers", 'from = ["10.0.0.0/8"]: whoever does is believed')
