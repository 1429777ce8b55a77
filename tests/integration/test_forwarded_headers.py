"""X-Forwarded-For, -Proto and -Host: written anew, or appended to where the client's network is trusted."""

from tests.support.configuration import configuration
from tests.support.message import request

CLAIMS = ["X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil.example"]


def received_fields(lb, backend, *fields, bind=0, **options):
    client = lb.connect(bind)
    client.send(request("/", *fields, **options))
    if not backend.peers:
        backend.accept()
    connection = backend.peers[-1]
    received = connection.read_request()
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert client.read_response().status == 200
    return received


def test_backend_is_told_who_asked_and_how(fastlb, backend):
    received = received_fields(lb := fastlb([backend]), backend, host="shop.example:8080")
    assert received.get("X-Forwarded-For") == "127.0.0.1"
    assert received.get("X-Forwarded-Proto") == lb.scheme
    assert received.get("X-Forwarded-Host") == "shop.example:8080"


def test_claims_of_a_client_that_is_not_trusted_are_replaced(fastlb, backend):
    claims = [claim.replace("https", "ftp") for claim in CLAIMS]
    received = received_fields(lb := fastlb([backend]), backend, *claims, *claims)
    assert received.get("X-Forwarded-For") == "127.0.0.1"
    assert received.get("X-Forwarded-Proto") == lb.scheme
    assert received.get("X-Forwarded-Host") == "test"


def test_claims_from_a_trusted_network_are_kept_and_added_to(fastlb, backend):
    lb = fastlb([backend], settings={"trusted_networks": ["10.0.0.0/8", "127.0.0.0/8"]})
    received = received_fields(lb, backend, *CLAIMS, "X-Forwarded-For: 5.6.7.8, 9.9.9.9")
    assert received.get("X-Forwarded-For") == "1.2.3.4, 5.6.7.8, 9.9.9.9, 127.0.0.1"
    assert received.get("X-Forwarded-Proto") == "https"
    assert received.get("X-Forwarded-Host") == "evil.example"
    received = received_fields(lb, backend)
    assert received.get("X-Forwarded-For") == "127.0.0.1"
    assert received.get("X-Forwarded-Proto") == lb.scheme


def test_other_networks_are_not_trusted(fastlb, backend):
    lb = fastlb([backend], settings={"trusted_networks": ["10.0.0.0/8", "127.0.0.2/32", "::/0"]})
    assert received_fields(lb, backend, *CLAIMS).get("X-Forwarded-For") == "127.0.0.1"


def test_ipv6_clients_are_named_and_trusted_by_their_networks(fastlb, backend):
    lb = fastlb([backend], listener={"bind": "[::1]:0"}, settings={"trusted_networks": ["::1/128"]})
    assert received_fields(lb, backend, *CLAIMS).get("X-Forwarded-For") == "1.2.3.4, ::1"


def test_trust_follows_the_configuration_on_open_connections(fastlb, backend):
    lb = fastlb([backend])
    client = lb.connect()
    seen = []
    for networks in ([], ["127.0.0.1/32"], []):
        lb.apply_ok(configuration([backend], settings={"trusted_networks": networks}))
        client.send(request("/", *CLAIMS))
        connection = backend.peers[0] if backend.peers else backend.accept()
        seen.append(connection.read_request().get("X-Forwarded-For"))
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        client.read_response()
    assert seen == ["127.0.0.1", "1.2.3.4, 127.0.0.1", "127.0.0.1"]


def test_they_can_be_turned_off_and_then_pass_as_they_came(fastlb, backend):
    received = received_fields(fastlb([backend], settings={"forwarded_headers": False}), backend, *CLAIMS)
    assert received.get("X-Forwarded-For") == "1.2.3.4"
    assert received.get("X-Forwarded-Host") == "evil.example"


def test_request_without_host_is_forwarded_with_an_empty_claim(fastlb, backend):
    received = received_fields(fastlb([backend]), backend, host=None, version="1.0")
    assert not received.get("X-Forwarded-Host")
