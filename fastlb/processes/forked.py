"""What a process becomes that the zygote has forked: the controller or a worker."""

import socket

from fastlb import _core
from fastlb.control_plane.controller import run_controller
from fastlb.processes import _system
from fastlb.processes.channel import Channel
from fastlb.processes.messages import CONTROLLER, Fork, ToController, ToWorker
from fastlb.processes.supervisor_options import SupervisorOptions
from fastlb.processes.worker import WorkerOptions, run_worker

# Of a worker's descriptors these are never a client's or a backend's: what it is lent and told must reach it at full load, too.
SPARE_DESCRIPTORS = 100
# The kernel gives an account 256 pipes of full size over all its processes.
PIPES_IN_ALL = 192


def run_forked(options: SupervisorOptions, shared: _core.SharedMemory, fork: Fork, descriptors: list[int]) -> None:
    """Does all that it is there for, until it ends."""
    end = socket.socket(fileno=descriptors[0])
    if fork.role == CONTROLLER:
        _system.set_process_title("fastlb: control")
        run_controller(Channel(end, ToController), shared, descriptors[1] if len(descriptors) > 1 else None, options.controller)
    else:
        _system.set_process_title(f"fastlb: work {fork.role}")
        pipes = max(PIPES_IN_ALL // max(fork.n_workers, 1), 1)
        max_sockets = max(options.max_descriptors - SPARE_DESCRIPTORS - fork.n_workers, 2)  # it has an eventfd of every sibling
        worker = WorkerOptions(options.max_connections, max_sockets, pipes, options.pump_budget)
        door = socket.socket(fileno=descriptors[2]) if len(descriptors) > 2 else None
        run_worker(fork.role, Channel(end, ToWorker), shared, descriptors[1], worker, door)
