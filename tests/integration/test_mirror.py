"""A route that mirrors: real processes, a shadow that misbehaves, and counters that balance at the end."""

import signal

from tests.support.message import request, response


def mirroring(fastlb, backend, shadow, share=1.0, **options):
    pools = {"main": {"backends": [backend]}, "shadow": {"backends": [shadow]}}
    return fastlb(pools=pools, routes=[{"pool": "main", "mirror": {"pool": "shadow", "share": share}}], **options)


def test_both_get_the_request_and_the_client_the_answer_of_one(fastlb, backend, scripted):
    shadow = scripted()
    lb = mirroring(fastlb, backend, shadow)
    client = lb.connect()
    client.send(request("/x?y", "X-A: b", method="POST", body=b"hello"))
    main, copy = backend.accept(), shadow.accept()
    received, mirrored = main.read_request(), copy.read_request()
    assert mirrored.body == received.body == b"hello"
    assert mirrored.fields == received.fields
    assert mirrored.start == received.start
    copy.send(response(body=b"nobody reads this"))
    main.send(response(body=b"the answer"))
    assert client.read_response().body == b"the answer"
    lb.wait_for(lambda counters: counters["mirrors_closed"] == 1, "the mirror has ended")


def test_a_shadow_that_is_down_costs_no_request(fastlb, instant, scripted):
    shadow = scripted()
    address = shadow.address
    shadow.close()
    lb = mirroring(fastlb, instant(), address)
    for _ in range(50):
        assert lb.get().status == 200
    counters = lb.wait_for(lambda counters: counters["mirrors_closed"] == 50, "the mirrors have ended")
    assert counters["mirrors_failed"] == 50


def test_a_shadow_that_resets_costs_no_request(fastlb, instant, scripted):
    shadow = scripted()
    lb = mirroring(fastlb, instant(), shadow)
    for _ in range(5):
        assert lb.get().status == 200
        peer = shadow.accept()
        peer.read_request()
        peer.reset()
    counters = lb.wait_for(lambda counters: counters["mirrors_closed"] == 5, "the mirrors have ended")
    assert counters["mirrors_failed"] == 5


def test_stopping_does_not_wait_for_a_shadow(fastlb, instant, scripted):
    shadow = scripted()
    lb = mirroring(fastlb, instant(), shadow, settings={"drain_timeout": "1h"})
    assert lb.get().status == 200
    shadow.accept().read_request()
    lb.signal(signal.SIGTERM)
    lb.wait_exit()
