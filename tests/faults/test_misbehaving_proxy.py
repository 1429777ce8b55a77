"""A network that breaks a conversation at any byte, on either side: whole answers are right, everything else is an error that is seen.

What leaks is found when the process is stopped: every counter has to balance.
"""

import pytest

from tests.support.backend import ThreadedBackend
from tests.support.message import chunked, request, response
from tests.support.proxy import Fault, MisbehavingProxy
from tests.support.waiting import DEADLINE_SECONDS

BODIES = [b"first" * 40, b"second" * 40, b""]
CONVERSATION = [
    request("/0", "Transfer-Encoding: chunked", method="PUT") + chunked(BODIES[0][:50], BODIES[0][50:], trailers="X-Sum: 1\r\n"),
    request("/1", method="POST", body=BODIES[1]),
    request("/2"),
]
SHORT = {
    "pool": {"timeouts": {"first_byte": "100ms", "between_bytes": "100ms", "connect": "1s"}},
    "listener": {"timeouts": {"head": "100ms", "body": "100ms", "idle": "100ms"}},
}
ACTIONS = ["reset", "close", "half_close"]


def answer_of(number, body):
    return b"%d:" % number + body


def serve(peer):
    """Sends bodies back, framed in one way or the other."""
    while True:
        received = peer.read_request()
        body = answer_of(int(received.target[1:]), received.body)
        if received.chunked:
            peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(body[:20], body[20:], trailers="X-Sum: 2\r\n"))
        else:
            peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" + response(body))


def converse(lb, seconds=DEADLINE_SECONDS):
    """Plays the conversation as far as it goes. Every whole answer is right, or one of ours with a reason."""
    done = 0
    try:
        client = lb.connect()
        client.socket.settimeout(seconds)
        for number, (data, body) in enumerate(zip(CONVERSATION, BODIES, strict=True)):
            answer = client.ask(data)
            if answer.status == 200:
                assert answer.body == answer_of(number, body)
                done += 1
            else:
                assert answer.reason, answer.head
    except (EOFError, OSError):
        pass
    for peer in lb.peers:
        peer.close()
    return done


def whole_length():
    """More bytes than pass in either direction of the conversation on the backend's side, with the fields that we add."""
    return sum(map(len, CONVERSATION)) + 3 * 250


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("action", ACTIONS)
def test_backend_side_breaks_anywhere(fastlb, keep, action, direction):
    proxy = keep(MisbehavingProxy(keep(ThreadedBackend(serve)).address))
    lb = fastlb([proxy])
    broken = 0
    for after in range(0, whole_length(), 13):
        proxy.break_next(Fault(action, direction, after))
        done = converse(lb)
        if not proxy.happened.is_set():
            assert done == len(CONVERSATION)
            break
        broken += 1
        proxy.end_connections()  # the next conversation begins with a connection of its own
        lb.wait_for(lambda counters: counters["backend_connections_opened"] == counters["backend_connections_closed"], "none is pooled")
        lb.wait_for_exchange_end()
    assert broken > 20
    proxy.break_next(None)
    lb.wait_for(lambda counters: counters["backend_connections_opened"] == counters["backend_connections_closed"], "none is pooled")
    assert converse(lb) == len(CONVERSATION)


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("action", ACTIONS)
def test_client_side_breaks_anywhere(fastlb, keep, action, direction):
    lb = fastlb([keep(ThreadedBackend(serve))])
    proxy = keep(MisbehavingProxy(f"127.0.0.1:{lb.port}"))
    direct = lb.urls[0]
    lb.urls[0] = f"http://{proxy.address}"
    broken = 0
    for after in range(0, whole_length(), 13):
        proxy.break_next(Fault(action, direction, after))
        done = converse(lb)
        if not proxy.happened.is_set():
            assert done == len(CONVERSATION)
            break
        broken += 1
        lb.wait_for_exchange_end()
    assert broken > 20
    lb.urls[0] = direct
    assert converse(lb) == len(CONVERSATION)


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("side", ["client", "backend"])
def test_either_side_stalls_anywhere(fastlb, keep, side, direction):
    """Nothing breaks and nothing comes: time-outs end it."""
    behind = keep(ThreadedBackend(serve))
    if side == "backend":
        proxy = keep(MisbehavingProxy(behind.address))
        lb = fastlb([proxy], **SHORT)
    else:
        lb = fastlb([behind], **SHORT)
        proxy = keep(MisbehavingProxy(f"127.0.0.1:{lb.port}"))
        lb.urls[0] = f"http://{proxy.address}"
    for after in range(1, 600, 149):
        proxy.break_next(Fault("stall", direction, after))
        for _ in range(20):  # where the machine is slow, the client may give up before anything stalls
            converse(lb, 0.5)  # of what stalls behind us it would never hear
            if proxy.happened.is_set():
                break
        assert proxy.happened.is_set()
        lb.wait_for_exchange_end()


@pytest.mark.parametrize("piece", [1, 7])
@pytest.mark.parametrize("side", ["client", "backend"])
def test_bytes_in_small_pieces_arrive_whole(fastlb, keep, side, piece):
    behind = keep(ThreadedBackend(serve))
    if side == "backend":
        lb = fastlb([keep(MisbehavingProxy(behind.address, piece))])
    else:
        lb = fastlb([behind])
        lb.urls[0] = "http://" + keep(MisbehavingProxy(f"127.0.0.1:{lb.port}", piece)).address
    for _ in range(5):
        assert converse(lb) == len(CONVERSATION)
    assert lb.reasons() == {}
