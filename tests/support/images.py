"""Snapshot images for tests: a writer with sensible values for all that a test does not care about, and where things lie in an image."""

import os
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from fastlb import _core
from tests.support import _probe

LISTENER = {
    "head_timeout_ms": 10_000,
    "body_timeout_ms": 60_000,
    "idle_timeout_ms": 75_000,
    "write_timeout_ms": 60_000,
    "max_head_bytes": 32768,
    "max_target_bytes": 8192,
    "max_headers": 100,
    "max_body_bytes": 0,
    "http2_streams": 128,
}
POOL = {
    "algorithm": "weighted_least_connections",
    "attempts": 3,
    "replay_limit_bytes": 65536,
    "max_idle": 8,
    "idle_timeout_ms": 60_000,
    "connect_timeout_ms": 5000,
    "first_byte_timeout_ms": 60_000,
    "between_bytes_timeout_ms": 60_000,
    "exchange_timeout_ms": 3_600_000,
    "tunnel_timeout_ms": 3_600_000,
}
RETRY = {"on": ("connect", "closed", "reset"), "unsafe": False, "within_ms": 10_000, "share": 0.2, "floor": 10}
# Three failures in a row; for longer than a test takes.
HEALTH = {
    "counts": ("connect", "closed", "reset", "timeout", "bad_response", "5xx"),
    "failures_in_row": 3,
    "error_ratio": 0.0,
    "min_requests": 10,
    "window_ms": 60_000,
    "ejection_ms": 3_600_000,
    "max_ejection_ms": 36_000_000,
    "max_ejected": 0.5,
}
SECTIONS = (
    "operations",
    "networks",
    "listeners",
    "route_table",
    "routes",
    "pools",
    "backends",
    "groups",
    "log_plan",
    "segments",
    "stickies",
    "shares",
    "certificates",
    "tls_identities",
    "names",
    "tls",
    "ticket_keys",
    "backend_tls",
    "sni_choices",
    "senders",
)
FIRST_SECTION = 32  # behind magic, layout, size, generation and the name of the reason header


def log_plan() -> bytes:
    """Two sets of logs, with a bit of everything."""
    writer = _core.LogPlanWriter(0)
    file = writer.add_destination("/var/log/a", "file")
    syslog = writer.add_destination("syslog:/dev/log", "datagrams")
    captures = [("method", ""), ("request_field", "user-agent"), ("request_id", "")]
    operations: list[_core.LogOperation] = [b"[", ("capture", 1, "text"), b"] ", ("status", 0, "json"), ("request_id", 2, "none")]
    terms: list[_core.LogTerm] = [("status", 0, ">=", 400, b"", True, 1), ("capture", 0, "==", 0, b"GET", False, True)]
    writer.add_set(captures, [(file, 1.0, operations, []), (syslog, 0.5, [("time", 0, "text")], terms)])
    writer.add_set([], [(syslog, 0.25, [("duration", 0, "text")], [("attempts", 0, "<", 3, b"", True, False)])])
    return writer.finish()


class Writer(_core.SnapshotWriter):
    """As SnapshotWriter, with defaults; a backend is named by its port. Routes come with the rule that leads to them."""

    def __init__(self, generation: int = 1, n_host_sets: int = 1) -> None:
        super().__init__(generation)
        self.table = _core.RouteTableWriter(n_host_sets)
        self._has_route = False

    def route(self) -> int:
        """A route for everything, to a pool of its own."""
        return self.add_route(pool=self.pool(), name="all")

    def listener(self, name: str = "web", **changes: Any) -> int:
        return self.add_listener(name, **{**LISTENER, **changes})

    def pool(
        self,
        name: str = "api",
        *,
        retry: dict[str, Any] | None = None,
        health: dict[str, Any] | None = None,
        limits: dict[str, int] | None = None,
        panic_below: float | None = None,
        hedge_after_ms: int = 0,
        protocol: str = "http1",
        streams: int = 100,
        window_bytes: int = 65536,
        **changes: Any,
    ) -> int:
        """A pool; with passive health where `health` says what of it is not as in HEALTH, with panic where there is a share for it."""
        number = self.add_pool(name, **{**POOL, **changes})
        self.set_retry(number, **{**RETRY, **(retry or {})})
        if health is not None:
            self.set_passive_health(number, **{**HEALTH, **health})
        self.set_limits(number, **(limits or {}))
        if panic_below is not None:
            self.set_panic(number, below=panic_below)
        if protocol != "http1":
            self.set_protocol(number, protocol=protocol, streams=streams, window_bytes=window_bytes)
        if hedge_after_ms:
            self.set_hedge(number, after_ms=hedge_after_ms)
        return number

    def backend(
        self, pool: int, port: int = 8080, *, weight: int = 1, max_in_flight: int = 0, resolved: bool = True, cookie: str = ""
    ) -> int:
        name = f"127.0.0.1:{port}"
        address = _core.pack_address("127.0.0.1", port) if resolved else None
        return self.add_backend(
            pool, identity=f"{pool}|{name}", display=name, address=address, weight=weight, max_in_flight=max_in_flight, cookie=cookie
        )

    def add_route(self, *, host: str = "", path_prefix: str = "/", rule: Mapping[str, Any] = MappingProxyType({}), **route: Any) -> int:
        """A route with one rule that leads to it; `rule`: what else RouteTableWriter.add_rule is given."""
        self._has_route = True
        index = super().add_route(**route)
        self.table.add_rule(index, host=host, path=path_prefix, **rule)
        return index

    def finish(self) -> int:
        self.set_route_table(self.table.finish())
        return super().finish()

    def image(self) -> bytes:
        fd = self.finish()
        try:
            return os.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)

    def plane(self) -> _probe.Plane:
        """An engine on this image, which gets a route if it has none: heads are written for an exchange that has one."""
        if not self._has_route:
            self.route()
        return load(self.image())


def load(image: bytes) -> _probe.Plane:
    """An engine on this image; ValueError when it refuses it."""
    fd = _core.seal(image)
    try:
        return _probe.Plane(fd)
    finally:
        os.close(fd)


def find_sections(image: bytes) -> dict[str, tuple[int, int]]:
    """Offset and number of records of each section."""
    return {name: struct.unpack_from("<II", image, FIRST_SECTION + 8 * i) for i, name in enumerate(SECTIONS)}


def patch(image: bytes, offset: int, value: int, form: str = "<I") -> bytes:
    changed = bytearray(image)
    struct.pack_into(form, changed, offset, value)
    return bytes(changed)


def add_rows(memory: _core.SharedMemory, *identities: str) -> None:
    """Has the shared memory know these backends."""
    writer = Writer()
    pool = writer.pool()
    for identity in identities:
        address = _core.pack_address("127.0.0.1", 80)
        writer.add_backend(pool, identity=identity, display=identity, address=address, weight=1, max_in_flight=0)
    image = _core.seal(writer.image())
    memory.add_rows(image)
    os.close(image)
