"""Fixtures for whole-process tests: real fastlb processes between clients and backends that the test plays."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest

from tests.support.backend import ScriptedBackend
from tests.support.closing import Closing
from tests.support.configuration import configuration
from tests.support.in_process import InProcess
from tests.support.loop_backend import LoopBackend
from tests.support.process import Fastlb
from tests.support.wire_table import applies, wires_of
from tests.support.wires import Wire

# How long an example takes is no property of the code where other processes share the machine.
hypothesis.settings.register_profile("fastlb", deadline=None)
hypothesis.settings.load_profile("fastlb")
FAILED = pytest.StashKey[bool]()
NO_PARAMETERS = SimpleNamespace(params={})
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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name in ("wire", "module_wire"):
        if name in metafunc.fixturenames:
            wires = wires_of(metafunc.module.__name__, metafunc.function.__qualname__)
            if len(wires) > 1:
                metafunc.parametrize(name, wires, scope="function" if name == "wire" else "module")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if not isinstance(item, pytest.Function) or applies(getattr(item, "callspec", NO_PARAMETERS).params)]


@pytest.fixture
def wire() -> Wire:
    """How clients and fastlb talk; where a test runs over several, each of them in turn."""
    return Wire.PLAIN


@pytest.fixture(scope="module")
def module_wire() -> Wire:
    """The same for processes that a whole file of tests shares."""
    return Wire.PLAIN


def keep_until_end(request: pytest.FixtureRequest) -> Iterator[Closing]:
    closing = Closing()
    yield closing
    closing.end(request.node.stash.get(FAILED, False))


closing = pytest.fixture(keep_until_end)
module_closing = pytest.fixture(keep_until_end, scope="module")


@pytest.fixture
def fastlb(closing: Closing, wire: Wire) -> Start:
    """Starts a process: `fastlb([backend], pool={...})` as tests.support.configuration says, or `fastlb(text)`.

    Over another wire than the plain one it is an engine in this process.

    When the test ends it is stopped, and whatever it leaked or complained about is an error.
    """
    return starter(closing, wire)


@pytest.fixture(scope="module")
def module_fastlb(module_closing: Closing, module_wire: Wire) -> Start:
    """The same for processes that a whole file of tests shares."""
    return starter(module_closing, module_wire)


def starter(closing: Closing, wire: Wire) -> Start:
    def start(backends: Any = (), /, **arguments: Any) -> Fastlb:
        options = {name: arguments.pop(name) for name in OPTIONS & arguments.keys()}
        text = backends if isinstance(backends, str) else configuration(backends, **arguments)
        process = Fastlb(text, **options) if wire is Wire.PLAIN else InProcess(text, wire, **options)
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
