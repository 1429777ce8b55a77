"""/metrics, /healthz and /readyz of the admin API."""

import asyncio
import threading
from typing import Any

import pytest

from fastlb.control_plane.admin import metrics
from fastlb.control_plane.admin.metrics import wants_openmetrics, why_not_ready
from fastlb.control_plane.metrics.exposition import OPENMETRICS_TYPE, TEXT_TYPE
from fastlb.processes.messages import ProcessState
from tests.support.waiting import DEADLINE_SECONDS


class Labels:
    def labels(self) -> dict[int, tuple[str, str]]:
        return {}


class NoCertificates:
    def list_kept(self) -> list[Any]:
        return []


class NothingAutomatic:
    def describe(self) -> dict[str, list[dict[str, Any]]]:
        return {"acme": [], "ocsp": []}


class PlayedController:
    """What the routes need of a controller."""

    shared = None
    generation = 1
    meters = Labels()
    tls = NoCertificates()
    automation = NothingAutomatic()

    def __init__(self, *states: str) -> None:
        workers = tuple(ProcessState("worker", slot, 1, state, 0) for slot, state in enumerate(states))
        self.processes = (ProcessState("supervisor", 0, 1, "ready", 0), *workers)


async def ask(controller: Any, path: str, accept: str = "") -> tuple[int, str, bytes]:
    """The status, kind and content of an answer."""
    (route,) = (route for route in metrics.routes(controller) if route.path == path)
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": [(b"accept", accept.encode())]}
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    await route.app(scope, receive, send)
    headers = dict(sent[0]["headers"])
    return sent[0]["status"], headers[b"content-type"].decode(), b"".join(message.get("body", b"") for message in sent[1:])


# ---------------------------------------------------------------------------------------------------------- readiness
@pytest.mark.parametrize(
    ("states", "reason"),
    [
        (("ready",), ""),
        (("ready", "waiting"), ""),
        (("draining", "ready"), ""),  # fewer workers than before
        (("waiting", "blank"), "no worker is ready"),
        ((), "no worker is ready"),
        (("draining", "draining"), "fastlb drains"),
    ],
)
def test_ready_is_who_has_a_ready_worker(states: tuple[str, ...], reason: str) -> None:
    controller: Any = PlayedController(*states)
    assert why_not_ready(controller) == reason
    status, _, content = asyncio.run(ask(controller, "/readyz"))
    assert status == (503 if reason else 200)
    assert (reason or "ready").encode() in content


def test_nobody_is_ready_before_the_first_snapshot() -> None:
    controller: Any = PlayedController("ready")
    controller.generation = 0
    assert why_not_ready(controller) == "no snapshot is in force yet"


def test_controller_that_answers_is_healthy() -> None:
    assert asyncio.run(ask(PlayedController(), "/healthz"))[::2] == (200, b"ok\n")


# ---------------------------------------------------------------------------------------------------------- the format
@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text; version=1.0.0, text/plain", True),
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1", True),  # Prometheus 2
        ("application/openmetrics-text;q=0.2,text/plain;q=0.3", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;version=2.0.0", False),
        ("application/openmetrics-text;q=much", False),
        (";;,=,;q", False),
    ],
)
def test_format_is_what_accept_prefers(accept: str, openmetrics: bool) -> None:
    assert wants_openmetrics(accept) == openmetrics


@pytest.mark.parametrize(("accept", "kind"), [("", TEXT_TYPE), ("application/openmetrics-text", OPENMETRICS_TYPE)])
def test_page_says_what_it_is(monkeypatch: pytest.MonkeyPatch, accept: str, kind: str) -> None:
    monkeypatch.setattr(metrics, "render", lambda *arguments: b"page")
    assert asyncio.run(ask(PlayedController(), "/metrics", accept)) == (200, kind, b"page")


# ---------------------------------------------------------------------------------------------------------- the loop
def test_loop_goes_on_while_a_page_is_made_and_one_is_made_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page is not finished before the loop says so: made on the loop, this would hang."""
    loop_went_on = threading.Event()
    running, most = 0, 0

    def render(*arguments: object) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        assert loop_went_on.wait(DEADLINE_SECONDS)
        running -= 1
        return b"page"

    monkeypatch.setattr(metrics, "render", render)

    async def scrape_three_times() -> None:
        controller: Any = PlayedController()
        app = metrics.routes(controller)
        monkeypatch.setattr(metrics, "routes", lambda controller: app)
        scrapes = [asyncio.create_task(ask(controller, "/metrics")) for _ in range(3)]
        while not running:
            await asyncio.sleep(0)
        loop_went_on.set()
        assert [content for _, _, content in await asyncio.gather(*scrapes)] == [b"page"] * 3

    asyncio.run(scrape_three_times())
    assert most == 1
