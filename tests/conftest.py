"""Fixtures for whole-process tests: real fastlb processes between clients and backends that the test plays."""

from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest

from tests.support.backend import ScriptedBackend
from tests.support.closing import Closing
from tests.support.configuration import configuration
from tests.support.loop_backend import LoopBackend
from tests.support.process import Fastlb

# How long an example takes is no property of the code where other processes share the machine.
hypothesis.settings.register_profile("fastlb", deadline=None)
hypothesis.settings.load_profile("fastlb")
FAILED = pytest.StashKey[bool]()
Start = Callable[..., Fastlb]
# What a test says about the process; the rest is its configuration.
OPTIONS = Fastlb.__init__.__kwdefaults__.keys()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report: pytest.TestReport = yield  # type: ignore[assignment]
    if report.failed:
        for node in item.iter_parents():
            node.stash[FAILED] = True
    return report  # type: ignore[return-value]


def keep_until_end(request: pytest.FixtureRequest) -> Iterator[Closing]:
    closing = Closing()
    yield closing
    closing.end(request.node.stash.get(FAILED, False))


closing = pytest.fixture(keep_until_end)
module_closing = pytest.fixture(keep_until_end, scope="module")


@pytest.fixture
def fastlb(closing: Closing) -> Start:
    """Starts a process: `fastlb([backend], pool={...})` as tests.support.configuration says, or `fastlb(text)`.

    When the test ends it is stopped, and whatever it leaked or complained about is an error.
    """
    return starter(closing)


@pytest.fixture(scope="module")
def module_fastlb(module_closing: Closing) -> Start:
    """The same for processes that a whole file of tests shares."""
    return starter(module_closing)


def starter(closing: Closing) -> Start:
    def start(backends: Any = (), /, **arguments: Any) -> Fastlb:
        options = {name: arguments.pop(name) for name in OPTIONS & arguments.keys()}
        text = backends if isinstance(backends, str) else configuration(backends, **arguments)
        process = Fastlb(text, **options)
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
def instant(closing: Closing) -> Callable[..., LoopBackend]:
    """Makes backends that answer at once."""

    def make(*arguments: Any) -> LoopBackend:
        made = LoopBackend(*arguments)
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
