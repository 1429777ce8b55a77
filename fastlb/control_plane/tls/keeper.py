"""What the controller keeps of TLS: the material in force, the keys of tickets, and two clocks.

One makes a new key for tickets every so often, the other says once a day which certificates expire soon. Both only ask for another
snapshot, or speak; what is in force changes when every worker has it.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fastlb.control_plane.config.schema import Config
from fastlb.control_plane.tls.certificate import Certificate, look_at_dates
from fastlb.control_plane.tls.files import Finding
from fastlb.control_plane.tls.material import NO_MATERIAL, Material, settle
from fastlb.control_plane.tls.tickets import TicketKeys

DAY_SECONDS = 86400.0
# After new keys that could not be put in force.
RETRY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Kept:
    """A certificate in force.

    Args:
        failure: why it is not the one that its files hold now; None if it is.
    """

    certificate: Certificate
    failure: Finding | None


class TlsKeeper:
    """All of it.

    Args:
        reapply: has a snapshot made of the configuration in force.
        warn: tells a person.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        reapply: Callable[[], None],
        warn: Callable[[Iterable[object]], None],
        material: Material = NO_MATERIAL,
        keys: TicketKeys | None = None,
    ) -> None:
        self._loop = loop
        self._reapply = reapply
        self._warn = warn
        self.material = material
        self.keys = keys if keys is not None else TicketKeys()
        self._told: frozenset[str] = frozenset()
        self._rotation: asyncio.TimerHandle | None = None
        self._daily: asyncio.TimerHandle | None = None

    def settle(self, read: Material, config: Config) -> tuple[Material, list[str]]:
        """What a configuration uses of what was read for it, and warnings; see material.settle."""
        settled, warnings = settle(read, config, self.material)
        self._told = frozenset(warnings)
        return settled, warnings

    def renew(self, read: Material, config: Config) -> Material | None:
        """What the configuration in force uses of files that have been read again; None where that is what it uses already. Tells what is
        wrong with them, unless it has been told."""
        if read.files != self.material.files:
            return None  # of another configuration than the one in force
        settled, warnings = settle(read, config, self.material)
        self._warn(warning for warning in warnings if warning not in self._told)
        self._told = frozenset(warnings)
        if settled.holds_the_same(self.material):
            self.material = settled  # what could not be used may be another file by now
            return None
        return settled

    def choose_keys(self, config: Config, material: Material) -> TicketKeys:
        """The keys of tickets for a snapshot: those of the file, else ours, with a new one where it is time."""
        if not _wants_tickets(config):
            return self.keys
        if material.ticket_keys:
            return TicketKeys(material.ticket_keys)
        now = time.time()
        keys = self.keys if self.keys.born else TicketKeys()
        return keys.rotate(now) if keys.is_due(config.settings.ticket_key_rotation_ms, now) else keys

    def put_in_force(self, config: Config, material: Material, keys: TicketKeys) -> None:
        """Every worker has it."""
        self.material, self.keys = material, keys
        self.start(config)

    def start(self, config: Config) -> None:
        """Sets the clocks as this configuration, which is in force, wants them."""
        if self._rotation is not None:
            self._rotation.cancel()
            self._rotation = None
        if _wants_tickets(config) and not self.material.ticket_keys:
            left = self.keys.seconds_left(config.settings.ticket_key_rotation_ms, time.time())
            self._rotation = self._loop.call_later(left + 1, self._on_due, config)
        if self._daily is None and self.material.certificates:
            self._daily = self._loop.call_later(DAY_SECONDS, self._on_day)

    def close(self) -> None:
        for timer in (self._rotation, self._daily):
            if timer is not None:
                timer.cancel()
        self._rotation = self._daily = None

    def list_kept(self) -> list[Kept]:
        """Every certificate in force, in the order of the configuration."""
        return [Kept(one, self.material.failures.get(pair)) for pair, one in self.material.certificates.items()]

    def _on_due(self, config: Config) -> None:
        self._rotation = self._loop.call_later(RETRY_SECONDS, self._on_due, config)  # unless what follows is put in force
        self._reapply()

    def _on_day(self) -> None:
        self._daily = self._loop.call_later(DAY_SECONDS, self._on_day)
        now = time.time()
        findings = [finding for one in self.material.certificates.values() for finding in look_at_dates(one, now)]
        self._warn((*findings, *self.material.failures.values()))


def _wants_tickets(config: Config) -> bool:
    return any(listener.tls.is_on and listener.tls.tickets for listener in config.listeners)
