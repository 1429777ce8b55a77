"""fastlb/data_plane/http1_body.pyx. Every piece given to the decoder ends at an unmapped page."""

import pytest

from tests.support._probe import ChunkedDecoder, write_chunk_header


def decode(*pieces: bytes) -> tuple[bytes, int, str, bytes | None]:
    """Body, bytes used, state and trailer section."""
    decoder = ChunkedDecoder()
    body, used = b"", 0
    for piece in pieces:
        data, n = decoder.feed(piece)
        body += data
        used += n
        if decoder.state != "running":
            break
        assert n == len(piece)
    result = (body, used, decoder.state, decoder.trailers)
    assert decoder.close() == 0
    return result


def cut_everywhere(coded: bytes) -> None:
    """Whatever the cutting, the result is that of the whole."""
    whole = decode(coded)
    assert decode(*(bytes([byte]) for byte in coded)) == whole
    for at in range(1, len(coded)):
        assert decode(coded[:at], coded[at:]) == whole


GOOD = [
    (b"0\r\n\r\n", b""),
    (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    (b"5\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\n\r\n", b"hello world"),
    (b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", b"0123456789" * 2),
    (b"0000005\r\nhello\r\n000\r\n\r\n", b"hello"),
    (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n"),
    (b"5;name=value\r\nhello\r\n0;last\r\n\r\n", b"hello"),
    (b'5;a="x;y\\"z"\r\nhello\r\n0\r\n\r\n', b"hello"),
    (b"5;\tname = value \r\nhello\r\n0\r\n\r\n", b"hello"),
]


@pytest.mark.parametrize(("coded", "body"), GOOD, ids=range(len(GOOD)))
def test_body_is_decoded_whole_and_cut_at_every_byte(coded: bytes, body: bytes) -> None:
    assert decode(coded) == (body, len(coded), "done", None)
    cut_everywhere(coded)


def test_bytes_behind_the_body_are_not_touched() -> None:
    coded = b"5\r\nhello\r\n0\r\n\r\n"
    assert decode(coded + b"GET / HTTP/1.1\r\n") == (b"hello", len(coded), "done", None)


def test_trailer_section_is_kept_apart() -> None:
    coded = b"5\r\nhello\r\n0\r\nA: b\r\nC:\td \r\n\r\n"
    assert decode(coded + b"next") == (b"hello", len(coded), "done", b"A: b\r\nC:\td \r\n\r\n")
    cut_everywhere(coded)


def test_data_of_several_chunks_comes_in_one_run() -> None:
    decoder = ChunkedDecoder()
    assert decoder.feed(b"1\r\na\r\n2\r\nbc\r\n3\r\nde") == (b"abcde", 18)
    assert decoder.feed(b"f\r\n0\r\n") == (b"f", 6)
    assert decoder.state == "running"


def test_unfinished_body_stays_unfinished() -> None:
    coded = b"5\r\nhello\r\n0\r\nA: b\r\n\r\n"
    for size in range(len(coded)):
        assert decode(coded[:size])[2] == "running"


BAD = {
    "no digits": b"\r\n",
    "only an extension": b";a\r\n",
    "not a digit": b"g\r\n",
    "prefix": b"0x5\r\nhello\r\n",
    "sign": b"+5\r\nhello\r\n",
    "minus": b"-5\r\nhello\r\n",
    "space before the size": b" 5\r\nhello\r\n",
    "space behind the size": b"5 \r\nhello\r\n",
    "space before an extension": b"5 ;a\r\nhello\r\n",
    "underscore": b"1_0\r\n",
    "comma": b"5,5\r\n",
    "size ends in a bare LF": b"5\nhello\r\n",
    "size ends in a bare CR": b"5\rhello\r\n",
    "two CRs": b"5\r\r\nhello\r\n",
    "more data than the size says": b"4\r\nhello\r\n",
    "less data than the size says": b"6\r\nhello\r\n0\r\n\r\n",
    "data ends in a bare LF": b"5\r\nhello\n0\r\n\r\n",
    "data ends in a bare CR": b"5\r\nhello\r0\r\n\r\n",
    "no CRLF behind the data": b"5\r\nhello0\r\n\r\n",
    "the last chunk ends in a bare LF": b"0\n\r\n",
    "the end is a bare LF": b"0\r\n\n\r\n",
    "the end is CR and something": b"0\r\n\rX",
    "size of 16 digits": b"0000000000000005\r\nhello\r\n",
    "size beyond 64 bits": b"fffffffffffffffff\r\n",
    "NUL in an extension": b"5;a\0b\r\nhello\r\n",
    "bare CR in an extension": b"5;a\rb\r\nhello\r\n",
    "bare LF in an extension": b"5;a\nhello\r\n",
    "unfinished quote in an extension": b'5;a="b\r\nhello\r\n',
    "DEL in an extension": b"5;\x7f\r\nhello\r\n",
    "trailer without a colon": b"0\r\nabc\r\n\r\n",
    "trailer with a space before the colon": b"0\r\na : b\r\n\r\n",
    "trailer continued on the next line": b"0\r\na: b\r\n c\r\n\r\n",
    "trailer that ends in a bare LF": b"0\r\na: b\n\r\n",
    "trailer line ends in a bare LF": b"0\r\na: b\n",
    "trailer section ends in a bare LF": b"0\r\na: b\r\n\n",
    "NUL in a trailer": b"0\r\na: \0\r\n\r\n",
    "bare CR in a trailer": b"0\r\na: b\rc\r\n\r\n",
    "trailer without a name": b"0\r\n: b\r\n\r\n",
}


@pytest.mark.parametrize("coded", BAD.values(), ids=BAD.keys())
def test_bad_coding_is_refused_however_it_is_cut(coded: bytes) -> None:
    assert decode(coded)[2] == "bad"
    assert decode(*(bytes([byte]) for byte in coded))[2] == "bad"
    for at in range(1, len(coded)):
        assert decode(coded[:at], coded[at:])[2] == "bad"


def test_largest_size_is_waited_for() -> None:
    decoder = ChunkedDecoder()
    decoder.feed(b"fffffffffffffff\r\n")
    for _ in range(10):
        assert decoder.feed(b"x" * 10_000) == (b"x" * 10_000, 10_000)
    assert decoder.state == "running"


def test_extensions_are_bounded_over_a_whole_body() -> None:
    # A body of one-byte chunks, each with a long extension, costs far more than it carries (CVE-2023-39326).
    decoder = ChunkedDecoder()
    chunk = b"1;" + b"x" * 998 + b"\r\na\r\n"
    for _ in range(16):
        decoder.feed(chunk)
    assert decoder.state == "running"
    decoder.feed(chunk)
    assert decoder.state == "bad"


@pytest.mark.parametrize("piece", [1, 100, 100_000])
def test_trailers_are_bounded(piece: int) -> None:
    def state(trailers: bytes) -> str:
        coded = b"0\r\n" + trailers + b"\r\n"
        return decode(*(coded[at : at + piece] for at in range(0, len(coded), piece)))[2]

    line = b"a: " + b"x" * 95 + b"\r\n"
    assert state(line * 60) == "done"
    assert state(line * 82) == "bad"  # more than 8 KiB
    assert state(b"a:" + b"x" * 9000 + b"\r\n") == "bad"
    assert state(b"a:\r\n" * 64) == "done"
    assert state(b"a:\r\n" * 65) == "bad"  # more than 64


def test_endless_trailer_line_is_not_waited_for() -> None:
    decoder = ChunkedDecoder()
    decoder.feed(b"0\r\na: ")
    for _ in range(100):
        decoder.feed(b"x" * 100)
    assert decoder.state == "bad"
    assert decoder.close() == 0


@pytest.mark.parametrize("size", [0, 1, 9, 10, 15, 16, 255, 256, 4095, 65536, 2**31, 2**32 - 1])
def test_chunk_header_is_hexadecimal(size: int) -> None:
    assert write_chunk_header(size) == b"%x\r\n" % size
