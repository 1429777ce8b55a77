"""What the processes of fastlb say to each other, as typed messages. channel.py carries them; each says which descriptors go with it.

A message that does not fit its type is refused whole when it is decoded: the supervisor keeps privileges and trusts nobody below it to be
well.
"""

from typing import Annotated

import msgspec

# The role of the one controller beside the numbers of the workers' slots.
CONTROLLER = -1

Number = Annotated[int, msgspec.Meta(ge=0)]
# What names stand for: IP, port, weight and priority of each endpoint, as `resolver.Endpoint`.
Endpoints = dict[str, tuple[tuple[str, Number, Number, Number], ...]]


class Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Root of all messages; `type` names the class on the wire."""


class ListenerBinds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the supervisor has to know of a listener: `config.schema.Listener` without what only the engine needs.

    Args:
        bind: host, port and unix path of each address, as `BindAddress`.
        keepalive: as `TcpKeepalive.numbers`.
    """

    name: str
    bind: tuple[tuple[str, int, str], ...]
    backlog: int
    defer_accept: bool
    scheme: str = "http"
    udp: bool = False
    keepalive: tuple[int, int, int] = (0, 0, 0)


class LogTarget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where log lines go: `config.log_destination.LogDestination` without what messages say about themselves."""

    kind: str
    path: str
    stream: str
    host: str
    port: int


class ProcessState(msgspec.Struct, frozen=True):
    """One process as the admin API shows it."""

    role: str
    slot: int
    pid: int
    state: str
    restarts: int


# -------------------------------------------------------------------------------------------------------------- supervisor and zygote
class Fork(Message, frozen=True):
    """Supervisor -> zygote: fork a process. Descriptors: its end of the channel, the shared memory; for a worker its eventfd and,
    where there is one, its door; for a controller, where there is one, the state that its predecessor left."""

    role: int  # a slot, or CONTROLLER
    n_workers: Number


class Forked(Message, frozen=True):
    """Zygote -> supervisor: it runs, and is the supervisor's child."""

    role: int
    pid: Number


class ForkFailed(Message, frozen=True):
    """Zygote -> supervisor: the system refused it."""

    role: int
    text: str


# -------------------------------------------------------------------------------------------------------------- every child
class Hello(Message, frozen=True):
    """Controller or worker -> supervisor: the first message. Processes of different builds lay memory out differently."""

    build_id: str


class Stop(Message, frozen=True):
    """Supervisor -> controller or worker: end now."""


class Ping(Message, frozen=True):
    """Supervisor -> controller."""


class Pong(Message, frozen=True):
    """Controller -> supervisor."""


# -------------------------------------------------------------------------------------------------------------- supervisor and worker
class Siblings(Message, frozen=True):
    """Supervisor -> worker: what wakes the workers in these slots, whichever they are by then. Descriptors: the slots' eventfds."""

    slots: tuple[Number, ...]


class Prepare(Message, frozen=True):
    """Supervisor -> worker: get this snapshot ready. Descriptor: the image."""

    generation: Number


class Prepared(Message, frozen=True):
    generation: Number


class Refused(Message, frozen=True):
    """Worker -> supervisor: this snapshot cannot be used here."""

    generation: Number
    text: str


class Abort(Message, frozen=True):
    """Supervisor -> worker: forget what was or is being prepared."""


class Lend(Message, frozen=True):
    """Supervisor -> worker: listening sockets to keep for when they are assigned, by their numbers. Descriptors: the sockets."""

    sockets: tuple[Number, ...]


class Commit(Message, frozen=True):
    """Supervisor -> worker: change to the prepared snapshot.

    Args:
        sockets: every socket to accept from, with the index of its listener. What waits in sockets that are not named any more is taken in.
        drain_timeout_ms: how long a drain takes where nobody says otherwise.
        weights, endpoints: what the operator has put in the place of configured weights, and what names stand for, for the fastlb that may
            come to the worker's door.
    """

    generation: Number
    sockets: tuple[tuple[Number, Number], ...]
    drain_timeout_ms: Number
    drain_idle_grace_ms: Number
    weights: dict[str, Number] = {}
    endpoints: Endpoints = {}


class Committed(Message, frozen=True):
    """Worker -> supervisor: done; sockets that were not named are closed here."""

    generation: Number


class Assign(Message, frozen=True):
    """Supervisor -> worker: accept from these sockets and no others. The queues of the others are somebody else's now."""

    sockets: tuple[tuple[Number, Number], ...]


class Log(Message, frozen=True):
    """Supervisor -> worker: write the lines of this log destination here from now on; a worker that uses another snapshot leaves its
    logs as they are. Descriptor: where to."""

    generation: Number
    destination: Number


class Drain(Message, frozen=True):
    """Supervisor -> worker: take in what waits in the queues, finish what is in flight, then end.

    Args:
        timeout_ms: when what is not finished is cut; None: as the last commit said.
    """

    timeout_ms: Number | None = None


class Drained(Message, frozen=True):
    """Worker -> supervisor: nothing is accepted here any more."""


# -------------------------------------------------------------------------------------------------------------- supervisor and controller
class Apply(Message, frozen=True):
    """Controller -> supervisor: have every worker change to this configuration. Descriptors: the image, and what the next controller has to
    know if this one dies."""

    generation: Number
    n_workers: Annotated[int, msgspec.Meta(ge=1, le=128)]
    listeners: tuple[ListenerBinds, ...]
    logs: tuple[LogTarget, ...]
    drain_timeout_ms: Number
    drain_idle_grace_ms: Number
    watch: bool = False
    weights: dict[str, Number] = {}  # that the operator has put in the place of configured ones
    endpoints: Endpoints = {}  # of the snapshot
    ticket_keys: tuple[bytes, ...] = ()  # that fastlb has made itself, for the one after it; the newest first
    ticket_keys_born: Number = 0


class Applied(Message, frozen=True):
    """Supervisor -> controller: every worker uses it."""

    generation: Number


class Rejected(Message, frozen=True):
    """Supervisor -> controller: nothing has changed."""

    generation: Number
    text: str


class DrainAll(Message, frozen=True):
    """Controller -> supervisor: as SIGQUIT."""


class Reload(Message, frozen=True):
    """Controller -> supervisor: have the configuration file read again."""

    ticket: Number  # counts up


class Reread(Message, frozen=True):
    """Supervisor -> controller: apply what was read. Descriptor: what the loader left; none where `error` says why.

    Args:
        number: of this reload, for the answer.
        ticket: the last that was there before the file was read.
    """

    number: Number
    ticket: Number
    error: str


class Reloaded(Message, frozen=True):
    """Controller -> supervisor: it is applied, or has been refused."""

    number: Number
    applied: bool = True


class Processes(Message, frozen=True):
    """Supervisor -> controller: which processes there are, after each change."""

    processes: tuple[ProcessState, ...]


class Cut(Message, frozen=True):
    """Controller -> supervisor -> every worker: end what is in flight at this backend. A later one takes the place of an earlier one. A
    supervisor says it to workers without one, and to the fastlb that it takes over from, as well: what they have in flight is in the same
    memory."""

    ticket: Number
    identity: str


class CutDone(Message, frozen=True):
    """The way back: done, here or everywhere; so many exchanges were ended."""

    ticket: Number
    exchanges: Number


class AdminSocket(Message, frozen=True):
    """Supervisor -> controller: serve the admin API here, too. Descriptor: a listening socket, if there is any. It also takes LeaveAdmin
    back."""


class LeaveAdmin(Message, frozen=True):
    """Supervisor -> controller: accept no more callers of the admin API; those of a new fastlb are accepted there. Where that works on the
    same memory, what is said of backends, by probes and by the clocks of drains, is said by the new one alone."""

    shares_memory: bool


class Upgrade(Message, frozen=True):
    """Controller -> supervisor: start the installed fastlb, and end when it has taken over."""


class Upgraded(Message, frozen=True):
    """Supervisor -> controller: the process that has taken over; or 0, nothing has changed, and why."""

    pid: Number
    text: str


# -------------------------------------------------------------------------------------------------------------- supervisor and loader
class Read(Message, frozen=True):
    """Loader -> supervisor: the file has been read. Descriptor: what came of it, for the controller.

    Args:
        tls_files: which files the TLS of the configuration names (`control_plane.tls.files.TlsFiles`), as JSON; they are watched, and read
            again when they change.
    """

    tls_files: bytes = b""


# -------------------------------------------------------------------------------------------------------------- one fastlb and the next
# These, and what goes with them (Siblings, Lend, Drain, Drained, Stop), are also said between builds: a build that changes one of them
# cannot take over from those before it.
class Outlived(Message, frozen=True):
    """Worker -> the next fastlb, first: its supervisor is gone, and it serves on. Descriptors: the shared memory, what wakes this worker.
    Its listening sockets follow, each `Lend` with some of them.

    Args:
        states: of the backends that are not simply up and ready, by identity: for a build that cannot read the memory.
        weights: that the operator has put in the place of configured ones.
        endpoints: what names stand for, should no name server answer the next one.
    """

    build_id: str
    slot: Number
    n_sockets: Number
    states: dict[str, Number] = {}
    weights: dict[str, Number] = {}
    endpoints: Endpoints = {}


class Bequeath(Message, frozen=True, forbid_unknown_fields=False):
    """Supervisor -> the fastlb that it has started to take its place, first. Descriptors: the shared memory, what wakes the worker in each
    slot, and the runtime directory if there is one. The listening sockets follow, each `Lend` with some of them.

    Args:
        hears_cuts: it can be told a `Cut`.
        given: which of the sockets are the service manager's, and what that calls them: their files stay when we end.
    """

    build_id: str
    slots: tuple[Number, ...]
    n_sockets: Number
    has_runtime: bool
    runtime_made: bool
    states: dict[str, Number] = {}
    weights: dict[str, Number] = {}
    endpoints: Endpoints = {}
    given: tuple[tuple[Number, str], ...] = ()
    hears_cuts: bool = False
    ticket_keys: tuple[bytes, ...] = ()  # as in Apply
    ticket_keys_born: Number = 0


class Freed(Message, frozen=True):
    """Supervisor -> its heir: nobody is in this slot any more, and what was there is settled."""

    slot: Number


class Succeeded(Message, frozen=True, omit_defaults=True):
    """Heir -> supervisor: my workers serve, over the memory that I was given or over one of my own, which is then the descriptor."""

    shares_memory: bool = True


FromZygote = Forked | ForkFailed
FromWorker = Hello | Prepared | Refused | Committed | Drained | CutDone
FromController = Hello | Pong | Apply | Reload | Reloaded | DrainAll | Cut | Upgrade
FromElder = Bequeath | Lend | Freed | CutDone
FromHeir = Succeeded | Cut
FromLoader = Read
FromOrphan = Outlived | Lend | Drained | CutDone
ToZygote = Fork
ToWorker = Siblings | Prepare | Abort | Lend | Commit | Assign | Log | Drain | Stop | Cut
ToOrphan = Siblings | Drain | Stop | Cut
ToController = Ping | Applied | Rejected | Reread | Processes | Stop | AdminSocket | CutDone | LeaveAdmin | Upgraded
ToLoader = Stop
