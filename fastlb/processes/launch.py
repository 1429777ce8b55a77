"""From a configuration to a running supervisor: what is decided once, before the first fork."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from fastlb.control_plane.config.loader import Loaded
from fastlb.control_plane.controller import ControllerOptions, choose_workers
from fastlb.control_plane.health.authorities import read_authorities
from fastlb.control_plane.health.checker import load_probes
from fastlb.control_plane.reading import read_again
from fastlb.control_plane.sticky_key import load_sticky_key
from fastlb.control_plane.tls.automation import load_what_is_needed, wants_state
from fastlb.control_plane.tls.material import load_material, settle
from fastlb.control_plane.tls.state_files import make_state_directory
from fastlb.processes.admin_socket import admin_addresses, open_admin
from fastlb.processes.descriptor_store import take_stored
from fastlb.processes.descriptors import set_limits
from fastlb.processes.output import report, report_warnings, say
from fastlb.processes.pid_file import PidFile
from fastlb.processes.privileges import choose_identity
from fastlb.processes.runtime_directory import RuntimeDirectory, RuntimeDirectoryError
from fastlb.processes.sockets import BoundAddress, take_over
from fastlb.processes.supervisor import run_supervisor
from fastlb.processes.supervisor_options import SupervisorOptions
from fastlb.processes.systemd import inherited_sockets
from fastlb.processes.upgrade import Elder, meet_elder


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """What the command line says besides the configuration.

    Args:
        counters_path: of a file that gets the counters as JSON at the end; "" for none.
        pump_budget: events that one pump of a worker handles; 0 for the default.
        greet: makes a text of the URLs that are listened on, for standard output once all is ready.
        spared: children that this process has already, for others to look after.
        override: what the command line says in place of any configuration file.
        config_path: of the file that was read; "" where the command line said all.
    """

    counters_path: str = ""
    pump_budget: int = 0
    greet: Callable[[list[str]], str] | None = None
    spared: frozenset[int] = frozenset()
    override: Callable[[Loaded], Loaded] = lambda loaded: loaded
    config_path: str = ""


def launch(loaded: Loaded, options: LaunchOptions) -> None:
    """Serves until a signal ends it: SIGTERM and SIGINT at once, SIGQUIT after what is in flight.

    Raises:
        FastlbError: it could not start.
    """
    loaded = options.override(loaded)
    settings = loaded.config.settings
    report_warnings(loaded.warnings)
    identity, warnings = choose_identity(settings.user, settings.group)
    report_warnings(warnings)
    config = read_authorities(loaded.config)
    sticky_key, warnings = load_sticky_key(config)
    report_warnings(warnings)
    tls, warnings = settle(load_material(config, options.config_path, loaded.places), config)
    report_warnings(warnings)
    account = (identity.uid, identity.gid) if identity is not None else None
    load_what_is_needed(config, tls)
    load_probes(config)
    if wants_state(config, tls):
        report_warnings(make_state_directory(settings, account))
    n_workers = choose_workers(settings.workers)
    limits = set_limits(settings.max_connections, settings.max_descriptors, n_workers)
    report_warnings(limits.warnings)
    under = f" as {identity.name}" if identity is not None else ""
    say(f"{n_workers} worker{'s' if n_workers > 1 else ''}{under}, {limits.sentence}")
    stored = take_stored()
    inherited, warnings = inherited_sockets()
    report_warnings(warnings)
    elder = meet_elder()
    if elder is not None:
        inherited += elder.given
    pid_file = PidFile(settings.pid_file)
    pid_file.write()
    runtime = None
    admin: list[BoundAddress] = []
    try:
        runtime = _open_runtime_directory(elder)
        places = admin_addresses(settings.admin, runtime.path if runtime is not None else None)
        kept = [take_over(address, sockets, ()) for address, sockets in elder.take_sockets(places)] if elder is not None else []
        admin = open_admin(places, kept)
        for url in [url for bound in admin if not bound.address.unix_path for url in bound.urls()]:
            say(f"admin API on {url}")
        run_supervisor(
            SupervisorOptions(
                controller=ControllerOptions(config, options.override, sticky_key, tls=tls),
                identity=identity,
                max_connections=limits.per_worker,
                max_descriptors=limits.descriptors,
                n_workers=n_workers,
                pump_budget=options.pump_budget,
                counters_path=options.counters_path,
                greet=options.greet,
                spared=options.spared,
                inherited=tuple(inherited),
                config_path=options.config_path,
                read=partial(read_again, options.config_path, options.override, account),
                tls_files=tls.files,
                admin=tuple(admin),
                runtime=runtime,
                stored=stored,
                elder=elder,
                pid_file=pid_file,
            )
        )
    finally:
        for bound in admin:
            bound.close()
        if runtime is not None:
            runtime.close()
        pid_file.remove()


def _open_runtime_directory(elder: Elder | None) -> RuntimeDirectory | None:
    """Where this fastlb is found, by its commands and by the one that comes after it. It serves without, too. During an upgrade it is that
    of both."""
    try:
        shared = elder.take_runtime() if elder is not None else None
        return shared or RuntimeDirectory.open()
    except RuntimeDirectoryError as error:
        report(
            f"warning: {error}: `fastlb status` and the like will not find this one, and its workers end with their supervisor; "
            "RUNTIME_DIRECTORY in the environment names another place"
        )
        return None
