"""Responses that end when the backend closes: chunked for HTTP/1.1 clients, whose connection lives on; closed for HTTP/1.0 ones."""

import os
import threading

import pytest

from tests.support.message import request, response

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


def test_http_1_1_client_gets_chunks_and_keeps_its_connection(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request())
    connection, _ = backend.answer(HEAD + b"hello, ")
    connection.send(b"world")
    connection.close()
    answer = client.read_response()
    assert answer.chunked
    assert answer.body == b"hello, world"
    assert not answer.closes
    client.send(request("/next"))
    backend.answer(response(b"next"))
    assert client.read_response().body == b"next"


def test_http_1_0_client_gets_the_bytes_and_the_end(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/", "Connection: keep-alive", version="1.0"))
    connection, _ = backend.answer(HEAD + b"hello")
    connection.close()
    answer = client.read_head()
    assert not answer.names & {"transfer-encoding", "content-length"}
    assert answer.closes
    assert client.read_to_end() == b"hello"


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_nothing_but_the_end_is_an_empty_body(fastlb, backend, version):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request(version=version))
    connection, _ = backend.answer(HEAD)
    connection.half_close()
    assert client.read_response().body == b""
    connection.ending()


def test_body_is_streamed_and_not_gathered(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request())
    connection, _ = backend.answer(HEAD)
    client.read_head()
    for part in (b"one", b"four"):
        connection.send(part)
        assert client.read_until(part) == b"%x\r\n%s" % (len(part), part)
        assert client.read_exactly(2) == b"\r\n"
    connection.close()
    assert client.read_exactly(5) == b"0\r\n\r\n"


@pytest.mark.parametrize("size", [16384, 262144, 3_000_000])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_large_body_arrives_whole(fastlb, backend, version, size):
    lb = fastlb([backend])
    body = os.urandom(size)
    client = lb.connect()
    client.send(request(version=version))
    connection = backend.accept()
    connection.read_request()
    connection.socket.settimeout(None)
    sender = threading.Thread(target=lambda: (connection.send(HEAD + body), connection.close()))
    sender.start()
    assert client.read_response().body == body
    sender.join()


def test_http_1_0_backend_without_keep_alive_is_read_to_its_end(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request())
    connection, _ = backend.answer(b"HTTP/1.0 200 OK\r\n\r\nhello")
    connection.close()
    answer = client.read_response()
    assert (answer.chunked, answer.body) == (True, b"hello")
