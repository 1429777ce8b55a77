"""Answers that come before the request is through, and bytes that nobody asked for: no hang, no blame, nothing for the next client."""

import threading

from tests.support.message import request, response

FINAL = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"


def test_upload_goes_on_after_an_early_head(fastlb, backend):
    """The head of the answer comes in the same moment as room for the rest of the upload: that room is used."""
    lb = fastlb([backend])
    client = lb.connect()
    size = 40_000_000
    sender = threading.Thread(target=lambda: client.send(request("/", f"Content-Length: {size}", method="POST"), bytes(size)))
    sender.start()
    connection = backend.accept()
    connection.read_head()
    lb.wait_for(lambda counters: counters["backend_bytes_out"] > 100_000, "the backend's buffers fill")
    lb.freeze()
    left = size - len(connection.unread)
    connection.unread = b""
    connection.send(FINAL)
    reader = threading.Thread(target=lambda: connection.read_exactly(left))
    reader.start()
    lb.thaw()
    reader.join()
    connection.send(b"ok")
    sender.join()
    assert client.read_response().body == b"ok"


def test_client_that_still_sends_is_not_the_backends_fault(fastlb, backend):
    lb = fastlb([backend], pool={"timeouts": {"between_bytes": "150ms"}})
    client = lb.connect()
    client.send(request("/", "Content-Length: 40", method="POST"))
    connection = backend.accept()
    connection.read_head()
    connection.send(FINAL)
    client.read_head()
    for _ in range(40):
        client.send(b"x")
        assert connection.read_exactly(1) == b"x"
        assert not client.wait_readable(0.02)
    connection.send(b"ok")
    assert client.read_exactly(2) == b"ok"


def test_backend_that_does_not_say_continue_is_not_the_clients_fault(fastlb, backend):
    lb = fastlb([backend], pool={"timeouts": {"first_byte": "150ms"}})
    client = lb.connect()
    client.send(request("/", "Content-Length: 10", "Expect: 100-continue", method="POST"))
    connection = backend.accept()
    connection.read_head()
    answer = client.read_response()
    assert (answer.status, answer.reason) == (504, "backend:first_byte_timeout")


def test_bytes_behind_a_large_answer_never_reach_the_next_client(fastlb, backend):
    """splice leaves them in the socket: the connection must not be used again."""
    lb = fastlb([backend])
    body = bytes(300_000)
    first, second = lb.connect(), lb.connect()
    first.send(request("/first"))
    connection = backend.accept()
    connection.read_request()
    lb.freeze()
    connection.send(response(body) + response(b"stray"))
    second.send(request("/second"))
    lb.thaw()
    assert first.read_response().body == body
    fresh, received = backend.answer(response(b"right"))
    assert received.target == "/second"
    assert second.read_response().body == b"right"


def test_flood_of_empty_lines_is_refused(fastlb, backend):
    client = fastlb([backend]).connect()
    client.send(b"\r\n" * 5000)
    answer = client.read_response()
    assert (answer.status, answer.reason) == (400, "client:bad_request_line")
