"""X-Request-Id: made here for every exchange, kept only from trusted networks, the same for all attempts of one exchange."""

import re

from tests.support.message import request, response

ID = re.compile(r"[0-9a-f]{32}")


def id_of(lb, backend, *fields):
    client = lb.connect()
    client.send(request("/", *fields))
    connection = backend.peers[0] if backend.peers else backend.accept()
    received = connection.read_request()
    connection.send(response())
    client.read_response()
    return received.get("X-Request-Id")


def test_every_exchange_gets_its_own(fastlb, backend):
    lb = fastlb([backend])
    ids = [id_of(lb, backend) for _ in range(20)]
    assert len(set(ids)) == 20
    assert all(ID.fullmatch(request_id) for request_id in ids)


def test_id_of_a_client_that_is_not_trusted_is_replaced(fastlb, backend):
    assert ID.fullmatch(id_of(fastlb([backend]), backend, "X-Request-Id: mine", "X-Request-Id: too"))


def test_id_from_a_trusted_network_is_kept_once(fastlb, backend):
    lb = fastlb([backend], settings={"trusted_networks": ["127.0.0.1/32"]})
    assert id_of(lb, backend, "X-Request-Id: abc-123") == "abc-123"
    assert id_of(lb, backend, "X-Request-Id: first", "X-Request-Id: second") == "first"
    assert ID.fullmatch(id_of(lb, backend, "X-Request-Id:"))
    assert ID.fullmatch(id_of(lb, backend))


def test_all_attempts_of_an_exchange_have_the_same(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request())
    first, _ = backend.answer()
    client.read_response()
    lb.freeze()
    client.send(request("/again"))
    first.half_close()  # the pooled connection ends before the request reaches it
    lb.thaw()
    lost = first.read_request()
    second, received = backend.answer()
    assert (lost.target, received.target) == ("/again", "/again")
    assert lost.get("X-Request-Id") == received.get("X-Request-Id")
    assert client.read_response().status == 200
    assert second.is_quiet()


def test_it_can_be_turned_off(fastlb, backend):
    lb = fastlb([backend], settings={"request_id": False})
    assert id_of(lb, backend) is None
    assert id_of(lb, backend, "X-Request-Id: mine") == "mine"
