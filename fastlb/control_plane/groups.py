"""Which backends of a pool are tried before which: backup, priority, zone and subset become an order of groups.

All of it is decided here, when a snapshot is built, so none of it costs a request anything. Two nodes with one configuration differ in
their zone and name only.
"""

import hashlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from fastlb.control_plane.config.schema import Backend, GlobalSettings, Pool


@dataclass(frozen=True, slots=True)
class Row:
    """One address of a backend, or a name that has none."""

    backend: Backend
    identity: str
    display: str
    table_name: str  # what its places in hash tables follow
    address: bytes | None


def order_rows(rows: Sequence[Row], pool: Pool, settings: GlobalSettings) -> list[list[Row]]:
    """The groups of a pool, first to last; none is empty, and rows keep their order within a group.

    Backups come last; within that, lower priorities first; within that, this node's zone first. A backend without a zone is of every zone.
    """
    groups: dict[tuple[bool, int, bool], list[Row]] = {}
    for row in rows:
        backend = row.backend
        is_far = bool(settings.zone and backend.zone and backend.zone != settings.zone)
        groups.setdefault((backend.backup, backend.priority, is_far), []).append(row)
    node = settings.node or socket.gethostname()
    return [choose_subset(groups[key], pool.subset, node) for key in sorted(groups)]


def choose_subset(rows: list[Row], size: int, node: str) -> list[Row]:
    """This node's share of a group: the `size` rows (0 = all) that rank highest by the hash of the node with their identity.

    So each node has others, every one equally likely; a backend that comes or goes changes at most one place of a node's subset
    (rendezvous hashing: Thaler and Ravishankar, 1998). Names without an address take no place.
    """
    resolved = [row for row in rows if row.address is not None]
    if not size or len(resolved) <= size:
        return rows
    chosen = sorted(resolved, key=lambda row: hashlib.sha256(f"{node}\0{row.identity}".encode()).digest())[:size]
    identities = {row.identity for row in chosen}
    return [row for row in rows if row.address is None or row.identity in identities]
