"""Listeners and backends over IPv4, IPv6 and unix sockets."""

import os
import shutil
import socket
import tempfile
from pathlib import Path

import pytest

from tests.support.backend import ScriptedBackend, listen
from tests.support.message import request, response


@pytest.fixture
def path():
    directory = tempfile.mkdtemp(prefix="fastlb-")  # short: a unix path has at most 107 bytes
    yield Path(directory)
    shutil.rmtree(directory)


def test_one_listener_has_ipv4_ipv6_and_unix_sockets(fastlb, backend, path):
    lb = fastlb([backend], listener={"bind": ["127.0.0.1:0", "[::1]:0", f"unix:{path}/web"]})
    assert len(lb.urls) == 3
    for bind, address in enumerate(["127.0.0.1", "::1", "unix:"]):
        client = lb.connect(bind)
        client.send(request())
        connection = backend.peers[0] if backend.peers else backend.accept()
        assert connection.read_request().get("X-Forwarded-For") == address
        connection.send(response(b"ok"))
        assert client.read_response().body == b"ok"
    assert not [url for url in lb.urls if url.endswith(":0")]


def test_port_alone_means_every_address(fastlb, instant):
    lb = fastlb([instant()], listener={"bind": ":0"})
    assert len(lb.urls) == 2
    assert lb.port_of(0) == lb.port_of(1)
    for host, family in (("127.0.0.1", socket.AF_INET), ("127.0.0.2", socket.AF_INET), ("::1", socket.AF_INET6)):
        with socket.socket(family) as client:
            client.connect((host, lb.port))
            client.sendall(request("/", "Connection: close"))
            assert client.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("kind", ["ipv4", "ipv6", "unix"])
def test_backends_of_every_family(fastlb, keep, path, kind):
    if kind == "unix":
        backend = keep(ScriptedBackend(listen(path=path / "app.sock")))
    else:
        backend = keep(ScriptedBackend(listen("::1" if kind == "ipv6" else "127.0.0.1")))
    lb = fastlb([backend])
    client = lb.connect()
    client.send(request("/1"))
    connection, _ = backend.answer(response(b"one"))
    assert client.read_response().body == b"one"
    client.send(request("/2"))
    assert connection.read_request().target == "/2"
    connection.send(response(b"x" * 300_000))
    assert client.read_response().body == b"x" * 300_000


def test_unix_client_and_unix_backend_that_answers_and_closes(fastlb, keep, path):
    """The end of a unix socket is an EPOLLHUP with the data still to be read."""
    backend = keep(ScriptedBackend(listen(path=path / "app.sock")))
    lb = fastlb([backend], listener={"bind": f"unix:{path}/web"})
    client = lb.connect()
    for body in (b"small", b"x" * 100_000):
        client.send(request())
        connection = backend.accept()
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\n\r\n" + body)
        connection.close()
        assert client.read_response().body == body


def test_unix_socket_file_is_removed_at_the_end_and_a_stale_one_replaced(fastlb, backend, path):
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(f"{path}/web")
    lb = fastlb([backend], listener={"bind": f"unix:{path}/web"})
    client = lb.connect()
    client.send(request())
    backend.answer()
    assert client.read_response().status == 200
    lb.stop()
    assert not os.path.lexists(path / "web")


def test_several_listeners_with_limits_of_their_own(fastlb, backend):
    lb = fastlb([backend], listeners=[{"name": "wide"}, {"name": "narrow", "limits": {"target": "64B"}}])
    client = lb.connect(1)
    assert client.ask(request("/" + "x" * 64)).reason == "client:target_too_long"
    client = lb.connect(0)
    client.send(request("/" + "x" * 64))
    backend.answer()
    assert client.read_response().status == 200


@pytest.mark.parametrize("defer", [True, False])
def test_client_that_says_nothing_at_first_is_served_when_it_speaks(fastlb, instant, defer):
    lb = fastlb([instant(response(b"ok"))], listener={"defer_accept": defer})
    client = lb.connect()
    lb.wait_for_counter("clients_opened")  # the kernel keeps it back for about a second, or not at all
    assert client.ask(request()).body == b"ok"
