"""What is measured: the kinds of traffic, and the ratios that fastlb is to reach."""

from dataclasses import dataclass

from bench.compare.handshakes import FULL, RESUMED


@dataclass(frozen=True, slots=True)
class Work:
    """One kind of traffic that wrk makes, or where `handshake` says of which kind each request has one, handshakes.c.

    `relay_path` is what the pooled relay is asked for where that differs: it cannot read "Connection: close", so there the
    backend says it and keeps its side open. `at_most` is the CPU per request over nginx's that was asked for, `wanted` the better figure.
    """

    name: str
    title: str
    path: str
    connections: int
    connection_per_request: bool
    floor: str  # the relay that marks the floor for this work
    at_most: float
    at_most_of_floor: float | None
    wanted: str
    handshake: str = ""


SMALL = 128
LARGE = 256 * 1024

WORKS = (
    Work("small-64", "128-byte responses, 64 keep-alive connections", f"/bytes/{SMALL}", 64, False, "relay", 0.82, 1.12, "1.05 × relay"),
    Work("small-1000", "128-byte responses, 1,000 keep-alive connections", f"/bytes/{SMALL}", 1000, False, "relay", 0.62, None, "0.57"),
    Work(
        "connect",
        "128-byte responses, a new client connection per request",
        f"/bytes/{SMALL}",
        64,
        True,
        "relay-pooled",
        0.80,
        None,
        "0.70",
    ),
    Work("large", "256 KiB responses, 16 keep-alive connections", f"/bytes/{LARGE}", 16, False, "relay", 0.40, None, "0.30"),
)
# These take part in one work only, where they tell something: the floor when connections are made anew, and nginx tuned
# for large bodies.
ONLY_IN = {"relay-pooled": "connect", "nginx-buffers": "large", "nginx-unbuffered": "large"}

# Over TLS, measured beside each other and not with the works above: every proxy has the same certificate (ECDSA, P-256).
TLS_WORKS = (
    Work("tls-small", "HTTPS: 128-byte responses, 64 keep-alive connections", f"/bytes/{SMALL}", 64, False, "", 0.82, None, "0.75"),
    Work("tls-handshake", "HTTPS: a full handshake per request", f"/bytes/{SMALL}", 16, True, "", 1.00, None, "0.90", FULL),
    Work("tls-resumed", "HTTPS: a resumed handshake per request", f"/bytes/{SMALL}", 16, True, "", 0.90, None, "0.80", RESUMED),
    Work("tls-large", "HTTPS: 256 KiB responses, 16 keep-alive connections", f"/bytes/{LARGE}", 16, False, "", 0.80, None, "0.70"),
)

# Layer 4: the same requests through a proxy that does not read them; also measured beside each other only.
TCP_WORKS = (
    Work("tcp-small", "TCP: 128-byte request and response, 64 sessions", f"/bytes/{SMALL}", 64, False, "relay", 0.97, None, "0.92"),
    Work("tcp-connect", "TCP: connect, one request, close", f"/bytes/{SMALL}", 64, True, "relay", 0.85, None, "0.75"),
    Work("tcp-large", "TCP: 256 KiB responses, 16 sessions", f"/bytes/{LARGE}", 16, False, "relay", 0.45, None, "0.38"),
)

WORK_NAMES = tuple(work.name for work in WORKS)
TLS_NAMES = tuple(work.name for work in TLS_WORKS)

LATENCY = "latency"  # open-loop client at half of a proxy's maximum
IDLE = "idle"  # memory of idle keep-alive connections
START = "start"  # from the fork to the first response
WORKERS = "workers"  # one and two
LOG = "log"  # without and with an access log
ROUTES = "routes"  # 20 of them with header edits, and an access log
TLS = "tls"  # all of TLS_WORKS
TLS_HTTP2 = "tls-http2"  # as http2, over TLS
TLS_BESIDE = "tls-beside"  # latency of plain requests while others shake hands
IDLE_TLS = "idle-tls"  # memory of idle TLS connections
TCP = "tcp"  # TCP_WORKS
TCP_IDLE = "tcp-idle"  # memory of idle sessions, both connections of each
RESTART = "restart"  # of a killed worker, and what an idle one costs
HTTP2 = "http2"  # 128-byte responses, 16 connections of 16 streams, without TLS
UDP = "udp"  # datagrams of 128 bytes and their echoes, 100 clients; and the memory of sessions
PARTS = (
    *(*WORK_NAMES, LATENCY, IDLE, START, WORKERS, LOG, ROUTES),
    *(TLS, *TLS_NAMES, TLS_HTTP2, TLS_BESIDE, IDLE_TLS, HTTP2, TCP, TCP_IDLE, UDP, RESTART),
)

LATENCY_AT_MOST_US = 100.0
IDLE_AT_MOST_BYTES = 400.0
IDLE_CONNECTIONS = 10_000
TCP_IDLE_AT_MOST_BYTES = 600.0
START_AT_MOST_MS = 500.0
RESTART_AT_MOST_MS = 50.0
IDLE_TLS_CONNECTIONS = 2_000
HTTP2_AT_MOST = 0.80  # of nginx's CPU per request
TLS_HTTP2_AT_MOST, TLS_HTTP2_WANTED = 0.80, "0.65"
UDP_AT_MOST, UDP_WANTED = 0.60, "0.45"  # of nginx's CPU per datagram and its echo
ROUTES_AT_MOST = 0.80  # of nginx's CPU per request
WORKER_AT_MOST_MIB = 12.0
