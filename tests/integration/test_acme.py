"""Certificates that fastlb gets from a CA by itself, and OCSP responses that it staples: real processes, Pebble and `openssl ocsp`."""

import contextlib
import os
import re
import socket
import ssl
import subprocess

from cryptography import x509

from tests.support.configuration import configuration
from tests.support.message import request, response
from tests.support.ocsp_authority import Authority, Responder
from tests.support.pebble import Pebble
from tests.support.peer import Peer
from tests.support.waiting import DEADLINE_SECONDS, wait_until

OVER_HTTP, OVER_TLS, BY_HAND = "http.example.com", "tls.example.com", "files.example.com"


def shake_hands(port, name):
    """A connection, and the certificate that was shown to it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = socket.create_connection(("127.0.0.1", port), DEADLINE_SECONDS)
    wrapped = context.wrap_socket(connection, server_hostname=name)
    return wrapped, x509.load_der_x509_certificate(wrapped.getpeercert(binary_form=True))


def issuer_of(port, name):
    wrapped, certificate = shake_hands(port, name)
    wrapped.close()
    assert certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName) == [name]
    return certificate.issuer.rfc4514_string()


def status_of(lb):
    return lb.control.request("GET", "/v1/status")[1]


def stapled(port, name):
    """What `openssl s_client` says of the staple."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", name, "-status"]
    return subprocess.run(command, input="", capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False).stdout


def test_certificates_are_issued_and_stapled_under_open_connections(fastlb, instant, tmp_path):
    backend = instant(response(b"hello"))
    authority = Authority(tmp_path)
    authority.write_index()
    state = tmp_path / "state"
    listeners = [{"name": "web"}, {"name": "secure"}]
    lb = fastlb([backend], listeners=listeners, settings={"state_dir": str(state)})
    http_port, tls_port = lb.port_of(0), lb.port_of(1)
    with contextlib.ExitStack() as stack:
        pebble = Pebble(tmp_path / "pebble", [OVER_HTTP, OVER_TLS], http_port=http_port, tls_port=tls_port, bad_nonces=30)
        stack.callback(pebble.close)
        responder = Responder(authority)
        stack.callback(responder.close)
        issued = authority.issue(BY_HAND, responder=responder.url)
        (tmp_path / "files.pem").touch(0o600)
        (tmp_path / "files.pem").write_bytes(issued.chain + issued.key_pem)
        acme = {"directory": pebble.directory, "ca": str(pebble.ca)}
        tls = {
            "certificates": str(tmp_path / "files.pem"),
            "acme": [{**acme, "domains": [OVER_HTTP]}, {**acme, "domains": [OVER_TLS], "challenge": "tls-alpn-01"}],
        }
        wanted = [{**listeners[0], "redirect_https": True}, {**listeners[1], "tls": tls}]
        lb.reload_ok(configuration([backend], listeners=wanted, settings={"state_dir": str(state)}))

        # Until the CA has answered there is a placeholder; a connection that stays open meanwhile stays as it is.
        wrapped, _ = shake_hands(tls_port, OVER_HTTP)
        client = Peer(wrapped)
        assert client.ask(request()).body == b"hello"
        for name in (OVER_HTTP, OVER_TLS):
            wait_until(lambda name=name: "Pebble Intermediate CA" in issuer_of(tls_port, name), f"{name} has a certificate of the CA", 60)
        assert issuer_of(tls_port, BY_HAND) == "CN=an authority of tests"
        assert client.ask(request()).body == b"hello"
        looked_at = re.search(r"(/\.well-known/acme-challenge/\S+)", "".join(pebble.lines))
        assert looked_at is not None  # and answered, though everything else there leads to HTTPS
        wait_until(lambda: lb.get(looked_at[1], host=OVER_HTTP).status == 308, "the challenge is gone")

        client.close()

        # A staple of a real responder, as a real client sees it.
        wait_until(lambda: "OCSP Response Status: successful" in stapled(tls_port, BY_HAND), "there is a staple")
        assert "Cert Status: good" in stapled(tls_port, BY_HAND)
        assert "OCSP response: no response sent" in stapled(tls_port, OVER_HTTP)

        shown = status_of(lb)
        assert [one["domains"] for one in shown["acme"]] == [[OVER_HTTP], [OVER_TLS]]
        assert not any(one["placeholder"] for one in shown["acme"])
        by_name = {one["certificate"]: one for one in shown["ocsp"]}
        assert by_name[str(tmp_path / "files.pem")]["stapled"]
        _, _, page = lb.control.read("/metrics")
        assert f'fastlb_ocsp_expiry_seconds{{certificate="{tmp_path}/files.pem"}} '.encode() in page
        assert f'fastlb_acme_placeholder{{certificate="acme:{OVER_TLS}"}} 0'.encode() in page
        readable = [path for path in state.rglob("*") if path.stat().st_mode & 0o077]
        assert readable == []

        # The controller dies: the next one goes on with what is on the disk.
        accounts = pebble.said("There are now . accounts")
        (pid,) = [row["pid"] for row in lb.processes() if row["role"] == "controller"]
        os.kill(pid, 9)
        lb.reconnect()
        wait_until(lambda: status_of(lb)["acme"] and not any(one["placeholder"] for one in status_of(lb)["acme"]), "it knows them again")
        assert "Pebble Intermediate CA" in issuer_of(tls_port, OVER_HTTP)
        assert pebble.said("There are now . accounts") == accounts


def test_a_certificate_is_renewed_before_its_end_and_no_connection_is_lost(fastlb, instant, tmp_path):
    backend = instant(response(b"hello"))
    listeners = [{"name": "web"}, {"name": "secure"}]
    settings = {"state_dir": str(tmp_path / "state")}
    lb = fastlb([backend], listeners=listeners, settings=settings)
    tls_port = lb.port_of(1)
    with contextlib.ExitStack() as stack:
        pebble = Pebble(tmp_path / "pebble", [OVER_HTTP], http_port=lb.port_of(0), seconds=5)
        stack.callback(pebble.close)
        acme = {"directory": pebble.directory, "ca": str(pebble.ca), "domains": [OVER_HTTP]}
        lb.reload_ok(configuration([backend], listeners=[listeners[0], {**listeners[1], "tls": {"acme": [acme]}}], settings=settings))
        clients, serials = [], []

        def meets_another(issuer):
            wrapped, certificate = shake_hands(tls_port, OVER_HTTP)
            clients.append(Peer(wrapped))
            if issuer not in certificate.issuer.rfc4514_string() or certificate.serial_number in serials:
                clients.pop().close()
                return False
            serials.append(certificate.serial_number)
            assert clients[-1].ask(request()).body == b"hello"
            return True

        assert meets_another("")  # the placeholder
        for n in (1, 2):  # the first one and, at two thirds of its life, the next one
            wait_until(lambda n=n: lb.messages().count("there is a new one") >= n, "there is a new one", 60)
            wait_until(lambda: meets_another("Pebble Intermediate CA"), "every worker has it")
        for client in clients:
            assert client.ask(request()).body == b"hello"
            client.close()
        (shown,) = status_of(lb)["acme"]
        assert (shown["placeholder"], shown["error"]) == (False, "")
