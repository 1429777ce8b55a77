"""Requests whose length is ambiguous are refused and never forwarded: what one side takes for a body the other may take for a request."""

import pytest

from tests.support.message import request, response

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: test\r\n"

BAD_FRAMING = {
    "length and chunked": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "length of zero and chunked": b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "differing lengths": b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "the same length twice": b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "the same length twice in other letters": b"Content-Length: 5\r\ncontent-LENGTH: 5\r\n\r\nhello",
    "list of lengths": b"Content-Length: 5, 6\r\n\r\nhello",
    "list of the same length": b"Content-Length: 5,5\r\n\r\nhello",
    "length with a plus": b"Content-Length: +5\r\n\r\nhello",
    "length with a minus": b"Content-Length: -5\r\n\r\nhello",
    "length with a space inside": b"Content-Length: 1 0\r\n\r\nhello",
    "length with a tab inside": b"Content-Length: 1\t0\r\n\r\nhello",
    "length with a point": b"Content-Length: 5.0\r\n\r\nhello",
    "length with an exponent": b"Content-Length: 5e0\r\n\r\nhello",
    "length with an underscore": b"Content-Length: 1_0\r\n\r\nhello",
    "length in hexadecimal": b"Content-Length: 0x5\r\n\r\nhello",
    "length in hexadecimal digits": b"Content-Length: a\r\n\r\nhello",
    "length in quotes": b'Content-Length: "5"\r\n\r\nhello',
    "empty length": b"Content-Length:\r\n\r\nhello",
    "length of spaces": b"Content-Length:   \r\n\r\nhello",
    "length that overflows 64 bits": b"Content-Length: 18446744073709551621\r\n\r\nhello",
    "length that overflows 63 bits": b"Content-Length: 9223372036854775808\r\n\r\nhello",
    "length of a million digits": b"Content-Length: " + b"1" * 20000 + b"\r\n\r\nhello",
    "chunked, but not last": b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunked, identity": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunked twice": b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "two codings": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a coding and chunked in two fields": b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and an empty field": b"Transfer-Encoding:\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "empty coding": b"Transfer-Encoding:\r\n\r\n0\r\n\r\n",
    "list of nothing": b"Transfer-Encoding: ,\r\n\r\n0\r\n\r\n",
    "nothing, then chunked": b"Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n",
    "chunked, then nothing": b"Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n",
}

UNKNOWN_CODING = {
    "gzip": b"Transfer-Encoding: gzip\r\n\r\n",
    "gzip, chunked": b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "identity": b"Transfer-Encoding: identity\r\n\r\n",
    "xchunked": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunkedx": b"Transfer-Encoding: chunkedx\r\n\r\n0\r\n\r\n",
    "chunked in quotes": b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "chunked with a parameter": b"Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
    "chunked with a space inside": b"Transfer-Encoding: chun ked\r\n\r\n0\r\n\r\n",
}

BAD_HEADER = {
    "space before the colon of the length": b"Content-Length : 5\r\n\r\nhello",
    "space before the colon of the coding": b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "vertical tab before chunked": b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "form feed behind chunked": b"Transfer-Encoding: chunked\x0c\r\n\r\n0\r\n\r\n",
    "folded coding": b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "folded length": b"Content-Length: 5\r\n 0\r\n\r\nhello",
    "length behind a bare LF": b"X: y\nContent-Length: 5\r\n\r\nhello",
    "length behind a bare CR": b"X: y\rContent-Length: 5\r\n\r\nhello",
    "NUL behind the length": b"Content-Length: 5\0\r\n\r\nhello",
}


@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize("kind", BAD_FRAMING)
def test_ambiguous_length_is_refused(stage, kind, bytewise):
    stage.refuses(POST + BAD_FRAMING[kind] + SMUGGLED, 400, "client:bad_framing", bytewise=bytewise)


@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize("kind", UNKNOWN_CODING)
def test_unknown_coding_is_refused(stage, kind, bytewise):
    stage.refuses(POST + UNKNOWN_CODING[kind] + SMUGGLED, 501, "client:unknown_transfer_coding", bytewise=bytewise)


@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize("kind", BAD_HEADER)
def test_hidden_framing_field_is_refused(stage, kind, bytewise):
    stage.refuses(POST + BAD_HEADER[kind] + SMUGGLED, 400, "client:bad_header", bytewise=bytewise)


@pytest.mark.parametrize("coding", ["chunked", "Chunked", "CHUNKED", "\tchunked \t"])
def test_chunked_is_understood_in_any_letters(stage, coding):
    stage.accepts(POST + b"Transfer-Encoding: %s\r\n\r\n0\r\n\r\n" % coding.encode())


def test_chunked_in_http_1_0_is_refused(stage):
    stage.refuses(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED, 400, "client:bad_framing")


@pytest.mark.parametrize("length", ["5", "05", "0000000000000005", " 5 ", "\t5"])
def test_length_of_plain_digits_is_understood(stage, length):
    head = stage.accepts(POST + f"Content-Length: {length}\r\n\r\nhello".encode())
    assert b"\r\nContent-Length: " in head


@pytest.mark.parametrize("name", ["Content_Length", "Content-Length1", "X-Content-Length", "Transfer_Encoding", "Transfer-Encoding2"])
def test_names_that_only_look_like_framing_mean_nothing(stage, name):
    assert name.encode() in stage.accepts(b"GET / HTTP/1.1\r\nHost: test\r\n" + name.encode() + b": 5\r\n\r\n")


BAD_CHUNKS = {
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "size with a space": b"5 \r\nhello\r\n0\r\n\r\n",
    "space before the size": b" 5\r\nhello\r\n0\r\n\r\n",
    "size with a plus": b"+5\r\nhello\r\n0\r\n\r\n",
    "size with a minus": b"-5\r\nhello\r\n0\r\n\r\n",
    "size with 0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "size with h": b"5h\r\nhello\r\n0\r\n\r\n",
    "size with an underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "size with a NUL": b"5\0\r\nhello\r\n0\r\n\r\n",
    "size of 17 digits": b"00000000000000005\r\nhello\r\n0\r\n\r\n",
    "size that overflows 64 bits": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "size of f": b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "bare LF behind the size": b"5\nhello\r\n0\r\n\r\n",
    "bare CR behind the size": b"5\rhello\r\n0\r\n\r\n",
    "CR CR LF behind the size": b"5\r\r\nhello\r\n0\r\n\r\n",
    "bare LF behind the data": b"5\r\nhello\n0\r\n\r\n",
    "nothing behind the data": b"5\r\nhello0\r\n\r\n",
    "data too long": b"5\r\nhello!\r\n0\r\n\r\n",
    "data too short": b"6\r\nhello\r\n0\r\n\r\n",
    "extension with a bare LF": b"5;a=b\nhello\r\n0\r\n\r\n",
    "extension with a bare CR": b"5;a=b\rc\r\nhello\r\n0\r\n\r\n",
    "extension with a NUL": b"5;a=\0\r\nhello\r\n0\r\n\r\n",
    "quoted extension with a line end": b'5;a="x\r\nhello\r\n0\r\n\r\n',
    "endless extension": b"5;" + b"x" * 70_000 + b"\r\nhello\r\n0\r\n\r\n",
    "bare LF behind the last chunk": b"0\n\r\n",
    "bare LF at the end": b"0\r\n\n",
    "bare CR at the end": b"0\r\n\rx",
    "trailer with a space before the colon": b"0\r\nX : y\r\n\r\n",
    "folded trailer": b"0\r\nX: y\r\n z\r\n\r\n",
    "trailer without a colon": b"0\r\nX\r\n\r\n",
    "trailer with a bare LF": b"0\r\nX: y\nZ: a\r\n\r\n",
    "trailer with a NUL": b"0\r\nX: \0\r\n\r\n",
    "two lengths in the trailers": b"0\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    "endless trailers": b"0\r\n" + b"X: y\r\n" * 12_000 + b"\r\n",
}


@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize("kind", BAD_CHUNKS)
def test_malformed_chunk_is_refused_and_never_looks_complete_to_the_backend(stage, kind, bytewise):
    """The head may have been forwarded by then, and whole chunks before the bad one; never an end of the body, nor what follows."""
    client = stage.lb.connect()
    client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
    connection = stage.backend.accept()
    connection.read_until(b"3\r\none\r\n")
    data = BAD_CHUNKS[kind] + SMUGGLED
    if bytewise and len(data) < 1000:
        client.send_bytewise(data)
    else:
        client.send(data)
    answer = client.read_response()
    assert (answer.status, answer.reason, answer.closes) == (400, "client:bad_framing", True)
    client.expect_end()
    client.close()
    received = connection.read_to_ending()[0]
    connection.close()
    assert b"0\r\n\r\n" not in received
    assert b"smuggled" not in received
    assert stage.backend.saw_nothing()


@pytest.mark.parametrize(
    "body",
    [
        b"5\r\nhello\r\n0\r\n\r\n",
        b"5;a\r\nhello\r\n0\r\n\r\n",
        b'5;a="\\"; b"\r\nhello\r\n0;x=y\r\n\r\n',
        b"005\r\nhello\r\n000\r\n\r\n",
        b"A\r\nhellohello\r\n0\r\nX: y\r\n\r\n",
    ],
)
def test_well_formed_chunks_are_understood(stage, body):
    stage.accepts(POST + b"Transfer-Encoding: chunked\r\n\r\n" + body)
    stage.accepts(POST + b"Transfer-Encoding: chunked\r\n\r\n" + body, bytewise=True)


def test_body_of_a_get_is_a_body_and_no_request(stage):
    head = stage.accepts(request("/", body=SMUGGLED))
    assert b"smuggled" not in head


def test_answer_of_one_client_never_reaches_another(stage):
    """The classic outcome of smuggling: an answer too many on a connection that others use."""
    victim, attacker = stage.lb.connect(), stage.lb.connect()
    attacker.send(request("/", f"Content-Length: {len(SMUGGLED)}", method="POST") + SMUGGLED)
    connection = stage.backend.accept()
    assert connection.read_request().body == SMUGGLED
    connection.send(response(b"for the attacker") + response(b"too many"))
    assert attacker.read_response().body == b"for the attacker"
    victim.send(request("/victim"))
    connection, received = stage.backend.answer(response(b"for the victim", "Connection: close"))
    assert received.target == "/victim"
    assert victim.read_response().body == b"for the victim"
