"""Pickers of a user's own for tests: C functions of the probe, as objects with an address."""

from types import SimpleNamespace

from tests.support import _probe

LAST = SimpleNamespace(address=_probe.PICKERS["last"])  # the last one that may be picked
FIRST = SimpleNamespace(address=_probe.PICKERS["first"])  # index 0, whether it may be picked or not
OUTSIDE = SimpleNamespace(address=_probe.PICKERS["outside"])  # one past the end
NONE = SimpleNamespace(address=_probe.PICKERS["none"])  # -1
