"""What a pool says of backends that fail, of its limits and of panic, told to the writer of a snapshot image."""

from dataclasses import asdict

from fastlb import _core
from fastlb.control_plane.config.schema import Pool


def set_protection(writer: _core.SnapshotWriter, index: int, pool: Pool) -> None:
    """Compiles what of it the pool uses; nothing where it uses nothing."""
    health = pool.passive_health
    if health.is_on():
        writer.set_passive_health(
            index,
            counts=health.failures,
            failures_in_row=health.consecutive_failures,
            error_ratio=health.error_ratio,
            min_requests=health.min_requests,
            window_ms=health.window_ms,
            ejection_ms=health.ejection_ms,
            max_ejection_ms=health.max_ejection_ms,
            max_ejected=health.max_ejected,
        )
    limits = asdict(pool.limits)
    if any(limits.values()):
        writer.set_limits(index, **limits)
    if pool.when_all_down == "panic":
        writer.set_panic(index, below=pool.panic_below)
