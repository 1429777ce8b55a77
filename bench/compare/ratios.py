"""From slots to figures: per round the sum of a proxy's slots, ratios within a round, medians and spread over rounds."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Spread:
    median: float
    low: float  # smallest round
    high: float  # largest round

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(median(values), min(values), max(values))


def cpu_per_request(slots: Iterable[Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    """CPU microseconds per request: proxy -> round -> value."""
    cpu: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    requests: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for slot in slots:
        cpu[slot["proxy"]][slot["round"]] += slot["cpu_us"]
        requests[slot["proxy"]][slot["round"]] += slot["requests"]
    return {proxy: {number: cpu[proxy][number] / requests[proxy][number] for number in rounds} for proxy, rounds in cpu.items()}


def ratio_per_round(per_request: Mapping[str, Mapping[int, float]], proxy: str, to: str) -> Spread | None:
    """Ratio of two proxies, each round by itself. None when either did not run."""
    if proxy not in per_request or to not in per_request:
        return None
    return Spread.of([value / per_request[to][number] for number, value in per_request[proxy].items()])


def median_of(slots: Iterable[Mapping[str, Any]], proxy: str, field: str) -> float:
    values: list[float] = [slot[field] for slot in slots if slot["proxy"] == proxy]
    return median(values)


def share_of_window(slots: Sequence[Mapping[str, Any]], fields: Sequence[str], proxy: str | None = None) -> float:
    """A CPU time over the length of the windows, for one proxy or all."""
    chosen = [slot for slot in slots if proxy is None or slot["proxy"] == proxy]
    used_us: float = sum(slot[field] for slot in chosen for field in fields)
    window_seconds: float = sum(slot["window_seconds"] for slot in chosen)
    return used_us / 1e6 / window_seconds
