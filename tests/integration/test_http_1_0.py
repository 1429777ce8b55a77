"""HTTP/1.0 on either side: connections close unless keep-alive was agreed, and nothing is chunked towards such a client."""

from tests.support.message import chunked, request, response


def test_client_connection_closes_after_its_answer(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request(version="1.0"))
    _, received = backend.answer(response(b"hello"))
    assert received.start == "GET / HTTP/1.1"
    answer = client.read_response()
    assert (answer.start, answer.body, answer.closes) == ("HTTP/1.1 200 OK", b"hello", True)
    client.expect_end()


def test_client_may_ask_for_keep_alive(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/1", "Connection: Keep-Alive", version="1.0"))
    connection, received = backend.answer(response(b"one"))
    assert "connection" not in received.names
    answer = client.read_response()
    assert (answer.body, answer.get("Connection")) == (b"one", "keep-alive")
    client.send(request("/2", version="1.0"))
    connection.read_request()
    connection.send(response(b"two"))
    assert client.read_response().closes
    client.expect_end()


def test_client_without_host_is_served_and_the_backend_gets_one(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request(host=None, version="1.0"))
    _, received = backend.answer()
    assert received.get("Host") == backend.address
    assert client.read_response().status == 200


def test_client_gets_a_chunked_answer_without_chunks(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/", "Connection: keep-alive", version="1.0"))
    connection, _ = backend.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"hello, ", b"world"))
    answer = client.read_head()
    assert answer.closes
    assert not answer.names & {"transfer-encoding", "content-length"}
    assert client.read_to_end() == b"hello, world"
    assert connection.is_quiet()
    assert lb.backends()[0]["idle"] == 1  # the backend's side was complete


def test_client_may_send_a_body_with_a_length(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request(method="POST", body=b"hello", version="1.0"))
    assert backend.answer()[1].body == b"hello"
    assert client.read_response().status == 200


def test_backend_connection_is_used_once(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    for number in range(2):
        client.send(request(f"/{number}"))
        connection, _ = backend.answer(response(b"ok", version="1.0"))
        answer = client.read_response()
        assert (answer.start, answer.body) == ("HTTP/1.1 200 OK", b"ok")
        assert not answer.closes
        connection.expect_end()
    assert lb.counter("backend_connections_opened") == 2


def test_backend_that_offers_keep_alive_is_used_again(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/1"))
    connection, _ = backend.answer(response(b"one", "Connection: keep-alive", version="1.0"))
    assert client.read_response().body == b"one"
    client.send(request("/2"))
    assert connection.read_request().target == "/2"
    connection.send(response(b"two", version="1.0"))
    assert client.read_response().body == b"two"


def test_higher_minor_version_is_served_as_1_1(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request(version="1.2"))
    connection, received = backend.answer(response(b"ok"))
    assert received.start == "GET / HTTP/1.1"
    assert not client.read_response().closes
    assert connection.is_quiet()
