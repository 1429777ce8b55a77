"""Which meter of the shared memory counts for which listener, route and pool.

The controller owns this. A name keeps its number over reloads, over controllers and over whatever happens to workers, because the names
stand in shared memory beside the counts; images carry the numbers. A name that is gone keeps its number, too, and its counts with it: a
number is given to another name only when no free one is left, its own name is in no snapshot and nothing that it counts is open. A
worker that drains counts by the numbers of an older snapshot, and which names these had is not known any more: while there is one, no
number is given away. Beyond that the rest of a kind share one meter. So there are at most as many series as there are meters, whatever is
configured.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from fastlb import _core
from fastlb.control_plane.config.schema import Config
from fastlb.control_plane.route_program import name_of

# What a meter's name begins with.
LISTENER, ROUTE, POOL = "l", "r", "p"
KINDS = (LISTENER, ROUTE, POOL)
# The label of all that have no meter of their own. Numbers 1 to 3; no name that can be configured looks like it.
OTHER = "(other)"
# Longer labels are cut and told apart by a hash: a label is in every line of its series.
MAX_LABEL_BYTES = 160


@dataclass(frozen=True, slots=True)
class MeterNumbers:
    """The meters of one configuration: of each listener, route and pool, in its order. Empty: nothing is counted apart."""

    listeners: Sequence[int] = ()
    routes: Sequence[int] = ()
    pools: Sequence[int] = ()
    names: frozenset[str] = frozenset()


NO_METERS = MeterNumbers()


@dataclass(slots=True)
class Meters:
    """The numbers of names.

    Args:
        shared: where the names stand. For one controller at a time.
        report: where to say, once, that there are more names than meters.
    """

    shared: _core.SharedMemory
    report: Callable[[str], None]
    _numbers: dict[str, int] = field(init=False)  # in the order in which they were given
    _free: list[int] = field(init=False)
    _in_force: frozenset[str] = field(init=False, default=frozenset())
    _generation: int = field(init=False, default=0)  # whose names these are; 0 = none yet
    _reported: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        found = {number: name.decode("utf-8", "replace") for number, name in self.shared.meters().items()}
        for number, kind in enumerate(KINDS, 1):
            if found.get(number) != kind + OTHER:
                self.shared.set_meter(number, (kind + OTHER).encode())
            found.pop(number, None)
        # A worker may have written there: what is no name of ours is taken for free.
        self._numbers = {name: number for number, name in found.items() if name[:1] in KINDS}
        taken = set(self._numbers.values())
        self._free = [number for number in range(_core.METER_LIMITS["meters"] - 1, len(KINDS), -1) if number not in taken]

    def assign(self, config: Config) -> MeterNumbers:
        """Numbers for a configuration that is about to be offered."""
        listeners = [LISTENER + cut_label(listener.name) for listener in config.listeners]
        routes = [ROUTE + label for label in label_routes(config)]
        pools = [POOL + cut_label(pool.name) for pool in config.pools]
        wanted = dict.fromkeys((*listeners, *pools, *routes))
        # Looked for once: to look for each of a thousand would take a while.
        spare = self._find_spare(wanted) if sum(name not in self._numbers for name in wanted) > len(self._free) else []
        for name in wanted:
            if name not in self._numbers:
                self._give_number(name, spare)
        return MeterNumbers(
            [self._number_of(name) for name in listeners],
            [self._number_of(name) for name in routes],
            [self._number_of(name) for name in pools],
            frozenset(wanted),
        )

    def put_in_force(self, numbers: MeterNumbers, generation: int) -> None:
        """Every worker that accepts has the snapshot of this generation, which has these numbers."""
        self._in_force, self._generation = numbers.names, generation

    def labels(self) -> Mapping[int, tuple[str, str]]:
        """Kind and label of each meter in use, by number."""
        labels = {number: (name[0], name[1:]) for name, number in self._numbers.items()}
        return MappingProxyType({number: (kind, OTHER) for number, kind in enumerate(KINDS, 1)} | labels)

    def _number_of(self, name: str) -> int:
        return self._numbers.get(name) or KINDS.index(name[0]) + 1

    def _give_number(self, name: str, spare: list[str]) -> None:
        if self._free:
            number = self._free.pop()
        elif spare:
            number = self._numbers.pop(spare.pop())
        else:
            if not self._reported:
                self._reported = True
                self.report(
                    f"metrics tell {_core.METER_LIMITS['meters'] - 1 - len(KINDS)} listeners, routes and pools apart, and there are more:"
                    f' the rest is counted as "{OTHER}"'
                )
            return
        self.shared.set_meter(number, name.encode())
        self._numbers[name] = number

    def _find_spare(self, wanted: Mapping[str, None]) -> list[str]:
        """The names whose numbers may be given away; the last one first."""
        # A worker without a snapshot will have the one in force.
        if any(self.shared.worker_generation(slot) not in (0, self._generation) for slot in self.shared.workers()):
            return []
        unused = (name for name in self._numbers if name not in wanted and name not in self._in_force)
        return [name for name in unused if not self.shared.is_metering(self._numbers[name])][::-1]


def label_routes(config: Config) -> list[str]:
    """What metrics call each route: its name, else its first host and its path. The second one of a name gets a number, and so on."""
    labels: list[str] = []
    used: set[str] = set()
    for label in (cut_label(name_of(route)) for route in config.routes):
        number, unique = 1, label
        while unique in used:
            number += 1
            unique = f"{label}#{number}"
        used.add(unique)
        labels.append(unique)
    return labels


def cut_label(text: str) -> str:
    """A label that is not too long, and another one for another text."""
    raw = text.encode("utf-8", "replace")
    if len(raw) <= MAX_LABEL_BYTES:
        return raw.decode()
    return f"{raw[: MAX_LABEL_BYTES - 9].decode('utf-8', 'ignore')}~{hashlib.sha256(raw).hexdigest()[:8]}"
