"""What shared memory says of one series, with names for its numbers."""

from collections.abc import Mapping
from typing import NamedTuple

from fastlb import _core

# The sum in microseconds, and what each bucket has; _core.BUCKET_BOUNDS_US says where they end.
HistogramReading = tuple[int, tuple[int, ...]]

STATUS_CLASSES = ("none", "1xx", "2xx", "3xx", "4xx", "5xx")


class MeterReading(NamedTuple):
    """A listener, route or pool; fields as SharedMemory.read_meter says."""

    opened: int
    closed: int
    statuses: tuple[int, ...]
    bytes_in: int
    bytes_out: int
    retries: int
    connects: int
    reused: int
    reasons: tuple[int, ...] | None
    times: tuple[HistogramReading, HistogramReading, HistogramReading] | None

    @property
    def requests(self) -> Mapping[str, int]:
        """Exchanges that have ended, by status class."""
        return dict(zip(STATUS_CLASSES, self.statuses, strict=True))

    @property
    def failures(self) -> Mapping[str, int]:
        """Those reasons that were counted at all."""
        return {name: count for name, count in zip(_core.REASONS, self.reasons or (), strict=False) if count}


class BackendReading(NamedTuple):
    """A backend; fields as SharedMemory.read_backend_meters says."""

    identity: str
    state: int
    in_flight: int
    idle: int
    attempts: int
    failed: int
    statuses: tuple[int, ...]
    bytes_in: int
    bytes_out: int
    connects: int
    reused: int
    retries: int
    reasons: tuple[int, ...]
    ups: int
    downs: int
    ejections: int

    @property
    def failures(self) -> Mapping[str, int]:
        """Those reasons that were counted at all."""
        return {name: count for name, count in zip(_core.BACKEND_REASONS, self.reasons, strict=True) if count}


NUMBERS = [name for name, kind in BackendReading.__annotations__.items() if kind is int and name != "state"]


def read_meter(shared: _core.SharedMemory, number: int, *, timed: bool = True) -> MeterReading:
    """What was counted there so far."""
    return MeterReading(*shared.read_meter(number, timed))


def read_backends(shared: _core.SharedMemory) -> list[BackendReading]:
    """Every backend, by identity."""
    return sorted(BackendReading(*reading) for reading in shared.read_backend_meters())


def add_backends(readings: list[BackendReading], identity: str) -> BackendReading:
    """Several backends as one, which has no state."""
    sums = {name: sum(getattr(reading, name) for reading in readings) for name in NUMBERS}
    statuses, reasons = (tuple(map(sum, zip(*(getattr(one, name) for one in readings), strict=True))) for name in ("statuses", "reasons"))
    return BackendReading(identity=identity, state=0, statuses=statuses, reasons=reasons, **sums)
