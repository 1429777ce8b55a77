"""Fixtures for whole-process tests: real fastlb processes between clients and backends that the test plays."""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.backend import InstantBackend, ScriptedBackend
from tests.support.configuration import configuration
from tests.support.process import Fastlb

FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report: pytest.TestReport = yield  # type: ignore[misc, assignment]
    if report.failed:
        item.stash[FAILED] = True
    return report  # type: ignore[return-value]


class Closing:
    """What a test opened, closed in the opposite order when it ends; backends before fastlb looks whether it is at rest."""

    def __init__(self) -> None:
        self.processes: list[Fastlb] = []
        self.backends: list[Any] = []

    def end(self, failed: bool) -> None:
        try:
            # Scripted connections end first: what waits for their answer then gets none.
            for process in self.processes:
                for peer in process.peers:
                    peer.close()
            for backend in self.backends:
                backend.end_connections()
            if not failed:
                for process in self.processes:
                    process.stop()
        finally:
            for process in self.processes:
                messages = process.messages()
                process.kill()
                if messages:
                    print(f"standard error of fastlb {process.pid}:\n{messages}", file=sys.stderr)
            for backend in self.backends:
                backend.close()


def _closing(request: pytest.FixtureRequest) -> Iterator[Closing]:
    closing = Closing()
    yield closing
    closing.end(request.node.stash.get(FAILED, False))


closing = pytest.fixture(_closing)

StartFastlb = Callable[..., Fastlb]


@pytest.fixture
def fastlb(closing: Closing) -> StartFastlb:
    """Starts a process: `fastlb([backend], pool={...})` as tests.support.configuration says, or `fastlb(text)`.

    When the test ends it is stopped, and whatever it leaked or complained about is an error.
    """

    def start(backends: Any = (), /, *, descriptors: int = 0, **arguments: Any) -> Fastlb:
        text = backends if isinstance(backends, str) else configuration(backends, **arguments)
        process = Fastlb(text, descriptors=descriptors)
        closing.processes.append(process)
        return process

    return start


@pytest.fixture
def backend(closing: Closing) -> ScriptedBackend:
    """A backend that the test plays."""
    made = ScriptedBackend()
    closing.backends.append(made)
    return made


@pytest.fixture
def scripted(closing: Closing) -> Callable[..., ScriptedBackend]:
    """Makes further backends that the test plays."""

    def make(*arguments: Any) -> ScriptedBackend:
        made = ScriptedBackend(*arguments)
        closing.backends.append(made)
        return made

    return make


@pytest.fixture
def keep(closing: Closing) -> Callable[[Any], Any]:
    """Closes a backend of another kind when the test ends, and returns it."""

    def note(made: Any) -> Any:
        closing.backends.append(made)
        return made

    return note


@pytest.fixture
def instant(closing: Closing) -> Callable[..., InstantBackend]:
    """Makes backends that answer at once."""

    def make(*arguments: Any) -> InstantBackend:
        made = InstantBackend(*arguments)
        closing.backends.append(made)
        return made

    return make
