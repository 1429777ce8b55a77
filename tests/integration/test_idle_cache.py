"""The keep-alive pool of backend connections: reuse, caps, idle time-out."""

from tests.support.message import request, response


def busy_at_once(lb, backend, count):
    """So many exchanges at the same time, all of them answered in the end."""
    backend.hold()
    clients = [lb.connect() for _ in range(count)]
    for client in clients:
        client.send(request())
    backend.wait_for_held(count)
    backend.release()
    for client in clients:
        assert client.read_response().status == 200
    lb.wait_for_exchange_end()


def test_connections_are_shared_by_all_clients(fastlb, instant):
    backend = instant()
    lb = fastlb([backend])
    for _ in range(10):
        assert lb.get().status == 200
    assert backend.n_connections == 1
    assert lb.counter("backend_reused") == 9


def test_as_many_as_were_busy_are_kept(fastlb, instant):
    backend = instant()
    lb = fastlb([backend])
    busy_at_once(lb, backend, 5)
    assert lb.backends()[0]["idle"] == 5
    busy_at_once(lb, backend, 5)
    assert backend.n_connections == 5


def test_no_more_than_the_cap_are_kept(fastlb, instant):
    backend = instant()
    lb = fastlb([backend], pool={"keepalive": {"max_idle": 2, "idle": "60s"}})
    busy_at_once(lb, backend, 5)
    assert lb.backends()[0]["idle"] == 2


def test_cap_of_zero_means_a_connection_per_request(fastlb, instant):
    backend = instant()
    lb = fastlb([backend], pool={"keepalive": {"max_idle": 0}})
    for _ in range(3):
        assert lb.get().status == 200
    assert backend.n_connections == 3
    lb.wait_for(lambda counters: counters["backend_connections_closed"] == 3, "they are closed")


def test_the_cap_is_per_backend(fastlb, instant):
    backends = [instant(), instant()]
    lb = fastlb(backends, pool={"keepalive": {"max_idle": 1}})
    clients = [lb.connect() for _ in range(8)]
    for backend in backends:
        backend.hold()
    for client in clients:
        client.send(request())
    for backend in backends:
        backend.wait_for_held(4)  # all of them, before a free one would take what is still on its way
    for backend in backends:
        backend.release()
    for client in clients:
        assert client.read_response().status == 200
    lb.wait_for_exchange_end()
    assert [row["idle"] for row in lb.backends()] == [1, 1]


def test_idle_connections_close_after_their_time_out(fastlb, backend):
    lb = fastlb([backend], pool={"keepalive": {"idle": "100ms"}})
    client = lb.connect()
    client.send(request())
    connection, _ = backend.answer()
    assert client.read_response().status == 200
    connection.expect_end()
    assert lb.backends()[0]["idle"] == 0
    client.send(request())
    backend.answer(response(b"again"))
    assert client.read_response().body == b"again"


def test_idle_connection_that_the_backend_closes_is_forgotten(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request())
    connection, _ = backend.answer()
    assert client.read_response().status == 200
    connection.close()
    lb.wait_for(lambda _: lb.backends()[0]["idle"] == 0, "it is forgotten")


def test_idle_connection_that_says_something_unasked_is_closed(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/1"))
    connection, _ = backend.answer()
    assert client.read_response().status == 200
    connection.send(response(b"evil"))
    assert connection.ending() in ("end", "reset")
    client.send(request("/2"))
    backend.answer(response(b"good"))
    assert client.read_response().body == b"good"


def test_newest_connection_is_used_first(fastlb, scripted):
    """So that the oldest, which nobody needs any more, reach their time-out."""
    backend = scripted()
    lb = fastlb([backend])
    clients = [lb.connect() for _ in range(2)]
    peers = []
    for client in clients:
        client.send(request())
        peers.append(backend.accept())
        peers[-1].read_request()
    for peer, client in zip(peers, clients, strict=True):
        peer.send(response())
        assert client.read_response().status == 200
    lb.wait_for_exchange_end()
    clients[0].send(request("/newest"))
    assert peers[1].read_request().target == "/newest"
    assert peers[0].is_quiet()
    peers[1].send(response())
    assert clients[0].read_response().status == 200
