"""gRPC through fastlb with grpcio at both ends: every kind of call, over TLS and without, and what clients see when something fails."""

import itertools
import os
import threading
from collections import Counter

import pytest

from tests.support.authority import Authority
from tests.support.configuration import configuration
from tests.support.proxy import MisbehavingProxy
from tests.support.waiting import DEADLINE_SECONDS, SANITIZED, wait_until

grpc = pytest.importorskip("grpc")
if SANITIZED:
    pytest.skip("grpcio's own threads are not built for the sanitizers", allow_module_level=True)

from tests.support.grpc_backend import ANY_SIZE, NOT_SERVING, SERVING, Calls, GrpcBackend  # noqa: E402

HEALTH = {"type": "grpc", "interval": "200ms", "fast_interval": "100ms"}
NOBODY = "127.0.0.1:1"


class Site:
    """One fastlb with two listeners, h2c and TLS, before pools of h2c and TLS; shared by the tests of this file."""

    def __init__(self, module_fastlb, keep, directory):
        authority = Authority()
        issued = authority.issue("grpc.example")
        chain, key = issued.write(directory, "grpc")
        (directory / "ca.pem").write_bytes(authority.pem)
        self.root = authority.pem
        self.log = directory / "log"
        self.backends = [keep(GrpcBackend(name)) for name in ("one", "two")]
        self.secure = keep(GrpcBackend("secure", (issued.pem, issued.key_pem)))
        self.fragile = keep(MisbehavingProxy(self.backends[0].address))
        tls = {"ca": str(directory / "ca.pem"), "server_name": "grpc.example"}
        health = {**HEALTH, "tls": True, "tls_ca_file": tls["ca"], "tls_server_name": "grpc.example"}
        self.lb = module_fastlb(
            configuration(
                listeners=[
                    {"name": "plain", "access_log": {"to": str(self.log), "format": "{path} {status} {grpc_status} {reason}"}},
                    {"name": "tls", "tls": {"certificates": [{"cert": str(chain), "key": str(key)}]}},
                ],
                routes=[
                    {"path": "/test.Main/", "pool": "main"},
                    {"path": "/test.Secure/", "pool": "secure"},
                    {"path": "/test.Fragile/", "pool": "fragile"},
                    {"path": "/test.Nobody/", "pool": "nobody"},
                    {"path": "/test.Small/", "pool": "main", "limits": {"body": "100B"}},
                ],
                pools={
                    "main": {"protocol": "http2", "algorithm": "round_robin", "health": HEALTH, "backends": self.backends},
                    "secure": {"protocol": "http2", "tls": tls, "health": health, "backends": [self.secure]},
                    "fragile": {"protocol": "http2", "backends": [self.fragile]},
                    "nobody": {"protocol": "http2", "backends": [NOBODY]},
                },
            )
        )

    def channel(self, kind, *options):
        if kind == "plain":
            return grpc.insecure_channel(f"127.0.0.1:{self.lb.port_of(0)}", options=[*ANY_SIZE, *options])
        credentials = grpc.ssl_channel_credentials(self.root)
        named = ("grpc.ssl_target_name_override", "grpc.example")
        return grpc.secure_channel(f"127.0.0.1:{self.lb.port_of(1)}", credentials, options=[*ANY_SIZE, named, *options])


@pytest.fixture(scope="module")
def module_keep(module_closing):
    def keep(backend):
        module_closing.backends.append(backend)
        return backend

    return keep


@pytest.fixture(scope="module")
def site(module_fastlb, module_keep, tmp_path_factory):
    return Site(module_fastlb, module_keep, tmp_path_factory.mktemp("grpc"))


@pytest.fixture(scope="module", params=["plain", "tls"])
def channel(request, site):
    with site.channel(request.param) as made:
        yield made


def say(channel, message=b"hello", service="test.Main", **options):
    return channel.unary_unary(f"/{service}/Say")(message, timeout=DEADLINE_SECONDS, **options)


def error_of(call, *arguments, **options):
    """How a call fails, which it has to: the client's word for it, and its trailing metadata."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, timeout=DEADLINE_SECONDS, **options)
    return caught.value


# ---------------------------------------------------------------------------------------------------------- calls
def test_a_unary_call_with_its_metadata(channel):
    answer, call = channel.unary_unary("/test.Main/Say").with_call(
        b"hello", metadata=[("x-one", "1"), ("x-two", "2"), ("x-two", "3"), ("x-bytes-bin", b"\0\xff")], timeout=DEADLINE_SECONDS
    )
    assert answer == b"hello"
    initial = [(key, value) for key, value in call.initial_metadata() if key.startswith("x-") and key != "x-peer"]
    received = [pair for pair in initial if pair[0] in ("x-one", "x-two", "x-bytes-bin")]
    assert Counter(received) == Counter([("x-one", "1"), ("x-two", "2"), ("x-two", "3"), ("x-bytes-bin", b"\0\xff")])
    assert dict(call.trailing_metadata()) == {"x-last": "1", "x-raw-bin": bytes(range(256))}
    assert call.code() is grpc.StatusCode.OK


def test_an_empty_message(channel):
    assert say(channel, b"") == b""


@pytest.mark.parametrize("size", [100_000, 5 << 20, 20 << 20])
def test_a_large_message_both_ways(channel, size):
    message = os.urandom(1 << 16) * (size >> 16)
    assert say(channel, message) == message


def test_server_streaming(channel):
    answers = channel.unary_stream("/test.Main/Count")(b"3000", timeout=DEADLINE_SECONDS)
    assert list(answers) == [b"%d" % number for number in range(3000)]


def test_client_streaming(channel):
    messages = [b"%d," % number for number in range(3000)]
    assert channel.stream_unary("/test.Main/Join")(iter(messages), timeout=DEADLINE_SECONDS) == b"".join(messages)


def test_each_message_of_a_conversation_arrives_before_the_next_is_sent(channel):
    answered = threading.Semaphore(1)
    messages = [b"x" * size for size in (1, 0, 10, 70_000, 1 << 20)] * 10

    def ask():
        for message in messages:
            assert answered.acquire(timeout=DEADLINE_SECONDS)
            yield message

    answers = []
    for answer in channel.stream_stream("/test.Main/Talk")(ask(), timeout=2 * DEADLINE_SECONDS):
        answers.append(answer)
        answered.release()
    assert answers == messages


def test_a_conversation_that_the_client_listens_to_first_goes_on(channel):
    # The head and a first message come while the client has not ended its side, nor sends anything more.
    go_on = threading.Event()

    def ask():
        yield b"first"
        assert go_on.wait(DEADLINE_SECONDS)
        yield b"second"

    answers = channel.stream_stream("/test.Main/Talk")(ask(), timeout=DEADLINE_SECONDS)
    assert next(answers) == b"first"
    go_on.set()
    assert list(answers) == [b"second"]


def test_many_calls_at_a_time_on_one_connection(channel):
    calls = [channel.unary_unary("/test.Main/Say").future(b"%d" % number, timeout=DEADLINE_SECONDS) for number in range(300)]
    assert [call.result() for call in calls] == [b"%d" % number for number in range(300)]


def test_calls_of_one_connection_go_to_backends_in_turn(channel):
    call = channel.unary_unary("/test.Main/Name")
    names = Counter(call(b"", timeout=DEADLINE_SECONDS) for _ in range(40))
    assert names == {b"one": 20, b"two": 20}


def test_a_pool_with_tls(site, channel):
    message = os.urandom(3 << 20)
    assert say(channel, message, "test.Secure") == message


# ---------------------------------------------------------------------------------------------------------- ends
@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_what_a_backend_answers_is_passed_on(channel, code):
    error = error_of(channel.unary_unary("/test.Main/Fail"), b"%d" % code.value[0])
    assert error.code() is code
    assert error.details() == "as asked: 100 % ✓\n"
    assert dict(error.trailing_metadata())["x-why"] == "asked"


def test_a_method_that_nobody_has(channel):
    error = error_of(channel.unary_unary("/test.Main/None"), b"")
    assert (error.code(), error.details()) == (grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


def test_a_service_without_a_route(channel):
    error = error_of(channel.unary_unary("/test.Nowhere/Say"), b"")
    assert (error.code(), error.details()) == (grpc.StatusCode.UNIMPLEMENTED, "No route matches this host and path.")
    assert dict(error.trailing_metadata())["x-fastlb-reason"] == "no_route"


@pytest.mark.parametrize("kind", ["unary_unary", "stream_stream"])
def test_without_a_backend_a_call_is_unavailable(channel, kind):
    error = (
        error_of(channel.unary_unary("/test.Nobody/Say"), b"x" * 100_000)
        if kind == "unary_unary"
        else error_of(lambda **options: list(channel.stream_stream("/test.Nobody/Talk")(itertools.repeat(b"x" * 1000), **options)))
    )
    assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "The backend refused the connection.")


def test_too_large_a_message(channel):
    error = error_of(channel.unary_unary("/test.Small/Say"), b"x" * 1000)
    assert (error.code(), error.details()) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "The request body is larger than is allowed here.",
    )


def test_a_deadline_reaches_the_backend_and_so_does_its_end(site, channel):
    call = channel.unary_unary("/test.Secure/Wait")
    n_before = len(site.secure.waiting)
    with pytest.raises(grpc.RpcError) as caught:
        call(b"", timeout=0.3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    seen = site.secure.wait_for_call(n_before)
    assert seen.seconds_left is not None and seen.seconds_left < 1
    assert seen.over.wait(DEADLINE_SECONDS)


@pytest.mark.parametrize("kind", ["unary", "stream", "conversation"])
def test_a_call_that_is_cancelled_is_cancelled_at_the_backend(site, channel, kind):
    n_before = len(site.secure.waiting)
    if kind == "unary":
        call = channel.unary_unary("/test.Secure/Wait").future(b"")
    elif kind == "stream":
        call = channel.unary_stream("/test.Secure/Watch")(b"x")
        assert next(call) == b"x"
    else:
        hold = threading.Event()
        call = channel.stream_stream("/test.Secure/Talk")(itertools.chain([b"watch"], iter(hold.wait, True)))
        assert next(call) == b"watch"
    seen = site.secure.wait_for_call(n_before)
    call.cancel()
    assert seen.over.wait(DEADLINE_SECONDS)
    if kind == "conversation":
        hold.set()


def test_a_backend_that_breaks_in_the_middle_of_a_stream(site, channel):
    call = channel.unary_stream("/test.Fragile/Watch")(b"x", timeout=2 * DEADLINE_SECONDS)
    assert next(call) == b"x"
    site.fragile.end_connections()
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert caught.value.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE)
    assert say(channel, b"again", "test.Fragile") == b"again"  # on another connection to it


def test_a_backend_that_breaks_before_it_answers(site, channel):
    n_before = len(site.backends[0].waiting)
    call = channel.unary_unary("/test.Fragile/Wait").future(b"", timeout=2 * DEADLINE_SECONDS)
    site.backends[0].wait_for_call(n_before)
    site.fragile.end_connections()
    error = call.exception()
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert dict(error.trailing_metadata())["x-fastlb-reason"].startswith("backend:")


def test_an_answer_that_comes_while_the_client_still_sends_is_the_answer(channel):
    error = error_of(channel.stream_unary("/test.Main/Refuse"), itertools.repeat(b"x" * 10_000))
    assert (error.code(), error.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "as asked: 100 % ✓\n")


def test_the_log_tells_how_calls_ended(site):
    with site.channel("plain") as channel:
        for path, message in (("/test.Main/Say", b"x"), ("/test.Main/Fail", b"7"), ("/test.Nobody/Say", b"x")):
            channel.unary_unary(path).future(message, timeout=DEADLINE_SECONDS).code()
    expected = ["/test.Main/Say 200 0 -", "/test.Main/Fail 200 7 -", "/test.Nobody/Say 200 14 backend:connect_refused"]
    wait_until(lambda: site.log.read_text().splitlines()[-3:] == expected, "the calls are logged")


# ---------------------------------------------------------------------------------------------------------- health
def test_a_backend_that_does_not_serve_gets_no_calls(site, channel):
    def state():
        (found,) = (one for one in site.lb.control.ask("health")["backends"] if one["backend"] == site.backends[1].address)
        return found["verdict"], found["text"]

    wait_until(lambda: state() == ("up", "SERVING"), "it is up")
    site.backends[1].health = NOT_SERVING
    wait_until(lambda: state() == ("down", "NOT_SERVING"), "it is down")
    call = channel.unary_unary("/test.Main/Name")
    assert {call(b"", timeout=DEADLINE_SECONDS) for _ in range(20)} == {b"one"}
    site.backends[1].health = SERVING
    wait_until(lambda: state() == ("up", "SERVING"), "it is up again")
    (secure,) = (one for one in site.lb.control.ask("health")["backends"] if one["pool"] == "secure")
    assert (secure["type"], secure["text"]) == ("grpc", "SERVING")


# ---------------------------------------------------------------------------------------------------------- connections
def test_what_clients_send_besides_is_no_flood(site):
    # Pings that measure the bandwidth go with the data by default; others are asked for.
    eager = [("grpc.keepalive_time_ms", 1000), ("grpc.http2.max_pings_without_data", 0), ("grpc.keepalive_permit_without_calls", 1)]
    with site.channel("plain", *eager) as channel:
        piece = b"x" * 20_000
        assert len(channel.stream_unary("/test.Main/Join")(itertools.repeat(piece, 2000), timeout=60)) == 40_000_000
        assert sum(1 for _ in channel.unary_stream("/test.Main/Count")(b"20000", timeout=60)) == 20_000
    ends = {name: n for name, n in site.lb.counters().items() if "http2_ended." in name and n}
    assert ends == {}


def test_clients_move_without_an_error_when_their_listener_goes(fastlb, keep):
    backend = keep(GrpcBackend())
    pools = {"main": {"protocol": "http2", "backends": [backend]}}
    lb = fastlb(configuration(listeners=[{"name": "stays"}, {"name": "goes"}], pools=pools))
    with Calls(f"ipv4:127.0.0.1:{lb.port_of(1)},127.0.0.1:{lb.port_of(0)}") as calls:
        waits = calls.channel.unary_stream("/test/Watch")(b"x", timeout=2 * DEADLINE_SECONDS)  # goes on over the move
        assert next(waits) == b"x"
        calls.wait_for_answers(50)
        lb.reload_ok(configuration(listeners=[{"name": "stays"}], pools=pools))
        lb.wait_for(lambda counters: counters["clients"] == 2, "the client has connected to the other one too")
        calls.wait_for_answers(100)
        backend.waiting[0].over.set()
        assert list(waits) == []
        lb.wait_for(lambda counters: counters["clients"] == 1, "and left the first one")
    assert calls.failures == []
    assert lb.reasons() == {}


def test_backends_that_say_goodbye_again_and_again_cost_no_call(fastlb, keep):
    ages = [("grpc.max_connection_age_ms", 200), ("grpc.max_connection_age_grace_ms", 10_000)]
    lb = fastlb([keep(GrpcBackend(options=ages))], pool={"protocol": "http2"})
    with Calls(f"127.0.0.1:{lb.port}", threads=4) as calls:
        wait_until(lambda: lb.counter("backend_goaways") >= 5 or calls.failures, "goodbyes have come")
        calls.wait_for_answers(50)
    assert calls.failures == []
    assert lb.reasons() == {}


def test_a_backend_that_is_stopped_costs_no_call_that_it_has_not_taken(fastlb, keep):
    # grpcio may end a call that reaches it while it stops, or leave it when it hangs up: each of the four clients has one under way.
    stays, goes = keep(GrpcBackend("stays")), keep(GrpcBackend("goes"))
    lb = fastlb([stays, goes], pool={"protocol": "http2", "algorithm": "round_robin"})
    with Calls(f"127.0.0.1:{lb.port}", threads=4) as calls:
        wait_until(lambda: goes.n_calls > 20, "both are called")
        goes.stop()
        calls.wait_for_answers(100)
    assert {error.code() for error in calls.failures} <= {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}
    with Calls(f"127.0.0.1:{lb.port}", threads=4) as calls:
        calls.wait_for_answers(100)
    assert calls.failures == []
