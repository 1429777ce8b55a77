"""A request head written for a backend: without edits, and with the edits that routes may have. The naive version joins lines in Python."""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

probe = pytest.importorskip("tests.support._probe", reason="built by ./dev build")
images = pytest.importorskip("tests.support.images")

from bench.micro.test_http1_head import BROWSER  # noqa: E402  behind the probe

TIMES = 1000
VALUE = [("client", "controls", ""), b" ", ("header", "controls", "user-agent")]
EDITS = {
    "no edits": [],
    "one field set": [("set", "X-Real-IP", [("client", "controls", "")])],
    "three set, one removed, Host set": [
        ("set", "Host", [b"app.internal"]),
        ("set", "X-Real-IP", [("client", "controls", "")]),
        ("set", "X-Seen", VALUE),
        ("set", "X-Uri", [("uri", "controls", "")]),
        ("remove", "Accept-Encoding", []),
    ],
}


@pytest.mark.parametrize("edits", EDITS)
def test_fastlb(benchmark: BenchmarkFixture, edits: str) -> None:
    benchmark.group = f"{TIMES} request heads of {len(BROWSER)} bytes, written"
    writer = images.Writer()
    writer.edit_request(writer.route(), EDITS[edits])
    plane = writer.plane()
    assert benchmark(plane.write_request_times, BROWSER, TIMES) > len(BROWSER)


def test_naive(benchmark: BenchmarkFixture) -> None:
    benchmark.group = f"{TIMES} request heads of {len(BROWSER)} bytes, written"
    ours = [b"X-Forwarded-For: 192.0.2.7", b"X-Forwarded-Proto: http", b"X-Forwarded-Host: shop.example.com", b"X-Request-Id: " + b"0" * 32]

    def write() -> bytes:
        for _ in range(TIMES):
            lines = [line for line in BROWSER[:-4].split(b"\r\n") if not line.startswith(b"Connection:")]
            head = b"\r\n".join([*lines, *ours, b"", b""])
        return head

    assert len(benchmark(write)) > len(BROWSER)
