"""`sticky = { learn = "…" }` and `{ source = true }`: who belongs where is kept in the node's table, which all workers see."""

import itertools
import os
import signal
import socket

import pytest

from tests.support.configuration import configuration
from tests.support.loop_backend import LoopBackend
from tests.support.message import Message, request, response
from tests.support.peer import Peer
from tests.support.waiting import DEADLINE_SECONDS, wait_until

SESSION = "JSESSIONID"


def application(number: int):
    """A backend with sessions: whoever has none gets one, and each answer tells the backend's number."""
    count = itertools.count()

    def answer(message: Message) -> bytes:
        if f"{SESSION}=" in (message.get("Cookie") or ""):
            return response(str(number).encode())
        return response(str(number).encode(), "Set-Cookie: other=1", f"Set-Cookie: {SESSION}={number}-{next(count)}; Path=/; HttpOnly")

    return answer


@pytest.fixture
def applications(instant):
    return lambda n: [instant(application(number)) for number in range(n)]


def session(answer: Message) -> str:
    """The Cookie field of a client that got this answer."""
    (line,) = [value for value in answer.all("Set-Cookie") if value.startswith(SESSION)]
    return f"Cookie: theme=dark; {line.split(';')[0]}"


LEARN = {"algorithm": "round_robin", "sticky": {"learn": SESSION}}
SOURCE = {"algorithm": "round_robin", "sticky": {"source": True}}


def test_session_comes_back_through_every_worker(fastlb, applications):
    lb = fastlb(applications(3), pool=LEARN, workers=3)
    firsts = [lb.get() for _ in range(6)]
    assert {first.body for first in firsts} == {b"0", b"1", b"2"}
    for first in firsts:
        cookie = session(first)
        assert {lb.get("/", cookie).body for _ in range(12)} == {first.body}
    counters = lb.counters()
    assert (counters["sticky_kept"], counters["sticky_moved"], counters["sticky_noted"]) == (72, 0, 6)


def test_backend_sees_the_cookie_of_its_own(fastlb, backend):
    lb = fastlb([backend], pool=LEARN)
    client = lb.connect()
    client.send(request("/", f"Cookie: {SESSION}=x"))
    assert backend.answer()[1].get("Cookie") == f"{SESSION}=x"
    assert client.read_response().all("Set-Cookie") == []


def test_session_that_no_backend_gave_is_not_learned(fastlb, applications):
    lb = fastlb(applications(3), pool=LEARN)
    answers = {lb.get("/", f"Cookie: {SESSION}=made-up").body for _ in range(6)}
    assert answers == {b"0", b"1", b"2"}
    assert lb.counter("sticky_noted") == 0


def test_session_survives_reload_and_the_death_of_a_worker(fastlb, applications):
    backends = applications(3)
    lb = fastlb(backends, pool=LEARN, workers=2)
    first = lb.get()
    cookie = session(first)
    lb.apply_ok(configuration(backends[::-1], pool=LEARN))
    assert {lb.get("/", cookie).body for _ in range(6)} == {first.body}
    killed = lb.worker_pid(0)
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: killed not in lb.worker_pids() and len(lb.worker_pids()) == 2, "another worker has taken its place")
    assert {lb.get("/", cookie).body for _ in range(6)} == {first.body}
    lb.wait_for(lambda counters: counters["workers_died"] == 1, "the death is counted")


def test_session_of_a_dead_backend_goes_to_one_other_and_stays_there(fastlb, applications):
    dying = LoopBackend(application(9))
    lb = fastlb([dying, *applications(3)], pool=LEARN)
    firsts = {first.body: first for first in (lb.get() for _ in range(4))}
    dying.end_connections()
    dying.close()
    wait_until(lambda: not any(row["idle"] for row in lb.backends() if row["display"] == dying.address), "its connections are gone")
    answers = [lb.get("/", session(firsts[b"9"])).body for _ in range(6)]
    assert len(set(answers)) == 1
    assert answers[0] != b"9"
    counters = lb.counters()
    assert (counters["sticky_moved"], counters["sticky_kept"]) == (1, 5)


def test_session_of_a_backend_that_is_gone_from_the_pool_is_picked_anew(fastlb, applications):
    backends = applications(3)
    lb = fastlb(backends, pool=LEARN)
    first = lb.get()
    left = [backend for number, backend in enumerate(backends) if str(number).encode() != first.body]
    lb.apply_ok(configuration(left, pool=LEARN))
    answers = {lb.get("/", session(first)).body for _ in range(6)}
    assert len(answers) == 1
    assert answers != {first.body}


def test_cookie_that_is_taken_back_is_not_learned(fastlb, backend):
    lb = fastlb([backend], pool=LEARN)
    client = lb.connect()
    client.send(request())
    backend.answer(response(b"", f"Set-Cookie: {SESSION}=; Max-Age=0", f"Set-Cookie: a=1; {SESSION}=2"))
    assert client.read_response().status == 200
    assert lb.counter("sticky_noted") == 0


def test_client_is_known_again_by_its_address(fastlb, applications):
    lb = fastlb(applications(3), pool=SOURCE, workers=3)
    first = lb.get()
    assert {lb.get().body for _ in range(12)} == {first.body}
    counters = lb.counters()
    assert (counters["sticky_kept"], counters["sticky_noted"]) == (12, 1)


def test_only_the_prefix_of_an_address_counts(fastlb, applications):
    pool = {"algorithm": "round_robin", "sticky": {"source": True, "v4_prefix": 24}}
    lb = fastlb(applications(4), pool=pool, listener={"bind": ["127.0.0.1:0", "[::1]:0"]})

    def ask(source: str) -> bytes:
        connection = socket.create_connection(("127.0.0.1", lb.port), DEADLINE_SECONDS, (source, 0))
        client = Peer(connection)
        lb.peers.append(client)
        return client.ask(request()).body

    one, two = ask("127.0.1.1"), ask("127.0.2.1")
    assert one != two  # round robin has gone on
    assert {ask(f"127.0.1.{n}") for n in (2, 3, 254)} == {one}
    assert {ask(f"127.0.2.{n}") for n in (2, 3, 254)} == {two}
    assert len({lb.get(bind=1).body for _ in range(4)}) == 1  # ::1
    assert lb.counter("sticky_noted") == 3


def test_clients_of_a_unix_socket_have_no_address_and_are_spread(fastlb, applications, tmp_path):
    lb = fastlb(applications(3), pool=SOURCE, listener={"bind": f"unix:{tmp_path}/s"})
    assert {lb.get().body for _ in range(3)} == {b"0", b"1", b"2"}
    assert lb.counter("sticky_noted") == 0


def test_client_of_a_full_backend_is_refused_where_that_is_wanted(fastlb, instant):
    backend = instant(response(b"a"))
    pool = {"sticky": {"source": True, "fallback": "reject"}}
    lb = fastlb([{"address": backend, "max_connections": 1}], pool=pool)
    lb.get()
    lb.apply_ok(configuration([{"address": backend, "max_connections": 1}, instant(response(b"b"))], pool=pool))
    backend.hold()
    slow = lb.connect()
    slow.send(request())
    backend.wait_for_held(1)
    assert lb.get().reason == "pool_full"
    backend.release()
    assert slow.read_response().body == b"a"
