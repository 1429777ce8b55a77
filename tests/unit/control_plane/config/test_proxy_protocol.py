"""fastlb/control_plane/config/proxy_protocol.py: from whom a listener takes headers, and what a pool tells its backends."""

import ipaddress
import os

import pytest

from fastlb.control_plane.config.proxy_protocol import ProxyProtocol
from fastlb.control_plane.snapshot import build_image
from tests.support import images, proxy_header
from tests.support.configuration import configuration
from tests.unit.control_plane.config.test_loader import errors, load

BACKENDS = ["10.0.0.1:8080"]


def listener(value: object, **more: object) -> str:
    return configuration(BACKENDS, listener={"proxy_protocol": value, **more})


def read(value: object, **more: object) -> ProxyProtocol:
    return load(listener(value, **more)).listeners[0].proxy_protocol


def test_it_is_off_unless_somebody_sends_headers() -> None:
    assert not load(configuration(BACKENDS)).listeners[0].proxy_protocol.is_on
    assert not read([]).is_on


@pytest.mark.parametrize("value", ["10.0.0.0/8", ["10.0.0.0/8"], {"from": "10.0.0.0/8"}])
def test_senders_alone_are_enough(value: object) -> None:
    proxy = read(value)
    assert proxy.senders == (ipaddress.ip_network("10.0.0.0/8"),)
    assert (proxy.timeout_ms, proxy.is_on, proxy.is_required) == (3000, True, True)


def test_others_may_be_let_in_and_unix_sockets_have_a_word() -> None:
    proxy = read({"from": ["::1", "unix:"], "others": "plain", "timeout": "500ms"})
    assert proxy.senders == (ipaddress.ip_network("::1/128"), "unix:")
    assert (proxy.timeout_ms, proxy.is_on, proxy.is_required) == (500, True, False)


def test_flag_alone_is_refused_with_what_is_to_be_said() -> None:
    (error,) = errors(listener(True))
    assert "found true" in error and 'proxy_protocol = { from = ["10.0.0.0/8"] }' in error
    (error,) = errors(listener({"timeout": "1s"}))
    assert "does not say who sends headers" in error


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"from": ["10.0.0.0/33"]}, "10.0.0.0/33"),
        ({"from": ["unix:/run/x"]}, "unix:/run/x"),
        ({"from": ["10.0.0.0/8", "10.0.0.0/8"]}, "a second time"),
        ({"from": "10.0.0.0/8", "timeout": "2m"}, "60s"),
        ({"from": "10.0.0.0/8", "others": "reject"}, 'did you mean "refuse"?'),
        ({"from": "10.0.0.0/8", "networks": []}, "networks"),
    ],
)
def test_mistakes_are_said(value: object, said: str) -> None:
    (error,) = errors(listener(value))
    assert said in error


def test_senders_speak_first_so_the_kernel_may_wait_for_them() -> None:
    tcp = {"protocol": "tcp", "pool": "main"}
    assert load(listener("10.0.0.0/8", **tcp)).listeners[0].defers_accept()
    assert not load(listener({"from": "10.0.0.0/8", "others": "plain"}, **tcp)).listeners[0].defers_accept()
    assert not load(configuration(BACKENDS, listener=tcp)).listeners[0].defers_accept()


# ---------------------------------------------------------------------------------------------------- pools
def pool(value: object, **more: object) -> str:
    return configuration(BACKENDS, pool={"proxy_protocol": value, **more})


def test_pool_tells_its_backends_what_it_is_to_tell() -> None:
    assert not load(configuration(BACKENDS)).pools[0].proxy_protocol.is_on
    header = load(pool("v1")).pools[0].proxy_protocol
    assert (header.version, header.tlvs, header.of_probes) == ("v1", (), b"PROXY UNKNOWN\r\n")
    header = load(pool({"version": "v2", "tlvs": ["tls", "crc32c"]})).pools[0].proxy_protocol
    assert (header.version, header.tlvs) == ("v2", ("tls", "crc32c"))
    assert header.of_probes == proxy_header.local()


@pytest.mark.parametrize(
    ("value", "more", "said"),
    [
        ("v3", {}, '"v3"'),
        ("send-proxy-v2", {}, 'did you mean "v2"?'),
        ({"version": "v1", "tlvs": "tls"}, {}, "only version 2 tells more"),
        ({"tlvs": "tls"}, {}, "only version 2 tells more"),
        ({"version": "v2", "tlvs": "ssl"}, {}, 'did you mean "tls"?'),
        ("v2", {"protocol": "http2"}, "connections of HTTP/2 have many"),
        ("v2", {"keepalive": {"max_idle": 5}}, "are not kept"),
    ],
)
def test_pools_cannot_do_what_makes_no_sense(value: object, more: dict[str, object], said: str) -> None:
    (error,) = errors(pool(value, **more))
    assert said in error


def test_image_of_a_pool_with_headers_is_taken() -> None:
    config = load(pool({"version": "v2", "tlvs": ["alpn", "authority", "unique_id", "tls", "crc32c"]}))
    image = build_image(config, {}, 1)
    try:
        images.load(os.pread(image, os.fstat(image).st_size, 0))
    finally:
        os.close(image)
