"""Passive health, limits and panic of a pool in a configuration."""

import pytest

from fastlb.control_plane.config.errors import ConfigError
from fastlb.control_plane.config.loader import load_text
from fastlb.control_plane.config.passive_health import PassiveHealth
from fastlb.control_plane.config.schema import Config, PoolLimits

TEXT = """
listeners = [{ name = "web", bind = ":8080" }]
routes = [{ pool = "app" }]
[pools.app]
backends = ["10.0.0.1:80", "10.0.0.2:80"]
"""


def load(more: str) -> Config:
    loaded = load_text(TEXT + more, "f")
    assert loaded.warnings == ()
    return loaded.config


def error(more: str) -> str:
    with pytest.raises(ConfigError) as raised:
        load(more)
    return str(raised.value)


def test_all_of_it_is_off_unless_it_is_asked_for() -> None:
    (pool,) = load("").pools
    assert not pool.passive_health.is_on()
    assert pool.limits == PoolLimits(connections=0, pending=0, requests=0, retries=0)
    assert (pool.when_all_down, pool.panic_below) == ("refuse", 0.0)


def test_passive_health_is_on_by_either_rule() -> None:
    (pool,) = load("passive_health = { consecutive_failures = 5 }").pools
    assert pool.passive_health.is_on()
    assert pool.passive_health == PassiveHealth(consecutive_failures=5)
    (pool,) = load('passive_health = { error_ratio = 0.25, window = "1m", ejection = "30s", failures = "5xx" }').pools
    health = pool.passive_health
    assert health.is_on()
    assert (health.error_ratio, health.window_ms, health.ejection_ms, health.failures) == (0.25, 60_000, 30_000, ("5xx",))


def test_passive_health_that_ejects_nobody_is_refused() -> None:
    assert "passive_health does not say what ejects a backend" in error('passive_health = { ejection = "30s" }')
    assert not load('passive_health = { consecutive_failures = 0, ejection = "30s" }').pools[0].passive_health.is_on()


@pytest.mark.parametrize("times", ['ejection = "10m"', 'max_ejection = "5s"'])
def test_first_ejection_is_the_shortest(times: str) -> None:
    assert "is above max_ejection" in error(f"passive_health = {{ consecutive_failures = 5, {times} }}")


def test_limits_have_numbers() -> None:
    (pool,) = load("limits = { connections = 500, pending = 20, requests = 400, retries = 3 }").pools
    assert pool.limits == PoolLimits(connections=500, pending=20, requests=400, retries=3)


def test_share_for_panic_needs_panic() -> None:
    (pool,) = load('when_all_down = "panic"\npanic_below = 0.5').pools
    assert (pool.when_all_down, pool.panic_below) == ("panic", 0.5)
    assert "a pool that refuses when all are down does not panic before" in error("panic_below = 0.5")


@pytest.mark.parametrize(
    "more",
    [
        "passive_health = { consecutive_failures = -1 }",
        "passive_health = { error_ratio = 2 }",
        "passive_health = { consecutive_failures = 5, failures = [] }",
        'passive_health = { consecutive_failures = 5, failures = ["connect", "connect"] }',
        'passive_health = { consecutive_failures = 5, failures = ["418"] }',
        'passive_health = { consecutive_failures = 5, window = "0s" }',
        "limits = { requests = -1 }",
        "limits = { requests = 4_294_967_296 }",
        'when_all_down = "spread"',
        'when_all_down = "panic"\npanic_below = 1.1',
    ],
)
def test_what_is_out_of_range_is_refused(more: str) -> None:
    error(more)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("outlier_detection = { consecutive_5xx = 5 }", "passive_health"),
        ("passive_health = { max_fails = 5 }", "consecutive_failures"),
        ("limits = { max_pending_requests = 5 }", "pending"),
        ("circuit_breaker = { max_requests = 5 }", "limits"),
        ("panic_threshold = 0.5", "panic_below"),
    ],
)
def test_names_of_others_are_known(written: str, meant: str) -> None:
    assert meant in error(written)
