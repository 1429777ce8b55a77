"""One process for all the cases of a file."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.support.backend import ScriptedBackend
from tests.support.closing import Closing
from tests.support.message import request, response
from tests.support.process import Fastlb


@dataclass
class Stage:
    """A process with one backend, which the test plays."""

    lb: Fastlb
    backend: ScriptedBackend

    def refuses(self, data: bytes, status: int, reason: str, *, bytewise: bool = False) -> None:
        """`data` gets this answer and nothing else, the connection closes, and the backend sees none of it."""
        before = self.lb.reasons()
        client = self.lb.connect()
        if bytewise:
            client.send_bytewise(data)
        else:
            client.send(data)
        answer = client.read_response()
        assert (answer.status, answer.reason, answer.closes) == (status, reason, True)
        client.expect_end()
        client.close()
        assert self.backend.saw_nothing()
        counted = self.lb.reasons()
        assert counted == {**before, reason: before.get(reason, 0) + 1}

    def accepts(self, data: bytes, *, bytewise: bool = False) -> bytes:
        """`data` is one request and is answered by the backend. Returns the head that the backend got."""
        client = self.lb.connect()
        if bytewise:
            client.send_bytewise(data)
        else:
            client.send(data)
        connection, received = self.backend.answer(response(b"ok", "Connection: close"))
        answer = client.read_response()
        assert (answer.status, answer.body) == (200, b"ok")
        client.send(request("/next", "Connection: close"))
        connection, following = self.backend.answer(response(b"next", "Connection: close"))
        assert following.target == "/next"
        assert client.read_response().body == b"next"
        client.close()
        connection.close()
        return received.head


@pytest.fixture(scope="module")
def stage(module_fastlb: Callable[..., Fastlb], module_closing: Closing) -> Stage:
    backend = ScriptedBackend()
    module_closing.backends.append(backend)
    return Stage(module_fastlb([backend]), backend)
