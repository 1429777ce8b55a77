"""Decoding a chunked body of 64 KiB, beside h11 and beside the naive loop, which checks nothing. All three copy the body once or more."""

import h11
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

probe = pytest.importorskip("tests.support._probe", reason="built by ./dev build")

BODY = bytes(range(256)) * 256
CHUNKS = pytest.mark.parametrize("chunk", [64, 4096, 65536])


def encode(chunk: int) -> bytes:
    pieces = [BODY[at : at + chunk] for at in range(0, len(BODY), chunk)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@CHUNKS
def test_fastlb(benchmark: BenchmarkFixture, chunk: int) -> None:
    benchmark.group = f"64 KiB in chunks of {chunk} bytes"
    coded = encode(chunk)
    assert benchmark(lambda: probe.ChunkedDecoder().feed(coded)) == (BODY, len(coded))


@CHUNKS
def test_h11(benchmark: BenchmarkFixture, chunk: int) -> None:
    benchmark.group = f"64 KiB in chunks of {chunk} bytes"
    coded = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + encode(chunk)

    def decode() -> bytes:
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(coded)
        connection.next_event()
        pieces = []
        while isinstance(event := connection.next_event(), h11.Data):
            pieces.append(bytes(event.data))
        return b"".join(pieces)

    assert benchmark(decode) == BODY


@CHUNKS
def test_naive(benchmark: BenchmarkFixture, chunk: int) -> None:
    benchmark.group = f"64 KiB in chunks of {chunk} bytes"
    coded = encode(chunk)

    def decode() -> bytes:
        pieces, at = [], 0
        while True:
            end = coded.index(b"\r\n", at)
            size = int(coded[at:end], 16)
            if size == 0:
                return b"".join(pieces)
            pieces.append(coded[end + 2 : end + 2 + size])
            at = end + size + 4

    assert benchmark(decode) == BODY
