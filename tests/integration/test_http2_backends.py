"""HTTP/2 to backends with a server that is not ours: nghttpd, under h2load and curl."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(not shutil.which("nghttpd") or not shutil.which("h2load"), reason="nghttpd or h2load is not installed")
HTTP2 = {"protocol": "http2"}


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@pytest.fixture(scope="module")
def nghttpd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address; it serves a small and a large file, and echoes what is posted."""
    root: Path = tmp_path_factory.mktemp("nghttpd")
    (root / "small").write_bytes(b"x" * 128)
    (root / "large").write_bytes(os.urandom(3_000_000))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with subprocess.Popen(
        ["nghttpd", "--no-tls", "--address=127.0.0.1", "--echo-upload", f"--htdocs={root}", "--trailer=x-sum: 7", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        wait_until(lambda: answers(port), "nghttpd to listen")
        yield f"127.0.0.1:{port}"
        server.send_signal(signal.SIGTERM)


def run(*command: str) -> bytes:
    return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout


@pytest.mark.parametrize("version", ["--h1", "--h2"])
def test_h2load_gets_every_answer_whole(fastlb, nghttpd, version):
    lb = fastlb([nghttpd], pool=HTTP2)
    more = ["--h1"] if version == "--h1" else ["-m", "20"]
    shown = run("h2load", "-n", "3000", "-c", "8", "-t", "1", *more, f"{lb.urls[0]}/small").decode()
    assert re.search(r"3000 succeeded, 0 failed, 0 errored, 0 timeout", shown), shown
    assert lb.counter("responses_2xx") == 3000
    assert lb.counter("backend_streams_opened") == 3000
    assert lb.counter("backend_sessions_opened") <= 4
    assert lb.counter("backend_resets_sent") == 0
    assert lb.reasons() == {}


def test_large_bodies_pass_both_ways(fastlb, nghttpd, tmp_path):
    lb = fastlb([nghttpd], pool=HTTP2)
    body = os.urandom(2_000_000)
    (tmp_path / "upload").write_bytes(body)
    curl = ("curl", "-sS", "--max-time", "60")
    for version in ("--http1.1", "--http2-prior-knowledge"):
        assert run(*curl, version, "--data-binary", f"@{tmp_path / 'upload'}", f"{lb.urls[0]}/echo") == body
        assert len(run(*curl, version, f"{lb.urls[0]}/large")) == 3_000_000
    assert b"x-sum: 7" in run("nghttp", "-v", f"{lb.urls[0]}/small")
    assert lb.reasons() == {}


def test_requests_go_on_over_reloads(fastlb, nghttpd):
    lb = fastlb([nghttpd], pool=HTTP2)
    command = ["h2load", "-n", "6000", "-c", "4", "-m", "10", "-t", "1", f"{lb.urls[0]}/small"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
        for _ in range(3):
            assert lb.reload()["ok"]
        shown = load.communicate(timeout=60)[0]
    assert "6000 succeeded, 0 failed, 0 errored" in shown, shown
