"""Out of descriptors or at the limit of clients: accepting pauses, what waits is served later, and what is open goes on."""

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

from tests.support.configuration import configuration
from tests.support.message import request, response
from tests.support.process import Fastlb


@contextlib.contextmanager
def no_descriptors(lb: Fastlb, spare: int = 0) -> Iterator[None]:
    """The worker gets no more than `spare` new descriptors for as long as the block lasts."""
    pid = lb.worker_pid()
    used = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    free = [number for number in range(max(used) + spare + 2) if number not in used]
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free[spare], before[1]))  # a new descriptor takes the lowest free number
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def test_clients_beyond_the_limit_wait_and_are_served_when_others_leave(fastlb, instant):
    lb = fastlb([instant()], settings={"max_connections": 4})
    inside = [lb.connect() for _ in range(4)]
    for client in inside:
        assert client.ask(request()).status == 200
    waiting = [lb.connect() for _ in range(10)]
    for client in waiting:
        client.send(request())
    lb.wait_for_counter("accept_pauses")
    assert all(client.is_quiet() for client in waiting)
    assert lb.control.ask("counters")["connections"] == 4
    for client in inside:
        assert client.ask(request()).status == 200  # who is in, stays in
        client.close()
    for client in waiting:
        assert client.read_response().status == 200
        client.close()


def test_limit_holds_over_all_listeners(fastlb, instant):
    lb = fastlb([instant()], settings={"max_connections": 2}, listener={"bind": ["127.0.0.1:0", "[::1]:0"]})
    first, second = lb.connect(0), lb.connect(1)
    assert first.ask(request()).status == second.ask(request()).status == 200
    third = lb.connect(1)
    third.send(request())
    lb.wait_for_counter("accept_pauses")
    assert third.is_quiet()
    first.close()
    assert third.read_response().status == 200


def test_running_out_of_descriptors_pauses_accepting_and_recovers(fastlb, instant):
    """The limit is far below what the configuration asks for: backends' connections take what clients were promised."""
    lb = fastlb([instant()], pool={"keepalive": {"max_idle": 0}})
    with no_descriptors(lb, 3):
        held = [lb.connect() for _ in range(5)]
        for client in held:
            client.send(request())
        lb.wait_for_counter("accept_pauses")
    for client in held:
        assert client.read_response().status in (200, 503)
    for client in held:
        assert client.ask(request()).status == 200


def test_request_that_finds_no_descriptor_for_its_backend_is_a_503(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/first"))
    backend.answer(response(b"ok", "Connection: close"))
    assert client.read_response().status == 200
    lb.wait_for(lambda counters: counters["backend_connections_closed"] == 1, "the backend's connection is closed")
    with no_descriptors(lb):
        answer = client.ask(request())
        assert (answer.status, answer.reason, answer.closes) == (503, "out_of_memory", False)
    client.send(request("/again"))
    backend.answer(response(b"ok"))
    assert client.read_response().body == b"ok"


def test_configuration_may_change_while_accepting_pauses(fastlb, instant):
    backend = instant()
    lb = fastlb([backend], settings={"max_connections": 2})
    inside = [lb.connect() for _ in range(2)]
    for client in inside:
        assert client.ask(request()).status == 200
    waiting = lb.connect()
    waiting.send(request())
    lb.wait_for_counter("accept_pauses")
    lb.apply_ok(configuration([backend], listener={"bind": ["127.0.0.1:0", "[::1]:0"]}), new_sockets=1)
    newcomer = lb.connect(1)
    newcomer.send(request())
    for client in inside:
        client.close()
    assert waiting.read_response().status == newcomer.read_response().status == 200
