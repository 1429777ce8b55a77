"""What this fastlb listens on and logs to, and which worker accepts where.

Owns the listening sockets and the descriptors of the logs, and says what the service manager keeps of them. Beside the sockets of the
snapshot in force there are, for the time of a change, those of the one that is offered. It never accepts, and reads nothing.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fastlb import FastlbError, _core
from fastlb.control_plane.config.address import BindAddress
from fastlb.control_plane.config.log_destination import LogDestination
from fastlb.processes.changeover import Snapshot
from fastlb.processes.channel import MAX_DESCRIPTORS
from fastlb.processes.crew import Crew
from fastlb.processes.descriptor_store import DescriptorStore
from fastlb.processes.lending import Assignment, Lending, Place
from fastlb.processes.life import Life
from fastlb.processes.log_files import LogFiles
from fastlb.processes.messages import Apply, Assign, Lend, Log
from fastlb.processes.output import report, report_warnings, say
from fastlb.processes.predecessor import Shares
from fastlb.processes.roster import COMMITTED, Slot, State
from fastlb.processes.sockets import BoundAddress, adopt_sockets, bind_listeners, take_over, update_listening
from fastlb.processes.supervisor_options import SupervisorOptions
from fastlb.processes.systemd import hand_over


@dataclass(frozen=True, slots=True)
class WantedListener:
    """A listener as the controller described it; see `sockets.Binds`."""

    name: str
    bind: tuple[BindAddress, ...]
    backlog: int
    defer_accept: bool
    keepalive: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Opened:
    """What is listened on before and after a change of snapshots."""

    snapshot: Snapshot
    before: list[BoundAddress]
    after: list[tuple[int, BoundAddress]]  # with the index of the listener
    homes: list[int]  # the slots that shall have workers


class Listening:
    """The open sockets and logs of one supervisor.

    Args:
        take_sockets: takes those of the fastlb before this one that serve these addresses.
    """

    def __init__(
        self,
        options: SupervisorOptions,
        life: Life,
        crew: Crew,
        shared: _core.SharedMemory,
        take_sockets: Callable[[Iterable[BindAddress]], Shares],
    ) -> None:
        self._options = options
        self._life = life
        self._crew = crew
        self._shared = shared
        self._take_sockets = take_sockets
        self._snapshot: Snapshot | None = None  # in force; borrowed
        self._bound: list[tuple[int, BoundAddress]] = []  # with the index of the listener
        self._taken_over: list[BoundAddress] = []  # from the fastlb before this one, when it was met
        self._for_both: list[BoundAddress] = []  # an heir accepts there, too
        self._given: set[BindAddress] = set()  # what the service manager listens on by itself
        self._lending = Lending()
        self._logs = LogFiles()
        self.store = DescriptorStore(options.stored.names)

    # -------------------------------------------------------------------------------------------------- a change of snapshots
    def open(self, offered: Snapshot, homes: list[int]) -> Opened:
        """Binds what a snapshot listens on and opens its logs, beside what is open. FastlbError: nothing has changed."""
        before = [bound for _, bound in self._bound]
        listeners = _wanted(offered.apply)
        try:
            self._logs.open(_destinations(offered))
            after = bind_listeners(listeners, [*before, *self._adopt(listeners, before, homes)], homes)
        except FastlbError:
            self._logs.keep(_destinations(self._snapshot))
            raise
        self.share()  # more workers: the sockets for them are beside the old ones already, and clients come to them
        return Opened(offered, before, after, homes)

    def _adopt(self, listeners: Sequence[WantedListener], bound: Iterable[BoundAddress], homes: Sequence[int]) -> list[BoundAddress]:
        """Sockets of the service manager, or of the fastlb before this one, for addresses that are not listened on yet."""
        addresses = [address for listener in listeners for address in listener.bind]
        handover = hand_over(self._options.inherited, addresses)
        report_warnings(handover.warnings)
        known = {one.address for one in bound}
        self._given.update(handover.by_address)
        adopted = [adopt_sockets(address, sockets, homes[0]) for address, sockets in handover.by_address.items() if address not in known]
        wanted = [address for address in addresses if address not in handover.by_address]
        taken_over = [take_over(address, sockets, homes) for address, sockets in self._take_sockets(wanted)]
        self._taken_over += taken_over
        return adopted + taken_over

    def abandon(self, opened: Opened) -> None:
        """Closes what has been opened for a snapshot that nobody uses."""
        self._logs.keep(_destinations(self._snapshot))
        for bound in _without([bound for _, bound in opened.after], opened.before):
            bound.close()

    def switch(self, opened: Opened) -> None:
        """What was opened is what is listened on from now on."""
        self._snapshot = opened.snapshot
        self._bound = opened.after

    def adjust(self, opened: Opened) -> None:
        """Makes the sockets as the snapshot in force wants them, and closes the logs that it does not."""
        update_listening(_wanted(opened.snapshot.apply), opened.after)
        self._logs.keep(_destinations(opened.snapshot))

    def retire(self, opened: Opened) -> None:
        """Closes what is not listened on any more: its queue has been taken in."""
        self.keep_in_store()
        for bound in _without(opened.before, [bound for _, bound in opened.after]):
            bound.close()
        for index, bound in opened.after:
            listener = opened.snapshot.apply.listeners[index]
            for url in bound.urls(listener.scheme) if _without([bound], opened.before) else ():
                say(f'listening on {url} (listener "{listener.name}")')

    # -------------------------------------------------------------------------------------------------- who accepts where
    def share(self) -> None:
        """Has each socket accepted from by the worker that it belongs to or, for as long as that is not ready, by a sibling.

        Who gets a socket is told before who loses it: both accept for a moment, and no client waits.
        """
        if self._life.has_doors_closed:
            return
        assigned = self._assign_all()
        generation = self._snapshot.generation if self._snapshot is not None else 0
        # A worker that still has the snapshot before this one knows other listeners: it gets its sockets with its next commit.
        ready = [slot for slot in self._crew.slots if slot.state is State.READY and slot.generation == generation]
        changed = [slot for slot in ready if assigned.get(slot.number, ()) != slot.assigned]
        changed.sort(key=lambda slot: len(assigned.get(slot.number, ())) < len(slot.assigned))
        for slot in changed:
            slot.assigned = assigned.get(slot.number, ())
            self._lend(slot)
            self._crew.tell(slot, Assign(slot.assigned))

    def assign(self, slot: Slot) -> None:
        """Gives a worker the sockets of the snapshot in force that are its own or lent to it."""
        slot.assigned = self._assign_all().get(slot.number, ())
        self._lend(slot)

    def _assign_all(self) -> dict[int, Assignment]:
        places = [Place(one.number, index, one.home) for index, bound in self._bound for one in bound.sockets]
        return self._lending.assign(places, self._crew.accepting())

    def _lend(self, slot: Slot) -> None:
        """Sends the descriptors of assigned sockets that the worker does not have."""
        wanted = {number for number, _ in slot.assigned}
        missing = [one for _, bound in self._bound for one in bound.sockets if one.number in wanted - slot.lent]
        for at in range(0, len(missing), MAX_DESCRIPTORS):
            some = missing[at : at + MAX_DESCRIPTORS]
            self._crew.tell(slot, Lend(tuple(one.number for one in some)), *(one.socket.fileno() for one in some))
        slot.lent = wanted

    # -------------------------------------------------------------------------------------------------- logs
    def send_logs(self, slot: Slot) -> None:
        """Gives a worker the descriptors of the logs of the snapshot in force."""
        if self._snapshot is not None:
            for index, destination in enumerate(_destinations(self._snapshot)):
                self._crew.tell(slot, Log(self._snapshot.generation, index), self._logs.fileno(destination))

    def reopen_logs(self) -> None:
        """Opens every log anew, for files that were moved away. One that cannot be opened goes on to where it did."""
        for error in self._logs.reopen():
            report(f"{error}; its lines still go to where they went")
        for slot in self._crew.slots:
            if slot.state in COMMITTED:
                self.send_logs(slot)

    # -------------------------------------------------------------------------------------------------- whose the sockets are
    @property
    def bound(self) -> list[BoundAddress]:
        """All that clients come to."""
        return [bound for _, bound in self._bound]

    def keep_in_store(self) -> None:
        """Has the service manager keep what the next fastlb needs, should all of us be killed."""
        self.store.keep(self._shared.fileno(), [bound for bound in self.bound if bound.address not in self._given])

    def leave_to_heir(self) -> None:
        """An heir has taken over: closing our sockets loses nobody, and their files are its own."""
        self.store.leave()
        self._for_both = [bound for bound in (*self._options.admin, *self.bound) if not bound.inherited]
        for bound in self._for_both:
            bound.inherited = True

    def take_from_heir(self) -> None:
        """It is gone: they are ours alone again."""
        for bound in self._for_both:
            bound.inherited = False

    def own_taken_over(self, *more: BoundAddress) -> None:
        """Whoever they were taken over from has no part in them any more, nor in `more`."""
        for bound in (*self._taken_over, *more):
            bound.inherited = False

    def close_sockets(self) -> None:
        """Who connects from now on is refused, unless somebody else accepts there."""
        for bound in self.bound:
            bound.close()
        self._bound = []

    def close(self) -> None:
        self.close_sockets()
        self._logs.close()


def _wanted(apply: Apply) -> list[WantedListener]:
    return [
        WantedListener(
            one.name,
            tuple(BindAddress(*address, udp=one.udp) for address in one.bind),
            one.backlog,
            one.defer_accept,
            one.keepalive,
        )
        for one in apply.listeners
    ]


def _destinations(snapshot: Snapshot | None) -> list[LogDestination]:
    """Where a snapshot logs to, in its order."""
    targets = snapshot.apply.logs if snapshot is not None else ()
    return [LogDestination(target.kind, target.path, target.stream, target.host, target.port) for target in targets]


def _without(some: Iterable[BoundAddress], others: Iterable[BoundAddress]) -> list[BoundAddress]:
    """Those that are not among the others, which is a matter of being the same object."""
    known = {id(bound) for bound in others}
    return [bound for bound in some if id(bound) not in known]
