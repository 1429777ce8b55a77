"""Heads, lines and header counts beyond the listener's limits."""

import pytest

from tests.conformance.conftest import Stage
from tests.support.backend import ScriptedBackend
from tests.support.message import request

HEAD, TARGET, HEADERS = 2048, 256, 10


@pytest.fixture(scope="module")
def stage(module_fastlb, module_closing):
    backend = ScriptedBackend()
    module_closing.backends.append(backend)
    lb = module_fastlb([backend], listener={"limits": {"head": f"{HEAD}B", "target": f"{TARGET}B", "headers": HEADERS}})
    return Stage(lb, backend)


def head_of(size):
    """A request head of exactly this size."""
    empty = request("/", "X: ")
    return request("/", "X: " + "x" * (size - len(empty)))


@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
class TestLimits:
    def test_target_of_exactly_the_limit_passes(self, stage, bytewise):
        stage.accepts(request("/" + "x" * (TARGET - 1)), bytewise=bytewise)

    def test_longer_target_is_refused(self, stage, bytewise):
        stage.refuses(request("/" + "x" * TARGET), 414, "client:target_too_long", bytewise=bytewise)

    def test_target_without_end_is_refused_before_it_ends(self, stage, bytewise):
        stage.refuses(b"GET /" + b"x" * TARGET, 414, "client:target_too_long", bytewise=bytewise)

    def test_head_of_exactly_the_limit_passes(self, stage, bytewise):
        stage.accepts(head_of(HEAD), bytewise=bytewise)

    def test_larger_head_is_refused(self, stage, bytewise):
        stage.refuses(head_of(HEAD + 1), 431, "client:head_too_large", bytewise=bytewise)

    def test_line_without_end_is_refused_before_it_ends(self, stage, bytewise):
        stage.refuses(b"GET / HTTP/1.1\r\nHost: test\r\nX: " + b"x" * HEAD, 431, "client:head_too_large", bytewise=bytewise)

    def test_name_without_end_is_refused_before_it_ends(self, stage, bytewise):
        stage.refuses(b"GET / HTTP/1.1\r\nHost: test\r\n" + b"x" * HEAD, 431, "client:head_too_large", bytewise=bytewise)

    def test_as_many_headers_as_the_limit_pass(self, stage, bytewise):
        stage.accepts(request("/", *["X: y"] * (HEADERS - 1)), bytewise=bytewise)

    def test_more_headers_are_refused(self, stage, bytewise):
        stage.refuses(request("/", *["X: y"] * HEADERS), 431, "client:head_too_large", bytewise=bytewise)

    def test_a_large_body_does_not_count_for_the_head(self, stage, bytewise):
        if not bytewise:
            stage.accepts(head_of(HEAD)[:-2].replace(b"X: " + b"x" * 100, b"X: ") + b"Content-Length: 9000\r\n\r\n" + b"x" * 9000)


def test_head_much_larger_than_every_buffer_is_refused_with_a_readable_answer(stage):
    stage.refuses(b"GET / HTTP/1.1\r\nHost: test\r\n" + b"X: " + b"x" * 300_000 + b"\r\n\r\n", 431, "client:head_too_large")


def test_limits_of_the_default_configuration(module_fastlb, module_closing):
    backend = ScriptedBackend()
    module_closing.backends.append(backend)
    stage = Stage(module_fastlb([backend]), backend)
    stage.accepts(request("/" + "x" * 8191))
    stage.refuses(request("/" + "x" * 8192), 414, "client:target_too_long")
    stage.accepts(head_of(32768))
    stage.refuses(head_of(32769), 431, "client:head_too_large")
    stage.accepts(request("/", *["X: y"] * 99))
    stage.refuses(request("/", *["X: y"] * 100), 431, "client:head_too_large")


def test_largest_limits_that_can_be_configured(module_fastlb, module_closing):
    backend = ScriptedBackend()
    module_closing.backends.append(backend)
    stage = Stage(module_fastlb([backend], listener={"limits": {"head": "60KiB", "target": "32KiB", "headers": 256}}), backend)
    stage.accepts(request("/" + "x" * 32767, *["X: y"] * 255))
    stage.accepts(head_of(61440))
    stage.refuses(head_of(61441), 431, "client:head_too_large")
