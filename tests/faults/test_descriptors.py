"""Out of descriptors or at the limit of clients: accepting pauses, what waits is served later, and what is open goes on."""

from tests.support.configuration import configuration
from tests.support.message import request, response
from tests.support.process import Control, Fastlb

DESCRIPTORS = 260  # 200 are kept for other things than connections, so that 30 clients fit


def take_every_descriptor(lb: Fastlb) -> list[Control]:
    """Holds what fastlb does not count as clients: connections to its control socket, until it has no descriptor left for another."""
    controls = []
    try:
        while len(controls) < 2 * DESCRIPTORS:
            controls.append(Control(lb.directory / "control"))
            controls[-1].patience(0.3)
            controls[-1].ask("counters")
    except (OSError, AssertionError):
        pass
    assert len(controls) < DESCRIPTORS
    return controls


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
    backend = instant()
    lb = fastlb([backend], descriptors=DESCRIPTORS, pool={"keepalive": {"max_idle": 0}})
    controls = take_every_descriptor(lb)
    held = [lb.connect() for _ in range(5)]
    for client in held:
        client.send(request())
    lb.wait_for_counter("accept_pauses")
    for control in controls:
        control.close()
    for client in held:
        assert client.read_response().status in (200, 503)
    for client in held:
        assert client.ask(request()).status == 200


def test_request_that_finds_no_descriptor_for_its_backend_is_a_503(fastlb, backend):
    lb = fastlb([backend], descriptors=DESCRIPTORS)
    client = lb.connect()
    client.send(request("/first"))
    connection, _ = backend.answer(response(b"ok", "Connection: close"))
    assert client.read_response().status == 200
    controls = take_every_descriptor(lb)
    answer = client.ask(request())
    assert (answer.status, answer.reason, answer.closes) == (503, "out_of_memory", False)
    for control in controls:
        control.close()
    lb.wait_for(lambda _: lb.count_sockets() < 20, "the descriptors are free again")
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
