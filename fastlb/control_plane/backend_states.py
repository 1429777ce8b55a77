"""Why a backend is not picked, as far as the controller decides it: its health checks and the operator.

Owns those three bits of each backend's state, and no copy of them: they stand in shared memory, where every worker sees them at its next
pick, and where the next controller finds them. Nothing else calls `SharedMemory.set_state`. For the controller's thread alone.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from fastlb import _core

_DOWN = _core.ROW_STATES["down"]


class AdminState(StrEnum):
    """What the operator asked for."""

    READY = "ready"
    DRAIN = "drain"  # no new work, what runs is finished
    MAINT = "maint"  # out of use


_ADMIN_BITS = {AdminState.READY: 0, AdminState.DRAIN: _core.ROW_STATES["drain"], AdminState.MAINT: _core.ROW_STATES["maintenance"]}
_ANY_ADMIN = _ADMIN_BITS[AdminState.DRAIN] | _ADMIN_BITS[AdminState.MAINT]


@dataclass(frozen=True, slots=True)
class BackendState:
    """Of one backend.

    Args:
        up: what its health checks say; True where there are none.
    """

    up: bool
    admin: AdminState


class BackendStates:
    """The states of all backends that have a row in shared memory; a new row is up and ready."""

    def __init__(self, shared: _core.SharedMemory) -> None:
        self._shared = shared

    def get(self, identity: str) -> BackendState:
        """KeyError: there is no such backend."""
        return _read(self._shared.state(identity))

    def restore(self) -> dict[str, BackendState]:
        """What there is of every backend, by identity: for a controller that begins where another has ended."""
        return {str(row["identity"]): _read(int(row["state"])) for row in self._shared.backends()}

    def copy(self, states: Mapping[str, int]) -> None:
        """Takes over what a fastlb with other shared memory said, of those backends that there are here."""
        for identity, bits in states.items():
            with suppress(KeyError, ValueError):
                self._shared.set_state(identity, bits)

    def set_health(self, identity: str, up: bool) -> None:
        """What health checks found. KeyError: there is no such backend."""
        self._set(identity, _DOWN, 0 if up else _DOWN)

    def set_admin(self, identity: str, state: AdminState) -> None:
        """What the operator wants. KeyError: there is no such backend."""
        self._set(identity, _ANY_ADMIN, _ADMIN_BITS[state])

    def _set(self, identity: str, mask: int, bits: int) -> None:
        """Changes the bits of `mask`, and leaves the other ones of ours as they are."""
        ours = self._shared.state(identity) & (_DOWN | _ANY_ADMIN)
        self._shared.set_state(identity, ours & ~mask | bits)


def _read(bits: int) -> BackendState:
    # Maintenance counts where both were set: it is the stricter of the two.
    admin = next((state for state in (AdminState.MAINT, AdminState.DRAIN) if bits & _ADMIN_BITS[state]), AdminState.READY)
    return BackendState(not bits & _DOWN, admin)
