"""The shared memory of a fastlb that lays it out otherwise, read by what it says about itself (_legend.pyx).

A legend in the memory names each number and says where it stands. What both know by the same name is carried over; a name that only one of
them has is nothing to the other. Nothing here writes, and nothing is mapped: a read beyond what the other one has written finds zeros and
gives the memory no pages.

Whoever works in that memory may have written anything into it, the legend too. So the legend is checked whole before it is used: every
offset lies inside its struct, every struct inside its element, and what is read at once is bounded. The rest are numbers, which lead
nowhere.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec

from fastlb import FastlbError, _core

# Where every layout from 8 on has the legend: its size in four bytes, then JSON. (shared_table.pxd: LEGEND_AT, LEGEND_BYTES)
LEGEND_AT, LEGEND_BYTES = _core.LEGEND_PLACE
# Far more than any layout has.
MAX_STRUCT_BYTES = 1 << 16
MAX_COUNT = 1 << 12
MAX_ELEMENTS = 1 << 17
MAX_OFFSET = 1 << 44
# Nobody is to make us read for ever, or remember everything: of one reading, and of what is kept from one to the next.
MAX_READS = 1 << 18
MAX_READ_BYTES = 1 << 29
MAX_KEPT_BYTES = 1 << 28
# Numbers that say whose a struct is, and count nothing.
NAMES = frozenset(("identity", "guest"))

Offset = Annotated[int, msgspec.Meta(ge=0, le=MAX_OFFSET)]
Count = Annotated[int, msgspec.Meta(ge=1, le=MAX_ELEMENTS)]
Field = tuple[Annotated[int, msgspec.Meta(ge=0, le=MAX_STRUCT_BYTES)], int, Annotated[int, msgspec.Meta(ge=1, le=MAX_COUNT)]]
Layout = tuple[Annotated[int, msgspec.Meta(ge=8, le=MAX_STRUCT_BYTES)], dict[str, Field]]
Names = Annotated[list[str], msgspec.Meta(max_length=MAX_COUNT)]


class ForeignMemoryError(FastlbError):
    """This memory does not say what is where."""


class Legend(msgspec.Struct, frozen=True):
    """Offsets and sizes in bytes, as _legend.describe_memory says; what later layouts add is passed over."""

    structs: dict[str, Layout]
    workers: tuple[Offset, Offset]
    meter_names: tuple[Offset, Offset]
    meters: tuple[Offset, Offset, Offset]
    meter_details: tuple[Offset, Offset, Offset]
    blocks: tuple[Offset, Offset]
    rows: tuple[Offset, Offset]
    columns: tuple[Offset, Offset, Offset]
    backend_meters: tuple[Offset, Offset, Offset]
    rows_per_block: Count
    max_workers: Count
    max_rows: Count
    max_meters: Count
    reasons: Names
    backend_reasons: Names
    bounds_us: Annotated[list[int], msgspec.Meta(max_length=MAX_COUNT)]


# What a reader cannot do without, by struct.
NEEDED = {
    "header": ("n_workers", "n_rows", "n_meters", "identity"),
    "worker": ("guest",),
    "meter_name": ("use", "size", "name"),
    "meter": (),
    "meter_details": (),
    "row": ("use", "identity_size", "identity"),
    "column": ("claims", "releases"),
    "backend_meter": (),
}


def read_legend(text: bytes) -> Legend:
    """A legend in which every number lies where it says.

    Raises:
        ForeignMemoryError: there is none, or it is not to be believed.
    """
    try:
        legend = msgspec.json.decode(text, type=Legend)
    except msgspec.DecodeError as error:
        raise ForeignMemoryError(f"its legend cannot be read: {error}") from error
    for name, needed in NEEDED.items():
        size, fields = legend.structs.get(name, (0, {}))
        if not all(one in fields for one in needed) or size == 0 or size % 8:
            raise ForeignMemoryError(f"its legend has no {name}")
        if any(width not in (1, 4, 8) or offset % width or offset + width * count > size for offset, width, count in fields.values()):
            raise ForeignMemoryError(f"its legend has a {name} that does not fit")
    for name, steps in (
        ("worker", legend.workers[1:]),
        ("meter_name", legend.meter_names[1:]),
        ("meter", legend.meters[2:]),
        ("meter_details", legend.meter_details[2:]),
        ("row", legend.rows[1:]),
        ("column", legend.columns[2:]),
        ("backend_meter", legend.backend_meters[2:]),
    ):
        if not legend.structs[name][0] <= steps[0] <= MAX_STRUCT_BYTES:
            raise ForeignMemoryError(f"its legend has a {name} that does not fit")
    return legend


def own_legend() -> Legend:
    """Of the memory that this build makes."""
    return msgspec.convert(_core.LEGEND, Legend)


class Part:
    """The numbers of one struct that both layouts have: from where they stand in theirs to where they stand in ours.

    Args:
        gauges: what the names of those begin with that may fall.
    """

    def __init__(self, name: str, theirs: Legend, ours: Legend, gauges: str = "gauges.") -> None:
        self.size, their_fields = theirs.structs[name]
        our_fields = ours.structs[name][1]
        self._pairs: list[tuple[int, int, bool]] = []  # indices of eight bytes, and whether it is a gauge
        for one, (offset, width, count) in their_fields.items():
            if one in NAMES or one not in our_fields or width != 8 or our_fields[one][1] != 8:
                continue
            our_offset, _, our_count = our_fields[one]
            places = _places(name, one, theirs, ours, count, our_count)
            self._pairs += [(offset // 8 + a, our_offset // 8 + b, one.startswith(gauges)) for a, b in places]

    def differ(self, before: bytes, now: bytes) -> list[tuple[int, int]]:
        """What has been added meanwhile: indices in our struct, and by how much. A count that has fallen began anew."""
        if before == now:
            return []
        old, new = memoryview(before).cast("Q"), memoryview(now).cast("Q")
        return [
            (ours, new[theirs] - old[theirs] if is_gauge or new[theirs] > old[theirs] else new[theirs])
            for theirs, ours, is_gauge in self._pairs
            if new[theirs] != old[theirs]
        ]


def _places(struct: str, name: str, theirs: Legend, ours: Legend, count: int, our_count: int) -> Iterator[tuple[int, int]]:
    """Which element of an array of theirs is which of ours."""
    if name.endswith("reasons"):
        their_names, our_names = (
            (theirs.backend_reasons, ours.backend_reasons) if struct == "backend_meter" else (theirs.reasons, ours.reasons)
        )
        found = {text: number for number, text in enumerate(our_names)}
        for number, text in enumerate(their_names[:count]):
            if text in found and found[text] < our_count:
                yield number, found[text]
    elif name.endswith("buckets"):  # the last has no bound; a time goes where ours begins to hold it
        for number in range(min(count, len(theirs.bounds_us) + 1)):
            bound = theirs.bounds_us[number] if number < len(theirs.bounds_us) else None
            at = next((at for at, our in enumerate(ours.bounds_us) if bound is not None and bound <= our), len(ours.bounds_us))
            yield number, min(at, our_count - 1)
    else:
        yield from ((number, number) for number in range(min(count, our_count)))


Added = list[tuple[int, int]]  # as Part.differ


@dataclass(slots=True)
class RowChange:
    """What has happened on one row, in all of their workers."""

    claims: int = 0
    releases: int = 0
    failures: int = 0
    idle: int = 0
    ups: int = 0
    downs: int = 0
    ejections: int = 0
    meter: Added = field(default_factory=list)

    def add(self, other: "RowChange") -> None:
        for name in ("claims", "releases", "failures", "idle", "ups", "downs", "ejections"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.meter += other.meter


@dataclass(slots=True)
class MeterChange:
    """What has been counted on one meter, in all of their workers."""

    meter: Added = field(default_factory=list)
    details: Added = field(default_factory=list)

    def add(self, other: "MeterChange") -> None:
        self.meter += other.meter
        self.details += other.details


@dataclass(slots=True)
class Changes:
    """What has happened between two readings."""

    header: Added
    worker: Added
    rows: dict[bytes, RowChange]  # by identity; the node's own is b""
    meters: dict[bytes, MeterChange]  # by name


class ForeignMemory:
    """Owns a copy of the descriptor.

    Args:
        fd: borrowed.

    Raises:
        ForeignMemoryError: it does not say what is where, as before layout 8. OSError.
    """

    def __init__(self, fd: int) -> None:
        if not fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
            raise ForeignMemoryError("it is no shared memory of a fastlb")
        size = int.from_bytes(os.pread(fd, 4, LEGEND_AT), "little")
        if not 0 < size <= LEGEND_BYTES - 4:
            raise ForeignMemoryError("it has no legend")
        self._legend = legend = read_legend(os.pread(fd, size, LEGEND_AT + 4))
        ours = own_legend()
        names = ("header", "worker", "meter", "meter_details", "backend_meter")
        self._parts = {name: Part(name, legend, ours) for name in names}
        self._seen: dict[tuple[Any, ...], bytes] = {}  # what stood where at the last reading
        self._kept = 0  # bytes of that
        # What had changed at the last reading, so that what is counted beside it may have been behind: meters by slot and number, blocks of
        # rows by number and slot.
        self._changed: set[tuple[int, int]] = set()
        self._changed_blocks: set[tuple[int, int]] = set()
        self._n_reads = self._n_read_bytes = 0
        self._fd = os.dup(fd)
        self.identity = self._number("header", self._read(0, legend.structs["header"][0]), "identity")

    def close(self) -> None:
        os.close(self._fd)

    def read(self, but: int, whole: bool = False) -> Changes:
        """What has happened since the last reading, or ever.

        Args:
            but: the memory whose guest is left out: what it counted is its own.
            whole: nobody works there any more: leave nothing for the next reading.

        Raises:
            ForeignMemoryError: it is more than anybody can have.
        """
        legend = self._legend
        self._n_reads = self._n_read_bytes = 0
        header = self._read(0, legend.structs["header"][0])
        slots = []
        worker: Added = []
        for slot in range(min(self._number("header", header, "n_workers"), legend.max_workers)):
            block = self._read(legend.workers[0] + slot * legend.workers[1], self._parts["worker"].size)
            if self._number("worker", block, "guest") != but:
                slots.append(slot)
                worker += self._differ("worker", block, slot)
        n_meters = min(self._number("header", header, "n_meters"), legend.max_meters)
        n_rows = min(self._number("header", header, "n_rows"), legend.max_rows)
        meters = self._read_meters(slots, n_meters, whole)
        return Changes(self._differ("header", header), worker, self._read_rows(slots, n_rows, whole), meters)

    # -------------------------------------------------------------------------------------------------- meters
    def _read_meters(self, slots: Sequence[int], n_meters: int, whole: bool) -> dict[bytes, MeterChange]:
        at, worker_step, step = self._legend.meters
        details_at, details_worker_step, details_step = self._legend.meter_details
        before, self._changed = self._changed, set()
        names: dict[int, bytes] = {}
        changes: dict[bytes, MeterChange] = {}
        for slot in slots:
            block = self._read(at + slot * worker_step, n_meters * step)
            has_changed = self._swap(block, "meters", slot)
            for number in range(1, n_meters) if has_changed or whole else sorted(number for its, number in before if its == slot):
                one = block[number * step : number * step + self._parts["meter"].size]
                added = self._differ("meter", one, slot, number)
                if added:
                    self._changed.add((slot, number))
                if not (added or (slot, number) in before or (whole and any(one))):
                    continue
                details = self._read(details_at + slot * details_worker_step + number * details_step, self._parts["meter_details"].size)
                change = MeterChange(added, self._differ("meter_details", details, slot, number))
                names = names or self._read_names(n_meters)
                if number in names:
                    changes.setdefault(names[number], MeterChange()).add(change)
        return changes

    def _read_names(self, n_meters: int) -> dict[int, bytes]:
        at, step = self._legend.meter_names
        names = {}
        for number in range(1, n_meters):
            one = self._read(at + number * step, self._legend.structs["meter_name"][0])
            if self._number("meter_name", one, "use"):
                names[number] = self._text("meter_name", one, "name", "size")
        return names

    # -------------------------------------------------------------------------------------------------- rows
    def _read_rows(self, slots: Sequence[int], n_rows: int, whole: bool) -> dict[bytes, RowChange]:
        legend = self._legend
        before, self._changed_blocks = self._changed_blocks, set()
        changes: dict[bytes, RowChange] = {}
        for block in range(-(-n_rows // legend.rows_per_block)):
            n = min(n_rows - block * legend.rows_per_block, legend.rows_per_block)
            at = legend.blocks[0] + block * legend.blocks[1]
            details = self._read(at + legend.rows[0], n * legend.rows[1])
            found = self._read_details(block, n, details)
            for slot in slots:
                has_changed = self._read_columns(block, slot, at, n, found)
                if has_changed:
                    self._changed_blocks.add((block, slot))
                if has_changed or whole or (block, slot) in before:  # whatever is counted of a backend, it was claimed before
                    self._read_backend_meters(block, slot, at, n, found)
            for row, change in found.items():
                identity = self._identity(details[row * legend.rows[1] : (row + 1) * legend.rows[1]], block == row == 0)
                if identity is not None:
                    changes.setdefault(identity, RowChange()).add(change)
        return changes

    def _read_details(self, block: int, n: int, details: bytes) -> dict[int, RowChange]:
        """What the controller has counted on the rows of a block, by their numbers in it."""
        found: dict[int, RowChange] = {}
        size, step = self._legend.structs["row"][0], self._legend.rows[1]
        old_details = self._seen.get(("details", block), b"").ljust(len(details), b"\0")
        if self._swap(details, "details", block):
            for row in range(n):
                old, one = old_details[row * step : row * step + size], details[row * step : row * step + size]
                if one != old:
                    ups, downs, ejections = (self._grown("row", name, old, one) for name in ("ups", "downs", "ejections"))
                    if ups or downs or ejections:
                        found[row] = RowChange(ups=ups, downs=downs, ejections=ejections)
        return found

    def _read_columns(self, block: int, slot: int, at: int, n: int, found: dict[int, RowChange]) -> bool:
        """Adds what a worker has done on the rows of a block; False: nothing."""
        columns_at, worker_step, step = self._legend.columns
        size = self._legend.structs["column"][0]
        columns = self._read(at + columns_at + slot * worker_step, n * step)
        old_columns = self._seen.get(("columns", block, slot), b"").ljust(len(columns), b"\0")
        if not self._swap(columns, "columns", block, slot):
            return False
        for row in range(n):
            old, one = old_columns[row * step : row * step + size], columns[row * step : row * step + size]
            if one != old:
                found.setdefault(row, RowChange()).add(self._differ_column(old, one))
        return True

    def _read_backend_meters(self, block: int, slot: int, at: int, n: int, found: dict[int, RowChange]) -> None:
        """Adds what a worker has counted of the backends in a block."""
        meters_at, worker_step, step = self._legend.backend_meters
        part = self._parts["backend_meter"]
        meters = self._read(at + meters_at + slot * worker_step, n * step)
        old_meters = self._seen.get(("backend_meters", block, slot), b"").ljust(len(meters), b"\0")
        if self._swap(meters, "backend_meters", block, slot):
            for row in range(n):
                added = part.differ(old_meters[row * step : row * step + part.size], meters[row * step : row * step + part.size])
                if added:
                    found.setdefault(row, RowChange()).meter.extend(added)

    def _differ_column(self, old: bytes, one: bytes) -> RowChange:
        has_idle = "idle" in self._legend.structs["column"][1]
        return RowChange(
            claims=self._grown("column", "claims", old, one),
            releases=self._grown("column", "releases", old, one),
            failures=self._grown("column", "failures", old, one),
            idle=self._number("column", one, "idle") - self._number("column", old, "idle") if has_idle else 0,
        )

    def _identity(self, details: bytes, is_node: bool) -> bytes | None:
        """Whose row it is; None: nobody's."""
        if is_node:
            return b""
        if not self._number("row", details, "use"):
            return None
        return self._text("row", details, "identity", "identity_size") or None

    # -------------------------------------------------------------------------------------------------- bytes
    def _read(self, at: int, size: int) -> bytes:
        """So many bytes; zeros where nothing was ever written."""
        self._n_reads += 1
        self._n_read_bytes += size
        if self._n_reads > MAX_READS or self._n_read_bytes > MAX_READ_BYTES:
            raise ForeignMemoryError("its memory is larger than any can be")
        return os.pread(self._fd, size, at).ljust(size, b"\0")

    def _swap(self, now: bytes, *key: object) -> bool:
        """Remembers what stands there now; whether that is something else than before. What was never written needs no memory."""
        before = self._seen.get(key, b"")
        if now == before.ljust(len(now), b"\0"):
            return False
        self._kept += len(now) - len(before)
        if self._kept > MAX_KEPT_BYTES:
            raise ForeignMemoryError("there is more in its memory than can be remembered")
        self._seen[key] = now
        return True

    def _differ(self, part: str, now: bytes, *key: object) -> Added:
        before = self._seen.get((part, *key), b"").ljust(len(now), b"\0")
        return self._parts[part].differ(before, now) if self._swap(now, part, *key) else []

    def _number(self, struct: str, data: bytes, name: str) -> int:
        offset, width, _ = self._legend.structs[struct][1][name]
        return int.from_bytes(data[offset : offset + width], "little")

    def _grown(self, struct: str, name: str, old: bytes, new: bytes) -> int:
        """By how much a count has grown; one that has fallen began anew, and one that they do not have stays."""
        if name not in self._legend.structs[struct][1]:
            return 0
        before, now = self._number(struct, old, name), self._number(struct, new, name)
        return now - before if now >= before else now

    def _text(self, struct: str, data: bytes, name: str, size: str) -> bytes:
        offset, width, count = self._legend.structs[struct][1][name]
        return data[offset : offset + min(self._number(struct, data, size), width * count)]
