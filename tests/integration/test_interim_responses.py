"""Interim responses (100, 103, other 1xx) pass as they come, ahead of the final one."""

from tests.support.message import request, response

HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"


def test_early_hints_arrive_before_the_answer_exists(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request())
    connection = backend.accept()
    connection.read_request()
    connection.send(HINTS)
    hints = client.read_head()
    assert (hints.status, hints.get("Link")) == (103, "</style.css>; rel=preload")
    connection.send(response(b"ok"))
    assert client.read_response().body == b"ok"
    assert lb.counter("responses_1xx") == 1


def test_several_interim_responses_in_one_segment_with_the_answer_keep_their_order(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request())
    connection, _ = backend.answer(b"HTTP/1.1 102 Processing\r\n\r\n" + HINTS + HINTS + response(b"ok"))
    answer = client.read_response()
    assert [head.status for head in answer.interim] == [102, 103, 103]
    assert answer.body == b"ok"
    client.send(request("/next"))
    connection.read_request()
    connection.send(response(b"next"))
    answer = client.read_response()
    assert (answer.interim, answer.body) == ([], b"next")


def test_interim_responses_cut_at_every_byte_are_whole(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request())
    connection = backend.accept()
    connection.read_request()
    connection.send_bytewise(HINTS + response(b"ok"))
    answer = client.read_response()
    assert [head.status for head in answer.interim] == [103]
    assert answer.body == b"ok"


def test_http_1_0_clients_get_none(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request(version="1.0"))
    backend.answer(b"HTTP/1.1 100 Continue\r\n\r\n" + HINTS + response(b"ok"))
    answer = client.read_response()
    assert (answer.status, answer.interim, answer.body) == (200, [], b"ok")


def test_hop_by_hop_fields_of_interim_responses_stay_here(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request())
    backend.answer(b"HTTP/1.1 103 Early Hints\r\nConnection: X-Hop\r\nX-Hop: 1\r\nX-End: 2\r\n\r\n" + response())
    (hints,) = client.read_response().interim
    assert hints.names == {"x-end"}


def test_flood_of_interim_responses_to_a_client_that_does_not_read_is_bounded(fastlb, backend):
    """They are passed on as they come; what the client does not take must not pile up without end."""
    lb = fastlb([backend])
    client = lb.connect(small_buffers=True)
    client.send(request())
    connection = backend.accept()
    connection.read_request()
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: " + b"x" * 8000 + b"\r\n\r\n"
    before = lb.memory_bytes()
    connection.socket.settimeout(0.5)  # until fastlb reads no more, or gives up
    try:
        for _ in range(4000):  # 32 MB
            connection.send(hints)
    except OSError:
        pass
    assert lb.memory_bytes() - before < 16 << 20
