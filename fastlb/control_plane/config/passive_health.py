"""What a pool's `passive_health` table may say: when a backend that fails its requests is ejected, and for how long."""

from dataclasses import dataclass

from fastlb.control_plane.config.kind import Choice, Count, ListOf, Share, duration
from fastlb.control_plane.config.option import option
from fastlb.control_plane.config.quantity import format_duration
from fastlb.control_plane.config.reader import Reader

_FAILURES = ("connect", "closed", "reset", "timeout", "bad_response", "403", "404", "429", "500", "502", "503", "504", "5xx")


@dataclass(frozen=True, slots=True, kw_only=True)
class PassiveHealth:
    """When live traffic says that a backend is not well. Off where nothing ejects."""

    consecutive_failures: int = option(
        "consecutive_failures", Count(1, 1_000_000, "off"), 0, ("max_fails", "consecutive_5xx", "consecutive_errors", "error-limit")
    )
    error_ratio: float = option("error_ratio", Share(), 0.0, ("failure_ratio", "failure_percentage_threshold", "error_rate"))
    min_requests: int = option("min_requests", Count(1, 1_000_000), 20, ("request_volume", "failure_percentage_request_volume"))
    window_ms: int = option("window", duration("100ms", "1h"), "10s", ("interval",))
    ejection_ms: int = option("ejection", duration("10ms", "1d"), "10s", ("ejection_time", "base_ejection_time", "fail_timeout"))
    max_ejection_ms: int = option("max_ejection", duration("10ms", "1d"), "5m", ("max_ejection_time",))
    max_ejected: float = option("max_ejected", Share(), 0.1, ("max_ejection_percent", "max_ejected_share"))
    failures: tuple[str, ...] = option(
        "failures",
        ListOf(Choice(_FAILURES), least=1, identity=lambda word: word),
        ["connect", "closed", "reset", "timeout", "bad_response", "502", "503", "504"],
        ("on", "counts", "observe"),
    )

    def is_on(self) -> bool:
        return self.consecutive_failures != 0 or self.error_ratio != 0


def check_passive_health(reader: Reader) -> None:
    """What each table says as a whole."""
    for path, health in reader.all_read(PassiveHealth):
        written = reader.source.values["pools"][path[1]]["passive_health"]
        if not health.is_on() and not written.keys() & {"consecutive_failures", "error_ratio"}:
            right = "say consecutive_failures = 5, or error_ratio = 0.5, or both"
            reader.reject_key(path, "passive_health does not say what ejects a backend", right)
        if health.max_ejection_ms < health.ejection_ms:
            key = "max_ejection" if "max_ejection" in written else "ejection"
            found = f"ejection, {format_duration(health.ejection_ms)}, is above max_ejection, {format_duration(health.max_ejection_ms)}"
            reader.reject((*path, key), found, "the first one is the shortest")
