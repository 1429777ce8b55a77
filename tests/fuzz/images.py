"""Snapshot images of the real writer, so that they never lag behind the layout."""

import ipaddress
import os
from collections.abc import Sequence

from fastlb import _core

TIMES = {f"{name}_timeout_ms": 1000 for name in ("connect", "first_byte", "between_bytes", "exchange", "tunnel", "idle")}
WAITS = {f"{name}_timeout_ms": 1000 for name in ("head", "body", "idle", "write")}
LIMITS = {"max_head_bytes": 32768, "max_target_bytes": 8192, "max_headers": 100, "max_body_bytes": 0}

HEALTH = {
    "counts": ("connect", "5xx"),
    "failures_in_row": 3,
    "error_ratio": 0.5,
    "min_requests": 10,
    "window_ms": 1000,
    "ejection_ms": 1000,
    "max_ejection_ms": 5000,
    "max_ejected": 0.5,
}
VALUES = tuple((kind, "controls", "1" if kind == "capture" else "server") for kind in _core.SEGMENTS)


CONDITIONS: "list[_core.RuleCondition]" = [
    ("method", False, "", ["GET", "PURGE"]),
    ("client", True, "", [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("2001:db8::/32")]),
    ("header", False, "X-Canary", [("prefix", b"t"), ("suffix", b"e"), ("part", b"ru"), ("exact", b"true")]),
    ("cookie", False, "group", [("regex", b"^[a-c]$"), ("regex_caseless", b"X")]),
    ("cookie", True, "gone", []),
    ("query", False, "beta", [("exact", b"1"), ("exact", b"")]),
]


ALGORITHMS = ("round_robin", "weighted_least_connections")


def make_image(
    *,
    hosts: Sequence[str] = ("",),
    networks: Sequence[str] = (),
    listeners: int = 0,
    operations: bool = True,
    algorithms: Sequence[str] = ALGORITHMS,
    sticky: Sequence[str] = ("", ""),
) -> int:
    """The descriptor of a sealed image with two pools, of one or two groups, which may be sticky; each host has two routes."""
    writer = _core.SnapshotWriter(1)
    writer.set_reason_header("X-Fastlb-Reason")
    writer.set_forwarded_headers(operations)
    writer.set_request_id(operations)
    for network in networks:
        writer.add_trusted_network(ipaddress.ip_network(network))
    if listeners:
        writer.set_log_plan(make_log_plan())
    for number in range(listeners):
        writer.add_listener(f"web{number}", **WAITS, **LIMITS, log_set=number % 2)
    for name, way in zip(algorithms, sticky, strict=True):
        pool = writer.add_pool(name, algorithm=name, attempts=3, replay_limit_bytes=65536, max_idle=8, **TIMES)
        writer.set_retry(pool, on=("connect", "503"), unsafe=True, within_ms=1000, share=0.2, floor=10)
        writer.set_limits(pool, connections=5, pending=4, requests=3, retries=2)
        if pool == 0:
            writer.set_passive_health(pool, **HEALTH)
        else:
            writer.set_panic(pool, below=0.5)
        if way == "cookie":
            writer.set_sticky_cookie(pool, name="id", attributes="; Path=/", lifetime_s=3600, flags=sum(_core.STICKY_FLAGS.values()))
        elif way:
            writer.set_sticky_table(pool, learn="id" if way == "learn" else "", size=100, expires_ms=60_000)
        for port in (80, 81):
            if algorithms != ALGORITHMS:
                writer.begin_group(pool)
            backend = f"127.0.0.1:{port}"
            address = _core.pack_address("127.0.0.1", port)
            writer.add_backend(
                pool,
                identity=f"{name}|{backend}",
                display=backend,
                address=address,
                weight=1,
                max_in_flight=port - 80,
                cookie=chr(port + 17) * 22,
            )
    table = _core.RouteTableWriter()
    routes = [writer.add_route(pool=pool) for pool in (0, 1)]
    for host in hosts:
        table.add_rule(routes[0], host=host)
        table.add_rule(routes[1], host=host, path="/api/")
        table.add_rule(routes[1], host=host, path="/exact", exact=True, conditions=CONDITIONS[-1:])
        table.add_rule(routes[0], host=host, path="/api/v", regex=(rb"^/api/v(\d+)/(?<name>.*)\.php$", False), conditions=CONDITIONS)
    writer.edit_request(routes[1], [("set", "Host", (b"app",)), ("set", "X-Seen", VALUES), ("remove", "Accept", ())])
    writer.edit_response(routes[1], [("set", "Server", (b"x",)), ("remove", "Date", ()), ("add", "X-Seen", VALUES)])
    writer.set_split(routes[1], [(0, 1), (1, 2)], key=VALUES)
    writer.set_prefix(routes[1], 4, "/v2")
    writer.keep_match(routes[1])
    writer.set_hash_key(1, VALUES)
    writer.set_redirect(writer.add_route(pool=None), 301, "Moved", VALUES, needs_host=True)
    own = writer.add_route(pool=None)
    writer.set_response(own, 200, "OK", content_type="text/plain", body=VALUES)
    writer.edit_response(own, [("set", "Content-Type", (b"x",))])
    writer.set_target(writer.add_route(pool=1), (b"/", *VALUES))
    writer.set_route_table(table.finish())
    return writer.finish()


def make_log_plan() -> bytes:
    """Two sets of logs, with a bit of everything."""
    writer = _core.LogPlanWriter(0)
    file = writer.add_destination("/var/log/a", "file")
    syslog = writer.add_destination("syslog:/dev/log", "datagrams")
    captures = [(kind, "host" if kind.endswith("_field") else "") for kind in _core.LOG_CAPTURES]
    ids = [kind for kind, _ in captures].index("request_id")
    names = [name for name in _core.LOG_FIELDS if name not in ("literal", "capture")]
    operations: list[_core.LogOperation] = [b"[", *(("capture", number, "text") for number in range(len(captures))), b"] "]
    operations += [(name, ids, escape) for name in names for escape in ("text", "json")]
    terms: list[_core.LogTerm] = [("status", 0, ">=", 400, b"", True, 1), ("capture", 0, "==", 0, b"GET", 2, True)]
    terms.append(("capture", 1, "contains", 0, b"a", True, False))
    writer.add_set(captures, [(file, 1.0, operations, []), (syslog, 0.5, [("time", 0, "text")], terms)])
    writer.add_set([], [(syslog, 1.0, [("duration", 0, "none")], [("attempts", 0, "<", 3, b"", True, False)])])
    return writer.finish()


def read_image(fd: int) -> bytes:
    try:
        return os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)


def make_http2_image(port: int) -> int:
    """The descriptor of a sealed image with one pool, of one backend that speaks HTTP/2 on this port."""
    writer = _core.SnapshotWriter(1)
    pool = writer.add_pool("api", algorithm="round_robin", attempts=2, replay_limit_bytes=65536, max_idle=8, **TIMES)
    writer.set_retry(pool, on=("connect", "closed", "reset"), unsafe=False, within_ms=1000, share=1.0, floor=1000)
    writer.set_protocol(pool, protocol="http2", streams=10, window_bytes=65536)
    address = _core.pack_address("127.0.0.1", port)
    writer.add_backend(pool, identity="api|a", display="a", address=address, weight=1, max_in_flight=0)
    table = _core.RouteTableWriter()
    table.add_rule(writer.add_route(pool=pool), host="")
    writer.set_route_table(table.finish())
    return writer.finish()
