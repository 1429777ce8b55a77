"""fastlb/data_plane/tls.pyx and tls_handshake.pyx: an engine in this process and clients whose every byte the test moves."""

import contextlib
import socket
import ssl
import time

import pytest

from tests.support.issue import issue
from tests.support.openssl_client import MAX_FRAGMENT_512, OpenSslClient
from tests.support.pair import OK, Pair
from tests.support.tls import TICKET_KEY, TlsClient, TlsWorld, client_context, exchange

REQUEST = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
# The preface, windows for all of the answer, and a request.
HTTP2_REQUEST = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\6\4\0\0\0\0\0\0\4\0\x10\0\0\0\0\4\x08\0\0\0\0\0\0\x10\0\0\0\0\6\1\5\0\0\0\1\x82\x87\x84\x41\1a"
)


def test_requests_and_answers_pass_and_the_backend_is_told_https() -> None:
    with TlsWorld() as world:
        client = world.tls_client(name="a.example").shake()
        peer = exchange(world, client)
        exchange(world, client, peer)
        assert b"\r\nX-Forwarded-Proto: https\r\n" in world.request_head
        assert (client.ssl.version(), client.ssl.selected_alpn_protocol()) == ("TLSv1.3", None)
        assert world.counts("tls_handshakes", "tls_resumed", "backend_reused") == (1, 0, 1)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("step", [0, 1])
def test_handshake_and_request_come_through_however_they_are_cut(version: ssl.TLSVersion, step: int) -> None:
    with TlsWorld() as world:
        client = world.tls_client(client_context(maximum_version=version), "a.example")
        client.step = step
        exchange(world, client.shake())


def finish_and_ask(world: TlsWorld, client: TlsClient, request: bytes) -> None:
    """The client's last word of the handshake and its request, in one segment."""
    with contextlib.suppress(ssl.SSLWantReadError):
        client.ssl.do_handshake()
    client.flush()
    while True:
        client.pull()
        try:
            client.ssl.do_handshake()
        except ssl.SSLWantReadError:
            continue
        break
    client.ssl.write(request)
    client.flush()


def test_request_in_one_segment_with_the_end_of_the_handshake_is_served() -> None:
    with TlsWorld() as world:
        client = world.tls_client(name="a.example")
        finish_and_ask(world, client, REQUEST + REQUEST)
        peer = world.answer()
        world.answer(peer=peer)
        assert client.receive_until(b"ok").count(b"ok") + client.receive_until(b"ok").count(b"ok") == 2


def test_connection_is_not_kept_to_wait_for_what_was_read_already() -> None:
    with TlsWorld() as world:
        client = world.tls_client(name="a.example")
        finish_and_ask(world, client, b"GET / HTTP/1.0\r\n\r\n")
        world.answer()
        client.receive_until(b"ok")
        world.pump_until(lambda: world.counts("clients_closed") == (1,))  # though the client has not closed its side


def hello(client: TlsClient) -> None:
    with contextlib.suppress(ssl.SSLWantReadError):
        client.ssl.do_handshake()
    client.flush()


def test_batch_makes_few_steps_of_handshakes_and_all_have_their_turn() -> None:
    with TlsWorld() as world:
        asking = world.tls_client(name="a.example").shake()
        peer = exchange(world, asking)
        clients = [world.tls_client(name="a.example") for _ in range(10)]
        world.pump_until(lambda: world.counts("clients_opened") == (11,))
        for client in clients:
            hello(client)
        asking.send(REQUEST)
        world.engine.pump(11)  # one batch: as many events, and then turns
        assert world.counts("tls_opened") == (5,)
        assert peer.recv(4096).startswith(b"GET / ")  # who has shaken hands does not wait for those who have not
        world.engine.pump(6)
        assert world.counts("tls_opened") == (9,)
        peer.sendall(OK)
        asking.receive_until(b"ok")
        for client in clients:
            exchange(world, client.shake(), peer)


def test_handshake_that_waits_for_its_turn_may_end() -> None:
    with TlsWorld() as world:
        clients = [world.tls_client(name="a.example") for _ in range(10)]
        world.pump_until(lambda: world.counts("clients_opened") == (10,))
        for client in clients:
            hello(client)
        world.engine.pump(10)
        for client in clients:
            client.sock.close()
        world.pump_until(lambda: world.counts("clients_closed") == (10,))
        exchange(world, world.tls_client(name="a.example").shake())


def test_plain_http_is_told_so() -> None:
    with TlsWorld() as world:
        for data in (REQUEST, b"P"):
            answer = world.read_all(world.request(data))
            assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
            assert b"X-Fastlb-Reason: client:plain_http\r\n" in answer
            assert b"speaks HTTPS" in answer
        assert world.counts("reason.client:plain_http", "tls_opened") == (2, 0)


def test_what_is_no_tls_gets_an_alert_and_is_closed() -> None:
    with TlsWorld() as world:
        assert world.read_all(world.request(b"\x16\x03\x01\x00\x05hello"))[:1] in (b"\x15", b"")
        assert world.read_all(world.request(b"\x00" * 100))[:1] in (b"\x15", b"")
        assert world.counts("reason.client:tls_protocol", "tls_opened") == (2, 2)


def test_client_that_leaves_within_the_handshake_is_counted() -> None:
    with TlsWorld() as world:
        world.client().close()
        world.request(b"\x16\x03\x01").close()
        world.pump_until(lambda: world.counts("clients_opened", "clients_closed") == (2, 2))
        assert world.counts("reason.client:tls_closed") == (2,)


def test_handshake_has_its_time() -> None:
    with TlsWorld(handshake_timeout_ms=20) as world:
        silent, slow = world.client(), world.request(b"\x16\x03\x01")
        assert (world.read_all(silent), world.read_all(slow)) == (b"", b"")
        assert world.counts("reason.client:tls_timeout") == (2,)


def test_reload_that_takes_tls_away_leaves_handshakes_that_have_begun() -> None:
    with TlsWorld() as world:
        begun, silent = world.tls_client(name="a.example"), world.client()
        with contextlib.suppress(ssl.SSLWantReadError):
            begun.ssl.do_handshake()
        begun.sock.send(begun.outgoing.read(100))
        world.pump_until(lambda: world.counts("tls_opened", "clients_opened") == (1, 2))
        Pair.load(world)
        peer = exchange(world, begun.shake())
        silent.send(REQUEST)
        world.answer(peer=peer)
        world.read_until(silent, b"ok")


NAMES = {
    "certificates": [issue("a.example"), issue("b.example"), issue("*.b.example", serial=8)],
    "identities": [[0], [1], [2]],
    "names": [("a.example", 0), ("b.example", 1), ("*.b.example", 2), ("c.b.example", 1)],
}


def served(client: TlsClient) -> list[str]:
    """Names of the certificate that the client got."""
    from cryptography import x509

    data = client.ssl.getpeercert(binary_form=True)
    assert data
    certificate = x509.load_der_x509_certificate(data)
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (None, "a.example"),
        ("b.example", "b.example"),
        ("B.Example", "b.example"),
        ("x.b.example", "*.b.example"),
        ("c.b.example", "b.example"),
        ("x.y.b.example", "a.example"),
        ("nobody.example", "a.example"),
    ],
)
def test_certificate_follows_the_name(name: str | None, wanted: str) -> None:
    with TlsWorld(**NAMES) as world:
        assert served(world.tls_client(name=name).shake()) == [wanted]


def test_unknown_name_is_refused_where_there_is_no_default() -> None:
    with TlsWorld(**NAMES, default=None) as world:
        assert served(world.tls_client(name="x.b.example").shake()) == ["*.b.example"]
        assert world.tls_client(name="nobody.example").refusal() == "TLSV1_UNRECOGNIZED_NAME"
        assert world.tls_client().refusal() == "TLSV1_UNRECOGNIZED_NAME"
        assert world.counts("reason.client:tls_unknown_name") == (2,)


def test_client_gets_the_type_of_key_that_it_can_verify_ecdsa_first() -> None:
    both = {"certificates": [issue("a.example", kind="rsa"), issue("a.example")], "identities": [[0, 1]]}
    with TlsWorld(**both) as world:
        for ciphers, wanted in (("ECDHE-RSA-AES128-GCM-SHA256", "RSA"), ("ECDHE+AESGCM", "ECDSA")):
            context = client_context(maximum_version=ssl.TLSVersion.TLSv1_2)
            context.set_ciphers(ciphers)
            cipher = world.tls_client(context).shake().ssl.cipher()
            assert cipher
            assert wanted in cipher[0]


def test_what_both_sides_do_not_share_is_counted() -> None:
    with TlsWorld(min_version=0x0304) as world:
        old = client_context(maximum_version=ssl.TLSVersion.TLSv1_2)
        assert world.tls_client(old).refusal() == "TLSV1_ALERT_PROTOCOL_VERSION"
        protocols = client_context()
        protocols.set_alpn_protocols(["smtp"])
        assert world.tls_client(protocols).refusal()  # no_application_protocol, which Python has no name for
        assert world.counts("reason.client:tls_no_shared_cipher") == (2,)


def test_server_prefers_its_own_protocol() -> None:
    with TlsWorld(alpn=[b"http/1.1", b"http/1.0"]) as world:
        context = client_context()
        context.set_alpn_protocols(["spdy/3", "http/1.0", "http/1.1"])
        assert world.tls_client(context).shake().ssl.selected_alpn_protocol() == "http/1.1"


def test_challenge_certificate_is_for_who_asks_for_it_alone() -> None:
    certificates = [issue("a.example"), issue("a.example", serial=99)]
    with TlsWorld(certificates, challenges=[("a.example", 1)]) as world:
        context = client_context()
        context.set_alpn_protocols(["acme-tls/1"])
        client = world.tls_client(context, "a.example").shake()
        assert client.ssl.selected_alpn_protocol() == "acme-tls/1"
        assert client.ssl.getpeercert(binary_form=True) == ssl.PEM_cert_to_DER_cert(certificates[1][0].decode())
        assert client.receive() == b""
        usual = world.tls_client(name="a.example").shake()
        assert usual.ssl.getpeercert(binary_form=True) == ssl.PEM_cert_to_DER_cert(certificates[0][0].decode())
        assert world.tls_client(context, "b.example").refusal()


def test_challenge_is_answered_where_clients_need_certificates_too() -> None:
    authority = issue("a.example")
    with TlsWorld([authority], challenges=[("a.example", 0)], client_auth="required", client_ca=authority[0]) as world:
        context = client_context()
        context.set_alpn_protocols(["acme-tls/1"])
        assert world.tls_client(context, "a.example").shake().ssl.selected_alpn_protocol() == "acme-tls/1"
        assert world.tls_client().refusal()


def session_of(world: TlsWorld, context: ssl.SSLContext) -> ssl.SSLSession:
    client = world.tls_client(context, "a.example").shake()
    exchange(world, client)  # brings the tickets
    assert client.ssl.session
    return client.ssl.session


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_session_is_resumed_in_another_worker_and_after_a_reload(version: ssl.TLSVersion) -> None:
    context = client_context(maximum_version=version)
    with TlsWorld() as world, TlsWorld() as other:
        session = session_of(world, context)
        world.keys = other.keys = [bytes(80), TICKET_KEY]  # a newer key: the older one still opens
        for resuming in (world, other):
            resuming.load()
            client = resuming.tls_client(context, "a.example", session).shake()
            assert client.ssl.session_reused
        for resuming in (world, other):
            resuming.pump_until(
                lambda resuming=resuming: resuming.counts("tls_resumed") == (1,)
            )  # the client's last word may be on its way
        world.keys = [bytes(80)]
        world.load()
        assert not world.tls_client(context, "a.example", session).shake().ssl.session_reused


@pytest.mark.parametrize("asks_at_once", [False, True])
def test_each_connection_of_a_chain_gets_a_session(asks_at_once: bool) -> None:
    context = client_context()
    with TlsWorld() as world:
        session, peer = None, None
        for resumed in (False, True, True):
            client = world.tls_client(context, "a.example", session)
            if asks_at_once:
                finish_and_ask(world, client, REQUEST)
                peer = world.answer(peer=peer)
                client.receive_until(b"ok")
            else:
                client.shake().pull()  # something comes at once, so that the end of the handshake is acknowledged
                peer = exchange(world, client, peer)
            before, session = session, client.ssl.session
            assert (client.ssl.session_reused, session.has_ticket) == (resumed, True)
            assert session != before


def test_session_waits_for_the_answer_to_a_request_that_is_here_already() -> None:
    with TlsWorld() as world:
        client = world.tls_client(client_context(), "a.example")
        finish_and_ask(world, client, REQUEST)
        peer = world.accept()
        world.read_until(peer, b"\r\n\r\n")
        with pytest.raises(BlockingIOError):
            client.sock.recv(1)
        peer.sendall(OK)
        client.receive_until(b"ok")
        assert client.ssl.session.has_ticket


def test_no_session_without_keys_or_where_tickets_are_off() -> None:
    context = client_context()
    for changes in ({"keys": []}, {"tickets": False}):
        with TlsWorld(**changes) as world:
            client = world.tls_client(context, "a.example").shake()
            exchange(world, client)
            assert client.ssl.session is None or not client.ssl.session.has_ticket


def test_large_answer_reaches_a_slow_reader_whole() -> None:
    body = bytes(range(256)) * 8192
    with TlsWorld() as world:
        client = world.tls_client(name="a.example").shake()
        client.send(REQUEST)
        peer = world.accept()
        world.read_until(peer, b"\r\n\r\n")
        data = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        while data:
            try:
                data = data[peer.send(data) :]
            except BlockingIOError:
                world.engine.pump()
                with contextlib.suppress(BlockingIOError):
                    client.incoming.write(client.sock.recv(3000))
        received = b""
        while len(received) < len(body):
            received += client.receive()
        assert received[received.index(b"\r\n\r\n") + 4 :] == body


def test_large_request_reaches_the_backend_whole() -> None:
    body = bytes(range(256)) * 4096
    with TlsWorld() as world:
        client = world.tls_client(name="a.example").shake()
        client.ssl.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        data = memoryview(client.outgoing.read())
        received, peer = b"", None
        while not received.endswith(body):
            with contextlib.suppress(BlockingIOError):
                data = data[client.sock.send(data) :] if data else data
            world.engine.pump()
            peer = peer or world.accept()
            with contextlib.suppress(BlockingIOError):
                received += peer.recv(1 << 20)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert client.receive_until(b"ok")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_client_that_wants_small_records_gets_a_large_answer(version: ssl.TLSVersion) -> None:
    body = bytes(range(256)) * 800 + b"the end"
    with TlsWorld() as world, OpenSslClient(world, max_fragment=MAX_FRAGMENT_512, max_version=version) as client:
        client.shake().send(REQUEST)
        world.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert client.receive_until(b"the end").endswith(body)


def test_few_key_updates_are_no_harm_and_a_flood_of_them_is_closed() -> None:
    with TlsWorld() as world, OpenSslClient(world) as client:
        client.shake()
        peer = None
        for _ in range(3):
            client.send_all(client.sock, client.update_keys(1000), world.engine.pump)
            client.send(REQUEST)
            peer = world.answer(peer=peer)
            client.receive_until(b"ok")
        client.send_all(client.sock, client.update_keys(6000), world.engine.pump)
        world.pump_until(lambda: world.counts("clients_closed") == (1,))


def test_client_that_wants_to_renegotiate_is_refused_and_leaves() -> None:
    with TlsWorld() as world, OpenSslClient(world, max_version=ssl.TLSVersion.TLSv1_2) as client:
        client.shake().send(REQUEST)
        peer = world.answer()
        client.receive_until(b"ok")
        client.sock.send(client.ask_to_renegotiate())
        world.pump_until(lambda: world.counts("tls_renegotiations", "clients_closed") == (1, 1))
        assert "no renegotiation" in client.last_alert()
        peer.close()


@pytest.mark.parametrize("protocol", ["http/1.1", "h2"])
def test_client_that_reads_slowly_but_steadily_has_its_time_anew(protocol: str) -> None:
    # The socket takes little at a time, so what waits is what OpenSSL has encrypted already: nobody above it sees any byte move.
    body = b"\xfe" * 60_000
    with TlsWorld(listener={"write_timeout_ms": 500}, alpn=[protocol.encode()]) as world:
        world.front.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 512)
            sock.connect(world.front.getsockname())
            sock.setblocking(False)
            context = client_context()
            context.set_alpn_protocols([protocol])
            client = TlsClient(world, sock, context).shake()
            client.send(REQUEST if protocol == "http/1.1" else HTTP2_REQUEST)
            world.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            received = b""
            while received.count(b"\xfe") < len(body):
                read_at = time.monotonic() + 0.02
                world.pump_until(lambda read_at=read_at: time.monotonic() >= read_at)
                with contextlib.suppress(BlockingIOError):
                    client.incoming.write(sock.recv(1000))
                with contextlib.suppress(ssl.SSLWantReadError):
                    received += client.ssl.read(65536)
                assert world.counts("clients_closed") == (0,)


def test_orderly_ends_say_so() -> None:
    with TlsWorld() as world:
        client = world.tls_client(name="a.example").shake()
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        peer = world.answer(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")
        peer.close()
        client.receive_until(b"until the end")
        assert client.receive() == b""  # close_notify, no bare FIN


def test_client_may_end_with_or_without_goodbye() -> None:
    with TlsWorld() as world:
        polite, rude = world.tls_client().shake(), world.tls_client().shake()
        with contextlib.suppress(ssl.SSLWantReadError):
            polite.ssl.unwrap()
        polite.flush()
        assert polite.receive() == b""
        rude.sock.close()
        world.pump_until(lambda: world.engine.connections() == 0)


def test_ocsp_response_is_stapled() -> None:
    # `ssl` cannot ask for one: here the sanitizers see that its bytes are loaded and freed.
    with TlsWorld([(*issue("a.example"), b"\x30\x03\x0a\x01\x00")]) as world:
        exchange(world, world.tls_client(name="a.example").shake())


def test_key_of_another_certificate_is_refused_with_a_reason() -> None:
    chain, _ = issue("a.example")
    with TlsWorld() as world:
        world.certificates = [(chain, issue("a.example", kind="rsa")[1])]
        with pytest.raises(ValueError, match=r"TLS of this snapshot cannot be used: error:.*SSL routines"):
            world.load()
        exchange(world, world.tls_client(name="a.example").shake())


def test_records_with_a_byte_each_leave_others_their_turn() -> None:
    with TlsWorld() as world:
        client = world.tls_client(name="a.example").shake()
        size = 2500
        client.send(b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: %d\r\n\r\n" % size)
        peer = world.accept()
        world.read_until(peer, b"\r\n\r\n")
        before = world.counts("ready_turns")[0]
        for _ in range(size):
            client.ssl.write(b"x")
        client.flush()
        received = b""
        while len(received) < size:
            received += world.read(peer)
        assert world.counts("ready_turns")[0] - before >= size // 512
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert client.receive_until(b"ok")
