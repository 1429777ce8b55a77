"""The queue of a pool and the priority of a route in a configuration."""

import pytest

from fastlb.control_plane.config.errors import ConfigError
from fastlb.control_plane.config.loader import load_text
from fastlb.control_plane.config.schema import Queue

TEXT = """
listeners = [{ name = "web", bind = ":8080" }]
[[routes]]
pool = "app"
ROUTE
[pools.app]
backends = [{ address = "10.0.0.1:80", max_connections = 5 }, BACKEND]
QUEUE
"""
CAPPED = '{ address = "10.0.0.2:80", max_connections = 1 }'


def text(*, route: str = "", backend: str = CAPPED, queue: str = "") -> str:
    return TEXT.replace("ROUTE", route).replace("BACKEND", backend).replace("QUEUE", queue)


def test_there_is_no_queue_unless_one_is_asked_for() -> None:
    config = load_text(text(), "f").config
    assert config.pools[0].queue == Queue(max=0, timeout_ms=5000)
    assert config.routes[0].priority == 4


def test_a_queue_has_room_and_a_time_out() -> None:
    loaded = load_text(text(queue='queue = { max = 20, timeout = "250ms" }', route="priority = 0"), "f")
    assert loaded.config.pools[0].queue == Queue(max=20, timeout_ms=250)
    assert loaded.config.routes[0].priority == 0
    assert loaded.warnings == ()


def test_a_queue_for_a_pool_that_is_never_full_is_a_warning() -> None:
    (warning,) = load_text(text(queue="queue = { max = 20 }", backend='"10.0.0.2:80"'), "f").warnings
    assert "nobody ever waits" in str(warning)


@pytest.mark.parametrize(
    ("route", "queue"), [("priority = 8", ""), ("priority = -1", ""), ("", "queue = { max = 1_000_001 }"), ("", "queue = 5")]
)
def test_what_is_out_of_range_is_refused(route: str, queue: str) -> None:
    with pytest.raises(ConfigError):
        load_text(text(route=route, queue=queue), "f")
