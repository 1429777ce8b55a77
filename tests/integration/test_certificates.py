"""Certificates that change while fastlb runs: real processes, real clients, no connection lost.

What a certificate has to be is said by the unit tests of the same name, what TLS does on the wire by those of the data plane.
"""

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.support.authority import Authority, key_pem, make_key, put
from tests.support.configuration import configuration
from tests.support.load import wait_for_end
from tests.support.message import request, response
from tests.support.process import Control, Fastlb
from tests.support.waiting import DEADLINE_SECONDS, wait_until

ROOT = Authority()


class Site:
    """A directory with certificates, and a fastlb that serves them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = directory / "ca.pem"
        put(self.authority, ROOT.pem)

    def issue(self, name: str, *hosts: str, number: int = 0) -> None:
        ROOT.issue(*hosts, number=number).write(self.directory, name)

    def text(self, backend, *names: str, more: dict | None = None, **arguments) -> str:
        certificates = [{"cert": str(self.directory / f"{name}.pem"), "key": str(self.directory / f"{name}.key")} for name in names]
        return configuration([backend], listener={"tls": {"certificates": certificates, **(more or {})}}, **arguments)

    def connect(self, lb: Fastlb, host: str, context: ssl.SSLContext | None = None, session=None) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", lb.port), DEADLINE_SECONDS)
        return (context or ROOT.client_context()).wrap_socket(plain, server_hostname=host, session=session)

    def names(self, lb: Fastlb, host: str) -> set[str]:
        """Those of the certificate that a client gets."""
        with self.connect(lb, host) as client:
            certificate = client.getpeercert()
            assert certificate is not None
            return {str(value) for _, value in certificate["subjectAltName"]}

    def resume(self, port: int, *options: str) -> bool:
        """Whether one more connection has taken up a session."""
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "a.example", "-CAfile", str(self.authority)]
        request = b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n"
        done = subprocess.run([*command, *options], input=request, capture_output=True, timeout=DEADLINE_SECONDS)
        assert b"Verify return code: 0" in done.stdout, done
        return b"Reused, " in done.stdout


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def ask(client: ssl.SSLSocket, body: bytes) -> None:
    """One request on a connection that stays."""
    client.sendall(request("/", host="a.example"))
    received = b""
    while not received.endswith(body):
        piece = client.recv(65536)
        assert piece, received
        received += piece
    assert received.startswith(b"HTTP/1.1 200")


def wait_for_message(lb: Fastlb, text: str) -> None:
    wait_until(lambda: text in lb.messages(), f"{text!r} is said")


def wait_for_renewal(lb: Fastlb) -> None:
    while not lb.next_line().startswith("fastlb: certificates reloaded (generation "):
        pass


def test_changed_files_are_served_without_a_reload_and_open_connections_go_on(fastlb, instant, site):
    site.issue("a", "a.example")
    site.issue("b", "b.example", number=1)
    lb = fastlb(site.text(instant(response(b"one")), "a", "b"), workers=2)
    assert lb.urls[0].startswith("https://127.0.0.1:")
    assert site.names(lb, "b.example") == {"b.example"}
    with site.connect(lb, "a.example") as client:
        ask(client, b"one")
        lb.config_path.write_text("this is not read = ")
        new = ROOT.issue("a.example", "new.example", number=2)
        put(site.directory / "a.pem", new.pem)  # its key has not come yet: the old pair goes on
        wait_for_message(lb, "a.key does not belong to the certificate")
        assert "what it held before stays in use" in lb.messages()
        assert site.names(lb, "a.example") == {"a.example"}
        (row,) = [row for row in lb.control.request("GET", "/v1/status")[1]["certificates"] if row["error"]]
        assert row["names"] == ["a.example"]
        put(site.directory / "a.key", new.key_pem)
        wait_for_renewal(lb)
        for _ in range(8):  # whichever worker it is
            assert site.names(lb, "new.example") == {"a.example", "new.example"}
        ask(client, b"one")
    assert [row["restarts"] for row in lb.processes()] == [0] * len(lb.processes())


def test_a_bad_pair_at_a_reload_leaves_the_last_good_one_and_the_rest_is_applied(fastlb, instant, site):
    site.issue("a", "a.example")
    lb = fastlb(site.text(instant(response(b"one")), "a"))
    put(site.directory / "a.key", key_pem(make_key("ec", 3)))
    site.issue("b", "b.example", number=1)
    site.issue("c", "c.example", number=2)
    put(site.directory / "c.pem", b"nothing")
    answer = lb.reload_ok(site.text(instant(response(b"two")), "a", "b", "c"))
    kept, left_out = answer["warnings"]
    assert "a.key does not belong to the certificate" in kept and kept.endswith("what it held before stays in use")
    assert "c.pem: there is no certificate in it" in left_out and left_out.endswith("it is not served until it is right")
    with site.connect(lb, "a.example") as client:
        ask(client, b"two")
    assert site.names(lb, "b.example") == {"b.example"}


def test_the_start_fails_where_a_listener_has_no_certificate(site, backend, tmp_path):
    path = tmp_path / "f.toml"
    path.write_text(site.text(backend, "absent"))
    for command in (["check", str(path)], ["serve", "-c", str(path)]):
        done = subprocess.run([sys.executable, "-m", "fastlb", *command], capture_output=True, text=True, timeout=DEADLINE_SECONDS)
        assert done.returncode == 2
        assert re.search(r"f\.toml:\d+:\d+: .*absent\.pem: cannot be read: no such file or directory; ", done.stderr)


def test_sessions_are_resumed_by_every_worker_and_after_reloads_and_a_new_controller(fastlb, instant, site):
    site.issue("a", "a.example")
    backend = instant(response(b"one"))
    lb = fastlb(site.text(backend, "a"), workers=2)
    resume, saved = partial(site.resume, lb.port), site.directory / "session"
    assert not resume("-sess_out", str(saved), "-ign_eof")
    assert all(resume("-sess_in", str(saved), "-ign_eof") for _ in range(6))
    lb.reload_ok(site.text(backend, "a", settings={"request_id": False}))
    assert all(resume("-sess_in", str(saved), "-ign_eof") for _ in range(3))
    (controller,) = [row["pid"] for row in lb.processes() if row["role"] == "controller"]
    os.kill(controller, signal.SIGKILL)
    lb.reconnect()
    lb.reload_ok(site.text(backend, "a"))
    assert all(resume("-sess_in", str(saved), "-ign_eof") for _ in range(3))


def test_sessions_are_resumed_by_the_fastlb_that_takes_over(fastlb, instant, site):
    site.issue("a", "a.example")
    lb = fastlb(site.text(instant(response(b"one")), "a"), fresh=True)
    saved = str(site.directory / "session")
    assert not site.resume(lb.port, "-sess_out", saved, "-ign_eof")
    lb.control.patience(60)
    status, answer = lb.control.request("POST", "/v1/upgrade")
    assert status == 200, answer
    lb.process.wait(DEADLINE_SECONDS)
    lb._was_killed = True  # nothing of it is left to be stopped
    assert all(site.resume(lb.port, "-sess_in", saved, "-ign_eof") for _ in range(3))
    os.kill(answer["pid"], signal.SIGTERM)
    wait_for_end(answer["pid"])


def test_expiry_is_told_as_a_metric_in_the_status_and_as_a_warning(fastlb, instant, site):
    ROOT.issue("a.example", days=5.5).write(site.directory, "a")
    lb = fastlb(site.text(instant(), "a"))
    assert "a.pem: the certificate expires in 5 days, at " in lb.messages()
    page = lb.control.read("/metrics")[2].decode()
    (seconds,) = re.findall(r'fastlb_certificate_expires_seconds{file=".*a\.pem",names="a\.example"} (\d+)', page)
    assert 5 * 86400 < int(seconds) < 5.5 * 86400
    _, status = lb.control.request("GET", "/v1/status")
    (row,) = status["certificates"]
    assert (row["listeners"], row["key_type"], row["issuer"], row["error"]) == (["web"], "ECDSA", "tests of fastlb", None)
    shown = subprocess.run(
        [sys.executable, "-m", "fastlb", "status", "--admin", f"unix:{lb.directory}/control"], capture_output=True, text=True, timeout=20
    )
    assert re.search(r"a\.pem +a\.example +ECDSA +\d{4}-\d\d-\d\d \d\d:\d\d UTC \(in 5 d\) +web", shown.stdout), shown


def test_clients_need_a_certificate_and_the_list_of_revoked_ones_is_read_again(fastlb, instant, site):
    site.issue("a", "a.example")
    put(site.directory / "clients.crl", ROOT.revoke())
    clients = {"mode": "required", "ca": str(site.authority), "crl": str(site.directory / "clients.crl")}
    lb = fastlb(site.text(instant(response(b"one")), "a", more={"client_certificates": clients}))
    good = ROOT.issue_client("alice", number=5)
    good.write(site.directory, "alice")
    context = ROOT.client_context()
    context.load_cert_chain(site.directory / "alice.pem", site.directory / "alice.key")
    with site.connect(lb, "a.example", context) as client:
        ask(client, b"one")
    with pytest.raises((ssl.SSLError, ConnectionError)), site.connect(lb, "a.example") as client:
        ask(client, b"one")
    put(site.directory / "clients.crl", ROOT.revoke(good))
    wait_for_renewal(lb)
    with pytest.raises((ssl.SSLError, ConnectionError)), site.connect(lb, "a.example", context) as client:
        ask(client, b"one")


def test_plain_clients_are_sent_to_https_and_answers_there_say_so(fastlb, instant, site):
    site.issue("a", "a.example")
    files = {"cert": str(site.directory / "a.pem"), "key": str(site.directory / "a.key")}
    listeners = [
        {"name": "plain", "redirect_https": True},
        {"name": "web", "hsts": {"max_age": "365d", "subdomains": True}, "tls": {"certificates": files}},
        {"name": "inner"},
    ]
    pools = {"main": {"backends": [instant(response(b"one"))]}}
    routes = [{"pool": "main"}, {"path": "/plain/", "listener": "plain", "pool": "main"}]
    lb = fastlb(configuration(listeners=listeners, pools=pools, routes=routes))
    answer = lb.get("/a?b=c", host="a.example:8080", bind=0)
    assert (answer.status, answer.all("location")) == (308, ["https://a.example/a?b=c"])
    assert lb.get("/plain/x", bind=0).status == 200
    assert lb.get("/a", bind=2).all("strict-transport-security") == []
    with ROOT.client_context().wrap_socket(
        socket.create_connection(("127.0.0.1", lb.port_of(1)), DEADLINE_SECONDS), server_hostname="a.example"
    ) as client:
        client.sendall(request("/a", host="a.example"))
        assert b"Strict-Transport-Security: max-age=31536000; includeSubDomains\r\n" in client.recv(65536)


def test_backends_are_verified_shown_our_certificate_and_told_a_clients_that_nobody_can_forge(fastlb, instant, site):
    site.issue("inner", "app.internal")
    ROOT.issue_client("edge", number=6).write(site.directory, "edge")
    fields = {"X-Subject": "{client_certificate_subject}", "X-Verify": "{client_certificate_verify}", "X-Scheme": "{scheme}"}
    clients = {"mode": "required", "ca": str(site.authority)}
    routes = [{"pool": "main", "response_headers": {"set": fields}}]
    inner = fastlb(site.text(instant(response(b"one")), "inner", more={"client_certificates": clients}, routes=routes))
    shown = {"ca": str(site.authority), "cert": str(site.directory / "edge.pem"), "key": str(site.directory / "edge.key")}
    address = f"127.0.0.1:{inner.port}"
    ways = {
        "right": {**shown, "server_name": "app.internal"},
        "wrong": shown,
        "none": {**shown, "server_name": "app.internal", "cert": "", "key": ""},
    }
    pools = {name: {"backends": [address], "tls": tls, "keepalive": {"max_idle": 0}} for name, tls in ways.items()}
    routes = [{"path": f"/{name}", "pool": name} for name in ways]
    edge = fastlb(configuration(pools=pools, routes=routes))
    answer = edge.get("/right", "X-Subject: CN=root")
    assert (answer.status, answer.body) == (200, b"one")
    assert [answer.get(name) for name in fields] == ["CN=edge", "SUCCESS", "https"]
    assert edge.get("/wrong").get("x-fastlb-reason") == "backend:tls_certificate"
    assert edge.get("/none").status == 502


def test_a_log_says_what_is_known_of_a_clients_tls(fastlb, instant, site):
    site.issue("a", "a.example")
    log = site.directory / "log"
    logged = {"to": str(log), "format": "{scheme} {tls_version} {tls_server_name} {tls_resumed} {client_certificate_verify} {status}"}
    certificates = {"cert": str(site.directory / "a.pem"), "key": str(site.directory / "a.key")}
    lb = fastlb([instant(response(b"one"))], listener={"tls": {"certificates": certificates}, "access_log": logged})
    with site.connect(lb, "a.example") as client:
        ask(client, b"one")
    wait_until(lambda: log.exists() and log.read_text(), "a line is written")
    assert log.read_text() == "https TLSv1.3 a.example no NONE 200\n"


@pytest.mark.long
def test_testssl_finds_nothing_above_low(fastlb, instant, site):
    """Protocols, ciphers, forward secrecy, preferences and known attacks; not the certificate, which is the test's own."""
    site.issue("a", "a.example")
    ROOT.issue("a.example", kind="rsa2048", number=1).write(site.directory, "rsa")
    lb = fastlb(site.text(instant(response(b"one")), "a", "rsa"))
    found = site.directory / "found.json"
    sections = ("--protocols", "--std", "--fs", "--server-preference", "--vulnerable")
    options = ("--quiet", "--color", "0", "--warnings", "off", "--ip", "127.0.0.1", "--sneaky", "--jsonfile", str(found), *sections)
    done = subprocess.run(
        ["testssl", *options, f"https://a.example:{lb.port}/"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1200
    )
    findings = {one["id"]: one for one in json.loads(found.read_text())}
    assert findings["TLS1_3"]["severity"] == "OK", done.stdout
    assert len(findings) > 30
    assert [one for one in findings.values() if one["severity"] not in ("OK", "INFO", "LOW")] == []
    lb.control = Control(lb.directory / "control")  # the one of before has been idle for too long
