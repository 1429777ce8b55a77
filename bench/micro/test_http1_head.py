"""The request parser beside h11, a strict parser in Python, and beside the naive split, which checks nothing."""

import h11
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

probe = pytest.importorskip("tests.support._probe", reason="built by ./dev build")

SHORT = b"GET /bytes/128 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n"
BROWSER = (
    b"GET /shop/items?page=2&order=price HTTP/1.1\r\n"
    b"Host: shop.example.com\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n"
    b"Accept-Language: en-GB,en;q=0.8,de;q=0.5,fr;q=0.3\r\n"
    b"Accept-Encoding: gzip, deflate, br, zstd\r\n"
    b"Referer: https://shop.example.com/shop/\r\n"
    b"Cookie: session=0123456789abcdef0123456789abcdef; consent=yes; theme=dark\r\n"
    b"Upgrade-Insecure-Requests: 1\r\n"
    b"Sec-Fetch-Dest: document\r\n"
    b"Sec-Fetch-Mode: navigate\r\n"
    b"Sec-Fetch-Site: same-origin\r\n"
    b"Connection: keep-alive\r\n\r\n"
)
HEADS = pytest.mark.parametrize("head", [pytest.param(SHORT, id="short"), pytest.param(BROWSER, id="browser")])


@HEADS
def test_fastlb(benchmark: BenchmarkFixture, head: bytes) -> None:
    benchmark.group = f"request head of {len(head)} bytes"
    assert benchmark(probe.parse_request_size, head) == len(head)


@HEADS
def test_h11(benchmark: BenchmarkFixture, head: bytes) -> None:
    benchmark.group = f"request head of {len(head)} bytes"

    def parse() -> object:
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(head)
        return connection.next_event()

    assert isinstance(benchmark(parse), h11.Request)


@HEADS
def test_naive(benchmark: BenchmarkFixture, head: bytes) -> None:
    benchmark.group = f"request head of {len(head)} bytes"

    def parse() -> tuple[list[bytes], dict[bytes, bytes]]:
        line, *lines = head[:-4].split(b"\r\n")
        fields = {}
        for entry in lines:
            name, _, value = entry.partition(b":")
            fields[name.lower()] = value.strip()
        return line.split(b" "), fields

    assert b"host" in benchmark(parse)[1]
