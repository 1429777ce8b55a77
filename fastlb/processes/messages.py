"""What the processes of fastlb say to each other, as typed messages. channel.py carries them; each says which descriptors go with it.

A message that does not fit its type is refused whole when it is decoded: the supervisor keeps privileges and trusts nobody below it to be
well.
"""

from typing import Annotated

import msgspec

# The role of the one controller beside the numbers of the workers' slots.
CONTROLLER = -1

Number = Annotated[int, msgspec.Meta(ge=0)]


class Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Root of all messages; `type` names the class on the wire."""


class ListenerBinds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the supervisor has to know of a listener: `config.schema.Listener` without what only the engine needs.

    Args:
        bind: host, port and unix path of each address, as `BindAddress`.
    """

    name: str
    bind: tuple[tuple[str, int, str], ...]
    backlog: int
    defer_accept: bool


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
    """Supervisor -> zygote: fork a process. Descriptors: its end of the channel, the shared memory; for a worker its eventfd; for a
    controller, where there is one, the state that its predecessor left."""

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
        drain_timeout_ms: how long to go on when the supervisor is gone.
    """

    generation: Number
    sockets: tuple[tuple[Number, Number], ...]
    drain_timeout_ms: Number
    drain_idle_grace_ms: Number


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


class Processes(Message, frozen=True):
    """Supervisor -> controller: which processes there are, after each change."""

    processes: tuple[ProcessState, ...]


class Cut(Message, frozen=True):
    """Controller -> supervisor -> every worker: end what is in flight at this backend. A later one takes the place of an earlier one."""

    ticket: Number
    identity: str


class CutDone(Message, frozen=True):
    """Worker -> supervisor -> controller: done, here or everywhere; so many exchanges were ended."""

    ticket: Number
    exchanges: Number


class AdminSocket(Message, frozen=True):
    """Supervisor -> controller: serve the admin API here, too. Descriptor: a listening socket."""


# -------------------------------------------------------------------------------------------------------------- supervisor and loader
class Read(Message, frozen=True):
    """Loader -> supervisor: the file has been read. Descriptor: what came of it, for the controller."""


FromZygote = Forked | ForkFailed
FromWorker = Hello | Prepared | Refused | Committed | Drained | CutDone
FromController = Hello | Pong | Apply | Reload | Reloaded | DrainAll | Cut
FromLoader = Read
ToZygote = Fork
ToWorker = Siblings | Prepare | Abort | Lend | Commit | Assign | Log | Drain | Stop | Cut
ToController = Ping | Applied | Rejected | Reread | Processes | Stop | AdminSocket | CutDone
ToLoader = Stop
