"""Another attempt where nothing of the request had reached a backend, and the answer where none is left."""

import socket

import pytest

from tests.support.backend import address_of, listen
from tests.support.loop_backend import LoopBackend
from tests.support.message import request, response


def refusing():
    """An address where nobody listens (nor will: the socket is bound, and closed with the process)."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    REFUSING.append(bound)
    return address_of(bound)


REFUSING: list[socket.socket] = []


@pytest.fixture(autouse=True)
def close_refusing():
    yield
    while REFUSING:
        REFUSING.pop().close()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_refused_connection_leads_to_the_next_backend(fastlb, backend, method):
    lb = fastlb([refusing(), refusing(), backend], pool={"algorithm": "round_robin"})
    client = lb.connect()
    client.send(request("/", method=method, body=b"body"))
    _, received = backend.answer(response(b"ok"))
    assert received.body == b"body"
    assert client.read_response().body == b"ok"
    assert (lb.counter("retries"), lb.reasons()) == (2, {})
    assert sorted(row["failures"] for row in lb.backends()) == [0, 1, 1]


def test_body_that_had_begun_to_come_is_whole_at_the_next_backend(fastlb, backend):
    lb = fastlb([refusing(), backend], pool={"algorithm": "round_robin"})
    client = lb.connect()
    client.send(request("/", "Content-Length: 9", method="POST") + b"first")
    connection = backend.accept()
    connection.read_until(b"first")
    client.send(b"last")
    assert connection.read_exactly(4) == b"last"
    connection.send(response(b"ok"))
    assert client.read_response().body == b"ok"


def test_all_down_is_a_502_that_says_why_and_the_connection_lives_on(fastlb):
    lb = fastlb([refusing(), refusing()])
    client = lb.connect()
    for _ in range(2):
        answer = client.ask(request())
        assert (answer.status, answer.reason, answer.closes) == (502, "backend:connect_refused", False)
    assert lb.reasons() == {"backend:connect_refused": 2}
    assert [row["failures"] for row in lb.backends()] == [2, 2]


def test_no_more_attempts_than_configured(fastlb, backend):
    lb = fastlb([refusing(), refusing(), backend], pool={"algorithm": "round_robin", "retry": {"attempts": 2}})
    answer = lb.get()
    assert (answer.status, answer.reason) == (502, "backend:connect_refused")
    assert backend.saw_nothing()
    assert lb.counter("attempts_opened") == 2


def test_unix_socket_where_nobody_listens_is_refused_too(fastlb, tmp_path):
    assert fastlb([f"unix:/tmp/{tmp_path.name[:30]}-none"]).get().reason == "backend:connect_refused"


def test_backend_that_comes_back_is_used_again(fastlb, closing):
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", 0))
    port = bound.getsockname()[1]
    lb = fastlb([f"127.0.0.1:{port}"])
    assert lb.get().reason == "backend:connect_refused"
    bound.close()
    closing.backends.append(LoopBackend(response(b"back"), listen(port=port)))
    assert lb.get().body == b"back"


def test_name_that_does_not_resolve_does_not_stop_the_start(fastlb, instant):
    lb = fastlb(["nowhere.invalid:80", instant(response(b"ok"))])
    for _ in range(4):
        assert lb.get().body == b"ok"
    assert "nowhere.invalid" in lb.messages()


def test_pool_without_any_usable_backend_is_a_503(fastlb):
    lb = fastlb(["nowhere.invalid:80"])
    client = lb.connect()
    answer = client.ask(request())
    assert (answer.status, answer.reason, answer.closes) == (503, "no_backend", False)
    assert lb.reasons() == {"no_backend": 1}


def test_names_are_resolved(fastlb, instant):
    backend = instant(response(b"by name"))
    assert fastlb([backend.address.replace("127.0.0.1", "localhost")]).get().body == b"by name"
