"""The table of UDP sessions against a model of it: who is known, who is new, and who has to go."""

from collections import OrderedDict

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.datagrams import Datagrams

MOST = 5


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 11), max_size=60))
def test_the_most_silent_session_goes_first(said: list[int]) -> None:
    with Datagrams() as world:
        world.start(max_sessions=MOST)
        clients = [world.client() for _ in range(12)]
        known: OrderedDict[int, object] = OrderedDict()
        shed = 0
        for number in said:
            peer = world.ask(clients[number], b"%d" % number)
            if number in known:
                assert peer == known[number]
                known.move_to_end(number)
                continue
            if len(known) == MOST:
                known.popitem(last=False)
                shed += 1
            known[number] = peer
        counters = world.counters()
        assert counters["udp_sessions_shed"] == shed
        assert counters["udp_sessions_opened"] - counters["udp_sessions_closed"] == len(known)
        assert len(set(known.values())) == len(known)


def test_many_sessions_are_all_found_again() -> None:
    with Datagrams(clients=2000) as world:
        world.start(max_sessions=2000)
        senders = [world.bind(f"127.2.{number // 250}.{1 + number % 250}") for number in range(400)]
        for _ in range(2):
            for at in range(0, len(senders), 100):  # the socket has room for some hundreds
                for sender in senders[at : at + 100]:
                    sender.sendto(b"x", world.listening.getsockname())
                world.settle()
        counters = world.counters()
        assert (counters["udp_sessions_opened"], counters["datagrams_in"], counters["datagrams_dropped"]) == (400, 800, 0)
