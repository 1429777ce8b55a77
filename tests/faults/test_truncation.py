"""A backend that dies in the middle of its answer: the client sees the cut, never a body that looks whole."""

import pytest

from tests.support.message import chunked, request, response

FRAMED = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"half")[:-5],
    "inside a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"a\r\nhalf",
    "before the last line": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"half")[:-2],
    "in the trailers": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"half", trailers="X-Sum: 1\r\n")[:-2],
}


@pytest.mark.parametrize("end", ["close", "half_close", "reset"])
@pytest.mark.parametrize("framing", FRAMED)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_cut_of_a_framed_answer_is_seen(fastlb, backend, framing, end, version):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/", version=version))
    connection, _ = backend.answer(FRAMED[framing])
    head = client.read_head()
    client.read_until(b"half")  # it has arrived, so that a reset cannot overtake it
    getattr(connection, end)()
    rest, how = client.read_to_ending()
    if head.chunked:
        assert not rest.endswith(b"0\r\n\r\n")
    elif head.body_length is None:
        assert how == "reset"  # nothing else tells an HTTP/1.0 client that more was to come
    else:
        assert len(rest) < head.body_length
    assert lb.wait_for_exchange_end()["reason.backend:truncated"] == 1
    assert lb.backends()[0]["failures"] == 1


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_reset_of_an_answer_that_lasts_until_the_end_is_seen(fastlb, backend, version):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/", version=version))
    connection, _ = backend.answer(b"HTTP/1.1 200 OK\r\n\r\nhalf")
    head = client.read_head()
    client.read_until(b"half")
    connection.reset()
    rest, how = client.read_to_ending()
    assert not rest.endswith(b"0\r\n\r\n") if head.chunked else how == "reset"
    assert lb.wait_for_exchange_end()["reason.backend:truncated"] == 1


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_malformed_chunk_in_the_middle_is_a_cut(fastlb, backend, version):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/", version=version))
    connection, _ = backend.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
    head = client.read_head()
    client.read_until(b"half")
    connection.send(b"xyz\r\n0\r\n\r\n")
    rest, how = client.read_to_ending()
    assert not rest.endswith(b"0\r\n\r\n") if head.chunked else how == "reset"
    assert connection.ending() in ("end", "reset")
    assert lb.wait_for_exchange_end()["reason.backend:truncated"] == 1


def test_cut_of_a_large_answer_through_splice_is_seen(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request())
    connection, _ = backend.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n" + b"x" * 1_000_000)
    client.read_head()
    client.read_exactly(1_000_000)
    connection.close()
    assert client.read_to_ending()[0] == b""
    assert lb.wait_for_exchange_end()["reason.backend:truncated"] == 1
    assert lb.counter("spliced_bytes") > 0


def test_what_came_before_the_cut_is_delivered(fastlb, backend):
    """A closed backend may have left data behind; the client gets all of it."""
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request())
    connection, _ = backend.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n")
    client.read_head()
    connection.send(b"x" * 300_000)
    connection.close()
    assert len(client.read_to_ending()[0]) == 300_000
    assert lb.wait_for_exchange_end()["reason.backend:truncated"] == 1


def test_client_connections_of_other_exchanges_are_not_touched(fastlb, backend):
    lb = fastlb([backend])
    first, second = lb.connect(), lb.connect()
    first.send(request("/first"))
    one = backend.accept()
    one.read_request()
    second.send(request("/second"))
    two = backend.accept()
    two.read_request()
    one.send(FRAMED["length"])
    one.reset()
    first.read_to_ending()
    two.send(response(b"whole"))
    assert second.read_response().body == b"whole"
