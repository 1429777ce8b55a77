"""Reloads a configuration of 1,000 routes (100 regular expressions) and 1,000 backends again and again, and says where the time goes.

    python -m bench.reload [--routes N] [--regexes N] [--backends N] [--workers N] [--rounds N]

Two views. One engine in this process: how long prepare and commit keep the worker's loop from pumping (the file is read, the image made,
mapped and its expressions compiled elsewhere, or on another thread). And a whole `fastlb serve`: from the question to the answer, which
comes when the last worker has changed; of that the part from the controller's first look at what was read, and the rest, in which the
loader reads the file.
"""

import argparse
import contextlib
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.reload.configurations import write_configuration
from fastlb import _core
from fastlb.control_plane.config.loader import load_text
from fastlb.control_plane.snapshot import build_image

WAIT_SECONDS = 60.0


class Connection(http.client.HTTPConnection):
    """HTTP to a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=WAIT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def measure_engine(texts: Sequence[str], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each step in one worker."""
    configs = [load_text(text, "bench").config for text in texts]
    engine = _core.Engine(max_connections=100)
    took: dict[str, list[float]] = {step: [] for step in ("make the image", "map, check, compile", "prepare", "commit")}
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.setblocking(False)
        for number in range(rounds + 1):
            clock = [time.perf_counter()]
            descriptor = build_image(configs[number % 2], {}, number + 1)
            clock.append(time.perf_counter())
            image = _core.Image(descriptor)
            image.compile()
            clock.append(time.perf_counter())
            engine.prepare(image)
            clock.append(time.perf_counter())
            engine.commit([(listening.fileno(), 0)])
            clock.append(time.perf_counter())
            os.close(descriptor)
            for step, begin, end in zip(took, clock, clock[1:], strict=False):
                took[step] += [(end - begin) * 1e3] if number else []  # the first has nothing to replace
    engine.close()
    return took


@contextlib.contextmanager
def running(directory: Path, text: str, workers: int) -> Iterator[Path]:
    """A fastlb with this configuration; gives the path of its file."""
    path = directory / "fastlb.toml"
    path.write_text(text)
    command = [
        sys.executable,
        "-m",
        "fastlb",
        "serve",
        "-c",
        str(path),
        "--workers",
        str(workers),
        "--admin",
        f"unix:{directory / 'admin'}",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            while "ready (pid" not in (line := process.stdout.readline()):
                if not line:
                    raise SystemExit("fastlb did not start: see above")
            yield path
        finally:
            process.terminate()
            process.stdout.read()


def measure_processes(texts: Sequence[str], rounds: int, workers: int) -> dict[str, list[float]]:
    """Milliseconds of a whole reload and of its parts."""
    took: dict[str, list[float]] = {step: [] for step in ("ask until answer", "read the file", "apply in all workers", "`fastlb reload`")}
    with tempfile.TemporaryDirectory(prefix="fastlb-") as name, running(Path(name), texts[0], workers) as path:
        connection = Connection(Path(name) / "admin")
        for number in range(1, rounds + 1):
            other = path.with_name("next")
            other.write_text(texts[number % 2])
            other.rename(path)
            began = time.perf_counter()
            connection.request("POST", "/v1/reload")
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
            whole = (time.perf_counter() - began) * 1e3
            if "errors" in answer:
                raise SystemExit("\n".join(answer["errors"]))
            took["ask until answer"].append(whole)
            took["apply in all workers"].append(answer["apply_milliseconds"])
            took["read the file"].append(answer["milliseconds"] - answer["apply_milliseconds"])
        for _ in range(min(rounds, 10)):
            began = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "fastlb", "reload", "--admin", f"unix:{name}/admin"], check=True, stdout=subprocess.DEVNULL
            )
            took["`fastlb reload`"].append((time.perf_counter() - began) * 1e3)
        connection.close()
    return took


def show(title: str, took: dict[str, list[float]]) -> None:
    print(f"\n| {title} | least ms | median | most |\n|---|---:|---:|---:|")
    for step, times in took.items():
        print(f"| {step} | {min(times):.1f} | {statistics.median(times):.1f} | {max(times):.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.reload")
    for name, value in (("routes", 1000), ("regexes", 100), ("backends", 1000), ("workers", 2), ("rounds", 30)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    sizes = {name: getattr(options, name) for name in ("routes", "regexes", "backends")}
    texts = [write_configuration(number, **sizes) for number in range(2)]
    print(f"{options.routes} routes, {options.regexes} of them regular expressions; {options.backends} backends; {options.rounds} rounds")
    show("one worker", measure_engine(texts, options.rounds))
    show(f"fastlb with {options.workers} workers", measure_processes(texts, options.rounds, options.workers))


if __name__ == "__main__":
    main()
