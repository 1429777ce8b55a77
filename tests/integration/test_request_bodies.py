"""Request bodies: Content-Length and chunked, streamed to the backend as they come."""

import hashlib
import os

import pytest

from tests.support.backend import ThreadedBackend
from tests.support.message import chunked, request, response
from tests.support.peer import Peer


def test_body_with_a_length_arrives_whole_and_with_its_length(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/", method="POST", body=b"hello"))
    _, received = backend.answer()
    assert (received.body, received.get("Content-Length")) == (b"hello", "5")
    assert client.read_response().status == 200


def test_chunked_body_arrives_whole_and_chunked(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/", "Transfer-Encoding: chunked", method="POST") + chunked(b"hello, ", b"world"))
    _, received = backend.answer()
    assert received.chunked
    assert received.body == b"hello, world"
    assert client.read_response().status == 200


def test_length_of_zero_is_passed_on_and_nothing_is_waited_for(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/", "Content-Length: 0", method="POST"))
    _, received = backend.answer()
    assert received.get("Content-Length") == "0"
    assert client.read_response().status == 200


def test_empty_chunked_body_is_passed_on(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/", "Transfer-Encoding: chunked", method="POST") + chunked())
    _, received = backend.answer()
    assert received.chunked
    assert received.body == b""
    assert client.read_response().status == 200


def test_get_may_have_a_body(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/", body=b"query"))
    assert backend.answer()[1].body == b"query"
    assert client.read_response().status == 200


def test_chunk_extensions_and_odd_sizes_are_not_passed_on(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(
        request("/", "Transfer-Encoding: chunked", method="POST"),
        b'0005;name=value;q="a;\\"b"\r\nhello\r\n0A\r\n0123456789\r\n000;last\r\n\r\n',
    )
    _, received = backend.answer()  # the peer reads chunk headers strictly
    assert received.body == b"hello0123456789"
    assert client.read_response().status == 200


@pytest.mark.parametrize("coding", ["length", "chunked"])
def test_body_is_streamed_and_not_gathered(fastlb, backend, coding):
    lb = fastlb([backend])
    client = lb.connect()
    if coding == "length":
        client.send(request("/", "Content-Length: 9", method="POST"))
    else:
        client.send(request("/", "Transfer-Encoding: chunked", method="POST"))
    connection = backend.accept()
    connection.read_head()
    for part in (b"one", b"two", b"six"):
        client.send(part if coding == "length" else b"3\r\n%s\r\n" % part)
        assert connection.read_exactly(3 if coding == "length" else 8) == (part if coding == "length" else b"3\r\n%s\r\n" % part)
    if coding == "chunked":
        client.send(b"0\r\n\r\n")
        assert connection.read_exactly(5) == b"0\r\n\r\n"
    connection.send(response(b"done"))
    assert client.read_response().body == b"done"


def test_answer_may_come_while_the_body_is_still_being_sent(fastlb, backend):
    """Both directions at once: the answer begins after half the body and ends before it, then the body goes on."""
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/", "Content-Length: 8", method="POST"), b"half")
    connection = backend.accept()
    connection.read_head()
    assert connection.read_exactly(4) == b"half"
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nfour")
    assert client.read_until(b"four").startswith(b"HTTP/1.1 200 OK\r\n")
    client.send(b"rest")
    assert connection.read_exactly(4) == b"rest"
    connection.send(b"last")
    assert client.read_exactly(4) == b"last"


def test_whole_answer_before_the_end_of_the_body_reaches_the_client_and_closes(fastlb, backend):
    """An early refusal (413, say): the client gets it although its body is not wanted any more."""
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/", "Content-Length: 1000000", method="POST"), b"x" * 1000)
    connection = backend.accept()
    connection.read_head()
    connection.send(response(b"too much", status="413 Content Too Large"))
    answer = client.read_response()
    assert (answer.status, answer.body, answer.closes) == (413, b"too much", True)
    client.expect_end()
    assert connection.read_to_ending()[0] in (b"x" * 1000, b"")


def test_small_body_that_comes_after_its_answer_does_not_break_the_connection_unannounced(fastlb, backend):
    """A 401 or 403 before the body was read is everyday life: the next request must not meet a closed connection by surprise."""
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/", "Content-Length: 10", method="POST"))
    connection = backend.accept()
    connection.read_head()
    connection.send(response(b"no", status="403 Forbidden"))
    answer = client.read_response()
    assert (answer.status, answer.body) == (403, b"no")
    client.send(b"0123456789")
    if answer.closes:
        client.expect_end()
        return
    client.send(request("/next"))
    _, received = backend.answer(response(b"next"))
    assert received.target == "/next"
    assert client.read_response().body == b"next"


def test_early_answer_survives_a_body_that_keeps_coming(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/", "Content-Length: 500000", method="POST"), b"x" * 1000)
    connection = backend.accept()
    connection.read_head()
    connection.send(response(b"no", status="403 Forbidden"))
    connection.close()
    client.send(b"x" * 400000)  # no reset may overtake the answer
    answer = client.read_response()
    assert (answer.status, answer.body) == (403, b"no")


def read_and_hash(peer: Peer) -> None:
    """Answers each request with the digest of its body."""
    while True:
        peer.send(response(hashlib.sha256(peer.read_request().body).hexdigest().encode()))


SIZES = [1, 16383, 16384, 16385, 65536, 131072, 262144, 1_000_003, 8_000_000]


def test_bodies_of_all_sizes_arrive_unchanged(fastlb, keep):
    lb = fastlb([keep(ThreadedBackend(read_and_hash))])
    client = lb.connect()
    for size in SIZES:
        body = os.urandom(size)
        client.send(request("/", method="POST", body=body))
        assert client.read_response().body.decode() == hashlib.sha256(body).hexdigest(), size
        if size < 2_000_000:
            pieces = [body[at : at + 70001] for at in range(0, size, 70001)]
            client.send(request("/", "Transfer-Encoding: chunked", method="POST") + chunked(*pieces))
            assert client.read_response().body.decode() == hashlib.sha256(body).hexdigest(), size
    assert lb.counter("backend_connections_opened") == 1


def test_body_in_thousands_of_tiny_chunks_arrives_unchanged(fastlb, keep):
    lb = fastlb([keep(ThreadedBackend(read_and_hash))])
    client = lb.connect()
    body = os.urandom(20000)
    client.send(request("/", "Transfer-Encoding: chunked", method="POST") + chunked(*(body[at : at + 3] for at in range(0, len(body), 3))))
    assert client.read_response().body.decode() == hashlib.sha256(body).hexdigest()


def test_body_over_the_limit_is_refused(fastlb, backend):
    lb = fastlb([backend], listener={"limits": {"body": "1KiB"}})
    client = lb.connect()
    answer = client.ask(request("/", "Content-Length: 1025", method="POST"))
    assert (answer.status, answer.reason, answer.closes) == (413, "client:body_too_large", True)
    assert backend.saw_nothing()


def test_chunked_body_over_the_limit_is_refused_when_it_gets_there(fastlb, backend):
    lb = fastlb([backend], listener={"limits": {"body": "1KiB"}})
    client = lb.connect()
    client.send(request("/", "Transfer-Encoding: chunked", method="POST"), b"400\r\n" + b"x" * 1024 + b"\r\n")
    connection = backend.accept()
    connection.read_until(b"x" * 1024)
    client.send(b"1\r\nx\r\n0\r\n\r\n")
    answer = client.read_response()
    assert (answer.status, answer.reason, answer.closes) == (413, "client:body_too_large", True)
    assert b"0\r\n\r\n" not in connection.read_to_ending()[0]  # the backend sees that this body is not whole


def test_body_of_exactly_the_limit_passes(fastlb, backend):
    lb = fastlb([backend], listener={"limits": {"body": "1KiB"}})
    client = lb.connect()
    for data in (
        request("/", method="POST", body=b"x" * 1024),
        request("/", "Transfer-Encoding: chunked", method="POST") + chunked(b"x" * 1024),
    ):
        client.send(data)
        connection = backend.peers[0] if backend.peers else backend.accept()
        assert connection.read_request().body == b"x" * 1024
        connection.send(response())
        assert client.read_response().status == 200


def test_client_that_closes_in_its_body_ends_the_attempt(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/", "Content-Length: 10", method="POST"), b"half")
    connection = backend.accept()
    connection.read_until(b"half")
    client.close()
    assert connection.ending() in ("end", "reset")
    assert lb.reasons() == {"client:closed": 1}
