"""The C programs of this directory: compiled when their source is newer than what lies in build/bench."""

import subprocess
from pathlib import Path

from bench.compare.processes import BenchError

SOURCES = Path(__file__).parent
ROOT = SOURCES.parents[1]
BUILD = ROOT / "build" / "bench"
PROGRAMS = {"backend": (), "relay": (), "openloop": (), "udpecho": (), "handshakes": ("-lssl", "-lcrypto")}  # with what they link
FLAGS = ("-O2", "-g", "-Wall", "-Wextra")


def compile_programs() -> None:
    BUILD.mkdir(parents=True, exist_ok=True)
    for name, libraries in PROGRAMS.items():
        source, target = SOURCES / f"{name}.c", BUILD / name
        if target.exists() and target.stat().st_mtime > source.stat().st_mtime:
            continue
        done = subprocess.run(["gcc", *FLAGS, "-o", target, source, *libraries], capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"cannot compile {source}:\n{done.stderr}")


def program(name: str) -> str:
    return str(BUILD / name)
