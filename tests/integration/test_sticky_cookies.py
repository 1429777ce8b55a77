"""`sticky = { cookie = "…" }`: a client that sends the cookie back gets the backend that it had, as long as that can take it."""

import re
from http.cookies import SimpleCookie
from pathlib import Path

import pytest

from tests.support.configuration import configuration
from tests.support.loop_backend import LoopBackend
from tests.support.message import Message, request, response
from tests.support.waiting import wait_until

KEY = "a key that is long enough for tests"
STICKY = {"cookie": "SERVERID"}


@pytest.fixture
def named(instant):
    """Backends that answer with their own number."""
    return lambda n: [instant(response(str(number).encode())) for number in range(n)]


def settings(**more):
    return {"sticky_key": KEY, **more}


def pool(**more):
    """Round robin, so that whoever is not sticky gets another backend with each request."""
    return {"algorithm": "round_robin", "sticky": {**STICKY, **more}}


def set_cookie(answer: Message, name: str = "SERVERID") -> str:
    """The value that an answer sets; "" if it sets none."""
    values = [value for value in answer.all("Set-Cookie") if value.startswith(f"{name}=")]
    assert len(values) <= 1, values
    return values[0].split(";")[0].partition("=")[2] if values else ""


def test_client_with_the_cookie_comes_back_over_old_and_new_connections(fastlb, named):
    lb = fastlb(named(3), pool=pool(), settings=settings())
    first = lb.get()
    value = set_cookie(first)
    assert re.fullmatch(r"[A-Za-z0-9_-]{22}", value)
    client = lb.connect()
    answers = [client.ask(request("/", f"Cookie: SERVERID={value}")) for _ in range(6)]
    answers += [lb.get("/", f"Cookie: a=b; SERVERID={value}; c=d") for _ in range(6)]
    assert {answer.body for answer in answers} == {first.body}
    assert [set_cookie(answer) for answer in answers] == [""] * 12
    assert {lb.get().body for _ in range(3)} == {b"0", b"1", b"2"}  # those without it are spread
    counters = lb.counters()
    assert (counters["sticky_kept"], counters["sticky_moved"]) == (12, 0)


def test_each_backend_has_a_value_of_its_own_that_names_no_address(fastlb, named):
    backends = named(3)
    lb = fastlb(backends, pool=pool(), settings=settings())
    answers = [lb.get() for _ in range(3)]
    values = {set_cookie(answer): answer.body for answer in answers}
    assert len(values) == 3
    for value, body in values.items():
        assert lb.get("/", f"Cookie: SERVERID={value}").body == body
        for backend in backends:
            assert backend.address.rpartition(":")[2] not in value


def test_attributes_are_those_of_the_configuration(fastlb, named):
    lb = fastlb(named(1), pool=pool(), settings=settings())
    (line,) = lb.get().all("Set-Cookie")
    assert re.fullmatch(r"SERVERID=[\w-]{22}; Path=/; HttpOnly; SameSite=Lax", line)
    sticky = {"path": "/shop", "domain": "example.com", "secure": True, "http_only": False, "same_site": "strict", "lifetime": "1h"}
    lb.apply_ok(configuration(named(1), pool=pool(**sticky, nocache=True), settings=settings()))
    answer = lb.get()
    (line,) = answer.all("Set-Cookie")
    assert re.fullmatch(r"SERVERID=[\w-]{22}\.[0-9a-f]{8}; Path=/shop; Domain=example.com; Max-Age=3600; SameSite=Strict; Secure", line)
    assert answer.get("Cache-Control") == "private"
    assert "SERVERID" in SimpleCookie(line)  # the standard library reads it as well


def test_secure_is_automatic_behind_a_trusted_proxy_that_speaks_tls(fastlb, named):
    lb = fastlb(named(1), pool=pool(), settings=settings(trusted_networks=["127.0.0.0/8"]))
    for scheme, secure in (("https", True), ("HTTPS", True), ("http", False), ("httpss", False)):
        (line,) = lb.get("/", f"X-Forwarded-Proto: {scheme}").all("Set-Cookie")
        assert line.endswith("; Secure") is secure
    lb.apply_ok(configuration(named(1), pool=pool(), settings=settings()))
    (line,) = lb.get("/", "X-Forwarded-Proto: https").all("Set-Cookie")
    assert not line.endswith("; Secure")  # anybody can say so


@pytest.mark.parametrize(
    ("cookies", "seen"),
    [
        ("SERVERID={}", []),
        ("SERVERID={}; a=1", ["a=1"]),
        ("a=1; SERVERID={}", ["a=1"]),
        ("a=1; SERVERID={}; b=2", ["a=1; b=2"]),
        ("a=1;SERVERID={};b=2;SERVERID=other", ["a=1;b=2"]),
        (" SERVERID = {} ; a", ["a"]),
        ("serverid={}; XSERVERID=1; SERVERIDX=2", ["serverid={}; XSERVERID=1; SERVERIDX=2"]),
    ],
)
def test_backend_does_not_see_the_cookie(fastlb, backend, cookies, seen):
    lb = fastlb([backend], pool=pool(), settings=settings())
    client = lb.connect()
    client.send(request("/"))
    peer, _ = backend.answer()
    value = set_cookie(client.read_response())
    client.send(request("/x?y", "A: 1", f"Cookie: {cookies.format(value)}", "B: 2", method="POST", body=b"abc"))
    received = peer.read_request()
    assert received.all("Cookie") == [text.format(value) for text in seen]
    assert (received.method, received.target, received.get("A"), received.get("B")) == ("POST", "/x?y", "1", "2")
    assert received.body == b"abc"
    peer.send(response())
    assert client.read_response().status == 200


def test_backend_sees_the_cookie_where_it_is_not_indirect(fastlb, backend):
    lb = fastlb([backend], pool=pool(indirect=False), settings=settings())
    client = lb.connect()
    client.send(request("/", "Cookie: a=1; SERVERID=x"))
    assert backend.answer()[1].get("Cookie") == "a=1; SERVERID=x"
    assert set_cookie(client.read_response())


def test_several_cookie_fields_are_read_and_cleaned(fastlb, backend):
    lb = fastlb([backend], pool=pool(), settings=settings())
    client = lb.connect()
    client.send(request("/"))
    peer, _ = backend.answer()
    value = set_cookie(client.read_response())
    client.send(request("/", "Cookie: a=1", f"Cookie: SERVERID={value}", "X: y", f"Cookie: b=2; SERVERID={value}"))
    received = peer.read_request()
    assert (received.all("Cookie"), received.get("X")) == (["a=1", "b=2"], "y")
    peer.send(response())
    assert not set_cookie(client.read_response())


def test_what_fastlb_never_wrote_leads_nowhere_and_is_replaced(fastlb, named):
    lb = fastlb(named(2), pool=pool(), settings=settings())
    value = set_cookie(lb.get())
    forged = [
        "",
        "0",
        "A" * 22,
        value[:-1],
        value + "A",
        value[:-1] + ("A" if value[-1] != "A" else "B"),
        value.swapcase(),
        f"{value}.",
        f"{value}.0000000g",
        f"{value}.000000000",
        f'"{value}"',
        "127.0.0.1",
        "x" * 4000,
    ]
    for text in forged:
        answer = lb.get("/", f"Cookie: SERVERID={text}")
        assert (answer.status, bool(set_cookie(answer))) == (200, True), text
    assert lb.counter("sticky_kept") == 0


def test_value_of_one_pool_means_nothing_in_another(fastlb, named):
    backends = named(2)
    pools = {name: {"backends": backends, **pool()} for name in ("a", "b")}
    for entry in pools.values():
        entry["sticky"]["path"] = "/" + ("a" if entry is pools["a"] else "b")
    routes = [{"path": "/a", "pool": "a"}, {"path": "/b", "pool": "b"}]
    lb = fastlb(pools=pools, routes=routes, settings=settings())
    value = set_cookie(lb.get("/a"))
    assert set_cookie(lb.get("/b", f"Cookie: SERVERID={value}"))
    assert not set_cookie(lb.get("/a", f"Cookie: SERVERID={value}"))


def start_with_one_that_dies(fastlb, named, sticky):
    """A process with two backends, the first of which has died after it gave the cookie that is returned."""
    dying = LoopBackend(response(b"dying"))
    lb = fastlb([dying, *named(1)], pool=pool(**sticky), settings=settings())
    answers = {answer.body: answer for answer in (lb.get(), lb.get())}
    dying.end_connections()
    dying.close()
    wait_until(lambda: not any(row["idle"] for row in lb.backends() if row["display"] == dying.address), "its connections are gone")
    return lb, set_cookie(answers[b"dying"])


def test_client_of_a_dead_backend_goes_to_another_and_is_told_so(fastlb, named):
    lb, value = start_with_one_that_dies(fastlb, named, {})
    moved = lb.get("/", f"Cookie: SERVERID={value}")
    assert (moved.status, moved.body) == (200, b"0")
    assert set_cookie(moved) not in ("", value)
    assert not set_cookie(lb.get("/", f"Cookie: SERVERID={set_cookie(moved)}"))
    assert lb.counter("sticky_moved") == 1


def test_client_of_a_dead_backend_gets_its_error_where_that_is_wanted(fastlb, named):
    lb, value = start_with_one_that_dies(fastlb, named, {"fallback": "reject"})
    refused = lb.get("/", f"Cookie: SERVERID={value}")
    assert (refused.status, refused.reason) == (502, "backend:connect_refused")
    assert lb.get("/", "Cookie: SERVERID=of-another-time").status == 200


def test_client_of_a_full_backend_goes_to_another(fastlb, named):
    backends = named(2)
    limited = [{"address": backend, "max_connections": 1} for backend in backends]
    lb = fastlb(limited, pool=pool(), settings=settings())
    first = lb.get()
    full = backends[int(first.body)]
    full.hold()
    slow = lb.connect()
    slow.send(request("/", f"Cookie: SERVERID={set_cookie(first)}"))
    full.wait_for_held(1)
    moved = lb.get("/", f"Cookie: SERVERID={set_cookie(first)}")
    assert moved.body != first.body
    assert set_cookie(moved) not in ("", set_cookie(first))
    full.release()
    assert slow.read_response().body == first.body


def test_client_of_a_full_backend_is_refused_where_that_is_wanted(fastlb, instant):
    backend = instant()
    lb = fastlb([{"address": backend, "max_connections": 1}, instant()], pool=pool(fallback="reject"), settings=settings())
    value = set_cookie(lb.get())
    backend.hold()
    slow = lb.connect()
    slow.send(request("/", f"Cookie: SERVERID={value}"))
    backend.wait_for_held(1)
    refused = lb.get("/", f"Cookie: SERVERID={value}")
    assert (refused.status, refused.reason) == (503, "pool_full")
    backend.release()
    slow.read_response()


def test_backend_of_weight_0_keeps_its_clients_and_gets_no_others(fastlb, named):
    backends = named(2)
    lb = fastlb(backends, pool={"sticky": STICKY}, settings=settings())
    values = {}
    while len(values) < 2:
        answer = lb.get()
        values[answer.body] = set_cookie(answer)
    resting = [{"address": backends[0], "weight": 0}, backends[1]]
    for drain, wanted in ((True, b"0"), (False, b"1")):
        lb.apply_ok(configuration(resting, pool={"sticky": {**STICKY, "drain": drain}}, settings=settings()))
        assert lb.get("/", f"Cookie: SERVERID={values[b'0']}").body == wanted
        assert {lb.get().body for _ in range(4)} == {b"1"}


def test_websocket_client_gets_the_cookie_with_its_upgrade(fastlb, backend):
    lb = fastlb([backend], pool=pool(), settings=settings())
    client = lb.connect()
    client.send(request("/", "Connection: upgrade", "Upgrade: websocket"))
    peer, _ = backend.answer(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello")
    assert set_cookie(client.read_head())
    assert client.read_exactly(5) == b"hello"
    peer.close()
    client.close()


def test_http_1_0_clients_are_sticky_too(fastlb, named):
    lb = fastlb(named(3), pool=pool(), settings=settings())
    first = lb.get(version="1.0")
    assert set_cookie(first)
    assert {lb.get("/", f"Cookie: SERVERID={set_cookie(first)}", version="1.0").body for _ in range(4)} == {first.body}


def test_cookie_with_a_lifetime_is_renewed_when_half_of_it_is_over(fastlb, named):
    lb = fastlb(named(2), pool=pool(lifetime="1h"), settings=settings())
    first = lb.get()
    value, _, date = set_cookie(first).partition(".")
    for age, renewed in ((0, False), (1700, False), (1900, True), (1 << 30, True), (-3600, True)):
        answer = lb.get("/", f"Cookie: SERVERID={value}.{int(date, 16) - age:08x}")
        assert (answer.body, bool(set_cookie(answer))) == (first.body, renewed), age
    undated = lb.get("/", f"Cookie: SERVERID={value}")
    assert (undated.body, bool(set_cookie(undated))) == (first.body, True)
    lb.apply_ok(configuration([], pools={"main": {**pool(), "backends": named(1)}}, settings=settings()))


def test_values_survive_reload_and_restart_with_the_key_of_the_state_directory(fastlb, named, tmp_path):
    backends = named(3)
    text = configuration(backends, pool=pool(), settings={"state_dir": str(tmp_path / "state")})
    lb = fastlb(text)
    first = lb.get()
    cookie = f"Cookie: SERVERID={set_cookie(first)}"
    lb.apply_ok(text)
    assert {lb.get("/", cookie).body for _ in range(4)} == {first.body}
    lb.stop()
    file = tmp_path / "state" / "sticky.key"
    assert (file.stat().st_mode & 0o777, len(file.read_text().strip())) == (0o600, 64)
    again = fastlb(text)
    assert {again.get("/", cookie).body for _ in range(4)} == {first.body}
    # ... and a backend more, in front, changes nothing for those who are there.
    again.apply_ok(configuration([*named(1), *backends], pool=pool(), settings={"state_dir": str(tmp_path / "state")}))
    assert {again.get("/", cookie).body for _ in range(4)} == {first.body}


def test_unprivileged_workers_use_a_key_that_only_root_can_read(fastlb, named, tmp_path):
    text = configuration(named(2), pool=pool(), settings={"state_dir": str(tmp_path / "state")})
    lb = fastlb(text, user="", open_directory=True)
    first = lb.get()
    assert lb.get("/", f"Cookie: SERVERID={set_cookie(first)}").body == first.body
    lb.apply_ok(text)  # the key is known: it is not read again, which the controller could not
    assert lb.get("/", f"Cookie: SERVERID={set_cookie(first)}").body == first.body


def test_reload_that_needs_a_key_which_cannot_be_made_changes_nothing(fastlb, named):
    backends = named(2)
    lb = fastlb(backends)
    answer = lb.apply(configuration(backends, pool=pool(), settings={"sticky_key_file": "/nonexistent/sticky.key"}))
    assert not answer["ok"]
    assert "sticky_key_file /nonexistent/sticky.key: no such file" in answer["errors"][0]
    assert lb.get().all("Set-Cookie") == []
    assert Path("/nonexistent").exists() is False
