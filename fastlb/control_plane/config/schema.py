"""Every option there is, as frozen dataclasses: fields with their unit in the name, and beside each its key, kind, range and default.

A `Config` is what the rest of fastlb sees, whatever it was written in. Each option has a page in docs/options/; a test compares the two.
"""
# ruff: noqa: RUF009  option() and table() declare fields, as dataclasses.field() does

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from fastlb.control_plane.config.address import (
    BackendAddress,
    BindAddress,
    Network,
    parse_backend_address,
    parse_bind_address,
    parse_network,
    parse_server_address,
)
from fastlb.control_plane.config.admin_address import AdminAddresses, AdminList
from fastlb.control_plane.config.errors import Rejected, describe, quote
from fastlb.control_plane.config.health import Health
from fastlb.control_plane.config.kind import (
    Choice,
    ChoiceOr,
    Count,
    CountOrWord,
    Factor,
    Flag,
    FlagOrWord,
    ListOf,
    OrWord,
    Share,
    Text,
    duration,
    size,
)
from fastlb.control_plane.config.log_condition import LogCondition, parse_condition
from fastlb.control_plane.config.log_destination import LogDestination, parse_destination
from fastlb.control_plane.config.log_format import JSON_FIELDS, Field, LogFormat, Piece, make_json_format, parse_field, parse_format
from fastlb.control_plane.config.option import NamedTables, TableArray, TextOrTable, option, options_of, table
from fastlb.control_plane.config.passive_health import PassiveHealth
from fastlb.control_plane.config.proxy_protocol import ProxyHeader, ProxyProtocol, ProxyProtocolKind
from fastlb.control_plane.config.reader import Reader
from fastlb.control_plane.config.request_condition import (
    NamedCondition,
    NamedConditions,
    Wanted,
    parse_client,
    parse_cookie,
    parse_header,
    parse_method,
    parse_parameter,
)
from fastlb.control_plane.config.route_options import (
    PoolChoice,
    PoolShares,
    Redirect,
    RequestHeaders,
    Respond,
    ResponseHeaders,
    RouteLimits,
    RouteTimeouts,
    parse_prefix,
    parse_route_name,
)
from fastlb.control_plane.config.route_pattern import RoutePath, parse_host, parse_path
from fastlb.control_plane.config.sticky import Sticky
from fastlb.control_plane.config.template import Template, parse_key, parse_target
from fastlb.control_plane.config.tls import (
    BackendTls,
    BackendTlsKind,
    Hsts,
    ListenerTls,
    parse_passed_name,
    parse_pem_path,
    parse_protocol_name,
)
from fastlb.control_plane.config.toml import KeyPath
from fastlb.control_plane.config.udp_sessions import MAX_SERVER_ID_BYTES, Udp

HTTP = "http"
TCP = "tcp"
UDP = "udp"

ROUND_ROBIN = "round_robin"
WEIGHTED_ROUND_ROBIN = "weighted_round_robin"
LEAST_CONNECTIONS = "least_connections"
WEIGHTED_LEAST_CONNECTIONS = "weighted_least_connections"
IP_HASH = "ip_hash"
HASH = "hash"
CONSISTENT_HASH = "consistent_hash"
MAGLEV = "maglev"
RANDOM_TWO_CHOICES = "random_two_choices"
PEAK_EWMA = "peak_ewma"
LEAST_TIME = "least_time"

# What an algorithm looks at; the loader refuses what it would not.
WITHOUT_WEIGHTS = frozenset((ROUND_ROBIN, LEAST_CONNECTIONS))
WITH_KEY = frozenset((HASH, CONSISTENT_HASH, MAGLEV))
WITH_SLOW_START = frozenset(
    (WEIGHTED_ROUND_ROBIN, LEAST_CONNECTIONS, WEIGHTED_LEAST_CONNECTIONS, RANDOM_TWO_CHOICES, PEAK_EWMA, LEAST_TIME)
)

CLIENT_KEY = "{client}"
# What a picker of the user's own has in its name, and no algorithm.
PICKER_MARK = ":"
# Of drain_idle_grace: idle clients have their idle time-out.
NO_GRACE = 2**32 - 1
# Of a backend.
MAX_WEIGHT = 256
MAX_PRIORITY = 255

# What others call them.
_ALGORITHMS_ELSEWHERE = {
    "rr": ROUND_ROBIN,
    "roundrobin": ROUND_ROBIN,
    "wrr": WEIGHTED_ROUND_ROBIN,
    "static-rr": WEIGHTED_ROUND_ROBIN,
    "smooth": WEIGHTED_ROUND_ROBIN,
    "leastconn": WEIGHTED_LEAST_CONNECTIONS,
    "least_conn": WEIGHTED_LEAST_CONNECTIONS,
    "least_request": WEIGHTED_LEAST_CONNECTIONS,
    "lc": LEAST_CONNECTIONS,
    "wlc": WEIGHTED_LEAST_CONNECTIONS,
    "source": IP_HASH,
    "iphash": IP_HASH,
    "source_hash": IP_HASH,
    "ketama": CONSISTENT_HASH,
    "ring_hash": CONSISTENT_HASH,
    "chash": CONSISTENT_HASH,
    "uri": CONSISTENT_HASH,
    "random": RANDOM_TWO_CHOICES,
    "p2c": RANDOM_TWO_CHOICES,
    "two": RANDOM_TWO_CHOICES,
    "power_of_two_choices": RANDOM_TWO_CHOICES,
    "ewma": PEAK_EWMA,
    "fastest": LEAST_TIME,
    "least_response_time": LEAST_TIME,
}

# Of one listener; each costs a line and a condition per exchange.
MOST_LOGS = 16
# Different header fields in the logs of one listener: an exchange keeps 64 values, a dozen of which are others.
MOST_LOGGED_HEADERS = 48
# Of a whole configuration; a worker keeps those of earlier ones beside them.
MOST_LOG_DESTINATIONS = 64

# What other load balancers call the ends of an attempt after which another backend is asked.
RETRY_WORDS = {
    "error": "connect",
    "conn-failure": "connect",
    "connect-failure": "connect",
    "empty-response": "closed",
    "response-timeout": "timeout",
    "invalid_header": "bad_response",
    "junk-response": "bad_response",
    **{f"http_{status}": str(status) for status in (403, 404, 429, 500, 502, 503, 504)},
}

# Deadlines are kept in 32 bits of milliseconds, 49 days; nobody waits longer than a month.
LONGEST = "30d"

# More processes than any machine that we know of has use for: each takes all clients of its share of the connections.
MAX_WORKERS = 128

_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}"
_FIELD_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}"  # RFC 9110 section 5.6.2
# What useradd accepts and what directories (LDAP, Active Directory) are known to hand out; 32 characters as in utmp(5), some allow more.
_ACCOUNT = r"[A-Za-z0-9_][A-Za-z0-9_.@\\-]{0,63}\$?"
# Fields that say how a message is framed or routed: an extra one of these would break it.
_FRAMING_HEADERS = frozenset(
    ("connection", "content-length", "content-type", "date", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade")
)


def parse_name(text: str) -> str:
    """A name for messages, counters and metrics: letters, digits, _ . - (at most 64)."""
    if re.fullmatch(_NAME, text):
        return text
    meant = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.")[:64]
    raise Rejected(f"{quote(text)} is not a name", "a name is 1 to 64 letters, digits, _, . and -", meant or None)


def parse_header_name(text: str) -> str:
    """The name of a header field, or "" for none."""
    if text and not re.fullmatch(_FIELD_NAME, text):
        meant = re.sub(r"[^A-Za-z0-9-]+", "-", text).strip("-")[:128]
        right = 'a header name is made of letters, digits and -; "" turns it off'
        raise Rejected(f"{quote(text)} is not a header name", right, meant or None)
    if text.casefold() in _FRAMING_HEADERS:
        raise Rejected(f"{quote(text)} has a meaning of its own", "choose a name that HTTP does not use", "X-Fastlb-Reason")
    return text


def parse_place(text: str) -> str:
    """The name of a zone or of this node, or "" for none."""
    return parse_name(text) if text else text


def parse_server_id(text: str) -> str:
    """What a backend calls itself in connection ids of QUIC, in small hexadecimal digits, or "" for nothing."""
    if re.fullmatch(r"(?:[0-9a-fA-F]{2})*", text) and len(text) <= 2 * MAX_SERVER_ID_BYTES:
        return text.lower()
    right = f"a server id is 1 to {MAX_SERVER_ID_BYTES} bytes, each of two hexadecimal digits"
    raise Rejected(f"{quote(text)} is not a server id", right)


def parse_account(text: str) -> str:
    """The name or number of a user or a group, or "". Whether it exists is looked up at the start: a file may be checked elsewhere."""
    if not text or re.fullmatch(_ACCOUNT, text):
        return text
    first, *rest = re.split(r"[\s:;]+", text.strip())
    right = "a user or group is its name or its number in /etc/passwd or /etc/group"
    if rest and rest[0]:
        right += "; the group has a key of its own"
    raise Rejected(
        f"{quote(text)} is not the name of an account", right, first if re.fullmatch(_ACCOUNT, first) and first != text else None
    )


def parse_file_path(text: str) -> str:
    """The path of a file that fastlb writes, or "" for none."""
    if "\0" in text:
        raise Rejected(f"{quote(text)} holds a zero byte", "a path cannot")
    if text.endswith("/") or text.rpartition("/")[2] in (".", ".."):
        raise Rejected(f"{quote(text)} is a directory", "give the path of a file in it", f"{text.rstrip('/.')}/fastlb.pid")
    return text


def parse_directory(text: str) -> str:
    """The path of a directory that fastlb keeps files in, or "" for the usual one."""
    if "\0" in text:
        raise Rejected(f"{quote(text)} holds a zero byte", "a path cannot")
    return text


# Connections to backends come from the address of the client for whom they are made.
CLIENT_SOURCE = "client"


def parse_source(text: str) -> str:
    """An address of this node, "client" for that of the client, or "" for the system's choice."""
    if text in ("", CLIENT_SOURCE):
        return text
    try:
        return str(ip_address(text))
    except ValueError:
        raise Rejected(
            f"{quote(text)} is no IP address",
            'connections come from an address of this node, or from the "client"; ports are the system\'s choice',
        ) from None


def parse_secret(text: str) -> str:
    """A secret, or "" for none. Messages never repeat it."""
    if text and not (16 <= len(text) <= 1024):
        raise Rejected(f"this secret has {len(text)} characters", "it has to have 16 to 1024, such as `openssl rand -hex 32` makes")
    return text


def parse_picker(text: str) -> str:
    """Where a picker of the user's own is found in Python: "module:name"."""
    module, _, name = text.partition(PICKER_MARK)
    if all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        return text
    raise Rejected(f"{quote(text)} is not the name of a picker", 'it is the name of a Python module and of a function in it: "module:name"')


def parse_module_directory(text: str) -> str:
    """An absolute path."""
    if text.startswith("/") and "\0" not in text:
        return text
    raise Rejected(f"{quote(text)} is not an absolute path", "workers run in a directory of their own: begin with /")


_NAME_TEXT = Text("a name", parse_name, "web")


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalSettings:
    """[global]: what concerns the whole process."""

    reason_header: str = option("reason_header", Text("a header name", parse_header_name, "X-Fastlb-Reason"), "X-Fastlb-Reason")
    forwarded_headers: bool = option("forwarded_headers", Flag(), True)
    request_id: bool = option("request_id", Flag(), True)
    trusted_networks: tuple[Network, ...] = option(
        "trusted_networks", ListOf(Text("a network", parse_network, "10.0.0.0/8")), [], ("set_real_ip_from", "trusted_proxies")
    )
    watch: bool = option("watch", Flag(), False, ("watch_file", "live_reload", "auto_reload"))
    drain_timeout_ms: int = option("drain_timeout", duration("0s", LONGEST), "30s")
    drain_idle_grace_ms: int = option("drain_idle_grace", OrWord(duration("0s", "1h"), "idle", NO_GRACE), "idle")
    # Two descriptors per connection, and Linux allows at most 2^30 in a process (fs.nr_open's own limit).
    log_buffer_bytes: int = option("log_buffer", size("128KiB", "64MiB"), "1MiB")
    max_connections: int = option("max_connections", Count(1, 1 << 29, "from the descriptor limit"), 0, ("maxconn", "worker_connections"))
    workers: int = option(
        "workers", CountOrWord(1, MAX_WORKERS, "auto"), "auto", ("worker_processes", "nbproc", "nbthread", "processes", "threads")
    )
    user: str = option("user", Text("a user", parse_account, "www-data"), "", ("username", "uid", "run_as"))
    group: str = option("group", Text("a group", parse_account, "www-data"), "", ("groupname", "gid"))
    pid_file: str = option("pid_file", Text("a path", parse_file_path, "/run/fastlb.pid"), "", ("pid", "pidfile"))
    admin: AdminAddresses = option("admin", AdminList(), "auto", ("stats", "stats_socket", "admin_socket", "control", "api"))
    # 200 of them are neither clients nor backends (processes/descriptors.py).
    max_descriptors: int = option(
        "max_descriptors",
        Count(256, 1 << 30, "as high as allowed"),
        0,
        ("worker_rlimit_nofile", "ulimit-n", "ulimit_n", "nofile", "max_open_files", "fd-hard-limit"),
    )
    sticky_key: str = option("sticky_key", Text("a secret", parse_secret, "a8Vn2-4kPz-w0Qyt"), "", ("cookie_key", "dynamic-cookie-key"))
    sticky_key_file: str = option("sticky_key_file", Text("a path", parse_file_path, "/etc/fastlb/sticky.key"), "")
    ticket_key_file: str = option(
        "ticket_key_file",
        Text("a path", parse_pem_path, "/etc/fastlb/tickets.keys"),
        "",
        ("ticket_keys", "ssl_session_ticket_key", "tls-ticket-keys"),
    )
    ticket_key_rotation_ms: int = option("ticket_key_rotation", duration("10m", "7d"), "12h", ("ticket_rotation",))
    state_dir: str = option("state_dir", Text("a path", parse_directory, "/var/lib/fastlb"), "", ("state_directory",))
    resolver: tuple[tuple[str, int], ...] = option(
        "resolver", ListOf(Text("a name server", parse_server_address, "10.0.0.2")), [], ("resolvers", "nameserver", "nameservers", "dns")
    )
    zone: str = option("zone", Text("a zone", parse_place, "eu-west-1a"), "", ("locality", "az", "availability_zone"))
    node: str = option("node", Text("a name", parse_place, "lb-3"), "", ("node_name", "hostname"))
    python_path: tuple[str, ...] = option(
        "python_path",
        ListOf(Text("a directory", parse_module_directory, "/etc/fastlb/pickers")),
        [],
        ("pythonpath", "module_path", "lua_package_path", "plugins"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessLog:
    """[access_log], or one of the logs of a listener: a line for each exchange."""

    to: LogDestination = option(
        "to",
        Text("a destination", parse_destination, "/var/log/fastlb/access.log"),
        also_called=("path", "file", "destination", "output", "target"),
    )
    format: LogFormat = option("format", Text("a format", parse_format, "{client} {request} {status}"), "combined", ("log_format",))
    fields: tuple[str, ...] = option("fields", ListOf(Text("a field", parse_field, "status")), [])
    sample: float = option("sample", Share(), 1.0, ("sampling", "rate", "ratio"))
    when: LogCondition = option("when", Text("a condition", parse_condition, "status >= 400 or duration > 1s"), "", ("if", "condition"))

    def pieces(self) -> tuple[Piece, ...]:
        """What a line is put together from."""
        return make_json_format(self.fields or JSON_FIELDS).pieces if self.format.text == "json" else self.format.pieces

    def headers(self) -> set[str]:
        """The header fields that its lines and its condition want, as request.NAME and response.NAME."""
        written = {piece.name for piece in self.pieces() if isinstance(piece, Field)}
        return {name for name in written | self.when.fields() if "." in name}


@dataclass(frozen=True, slots=True)
class AccessLogs:
    """All logs of a listener; `inherited` where it has those of the whole configuration."""

    logs: tuple[AccessLog, ...] = ()
    inherited: bool = False


class LogList:
    """ "off", one log or a list of them, each a destination or a table; a listener may also have "inherit"."""

    def __init__(self, may_inherit: bool) -> None:
        self.may_inherit = may_inherit
        self.unit = "a log, or a list"
        self._kind = ListOf(TextOrTable(AccessLog, "to"))

    def range_text(self) -> str:
        words = '"off", "inherit"' if self.may_inherit else '"off"'
        return f'{words}, a destination such as "stdout", or a table: {", ".join(options_of(AccessLog))}'

    def read(self, written: object, path: KeyPath, reader: Reader) -> AccessLogs | None:
        if written == "off":
            return AccessLogs()
        if written == "inherit" and self.may_inherit:
            return AccessLogs(inherited=True)
        if isinstance(written, bool):
            reader.reject(path, f"found {describe(written)}", self.range_text(), None if written else "off")
            return None
        logs = self._kind.read(written, path, reader)
        if logs is None:
            return None
        if len(logs) > MOST_LOGS:
            reader.reject(path, f"found {len(logs)} logs", f"at most {MOST_LOGS}")
        return AccessLogs(logs)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerTimeouts:
    """How long a listener waits for its clients."""

    head_ms: int = option("head", duration("1ms", "1h"), "10s", ("client_header_timeout", "header", "request"))
    body_ms: int = option("body", duration("1ms", LONGEST), "60s", ("client_body_timeout",))
    idle_ms: int = option("idle", duration("1ms", LONGEST), "75s", ("keepalive_timeout", "keepalive", "keep_alive"))
    write_ms: int = option("write", duration("1ms", LONGEST), "60s", ("send_timeout", "send"))
    session_ms: int = option("session", duration("1ms", LONGEST, "no limit"), 0, ("total", "max_connection_duration"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerLimits:
    """How much a listener takes from a client. The engine keeps a head in one buffer of 64 KiB and its fields in 256 slots."""

    head_bytes: int = option("head", size("1KiB", "64KiB"), "32KiB", ("header", "large_client_header_buffers"))
    target_bytes: int = option("target", size("64B", "64KiB"), "8KiB", ("uri", "url"))
    headers: int = option("headers", Count(1, 256), 100)
    body_bytes: int = option("body", size("1B", "1024TiB", "no limit"), 0, ("client_max_body_size",))


@dataclass(frozen=True, slots=True, kw_only=True)
class Http2:
    """Whether and how a listener speaks HTTP/2. Of a stream's body at most its window waits in one buffer of 256 KiB."""

    enabled: bool = option("enabled", Flag(), True, ("on", "enable"))
    streams: int = option("streams", Count(1, 1000), 128, ("max_concurrent_streams", "http2_max_concurrent_streams", "max_streams"))
    window_bytes: int = option("window", size("64KiB", "252KiB"), "64KiB", ("initial_window_size", "initial_stream_window_size"))
    connection_window_bytes: int = option(
        "connection_window", size("64KiB", "16MiB"), "1MiB", ("initial_connection_window_size", "session_window")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpKeepalive:
    """Probes of the kernel on connections that are silent, which find out that the other side is gone."""

    idle_ms: int = option("idle", duration("1s", "8h", "off"), 0, ("time", "keepidle", "tcp_keepidle"))
    interval_ms: int = option("interval", duration("1s", "1h"), "15s", ("intvl", "keepintvl", "tcp_keepintvl"))
    count: int = option("count", Count(1, 127), 4, ("probes", "keepcnt", "tcp_keepcnt"))

    def numbers(self) -> tuple[int, int, int]:
        """As sockets have it, in seconds; zeroes where it is off."""
        return (-(-self.idle_ms // 1000), -(-self.interval_ms // 1000), self.count) if self.idle_ms else (0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SniRule:
    """[[listeners.sni]]: where TLS that is passed on goes, by what its client asks for."""

    names: tuple[str, ...] = option(
        "names",
        ListOf(Text("a name", parse_passed_name, "shop.example.com"), least=1, identity=lambda name: name),
        "*",
        ("name", "hosts", "host", "server_names", "server_name", "domains", "sni"),
    )
    alpn: tuple[str, ...] = option(
        "alpn", ListOf(Text("a protocol", parse_protocol_name, "h2"), identity=lambda name: name), [], ("protocols", "next_protocols")
    )
    pool: str = option("pool", Text("a pool's name", str, "web"), also_called=("backend", "upstream", "proxy_pass", "target", "to"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """[[listeners]]: addresses that accept clients."""

    def session_pools(self) -> list[str]:
        """The pools that its TCP sessions go to."""
        return [rule.pool for rule in self.sni] + ([self.pool] if self.pool else [])

    @property
    def keepalive(self) -> tuple[int, int, int]:
        """Of its clients' connections, as sockets have it."""
        return self.tcp_keepalive.numbers()

    def scheme(self) -> str:
        """What its addresses are called with."""
        return self.protocol if self.protocol != HTTP else "https" if self.tls.is_on else "http"

    def defers_accept(self) -> bool:
        """Whether the kernel keeps a client back until it has said something: unless told otherwise, where clients speak first."""
        speaks_first = self.protocol == HTTP or self.tls.is_on or bool(self.sni) or self.proxy_protocol.is_required
        return self.defer_accept is True or (self.defer_accept == "auto" and speaks_first)

    name: str = option("name", _NAME_TEXT)
    bind: tuple[BindAddress, ...] = option(
        "bind",
        ListOf(Text("an address", parse_bind_address, "127.0.0.1:8080"), least=1),
        also_called=("listen", "address", "addresses", "port"),
    )
    protocol: str = option(
        "protocol",
        Choice((HTTP, TCP, UDP), not_yet=("http2", "h2"), also_called={"https": HTTP, "stream": TCP, "tls": TCP, "ssl": TCP, "dgram": UDP}),
        HTTP,
        ("mode",),
    )
    pool: str = option(
        "pool",
        Text("a pool's name", str, "db"),
        "",
        ("backend", "default_backend", "upstream", "proxy_pass", "target", "to", "default_pool"),
    )
    sni: tuple[SniRule, ...] = option(
        "sni", TableArray(SniRule), [], ("ssl_preread", "tls_passthrough", "passthrough", "server_names"), SniRule
    )
    timeouts: ListenerTimeouts = table("timeouts", ListenerTimeouts)
    limits: ListenerLimits = table("limits", ListenerLimits)
    http2: Http2 = table("http2", Http2, ("h2",))
    backlog: int = option("backlog", Count(1, 65535), 4096)
    access_log: AccessLogs = option("access_log", LogList(may_inherit=True), "inherit", ("access_logs", "log", "logs"))
    defer_accept: bool | str = option("defer_accept", FlagOrWord("auto"), "auto", ("deferred", "defer-accept"))
    tcp_keepalive: TcpKeepalive = table("tcp_keepalive", TcpKeepalive, ("so_keepalive", "tcpka", "clitcpka", "tcp-keepalive"))
    tls: ListenerTls = table("tls", ListenerTls, ("ssl", "https"))
    hsts: Hsts = option("hsts", TextOrTable(Hsts, "max_age"), "off", ("strict_transport_security",), Hsts)
    udp: Udp = table("udp", Udp)
    redirect_https: bool = option(
        "redirect_https", Flag(), False, ("https_redirect", "ssl_redirect", "force_https", "redirect_to_https", "https_only")
    )
    proxy_protocol: ProxyProtocol = option(
        "proxy_protocol",
        ProxyProtocolKind(),
        [],
        ("accept-proxy", "accept_proxy", "proxyprotocol", "real_ip", "tcp-request"),
        ProxyProtocol,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """Where a route's requests go a second time, with nobody waiting for what comes of it; no pool: nowhere."""

    pool: str = option("pool", Text("a pool's name", str, "shadow"), "", ("backend", "to", "target"))
    share: float = option("share", Share(), 1.0, ("sample", "rate", "ratio", "percent", "fraction"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """[[routes]]: which requests go to which pool, or what is answered."""

    def is_unconditional(self) -> bool:
        """Whether it takes every request of its hosts that the literal part of its path fits."""
        return not (self.path.regex or self.methods or self.headers or self.query or self.cookies or self.clients)

    def templates(self) -> Iterator[Template]:
        """Every template of it that holds something."""
        yield from (one for one in (self.split_by, self.redirect.to, self.respond.body, self.rewrite) if one.pieces)
        for edits in (self.request_headers, self.response_headers):
            if edits.set or edits.add:
                yield from (value for _, value in (*edits.set, *edits.add))

    hosts: tuple[str, ...] = option("host", ListOf(Text("a host", parse_host, "shop.example.com"), least=1), "*", ("hosts", "server_name"))
    path: RoutePath = option("path", Text("a path", parse_path, "/api/"), "/", ("prefix", "location", "paths", "path_prefix"))
    methods: tuple[Wanted[str], ...] = option("method", ListOf(Text("a method", parse_method, "GET")), [], ("methods", "verbs"))
    headers: tuple[NamedCondition, ...] = option(
        "headers", NamedConditions("header field", parse_header, 'X-Canary = "true"'), {}, ("header", "match_headers")
    )
    query: tuple[NamedCondition, ...] = option(
        "query", NamedConditions("parameter", parse_parameter, 'beta = "1"'), {}, ("queries", "query_params", "params", "args")
    )
    cookies: tuple[NamedCondition, ...] = option("cookies", NamedConditions("cookie", parse_cookie, 'group = "b"'), {}, ("cookie",))
    clients: tuple[Wanted[Network], ...] = option(
        "clients", ListOf(Text("a network", parse_client, "10.0.0.0/8")), [], ("client", "client_ip", "remote_ip", "src", "networks")
    )
    listeners: tuple[str, ...] = option(
        "listener", ListOf(Text("a listener's name", str, "web")), [], ("listeners", "entrypoints", "entry_points", "frontend")
    )
    name: str = option("name", Text("a text", parse_route_name, "api"), "", ("id", "title"))
    pool: PoolShares = option("pool", PoolChoice(), "", ("backend", "upstream", "proxy_pass", "target", "to", "pools", "split"))
    split_by: Template = option("split_by", Text("a key", parse_key, "{cookie.uid}"), "", ("split_key", "split_clients"))
    redirect: Redirect = option("redirect", TextOrTable(Redirect, "to"), "", ("redirection",), Redirect)
    respond: Respond = table("respond", Respond, ("return", "answer", "fixed_response", "static_response"))
    strip_prefix: str = option("strip_prefix", Text("a path prefix", parse_prefix, "/api"), "", ("strip", "stripprefix", "prefix_strip"))
    replace_prefix: str = option("replace_prefix", Text("a path prefix", parse_prefix, "/v2"), "", ("prefix_rewrite", "replace"))
    rewrite: Template = option(
        "rewrite", Text("a target", parse_target, "/new{path}?{query}"), "", ("rewrite_uri", "set-uri", "url_rewrite")
    )
    request_headers: RequestHeaders = table("request_headers", RequestHeaders, ("proxy_set_header", "header_up"))
    response_headers: ResponseHeaders = table("response_headers", ResponseHeaders, ("add_header", "header_down"))
    timeouts: RouteTimeouts = table("timeouts", RouteTimeouts)
    limits: RouteLimits = table("limits", RouteLimits)
    mirror: Mirror = option("mirror", TextOrTable(Mirror, "pool"), "", ("shadow", "mirroring", "request_mirror_policies"), Mirror)
    # The engine keeps a list for each.
    priority: int = option("priority", Count(0, 7), 4, ("set-priority-class", "set_priority_class"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One address that requests are forwarded to."""

    address: BackendAddress = option(
        "address", Text("a backend", parse_backend_address, "10.0.0.11:8080"), also_called=("host", "server", "url")
    )
    weight: int = option("weight", Count(1, MAX_WEIGHT, "never picked"), 1)
    max_in_flight: int = option("max_connections", Count(1, (1 << 31) - 1, "no cap"), 0, ("max_in_flight", "max_conns", "maxconn"))
    backup: bool = option("backup", Flag(), False, ("fallback", "standby", "spare"))
    priority: int = option("priority", Count(0, MAX_PRIORITY), 0)
    zone: str = option("zone", Text("a zone", parse_place, "eu-west-1a"), "", ("locality", "az", "availability_zone"))
    server_id: str = option("server_id", Text("a server id", parse_server_id, "0a1b2c"), "", ("quic_server_id", "quic_lb_server_id"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Keepalive:
    """Connections to a backend that are kept for the next request."""

    max_idle: int = option("max_idle", Count(1, 65535, "one connection per request"), 1024, ("connections", "max"))
    idle_ms: int = option("idle", duration("1ms", LONGEST), "60s", ("timeout", "idle_timeout"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Requests that wait while every backend of a pool is at its cap."""

    max: int = option("max", Count(1, 1_000_000, "no queue"), 0, ("size", "length", "maxqueue"))
    timeout_ms: int = option("timeout", duration("1ms", "1h"), "5s", ("timeout_queue",))


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """What a pool may have under way at a time; what is beyond is refused."""

    connections: int = option("connections", Count(1, (1 << 31) - 1, "no limit"), 0, ("max_connections",))
    pending: int = option("pending", Count(1, (1 << 31) - 1, "no limit"), 0, ("max_pending_requests", "max_pending"))
    requests: int = option("requests", Count(1, (1 << 31) - 1, "no limit"), 0, ("max_requests",))
    retries: int = option("retries", Count(1, (1 << 31) - 1, "no limit"), 0, ("max_retries",))


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """When a request is sent to another backend."""

    on: tuple[str, ...] = option(
        "on",
        ListOf(
            Choice(
                ("connect", "closed", "reset", "timeout", "bad_response", "403", "404", "429", "500", "502", "503", "504", "5xx"),
                also_called=RETRY_WORDS,
            ),
            identity=lambda word: word,
        ),
        ["connect", "closed", "reset"],
        ("retry_on", "when", "conditions", "statuses"),
    )
    # An exchange remembers up to eight backends that failed it.
    attempts: int = option("attempts", Count(1, 8), 3, ("retries", "tries", "max_attempts", "proxy_next_upstream_tries", "num_retries"))
    within_ms: int = option("within", duration("1ms", LONGEST), "10s", ("timeout", "proxy_next_upstream_timeout"))
    budget: float = option("budget", Share(), 0.2, ("budget_percent", "retry_budget", "percent"))
    budget_floor: int = option("budget_floor", Count(0, 100_000), 10, ("min_retries_per_second", "floor"))
    unsafe: bool = option("unsafe", Flag(), False, ("non_idempotent", "any_method"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Hedge:
    """When a second backend is asked although the first one may still answer."""

    after_ms: int = option("after", duration("1ms", "1h", "off"), 0, ("delay", "hedge_after", "timeout"))


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolTimeouts:
    """How long an exchange waits for its backend."""

    connect_ms: int = option("connect", duration("1ms", "1h"), "5s", ("proxy_connect_timeout",))
    first_byte_ms: int = option("first_byte", duration("1ms", LONGEST), "60s", ("proxy_read_timeout", "read", "server", "response"))
    between_bytes_ms: int = option("between_bytes", duration("1ms", LONGEST), "60s", ("proxy_send_timeout", "send", "write"))
    exchange_ms: int = option("exchange", duration("1ms", LONGEST), "4h", ("request", "total"))
    tunnel_ms: int = option("tunnel", duration("1ms", LONGEST), "1h", ("websocket", "upgrade"))


_PROTOCOLS_ELSEWHERE = {
    **dict.fromkeys(("h1", "http/1.1", "1.1", "http"), "http1"),
    **dict.fromkeys(("h2", "h2c", "http/2", "2", "grpc"), "http2"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendHttp2:
    """How HTTP/2 is spoken with the backends of a pool. Its connections may bring as much as all streams together have windows for."""

    streams: int = option("streams", Count(1, 1000), 100, ("max_concurrent_streams", "max_streams", "http2_max_concurrent_streams"))
    window_bytes: int = option("window", size("64KiB", "252KiB"), "128KiB", ("initial_window_size", "initial_stream_window_size"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """[pools.NAME]: interchangeable backends under one algorithm."""

    name: str
    algorithm: str = option(
        "algorithm",
        ChoiceOr(
            (
                WEIGHTED_LEAST_CONNECTIONS,
                LEAST_CONNECTIONS,
                ROUND_ROBIN,
                WEIGHTED_ROUND_ROBIN,
                RANDOM_TWO_CHOICES,
                PEAK_EWMA,
                LEAST_TIME,
                IP_HASH,
                HASH,
                CONSISTENT_HASH,
                MAGLEV,
            ),
            PICKER_MARK,
            Text("a picker", parse_picker, "module:name"),
            also_called=_ALGORITHMS_ELSEWHERE,
        ),
        WEIGHTED_LEAST_CONNECTIONS,
        ("balance", "policy", "method", "strategy"),
    )
    backends: tuple[Backend, ...] = option(
        "backends",
        ListOf(TextOrTable(Backend, "address"), least=1, identity=lambda backend: backend.address),
        also_called=("backend", "servers", "server", "members", "upstreams", "nodes", "targets"),
        inner=Backend,
    )
    retry: Retry = table("retry", Retry, ("retries", "proxy_next_upstream", "retry_policy", "redispatch"))
    hedge: Hedge = table("hedge", Hedge, ("hedging", "hedge_policy"))
    # What is kept has to fit a buffer of the largest class, 256 KiB with its record.
    replay_limit_bytes: int = option("replay_limit", size("0B", "252KiB"), "64KiB")
    keepalive: Keepalive = table("keepalive", Keepalive, ("keep_alive",))
    timeouts: PoolTimeouts = table("timeouts", PoolTimeouts)
    queue: Queue = table("queue", Queue, ("maxqueue",))
    health: Health = option(
        "health", TextOrTable(Health, "type"), "off", ("health_check", "healthcheck", "health_checks", "check", "httpchk"), Health
    )
    passive_health: PassiveHealth = table("passive_health", PassiveHealth, ("outlier_detection", "outlier", "passive"))
    limits: PoolLimits = table("limits", PoolLimits, ("circuit_breaker", "circuit_breakers", "thresholds"))
    when_all_down: str = option("when_all_down", Choice(("refuse", "panic")), "refuse", ("all_down",))
    panic_below: float = option("panic_below", Share(), 0.0, ("panic_threshold", "healthy_panic_threshold"))
    sticky: Sticky = table("sticky", Sticky, ("stickiness", "session_affinity", "persistence", "affinity"))
    hash_key: Template = option("hash_key", Text("a key", parse_key, "{cookie.session}"), CLIENT_KEY, ("key", "hash_on", "hash"))
    balance_factor: float = option(
        "balance_factor", Factor(1.0, 100.0, "no bound"), 0.0, ("hash-balance-factor", "hash_balance_factor", "load_factor")
    )
    slow_start_ms: int = option("slow_start", duration("0s", "1h"), "0s", ("slowstart", "slow_start_window", "warmup"))
    tls: BackendTls = option("tls", BackendTlsKind(), False, ("ssl", "backend_tls", "https"), BackendTls)
    tcp_keepalive: TcpKeepalive = table("tcp_keepalive", TcpKeepalive, ("so_keepalive", "tcpka", "srvtcpka", "tcp-keepalive"))
    source_address: str = option(
        "source_address", Text("an address", parse_source, "10.0.0.5"), "", ("source", "proxy_bind", "bind", "usesrc", "local_address")
    )
    subset: int = option("subset", Count(1, 65535, "all of them"), 0, ("subset_size", "subsetting"))
    protocol: str = option(
        "protocol",
        Choice(("http1", "http2", "auto"), also_called=_PROTOCOLS_ELSEWHERE),
        "http1",
        ("proxy_http_version", "proto", "http_version"),
    )
    proxy_protocol: ProxyHeader = option(
        "proxy_protocol",
        TextOrTable(ProxyHeader, "version"),
        "off",
        ("send-proxy", "send_proxy", "send-proxy-v2", "send_proxy_v2"),
        ProxyHeader,
    )
    http2: BackendHttp2 = table("http2", BackendHttp2, ("h2", "http2_protocol_options"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A whole configuration."""

    settings: GlobalSettings = table("global", GlobalSettings, ("globals", "defaults", "main"))
    access_log: AccessLogs = option("access_log", LogList(may_inherit=False), "off", ("access_logs", "log", "logs"), AccessLog)
    listeners: tuple[Listener, ...] = option("listeners", TableArray(Listener), [], ("listener", "frontends", "frontend"), Listener)
    routes: tuple[Route, ...] = option("routes", TableArray(Route), [], ("route", "locations", "rules"), Route)
    pools: tuple[Pool, ...] = option("pools", NamedTables(Pool, parse_name), {}, ("pool", "upstreams", "clusters", "services"), Pool)
