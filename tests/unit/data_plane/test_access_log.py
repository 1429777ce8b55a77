"""fastlb/data_plane/access_log.pyx: what each kind of exchange leaves in the log, in an engine that the test pumps itself."""

import base64
import json
import os
import re
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support._probe import check_log_plan
from tests.support.images import log_plan, patch
from tests.support.logs import LogWorld, compile_logs, wait_for_lines
from tests.support.waiting import wait_until

OK = b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
def world() -> Iterator[LogWorld]:
    with LogWorld() as made:
        yield made


def request(target: bytes = b"/", *fields: bytes, method: bytes = b"GET") -> bytes:
    return b"\r\n".join([method + b" " + target + b" HTTP/1.1", b"Host: a.example", *fields, b"", b""])


def only_line(path: Path) -> str:
    (line,) = wait_for_lines(path)
    return line


def open_files() -> set[str]:
    return {os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()}


# ------------------------------------------------------------------------------------------------ formats
def test_combined_is_exactly_that_of_nginx(world: LogWorld, tmp_path: Path) -> None:
    world.log(str(tmp_path / "log"))
    credentials = base64.b64encode(b"ann:secret")
    world.ask(request(b"/a?b=c", b"Referer: http://x/", b"User-Agent: t/1", b"Authorization: Basic " + credentials), OK)
    world.rest()
    line = only_line(tmp_path / "log")
    form = r'127\.0\.0\.1 - ann \[(\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4})\] "GET /a\?b=c HTTP/1\.1" 200 2 "http://x/" "t/1"'
    assert re.fullmatch(form, line), line


def test_what_is_missing_is_a_dash_and_what_is_empty_is_empty(world: LogWorld, tmp_path: Path) -> None:
    world.log(
        {"to": str(tmp_path / "log"), "format": "{user}|{request.x-none}|{request.x-empty}|{query}|{response.x}|{backend_status}"},
        dead=True,
    )
    world.ask(request(b"/", b"X-Empty:"))
    world.rest()
    assert only_line(tmp_path / "log") == "-|-||-|-|-"


def test_json_has_null_for_what_is_missing(world: LogWorld, tmp_path: Path) -> None:
    fields = ["user", "status", "backend", "backend_status", "connect_ms", "keep_alive", "tunnel", "listener", "scheme", "time_seconds"]
    world.log({"to": str(tmp_path / "log"), "format": "json", "fields": fields}, dead=True)
    world.ask(request())
    world.rest()
    line = json.loads(only_line(tmp_path / "log"))
    assert isinstance(line.pop("time_seconds"), float)
    assert line == {
        "user": None,
        "status": 503,
        "backend": None,
        "backend_status": None,
        "connect_ms": None,
        "keep_alive": True,
        "tunnel": False,
        "listener": "web",
        "scheme": "http",
    }


def test_every_field_can_be_logged_in_both_ways(world: LogWorld, tmp_path: Path) -> None:
    from fastlb.control_plane.config.log_format import FIELDS

    text = " ".join(f"{name}={{{name}}}" for name in FIELDS)
    world.log({"to": str(tmp_path / "text"), "format": text}, {"to": str(tmp_path / "json"), "format": "json", "fields": list(FIELDS)})
    world.ask(request(b"/p?q", b"Content-Length: 3", method=b"PUT") + b"abc", OK)
    world.rest()
    values: dict[str, Any] = json.loads(only_line(tmp_path / "json"))
    assert list(values) == list(FIELDS)
    written = dict(part.split("=", 1) for part in re.split(r" (?=[a-z_]+=)", only_line(tmp_path / "text")))
    assert written.keys() == values.keys()
    port = world.backend.getsockname()[1]
    head = len(request(b"/p?q", b"Content-Length: 3", method=b"PUT"))
    expected = {
        "client": "127.0.0.1",
        "listener": "web",
        "scheme": "http",
        "request": "PUT /p?q HTTP/1.1",
        "method": "PUT",
        "target": "/p?q",
        "path": "/p",
        "query": "q",
        "protocol": "HTTP/1.1",
        "host": "a.example",
        "user": None,
        "status": 200,
        "reason": None,
        "body_bytes_sent": 2,
        "bytes_sent": len(OK),
        "request_bytes": head + 3,
        "request_body_bytes": 3,
        "pool": "api",
        "backend": f"127.0.0.1:{port}",
        "backends": f"127.0.0.1:{port}",
        "backend_status": 200,
        "backend_statuses": "200",
        "attempts": 1,
        "queue_ms": 0,
        "connection": 1,
        "connection_requests": 1,
        "keep_alive": True,
        "tunnel": False,
        "pid": os.getpid(),
    }
    for name, value in expected.items():
        assert values[name] == value, name
        shown = "-" if value is None else str(int(value)) if isinstance(value, bool) else str(value)
        assert written[name] == shown, name
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", written["time"])
    assert re.fullmatch("[0-9a-f]{32}", written["request_id"]) and written["request_id"] == values["request_id"]
    assert re.fullmatch(r"\d+\.\d{3}", written["duration"])
    for name in ("duration_ms", "connect_ms", "first_byte_ms", "backend_ms"):
        assert isinstance(values[name], int) and written[name].isdigit(), name


def test_names_of_headers_are_found_whatever_their_case_and_repeated_ones_are_joined(world: LogWorld, tmp_path: Path) -> None:
    world.log({"to": str(tmp_path / "log"), "format": "{request.X-A_b} {response.set-cookie} {request.x-a}"})
    answer = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\nContent-Length: 0\r\n\r\n"
    world.ask(request(b"/", b"x-a_B: one", b"X-A: two", b"X-A_B: three"), answer)
    world.rest()
    assert only_line(tmp_path / "log") == "one, three a=1, b=2 two"


def test_a_long_value_is_cut_with_a_mark_and_the_rest_of_the_line_stays(world: LogWorld, tmp_path: Path) -> None:
    world.log({"to": str(tmp_path / "log"), "format": "{target} {status} {request.x}"}, dead=True)
    world.ask(request(b"/" + b"t" * 5999, b"X: y"))
    world.rest()
    assert only_line(tmp_path / "log") == "/" + "t" * 4092 + "... 503 y"


def test_all_values_together_are_bounded(world: LogWorld, tmp_path: Path) -> None:
    names = [f"x{number}" for number in range(8)]
    world.log({"to": str(tmp_path / "log"), "format": " ".join(f"{{request.{name}}}" for name in names)}, dead=True)
    world.ask(request(b"/", *(name.encode() + b": " + b"v" * 3500 for name in names)))
    world.rest()
    values = only_line(tmp_path / "log").split(" ")
    assert values[:4] == ["v" * 3500] * 4
    assert values[4].endswith("v...")
    assert sum(len(value) for value in values) <= 16000 + 8
    assert world.counters()["buffers_taken"] == world.counters()["buffers_returned"]


def test_a_line_that_would_be_too_long_gets_shorter_values_and_stays_whole(world: LogWorld, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    reading = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    writing = os.open(tmp_path / "fifo", os.O_WRONLY)
    names = [f"x{number}" for number in range(4)]
    world.log({"to": "stdout", "format": "json", "fields": [*(f"request.{name}" for name in names), "status"]}, dead=True)
    world.engine.set_log(0, writing)
    world.ask(request(b"/", *(name.encode() + b": " + b'"' * 3000 for name in names)))
    world.rest()
    world.engine.close()
    line = os.read(reading, 65536)
    os.close(reading)
    os.close(writing)
    assert len(line) <= 4096
    values = json.loads(line)
    assert values["status"] == 503
    assert all(re.fullmatch(r'"+\.\.\.', values[f"request.{name}"]) for name in names)


# ------------------------------------------------------------------------------------------------ which exchanges
CONDITIONS = [
    ("status == 503", True),
    ("status != 503", False),
    ("status >= 500", True),
    ("status > 503", False),
    ("status < 503 or status <= 503", True),
    ("status == 503 and method == POST", False),
    ("not (status == 503 and method == POST)", True),
    ("method == GET", True),
    ("method == 'GET' and path == \"/one/two.css\"", True),
    ("path starts_with /one and path ends_with .css", True),
    ("path contains e/t", True),
    ("path contains nothing", False),
    ("path ends_with /one/two.css", True),
    ("path ends_with longer/one/two.css", False),
    ("request.x-a == here", True),
    ("request.x-none == ''", True),
    ("request.x-none != ''", False),
    ("response.x-none starts_with a", False),
    ("reason == no_backend", True),
    ("client == 127.0.0.1", True),
    ("backend_status >= 100", False),
    ("backend_status != 200", True),
    ("duration < 1h and bytes_sent > 1B and bytes_sent < 1MiB", True),
    ("keep_alive == true and tunnel == false", True),
    ("attempts == 1 or attempts == 2 or (attempts == 0 and pool == api)", True),
    ("status == 1 and status == 503 or method == GET and not status == 1", True),
    ("not not status == 503", True),
]


@pytest.mark.parametrize(("condition", "logged"), CONDITIONS)
def test_a_condition_chooses_what_is_logged(world: LogWorld, tmp_path: Path, condition: str, logged: bool) -> None:
    format = "{target}"
    world.log(
        {"to": str(tmp_path / "all"), "format": format}, {"to": str(tmp_path / "log"), "format": format, "when": condition}, dead=True
    )
    world.ask(request(b"/one/two.css?q", b"X-A: here"))
    world.rest()
    world.engine.close()
    assert (tmp_path / "all").read_text() == "/one/two.css?q\n"
    assert (tmp_path / "log").read_text() == ("/one/two.css?q\n" if logged else "")


def test_a_sample_is_about_that_share_and_all_logs_choose_alike(world: LogWorld, tmp_path: Path) -> None:
    format = "{connection_requests}"
    shares = {"half": 0.5, "tenth": 0.1, "none": 0.0, "all": 1.0}
    world.log(*({"to": str(tmp_path / name), "format": format, "sample": share} for name, share in shares.items()), dead=True)
    client = world.connect(world.web)
    for _ in range(2000):
        client.send(request())
        world.read(client)
    world.rest()
    world.engine.close()
    chosen = {name: set((tmp_path / name).read_text().split()) for name in shares}
    assert len(chosen["all"]) == 2000 and not chosen["none"]
    assert 850 < len(chosen["half"]) < 1150
    assert 120 < len(chosen["tenth"]) < 280
    assert chosen["tenth"] < chosen["half"] < chosen["all"]


def test_what_no_log_draws_costs_no_record(world: LogWorld, tmp_path: Path) -> None:
    world.log({"to": str(tmp_path / "log"), "sample": 0.0}, dead=True)
    world.ask(request())
    world.rest()
    assert world.counters()["log_records_taken"] == 0


# ------------------------------------------------------------------------------------------------ endings
ENDING = "{request} {status} {reason} {body_bytes_sent} {attempts}"


def test_a_head_that_is_refused_is_logged_with_what_is_known(world: LogWorld, tmp_path: Path) -> None:
    world.log({"to": str(tmp_path / "log"), "format": ENDING}, dead=True)
    heads = [
        b"\x16\x03\x01\x02\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET " + b"/" * 9000 + b" HTTP/1.1\r\n\r\n",
    ]
    for head in heads:
        world.ask(head)
    world.rest()
    lines = wait_for_lines(tmp_path / "log", 4)
    assert lines[0].startswith(r"\x16\x03\x01\x02 400 client:bad_request_line ")
    assert lines[1].startswith("GET / HTTP/1.1 400 client:bad_host ")
    assert lines[2].startswith(r"GET /\xFF HTTP/1.1 400 client:bad_target ")
    assert lines[3].startswith("GET ////") and " 414 client:target_too_long " in lines[3]


def test_a_client_that_leaves_in_the_middle_of_its_head_is_logged(world: LogWorld, tmp_path: Path) -> None:
    world.log({"to": str(tmp_path / "log"), "format": ENDING}, dead=True)
    client = world.connect(world.web)
    client.send(b"GET /half HT")
    world.pump_until(lambda: world.counters()["client_bytes_in"])
    client.close()
    world.pump_until(lambda: world.counters()["clients_closed"])
    assert only_line(tmp_path / "log") == "GET /half HT 499 client:closed 0 0"


def test_a_client_that_leaves_before_its_answer_is_499(world: LogWorld, tmp_path: Path) -> None:
    world.log({"to": str(tmp_path / "log"), "format": ENDING + " {backend_statuses}"})
    client = world.connect(world.web)
    client.send(request(b"/", b"Content-Length: 10"))
    world.accept()
    client.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER: closing is a reset
    client.close()
    world.rest()
    assert only_line(tmp_path / "log") == "GET / HTTP/1.1 499 client:reset 0 1 -"


def test_a_cut_answer_has_its_status_and_its_reason(world: LogWorld, tmp_path: Path) -> None:
    world.log({"to": str(tmp_path / "log"), "format": ENDING})
    client = world.connect(world.web)
    client.send(request())
    peer = world.accept()
    world.read(peer)
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    peer.close()
    world.pump_until(lambda: world.counters()["exchanges_closed"])
    assert only_line(tmp_path / "log") == "GET / HTTP/1.1 200 backend:truncated 4 1"


def test_every_attempt_is_named(world: LogWorld, tmp_path: Path) -> None:
    world.log({"to": str(tmp_path / "log"), "format": "{status} {backends} {backend_statuses} {attempts}"})
    port = world.backend.getsockname()[1]
    client = world.connect(world.web)
    client.send(request())
    first = world.accept()
    world.read(first)
    first.send(OK)
    world.read(client)
    client.send(request(b"/again"))
    first.close()  # the pooled connection ends before the request reaches it, or with it
    world.pump_until(lambda: world.counters()["attempts_opened"] >= 2)
    second = world.accept()
    world.read(second)
    second.send(OK)
    world.read(client)
    world.rest()
    lines = wait_for_lines(tmp_path / "log", 2)
    address = f"127.0.0.1:{port}"
    assert lines[0] == f"200 {address} 200 1"
    assert lines[1] in (f"200 {address}, {address} -, 200 2", f"200 {address} 200 1")


def test_time_in_a_queue_is_logged_however_the_wait_ends(world: LogWorld, tmp_path: Path) -> None:
    log = {"to": str(tmp_path / "log"), "format": "{path} {status} {queue_ms} {duration_ms}"}

    def ask(number: int) -> socket.socket:
        client = world.connect(world.web)
        client.send(request(f"/{number}".encode()))
        world.pump_until(lambda: world.counters()["exchanges_opened"] == number + 1)
        return client

    world.log(log, cap=1, queue_max=10, queue_timeout_ms=60_000)
    served, gone, waiting = (ask(number) for number in range(3))
    peer = world.accept()
    began = time.monotonic()
    world.pump_until(lambda: time.monotonic() - began > 0.02)
    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
    gone.close()
    world.pump_until(lambda: world.counters()["exchanges_closed"] == 1)
    peer.send(OK)
    world.read(served)
    peer.send(OK)
    world.read(waiting)
    world.log(log, cap=1, queue_max=10, queue_timeout_ms=20)
    served, late = ask(3), ask(4)
    world.read(late)
    peer.send(OK)
    world.read(served)
    world.rest()
    lines = {line.split()[0]: list(map(int, line.split()[1:])) for line in wait_for_lines(tmp_path / "log", 5)}
    assert {path: line[0] for path, line in lines.items()} == {"/0": 200, "/1": 499, "/2": 200, "/3": 200, "/4": 503}
    assert lines["/0"][1] == lines["/3"][1] == 0
    for path in ("/1", "/4"):
        assert lines[path][1] == lines[path][2] > 0, "it did nothing else"
    assert 0 < lines["/2"][1] <= lines["/2"][2]


def test_a_tunnel_is_logged_when_it_ends(world: LogWorld, tmp_path: Path) -> None:
    world.log({"to": str(tmp_path / "log"), "format": "{status} {tunnel} {keep_alive} {body_bytes_sent} {request_body_bytes}"})
    client = world.connect(world.web)
    client.send(request(b"/", b"Connection: upgrade", b"Upgrade: x"))
    peer = world.accept()
    world.read(peer)
    peer.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nhello")
    assert world.read(client).endswith(b"hello")
    client.send(b"four")
    world.read(peer)
    assert not (tmp_path / "log").read_bytes()
    world.log({"to": str(tmp_path / "other")})  # the tunnel keeps its plan, its format and its file
    world.log({"to": str(tmp_path / "third")})
    peer.close()
    client.close()
    world.rest()
    assert only_line(tmp_path / "log") == "101 1 0 5 4"


def test_interim_answers_count_as_sent_and_give_no_line(world: LogWorld, tmp_path: Path) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    world.log({"to": str(tmp_path / "log"), "format": "{status} {bytes_sent} {body_bytes_sent}"})
    world.ask(request(), interim + OK)
    world.rest()
    assert only_line(tmp_path / "log") == f"200 {len(interim) + len(OK)} 2"


def test_a_request_id_is_that_which_the_backend_got(world: LogWorld, tmp_path: Path) -> None:
    world.log({"to": str(tmp_path / "log"), "format": "{request_id}"})
    client = world.connect(world.web)
    client.send(request(b"/", b"X-Request-Id: mine"))
    peer = world.accept()
    received = world.read(peer)
    peer.send(OK)
    world.read(client)
    world.rest()
    assert f"X-Request-Id: {only_line(tmp_path / 'log')}\r\n".encode() in received


def test_exchanges_that_are_open_when_the_engine_closes_are_logged(world: LogWorld, tmp_path: Path) -> None:
    world.log({"to": str(tmp_path / "log"), "format": ENDING})
    client = world.connect(world.web)
    client.send(request(b"/open"))
    world.accept()
    world.engine.close()
    assert only_line(tmp_path / "log") == "GET /open HTTP/1.1 000 - 0 1"


# ------------------------------------------------------------------------------------------------ snapshots
def test_a_snapshot_without_logs_stops_logging_and_closes_its_files(world: LogWorld, tmp_path: Path) -> None:
    world.log(str(tmp_path / "log"), dead=True)
    world.ask(request())
    world.rest()
    only_line(tmp_path / "log")
    world.apply(world.web)
    wait_until(lambda: str(tmp_path / "log") not in open_files(), "the file is closed")
    world.ask(request(), OK)
    world.rest()
    world.engine.close()
    assert (tmp_path / "log").read_bytes().count(b"\n") == 1


def test_a_destination_that_stays_needs_no_new_descriptor(world: LogWorld, tmp_path: Path) -> None:
    world.log(str(tmp_path / "log"), dead=True)
    world.ask(request(b"/one"))
    world.rest()
    world.open_logs = lambda destinations: None  # type: ignore[method-assign]
    world.log({"to": str(tmp_path / "log"), "format": "{target}"}, dead=True)
    world.ask(request(b"/two"))
    world.rest()
    lines = wait_for_lines(tmp_path / "log", 2)
    assert '"GET /one HTTP/1.1"' in lines[0] and lines[1] == "/two"


def test_a_descriptor_for_a_destination_that_there_is_not_is_refused(world: LogWorld, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no log destination 0"):
        world.engine.set_log(0, 1)
    world.log(str(tmp_path / "log"))
    with pytest.raises(ValueError, match="no log destination 1"):
        world.engine.set_log(1, 1)
    with pytest.raises(OSError, match="Bad file descriptor"):
        world.engine.set_log(0, 9999)


def test_a_full_disk_stalls_nobody(world: LogWorld) -> None:
    world.log("/dev/full", dead=True)
    for _ in range(50):
        world.ask(request())
    world.rest()
    world.engine.close()
    counters = world.counters()
    assert (counters["log_lines_lost"], counters["log_lines_written"], counters["log_lines_dropped"]) == (50, 0, 0)


def test_a_full_ring_drops_lines_and_counts_them(world: LogWorld, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    world.log({"to": "stdout", "format": "{target}"}, dead=True, settings={"log_buffer": "128KiB"})
    world.engine.set_log(0, writing)
    client = world.connect(world.web)
    n = 0
    while not world.counters()["log_lines_dropped"]:
        client.send(request(b"/" + b"x" * 4000))
        world.read(client)
        n += 1
    os.close(reading)  # whoever is stuck gets an error
    os.close(writing)
    world.rest()
    world.engine.close()
    counters = world.counters()
    assert counters["log_lines_written"] + counters["log_lines_lost"] + counters["log_lines_dropped"] == n


# ------------------------------------------------------------------------------------------------ plans
def test_a_plan_of_the_writer_passes_and_a_damaged_one_never_reads_outside() -> None:
    plan, _ = compile_logs(
        "stdout", {"to": "syslog:/dev/log", "format": "json", "when": "status > 1 and not (path == a or request.b == c)"}
    )
    for good in (plan, log_plan()):
        assert check_log_plan(good)
        for size in range(0, len(good), 8):
            assert not check_log_plan(good[:size])
        accepted = 0
        for offset in range(0, len(good) - 3, 4):
            for value in (0, 1, 0xFFFFFFFF, 0x80000001, len(good)):
                accepted += bool(check_log_plan(patch(good, offset, value)))
        assert accepted < len(good) // 4 * 5 - 50
