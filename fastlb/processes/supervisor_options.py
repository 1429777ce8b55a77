"""What a supervisor is told besides the configuration."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from fastlb.control_plane.controller import ControllerOptions
from fastlb.control_plane.reading import Reading
from fastlb.control_plane.tls.files import NO_FILES, TlsFiles
from fastlb.processes.descriptor_store import Stored
from fastlb.processes.pid_file import PidFile
from fastlb.processes.predecessor import NOTHING_STORED
from fastlb.processes.privileges import Identity
from fastlb.processes.runtime_directory import RuntimeDirectory
from fastlb.processes.sockets import BoundAddress
from fastlb.processes.systemd import InheritedSocket
from fastlb.processes.upgrade import Elder


@dataclass(frozen=True, slots=True)
class SupervisorOptions:
    """Of one start.

    Args:
        controller: what the controller begins with.
        identity: whose account controller and workers run under; None to stay what this is.
        max_connections: clients that the descriptors of one worker allow.
        max_descriptors: that a process may have.
        pump_budget: events that one pump of a worker handles; 0 for the default.
        counters_path: of a file that gets the counters as JSON at the end; "" for none.
        greet: makes a text of the URLs that are listened on, for standard output once all is ready.
        spared: children that were there before and are not the supervisor's to reap.
        inherited: listening sockets that the service manager opened.
        config_path: of the file that a reload reads; "" for none.
        read: reads it, in a process of its own that has the privileges of this one.
        tls_files: that the configuration names.
        admin: where the admin API listens; borrowed, open until the end.
        runtime: the directory in which workers are found that outlive their supervisor; borrowed. None: they do not.
        stored: what the service manager has kept for us.
        elder: the fastlb that has started this one to take its place.
        pid_file: written already; it steps aside during an upgrade.
    """

    controller: ControllerOptions
    identity: Identity | None
    max_connections: int
    max_descriptors: int
    n_workers: int
    pump_budget: int = 0
    counters_path: str = ""
    greet: Callable[[list[str]], str] | None = None
    spared: frozenset[int] = frozenset()
    inherited: tuple[InheritedSocket, ...] = ()
    config_path: str = ""
    read: Callable[[], Reading] = Reading
    tls_files: TlsFiles = NO_FILES
    admin: tuple[BoundAddress, ...] = ()
    runtime: RuntimeDirectory | None = None
    stored: Stored = NOTHING_STORED
    elder: Elder | None = None
    pid_file: PidFile = field(default_factory=partial(PidFile, ""))
