"""Real clients: curl, wrk, and Python's own."""

import http.client
import re
import shutil
import subprocess

import h11
import pytest

from tests.support.message import response

needs_curl = pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
needs_wrk = pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not installed")


def curl(lb, *arguments):
    return subprocess.run(["curl", "-sS", "--max-time", "60", *arguments, f"{lb.urls[0]}/"], check=True, capture_output=True).stdout


@needs_curl
def test_curl(fastlb, instant, tmp_path):
    lb = fastlb([instant(response(b"hello"))])
    assert curl(lb) == b"hello"
    assert curl(lb, "-I").startswith(b"HTTP/1.1 200 OK\r\n")
    assert curl(lb, "--http1.0") == b"hello"
    assert curl(lb, "--http2") == b"hello"  # offers h2c, and stays with HTTP/1.1
    assert curl(lb, "-H", "Expect: 100-continue", "--expect100-timeout", "0.01", "-d", "x" * 2000) == b"hello"
    (tmp_path / "upload").write_bytes(b"x" * 3_000_000)
    assert curl(lb, "-H", "Expect:", "-T", str(tmp_path / "upload")) == b"hello"
    assert lb.reasons() == {}


def test_http_client_of_python(fastlb, instant):
    lb = fastlb([instant(response(b"hello"))])
    client = http.client.HTTPConnection("127.0.0.1", lb.port)
    for _ in range(10):
        client.request("PUT", "/x", body=b"y" * 10_000)
        answer = client.getresponse()
        assert (answer.status, answer.read()) == (200, b"hello")
    client.close()
    assert lb.counter("clients_opened") == 1


def test_h11_on_both_ends_agrees_with_what_passes(fastlb, backend):
    """A strict parser that is not ours reads every byte, over several exchanges on the same connections."""
    lb = fastlb([backend])
    near, far = h11.Connection(h11.CLIENT), h11.Connection(h11.SERVER)
    client = lb.connect()
    connection = None

    def events(parser, peer, last):
        found = []
        while not isinstance(event := parser.next_event(), last):
            if event is h11.NEED_DATA:
                parser.receive_data(peer.receive())
            else:
                found.append(event)
        return [*found, event]

    for number in range(4):
        fields = [("Host", "test"), ("Transfer-Encoding", "chunked")] if number % 2 else [("Host", "test"), ("Content-Length", "10")]
        client.send(near.send(h11.Request(method="POST", target=f"/{number}", headers=fields)) or b"")
        client.send(near.send(h11.Data(data=b"hello")) or b"", near.send(h11.Data(data=b"world")) or b"")
        client.send(near.send(h11.EndOfMessage(headers=[("X-Sum", "1")] if number % 2 else [])) or b"")
        connection = connection or backend.accept()
        received = events(far, connection, h11.EndOfMessage)
        assert received[0].target == b"/%d" % number
        assert b"".join(event.data for event in received[1:-1]) == b"helloworld"
        connection.send(far.send(h11.InformationalResponse(status_code=103, headers=[("Link", "x")])) or b"")
        connection.send(far.send(h11.Response(status_code=200, headers=[] if number % 2 else [("Content-Length", "3")])) or b"")
        connection.send(far.send(h11.Data(data=b"yes")) or b"", far.send(h11.EndOfMessage()) or b"")
        answered = events(near, client, h11.EndOfMessage)
        assert [event.status_code for event in answered[:2]] == [103, 200]
        assert b"".join(event.data for event in answered[2:-1]) == b"yes"
        near.start_next_cycle()
        far.start_next_cycle()
    assert lb.counter("backend_connections_opened") == 1


def run_wrk(lb, seconds, *arguments):
    report = subprocess.run(
        ["wrk", "-t1", "--timeout", "60s", f"-d{seconds}s", *arguments, f"{lb.urls[0]}/"], check=True, capture_output=True, text=True
    ).stdout
    assert "Socket errors" not in report, report
    assert "Non-2xx" not in report, report
    found = re.search(r"(\d+) requests in", report)
    assert found, report
    return int(found[1])


@needs_wrk
@pytest.mark.parametrize("connections", [1, 64])
def test_wrk_sees_no_error(fastlb, instant, connections):
    lb = fastlb([instant(), instant()])
    assert run_wrk(lb, 1, f"-c{connections}") > 0
    assert {reason for reason in lb.reasons() if not reason.startswith("client:")} == set()  # wrk leaves in the middle, in the end


@pytest.mark.long
@pytest.mark.timeout(1800)
@needs_wrk
def test_a_million_requests_without_an_error(fastlb, instant):
    lb = fastlb([instant(), instant(), instant()])
    answered = 0
    while answered < 1_000_000:
        answered += run_wrk(lb, 30, "-c100")
    assert {reason for reason in lb.reasons() if not reason.startswith("client:")} == set()
    assert lb.counter("responses_2xx") >= 1_000_000
