"""An engine in this process that logs, compiled as a configuration would have it."""

import os
from pathlib import Path
from typing import Any

from fastlb.control_plane.config.loader import load_text
from fastlb.control_plane.config.log_destination import LogDestination
from fastlb.control_plane.log_plan import build_log_plan, log_destinations
from fastlb.processes.log_files import open_destination
from tests.support.configuration import configuration
from tests.support.images import Writer
from tests.support.waiting import wait_until
from tests.support.world import World

Log = str | dict[str, Any]


def compile_logs(*logs: Log, **settings: Any) -> tuple[bytes, list[LogDestination]]:
    """The plan of one listener with these logs, and its destinations."""
    text = configuration(["127.0.0.1:1"], listener={"access_log": list(logs)}, settings=settings)
    config = load_text(text, "test").config
    plan, sets = build_log_plan(config)
    assert sets == [0]
    return plan, log_destinations(config)


class LogWorld(World):
    """One listener with the given logs before the backend; `dead` has no backend at all, so that every answer is our own; `cap` is the
    backend's max_in_flight."""

    def log(self, *logs: Log, dead: bool = False, cap: int = 0, settings: dict[str, Any] | None = None, **pool: int) -> None:
        plan, destinations = compile_logs(*logs, **(settings or {}))
        self.web = getattr(self, "web", None) or self.listen()
        self.generation += 1
        writer = Writer(self.generation)
        writer.set_log_plan(plan)
        writer.listener(log_set=0)
        number = writer.pool(**pool)
        if not dead:
            writer.backend(number, self.backend.getsockname()[1], max_in_flight=cap)
        writer.add_route(host="", path_prefix="/", pool=number)
        self.apply_image(writer.image(), self.web)
        self.open_logs(destinations)

    def open_logs(self, destinations: list[LogDestination]) -> None:
        for index, destination in enumerate(destinations):
            descriptor = open_destination(destination)
            try:
                self.engine.set_log(index, descriptor)
            finally:
                os.close(descriptor)

    def ask(self, head: bytes, answer: bytes = b"") -> bytes:
        """One request on a connection of its own; what the client gets until the end, or its first piece."""
        client = self.connect(self.web)
        client.send(head)
        if answer:
            peer = self.accept()
            self.read(peer)
            peer.send(answer)
        received = self.read(client)
        client.close()
        return received

    def rest(self) -> None:
        """Every exchange has ended."""
        self.pump_until(lambda: self.counters()["exchanges_opened"] == self.counters()["exchanges_closed"])


def wait_for_lines(path: Path, count: int = 1) -> list[str]:
    """The lines of a file, once there are so many."""
    wait_until(lambda: path.exists() and path.read_bytes().count(b"\n") >= count, f"{path.name} has {count} lines")
    text = path.read_bytes()
    assert text.endswith(b"\n")
    return text.decode().split("\n")[:-1]
