"""What routes do besides forwarding: redirects, answers of their own, splits, other targets, time-outs and limits of their own."""

import pytest

from tests.support.message import Message, chunked, request, response


def echo(received: Message) -> bytes:
    """What arrived, as the body."""
    return response(received.head)


@pytest.fixture
def serve(fastlb, instant):
    """A client of these routes, in front of a pool "main" that echoes heads."""

    def start(*routes, **options):
        return fastlb(pools={"main": {"backends": [instant(echo)], **options}}, routes=list(routes))

    return start


# ---------------------------------------------------------------------------------------------------------- redirects
def test_redirect_leads_where_its_template_says(serve):
    lb = serve(
        {"host": "www.shop.example", "redirect": {"to": "https://shop.example{uri}", "status": 301}},
        {"path": "/old/", "redirect": "/new/?{query}"},
        {"path": "/here", "redirect": {"to": "{scheme}://{http_host}/there", "status": 308}},
    )
    client = lb.connect()
    answer = client.ask(request("/a%20b//?x=1&y", host="www.shop.example"))
    assert (answer.start, answer.get("Location")) == ("HTTP/1.1 301 Moved Permanently", "https://shop.example/a%20b//?x=1&y")
    assert (answer.body, answer.closes, answer.reason, answer.get("Content-Type")) == (b"", False, None, None)
    assert (answer.get("Date") or "").endswith(" GMT")
    answer = client.ask(request("/old/x?q=%2F"))
    assert (answer.status, answer.get("Location")) == (302, "/new/?q=%2F")
    answer = client.ask(request("/here", host="Shop:8080"))
    assert (answer.status, answer.get("Location")) == (308, "http://Shop:8080/there")
    assert lb.counter("responses_3xx") == 3
    assert lb.counter("attempts_opened") == 0


def test_redirect_of_a_request_without_host_to_its_host_is_refused(serve):
    lb = serve({"redirect": "https://{host}{uri}"})
    for wrong in (request("/x", host=None, version="1.0"), request("/x", host=""), request("/x", host=":80")):
        answer = lb.connect().ask(wrong)
        assert (answer.status, answer.reason, answer.get("Location")) == (400, "client:bad_host", None)


@pytest.mark.parametrize("target", ["//evil.example/", "///evil.example/", "/\\evil.example/", "/\\/evil.example/", "//\\evil.example/"])
def test_redirect_to_a_path_stays_on_this_host(serve, target):
    location = serve({"redirect": "{uri}"}).get(target).get("Location")
    assert location == "/evil.example/"


def test_method_and_version_make_no_difference_to_a_redirect_but_a_body_ends_the_connection(serve):
    lb = serve({"redirect": "/new"})
    client = lb.connect()
    for _ in range(2):
        client.send(request("/", method="HEAD"))
        head = client.read_response("HEAD")
        assert (head.status, head.body_length) == (302, 0)
    answer = client.ask(request("/", "Connection: keep-alive", version="1.0"))
    assert (answer.get("Location"), answer.get("Connection")) == ("/new", "keep-alive")
    answer = client.ask(request("/", method="POST", body=b"x" * 100))
    assert (answer.status, answer.closes) == (302, True)


# ---------------------------------------------------------------------------------------------------------- own answers
def test_route_answers_by_itself(serve):
    lb = serve(
        {"path": "/health", "respond": {"status": 200, "body": "ok {{}}\n"}},
        {"path": "/me", "respond": {"status": 418, "body": "{method} {client} {header.x-tag}"}},
        {"path": "/json", "respond": {"status": 503, "body": "[]", "content_type": "application/json"}},
        {"path": "/none", "respond": {"status": 204}},
        {"path": "/odd", "respond": {"status": 599}},
    )
    client = lb.connect()
    answer = client.ask(request("/health"))
    assert (answer.start, answer.body, answer.get("Content-Type")) == ("HTTP/1.1 200 OK", b"ok {}\n", "text/plain; charset=utf-8")
    answer = client.ask(request("/me", "X-Tag: a"))
    assert (answer.start, answer.body) == ("HTTP/1.1 418 I'm a Teapot", b"GET 127.0.0.1 a")
    answer = client.ask(request("/json"))
    assert (answer.status, answer.body, answer.get("Content-Type"), answer.reason) == (503, b"[]", "application/json", None)
    answer = client.ask(request("/none"))
    assert (answer.status, answer.body_length, answer.get("Content-Type")) == (204, None, None)
    answer = client.ask(request("/odd"))
    assert (answer.start, answer.body_length) == ("HTTP/1.1 599 ", 0)
    client.send(request("/health", method="HEAD"))
    answer = client.read_response("HEAD")
    assert (answer.status, answer.body_length) == (200, 6)
    assert client.ask(request("/health")).body == b"ok {}\n", "no body followed the answer to HEAD"
    counters = [lb.counter(f"responses_{family}xx") for family in "2345"]
    assert counters == [4, 0, 1, 2]


def test_answers_to_pipelined_requests_come_in_their_order(serve):
    lb = serve({"path": "/own", "respond": {"status": 200, "body": "{uri}"}}, {"path": "/", "pool": "main"})
    client = lb.connect()
    client.send(request("/own1") + request("/a") + request("/own2") + request("/b") + request("/own3"))
    bodies = [client.read_response().body for _ in range(5)]
    assert [bodies[0], bodies[2], bodies[4]] == [b"/own1", b"/own2", b"/own3"]
    assert bodies[1].startswith(b"GET /a ")
    assert bodies[3].startswith(b"GET /b ")


def test_answer_that_a_request_makes_too_long_is_refused(serve):
    lb = serve({"respond": {"status": 200, "body": "{uri}" * 4}})
    answer = lb.get("/" + "x" * 7000)
    assert (answer.status, answer.reason) == (431, "client:head_too_large")
    assert len(lb.get("/" + "x" * 6000).body) == 24004


def test_route_closes_without_an_answer(serve):
    lb = serve({"respond": {"status": "close"}})
    client = lb.connect()
    client.send(request())
    assert client.read_to_end() == b""
    assert lb.reasons() == {"closed_by_route": 1}


def test_body_before_an_own_answer_is_not_read_and_the_client_still_gets_it(serve):
    lb = serve({"respond": {"status": 403, "body": "no"}})
    client = lb.connect()
    client.send(request("/", "Content-Length: 10000000", method="POST"))
    answer = client.read_response()
    assert (answer.status, answer.body, answer.closes) == (403, b"no", True)


def test_response_headers_apply_to_own_answers_but_not_to_failures(serve):
    edits = {"set": {"X-Seen": "{status}{method}", "Content-Type": "text/x", "Date": "now"}, "add": {"Link": ["<a>", "<b>"]}}
    lb = serve(
        {"path": "/own", "respond": {"status": 200, "body": "x"}, "response_headers": edits},
        {"path": "/away", "redirect": "/x", "response_headers": {**edits, "remove": ["Location"]}},
        {"path": "/", "pool": "main", "limits": {"body": "1B"}, "response_headers": edits},
    )
    client = lb.connect()
    answer = client.ask(request("/own"))
    assert (answer.get("X-Seen"), answer.get("Content-Type"), answer.get("Date"), answer.all("Link")) == (
        "200GET",
        "text/x",
        "now",
        ["<a>", "<b>"],
    )
    answer = client.ask(request("/away"))
    assert (answer.get("X-Seen"), answer.get("Location")) == ("302GET", None)
    assert client.ask(request("/")).get("X-Seen") == "200GET"
    answer = client.ask(request("/", method="POST", body=b"xx"))
    assert (answer.status, answer.get("X-Seen")) == (413, None)


# ---------------------------------------------------------------------------------------------------------- splits
def pool_echo(name):
    return lambda received: response(name.encode())


def test_requests_are_split_by_weight(fastlb, instant):
    pools = {name: {"backends": [instant(pool_echo(name))]} for name in ("most", "some", "none")}
    lb = fastlb(pools=pools, routes=[{"pool": {"most": 80, "some": 20, "none": 0}}])
    client = lb.connect()
    bodies = [client.ask(request()).body for _ in range(500)]
    assert 50 < bodies.count(b"some") < 160  # 100 expected, standard deviation 9
    assert bodies.count(b"none") == 0


def test_requests_of_one_key_stay_in_one_pool_and_those_without_are_spread(fastlb, instant):
    pools = {name: {"backends": [instant(pool_echo(name))]} for name in ("one", "two")}
    lb = fastlb(pools=pools, routes=[{"pool": {"one": 50, "two": 50}, "split_by": "{header.x-user}"}])
    client = lb.connect()
    found = {user: {client.ask(request("/", f"X-User: {user}")).body for _ in range(3)} for user in range(40)}
    assert all(len(bodies) == 1 for bodies in found.values())
    assert set().union(*found.values()) == {b"one", b"two"}
    assert {client.ask(request()).body for _ in range(50)} == {b"one", b"two"}


# ---------------------------------------------------------------------------------------------------------- targets
def forwarded(lb, target):
    line = lb.get(target).body.split(b"\r\n")[0].decode()
    assert line.endswith(" HTTP/1.1")
    return line.split(" ")[1]


def test_rewritten_target_is_what_its_template_says(serve):
    lb = serve({"rewrite": "/new{path}?u={header.host}&{query}", "pool": "main"})
    assert forwarded(lb, "/a/../b%20c/%3F?x=%26") == "/new/b%20c/%3F?u=test&x=%26"
    assert forwarded(lb, "/") == "/new/?u=test&"
    lb = serve({"rewrite": "/x?{query}", "pool": "main"})
    assert forwarded(lb, "/?") == "/x"
    assert forwarded(lb, "http://test?q") == "/x?q"


def test_rewritten_target_that_leaves_its_place_is_refused(serve):
    lb = serve({"rewrite": "/files{uri}", "pool": "main"})
    for target in ("/a/../../b", "/a/%2e%2E/b", "/.", "/a/.%2e"):
        answer = lb.get(target)
        assert (answer.status, answer.reason) in ((400, "client:bad_target"),), target
    assert forwarded(lb, "/a/..b/.c/d.") == "/files/a/..b/.c/d."


def test_options_of_the_whole_server_stay_so(serve):
    lb = serve({"rewrite": "/new", "pool": "main"})
    assert lb.connect().ask(request("*", method="OPTIONS")).body.startswith(b"OPTIONS * ")


def test_new_target_is_sent_to_every_backend_that_is_tried(fastlb, backend, instant):
    backend.close()
    lb = fastlb(
        pools={"main": {"backends": [{"address": backend.address, "weight": 200}, instant(echo)]}},
        routes=[{"path": "/api", "strip_prefix": "/api", "pool": "main"}],
    )
    assert [forwarded(lb, "/api/x?y") for _ in range(4)] == ["/x?y"] * 4
    assert lb.counter("retries") >= 1


# ---------------------------------------------------------------------------------------------------------- captures, keys
def test_groups_of_the_path_are_written_where_they_are_named(serve):
    path = "~^/u/(?<user>[^/]+)(?:/(x)?(.*))?$"
    edits = {"set": {"X-User": "{capture.user}", "X-All": "{capture.0}", "X-None": "{capture.2}"}}
    lb = serve(
        {"host": "a", "path": path, "redirect": "/{capture.3}?u={capture.user}"},
        {
            "host": "b",
            "path": path,
            "pool": "main",
            "rewrite": "/users/{capture.1}{path}",
            "request_headers": edits,
            "response_headers": edits,
        },
        {"host": "c", "path": path, "respond": {"status": 200, "body": "{capture.user}|{capture.3}"}},
    )
    client = lb.connect()
    assert client.ask(request("/u/a%20b%26/c/%3F", host="a")).get("Location") == "/c/%3F?u=a%20b%26"
    assert client.ask(request("/u/me", host="a")).get("Location") == "/?u=me"
    assert client.ask(request("/u/%2F/evil.example", host="a")).get("Location") == "/?u=evil.example"
    assert client.ask(request("/u/x%0D%0AA:b/y", host="c")).body == b"x\r\nA:b|y"
    answer = client.ask(request("/u/x%0D%0AA:%20b/y", host="b"))
    assert answer.body.startswith(b"GET /users/x%0D%0AA:%20b/u/x%0D%0AA:%20b/y HTTP/1.1\r\n")
    assert b"\r\nX-User: x%0D%0AA: b\r\nX-All: /u/x%0D%0AA: b/y\r\n" in answer.body
    assert (answer.get("X-User"), answer.get("X-None"), answer.get("A")) == ("x%0D%0AA: b", None, None)


def test_redirect_to_a_group_stays_on_this_host(serve):
    lb = serve({"path": "~^/go(.*)$", "redirect": "/{capture.1}"})
    for target in ("/go/evil.example", "/go//evil.example", "/go%5Cevil.example", "/go/%5Cevil.example"):
        assert lb.get(target).get("Location") in ("/evil.example", "/%5Cevil.example"), target


def test_groups_are_those_of_the_own_request_after_another_one_was_routed(fastlb, backend, instant):
    lb = fastlb(
        pools={"slow": {"backends": [backend]}, "main": {"backends": [instant(echo)]}},
        routes=[
            {"path": "~^/slow/(.*)", "pool": "slow", "response_headers": {"set": {"X-Group": "{capture.1}"}}},
            {"path": "~^/fast/(.*)", "pool": "main", "response_headers": {"set": {"X-Group": "{capture.1}"}}},
        ],
    )
    slow, fast = lb.connect(), lb.connect()
    slow.send(request("/slow/one"))
    held = backend.accept()
    held.read_request()
    assert fast.ask(request("/fast/two")).get("X-Group") == "two"
    held.send(response())
    assert slow.read_response().get("X-Group") == "one"


def test_requests_of_one_key_have_one_backend_and_those_without_take_turns(fastlb, instant):
    backends = [instant(pool_echo(str(number))) for number in range(4)]
    key = "{cookie.uid}{query.uid}"
    lb = fastlb(pools={"main": {"backends": backends, "algorithm": "maglev", "hash_key": key}}, routes=[{"pool": "main"}])
    client = lb.connect()
    users = range(60)  # ports are drawn and with them the table: of 20 one time in 80 none falls to some backend
    by_cookie = [{client.ask(request("/", f"Cookie: a=b; uid={user}")).body for _ in range(3)} for user in users]
    by_query = [{client.ask(request(f"/x?uid={user}")).body for _ in range(3)} for user in users]
    assert by_cookie == by_query
    assert all(len(found) == 1 for found in by_cookie)
    assert len(set().union(*by_cookie)) == 4
    assert len({client.ask(request()).body for _ in range(8)}) == 4


# ---------------------------------------------------------------------------------------------------------- time-outs, limits
def test_route_has_time_outs_of_its_own(fastlb, backend):
    lb = fastlb(
        pools={"main": {"backends": [backend]}},
        routes=[{"path": "/fast", "pool": "main", "timeouts": {"first_byte": "50ms"}}, {"path": "/", "pool": "main"}],
    )
    slow, fast = lb.connect(), lb.connect()
    slow.send(request("/slow"))
    held = backend.accept()
    held.read_request()
    answer = fast.ask(request("/fast"))
    assert (answer.status, answer.reason) == (504, "backend:first_byte_timeout")
    held.send(response(b"late"))
    assert slow.read_response().body == b"late"


@pytest.mark.parametrize(("limit", "sizes"), [("10B", {10: 200, 11: 413}), (0, {21: 200}), ("100B", {100: 200, 101: 413})])
def test_route_has_a_body_limit_of_its_own(fastlb, instant, limit, sizes):
    lb = fastlb(
        pools={"main": {"backends": [instant(echo)]}},
        listener={"limits": {"body": "20B"}},
        routes=[{"path": "/own", "pool": "main", "limits": {"body": limit}}, {"path": "/", "pool": "main"}],
    )
    for size, status in sizes.items():
        assert lb.connect().ask(request("/own", method="POST", body=b"x" * size)).status == status
        body = chunked(b"x" * size)
        assert lb.connect().ask(request("/own", "Transfer-Encoding: chunked", method="POST", body=body)).status == status
    assert lb.connect().ask(request("/", method="POST", body=b"x" * 21)).status == 413
