"""What `fastlb serve` loads before it serves. How long that takes is measured by the benchmark (`./dev bench --works start`)."""

import json
import subprocess
import sys

from tests.support.process import ROOT

# Each of these brings many others, and is for something that comes later or not at all: another command, a build.
LATER = {
    *("ctypes", "sqlite3", "unittest", "xml"),
    *("Cython", "rich", "setuptools", "websockets"),
}


def modules_after(*imports: str) -> set[str]:
    code = f"import json, sys, {', '.join(imports)}; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_serving_loads_nothing_that_it_does_not_need() -> None:
    loaded = modules_after("fastlb.cli.serve", "fastlb.processes.launch")
    assert "fastlb._core" in loaded
    assert loaded & LATER == set()


def test_the_command_alone_loads_neither_the_data_plane_nor_a_loop() -> None:
    assert modules_after("fastlb.cli") & {"fastlb._core", "uvloop", "asyncio", "msgspec"} == set()
