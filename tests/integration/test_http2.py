"""HTTP/2 with clients that are not ours: curl, nghttp and h2load."""

import re
import shutil
import signal
import subprocess

import pytest

from tests.support.certificates import make_certificates
from tests.support.message import response

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n"


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_curl(fastlb, instant, tmp_path):
    lb = fastlb([instant(response(b"hello"))])
    curl = ("curl", "-sS", "--max-time", "60", "--http2-prior-knowledge")
    assert run(*curl, f"{lb.urls[0]}/") == "hello"
    assert run(*curl, "-I", f"{lb.urls[0]}/").startswith("HTTP/2 200")
    (tmp_path / "upload").write_bytes(b"x" * 3_000_000)
    assert run(*curl, "-T", str(tmp_path / "upload"), f"{lb.urls[0]}/") == "hello"
    assert run(*curl, "-d", "x" * 2000, f"{lb.urls[0]}/") == "hello"
    assert lb.reasons() == {}
    assert lb.counter("http2_sessions_opened") == 4


@pytest.mark.skipif(not all(map(shutil.which, ("curl", "h2load", "nghttp"))), reason="curl, h2load or nghttp is not installed")
def test_over_tls_alpn_says_which_version_it_is(fastlb, instant, tmp_path):
    chain = make_certificates(tmp_path, "localhost").chain
    chain.chmod(0o600)
    lb = fastlb([instant(response(b"hello"))], listener={"tls": {"certificates": str(chain)}})
    for option, version in (("--http2", "2"), ("--http1.1", "1.1")):
        assert run("curl", "-sSk", "--max-time", "60", option, "-w", " %{http_version}", f"{lb.urls[0]}/") == f"hello {version}"
    shown = run("h2load", "-n", "1000", "-c", "4", "-m", "10", "-t", "1", f"{lb.urls[0]}/")
    assert "Application protocol: h2" in shown
    assert "1000 succeeded, 0 failed, 0 errored" in shown, shown
    assert "hello" in run("nghttp", "--no-verify-peer", f"{lb.urls[0]}/")
    assert lb.reasons() == {}


@pytest.mark.skipif(not shutil.which("nghttp"), reason="nghttp is not installed")
def test_nghttp_sees_trailers(fastlb, instant):
    lb = fastlb([instant(CHUNKED)])
    shown = run("nghttp", "-v", f"{lb.urls[0]}/")
    assert "hello" in shown
    assert "x-sum: 7" in shown
    assert "transfer-encoding" not in shown


@pytest.mark.skipif(not shutil.which("h2load"), reason="h2load is not installed")
def test_h2load_gets_every_answer_whole(fastlb, instant):
    lb = fastlb([instant(response(b"x" * 10_000))])
    shown = run("h2load", "-n", "2000", "-c", "8", "-m", "20", "-t", "1", f"{lb.urls[0]}/")
    assert re.search(r"2000 succeeded, 0 failed, 0 errored, 0 timeout", shown), shown
    assert lb.counter("responses_2xx") == 2000
    assert lb.reasons() == {}


@pytest.mark.skipif(not shutil.which("h2load"), reason="h2load is not installed")
def test_streams_go_on_over_reloads(fastlb, instant):
    lb = fastlb([instant(response(b"ok"))])
    command = ["h2load", "-n", "3000", "-c", "4", "-m", "10", "-t", "1", f"{lb.urls[0]}/"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
        for _ in range(3):
            assert lb.reload()["ok"]
        shown = load.communicate(timeout=60)[0]
    assert "3000 succeeded, 0 failed, 0 errored" in shown, shown


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_log_says_which_version_it_was(fastlb, instant, tmp_path):
    log = tmp_path / "log"
    lb = fastlb(
        [instant(response(b"hello"))],
        listener={"access_log": {"to": str(log), "format": "{request} {protocol} {status} {body_bytes_sent} {connection_requests}"}},
    )
    assert run("curl", "-sS", "--http2-prior-knowledge", f"{lb.urls[0]}/x") == "hello"
    lb.signal(signal.SIGTERM)
    lb.wait_exit()
    assert log.read_text().splitlines() == ["GET /x HTTP/2.0 HTTP/2.0 200 5 1"]
