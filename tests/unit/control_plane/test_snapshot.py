"""What a configuration tells the writer of snapshot images."""

from collections.abc import Iterator, Sequence
from ipaddress import ip_network
from types import SimpleNamespace
from typing import Any

import pytest

from fastlb.control_plane import snapshot
from fastlb.control_plane.config.loader import load_text
from fastlb.control_plane.metrics.meters import MeterNumbers
from fastlb.control_plane.resolver import Endpoint

TEXT = """
[global]
trusted_networks = ["10.0.0.0/8"]
[[listeners]]
name = "web"
bind = [":80", "unix:/x"]
timeouts = { head = "1s", body = "2s", idle = "3s", write = "4s" }
limits = { head = "16KiB", target = "4KiB", headers = 50, body = "1MiB" }
[[listeners]]
name = "other"
bind = "127.0.0.1:0"
[[routes]]
host = ["a.example", "*.b.example"]
path = "/api/"
pool = "two"
[[routes]]
pool = "one"
[pools.one]
backends = [{ address = "app.example:80", weight = 3, max_connections = 7 }, "lost.example:81"]
timeouts = { connect = "1s", first_byte = "2s", between_bytes = "3s", exchange = "4s", tunnel = "5s" }
[pools.two]
algorithm = "round_robin"
backends = ["10.0.0.1:80", "[::1]:80", "unix:/run/app.sock"]
"""

Call = tuple[str, tuple[Any, ...], dict[str, Any]]


class RecordingWriter:
    """Stands for _core.SnapshotWriter: notes every call, and counts what is added as that does."""

    calls: list[Call]

    def __init__(self, generation: int) -> None:
        self.calls = [("generation", (generation,), {})]
        RecordingWriter.last = self

    last: "RecordingWriter"

    def __getattr__(self, name: str) -> Any:
        def note(*arguments: Any, **options: Any) -> int:
            index = sum(called == name for called, _, _ in self.calls)
            self.calls.append((name, arguments, options))
            return 99 if name == "finish" else index

        return note

    def of(self, name: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        return [(arguments, options) for called, arguments, options in self.calls if called == name]


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[RecordingWriter]]:
    core = SimpleNamespace(
        SnapshotWriter=RecordingWriter,
        pack_address=lambda ip, port: f"{ip} {port}".encode(),
        pack_unix=lambda path: f"unix {path}".encode(),
    )
    monkeypatch.setattr(snapshot, "_core", core)
    yield RecordingWriter


def build(**addresses: Sequence[str]) -> RecordingWriter:
    known = {name.replace("_", "."): [Endpoint(ip) for ip in ips] for name, ips in addresses.items()}
    assert snapshot.build_image(load_text(TEXT, "f").config, known, 5) == 99
    return RecordingWriter.last


def test_calls_come_in_the_order_that_the_image_needs(writer: type[RecordingWriter]) -> None:
    order = list(dict.fromkeys(name for name, _, _ in build().calls))
    assert order[0] == "generation"
    assert [name for name in order if name.startswith("add_")] == [
        "add_trusted_network",
        "add_listener",
        "add_pool",
        "add_backend",
        "add_route",
    ]
    assert order[-1] == "finish"


def test_settings_and_listeners_are_written_in_their_units(writer: type[RecordingWriter]) -> None:
    built = build()
    assert built.of("generation") == [((5,), {})]
    assert built.of("set_reason_header") == [(("X-Fastlb-Reason",), {})]
    assert built.of("add_trusted_network") == [((ip_network("10.0.0.0/8"),), {})]
    first, second = built.of("add_listener")
    assert first == (
        ("web",),
        {
            "head_timeout_ms": 1000,
            "body_timeout_ms": 2000,
            "idle_timeout_ms": 3000,
            "write_timeout_ms": 4000,
            "max_head_bytes": 16384,
            "max_target_bytes": 4096,
            "max_headers": 50,
            "max_body_bytes": 1 << 20,
            "log_set": None,
            "host_set": 0,
            "meter": 0,
            "http2_streams": 128,
            "http2_window_bytes": 65536,
            "http2_connection_window_bytes": 1 << 20,
        },
    )
    assert second[0] == ("other",)


def test_meters_are_those_of_the_configuration_in_its_order(writer: type[RecordingWriter]) -> None:
    snapshot.build_image(load_text(TEXT, "f").config, {}, 1, meters=MeterNumbers([7, 8], [9, 10], [11, 12]))
    for call, meters in (("add_listener", [7, 8]), ("add_route", [9, 10]), ("add_pool", [11, 12])):
        assert [options["meter"] for _, options in RecordingWriter.last.of(call)] == meters


def test_a_reason_header_that_is_off_is_none(writer: type[RecordingWriter]) -> None:
    config = load_text(TEXT.replace("[global]", '[global]\nreason_header = ""'), "f").config
    snapshot.build_image(config, {}, 1)
    assert RecordingWriter.last.of("set_reason_header") == [((None,), {})]


def test_each_route_names_its_pool_by_index_whatever_its_hosts(writer: type[RecordingWriter]) -> None:
    assert [options for _, options in build().of("add_route")] == [
        {"pool": 1, "name": "a.example/api/", "priority": 4, "meter": 0},
        {"pool": 0, "name": "*/", "priority": 4, "meter": 0},
    ]


def test_pools_are_written_in_their_units(writer: type[RecordingWriter]) -> None:
    first, second = build().of("add_pool")
    assert first == (
        ("one",),
        {
            "algorithm": "weighted_least_connections",
            "attempts": 3,
            "replay_limit_bytes": 65536,
            "max_idle": 1024,
            "idle_timeout_ms": 60_000,
            "connect_timeout_ms": 1000,
            "first_byte_timeout_ms": 2000,
            "between_bytes_timeout_ms": 3000,
            "exchange_timeout_ms": 4000,
            "tunnel_timeout_ms": 5000,
            "queue_max": 0,
            "queue_timeout_ms": 5000,
            "balance_permille": 0,
            "slow_start_ms": 0,
            "meter": 0,
        },
    )
    assert second[1]["algorithm"] == "round_robin"


def test_hedges_are_written_only_where_there_are_some(writer: type[RecordingWriter]) -> None:
    assert build().of("set_hedge") == []
    hedge = '[pools.two]\nhedge = { after = "200ms" }'
    snapshot.build_image(load_text(TEXT.replace("[pools.two]", hedge), "f").config, {}, 1)
    assert RecordingWriter.last.of("set_hedge") == [((1,), {"after_ms": 200})]


def test_protection_is_written_only_where_there_is_some(writer: type[RecordingWriter]) -> None:
    kinds = ("set_passive_health", "set_limits", "set_panic")
    unprotected = build()
    assert [unprotected.of(kind) for kind in kinds] == [[], [], []]
    more = """
limits = { requests = 7 }
when_all_down = "panic"
panic_below = 0.5
[pools.two.passive_health]
consecutive_failures = 5
error_ratio = 0.5
min_requests = 9
window = "1m"
ejection = "2s"
max_ejected = 0.25
failures = "5xx"
"""
    snapshot.build_image(load_text(TEXT + more, "f").config, {}, 1)
    health = {
        "counts": ("5xx",),
        "failures_in_row": 5,
        "error_ratio": 0.5,
        "min_requests": 9,
        "window_ms": 60_000,
        "ejection_ms": 2000,
        "max_ejection_ms": 300_000,
        "max_ejected": 0.25,
    }
    limits = {"connections": 0, "pending": 0, "requests": 7, "retries": 0}
    assert [RecordingWriter.last.of(kind) for kind in kinds] == [[((1,), health)], [((1,), limits)], [((1,), {"below": 0.5})]]


def test_retries_of_each_pool_are_written_in_their_units(writer: type[RecordingWriter]) -> None:
    assert [arguments for arguments, _ in build().of("set_retry")] == [(0,), (1,)]
    retry = '[pools.one]\nretry = { on = ["5xx"], unsafe = true, within = "2s", budget = 0.5, budget_floor = 7 }'
    snapshot.build_image(load_text(TEXT.replace("[pools.one]", retry), "f").config, {}, 1)
    first, second = RecordingWriter.last.of("set_retry")
    assert first[1] == {"on": ("5xx",), "unsafe": True, "within_ms": 2000, "share": 0.5, "floor": 7}
    assert second[1] == {"on": ("connect", "closed", "reset"), "unsafe": False, "within_ms": 10_000, "share": 0.2, "floor": 10}


def test_pool_tells_how_it_balances(writer: type[RecordingWriter]) -> None:
    changed = TEXT.replace("[pools.one]", '[pools.one]\nslow_start = "1m"')
    changed = changed.replace('"round_robin"', '"consistent_hash"\nbalance_factor = 1.25')
    snapshot.build_image(load_text(changed, "f").config, {}, 1)
    first, second = RecordingWriter.last.of("add_pool")
    assert (first[1]["slow_start_ms"], first[1]["balance_permille"]) == (60_000, 0)
    assert (second[1]["slow_start_ms"], second[1]["balance_permille"]) == (0, 1250)


def test_names_in_tables_are_addresses_with_their_ports(writer: type[RecordingWriter]) -> None:
    built = build(app_example=["10.0.0.9", "2001:db8::1"])
    names = [options["table_name"] for _, options in built.of("add_backend")]
    assert names == ["10.0.0.9:80", "[2001:db8::1]:80", "lost.example:81", "10.0.0.1:80", "[::1]:80", "unix:/run/app.sock"]


def test_groups_follow_each_other(writer: type[RecordingWriter]) -> None:
    changed = TEXT.replace('"lost.example:81"', '{ address = "10.0.0.7:1", backup = true }, "10.0.0.8:1"')
    snapshot.build_image(load_text(changed, "f").config, {}, 1)
    calls = [
        (name, options.get("display"))
        for name, arguments, options in RecordingWriter.last.calls
        if arguments == (0,) and name in ("begin_group", "add_backend")
    ]
    assert calls == [
        ("begin_group", None),
        ("add_backend", "app.example:80"),
        ("add_backend", "10.0.0.8:1"),
        ("begin_group", None),
        ("add_backend", "10.0.0.7:1"),
    ]


def backends(built: RecordingWriter) -> list[tuple[int, str, str, bytes | None, int, int]]:
    return [
        (arguments[0], o["identity"], o["display"], o["address"], o["weight"], o["max_in_flight"])
        for arguments, o in built.of("add_backend")
    ]


def test_every_address_of_a_name_is_a_backend_and_a_name_without_one_waits(writer: type[RecordingWriter]) -> None:
    assert backends(build(app_example=["10.1.1.1", "::2"])) == [
        (0, "one|app.example:80|10.1.1.1", "app.example:80 (10.1.1.1)", b"10.1.1.1 80", 3, 7),
        (0, "one|app.example:80|::2", "app.example:80 (::2)", b"::2 80", 3, 7),
        (0, "one|lost.example:81", "lost.example:81", None, 1, 0),
        (1, "two|10.0.0.1:80", "10.0.0.1:80", b"10.0.0.1 80", 1, 0),
        (1, "two|[::1]:80", "[::1]:80", b"::1 80", 1, 0),
        (1, "two|unix:/run/app.sock", "unix:/run/app.sock", b"unix /run/app.sock", 1, 0),
    ]


def test_identities_stay_when_other_backends_come_and_go(writer: type[RecordingWriter]) -> None:
    before = {row[1] for row in backends(build(app_example=["10.1.1.1"]))}
    after = {row[1] for row in backends(build(app_example=["10.1.1.1", "10.1.1.2"], lost_example=["10.2.2.2"]))}
    assert before - after == {"one|lost.example:81"}
    assert "one|app.example:80|10.1.1.1" in before & after


SERVICE = """
listeners = [{ name = "web", bind = ":8080" }]
pools = { p = { algorithm = "ALGORITHM", backends = ["srv:_http._tcp.app.example"] } }
"""


@pytest.mark.parametrize(("algorithm", "weights"), [("weighted_least_connections", [256, 128, 1]), ("round_robin", [1, 1, 1])])
def test_a_service_is_a_backend_for_each_of_its_endpoints(writer: type[RecordingWriter], algorithm: str, weights: list[int]) -> None:
    found = [Endpoint("10.0.0.1", 80, 1000, 5), Endpoint("10.0.0.2", 81, 500, 5), Endpoint("::3", 82, 0, 9)]
    config = load_text(SERVICE.replace("ALGORITHM", algorithm), "f").config
    snapshot.build_image(config, {"srv:_http._tcp.app.example": found}, 1)
    rows = backends(RecordingWriter.last)
    assert [row[1:4] for row in rows] == [
        ("p|srv:_http._tcp.app.example|10.0.0.1:80", "srv:_http._tcp.app.example (10.0.0.1:80)", b"10.0.0.1 80"),
        ("p|srv:_http._tcp.app.example|10.0.0.2:81", "srv:_http._tcp.app.example (10.0.0.2:81)", b"10.0.0.2 81"),
        ("p|srv:_http._tcp.app.example|[::3]:82", "srv:_http._tcp.app.example ([::3]:82)", b"::3 82"),
    ]
    assert [row[4] for row in rows] == weights
    assert len(RecordingWriter.last.of("begin_group")) == 2, "a higher priority comes after a lower one"


def test_a_service_without_an_answer_is_a_backend_that_gets_no_requests(writer: type[RecordingWriter]) -> None:
    snapshot.build_image(load_text(SERVICE.replace("ALGORITHM", "round_robin"), "f").config, {}, 1)
    assert [row[3] for row in backends(RecordingWriter.last)] == [None]


def test_the_real_writer_takes_all_of_it() -> None:
    import os

    image = snapshot.build_image(load_text(TEXT, "f").config, {"app.example": [Endpoint("10.1.1.1"), Endpoint("::2")]}, 1)
    try:
        assert os.fstat(image).st_size > 0
    finally:
        os.close(image)


@pytest.mark.parametrize(("text", "cap"), [("max_connections = 20000", 20000), ("", 0)])
def test_cap_of_the_node_is_written_where_one_is_configured(writer: type[RecordingWriter], text: str, cap: int) -> None:
    config = load_text(TEXT.replace("[global]", f"[global]\n{text}"), "f").config
    snapshot.build_image(config, {}, 1)
    assert RecordingWriter.last.of("set_max_connections") == [((cap,), {})]


def test_a_mirror_is_set_for_its_route(writer: type[RecordingWriter]) -> None:
    text = TEXT.replace('pool = "two"\n[[', 'pool = "two"\nmirror = { pool = "one", share = 0.5 }\n[[')
    snapshot.build_image(load_text(text, "f").config, {}, 1)
    assert RecordingWriter.last.of("set_mirror") == [((0,), {"pool": 0, "share": 0.5})]
