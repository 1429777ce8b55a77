"""Expect: 100-continue: the expectation goes to the backend, and its verdict to the client."""

from tests.support.message import chunked, request, response

HEAD = request("/", "Expect: 100-continue", "Content-Length: 5", method="POST")


def test_100_is_relayed_and_then_the_body(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(HEAD)
    connection = backend.accept()
    received = connection.read_head()
    assert received.get("Expect") == "100-continue"
    assert connection.is_quiet()
    assert client.is_quiet()  # the verdict is the backend's, we give none of our own
    connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert client.read_head().status == 100
    client.send(b"hello")
    assert connection.read_exactly(5) == b"hello"
    connection.send(response(b"thanks"))
    answer = client.read_response()
    assert (answer.body, answer.closes) == (b"thanks", False)
    client.send(request("/next"))
    assert connection.read_request().target == "/next"
    connection.send(response())
    assert client.read_response().status == 200


def test_final_answer_instead_of_100_closes_both_connections(fastlb, backend):
    """The body may or may not still come: neither connection can carry another exchange."""
    lb = fastlb([backend])
    client = lb.connect()
    client.send(HEAD)
    connection = backend.accept()
    connection.read_head()
    connection.send(response(b"no", status="417 Expectation Failed"))
    answer = client.read_response()
    assert (answer.status, answer.body, answer.closes) == (417, b"no", True)
    client.expect_end()
    assert connection.ending() in ("end", "reset")


def test_client_that_does_not_wait_is_served_too(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(HEAD + b"hello" + request("/next"))
    connection = backend.accept()
    assert connection.read_request().body == b"hello"
    connection.send(response(b"first"))
    assert client.read_response().body == b"first"
    assert connection.read_request().target == "/next"
    connection.send(response(b"second"))
    assert client.read_response().body == b"second"


def test_100_after_the_body_has_come_is_still_relayed(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(HEAD + b"hello")
    connection = backend.accept()
    connection.read_request()
    connection.send(b"HTTP/1.1 100 Continue\r\n\r\n" + response(b"ok"))
    answer = client.read_response()
    assert [head.status for head in answer.interim] == [100]
    assert answer.body == b"ok"


def test_chunked_body_after_100(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/", "Expect: 100-continue", "Transfer-Encoding: chunked", method="POST"))
    connection = backend.accept()
    connection.read_head()
    connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert client.read_head().status == 100
    client.send(chunked(b"hello"))
    assert connection.read_until(b"0\r\n\r\n") == chunked(b"hello")
    connection.send(response())
    assert client.read_response().status == 200


def test_refusal_of_our_own_comes_instead_of_100(fastlb, backend):
    lb = fastlb([backend], listener={"limits": {"body": "4B"}})
    client = lb.connect()
    answer = client.ask(HEAD)
    assert (answer.status, answer.reason, answer.closes) == (413, "client:body_too_large", True)
    assert backend.saw_nothing()


def test_http_1_0_clients_cannot_expect_anything(fastlb, backend):
    """RFC 9110 section 10.1.1: an expectation in an HTTP/1.0 request is ignored, and no 100 is sent to such a client."""
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/", "Expect: 100-continue", "Content-Length: 5", method="POST", version="1.0") + b"hello")
    _, received = backend.answer()
    assert "expect" not in received.names
    assert received.body == b"hello"
    assert client.read_response().status == 200


def test_expectation_without_a_body_is_harmless(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/", "Expect: 100-continue"))
    connection, _ = backend.answer(response(b"one"))
    answer = client.read_response()
    assert (answer.body, answer.closes) == (b"one", False)
    client.send(request("/next"))
    assert connection.read_request().target == "/next"
    connection.send(response())
    assert client.read_response().status == 200
