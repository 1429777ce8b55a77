"""A pooled connection that had ended before it was used never turns into an error where the request can safely be sent again.

The race is made by stopping the process: the client's request and the end of the pooled connection both wait for it, in that order.
"""

import pytest

from tests.support.message import chunked, request, response

BODY = b"body to be sent again"


@pytest.fixture
def stale(fastlb, backend):
    """Sends `data` while a pooled connection ends by `end`; returns the process, the client and that connection."""

    def race(data, end="half_close", **arguments):
        lb = fastlb([backend], **arguments)
        client = lb.connect()
        client.send(request("/first"))
        pooled, _ = backend.answer()
        assert client.read_response().status == 200
        lb.freeze()
        client.send(data)
        getattr(pooled, end)()
        lb.thaw()
        return lb, client, pooled

    return race


@pytest.mark.parametrize("end", ["half_close", "close", "reset"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_idempotent_request_is_sent_again_on_a_new_connection(stale, backend, method, end):
    lb, client, _ = stale(request("/again", method=method), end)
    second, received = backend.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert (received.method, received.target) == (method, "/again")
    assert client.read_response(method).status == 200
    counters = lb.counters()
    assert (counters["replays"], counters["retries"], lb.reasons()) == (1, 0, {})
    assert lb.backends()[0]["failures"] == 0  # says nothing against the backend


@pytest.mark.parametrize("coding", ["length", "chunked"])
@pytest.mark.parametrize("end", ["half_close", "reset"])
def test_body_is_sent_again_too(stale, backend, coding, end):
    if coding == "length":
        data = request("/again", method="PUT", body=BODY)
    else:
        data = request("/again", "Transfer-Encoding: chunked", method="PUT") + chunked(BODY[:5], BODY[5:], trailers="X-Sum: 1\r\n")
    lb, client, _ = stale(data, end)
    _, received = backend.answer(response(b"stored"))
    assert (received.target, received.body) == ("/again", BODY)
    assert received.trailers == ([("X-Sum", "1")] if coding == "chunked" else [])
    assert client.read_response().body == b"stored"
    assert lb.counter("replays") == 1


@pytest.mark.parametrize("end", ["half_close", "reset"])
def test_body_that_is_still_coming_is_sent_again_and_goes_on(stale, backend, end):
    lb, client, _ = stale(request("/again", "Content-Length: 8", method="PUT") + b"half", end)
    connection = backend.accept()
    connection.read_until(b"half")
    client.send(b"rest")
    assert connection.read_exactly(4) == b"rest"
    connection.send(response(b"stored"))
    assert client.read_response().body == b"stored"


@pytest.mark.parametrize("end", ["half_close", "reset"])
@pytest.mark.parametrize("coding", ["none", "length", "chunked"])
def test_pipelined_request_behind_one_that_is_sent_again_is_not_lost(stale, backend, coding, end):
    first = {
        "none": request("/again", method="PUT"),
        "length": request("/again", method="PUT", body=BODY),
        "chunked": request("/again", "Transfer-Encoding: chunked", method="PUT") + chunked(BODY),
    }[coding]
    _, client, _ = stale(first + request("/behind"), end)
    connection, received = backend.answer(response(b"one"))
    assert received.target == "/again"
    assert client.read_response().body == b"one"
    assert connection.read_request().target == "/behind"
    connection.send(response(b"two"))
    assert client.read_response().body == b"two"


def test_post_asks_first_whether_the_pooled_connection_still_stands(stale, backend):
    """It could not be sent twice, so it is never sent where the end is known already."""
    lb, client, pooled = stale(request("/again", method="POST", body=BODY))
    _, received = backend.answer(response(b"done"))
    assert (received.target, received.body) == ("/again", BODY)
    assert client.read_response().body == b"done"
    assert pooled.read_to_ending()[0] == b""
    assert (lb.counter("replays"), lb.reasons()) == (0, {})


def test_post_is_not_sent_again_when_the_connection_ends_after_it_was_sent(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/first"))
    pooled, _ = backend.answer()
    assert client.read_response().status == 200
    client.send(request("/post", method="POST", body=BODY))
    assert pooled.read_request().target == "/post"
    pooled.close()
    answer = client.read_response()
    assert (answer.status, answer.reason) == (502, "backend:closed")
    assert backend.saw_nothing()
    assert lb.counter("replays") == 0


@pytest.mark.parametrize("end", ["close", "reset"])
def test_get_on_a_pooled_connection_is_sent_again_even_if_the_backend_had_read_it(fastlb, backend, end):
    """It is idempotent, and no byte of an answer came: RFC 9112 section 9.3.1."""
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/first"))
    pooled, _ = backend.answer()
    assert client.read_response().status == 200
    client.send(request("/second"))
    assert pooled.read_request().target == "/second"
    getattr(pooled, end)()
    _, received = backend.answer(response(b"second"))
    assert received.target == "/second"
    assert client.read_response().body == b"second"
    assert lb.counter("replays") == 1


def test_get_is_not_sent_again_once_a_byte_of_an_answer_came(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/first"))
    pooled, _ = backend.answer()
    assert client.read_response().status == 200
    client.send(request("/second"))
    pooled.read_request()
    pooled.send(b"H")
    pooled.close()
    answer = client.read_response()
    assert (answer.status, answer.reason) == (502, "backend:closed")
    assert backend.saw_nothing()


@pytest.mark.parametrize(("end", "reason"), [("close", "backend:closed"), ("reset", "backend:reset")])
def test_get_on_a_fresh_connection_that_ends_without_an_answer_is_a_502(fastlb, backend, end, reason):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request())
    connection = backend.accept()
    connection.read_request()
    getattr(connection, end)()
    answer = client.read_response()
    assert (answer.status, answer.reason) == (502, reason)
    assert backend.saw_nothing()


def test_body_beyond_the_replay_limit_is_not_sent_again(stale, backend):
    body = b"x" * 1025
    lb, client, _ = stale(request("/again", method="PUT", body=body), pool={"replay_limit": "1KiB"})
    answer = client.read_response()
    assert (answer.status, answer.reason) in [(502, "backend:closed"), (502, "backend:reset")]
    assert backend.saw_nothing()


def test_body_of_exactly_the_replay_limit_is_sent_again(stale, backend):
    body = b"x" * 1024
    _, client, _ = stale(request("/again", method="PUT", body=body), pool={"replay_limit": "1KiB"})
    assert backend.answer()[1].body == body
    assert client.read_response().status == 200


def test_every_pooled_connection_may_be_stale(fastlb, instant):
    """After one of them turned out so, a connection of its own is opened: the client never sees an error."""
    backend = instant()
    lb = fastlb([backend])
    backend.hold()
    clients = [lb.connect() for _ in range(8)]
    for client in clients:
        client.send(request())
    backend.wait_for_held(8)
    backend.release()
    for client in clients:
        assert client.read_response().status == 200
    lb.wait_for_exchange_end()
    lb.freeze()
    for client in clients:
        client.send(request())
    backend.reset_connections()
    lb.thaw()
    assert [client.read_response().status for client in clients] == [200] * 8
