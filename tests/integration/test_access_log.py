"""The access log of real processes: where lines go, when they are there, and what happens to them when something is wrong."""

import json
import os
import re
import signal
import socket
import threading

import pytest

from tests.support.configuration import configuration
from tests.support.logs import wait_for_lines
from tests.support.message import request, response
from tests.support.waiting import DEADLINE_SECONDS, wait_until

SHORT = "{request} {status} {reason}"


def logging(log, **listener):
    return {"access_log": log, **listener}


def end(lb):
    """Ends it with whatever its workers still hold."""
    lb.signal(signal.SIGTERM)
    lb.wait_exit()


def test_each_answer_has_its_line(fastlb, instant, tmp_path):
    log = tmp_path / "log"
    lb = fastlb([instant()], listener=logging(str(log)))
    client = lb.connect()
    for number in range(20):
        assert client.ask(request(f"/{number}", "User-Agent: t")).status == 200
        lines = wait_for_lines(log, number + 1)
        assert len(lines) == number + 1
        assert re.fullmatch(rf'127\.0\.0\.1 - - \[[^]]+\] "GET /{number} HTTP/1\.1" 200 2 "-" "t"', lines[-1])
    assert oct(log.stat().st_mode & 0o777) == "0o640"


def test_every_ending_gives_exactly_one_line(fastlb, backend, scripted, tmp_path):
    log = tmp_path / "log"
    nobody = scripted()
    nobody.close()
    pools = {"main": {"backends": [backend]}, "nobody": {"backends": [nobody]}}
    routes = [{"path": "/", "pool": "main"}, {"path": "/nobody", "pool": "nobody"}, {"path": "/only", "host": "elsewhere", "pool": "main"}]
    listener = {"name": "web", **logging({"to": str(log), "format": SHORT}, timeouts={"head": "50ms"})}
    lb = fastlb(configuration(listeners=[listener], pools=pools, routes=routes))
    client = lb.connect()
    client.send(request("/whole"))
    backend.answer()
    client.read_response()
    assert lb.get("/nobody").status == 502
    assert client.ask(b"BAD\r\n\r\n").status == 400
    slow = lb.connect()
    slow.send(b"GET /slow HT")
    assert slow.read_response().status == 408
    cut = lb.connect()
    cut.send(request("/cut"))
    peer = backend.peers[0]
    peer.read_request()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    peer.close()
    assert cut.read_head().status == 200
    assert cut.read_to_end() == b"half"
    gone = lb.connect()
    gone.send(request("/gone", "Content-Length: 10", method="POST"))
    backend.accept()
    gone.reset()
    lb.wait_for_exchange_end()
    wait_for_lines(log, 6)
    lb.stop()
    assert sorted(log.read_text().splitlines()) == [
        "BAD 400 client:bad_request_line",
        "GET /cut HTTP/1.1 200 backend:truncated",
        "GET /nobody HTTP/1.1 502 backend:connect_refused",
        "GET /slow HT 408 client:head_timeout",
        "GET /whole HTTP/1.1 200 -",
        "POST /gone HTTP/1.1 499 client:reset",
    ]


def test_after_sigusr1_lines_go_to_a_new_file_and_none_is_lost(fastlb, instant, tmp_path):
    log = tmp_path / "log"
    lb = fastlb([instant()], listener=logging({"to": str(log), "format": "{target}"}), workers=2)
    stop = threading.Event()
    sent = []

    def ask():
        client = lb.connect()
        while not stop.is_set():
            sent.append(f"/{len(sent)}")
            client.ask(request(sent[-1]))

    asking = threading.Thread(target=ask)
    asking.start()
    for number in range(1, 6):
        wait_for_lines(log)
        log.rename(tmp_path / f"log.{number}")
        lb.signal(signal.SIGUSR1)
    wait_for_lines(log)
    stop.set()
    asking.join()
    end(lb)
    logged = [line for path in tmp_path.iterdir() for line in path.read_text().splitlines()]
    assert sorted(logged) == sorted(sent)


def test_a_log_that_cannot_be_opened_again_goes_on_to_where_it_went(fastlb, instant, tmp_path):
    directory = tmp_path / "logs"
    directory.mkdir()
    lb = fastlb([instant()], listener=logging({"to": str(directory / "log"), "format": "{target}"}))
    lb.get("/before")
    wait_for_lines(directory / "log")
    directory.rename(tmp_path / "away")
    lb.signal(signal.SIGUSR1)
    wait_until(lambda: "its lines still go to where they went" in lb.messages(), "it says so")
    lb.get("/after")
    assert wait_for_lines(tmp_path / "away" / "log", 2) == ["/before", "/after"]


def test_standard_output_gets_whole_lines_from_all_workers(fastlb, instant):
    lb = fastlb([instant()], listener=logging({"to": "stdout", "format": "json", "fields": ["target", "pid"]}), workers=2)
    for number in range(40):
        lb.get(f"/{number}")
    lines = [json.loads(lb.next_line()) for _ in range(40)]
    assert sorted(line["target"] for line in lines) == sorted(f"/{number}" for number in range(40))
    end(lb)


def test_syslog_gets_a_message_for_each_line_also_after_the_daemon_was_restarted(fastlb, instant, tmp_path):
    path = tmp_path / "syslog"

    def daemon():
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        made.bind(str(path))
        made.settimeout(DEADLINE_SECONDS)
        return made

    with daemon() as first:
        lb = fastlb([instant()], listener=logging({"to": f"syslog:{path},facility=local0,severity=notice,tag=web", "format": "{target}"}))
        lb.get("/one")
        assert re.fullmatch(rb"<133>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d web\[\d+\]: /one", first.recv(1000))
    path.unlink()
    with daemon() as second:
        lb.get("/two")
        assert second.recv(1000).endswith(b": /two")


def test_a_syslog_server_is_told_which_machine_this_is(fastlb, instant):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(DEADLINE_SECONDS)
        port = server.getsockname()[1]
        lb = fastlb([instant()], listener=logging({"to": f"syslog:udp://127.0.0.1:{port}", "format": "{target}"}))
        lb.get("/one")
        message = server.recv(1000).decode()
    host = re.sub("[^A-Za-z0-9.-]", "-", socket.gethostname())
    assert re.fullmatch(rf"<190>[A-Z][a-z]{{2}} [ \d]\d \d\d:\d\d:\d\d {re.escape(host)} fastlb\[\d+\]: /one", message)


def test_a_full_disk_never_stalls_traffic_and_is_counted(fastlb, instant):
    lb = fastlb([instant()], listener=logging("/dev/full"))
    client = lb.connect()
    for _ in range(300):
        assert client.ask(request()).status == 200
    lb.wait_for_counter("log_lines_lost", 300)
    assert lb.counter("log_lines_written") == 0


def test_a_pipe_that_is_not_read_never_stalls_traffic(fastlb, instant, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    reading = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    lb = fastlb([instant()], listener=logging(str(tmp_path / "fifo")), settings={"log_buffer": "128KiB"})
    client = lb.connect()
    target = "/" + "x" * 4000
    n = 0
    while not (n % 20 == 0 and lb.counter("log_lines_dropped")):
        assert client.ask(request(target)).status == 200
        n += 1
    os.close(reading)  # whoever is stuck gets an error, and the end need not wait
    counters = lb.wait_for(
        lambda counters: counters["log_lines_written"] + counters["log_lines_lost"] + counters["log_lines_dropped"] == n,
        "every line is accounted for",
    )
    assert counters["responses_2xx"] == n


def test_listeners_have_logs_of_their_own_or_none_or_that_of_all(fastlb, instant, tmp_path):
    one = {"to": str(tmp_path / "one"), "format": "{listener} {target}"}
    listeners = [
        {"name": "a"},
        {"name": "b", "access_log": "off"},
        {"name": "c", "access_log": [one, {**one, "to": str(tmp_path / "two")}]},
    ]
    text = configuration([instant()], listeners=listeners)
    lb = fastlb(f'[access_log]\nto = "{tmp_path}/all"\nformat = "{{listener}} {{target}}"\n{text}')
    for bind in range(3):
        lb.get(f"/{bind}", bind=bind)
    lb.stop()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"all": "a /0\n", "one": "c /2\n", "two": "c /2\n"}


def test_a_new_configuration_changes_the_logs(fastlb, instant, tmp_path):
    backend = instant()

    def text(name, form):
        return configuration([backend], listener=logging({"to": str(tmp_path / name), "format": form}) if name else {})

    lb = fastlb(text("", ""))
    client = lb.connect()
    client.ask(request("/0"))
    for number, (name, form) in enumerate([("a", "{target}"), ("a", "{target}!"), ("b", "{target}"), ("", ""), ("a", "{target}")], 1):
        lb.apply_ok(text(name, form))
        client.ask(request(f"/{number}"))
    end(lb)
    assert (tmp_path / "a").read_text() == "/1\n/2!\n/5\n"
    assert (tmp_path / "b").read_text() == "/3\n"


def test_a_log_that_cannot_be_opened_leaves_everything_as_it_was(fastlb, instant, tmp_path):
    backend = instant()
    one = {"workers": 1}
    lb = fastlb([backend], listener=logging({"to": str(tmp_path / "log"), "format": "{target}"}), settings=one)
    answer = lb.apply(
        configuration([backend], listener=logging([str(tmp_path / "other"), str(tmp_path / "missing" / "log")]), settings=one)
    )
    assert not answer["ok"]
    assert f"cannot open the log {tmp_path}/missing/log: no such file or directory" in "\n".join(answer["errors"])
    lb.get("/still")
    assert wait_for_lines(tmp_path / "log") == ["/still"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_size_of_a_body_does_not_count_the_head(fastlb, backend, tmp_path, method):
    log = {"to": str(tmp_path / "log"), "format": "{body_bytes_sent} {bytes_sent}"}
    lb = fastlb([backend], listener=logging(log, limits={"body": "8B"}))
    client = lb.connect()
    client.send(request("/", method=method))
    reply = response(b"x" * 5)
    backend.answer(reply if method == "GET" else reply[:-5])
    client.read_response(method)
    own = client.ask(request("/own", "Content-Length: 9", method=method), method)
    assert own.status == 413
    first, second = wait_for_lines(tmp_path / "log", 2)
    body, everything = map(int, first.split())
    assert body == (5 if method == "GET" else 0) and everything > body
    body, everything = map(int, second.split())
    assert body == len(own.body) and everything > body + 100
